"""The entries of `figures.yaml`: which runs a figure shows, and the options of each kind of figure.

Figures are drawn from these very options, so a mistake is found before the runs. matplotlib is not imported here, since
every job parses the rules.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from srt.config.base import Strict
from srt.config.explain import first_problem

Quantity = Literal[
    "accuracy", "reward", "kl", "entropy", "true_accuracy", "label_accuracy", "reward_accuracy", "majority_ratio",
    "parsed_rate", "truncated_rate", "response_length", "grad_norm",
]  # fmt: skip


class Options(Strict):
    """Options that every kind of figure has; the class variables say what its spec needs."""

    has_panels: ClassVar[bool] = True
    reads_training: ClassVar[bool] = False  # the runs' training metrics, for the collapse alarm or for curves of them

    names: dict[str, str] = Field(
        default_factory=dict, description="Names of data sets in the figure, as `{id: name}`."
    )


# avg@n, maj@n, share of responses with an answer, share of correct ones among those.
Metric = Literal["avg", "maj", "parsed", "correct_parsed"]
MAX_METRICS = 4


def _distinct(values: list[str]) -> list[str]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"'{value}' appears twice: remove one")
    return values


Metrics = Annotated[list[Metric], AfterValidator(_distinct)]


class Mark(Strict):
    """A statement of the paper in a figure: a line at a step, a span of steps, or a line at a height."""

    step: int | None = Field(None, ge=0, description="Step of a vertical line, or the first of a span.")
    to: int | None = Field(None, gt=0, description="Last step of the span; null draws a line.")
    value: float | None = Field(None, description="Height of a horizontal line.")
    times: float | None = Field(
        None,
        gt=0,
        description="Height of a horizontal line as a multiple of the first or last value of a series (`of`).",
    )
    of: Literal["start", "end"] = Field(
        "start", description="The value of the series that `times` multiplies: the first or the last."
    )
    series: str | None = Field(
        None, description="Label of the series that `times` refers to; null means the panel's first series."
    )
    label: str = Field(min_length=1, description="Text in the legend.")
    source: str | None = Field(
        None, min_length=1, description="Where the paper makes the statement; shown after the label."
    )
    panel: str | None = Field(None, description="Title of the panel; null means all panels.")
    dataset: str | None = Field(
        None, description="Data set in whose panels the mark is drawn; null means all data sets."
    )
    quantity: str | None = Field(
        None,
        description="Metric (kinds `curves`, `climb`) or quantity (`dynamics`) in whose panels the mark is drawn; "
        "null means all, or for a line at a height only the first.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Mark:
        given = [key for key in ("step", "value", "times") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of step, value and times: write one of them")
        if self.to is not None and (self.step is None or self.to <= self.step):
            raise ValueError("to: a span needs a smaller step: set step, or remove to")
        return self


class CurvesOptions(Options):
    """Options of kind `curves`: accuracy by training step."""

    reads_training = True

    validation_dataset: str | None = Field(
        None, description="Data set whose best step for the panel's first run gets a dashed line (early stopping)."
    )
    metrics: Metrics = Field(
        default_factory=list,
        max_length=MAX_METRICS,
        description="Rows of panels, one per metric; an empty list means the figure's `metric`. `parsed`: share of "
        "responses with an answer; `correct_parsed`: share of correct responses among those with an answer.",
    )
    marks: list[Mark] = Field(default_factory=list, description="Statements of the paper, drawn as lines and spans.")


class ClimbOptions(Options):
    """Options of kind `climb`: a chain of runs, each of which starts from a checkpoint of the one before."""

    reads_training = True

    metrics: Metrics = Field(
        default_factory=list,
        max_length=MAX_METRICS,
        description="Rows of panels, one per metric; an empty list means the figure's `metric`.",
    )
    marks: list[Mark] = Field(
        default_factory=list, description="Statements of the paper; steps are counted from the base model."
    )


class DynamicsOptions(Options):
    """Options of kind `dynamics`: accuracy, training reward and KL of the same runs."""

    reads_training = True

    quantities: list[Quantity] = Field(
        default_factory=lambda: ["accuracy", "reward", "kl"],
        min_length=1,
        description="Columns of panels, in this order.",
    )
    smooth: int | None = Field(
        None,
        ge=1,
        description="Odd window of the running mean in steps; null means 1 for up to 100 steps, then about a fiftieth "
        "of the steps.",
    )
    marks: list[Mark] = Field(default_factory=list, description="Statements of the paper, drawn as lines and spans.")

    @model_validator(mode="after")
    def _fits(self) -> DynamicsOptions:
        if len(set(self.quantities)) != len(self.quantities):
            raise ValueError("quantities: one appears twice: remove it")
        if self.smooth is not None and self.smooth % 2 == 0:
            raise ValueError(f"smooth: {self.smooth} is even: set {self.smooth + 1}")
        return self


class BarsOptions(Options):
    """Options of kind `bars`: base model against trained model."""

    base_label: str = Field("Base model", min_length=1, description="Label of the base model's bar.")
    step: int | None = Field(
        None, gt=0, description="Step of the checkpoints that are shown; null means the last step of each run."
    )
    from_base: bool = Field(
        False, description="true measures gains from the base model even if a run starts from another run's checkpoint."
    )


class GapOptions(Options):
    """Options of kind `gap`: accuracy against the consistency threshold."""

    step: float = Field(0.05, ge=0.001, le=0.5, description="Distance between two thresholds.")


class ExamplesOptions(Options):
    """Options of kind `examples`: responses to the same prompts before and after training."""

    has_panels = False

    rows: int = Field(3, ge=1, description="Number of prompts: those whose pass rate changed most.")
    problems: Annotated[list[str], AfterValidator(_distinct)] = Field(
        default_factory=list,
        description="Ids of the prompts, in this order, instead of `rows`; one that was not sampled is replaced by "
        "the one whose pass rate changed most.",
    )

    @model_validator(mode="after")
    def _rows_or_problems(self) -> ExamplesOptions:
        if self.problems and "rows" in self.model_fields_set:
            raise ValueError("rows: problems already names the prompts: remove one of the two")
        return self


class SchemeOptions(Options):
    """Options of kind `scheme`: where the reward comes from, as a diagram."""

    has_panels = False


OPTIONS: dict[str, type[Options]] = {
    "curves": CurvesOptions,
    "climb": ClimbOptions,
    "dynamics": DynamicsOptions,
    "bars": BarsOptions,
    "gap": GapOptions,
    "examples": ExamplesOptions,
    "scheme": SchemeOptions,
}


def parse_options(kind: str, model: type[Options], value: Any) -> Options:
    """The options of a kind, checked; raises ValueError with one sentence."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = first_problem(model, error)
        if not problem.path and problem.message.startswith("unknown key"):
            problem.message = problem.message.replace("unknown key", f"kind {kind} has no option", 1)
        raise ValueError(str(problem)) from None


