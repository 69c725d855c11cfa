"""The `transformers` engine: batched sampling with a KV cache, on CPU or one GPU, without vLLM.

A prompt is prefilled once and its cache is shared out to its n samples; caches are preallocated, so a decode step
copies one column and nothing else; rows leave the batch as they finish. It does not page memory and does not refill
a running batch: `max_rows` rows are decoded together, then the next ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from srt.progress import interval, progress_file
from srt.rollout import LENGTH, STOP, Rollout, Sampling, sample_key

ATTENTION = "srt_shared_kv"
COMPACT_BELOW = 0.75  # rows still open / rows in the batch, under which finished rows are dropped
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(keys: np.ndarray, length: int) -> np.ndarray:
    """Uniform numbers in [0, 1): float64 [rows, length], a pure function of each row's 64-bit key (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64)[:, None] + GOLDEN * np.arange(1, length + 1, dtype=np.uint64)[None, :]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


class _Layer(DynamicLayer):
    """One layer's keys and values in a buffer of fixed length; `keys` and `values` are views of what is filled."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, capacity: int) -> None:
        super().__init__()
        rows, heads, self.filled, size = keys.shape
        self.key_buffer = keys.new_empty(rows, heads, capacity, size)
        self.value_buffer = values.new_empty(rows, heads, capacity, size)
        self.key_buffer[:, :, : self.filled] = keys
        self.value_buffer[:, :, : self.filled] = values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._expose()

    def _expose(self) -> None:
        self.keys = self.key_buffer[:, :, : self.filled]
        self.values = self.value_buffer[:, :, : self.filled]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.filled + key_states.shape[-2]
        self.key_buffer[:, :, self.filled : end] = key_states
        self.value_buffer[:, :, self.filled : end] = value_states
        self.filled = end
        self._expose()
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        for name in ("key_buffer", "value_buffer"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), *old.shape[1:])
            new[:, :, : self.filled] = old[rows, :, : self.filled]
            setattr(self, name, new)
        self._expose()


def _shared_kv_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Decode attention that reads each key-value head once for all of its query heads (no repeat_kv copy)."""
    if query.shape[2] != 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    rows, heads, _, size = query.shape
    groups = key.shape[1]
    grouped = query.view(rows, groups, heads // groups, size)
    mask = None if attention_mask is None else attention_mask[..., -1:, : key.shape[2]]
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, 1, heads, size), None


AttentionInterface.register(ATTENTION, _shared_kv_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def choose(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row from logits [rows, V] by inverting the distribution function at `uniform` [rows].

    Returns token ids [rows] and their log-probabilities [rows] under the sampling distribution.
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.zeros_like(uniform, dtype=torch.float32)
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1.0:
        ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, index, ordered)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    target = uniform.to(cumulative.dtype).unsqueeze(-1) * total
    # 1 - 2^-53 is 1 in float32: below the total, or the last token would be drawn, whatever its probability
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)
    return tokens[:, 0], probabilities.gather(-1, tokens)[:, 0].log()


class HfEngine:
    """Samples from a transformers model that it shares with its owner: `update_weights` has nothing to copy then.

    Args:
        model: a causal language model in evaluation or training mode (dropout must be 0).
        eos_ids: token ids that end a response.
        max_rows: how many samples are decoded together; bounds the memory of the cache.
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

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        """See `srt.rollout.Engine.generate`."""
        attention = self.model.config._attn_implementation
        training, caching = self.model.training, self.model.config.use_cache
        self.model.config._attn_implementation = ATTENTION
        self.model.eval()
        per_batch = max(1, self.max_rows // sampling.n)
        rollouts: list[list[Rollout]] = []
        bar = tqdm(
            total=len(prompts), desc="sampling", unit="prompt", file=progress_file(), mininterval=interval(),
            disable=not self.progress,
        )  # fmt: skip
        try:
            for start in range(0, len(prompts), per_batch):
                part = slice(start, start + per_batch)
                rollouts += self._generate_batch(prompts[part], keys[part], sampling)
                bar.update(len(prompts[part]))
        finally:
            bar.close()
            self.model.config._attn_implementation = attention
            self.model.config.use_cache = caching
            self.model.train(training)
        return rollouts

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling
    ) -> list[list[Rollout]]:
        n, limit, device = sampling.n, sampling.max_new_tokens, self.model.device
        rows = len(prompts) * n
        width = max(len(p) for p in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):  # left padding, so that all rows write the same next column
            ids[i, width - len(prompt) :] = torch.tensor(list(prompt))
            mask[i, width - len(prompt) :] = 1
        padded = not bool(mask.all())
        ids, mask = ids.to(device), mask.to(device)

        # -- prefill, once a prompt ------------------------------------------------------------------------------
        cache = DynamicCache(config=self.model.config)
        out = self.model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        owner = torch.arange(len(prompts), device=device).repeat_interleave(n)
        cache.layers = [_Layer(layer.keys[owner], layer.values[owner], width + limit) for layer in cache.layers]
        logits = out.logits[:, -1][owner]
        full_mask = torch.cat([mask[owner], torch.ones(rows, limit, dtype=torch.long, device=device)], dim=1)
        position = mask.sum(-1)[owner]

        # -- decode ----------------------------------------------------------------------------------------------
        seeds = np.array([sample_key(sampling.seed, key, i) for key in keys for i in range(n)], dtype=np.uint64)
        uniform = torch.from_numpy(uniforms(seeds, limit)).to(device)
        tokens = torch.zeros(rows, limit, dtype=torch.int32, device=device)
        logprobs = torch.zeros(rows, limit, dtype=torch.float32, device=device)
        length = torch.full((rows,), limit, dtype=torch.long, device=device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=device)
        open_rows = torch.arange(rows, device=device)  # positions in the output of the rows in the batch
        done = torch.zeros(rows, dtype=torch.bool, device=device)
        for t in range(limit):
            token, logprob = choose(logits, uniform[open_rows, t], sampling.temperature, sampling.top_p)
            live = open_rows[~done]
            tokens[live, t] = token[~done].to(torch.int32)
            logprobs[live, t] = logprob[~done]
            ended = torch.isin(token, self.eos) & ~done
            length[open_rows[ended]] = t + 1
            stopped[open_rows[ended]] = True
            done |= ended
            remaining = len(done) - int(done.sum())
            if remaining == 0 or t + 1 == limit:
                break
            if remaining < COMPACT_BELOW * len(done):
                keep = (~done).nonzero()[:, 0]
                open_rows, token, position, full_mask = open_rows[keep], token[keep], position[keep], full_mask[keep]
                done = done[keep]
                for layer in cache.layers:
                    layer.keep(keep)
            logits = self.model(
                input_ids=token[:, None],
                attention_mask=full_mask[:, : width + t + 1] if padded else None,
                position_ids=position[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            position = position + 1
        tokens_np, logprobs_np = tokens.cpu().numpy(), logprobs.cpu().numpy()
        length_np, stopped_np = length.cpu().numpy(), stopped.cpu().numpy()
        flat = [
            Rollout(tokens_np[r, :t].copy(), logprobs_np[r, :t].copy(), STOP if stopped_np[r] else LENGTH)
            for r, t in enumerate(length_np)
        ]
        return [flat[i * n : (i + 1) * n] for i in range(len(prompts))]
