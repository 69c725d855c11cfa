"""The entries of `claims.yaml`: a checkable statement of the paper, the estimator that measures it, and the rule.

An estimator gives one or more numbers, each with a 95 % interval, and `expect` says where they must lie
(`srt.claims.verdict`). pandas is not imported here, since every job parses the rules.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from srt.config.base import Strict
from srt.config.explain import first_problem
from srt.config.figures import Quantity

MOMENTS = ("base", "peak", "last")


def _moment(value: int | str) -> int | str:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, str) and value not in MOMENTS:
        raise ValueError(f"unknown moment '{value}' (known: {', '.join(MOMENTS)}, or a step)")
    if isinstance(value, int) and value < 0:
        raise ValueError(f"step {value} is negative: write a step, base, peak or last")
    return value


# A step of the run, or `base` (step 0), `peak` (the best of the evaluated steps after it) or `last`.
Moment = Annotated[int | str, AfterValidator(_moment)]


class Expect(Strict):
    """Where an interval must lie: wholly inside is `supported`, wholly outside `not supported`, else `undecided`."""

    above: float | None = Field(
        None, description="Supported if the whole interval is above this value, not supported if no part of it is."
    )
    below: float | None = Field(
        None, description="Supported if the whole interval is below this value, not supported if no part of it is."
    )
    within: tuple[float, float] | None = Field(
        None, description="Supported if the interval is within these bounds (an equivalence margin), ends included."
    )

    @model_validator(mode="after")
    def _is_one(self) -> Expect:
        given = [key for key in ("above", "below", "within") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of above, below, within, not {' and '.join(given) or 'none'}")
        if self.within is not None and self.within[0] >= self.within[1]:
            raise ValueError(f"within: {self.within[0]:g} is not below {self.within[1]:g}: swap or correct them")
        return self


class RunOptions(Strict):
    """Key of all estimators. All seeds of the run are read."""

    run: str = Field(description="Id of the run, without the seed.")


class TestOptions(RunOptions):
    """Keys of all estimators but `training` and `alarm_rate`. All test sets have the same weight."""

    datasets: list[str] = Field(
        min_length=1, description="Test sets; each is read from the run's first suite that contains the set."
    )
    each: bool = Field(
        False,
        description="true gives one number per test set, and all must meet `expect`; false gives one for their mean.",
    )


class MetricOptions(TestOptions):
    """Key of all estimators that read a metric by step, except `early_stopping`."""

    metric: Literal["avg", "maj", "consistency", "parsed"] = Field(
        "avg",
        description="`avg`: avg@n; `maj`: maj@n; `consistency`: share of the majority among all n; `parsed`: "
        "share of responses with an answer.",
    )


class LevelOptions(MetricOptions):
    """Estimator `level`: the metric at one moment."""

    at: Moment = Field("last", description="A step, `base`, `peak` or `last`.")


class ChangeOptions(MetricOptions):
    """Estimator `change`: the metric at one moment minus that at an earlier one, on the same problems."""

    since: Moment = Field(
        "base", description="The earlier moment: a step, `base`, `peak` (the best step before the later) or `last`."
    )
    at: Moment = Field("last", description="The later moment.")


class DifferenceOptions(MetricOptions):
    """Estimator `difference`: the metric of one run minus that of another, on the same problems."""

    against: str = Field(description="Id of the other run.")
    also: list[str] | None = Field(
        None,
        min_length=1,
        description="Further runs to compare with: one number for each, all of which must meet `expect`.",
    )
    at: Moment = Field("last", description="Moment of the run; each run has its own `peak`.")
    against_at: Moment | None = Field(None, description="Moment of the other run; null means that of `at`.")
    until: int | None = Field(
        None,
        gt=0,
        description="`peak` is the best of the steps up to this one at which both runs are evaluated; null means "
        "the best of all steps of each run.",
    )

    @model_validator(mode="after")
    def _until_is_for_peaks(self) -> DifferenceOptions:
        if self.until is not None and "peak" not in (self.at, self.against_at):
            raise ValueError("until: neither run is read at its peak: set at to peak, or remove until")
        return self


class RatioOptions(MetricOptions):
    """Estimator `ratio`: the metric at one moment over that of another moment or run."""

    at: Moment = Field("peak", description="Moment of the run.")
    against: str | None = Field(None, description="Id of the other run; null means the run itself.")
    against_at: Moment = Field("base", description="Moment of the denominator.")


class PeakThenFallOptions(MetricOptions):
    """Estimator `peak_then_fall`: the rise from base to peak, the fall from peak to last, and when it falls."""

    after: int | None = Field(
        None,
        gt=0,
        description="Adds a third number: how much more the metric falls after this step than before it; null "
        "adds none.",
    )


class PeakStepOptions(MetricOptions):
    """Estimator `peak_step`: the evaluated step at which the metric is best; of equal steps the earliest."""

    against_datasets: list[str] | None = Field(
        None, min_length=1, description="Subtract the step at which these test sets are best; null subtracts nothing."
    )


class FallsSoonerOptions(MetricOptions):
    """Estimator `falls_sooner`: step of the fall of one run minus that of another, within their common steps."""

    against: str = Field(description="Id of the other run.")
    against_datasets: list[str] | None = Field(
        None, min_length=1, description="Test sets of the other run; null means those of `datasets`."
    )
    drop: float = Field(
        0.05, gt=0, description="A fall is the first step after the peak at which the metric is lower by this."
    )


class SaturatesOptions(MetricOptions):
    """Estimator `saturates`: the largest absolute change of the metric after a step."""

    by: int = Field(gt=0, description="The step after which the metric should not change.")


class EarlyStoppingOptions(TestOptions):
    """Estimator `early_stopping`: accuracy at the best other step minus that at the step a held-out set selects."""

    validation_dataset: str = Field(description="The held-out set that chooses the step.")
    each: bool = Field(
        True,
        description="true gives one number per test set, and all must meet `expect`; false gives one for their mean.",
    )


class GainDifferenceOptions(MetricOptions):
    """Estimator `gain_difference`: the gain over base of one run minus that of another, on different test sets."""

    against: str = Field(description="Id of the other run.")
    against_datasets: list[str] = Field(min_length=1, description="Test sets of the other run.")
    at: Moment = Field("last", description="Moment of both runs.")


class SuiteGainOptions(TestOptions):
    """Estimator `suite_gain`: the gain over base on each of several suites, such as different temperatures."""

    metric: Literal["avg", "maj"] = Field("avg", description="avg@n or maj@n, with the suite's n.")
    suites: list[str] = Field(min_length=1, description="Suites of the run or of its `probe`: one number for each.")
    at: int | None = Field(None, gt=0, description="Step of the run; null means the last step.")


class OneAnswerOptions(TestOptions):
    """Estimator `one_answer`: share of problems with the most common majority answer. Needs no true answers."""

    at: Moment = Field("last", description="A step, `base` or `last`.")


class GapOptions(TestOptions):
    """Estimator `gap`: accuracy of the majority minus that of single responses, where the majority is large."""

    at: Moment = Field("base", description="A step, `base` or `last`.")
    threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Only problems whose majority is at least this share of the responses with an answer.",
    )


class GapTrendOptions(TestOptions):
    """Estimator `gap_trend`: a curve of the gap plot at a high threshold minus the same curve at a low one."""

    at: Moment = Field("base", description="A step, `base` or `last`.")
    curve: Literal["gap", "majority", "prompt"] = Field(
        "gap", description="`gap`: the gap; `majority`: accuracy of the majority; `prompt`: that of single responses."
    )
    low: float = Field(0.0, ge=0, le=1, description="Low consistency threshold.")
    high: float = Field(0.5, ge=0, le=1, description="High consistency threshold.")


class TrainingOptions(RunOptions):
    """Estimator `training`: a training metric, or its difference to an earlier moment or to another run."""

    quantity: Quantity = Field(description="Column of the training metrics.")
    at: Moment = Field(
        "last", description="A step, or `last`: the number is the mean over the `window` steps that end there."
    )
    window: int = Field(10, gt=0, description="Number of steps that are averaged.")
    since: int | None = Field(
        None, gt=0, description="Subtract the mean over the window that ends at this step; null subtracts nothing."
    )
    against: str | None = Field(None, description="Id of a run whose number is subtracted; null subtracts nothing.")


class JumpsTogetherOptions(TestOptions):
    """Estimator `jumps_together`: steps between the fall of the accuracy and the largest rise of each quantity."""

    quantities: list[Quantity] = Field(
        default_factory=lambda: ["reward", "kl"], min_length=1, description="Training metrics that should jump."
    )
    drop: float = Field(
        0.05, gt=0, description="A fall is the first step after the peak at which the metric is lower by this."
    )
    window: int = Field(
        10, gt=0, description="Steps over which a rise is measured: their mean minus that of as many steps before."
    )


class AlarmLeadsOptions(TestOptions):
    """Estimator `alarm_leads`: steps from the label-free alarm to the accuracy's fall; negative for a late alarm."""

    drop: float = Field(
        0.05, gt=0, description="A fall is the first step after the peak at which the metric is lower by this."
    )


