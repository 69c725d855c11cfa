"""Which prompts a step trains on, and their rollouts: one batch of the data, or one that is refilled (key `refill`).

The online curriculum (paper v2, Appendix I.7, Fig. 31): a step draws prompts in rounds, samples them, keeps those whose
majority is at least a threshold, and draws on until the batch is full. So where a run is in its data depends on what
was kept before; the place is a number in every state (progress.json). With it, the prompts of a step are a pure
function of (seed, data, place, votes), on any number of processes. Votes decide and no label is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srt.answers.votes import reaches
from srt.common.io import read_json
from srt.distributed.world import World, gather
from srt.rollout import Rollout, Sampling

if TYPE_CHECKING:
    from srt.training.trainer import Trainer


def rank_share(items: list[Any], world: World) -> list[Any]:
    """This rank's prompts of a step: whole groups, so votes and baselines never cross ranks.

    The shares are runs of the batch: one rank after the other they are the batch in its order, on which the
    micro-batch means of `token_mean_micro` depend. They differ by at most one prompt.
    """
    first, last = (len(items) * (world.rank + k) // world.size for k in (0, 1))
    return items[first:last]


def label_threshold(spec: Mapping[str, Any]) -> float:
    """The share of all responses that a majority needs to be a label; in a refilled batch at least that of `refill`."""
    refill = spec.get("refill") or {"majority": 0.0}
    return float(max(spec["train"]["majority_threshold"], refill["majority"]))


@dataclass(frozen=True)
class Filled:
    """A refilled batch: the positions that are `kept`, all that were `drawn` in order, and the place behind it."""

    kept: list[int]
    drawn: list[int]
    place: int


def fill(
    order: Callable[[int], Sequence[int]], place: int, size: int, rounds: int,
    judge: Callable[[list[int]], Sequence[bool]],
) -> Filled:  # fmt: skip
    """Draw rounds of `size` prompts from `place` on until `size` of them are kept.

    Args:
        order: the prompts of an epoch, as positions in the data: a permutation, as long in every epoch.
        place: prompts that are used up since the run's start, kept or not, and those that an epoch's end left over.
        rounds: at most so many; then the batch is what there is.
        judge: samples these prompts and says of each whether it is kept.

    A batch comes from one epoch, so it has no prompt twice: where fewer than `size` prompts are left of the epoch it
    begins with the next one, as without refill, and where an epoch ends it ends as well. Prompts of the last round
    behind the one that fills the batch are not used up: the next step draws them again, from the weights it has then.
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
    """The batches of a run, one a step, in the order of its steps. `place` is where a refilled run is in its data."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.place = trainer, 0

    def restore(self, state: Path) -> None:
        """Go on from where a state's run was in its data."""
        self.place = int(read_json(state / "progress.json").get("place", 0))

    def progress(self) -> dict[str, int]:
        """What a state has to hold: the place, for a run that refills."""
        return {"place": self.place} if self.trainer.spec.get("refill") else {}

    def sample(self, step: int) -> tuple[list[int], list[list[Rollout]], dict[str, float]]:
        """This rank's share of the batch of `step` (0-based): positions in the data, rollouts; metrics of a refill.

        Every rank calls it. If no prompt reaches the threshold, the batch is the first prompts drawn: `label_threshold`
        gives them no label.
        """
        trainer, world = self.trainer, self.trainer.world
        rule = trainer.spec.get("refill")
        if rule is None:
            chosen = rank_share(trainer.batch(step), world)
            return chosen, self._draw(step, chosen), {}
        rollouts: dict[int, list[Rollout]] = {}  # of this rank
        votes: list[tuple[float, bool]] = []  # of all ranks, in the order of drawing

        def judge(chunk: list[int]) -> list[bool]:
            mine = rank_share(chunk, world)
            groups = self._draw(step, mine)
            rollouts.update(zip(mine, groups, strict=True))
            found = gather(self._votes(mine, groups, rule["majority"]), world)
            votes.extend(found)
            return [keep for _, keep in found]

        size = trainer.train["prompts_per_step"]
        filled = fill(self._order, self.place, size, rule["rounds"], judge)
        self.place = filled.place
        batch = filled.kept or filled.drawn[:size]
        used = set(batch)
        # the kept lie unevenly on the ranks: shared out anew, as they would be without refill
        groups = dict(gather([(i, group) for i, group in rollouts.items() if i in used], world))
        chosen = rank_share(batch, world)
        metrics = {
            "prompts_drawn": float(len(filled.drawn)),
            "prompts_kept": float(len(filled.kept)),
            "drawn_keep_rate": float(np.mean([keep for _, keep in votes])),
            "drawn_majority_ratio": float(np.mean([share for share, _ in votes])),
            "data_place": float(self.place),
        }
        return chosen, [groups[i] for i in chosen], metrics

    def _order(self, epoch: int) -> list[int]:
        """The usable prompts in an epoch's order, that of `Trainer.batch`."""
        usable = self.trainer.usable
        return [usable[i] for i in np.random.default_rng([self.trainer.spec["seed"], epoch]).permutation(len(usable))]

    def _draw(self, step: int, chosen: Sequence[int]) -> list[list[Rollout]]:
        """n responses for each of these prompts."""
        trainer, train = self.trainer, self.trainer.train
        sampling = Sampling(
            n=train["rollouts_per_prompt"],
            temperature=train["temperature"],
            max_new_tokens=train["max_new_tokens"],
            seed=trainer.spec["seed"],
        )
        keys = [f"{step}/{trainer.data.ids[i]}" for i in chosen]
        with trainer.timer("rollout"):
            return trainer.rollouts.generate([trainer.prompts[i] for i in chosen], keys, sampling)

    def _votes(
        self, chosen: Sequence[int], groups: Sequence[Sequence[Rollout]], threshold: float
    ) -> list[tuple[float, bool]]:
        """Of each group: the majority's share of all responses, and whether it is at least the threshold."""
        trainer = self.trainer
        with trainer.timer("reward"):
            texts = [
                trainer.tokenizer.batch_decode([r.token_ids for r in group], skip_special_tokens=True)
                for group in groups
            ]
            votes = trainer.grader.vote(texts, tasks=[trainer.data.tasks[i] for i in chosen])
        return [(vote.consistency_all, reaches(vote, threshold, of_all=True)) for vote in votes]
