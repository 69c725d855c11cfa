"""Which prompts a step trains on, and their rollouts: one batch of the data, or one that is refilled (key `refill`).

A step draws prompts in rounds, samples them, keeps those that pass the run's rule, and draws more until the batch is
full. Rules: the majority is at least a threshold (online curriculum: paper v2, Appendix I.7, Fig. 31), the rewards are
not all equal (dynamic sampling: DAPO, arXiv 2503.14476, Eq. 11), or both. The run's place in the data depends on which
prompts were kept before, so it is part of every state (progress.json). Given the place, the prompts of a step are a
pure function of (seed, data, place, rewards), on any number of processes. No label is used but those of the reward.

`Batch` is what an update takes: the responses that are trained on, with their rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srt.answers import Vote
from srt.answers.votes import reaches
from srt.common.io import read_json
from srt.distributed.world import World, gather
from srt.packing.pack import Pack
from srt.rollout import Rollout

# n responses for each of these positions in the data, at a step (0-based)
Sample = Callable[[int, Sequence[int]], list[list[Rollout]]]
# for each group of responses, given their positions in the data: its vote, and whether its rewards are all equal
Judge = Callable[[Sequence[int], Sequence[Sequence[Rollout]]], Sequence[tuple[Vote, bool]]]


@dataclass(frozen=True)
class Batch:
    """N responses; those of one group (one prompt) are adjacent.

    `prompts`, `responses` [N] token ids; `group` [N] names the group; `rewards` [N] float; `labelled` [N] bool: False
    where the group has no label; `rollout_logprobs` [N] the rollout engine's log-probs, or None for stored responses;
    `masked` [N] bool: the reward is in the group's baseline, but no token is in the loss; None: no response is masked.
    """

    prompts: list[list[int]]
    responses: list[np.ndarray]
    group: list[int]
    rewards: np.ndarray
    labelled: np.ndarray
    rollout_logprobs: list[np.ndarray] | None = None
    masked: np.ndarray | None = None

    def take(self, rows: list[int]) -> Batch:
        """The batch of these rows."""
        return Batch(
            [self.prompts[i] for i in rows], [self.responses[i] for i in rows], [self.group[i] for i in rows],
            self.rewards[rows], self.labelled[rows],
            None if self.rollout_logprobs is None else [self.rollout_logprobs[i] for i in rows],
            None if self.masked is None else self.masked[rows],
        )  # fmt: skip

    @staticmethod
    def joined(parts: list[Batch]) -> Batch:
        """The batches of all processes as one; groups of different processes stay different groups."""
        values: dict[str, Any] = {}
        for f in fields(Batch):
            each = [getattr(p, f.name) for p in parts]
            if f.name == "group":
                offset, values["group"] = 0, []
                for p in each:
                    values["group"] += [g + offset for g in p]
                    offset += max(p, default=-1) + 1
            elif each[0] is None or not isinstance(each[0], np.ndarray):
                values[f.name] = None if each[0] is None else [x for p in each for x in p]
            else:
                values[f.name] = np.concatenate(each)
        return Batch(**values)

    def rollout_logprobs_of(self, p: Pack) -> Tensor:
        """The rollout engine's log-probs [b, R] of the rows of a pack, on its device."""
        assert self.rollout_logprobs is not None
        flat = torch.from_numpy(np.concatenate([self.rollout_logprobs[i] for i in p.rows])).to(p.ids.device)
        return torch.zeros(p.mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(p.mask, flat)


def rank_share(items: list[Any], world: World) -> list[Any]:
    """This rank's prompts of a step: whole groups, so votes and baselines never cross ranks.

    The shares are contiguous: in rank order they are the batch in its own order, on which the micro-batch means of
    `token_mean_micro` depend. Their sizes differ by at most one prompt.
    """
    first, last = (len(items) * (world.rank + k) // world.size for k in (0, 1))
    return items[first:last]


def label_threshold(spec: Mapping[str, Any]) -> float:
    """The share of all responses that a majority needs to be a label; in a refilled batch at least that of `refill`."""
    refill = spec.get("refill") or {}
    return float(max(spec["train"]["majority_threshold"], refill.get("majority", 0.0)))


class PromptOrder:
    """The order in which a run takes its usable prompts: a new permutation in each epoch.

    Args:
        usable: positions in the data.
        per_step: prompts of a step.
        seed: the run's; it decides the permutations.
    """

    def __init__(self, usable: Sequence[int], per_step: int, seed: int) -> None:
        self.usable, self.per_step, self.seed = list(usable), per_step, seed

    def epoch(self, number: int) -> list[int]:
        """All usable prompts in the order of an epoch (0-based)."""
        permutation = np.random.default_rng([self.seed, number]).permutation(len(self.usable))
        return [self.usable[i] for i in permutation]

    def batch(self, step: int) -> list[int]:
        """The prompts of `step` (0-based) without refill; the incomplete last batch of an epoch is dropped."""
        epoch, place = divmod(step, len(self.usable) // self.per_step)
        return self.epoch(epoch)[place * self.per_step : (place + 1) * self.per_step]


@dataclass(frozen=True)
class Filled:
    """A refilled batch: the positions `kept`, all positions `drawn` in order, and the place after it."""

    kept: list[int]
    drawn: list[int]
    place: int


def fill(
    order: Callable[[int], Sequence[int]], place: int, size: int, rounds: int,
    judge: Callable[[list[int]], Sequence[bool]],
) -> Filled:  # fmt: skip
    """Draw rounds of `size` prompts from `place` until `size` of them are kept.

    Args:
        order: the prompts of an epoch, as positions in the data: a permutation of the same length in every epoch.
        place: number of prompts used up since the run's start: judged (kept or not), or skipped at the end of an epoch.
        rounds: maximum number of rounds; after the last one the batch is what has been kept.
        judge: samples these prompts and returns whether each is kept.

    A batch comes from one epoch, so it has no prompt twice. Where fewer than `size` prompts are left of an epoch, the
    batch begins with the next one, as without refill; where an epoch ends, the batch ends too. The prompts after the
    one that fills the batch are not used up: the next step draws them again, with its current weights.
    """
    length = len(order(0))
    epoch, at = divmod(place, length)
    if length - at < size:
        epoch, at = epoch + 1, 0
    prompts = order(epoch)
    kept: list[int] = []
    drawn: list[int] = []
    for _ in range(rounds):
        chunk = [int(i) for i in prompts[at : at + size]]
        if not chunk:
            break
        drawn += chunk
        for i, keep in zip(chunk, judge(chunk), strict=True):
            at += 1
            kept += [i] * bool(keep)
            if len(kept) == size:
                return Filled(kept, drawn, epoch * length + at)
    return Filled(kept, drawn, epoch * length + at)


class Batches:
    """The batches of a run with their rollouts, one per step, in the order of the steps.

    Args:
        sample, judge: what draws responses and what judges them.
        refill: the run's rule (`srt.config.runs.Refill.rule`); None: every batch is the next one of the order.

    `place` is where a run that refills is in its data.
    """

    def __init__(
        self, order: PromptOrder, world: World, sample: Sample, judge: Judge, refill: Mapping[str, Any] | None
    ) -> None:
        self.order, self.world, self.sample, self.judge, self.refill = order, world, sample, judge, refill
        self.place = 0

    def restore(self, state: Path) -> None:
        """Continue from the place of a state."""
        self.place = int(read_json(state / "progress.json").get("place", 0))

    def progress(self) -> dict[str, int]:
        """What a state has to keep: the place, for a run that refills."""
        return {"place": self.place} if self.refill else {}

    def draw(self, step: int) -> tuple[list[int], list[list[Rollout]], dict[str, float]]:
        """This rank's share of the batch of `step` (0-based): positions in the data, rollouts, metrics of a refill.

        Every rank calls it. If no prompt is kept, the batch is the first prompts drawn. `label_threshold` gives them no
        label if their majority is below that of the rule.
        """
        if self.refill is None:
            positions = rank_share(self.order.batch(step), self.world)
            return positions, self.sample(step, positions), {}
        return self._refilled(step, self.refill)

    def _refilled(
        self, step: int, refill: Mapping[str, Any]
    ) -> tuple[list[int], list[list[Rollout]], dict[str, float]]:
        rollouts: dict[int, list[Rollout]] = {}  # of this rank
        # of all ranks, in the order of drawing: the majority's share, whether all rewards are equal, kept
        seen: list[tuple[float, bool, bool]] = []
        majority, dynamic = refill.get("majority"), refill.get("dynamic_sampling", False)

        def judge(chunk: list[int]) -> list[bool]:
            mine = rank_share(chunk, self.world)
            groups = self.sample(step, mine)
            rollouts.update(zip(mine, groups, strict=True))
            found = []
            for vote, equal in self.judge(mine, groups):
                agrees = majority is None or reaches(vote, majority, of_all=True)
                found.append((vote.consistency_all, equal, agrees and not (dynamic and equal)))
            gathered = gather(found, self.world)
            seen.extend(gathered)
            return [keep for _, _, keep in gathered]

        size = self.order.per_step
        filled = fill(self.order.epoch, self.place, size, refill["rounds"], judge)
        self.place = filled.place
        batch = filled.kept or filled.drawn[:size]
        used = set(batch)
        # the kept prompts lie unevenly on the ranks: share them out again, as without refill
        groups = dict(gather([(i, group) for i, group in rollouts.items() if i in used], self.world))
        positions = rank_share(batch, self.world)
        metrics = {
            "prompts_drawn": float(len(filled.drawn)),
            "prompts_kept": float(len(filled.kept)),
            "drawn_keep_rate": float(np.mean([keep for _, _, keep in seen])),
            "drawn_majority_ratio": float(np.mean([share for share, _, _ in seen])),
            "data_place": float(self.place),
        }
        if dynamic:
            metrics["drawn_unanimous_rate"] = float(np.mean([equal for _, equal, _ in seen]))
        return positions, [groups[i] for i in positions], metrics