class AlarmRateOptions(RunOptions):
    """Estimator `alarm_rate`: share of the seeds of a run, or of several, in which the label-free alarm rings."""

    also: list[str] | None = Field(
        None, min_length=1, description="Further runs, whose seeds are counted with the run's."
    )


OPTIONS: dict[str, type[RunOptions]] = {
    "level": LevelOptions,
    "change": ChangeOptions,
    "difference": DifferenceOptions,
    "ratio": RatioOptions,
    "peak_then_fall": PeakThenFallOptions,
    "peak_step": PeakStepOptions,
    "falls_sooner": FallsSoonerOptions,
    "saturates": SaturatesOptions,
    "early_stopping": EarlyStoppingOptions,
    "gain_difference": GainDifferenceOptions,
    "suite_gain": SuiteGainOptions,
    "one_answer": OneAnswerOptions,
    "gap": GapOptions,
    "gap_trend": GapTrendOptions,
    "training": TrainingOptions,
    "jumps_together": JumpsTogetherOptions,
    "alarm_leads": AlarmLeadsOptions,
    "alarm_rate": AlarmRateOptions,
}
# Estimators that read the training metrics.
FROM_TRAINING = frozenset({"training", "jumps_together", "alarm_leads", "alarm_rate"})


class Claim(Strict):
    """A statement of the paper, its source, and how it is checked or why it is not."""

    statement: str = Field(min_length=1, description="The statement, short and in plain words.")
    version: Literal["v1", "v2", "ours"] = Field(
        description="Version of the paper that makes the statement; `ours`: this workflow."
    )
    where: str = Field(min_length=1, description="Section, figure or page of the paper.")
    estimator: Literal[
        "level", "change", "difference", "ratio", "peak_then_fall", "peak_step", "falls_sooner", "saturates",
        "early_stopping", "gain_difference", "suite_gain", "one_answer", "gap", "gap_trend", "training",
        "jumps_together", "alarm_leads", "alarm_rate",
    ] | None = Field(None,
        description="What is measured; null means nothing, for a reason given under `untested`.")  # fmt: skip
    options: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="Options of the estimator, below."
    )
    expect: Expect | None = Field(None, description="Where the numbers must lie.")
    max_width: float | None = Field(
        None,
        gt=0,
        description="Width of an interval, in the unit of the number, above which an undecided claim is reported as "
        "measured too coarsely. A clear result counts whatever its width.",
    )
    min_seeds: int = Field(1, ge=1, description="Minimum number of seeds; with fewer the claim is undecided.")
    untested: str | None = Field(
        None,
        min_length=1,
        description="Instead of an estimator: the reason why this configuration does not test the claim, which "
        "stays undecided.",
    )

    @field_validator("options")
    @classmethod
    def _options_of_the_estimator(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        estimator = info.data.get("estimator")
        if estimator is None:
            return value
        model = OPTIONS[estimator]
        try:
            return model.model_validate(value).model_dump(mode="json")
        except ValidationError as error:
            problem = first_problem(model, error)
            if not problem.path and problem.message.startswith("unknown key"):
                problem.message = problem.message.replace("unknown key", f"estimator {estimator} has no option", 1)
            raise ValueError(str(problem)) from None

    @model_validator(mode="after")
    def _is_tested_or_says_why_not(self) -> Claim:
        if self.estimator is None:
            if self.untested is None:
                raise ValueError("needs an estimator, or untested: with the reason why it is not tested")
            extra = [key for key in ("options", "expect", "max_width") if getattr(self, key)]
            if extra:
                raise ValueError(f"{extra[0]}: has no effect on an untested claim: remove it or name an estimator")
            return self
        if self.untested is not None:
            raise ValueError("has an estimator and untested: keep one of them")
        for key in ("expect", "max_width"):
            if getattr(self, key) is None:
                raise ValueError(f"{key} is missing: add it")
        return self
