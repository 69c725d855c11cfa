"""Training on stored responses chosen by votes: SFT, DPO and ScPO (paper v2, §4.1 and Appendix F)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from srt.config.base import Strict

OFFLINE = ("sft", "dpo", "scpo")  # rewards without rollouts: the loss is over stored responses
PAIRS = ("dpo", "scpo")


class Preference(Strict):
    """Which stored responses the rewards `sft`, `dpo` and `scpo` learn from, and with which loss (docs/trainer.md)."""

    threshold: float = Field(
        0.0, ge=0, le=1, description="`sft`: a prompt is used if its majority is at least this share of all responses."
    )
    responses: int | None = Field(
        None,
        gt=0,
        description="`sft`: responses per prompt, drawn from those with the majority answer; null means all of them.",
    )
    margin: int = Field(
        2,
        ge=0,
        description="`dpo`, `scpo`: a pair is used if its chosen answer leads its rejected one by more than this "
        "many votes (paper v2: w(x) greater than 2, which we read as a number of votes, since the share is at most 1).",
    )
    beta: float = Field(
        0.1, gt=0, description="`dpo`, `scpo`: weight of the KL to the weights that the run starts from."
    )
    nll: float = Field(
        1.0, ge=0, description="`dpo`, `scpo`: weight of the chosen response's mean negative log-likelihood per token."
    )

    def per_prompt(self, reward: str, sampled: int) -> int:
        """Responses per prompt that a plan assumes: where votes decide, our guess is half of the `sampled` ones."""
        return 2 if reward in PAIRS else self.responses or max(1, sampled // 2)

    def selection(self, reward: str) -> dict[str, Any]:
        """The keys that select the responses, with their values."""
        return self._values(("margin",) if reward in PAIRS else ("threshold", "responses"))

    def loss(self, reward: str) -> dict[str, Any]:
        """The keys of the loss, with their values."""
        return self._values(("beta", "nll") if reward in PAIRS else ())

    def _values(self, keys: tuple[str, ...]) -> dict[str, Any]:
        return {key: getattr(self, key) for key in keys}


def check_keys(preference: Preference, reward: str) -> None:
    """Raise a `ValueError` for a key that has no effect with this reward."""
    if reward not in OFFLINE:
        raise ValueError(
            f"preference: reward {reward} draws its own rollouts: set reward to sft, dpo or scpo, or remove preference"
        )
    counts = {**preference.selection(reward), **preference.loss(reward)}
    for key in sorted(preference.model_fields_set - set(counts)):
        if getattr(preference, key) == Preference.model_fields[key].default:  # a resolved configuration has every key
            continue
        raise ValueError(f"preference: {key} has no effect with reward {reward}: remove it (used: {', '.join(counts)})")
