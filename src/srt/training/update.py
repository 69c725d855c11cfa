"""One update of the policy on one batch of rollouts: forward, reference, advantages, backward, step.

Strictly on-policy (one step a batch) there is no separate pass for the old policy. Its log-probs are those of the
gradient pass, so that pass comes first and keeps its graph; a group's baseline needs its own group only, so as soon as
a group is complete its advantages are known and its graph is differentiated and freed. Several steps on one batch,
baselines over the whole batch, and ZeRO 3 (which cannot hold several graphs) take the log-probs in a pass of its own.

The loss is a sum over tokens with weights fixed beforehand over the global batch (`sequence_weights`), so the gradient
depends neither on packs, nor on their order, nor on the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from srt.distributed.offload import OffloadedModel
from srt.distributed.world import World, gather
from srt.objective.advantages import BATCH_ESTIMATORS, advantages, unanimous
from srt.objective.kl import kl_per_token, masked_sum
from srt.objective.mismatch import combine_mismatch, importance_weights, mismatch
from srt.objective.policy_loss import LossOptions, policy_loss, sequence_weights
from srt.packing.logprobs import packed, response_logprobs
from srt.packing.pack import Pack, balance, pack, runs, split

PHASES = ("policy", "reference", "backward", "optimizer")


@dataclass(frozen=True)
class Batch:
    """N responses; those of one group (one prompt) are adjacent.

    `prompts`, `responses` [N] token ids; `group` [N] names the group; `rewards` [N] float; `labelled` [N] bool: False
    where the group has no label; `rollout_logprobs` [N]: what the rollout engine said at sampling, or None.
    """

    prompts: list[list[int]]
    responses: list[np.ndarray]
    group: list[int]
    rewards: np.ndarray
    labelled: np.ndarray
    rollout_logprobs: list[np.ndarray] | None = None

    def take(self, rows: list[int]) -> Batch:
        """The batch of these rows."""
        return Batch(
            [self.prompts[i] for i in rows], [self.responses[i] for i in rows], [self.group[i] for i in rows],
            self.rewards[rows], self.labelled[rows],
            None if self.rollout_logprobs is None else [self.rollout_logprobs[i] for i in rows],
        )  # fmt: skip

    @staticmethod
    def joined(parts: list[Batch]) -> Batch:
        """The batches of all processes as one; groups of different parts are different."""
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


class Optimizer(Protocol):
    """What an update asks of `srt.distributed.deepspeed_engine.DeepSpeedEngine`."""

    @property
    def model(self) -> Any: ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add this rank's share of the gradient; reduce over ranks on the last call."""
        ...

    def step(self) -> tuple[float, bool]:
        """Clip and update; the gradient's norm and whether the update was made (not if it was not finite)."""
        ...


class _Passes:
    """What the forward passes of one batch found: per sequence, on the CPU, in float64 [N]."""

    def __init__(self, n: int) -> None:
        zero = torch.zeros(n, dtype=torch.float64)
        self.kl_sum, self.kl_mean, self.entropy_mean, self.logp_sum = (zero.clone() for _ in range(4))
        self.mismatch: list[dict[str, float]] = []
        self.drift = combine_mismatch([])
        self.tokens = 0  # through the model
        self.loss = 0.0


