"""The rule of the label-free collapse alarm (docs/monitors.md)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from srt.config.base import Strict


class AlarmRule(Strict):
    """When the alarm rings: agreement has risen, and one sign of collapse has held for `patience` steps in a row.

    Agreement has risen when `majority_ratio` is at least `agreement_rise` above its mean over the first `baseline`
    steps (or at least `agreement_high`, for models that agree from the start). The signs:

    - one answer: `top_majority_share` is at least `one_answer` and at least `one_answer_growth` times its baseline;
    - drift: `kl` is at least `drift` nats per token;
    - shortcut: `response_length` is at most `shortcut` times its baseline.

    Defaults, and why:

    - one_answer 0.5, growth 2: of 16 unrelated problems, 2 to 4 share an answer by chance (a share of 0.12 to 0.25; at
      most 0.44 in 300 healthy steps). With few possible answers, as in multiple choice, chance is higher: hence the
      growth.
    - drift 1.0: the base model finds such a response e times less likely at every token, which is several times a base
      model's own entropy. Ground-truth runs that kept improving stayed below 0.45.
    - shortcut 0.5: runs that did not collapse shortened their responses to 0.57 of the start at most; runs that learned
      to skip the reasoning went to 0.25 to 0.42.
    - agreement_rise 0.2: a sign alone is no collapse of self-training; the votes must also have become more unanimous.
    - patience 2: the KL estimate k3 has a heavy tail, so runs that do not collapse have single steps far above the
      threshold (26 nats once).
    - baseline 3: three steps of about 500 responses each give a rate to about 0.01, and training has hardly begun.

    `docs/monitors.md` describes the runs on which these values were chosen, with lead times and false alarms.
    """

    agreement_rise: float = Field(0.2, description="Minimum rise of the majority ratio above its baseline.")
    agreement_high: float = Field(
        0.95, description="A majority ratio from which agreement counts as risen, whatever its baseline."
    )
    one_answer: float = Field(0.5, description="Minimum share of prompts that have the most common majority answer.")
    one_answer_growth: float = Field(2.0, description="That share must also be at least this many times its baseline.")
    drift: float = Field(
        1.0,
        description="Minimum KL to the reference in nats per token, estimated by `kl_estimator`; 1 was chosen with k3.",
    )
    shortcut: float = Field(0.5, description="Maximum ratio of the response length to its baseline.")
    patience: int = Field(2, ge=1, description="Steps in a row for which one sign must hold.")
    baseline: int = Field(3, ge=1, description="Number of first steps; their means are the baselines.")

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {k: v for k, v in self.model_dump(mode="json").items() if v != type(self).model_fields[k].default}
