"""An evaluation's stored log-probs against those of the trainer's packs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from srt.common.io import read_parquet
from srt.data import read_problems
from srt.data.prompts import render_all
from srt.evaluation.sampling import sample
from srt.gpu_check.parts import PROMPT_TOKENS, SUFFIX, Machine, need_package, require
from srt.models.checkpoint import load_model
from srt.packing.logprobs import packed, response_logprobs
from srt.packing.pack import pack
from srt.rollout import TOLERANCE

SAMPLES, TEMPERATURE = 4, 0.8  # per problem


def transformers(machine: Machine) -> dict[str, Any]:
    """With the transformers engine."""
    return _compare(machine, "transformers")


def vllm(machine: Machine) -> dict[str, Any]:
    """With vLLM."""
    need_package("vllm")
    return _compare(machine, "vllm")


def _compare(machine: Machine, engine: str) -> dict[str, Any]:
    spec = {
        "n": SAMPLES, "temperature": TEMPERATURE, "top_p": 1.0, "max_prompt_tokens": PROMPT_TOKENS,
        "max_new_tokens": machine.size.new_tokens, "engine": engine, "dtype": machine.dtype, "seed": 0, "threads": 1,
        "prompt_suffix": SUFFIX,
    }  # fmt: skip
    out = machine.folder / f"{engine}.parquet"
    sample(spec, machine.model, [machine.problems], out)
    drawn = read_parquet(out)
    problems = read_problems(machine.problems)
    model, tokenizer, _ = load_model(machine.model, machine.dtype, machine.device)
    ids = problems.column("id").to_pylist()
    prompts, _ = render_all(tokenizer, ids, problems.column("problem").to_pylist(), SUFFIX, PROMPT_TOKENS)
    by_id = dict(zip(ids, prompts, strict=True))
    responses = [np.array(tokens, dtype=np.int32) for tokens in drawn.column("token_ids").to_pylist()]
    stored = [np.array(values) for values in drawn.column("logprobs").to_pylist()]
    names = drawn.column("problem_id").to_pylist()
    differences = []
    with torch.no_grad(), packed(model):
        for start in range(0, len(names), SAMPLES):
            rows = list(range(start, start + SAMPLES))
            group = [ids.index(name) for name in names]
            p = pack([by_id[n] for n in names], responses, group, rows, machine.device, model.dtype)
            logprobs, _ = response_logprobs(model, p, TEMPERATURE)
            for place, i in enumerate(rows):
                differences.append(np.abs(logprobs[place, : len(stored[i])].float().cpu().numpy() - stored[i]))
    every = np.concatenate(differences)
    mean, bound = float(every.mean()), TOLERANCE[machine.dtype]
    require(mean <= bound, f"stored log-probs are {mean:.2g} nats from the trainer's on average, more than {bound:g}")
    said = f"{len(every)} tokens, {mean:.2g} nats from the trainer's on average (bound {bound:g})"
    return {"said": said, "mean": mean, "largest": float(every.max()), "tokens": len(every)}
