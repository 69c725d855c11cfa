"""Does the trainer compute what the model says? Log-probs and a gradient of a pack, against the plain forward pass.

The probe goes the way of a training step: batches cut into packs, prompts shared by their responses, a group over two
packs, the chunked head, the run's activation checkpointing. Token ids are random. It knows no family of models by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srt.common.errors import SrtError
from srt.config.train import Checkpointing
from srt.models.plain_pass import plain_distribution, small_copy
from srt.models.probe_record import probed
from srt.packing.activation_checkpointing import checkpoint_activations
from srt.packing.logprobs import packed, response_logprobs
from srt.packing.pack import Pack, pack, split
from srt.rollout.kv_cache import OWN

LOGPROB_BOUND = 1e-4  # nats, float32
GRADIENT_BOUND = 1e-3  # of the norm of a tensor's gradient, float32
# A tensor whose exact gradient is 0 (the bias of keys without a rotary embedding) has one of rounding alone, so a norm
# is at least this share of that of all tensors.
LEAST_NORM = 1e-2
# bfloat16: a pack may be this much farther from float32 than the plain pass in bfloat16 is, on average over tokens
HALF_FACTOR, HALF_BOUND = 2.0, 0.01
TEMPERATURE = 0.8
# (tokens of a prompt, tokens of its responses): two groups share a pack, the last one has two packs
GROUPS = ((5, (9, 1, 21)), (3, (4,)), (12, (14, 30)))
ALIKE = 2  # tokens that all prompts begin with
BUDGET = 40


@dataclass(frozen=True)
class Rows:
    """Responses to random prompts: token ids and groups, as a batch of the trainer has them.

    `budget`: maximum tokens of a pack.
    """

    prompts: list[list[int]]
    responses: list[np.ndarray]
    group: list[int]
    budget: int = BUDGET

    @classmethod
    def random(
        cls, vocabulary: int, groups: Sequence[tuple[int, Sequence[int]]] = GROUPS, budget: int = BUDGET
    ) -> Rows:
        """The same token ids whenever it is called; `groups`: tokens of each prompt and of its responses."""
        rng = np.random.default_rng(0)
        rows = cls([], [], [], budget)
        for number, (length, lengths) in enumerate(groups):
            prompt = rng.integers(0, vocabulary, length).tolist()
            if rows.prompts:  # prompts begin alike, and with at least one token of their own
                alike = min(ALIKE, length - 1)
                prompt[:alike] = rows.prompts[0][:alike]
            for tokens in lengths:
                rows.prompts.append(prompt)
                rows.responses.append(rng.integers(0, vocabulary, tokens).astype(np.int32))
                rows.group.append(number)
        return rows

    def packs(self) -> list[list[int]]:
        """The rows of each pack, in the order in which they are computed."""
        lengths = [len(r) - 1 for r in self.responses]
        units = split(lengths, self.group, [len(p) for p in self.prompts], self.budget)
        return [rows for unit in units for rows in unit]

    def pack(self, rows: list[int], model: Any) -> Pack:
        """Lay out these rows; a beginning that their prompts share is computed once, however short."""
        return pack(self.prompts, self.responses, self.group, rows, model.device, model.dtype, least_prefix=1)

    def factors(self, row: int, like: Tensor) -> Tensor:
        """Weights [T] of a row's log-probs in the scalar that is differentiated; those of entropies are the reverse."""
        return torch.linspace(-1.0, 2.0, len(self.responses[row]), dtype=like.dtype, device=like.device) * (row + 1)


@dataclass(frozen=True)
class Measured:
    """How far packs are from the plain pass.

    `logprob`: largest difference in nats. `gradient`: largest relative error of a tensor's gradient, and `tensor` its
    name. `half`, `plain_half`: mean differences in bfloat16, of packs and of the plain pass, from the plain pass in
    float32; nan for a model in float32.
    """

    logprob: float
    gradient: float
    tensor: str
    half: float = float("nan")
    plain_half: float = float("nan")


def check_packs(folder: Path, model: Any, checkpointing: Checkpointing) -> None:
    """Refuse a model whose packs are not its plain forward pass; the same bytes are probed once.

    Args:
        folder: of the model, for its record and messages.

    Raises:
        SrtError: what differs, in one sentence.
    """
    device, dtype = model.device.type, str(model.dtype).removeprefix("torch.")
    probed(
        folder, f"training, {device}, {dtype}, checkpointing {checkpointing}",
        lambda: _admit(folder, model, checkpointing),
    )  # fmt: skip


def _admit(folder: Path, model: Any, checkpointing: Checkpointing) -> dict[str, Any]:
    try:
        measured = measure(model, checkpointing)
        found = problem(measured)
    except SrtError as error:
        found = str(error)
    if found is not None:
        raise SrtError(
            f"{folder}: training would not be exact for model type {model.config.model_type}: {found}: choose another "
            "base model (docs/models.md)"
        )
    return asdict(measured)


