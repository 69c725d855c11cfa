"""The `transformers` engine: batched sampling with a KV cache on a CPU or one GPU, without vLLM.

A prompt is prefilled once and its cache copied to its n samples. Caches are preallocated, so that a decode step copies
one column only. When a sample ends, its slot goes to the next sample of the queue (`continuous_batching`). The cache is
not paged: every slot is as long as the longest prompt plus `max_new_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from srt.rollout.continuous_batching import ContinuousBatch
from srt.rollout.kv_cache import OWN, decode_attention
from srt.rollout.protocol import Checksum, Rollout, Sampling, tensor_checksum
from srt.rollout.sampling_bar import SamplingBar


class TransformersEngine:
    """Samples from a transformers model, which it may share with the trainer; `update_weights` then copies nothing.

    Args:
        model: a causal language model in evaluation or training mode (dropout must be 0).
        eos_ids: token ids that end a response.
        max_rows: maximum number of samples decoded together; bounds the memory of the cache.
        progress: whether `generate` shows a bar.
    """

    def __init__(self, model: Any, eos_ids: Sequence[int], max_rows: int = 1024, progress: bool = False) -> None:
        self.model = model
        self.eos = torch.tensor(sorted(set(eos_ids)), device=model.device)
        self.max_rows = max_rows
        self.progress = progress

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy the weights into the model, except tensors that the model already shares."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                if name in own and own[name].data_ptr() != tensor.data_ptr():
                    own[name].copy_(tensor)

    def close(self) -> None:
        """Nothing to free: the model belongs to the caller."""

    def release_memory(self) -> None:
        """Nothing to release: no cache is kept between calls, and the weights are the trainer's."""

    def checksums(self) -> dict[str, Checksum]:
        """See `srt.rollout.RolloutEngine.checksums`; reads every weight twice."""
        return {name: tensor_checksum(tensor) for name, tensor in self.model.named_parameters()}

    @contextmanager
    def _inference(self, attention: str) -> Iterator[None]:
        """Put the model into evaluation mode with this attention; restore its settings on exit."""
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
        """See `srt.rollout.RolloutEngine.logprobs`; one forward pass per response, without padding, in OWN attention.

        transformers' other attentions leave out what they do not have, such as the soft cap of Gemma 2.
        """
        scores = []
        with self._inference(OWN):
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
        bar = SamplingBar(len(prompts) * sampling.n, self.progress)
        try:
            with self._inference(decode_attention(self.model)):
                return ContinuousBatch(self.model, self.eos, prompts, keys, sampling, self.max_rows, bar.ended).run()
        finally:
            bar.close()
