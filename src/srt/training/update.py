"""One update of the policy on one batch: forward passes over packs, advantages, backward passes, the optimizer's step.

Strictly on-policy (one step per batch) there is no separate pass for the old policy. Its log-probs are those of the
gradient pass, so that pass comes first and keeps its graph. A group's baseline needs only its own group, so as soon as
a group is complete its advantages are known and its graph is differentiated and freed. Several steps on one batch, and
ZeRO 3 (which cannot hold several graphs), take the log-probs in a separate pass. So does a group whose graphs would not
fit into the memory for activations.

The loss is a sum over tokens with weights that are fixed beforehand over the global batch (`TokenWeights`), so the
gradient depends neither on packs nor on their order nor on the number of processes. An `Objective` defines the loss
(srt.training.objectives).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from srt.distributed.world import World, gather
from srt.objective.kl import masked_sum
from srt.objective.mismatch import combine_mismatch, mismatch, row_differences
from srt.packing.activation_checkpointing import ActivationRoom
from srt.packing.logprobs import packed, response_logprobs, response_statistics
from srt.packing.pack import Pack, balance, pack, runs, split
from srt.rollout.transformers_engine import TransformersEngine
from srt.training.batches import Batch
from srt.training.reference import Reference

PHASES = ("policy", "reference", "backward", "optimizer")
EXAMINED = 4  # responses of each process that are computed again to explain a mismatch
Units = list[list[list[int]]]  # of packs of rows, from srt.packing.pack.split


class Policy(Protocol):
    """The methods that an update calls, of `srt.distributed.deepspeed_engine.DeepSpeedEngine`."""

    @property
    def model(self) -> Any: ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this rank's share of the gradient; reduce over ranks on the last call."""
        ...

    def step(self) -> tuple[float, bool]:
        """Clip and update; return the gradient's norm and whether the update was made (not for a non-finite norm)."""
        ...


@dataclass(frozen=True)
class TokenWeights:
    """The loss' weight [N] of each token of a response, float64, from the global batch.

    `kept` [N] (bool): counted in the loss' denominator. `trained` [N] (bool): worth a forward and a backward pass.
    """

    weights: Tensor
    kept: Tensor
    trained: Tensor


@dataclass(frozen=True)
class ScoredPack:
    """A pack of b responses with its log-probs [b, R].

    `logprobs` and `entropy` are the policy's, with gradient; `old` the sampling policy's; `reference` the reference's,
    None where the objective has none.
    """

    pack: Pack
    logprobs: Tensor
    entropy: Tensor
    old: Tensor
    reference: Tensor | None


class Statistics:
    """What the passes over one batch of N responses found: per response on the CPU in float64 [N], and in all.

    `certainty_mean`: mean self-certainty of a response's tokens; 0 for an objective that does not ask for it.

    `kl_sum`, `kl_mean`: the objective's KL estimate over a response's tokens; 0 without a reference. `value`: the loss
    of a response over its weight, for an objective that knows it before the backward passes. `apart`: mean difference
    of the trainer's and the rollout engine's log-probs; 0 for stored responses.
    """

    def __init__(self, n: int) -> None:
        zero = torch.zeros(n, dtype=torch.float64)
        self.kl_sum, self.kl_mean, self.entropy_mean, self.certainty_mean = (zero.clone() for _ in range(4))
        self.logp_sum, self.value, self.apart = (zero.clone() for _ in range(3))
        self.mismatch_parts: list[dict[str, float]] = []
        self.mismatch = combine_mismatch([])
        self.tokens = 0  # through the model
        self.loss = 0.0


class Objective(Protocol):
    """What an update minimises, as a policy gradient: sum_i w_i sum_t of a loss of token t of response i.

    `certainty`: whether `Statistics.certainty_mean` is needed.
    """

    certainty: bool

    def weigh(self, batch: Batch) -> TokenWeights:
        """The weights of the global batch."""
        ...

    def kl(self, logprobs: Tensor, reference: Tensor) -> Tensor:
        """The KL estimate of each token, from log-probs of the policy and the reference, in any shape."""
        ...

    def advantages(self, batch: Batch, rows: list[int], statistics: Statistics) -> Tensor:
        """Advantages of these rows, which are whole groups, in float64."""
        ...

    def loss(
        self, batch: Batch, scored: ScoredPack, advantage: Tensor, weights: Tensor, statistics: Statistics
    ) -> tuple[Tensor, Tensor | float]:
        """The scalar to differentiate for one pack, and what the pack adds to the logged loss.

        `advantage`, `weights` [b]: of the pack's rows.
        """
        ...

    def metrics(self, batch: Batch, statistics: Statistics) -> dict[str, float]:
        """Metrics over all processes that are added to, or replace, those of `Update.run`."""
        ...