def measure(model: Any, checkpointing: Checkpointing = "none") -> Measured:
    """Compare packs of a small copy of `model` with its plain forward pass.

    Raises:
        SrtError: its forward pass cannot be computed on a pack.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise SrtError("its attention is its own code, which packed sequences cannot replace")
    small = small_copy(model, torch.float32)
    rows = Rows.random(small.config.vocab_size)
    wanted, wanted_grads = plain_pass(small, rows)
    checkpoint_activations(small, checkpointing)
    try:
        found, grads = packed_pass(small, rows)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SrtError(f"its forward pass fails on packed sequences ({first})") from error
    logprob = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    worst, error = worst_gradient(grads, wanted_grads)
    measured = Measured(_or_infinite(logprob), error, worst)
    if model.dtype == torch.float32:
        return measured
    del small, grads, wanted_grads
    half = small_copy(model, model.dtype)
    with torch.no_grad():
        own = [_chosen(half, rows, i) for i in range(len(rows.group))]
        distances = []
        for values in (_packed_logprobs(half, rows), own):
            differences = [(a.float() - b).abs() for a, b in zip(values, wanted, strict=True)]
            distances.append(float(torch.cat(differences).mean()))
    return Measured(measured.logprob, measured.gradient, worst, *map(_or_infinite, distances))


def problem(measured: Measured) -> str | None:
    """What differs, in a phrase; None if nothing does."""
    if measured.logprob > LOGPROB_BOUND:
        return f"log-probs of packed sequences differ by up to {measured.logprob:.2g} nats"
    if measured.gradient > GRADIENT_BOUND:
        return f"the gradient of {measured.tensor} through packed sequences is {measured.gradient:.0%} off"
    if measured.half > HALF_FACTOR * measured.plain_half + HALF_BOUND:
        return (
            f"in bfloat16, log-probs of packed sequences are {measured.half:.2g} nats from those in float32 on average "
            f"(the plain pass: {measured.plain_half:.2g})"
        )
    return None


def worst_gradient(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[str, float]:
    """The tensor whose gradient is farthest off, and by how much of its norm; infinity for nan."""
    norm = float(torch.stack([g.float().norm() for g in wanted.values()]).norm())
    errors = {
        name: _or_infinite(float((found[name].float() - g).norm()) / max(float(g.norm()), LEAST_NORM * norm))
        for name, g in wanted.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return worst, errors[worst]


def _or_infinite(value: float) -> float:
    return value if value == value else float("inf")


def _chosen(model: Any, rows: Rows, row: int) -> Tensor:
    every = plain_distribution(model, rows.prompts[row], rows.responses[row].tolist(), TEMPERATURE)
    token = torch.as_tensor(rows.responses[row], dtype=torch.long, device=every.device)
    return every.gather(-1, token[:, None])[:, 0]


def _gradients(model: Any) -> dict[str, Tensor]:
    """The gradients, taken from the model."""
    grads = {}
    for name, p in model.named_parameters():
        grads[name] = torch.zeros_like(p) if p.grad is None else p.grad
        p.grad = None
    return grads


def plain_pass(model: Any, rows: Rows, kind: str = OWN) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Log-probs [T] of each row and the gradients of all weights, one sequence at a time in transformers' attention."""
    found = []
    for i, (prompt, response) in enumerate(zip(rows.prompts, rows.responses, strict=True)):
        every = plain_distribution(model, prompt, response.tolist(), TEMPERATURE, kind)
        token = torch.as_tensor(response, dtype=torch.long, device=every.device)
        logp, entropy = every.gather(-1, token[:, None])[:, 0], -(every.exp() * every).sum(-1)
        factors = rows.factors(i, logp)
        (logp @ factors + entropy @ factors.flip(0)).backward()
        found.append(logp.detach())
    return found, _gradients(model)


def packed_pass(model: Any, rows: Rows) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What `plain_pass` returns, from packs."""
    found: dict[int, Tensor] = {}
    with packed(model):
        for part in rows.packs():
            p = rows.pack(part, model)
            logprobs, entropies = response_logprobs(model, p, TEMPERATURE)
            total = torch.zeros((), device=model.device)
            for place, i in enumerate(part):
                tokens = len(rows.responses[i])
                logp, entropy = logprobs[place, :tokens], entropies[place, :tokens]
                factors = rows.factors(i, logp)
                total = total + logp @ factors + entropy @ factors.flip(0)
                found[i] = logp.detach()
            total.backward()
    return [found[i] for i in range(len(rows.group))], _gradients(model)


def _packed_logprobs(model: Any, rows: Rows) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with packed(model):
        for part in rows.packs():
            p = rows.pack(part, model)
            logprobs, _ = response_logprobs(model, p, TEMPERATURE)
            found |= {i: logprobs[place, : len(rows.responses[i])] for place, i in enumerate(part)}
    return [found[i] for i in range(len(rows.group))]