class Update:
    """The policy's update.

    Args:
        train: the run's resolved hyperparameters (`srt.config.train.Train`).
        guard: called once a batch, before weights change, with the mean |difference| of the rollout engine's and the
            trainer's log-probs over all processes, nan if one of them is not finite; may raise.
        timer: context manager by name of phase (`srt.training.tracking.PhaseTimer`): those of `PHASES`.
        parked: the reference's weights, in host memory but for the passes over a batch, which then come first; None:
            they are on the device.

    After `run`, `work` says what was done: numbers of `tokens`, `response_tokens`, `packed_tokens`, and the lengths
    of `prompts` and `responses`, over all processes.
    """

    def __init__(
        self, optimizer: Optimizer, reference: Any, train: dict[str, Any], world: World,
        guard: Callable[[float], None] | None = None, timer: Any = None, parked: OffloadedModel | None = None,
    ) -> None:  # fmt: skip
        self.optimizer, self.reference, self.train, self.world = optimizer, reference, train, world
        self.guard, self.timer = guard, timer or (lambda phase: nullcontext())
        self.parked = parked
        self.ahead: dict[tuple[int, ...], Tensor] = {}  # rows of a pack: a parked reference's log-probs [b, R]
        self.work: dict[str, Any] = {}
        self.dtype = next(reference.parameters()).dtype
        self.two_pass = train["iterations"] > 1 or train["advantage"] in BATCH_ESTIMATORS or train["zero_stage"] == 3

    def run(self, batch: Batch) -> dict[str, Any]:
        """Update on the batches of all processes, each with its own `batch`.

        Returns over the global batch: `kl`, `entropy` (means over sequences of token means), `loss`, `grad_norm` (of
        the last step that was made), `kept_rate`, `skipped` (of the `iterations`, how many had a gradient that was not
        finite and updated nothing), `mismatch_*` (rollout engine against trainer), `tokens` (real ones: each response
        with its prompt), `packed_tokens` (through the model).
        """
        train, world = self.train, self.world
        every = Batch.joined(gather([batch], world))
        real = [len(p) + len(r) for p, r in zip(every.prompts, every.responses, strict=True)]
        groups = runs(every.group)
        share = balance([sum(real[a:b]) for a, b in groups], world.size)[world.rank]
        mine = [i for g in share for i in range(*groups[g])]

        # -- weights: one denominator for the global batch ---------------------------------------------------------
        lengths = torch.tensor([len(r) for r in every.responses])
        labelled = torch.from_numpy(every.labelled)
        kept = labelled if train["unparsable_groups"] == "drop" else torch.ones_like(labelled)
        weights = sequence_weights(lengths, train["aggregation"], kept, train["micro_batch_sequences"])
        rewards = torch.from_numpy(every.rewards).double()
        if train["skip_unanimous"]:
            idle = unanimous(rewards, torch.tensor(every.group))
            mine = [i for i in mine if not idle[i]]

        local = every.take(mine)
        units = split(
            [len(r) - 1 for r in local.responses], local.group, [len(p) for p in local.prompts],
            train["micro_batch_tokens"],
        )  # fmt: skip
        found = _Passes(len(mine))
        step = self._two_pass if self.two_pass else self._one_pass
        with packed(self.optimizer.model, self.reference):
            self.ahead = self._ahead(local, units)
            norm, skipped = step(local, units, weights[mine], found)
        parts = gather([(found.kl_mean, found.entropy_mean, found.loss, found.tokens)], world)
        through = sum(p[3] for p in parts)
        self.work = {
            "tokens": sum(real), "response_tokens": int(lengths.sum()), "packed_tokens": through,
            "prompts": [len(p) for p in every.prompts], "responses": lengths.tolist(),
        }  # fmt: skip
        return {
            "kl": float(torch.cat([p[0] for p in parts]).mean()),
            "entropy": float(torch.cat([p[1] for p in parts]).mean()),
            "loss": math.fsum(p[2] for p in parts),
            "grad_norm": norm,
            "skipped": float(skipped),
            "kept_rate": float(kept.double().mean()),
            "mismatch_mean": found.drift["mean_abs"],
            "mismatch_max": found.drift["max_abs"],
            "mismatch_kl": found.drift["k3"],
            "tokens": float(sum(real)),
            "packed_tokens": float(through),
        }

    # -- the two orders of passes: the gradient's norm, and how many steps were left out -------------------------------

    def _one_pass(
        self, batch: Batch, units: list[list[list[int]]], weights: Tensor, found: _Passes
    ) -> tuple[float, int]:
        last = sum(len(unit) for unit in units) + self._missing(units)
        done = 0
        for unit in units:
            passes = []
            for rows in unit:
                p = self._pack(batch, rows)
                with self.timer("policy"):
                    logp, entropy = response_logprobs(self.optimizer.model, p, self.train["temperature"])
                ref = self._observe(batch, p, logp, entropy, found)
                passes.append((p, logp, entropy, ref))
            rows = [i for part in unit for i in part]
            advantage = torch.zeros(len(batch.group), dtype=torch.float64)
            advantage[rows] = self._advantages(batch, rows, found)
            for number, (p, logp, entropy, ref) in enumerate(passes):
                done += 1
                self._backward(batch, p, logp, entropy, logp.detach(), ref, advantage, weights, found, done == last)
                passes[number] = None  # type: ignore[call-overload]  # free this graph
        self._idle(last - done)
        self._check(found)
        with self.timer("optimizer"):
            norm, made = self.optimizer.step()
        return norm, int(not made)

    def _two_pass(
        self, batch: Batch, units: list[list[list[int]]], weights: Tensor, found: _Passes
    ) -> tuple[float, int]:
        packs = [self._pack(batch, rows) for unit in units for rows in unit]
        missing, before = self._missing(units), []
        with torch.no_grad():
            for p in packs:
                with self.timer("policy"):
                    old, entropy = response_logprobs(self.optimizer.model, p, self.train["temperature"])
                before.append((p, old, self._observe(batch, p, old, entropy, found)))
            for _ in range(missing):  # under ZeRO 3 every forward pass is one of all ranks
                response_logprobs(self.optimizer.model, self._dummy(), self.train["temperature"])
        advantage = self._advantages(batch, list(range(len(batch.group))), found)
        self._check(found)
        norm, skipped = math.nan, 0
        for iteration in range(self.train["iterations"]):
            for number, (p, old, ref) in enumerate(before, start=1):
                with self.timer("policy"):
                    logp, entropy = response_logprobs(self.optimizer.model, p, self.train["temperature"])
                end = number == len(before) and not missing
                self._backward(batch, p, logp, entropy, old, ref, advantage, weights, found, end, log=not iteration)
            self._idle(missing)
            with self.timer("optimizer"):
                found_norm, made = self.optimizer.step()
            if made:
                norm = found_norm
            skipped += not made
        return norm, skipped

    # -- parts -------------------------------------------------------------------------------------------------------

    def _pack(self, batch: Batch, rows: list[int]) -> Pack:
        return pack(batch.prompts, batch.responses, batch.group, rows, self.world.device, self.dtype)

    def _observe(self, batch: Batch, p: Pack, logp: Tensor, entropy: Tensor, found: _Passes) -> Tensor:
        """The reference's log-probs [b, R]; the KL, entropy and mismatch of a pack go into `found`."""
        with torch.no_grad(), self.timer("reference"):
            mask = p.mask
            ref = self._reference(p, logp)
            kl = kl_per_token(logp.detach(), ref, self.train["kl_estimator"], self.train["kl_clamp"])
            total = masked_sum(kl, mask).double().cpu()
            lengths = p.lengths.cpu()
            found.kl_sum[p.rows] = total
            found.kl_mean[p.rows] = total / lengths
            found.logp_sum[p.rows] = logp.detach().sum(-1).double().cpu()
            found.entropy_mean[p.rows] = entropy.detach().sum(-1).double().cpu() / lengths
            if batch.rollout_logprobs is not None:
                found.mismatch.append(mismatch(logp, self._rollout(batch, p), mask))
        found.tokens += len(p.ids)
        return ref

    def _reference(self, p: Pack, logp: Tensor) -> Tensor:
        """Log-probs [b, R] of the reference, where `logp` are the policy's."""
        if self.parked:
            return self.ahead.pop(tuple(p.rows))
        return response_logprobs(self.reference, p, self.train["temperature"])[0]

    def _ahead(self, batch: Batch, units: list[list[list[int]]]) -> dict[tuple[int, ...], Tensor]:
        """The log-probs of a parked reference on all packs; it leaves before there are graphs."""
        if not self.parked:
            return {}
        with torch.no_grad(), self.timer("reference"), self.parked.on_device():
            packs = (self._pack(batch, rows) for unit in units for rows in unit)
            return {tuple(p.rows): response_logprobs(self.reference, p, self.train["temperature"])[0] for p in packs}

    def _rollout(self, batch: Batch, p: Pack) -> Tensor:
        """The rollout engine's log-probs of a pack, [b, R]."""
        assert batch.rollout_logprobs is not None
        flat = torch.from_numpy(np.concatenate([batch.rollout_logprobs[i] for i in p.rows])).to(self.world.device)
        return torch.zeros(p.mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(p.mask, flat)

    def _advantages(self, batch: Batch, rows: list[int], found: _Passes) -> Tensor:
        """Advantages of whole groups `rows` (of the global batch where the baseline is the batch's), float64."""
        train = self.train
        labelled = torch.from_numpy(batch.labelled[rows])
        scores = torch.from_numpy(batch.rewards[rows]).double()
        if train["kl_placement"] == "reward":  # a group without a label carries no KL (the authors' mask)
            scores = scores - train["kl_coefficient"] * found.kl_sum[rows] * labelled
        group = torch.tensor([batch.group[i] for i in rows], dtype=torch.long)
        if train["advantage"] not in BATCH_ESTIMATORS:
            return advantages(scores, group, train["advantage"], labelled)
        parts = gather([(scores, group, labelled)], self.world)
        every = advantages(*(torch.cat([p[k] for p in parts]) for k in (0, 1)), train["advantage"],
                           torch.cat([p[2] for p in parts]))  # fmt: skip
        offset = sum(len(p[0]) for p in parts[: self.world.rank])
        return every[offset : offset + len(rows)]

    def _backward(
        self, batch: Batch, p: Pack, logp: Tensor, entropy: Tensor, old: Tensor, ref: Tensor, advantage: Tensor,
        weights: Tensor, found: _Passes, last: bool, log: bool = True,
    ) -> None:  # fmt: skip
        train, mask = self.train, p.mask
        importance = None
        if train["importance_cap"] is not None:
            if batch.rollout_logprobs is None:
                raise ValueError("importance_cap needs the rollout engine's log-probs")
            importance = importance_weights(old, self._rollout(batch, p), mask, train["importance_cap"])
        options = LossOptions(
            clip=train["clip"],
            ratio=train["ratio"],
            entropy_coefficient=train["entropy_coefficient"],
            kl_coefficient=train["kl_coefficient"] if train["kl_placement"] == "loss" else 0.0,
            kl_estimator=train["kl_estimator"],
            kl_clamp=train["kl_clamp"],
        )
        loss = policy_loss(
            logp, old, advantage[p.rows].to(logp), weights[p.rows].to(logp), mask, options,
            entropy=entropy, importance=importance, ref=ref,
        )  # fmt: skip
        if log:
            found.loss += float(loss.detach())
        with self.timer("backward"):
            self.optimizer.backward(loss, last)

    def _check(self, found: _Passes) -> None:
        """Combine the mismatch over processes and show it to the guard, while the weights are those of the rollouts."""
        drift = found.drift = combine_mismatch(gather(found.mismatch, self.world))
        # A token was drawn, so it has a probability: where one side has none (nan), or says 0 (-inf), that side is
        # broken. The means leave such tokens out, and an engine with no number at all would show no difference.
        if self.guard is not None and drift["tokens"] + drift["nonfinite"]:
            self.guard(math.nan if drift["nonfinite"] else drift["mean_abs"])

    def _missing(self, units: list[list[list[int]]]) -> int:
        """Passes without a weight that this rank adds: ZeRO 2 and 3 communicate in each, so all ranks take as many."""
        count = sum(len(unit) for unit in units)
        if self.train["zero_stage"] < 2:  # one at least: the last one reduces the gradient, also of a rank without any
            return max(1 - count, 0)
        return max([1, *gather([count], self.world)]) - count

    def _dummy(self) -> Pack:
        one = np.zeros(1, dtype=np.int32)
        return pack([[0]], [one], [0], [0], self.world.device, self.dtype)

    def _idle(self, count: int) -> None:
        for number in range(1, count + 1):
            logp, _ = response_logprobs(self.optimizer.model, self._dummy(), self.train["temperature"])
            self.optimizer.backward(logp.sum() * 0.0, number == count)
