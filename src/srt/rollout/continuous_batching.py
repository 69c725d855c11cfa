"""Continuous batching for the transformers engine: a queue of samples decoded in a fixed number of slots.

When a sample ends, its slot goes to the next sample of the queue, so a long response does not hold up the others. A
prompt is prefilled once for its n samples, even if they join at different times. When the queue is empty, the batch
shrinks. Apart from float rounding, none of this changes what is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from srt.rollout.kv_cache import ColumnLayer
from srt.rollout.protocol import LENGTH, STOP, Rollout, Sampling, sample_key
from srt.rollout.token_sampling import draw_tokens, uniforms

COMPACT_BELOW = 0.75  # with an empty queue, drop finished rows once less than this share of the rows is unfinished
REFILL_AT = 1 / 8  # refill once this share of the slots is free: a prefill costs about as much as a decode step
PREFILL_TOKENS = 65536  # maximum tokens of one prefill, including padding (but always at least one prompt)


@dataclass
class _Prefill:
    """Prompts `first`, `first + 1`, ... after their prefill: one row per prompt, left-padded to a common width."""

    first: int
    cache: Any  # DynamicCache
    logits: torch.Tensor  # [prompts, V], which predict the first token
    lengths: torch.Tensor  # [prompts], number of tokens without padding


class ContinuousBatch:
    """One call of `TransformersEngine.generate`; `run` is called once.

    A slot's state: `row` is its sample's index in the results (prompt * n + sample), `time` the number of tokens drawn,
    `start` the cache column of its first prompt token, `done` whether it has ended. Finished slots are decoded with the
    others until they are reused or dropped; tokens after the end are discarded.
    """

    def __init__(
        self,
        model: Any,
        eos: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        sampling: Sampling,
        max_rows: int,
        on_ended: Callable[[int], object],
    ) -> None:
        self.model, self.eos, self.prompts, self.keys, self.sampling = model, eos, prompts, keys, sampling
        self.on_ended = on_ended  # called between decode steps with the number of samples that have ended
        self.total = len(prompts) * sampling.n
        self.next_row = 0  # samples before this one have left the queue
        self.prefill: _Prefill | None = None
        self.rollouts: list[list[Rollout | None]] = [[None] * sampling.n for _ in prompts]

        slots = min(max(1, max_rows), self.total)
        self.refills = slots < self.total
        widest = max(len(prompt) for prompt in prompts)
        self.masked = self.refills or any(len(prompt) != widest for prompt in prompts)
        columns = widest + sampling.max_new_tokens
        self.capacity = columns + (-(-columns // 4) if self.refills else 0)  # a quarter more, to rewind rarely
        self.low, self.filled = 0, widest
        self.cache: Any = None

        device = model.device
        long = {"dtype": torch.long, "device": device}
        self.row, self.token, self.time, self.start, self.length = (torch.zeros(slots, **long) for _ in range(5))
        self.done = torch.ones(slots, dtype=torch.bool, device=device)
        self.stopped = torch.zeros(slots, dtype=torch.bool, device=device)
        self.kept = torch.zeros(slots, dtype=torch.bool, device=device)  # done, but its rollout is not collected yet
        # one column more than a response has tokens: finished slots write there
        width = sampling.max_new_tokens + 1
        self.uniform = torch.zeros(slots, width, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(slots, width, dtype=torch.int32, device=device)
        self.logprobs = torch.zeros(slots, width, dtype=torch.float32, device=device)

    @property
    def queued(self) -> int:
        """The number of samples that have not started."""
        return self.total - self.next_row

    def run(self) -> list[list[Rollout]]:
        """Decode until the queue and the slots are empty."""
        refill_at = max(1, int(len(self.done) * REFILL_AT))  # the number of slots is constant while samples are queued
        while True:
            open_rows = len(self.done) - int(self.done.sum())
            while self.queued and len(self.done) - open_rows >= min(refill_at, self.queued):
                open_rows += self._admit(len(self.done) - open_rows)
            self.on_ended(self.next_row - open_rows)
            if open_rows == 0:
                break
            if not self.queued and open_rows < COMPACT_BELOW * len(self.done):
                self._compact()
            self._decode()
        self._harvest()
        return self.rollouts  # type: ignore[return-value]  # none is missing

    # -- joining -------------------------------------------------------------------------------------------------

    def _prefill_next(self, free: int) -> _Prefill:
        """One forward pass over the next prompts, as many as `free` slots need."""
        n, first = self.sampling.n, self.next_row // self.sampling.n
        chosen = self.prompts[first : first - (-free // n)]
        width = max(len(prompt) for prompt in chosen)
        if len(chosen) * width > PREFILL_TOKENS:
            chosen = chosen[: max(1, PREFILL_TOKENS // width)]
            width = max(len(prompt) for prompt in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        for i, prompt in enumerate(chosen):  # left padding, so that all rows end in the same column
            ids[i, width - len(prompt) :] = torch.tensor(list(prompt))
            mask[i, width - len(prompt) :] = 1
        padded = not bool(mask.all())
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        cache = DynamicCache()  # with the config, layers with a sliding window would drop columns
        out = self.model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return _Prefill(first, cache, out.logits[:, -1], mask.sum(-1))

    def _admit(self, free: int) -> int:
        """Give free slots to the next samples of the prefilled prompts; return how many of them are unfinished."""
        n = self.sampling.n
        if self.prefill is None or self.next_row >= (self.prefill.first + len(self.prefill.lengths)) * n:
            self.prefill = None  # frees its cache before the next one is made
            self.prefill = self._prefill_next(free)
        prefill = self.prefill
        end = min(self.next_row + free, (prefill.first + len(prefill.lengths)) * n)
        rows = torch.arange(self.next_row, end, device=self.model.device)
        slots = self.done.nonzero()[: len(rows), 0]
        self._harvest()
        owner = rows // n - prefill.first
        if self.cache is None:
            self.cache = DynamicCache()
            self.cache.layers = [
                ColumnLayer(layer.keys, len(self.done), self.capacity, self.filled, zero=end < self.total)
                for layer in prefill.cache.layers
            ]
        shift = prefill.cache.layers[0].keys.shape[2] - self.filled
        if shift > 0:  # after a rewind, the columns in use may be fewer than those of this prompt
            for layer in self.cache.layers:
                layer.shift(shift)
            self.start += shift
            self.low += shift
            self.filled += shift
        for layer, new in zip(self.cache.layers, prefill.cache.layers, strict=True):
            layer.place(slots, new.keys[owner], new.values[owner])
        seeds = [sample_key(self.sampling.seed, self.keys[r // n], r % n) for r in range(self.next_row, end)]
        uniform = uniforms(np.array(seeds, dtype=np.uint64), self.uniform.shape[1])
        self.uniform[slots] = torch.from_numpy(uniform).to(self.uniform.device)
        self.row[slots], self.time[slots], self.length[slots] = rows, 0, prefill.lengths[owner]
        self.start[slots] = self.filled - prefill.lengths[owner]
        self.done[slots] = self.stopped[slots] = False
        self.next_row = end
        if self.refills:
            self._forget()
        self._draw(slots, prefill.logits[owner])
        return len(slots) - int(self.done[slots].sum())

    # -- decoding ------------------------------------------------------------------------------------------------

    def _draw(self, slots: torch.Tensor, logits: torch.Tensor) -> None:
        """Draw the next token of these slots from logits [slots, V] and store it."""
        sampling, time, was_done = self.sampling, self.time[slots], self.done[slots]
        token, logprob = draw_tokens(logits, self.uniform[slots, time], sampling.temperature, sampling.top_p)
        self.token[slots] = token
        self.tokens[slots, time] = token.to(torch.int32)
        self.logprobs[slots, time] = logprob
        ended = torch.isin(token, self.eos) & ~was_done
        time = time + (~was_done).long()
        ends_now = ended | ((time == sampling.max_new_tokens) & ~was_done)
        self.time[slots] = time
        self.stopped[slots] |= ended
        self.kept[slots] |= ends_now
        self.done[slots] = was_done | ends_now

    def _decode(self) -> None:
        """Run the model on the last token of every slot and draw the next one."""
        if self.filled == self.capacity:
            self._forget()
            for layer in self.cache.layers:
                layer.rewind()
            self.start -= self.low
            self.filled -= self.low
            self.low = 0
        mask = None
        if self.masked:
            mask = torch.arange(self.low, self.filled + 1, device=self.model.device) >= self.start[:, None]
        logits = self.model(
            input_ids=self.token[:, None],
            attention_mask=mask,
            position_ids=(self.length + self.time - 1)[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.filled += 1
        self._draw(torch.arange(len(self.done), device=self.model.device), logits)

    # -- leaving -------------------------------------------------------------------------------------------------

    def _harvest(self) -> None:
        """Collect the rollouts of slots that have ended."""
        slots = self.kept.nonzero()[:, 0]
        if not len(slots):
            return
        tokens, logprobs = self.tokens[slots].cpu().numpy(), self.logprobs[slots].cpu().numpy()
        rows, times, stopped = (x[slots].tolist() for x in (self.row, self.time, self.stopped))
        for i, (row, time) in enumerate(zip(rows, times, strict=True)):
            prompt, sample = divmod(row, self.sampling.n)
            reason = STOP if stopped[i] else LENGTH
            self.rollouts[prompt][sample] = Rollout(tokens[i, :time].copy(), logprobs[i, :time].copy(), reason)
        self.kept[slots] = False

    def _forget(self) -> None:
        """Exclude the columns before the first one that an unfinished slot needs."""
        self.low = int(self.start[~self.done].min())
        for layer in self.cache.layers:
            layer.forget(self.low)

    def _compact(self) -> None:
        """Drop the finished slots."""
        self._harvest()
        keep = (~self.done).nonzero()[:, 0]
        for name in (
            "row", "token", "time", "start", "length", "done", "stopped", "kept", "uniform", "tokens", "logprobs",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[keep])
        if self.refills:
            self._forget()
        for layer in self.cache.layers:
            layer.keep(keep)
