"""Training on stored responses of the base model: SFT, DPO and ScPO on its votes (paper v2, §4.1 and Appendix F)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from srt.config.base import Strict

OFFLINE = ("sft", "dpo", "scpo")  # rewards that draw no rollouts: the loss stands on responses that are there
PAIRS = ("dpo", "scpo")


class Preference(Strict):
    """Which stored responses rewards `sft`, `dpo` and `scpo` learn from, and how (docs/trainer.md)."""

    threshold: float = Field(
        0.0, ge=0, le=1, description="`sft`: a prompt is used if its majority is at least this share of all responses."
    )
    responses: int | None = Field(
        None,
        gt=0,
        description="`sft`: so many responses a prompt, drawn from those with the majority answer; null: all of them.",
    )
    margin: int = Field(
        2,
        ge=0,
        description="`dpo`, `scpo`: a pair is used if its chosen answer has more than so many votes above its rejected "
        "one (paper v2: w(x) greater than 2, which we read as a number of votes: the share is at most 1).",
    )
    beta: float = Field(0.1, gt=0, description="`dpo`, `scpo`: the weight of the KL to where the run starts.")
    nll: float = Field(
        1.0, ge=0, description="`dpo`, `scpo`: weight of the chosen response's mean negative log-likelihood a token."
    )

    def per_prompt(self, reward: str, sampled: int) -> int:
        """Responses a prompt, for plans and sizes; where votes decide, half of the `sampled` ones agree: our guess."""
        return 2 if reward in PAIRS else self.responses or max(1, sampled // 2)

    def selection(self, reward: str) -> dict[str, Any]:
        """The keys that choose the responses."""
        return self._of(("margin",) if reward in PAIRS else ("threshold", "responses"))

    def loss(self, reward: str) -> dict[str, Any]:
        """The keys of the loss."""
        return self._of(("beta", "nll") if reward in PAIRS else ())

    def _of(self, keys: tuple[str, ...]) -> dict[str, Any]:
        return {key: getattr(self, key) for key in keys}


def check_keys(preference: Preference, reward: str) -> None:
    """Raise a `ValueError` for a key that says nothing with this reward."""
    if reward not in OFFLINE:
        raise ValueError(
            f"preference: reward {reward} draws its own rollouts: set reward to sft, dpo or scpo or remove it"
        )
    counts = {**preference.selection(reward), **preference.loss(reward)}
    for key in sorted(preference.model_fields_set - set(counts)):
        if getattr(preference, key) == Preference.model_fields[key].default:  # a resolved configuration names all keys
            continue
        raise ValueError(f"preference: {key} says nothing with reward {reward}: remove it (it has {', '.join(counts)})")
