"""Continuous batching for the transformers engine: a queue of samples and a fixed number of slots to decode them in.

Slots whose sample has ended are given to the next samples of the queue, so that a long response does not hold up the
others. A prompt is prefilled once for its n samples, also when they join at different times. When the queue is empty
the batch shrinks instead. What a sample is does not depend on any of this, but for float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from srt.rollout.draw import choose, uniforms
from srt.rollout.kv import ColumnLayer
from srt.rollout.protocol import LENGTH, STOP, Rollout, Sampling, sample_key

COMPACT_BELOW = 0.75  # open rows / rows in the batch, under which finished rows are dropped (the queue being empty)
REFILL_AT = 1 / 8  # free slots / slots, from which the queue moves up: a prefill costs about as much as a decode step
PREFILL_TOKENS = 65536  # tokens, padding included, of one prefill at most (one prompt at least)


@dataclass
class _Wave:
    """Prompts `first`, `first + 1`, ... after their prefill: one row each, left-padded to a common width."""

    first: int
    cache: Any  # DynamicCache
    logits: torch.Tensor  # [prompts, V], that predict the first token
    lengths: torch.Tensor  # [prompts], tokens without padding


class ContinuousBatch:
    """One call of `HfEngine.generate`: make it, `run` it once.

    A slot's state: `row` is its sample's place in the results (prompt * n + sample), `time` how many tokens it has
    drawn, `start` the cache column of its first prompt token, `done` whether it has ended. Slots that are done are
    decoded like the others until they are reused or dropped; nothing of theirs past the end is kept.
    """

    def __init__(
        self,
        model: Any,
        eos: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[str],
        sampling: Sampling,
        max_rows: int,
        on_prompt: Callable[[], object],
    ) -> None:
        self.model, self.eos, self.prompts, self.keys, self.sampling = model, eos, prompts, keys, sampling
        self.on_prompt = on_prompt  # called once for each prompt whose samples are all done
        self.total = len(prompts) * sampling.n
        self.next_row = 0  # samples before this one have left the queue
        self.wave: _Wave | None = None
        self.rollouts: list[list[Rollout | None]] = [[None] * sampling.n for _ in prompts]
        self.missing = [sampling.n] * len(prompts)

        slots = min(max(1, max_rows), self.total)
        self.refills = slots < self.total
        widest = max(len(prompt) for prompt in prompts)
        self.masked = self.refills or any(len(prompt) != widest for prompt in prompts)
        columns = widest + sampling.max_new_tokens
        self.capacity = columns + (-(-columns // 4) if self.refills else 0)  # the spare makes rewinding rare
        self.low, self.filled = 0, widest
        self.cache: Any = None

        device = model.device
        long = {"dtype": torch.long, "device": device}
        self.row, self.token, self.time, self.start, self.length = (torch.zeros(slots, **long) for _ in range(5))
        self.done = torch.ones(slots, dtype=torch.bool, device=device)
        self.stopped = torch.zeros(slots, dtype=torch.bool, device=device)
        self.kept = torch.zeros(slots, dtype=torch.bool, device=device)  # done, and its rollout not yet taken
        # one column more than there are tokens: slots that are done write there, past the end of any response
        width = sampling.max_new_tokens + 1
        self.uniform = torch.zeros(slots, width, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(slots, width, dtype=torch.int32, device=device)
        self.logprobs = torch.zeros(slots, width, dtype=torch.float32, device=device)

    @property
    def queued(self) -> int:
        """Samples that have not begun."""
        return self.total - self.next_row

    def run(self) -> list[list[Rollout]]:
        """Decode until the queue and the slots are empty."""
        while True:
            open_rows = len(self.done) - int(self.done.sum())
            while self.queued and len(self.done) - open_rows >= min(self._refill_at(), self.queued):
                open_rows += self._admit(len(self.done) - open_rows)
            if open_rows == 0:
                break
            if not self.queued and open_rows < COMPACT_BELOW * len(self.done):
                self._compact()
            self._decode()
        self._harvest()
        return self.rollouts  # type: ignore[return-value]  # none is missing

    def _refill_at(self) -> int:
        return max(1, int(len(self.done) * REFILL_AT))

    # -- joining -------------------------------------------------------------------------------------------------

    def _prefill(self, free: int) -> _Wave:
        """One forward pass over the next prompts, enough of them for `free` slots."""
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
        cache = DynamicCache(config=self.model.config)
        out = self.model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return _Wave(first, cache, out.logits[:, -1], mask.sum(-1))

    def _admit(self, free: int) -> int:
        """Give free slots to the next samples of one wave of prompts; return how many of these are still open."""
        n = self.sampling.n
        if self.wave is None or self.next_row >= (self.wave.first + len(self.wave.lengths)) * n:
            self.wave = None  # frees the cache of the last one before the next is made
            self.wave = self._prefill(free)
        wave = self.wave
        end = min(self.next_row + free, (wave.first + len(wave.lengths)) * n)
        rows = torch.arange(self.next_row, end, device=self.model.device)
        slots = self.done.nonzero()[: len(rows), 0]
        self._harvest()
        owner = rows // n - wave.first
        if self.cache is None:
            self.cache = DynamicCache(config=self.model.config)
            self.cache.layers = [
                ColumnLayer(layer.keys, len(self.done), self.capacity, self.filled, zero=end < self.total)
                for layer in wave.cache.layers
            ]
        for layer, new in zip(self.cache.layers, wave.cache.layers, strict=True):
            layer.place(slots, new.keys[owner], new.values[owner])
        seeds = [sample_key(self.sampling.seed, self.keys[r // n], r % n) for r in range(self.next_row, end)]
        uniform = uniforms(np.array(seeds, dtype=np.uint64), self.uniform.shape[1])
        self.uniform[slots] = torch.from_numpy(uniform).to(self.uniform.device)
        self.row[slots], self.time[slots], self.length[slots] = rows, 0, wave.lengths[owner]
        self.start[slots] = self.filled - wave.lengths[owner]
        self.done[slots] = self.stopped[slots] = False
        self.next_row = end
        if self.refills:
            self._forget()
        self._take(slots, wave.logits[owner])
        return len(slots) - int(self.done[slots].sum())

    # -- decoding ------------------------------------------------------------------------------------------------

    def _take(self, slots: torch.Tensor, logits: torch.Tensor) -> None:
        """Draw the next token of these slots from logits [slots, V] and write it down."""
        sampling, time, was_done = self.sampling, self.time[slots], self.done[slots]
        token, logprob = choose(logits, self.uniform[slots, time], sampling.temperature, sampling.top_p)
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
        """Feed the last token of every slot, draw the next one."""
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
        self._take(torch.arange(len(self.done), device=self.model.device), logits)

    # -- leaving -------------------------------------------------------------------------------------------------

    def _harvest(self) -> None:
        """Take the rollouts of slots that have ended."""
        slots = self.kept.nonzero()[:, 0]
        if not len(slots):
            return
        tokens, logprobs = self.tokens[slots].cpu().numpy(), self.logprobs[slots].cpu().numpy()
        rows, times, stopped = (x[slots].tolist() for x in (self.row, self.time, self.stopped))
        for i, (row, time) in enumerate(zip(rows, times, strict=True)):
            prompt, sample = divmod(row, self.sampling.n)
            reason = STOP if stopped[i] else LENGTH
            self.rollouts[prompt][sample] = Rollout(tokens[i, :time].copy(), logprobs[i, :time].copy(), reason)
            self.missing[prompt] -= 1
            if self.missing[prompt] == 0:
                self.on_prompt()
        self.kept[slots] = False

    def _forget(self) -> None:
        """Leave out the columns before the first one that an open slot needs."""
        self.low = int(self.start[~self.done].min())
        for layer in self.cache.layers:
            layer.forget(self.low)

    def _compact(self) -> None:
        """Drop the slots that are done."""
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