class Panel(Strict):
    """One panel of a figure: the runs that are drawn together, with all their seeds."""

    title: str = Field("", description="Heading of the panel.")
    runs: list[str] = Field(
        min_length=1,
        description="Ids of runs, without the seed; for kind `climb` the id of a chain's last run, from which `init` "
        "leads to the others.",
    )
    datasets: list[str] | None = Field(
        None, min_length=1, description="Test sets of this panel; null means those of the figure."
    )
    suite: str | None = Field(
        None,
        description="Suite of this panel, such as one at another temperature; for kind `bars` only, where it may be a "
        "suite of the runs' `probe`; null means the suite of the figure.",
    )
    step: int | None = Field(
        None,
        gt=0,
        description="Step of the checkpoints in this panel, for kind `bars` only; null means the option `step`.",
    )


class Figure(Strict):
    """One figure; its id is a target (`snakemake fig2`)."""

    kind: Literal["curves", "dynamics", "climb", "bars", "gap", "examples", "scheme"] = Field(
        description="How the figure is drawn: `curves`: accuracy by step; `dynamics`: training metrics by "
        "step; `climb`: chains of runs from level to level; `bars`: base against trained model; `gap`: "
        "generation-verification gap; `examples`: table of responses; `scheme`: diagram of the method.",
    )
    title: str = Field(
        min_length=1, description="Short title; the caption in the report is `workflow/report/{id}.rst`."
    )
    aliases: list[str] = Field(
        default_factory=list,
        description="Further targets that make this figure, such as its number in the other version of the paper.",
    )
    metric: Literal["avg", "maj"] = Field("avg", description="avg@n or maj@n.")
    datasets: list[str] = Field(
        default_factory=list,
        description="Test sets that are drawn; for kind `climb` each run shows those that it is evaluated on.",
    )
    average: bool = Field(True, description="true draws the mean over the data sets, false one panel for each.")
    panels: list[Panel] = Field(
        default_factory=list, description="Panels and their runs; not for kinds `gap` and `scheme`."
    )
    model: str | None = Field(None, description="Id of the base model, for kind `gap` only.")
    suite: str | None = Field(
        None,
        description="Suite (or data set) whose samples are read; null means, for each run, those of its suites that "
        "have the data sets.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the kind, below.")

    @field_validator("options")
    @classmethod
    def _options_of_the_kind(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind")
        if kind is None:  # a missing or unknown kind is reported as a separate error
            return value
        return parse_options(kind, OPTIONS[kind], value).model_dump(mode="json", exclude_unset=True, exclude_none=True)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Figure:
        if self.kind == "scheme":
            for key in ("datasets", "panels", "suite", "model"):
                if getattr(self, key):
                    raise ValueError(f"{key}: kind scheme shows no runs: remove it")
            return self
        if not self.datasets:
            raise ValueError("datasets: is empty: name at least one test set")
        if self.kind == "gap":
            if self.suite is None:
                raise ValueError("kind gap needs suite: name the suite of the base model's samples")
            if self.model is None:
                raise ValueError("kind gap needs model: name the base model whose samples it shows")
            if self.panels:
                raise ValueError("panels: kind gap shows a base model and no runs: remove panels")
            return self
        if self.model is not None:
            raise ValueError(
                f"model: has no effect on kind {self.kind}, because its runs name their own models; remove this key"
            )
        if not self.panels:
            raise ValueError(f"kind {self.kind} needs panels: add at least one with its runs")
        if self.kind == "examples" and (len(self.panels) > 1 or len(self.panels[0].runs) > 1):
            raise ValueError("panels: kind examples shows one run: keep one panel with one run")
        if self.kind != "bars" and any(panel.suite for panel in self.panels):
            raise ValueError(f"panels: suite: kind {self.kind} has one suite for all panels: write it under the figure")
        if self.kind != "bars" and any(panel.step for panel in self.panels):
            raise ValueError(f"panels: step: kind {self.kind} shows no single checkpoint: remove step")
        titles = [panel.title for panel in self.panels]
        for mark in self.options.get("marks", []):
            if mark.get("panel") is not None and mark["panel"] not in titles:
                known = ", ".join(f"'{t}'" for t in titles)
                raise ValueError(f"options: marks: no panel is titled '{mark['panel']}' (known: {known})")
        return self
