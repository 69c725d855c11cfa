"""The `transformers` engine: batched sampling with a KV cache, on CPU or one GPU, without vLLM.

A prompt is prefilled once and its cache is shared out to its n samples; caches are preallocated, so a decode step
copies one column and nothing else; slots whose sample has ended go to the next samples of the queue (continuous.py).
It does not page memory: a slot is as long as the longest prompt and `max_new_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from srt.common.progress import interval, progress_file
from srt.rollout.continuous import ContinuousBatch
from srt.rollout.kv import ATTENTION
from srt.rollout.protocol import Checksum, Rollout, Sampling, tensor_checksum


class HfEngine:
    """Samples from a transformers model that it shares with its owner: `update_weights` has nothing to copy then.

    Args:
        model: a causal language model in evaluation or training mode (dropout must be 0).
        eos_ids: token ids that end a response.
        max_rows: how many samples are decoded together at most; bounds the memory of the cache.
        progress: whether `generate` shows a bar.
    """

    def __init__(self, model: Any, eos_ids: Sequence[int], max_rows: int = 1024, progress: bool = False) -> None:
        self.model = model
        self.eos = torch.tensor(sorted(set(eos_ids)), device=model.device)
        self.max_rows = max_rows
        self.progress = progress

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy weights in, unless the tensors are the model's own already."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                if name in own and own[name].data_ptr() != tensor.data_ptr():
                    own[name].copy_(tensor)

    def close(self) -> None:
        """Nothing to free: the model is its owner's."""

    def release_memory(self) -> None:
        """Nothing to release: no cache is kept between calls, and the weights are the trainer's."""

    def checksums(self) -> dict[str, Checksum]:
        """See `srt.rollout.RolloutEngine.checksums`; reads every weight twice."""
        return {name: tensor_checksum(tensor) for name, tensor in self.model.named_parameters()}

    @contextmanager
    def _inference(self, attention: str) -> Iterator[None]:
        """The model in evaluation mode with this attention, and afterwards as it was."""
        config = self.model.config
        before, training, caching = config._attn_implementation, self.model.training, config.use_cache
        config._attn_implementation = attention
        self.model.eval()
        try:
            yield
        finally:
            config._attn_implementation = before
            config.use_cache = caching
            self.model.train(training)

    @torch.no_grad()
    def logprobs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray], temperature: float
    ) -> list[np.ndarray]:
        """See `srt.rollout.RolloutEngine.logprobs`; one forward pass a response, without padding."""
        scores = []
        with self._inference(self.model.config._attn_implementation):
            for prompt, response in zip(prompts, responses, strict=True):
                ids = torch.tensor([[*prompt, *(int(t) for t in response)]], device=self.model.device)
                keep = len(response) + 1
                logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0, :-1].float()
                logp = (logits / temperature).log_softmax(-1)
                scores.append(logp.gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu().numpy())
        return scores

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        """See `srt.rollout.RolloutEngine.generate`."""
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts, {len(keys)} keys")
        if not prompts:
            return []
        bar = tqdm(
            total=len(prompts), desc="sampling", unit="prompt", file=progress_file(), mininterval=interval(),
            disable=not self.progress,
        )  # fmt: skip
        try:
            with self._inference(ATTENTION):
                return ContinuousBatch(self.model, self.eos, prompts, keys, sampling, self.max_rows, bar.update).run()
        finally:
            bar.close()
