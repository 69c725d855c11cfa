"""Raw samples of a checkpoint: drawn once and stored whole, so that they can be graded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from srt.common.errors import SrtError, nearest
from srt.common.io import parquet_metadata, write_parquet
from srt.common.progress import log
from srt.cost.memory import SAMPLING_VLLM_PERCENT
from srt.data import read_problems
from srt.data.prompts import render_all
from srt.evaluation.engine_probe import check_sampling, check_vllm, plain_samples, vllm_probe
from srt.models.checkpoint import check_model, fingerprint, load_model
from srt.models.context import check_context
from srt.models.probe_record import recorded
from srt.rollout import Rollout, RolloutEngine, Sampling, sample_key

SPEC = (
    "n", "temperature", "top_p", "max_prompt_tokens", "max_new_tokens", "engine", "dtype", "seed", "threads",
    "prompt_suffix",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("response", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)


def make_engine(spec: dict[str, Any], checkpoint: Path, model: Any, eos: list[int]) -> RolloutEngine:
    """The rollout engine named in the spec."""
    if spec["engine"] == "vllm":
        from srt.rollout.vllm_engine import VllmEngine

        return VllmEngine(
            checkpoint,
            eos,
            max_model_len=spec["max_prompt_tokens"] + spec["max_new_tokens"],
            seed=spec["seed"],
            dtype=spec["dtype"],
            vllm_percent=SAMPLING_VLLM_PERCENT,
            progress=True,
        )
    if spec["engine"] != "transformers":
        raise SrtError(f"unknown engine '{spec['engine']}'{nearest(spec['engine'], ('transformers', 'vllm'))}")
    from srt.rollout.transformers_engine import TransformersEngine

    return TransformersEngine(model, eos, progress=True)


def sample(spec: dict[str, Any], checkpoint: Path, problem_files: list[Path], out: Path) -> dict[str, int]:
    """Draw n responses per problem of the files and write them, ordered by data set, problem and sample.

    Problems whose prompt is too long are left out and counted, as the authors do. Returns counts for the log.
    """
    import torch

    torch.set_num_threads(spec["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_model(checkpoint)
    model, tokenizer, eos = load_model(checkpoint, spec["dtype"], "cpu" if spec["engine"] == "vllm" else device)
    tokens, kind, dtype = spec["max_prompt_tokens"] + spec["max_new_tokens"], model.config.model_type, spec["dtype"]
    check_context(checkpoint, model.config, tokens)
    samples = None
    if spec["engine"] == "transformers":
        check_sampling(checkpoint, model)
    elif spec["engine"] == "vllm" and not recorded(checkpoint, vllm_probe(dtype)):
        samples = plain_samples(model.to(device), tokens)
    if spec["engine"] == "vllm":
        model = None  # vLLM takes most of the memory, and reads the weights itself
        torch.cuda.empty_cache()
    engine = make_engine(spec, checkpoint, model, eos)
    if samples is not None:
        check_vllm(checkpoint, kind, samples, engine, dtype)
    sampling = Sampling(spec["n"], spec["temperature"], spec["top_p"], spec["max_new_tokens"], spec["seed"])
    tables, fingerprints, left_out = [], {}, 0
    for file in problem_files:
        meta = parquet_metadata(file)
        name = meta.get("dataset", file.stem)
        fingerprints[name] = meta.get("fingerprint")
        problems = read_problems(file)
        ids = problems.column("id").to_pylist()
        prompts, too_long = render_all(
            tokenizer, ids, problems.column("problem").to_pylist(), spec["prompt_suffix"], spec["max_prompt_tokens"],
            spec.get("prompt"),
        )  # fmt: skip
        left_out += len(too_long)
        use = [i for i, prompt in enumerate(prompts) if prompt]
        keys = [f"{name}/{ids[i]}" for i in use]
        groups = engine.generate([prompts[i] for i in use], keys, sampling)
        log(f"{name}: {len(use)} problems x {sampling.n} samples" + (f", {len(too_long)} too long" if too_long else ""))
        tables.append(_table(name, [ids[i] for i in use], keys, groups, tokenizer, sampling.seed))
    engine.close()
    table = pa.concat_tables(tables)
    write_parquet(
        out, table, {"checkpoint": fingerprint(checkpoint), "data": fingerprints, "spec": spec, "too_long": left_out}
    )
    return {"samples": len(table), "too_long": left_out}


def _table(
    dataset: str, ids: list[str], keys: list[str], groups: list[list[Rollout]], tokenizer: Any, seed: int
) -> pa.Table:
    flat = [r for group in groups for r in group]
    n = len(groups[0]) if groups else 0
    texts = tokenizer.batch_decode([r.token_ids for r in flat], skip_special_tokens=True)
    seeds = np.array([sample_key(seed, key, i) for key in keys for i in range(n)], dtype=np.uint64).view(np.int64)
    return pa.table(
        {
            "dataset": [dataset] * len(flat),
            "problem_id": [i for i, group in zip(ids, groups, strict=True) for _ in group],
            "sample": [i for group in groups for i in range(len(group))],
            "response": texts,
            "token_ids": [r.token_ids for r in flat],
            "logprobs": [r.logprobs for r in flat],
            "finish_reason": [r.finish_reason for r in flat],
            "seed": seeds,
        },
        schema=SCHEMA,
    )