@dataclass(frozen=True)
class PassOptions:
    """How the passes over a batch are made.

    Args:
        temperature: of all log-probs, as when sampling.
        iterations: optimizer steps per batch.
        micro_batch_tokens: maximum number of tokens in a pack.
        zero_stage: DeepSpeed's.
    """

    temperature: float
    iterations: int
    micro_batch_tokens: int
    zero_stage: int


class Update:
    """The update of a policy under an objective.

    Args:
        reference: None for an objective that has none.
        activations: memory in which layers keep what the backward pass would compute again; None: they keep no more
            than the model's checkpointing says.
        check_mismatch: called once per batch, before weights change, with the mean |difference| of the rollout engine's
            and the trainer's log-probs over all processes, nan if one of them is not finite; may raise.
        timer: context manager by name of phase (`srt.training.tracking.PhaseTimer`): those of `PHASES`.

    After `run`, `work` has the work done over all processes: the numbers of `tokens`, `response_tokens` and
    `packed_tokens`, and the lengths of `prompts` and `responses`.
    """

    def __init__(
        self, policy: Policy, objective: Objective, options: PassOptions, world: World,
        reference: Reference | None = None, check_mismatch: Callable[[float], None] | None = None, timer: Any = None,
        activations: ActivationRoom | None = None,
    ) -> None:  # fmt: skip
        self.policy, self.objective, self.options, self.world = policy, objective, options, world
        self.reference, self.check_mismatch, self.activations = reference, check_mismatch, activations
        self.timer = timer or (lambda phase: nullcontext())
        self.work: dict[str, Any] = {}
        self.dtype = next(policy.model.parameters()).dtype
        self.two_pass = options.iterations > 1 or options.zero_stage == 3

    def run(self, batch: Batch) -> dict[str, Any]:
        """Update on the batches of all processes, each with its own `batch`.

        Returns over the global batch: `kl`, `entropy` (means over responses of token means), `loss`, `grad_norm` (of
        the last step that was made), `kept_rate`, `skipped` (the number of `iterations` whose gradient was not finite,
        so that they updated nothing), `mismatch_*` (rollout engine against trainer), `tokens` (each response with its
        prompt), `packed_tokens` (through the model), and the objective's own metrics.
        """
        world = self.world
        every = Batch.joined(gather([batch], world))
        real = [len(p) + len(r) for p, r in zip(every.prompts, every.responses, strict=True)]
        groups = runs(every.group)
        share = balance([sum(real[a:b]) for a, b in groups], world.size)[world.rank]
        token_weights = self.objective.weigh(every)
        mine = [i for g in share for i in range(*groups[g]) if token_weights.trained[i]]

        local, weights = every.take(mine), token_weights.weights[mine]
        units = split(
            [len(r) - 1 for r in local.responses], local.group, [len(p) for p in local.prompts],
            self.options.micro_batch_tokens,
        )  # fmt: skip
        statistics = Statistics(len(mine))
        self._examined = local, statistics
        with ExitStack() as self._packing:
            self._packing.enter_context(packed(*self._models()))
            if self.reference is not None and self.reference.offloaded is not None:
                with self.timer("reference"):
                    self.reference.score_ahead(
                        (self._pack(local, rows) for unit in units for rows in unit), self.options.temperature
                    )
            passes = self._two_pass if self.two_pass else self._one_pass
            norm, skipped = passes(local, units, weights, statistics)

        parts = gather([(statistics.kl_mean, statistics.entropy_mean, statistics.loss, statistics.tokens)], world)
        packed_tokens = sum(p[3] for p in parts)
        lengths = [len(r) for r in every.responses]
        self.work = {
            "tokens": sum(real), "response_tokens": sum(lengths), "packed_tokens": packed_tokens,
            "prompts": [len(p) for p in every.prompts], "responses": lengths,
        }  # fmt: skip
        return {
            "kl": float(torch.cat([p[0] for p in parts]).mean()),
            "entropy": float(torch.cat([p[1] for p in parts]).mean()),
            "loss": math.fsum(p[2] for p in parts),
            "grad_norm": norm,
            "skipped": float(skipped),
            "kept_rate": float(token_weights.kept.double().mean()),
            "mismatch_mean": statistics.mismatch["mean_abs"],
            "mismatch_max": statistics.mismatch["max_abs"],
            "mismatch_kl": statistics.mismatch["k3"],
            "tokens": float(sum(real)),
            "packed_tokens": float(packed_tokens),
        } | self.objective.metrics(local, statistics)

    def distances_from_plain(self) -> tuple[float, float]:
        """How far the trainer and the rollout engine are from the model's plain forward pass, for `check_mismatch`.

        Mean |difference| of log-probs over the tokens of the EXAMINED responses of each process on which the two are
        farthest apart. All ranks call it, before weights change.
        """
        batch, statistics = self._examined
        order = torch.argsort(torch.nan_to_num(statistics.apart, nan=math.inf), descending=True)
        rows, model, temperature = order[:EXAMINED].tolist(), self.policy.model, self.options.temperature
        few = batch.take(rows)
        missing = EXAMINED - len(rows)  # under ZeRO 3 all ranks take part in every forward pass
        with torch.no_grad():
            p = self._pack(few, list(range(len(rows)))) if rows else self._dummy_pack()
            logprobs, _ = response_logprobs(model, p, temperature)
        self._packing.close()
        idle = [np.zeros(1, dtype=np.int32)] * missing
        plain = TransformersEngine(model, []).logprobs(
            [*few.prompts, *([[0]] * missing)], few.responses + idle, temperature
        )
        self._packing.enter_context(packed(*self._models()))
        sums = np.zeros(3)  # tokens, distances of the trainer and of the engine
        for i, own in enumerate(plain[: len(rows)]):
            trainer = logprobs[i, : len(own)].cpu().numpy()
            assert few.rollout_logprobs is not None
            sums += len(own), np.abs(trainer - own).sum(), np.abs(few.rollout_logprobs[i] - own).sum()
        tokens, trainer_apart, engine_apart = np.sum(gather([sums], self.world), axis=0)
        return float(trainer_apart / tokens), float(engine_apart / tokens)

    # -- the two orders of passes; they return the gradient's norm and the number of steps that were skipped -----------

    def _one_pass(self, batch: Batch, units: Units, weights: Tensor, statistics: Statistics) -> tuple[float, int]:
        last = sum(len(unit) for unit in units) + self._missing_passes(units)
        done = 0
        for unit in units:
            scored_packs: list[ScoredPack] = []
            packs = [self._pack(batch, rows) for rows in unit]
            sizes = [len(p.ids) for p in packs]
            at_once = len(packs) == 1 or self.activations is None or self.activations.holds(sum(sizes))
            self._use_room(sum(sizes) if at_once else max(sizes))
            with torch.set_grad_enabled(at_once):
                for p in packs:
                    logprobs, entropy = self._forward(p, statistics)
                    reference = self._observe(batch, p, logprobs, entropy, statistics)
                    scored_packs.append(ScoredPack(p, logprobs, entropy, logprobs.detach(), reference))
            rows = [i for part in unit for i in part]
            advantage = torch.zeros(len(batch.group), dtype=torch.float64)
            advantage[rows] = self.objective.advantages(batch, rows, statistics)
            while scored_packs:  # each graph is freed after its backward pass
                done += 1
                scored = scored_packs.pop(0)
                if not at_once:
                    logprobs, entropy = self._forward(scored.pack)
                    scored = ScoredPack(scored.pack, logprobs, entropy, logprobs.detach(), scored.reference)
                self._backward(batch, scored, advantage, weights, statistics, done == last)
        self._idle_passes(last - done)
        self._combine_mismatch(statistics)
        with self.timer("optimizer"):
            norm, made = self.policy.step()
        return norm, int(not made)

    def _two_pass(self, batch: Batch, units: Units, weights: Tensor, statistics: Statistics) -> tuple[float, int]:
        missing = self._missing_passes(units)
        before: list[tuple[Pack, Tensor, Tensor | None]] = []
        with torch.no_grad():
            for p in [self._pack(batch, rows) for unit in units for rows in unit]:
                old, entropy = self._forward(p, statistics)
                before.append((p, old, self._observe(batch, p, old, entropy, statistics)))
            for _ in range(missing):  # under ZeRO 3 all ranks take part in every forward pass
                response_logprobs(self.policy.model, self._dummy_pack(), self.options.temperature)
        advantage = self.objective.advantages(batch, list(range(len(batch.group))), statistics)
        self._combine_mismatch(statistics)
        # one number for all ranks, which under ZeRO 3 gather weights in the same order
        self._use_room(max(gather([max((len(p.ids) for p, *_ in before), default=1)], self.world)))
        norm, skipped = math.nan, 0
        for iteration in range(self.options.iterations):
            for number, (p, old, reference) in enumerate(before, start=1):
                scored = ScoredPack(p, *self._forward(p), old, reference)
                last = number == len(before) and not missing
                self._backward(batch, scored, advantage, weights, statistics, last, log=iteration == 0)
            self._idle_passes(missing)
            with self.timer("optimizer"):
                step_norm, made = self.policy.step()
            if made:
                norm = step_norm
            skipped += not made
        return norm, skipped

    # -- parts -------------------------------------------------------------------------------------------------------

    def _models(self) -> list[Any]:
        return [self.policy.model, *([self.reference.model] if self.reference else [])]

    def _pack(self, batch: Batch, rows: list[int]) -> Pack:
        return pack(batch.prompts, batch.responses, batch.group, rows, self.world.device, self.dtype)

    def _use_room(self, tokens: int) -> None:
        """Before passes whose graphs, of so many tokens, are in memory at the same time."""
        if self.activations is not None:
            self.activations.use(tokens)

    def _forward(self, p: Pack, statistics: Statistics | None = None) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies; with `statistics` also the self-certainty, if the objective needs it."""
        with self.timer("policy"):
            if statistics is None or not self.objective.certainty:
                return response_logprobs(self.policy.model, p, self.options.temperature)
            logprobs, entropy, certainty = response_statistics(self.policy.model, p, self.options.temperature)
            statistics.certainty_mean[p.rows] = certainty.sum(-1).double().cpu() / p.lengths.cpu()
            return logprobs, entropy

    def _observe(
        self, batch: Batch, p: Pack, logprobs: Tensor, entropy: Tensor, statistics: Statistics
    ) -> Tensor | None:
        """The reference's log-probs [b, R]; the KL, entropy and mismatch of a pack go into `statistics`."""
        with torch.no_grad(), self.timer("reference"):
            reference = None
            lengths = p.lengths.cpu()
            if self.reference is not None:
                reference = self.reference.logprobs(p, self.options.temperature)
                total = masked_sum(self.objective.kl(logprobs.detach(), reference), p.mask).double().cpu()
                statistics.kl_sum[p.rows] = total
                statistics.kl_mean[p.rows] = total / lengths
            statistics.logp_sum[p.rows] = logprobs.detach().sum(-1).double().cpu()
            statistics.entropy_mean[p.rows] = entropy.detach().sum(-1).double().cpu() / lengths
            if batch.rollout_logprobs is not None:
                rollout = batch.rollout_logprobs_of(p)
                statistics.mismatch_parts.append(mismatch(logprobs, rollout, p.mask))
                statistics.apart[p.rows] = row_differences(logprobs, rollout, p.mask).cpu()
        statistics.tokens += len(p.ids)
        return reference

    def _backward(
        self, batch: Batch, scored: ScoredPack, advantage: Tensor, weights: Tensor, statistics: Statistics, last: bool,
        log: bool = True,
    ) -> None:  # fmt: skip
        rows = scored.pack.rows
        loss, logged = self.objective.loss(batch, scored, advantage[rows], weights[rows], statistics)
        if log:
            statistics.loss += float(logged)
        with self.timer("backward"):
            self.policy.backward(loss, last)

    def _combine_mismatch(self, statistics: Statistics) -> None:
        """Combine the mismatch over processes and check it, while the weights are still those of the rollouts."""
        combined = statistics.mismatch = combine_mismatch(gather(statistics.mismatch_parts, self.world))
        # A sampled token has a probability, so a log-prob of nan or -inf means that trainer or engine is broken. The
        # means leave such tokens out, so an engine that returns nothing but nan would seem to agree.
        if self.check_mismatch is not None and combined["tokens"] + combined["nonfinite"]:
            self.check_mismatch(math.nan if combined["nonfinite"] else combined["mean_abs"])

    def _missing_passes(self, units: Units) -> int:
        """Passes of weight 0 that this rank adds.

        ZeRO 2 and 3 communicate in each backward pass, so all ranks take equally many. Below that every rank takes at
        least one, as the last pass reduces the gradient.
        """
        count = sum(len(unit) for unit in units)
        if self.options.zero_stage < 2:
            return max(1 - count, 0)
        return max([1, *gather([count], self.world)]) - count

    def _dummy_pack(self) -> Pack:
        one = np.zeros(1, dtype=np.int32)
        return pack([[0]], [one], [0], [0], self.world.device, self.dtype)

    def _idle_passes(self, count: int) -> None:
        for number in range(1, count + 1):
            logprobs, _ = response_logprobs(self.policy.model, self._dummy_pack(), self.options.temperature)
            self.policy.backward(logprobs.sum() * 0.0, number == count)
