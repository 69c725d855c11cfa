"""The rule of the label-free collapse alarm (docs/monitors.md). Light: the workflow reads it while parsing."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from srt.config.base import Strict


class AlarmRule(Strict):
    """When the alarm rings: agreement has risen, and one sign has held for `patience` steps in a row.

    Agreement has risen when `majority_ratio` is at least `agreement_rise` above its mean over the first `baseline`
    steps (or at least `agreement_high`, for models that agree from the start). The signs:

    - one answer: `top_majority_share` is at least `one_answer` and at least `one_answer_growth` times its baseline;
    - drift: `kl` is at least `drift` nats a token;
    - shortcut: `response_length` is at most `shortcut` times its baseline.

    Defaults, and why:

    - one_answer 0.5, growth 2: 16 unrelated problems share an answer by chance in 2 to 4 cases (0.12 to 0.25 of them;
      0.44 at the most in 300 healthy steps); with few possible answers, as in multiple choice, chance is higher, hence
      the growth.
    - drift 1.0: the base model finds such a response e times less likely at every token, several times a base model's
      own entropy. Ground-truth runs that kept improving stayed below 0.45.
    - shortcut 0.5: runs that did not collapse shortened their responses to 0.57 of the start at the most; runs that
      learned to skip the reasoning went to 0.25 to 0.42.
    - agreement_rise 0.2: no sign is a collapse of self-training unless votes have become more unanimous.
    - patience 2: the KL estimate k3 has a heavy tail, so that runs which do not collapse show single steps far above
      the threshold, 26 nats once.
    - baseline 3 steps of some 500 responses each: a rate is then known to about 0.01, and training has hardly begun.

    `docs/monitors.md` has the runs that they were chosen on, and lead times and false alarms there.
    """

    agreement_rise: float = Field(0.2, description="Rise of the majority ratio over its baseline.")
    agreement_high: float = Field(0.95, description="A majority ratio that counts as risen wherever it started.")
    one_answer: float = Field(0.5, description="Share of prompts whose majority answer is the same.")
    one_answer_growth: float = Field(2.0, description="How many times its baseline that share must be, too.")
    drift: float = Field(1.0, description="KL to the reference, nats a token, by `kl_estimator`; 1 was chosen on k3.")
    shortcut: float = Field(0.5, description="Response length over its baseline.")
    patience: int = Field(2, ge=1, description="Steps in a row that one sign must hold.")
    baseline: int = Field(3, ge=1, description="First steps, whose means are the baselines.")

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {k: v for k, v in self.model_dump(mode="json").items() if v != type(self).model_fields[k].default}
