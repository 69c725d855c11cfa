"""The power of claims before anything is paid: could the configured seeds and problems decide them?

Simulates the numbers of a claim with the interval that judges it (`srt.metrics.intervals`), under assumptions on how
much seeds and problems differ. A claim on a margin (`within`) has a power: how often it is supported if the truth is
the middle of the margin. For a claim on a direction, what matters is how far the truth must lie beyond the threshold
for four of five repetitions to support it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from srt.claims.training_estimators import exact_interval
from srt.claims.verdict import SUPPORTED, digits, judge, region_of
from srt.cluster.workloads import expected_rows
from srt.common.markup import markdown_table
from srt.config.claims import Claim
from srt.config.root import Config
from srt.metrics.intervals import Estimate, crossed, t_quantile
from srt.metrics.peaks import widened

ENOUGH, NEVER = 0.8, 0.5  # power from which a claim can be decided, and below which it cannot
RUNS = 400
STEPS = frozenset({"peak_step", "falls_sooner", "jumps_together", "alarm_leads"})
SHARES = ("level", "one_answer")
_RIGHT = 0.15  # p (1 - p) of a response, mean over problems: the variance of one sample


@dataclass(frozen=True)
class Assumed:
    """What a simulation assumes of accuracies; standard deviations.

    seed: of a run's accuracy on a test set between seeds, whatever its problems. problem: of the true difference of two
    checkpoints between problems; a single vote adds 0.3. level: of the accuracy of one checkpoint between problems.
    """

    seed: float = 0.01
    problem: float = 0.1
    level: float = 0.35


@dataclass(frozen=True)
class Power:
    """What a claim's configured seeds and problems can tell.

    power: how often the claim is supported in the middle of its margin, None for a direction. needs: for a direction,
    how far beyond the threshold the truth must lie; for a margin, the half-width that 80 % power takes; in `unit`, of
    the number with the fewest problems.
    problems is 0 for numbers without problems.
    """

    claim: str
    rule: str
    seeds: int
    problems: int
    power: float | None
    needs: float | None
    unit: str

    @property
    def verdict(self) -> str:
        """In words: whether the claim can be decided."""
        if self.needs is None and self.power is None:
            return "over problems only"  # one seed: its problems may decide, for that run alone
        if self.power is None:
            return "if large enough"
        return "can be decided" if self.power >= ENOUGH else "uncertain" if self.power >= NEVER else "cannot be decided"


def powers(config: Config, assumed: Assumed | None = None) -> list[Power]:
    """The power of each claim that the configuration tests, with as many problems as the plan expects."""
    assumed = assumed or Assumed()

    def problems(dataset: str) -> int:
        return config.plan.rows.get(dataset) or expected_rows(config.datasets[dataset], config.plan.unknown_rows)

    return [
        _power(config, name, claim, problems, assumed)
        for name, claim in config.claims.items()
        if claim.expect is not None
    ]


def _power(config: Config, name: str, claim: Claim, problems: Callable[[str], int], assumed: Assumed) -> Power:
    options: dict[str, Any] = claim.options
    expect = claim.model_dump(exclude_none=True)["expect"]
    rule = region_of(expect)
    runs = [options["run"], *filter(None, [options.get("against")])]
    seeds = min(len(config.instances(run)) for run in runs)
    if claim.estimator == "alarm_rate":
        trials = sum(len(config.instances(run)) for run in [options["run"], *(options.get("also") or ())])
        return Power(name, rule, trials, 0, _rate_power(trials, expect), None, "")
    if options.get("at") == "base":
        seeds = 1  # one model, whatever the number of seeds
    if seeds < claim.min_seeds:
        return Power(name, rule, seeds, 0, 0.0, None, f"needs {claim.min_seeds} seeds")
    if claim.estimator == "training" or claim.estimator in STEPS:
        return _seeds_alone(name, rule, seeds, expect)
    sets = [options["datasets"]] if not options.get("each") else [[dataset] for dataset in options["datasets"]]
    every = [[problems(dataset) for dataset in some] for some in sets]
    sizes = min(every, key=sum)
    lo, hi = _estimate(config, claim, options, seeds, sizes, assumed).interval()
    if "within" not in expect:
        needs = -float(
            np.quantile(lo, 1 - ENOUGH)
        )  # supported if the lower end plus the effect is beyond the threshold
        impossible = claim.estimator in SHARES and needs > _room(expect)
        return Power(name, rule, seeds, sum(sizes), 0.0 if impossible else None, needs, "accuracy")
    a, b = expect["within"]
    if claim.estimator == "ratio":  # symmetric in the logarithm
        a, b = math.log(a), math.log(b)
    reach = np.maximum(-lo, hi)
    needs = float(np.quantile(reach, ENOUGH))
    # all numbers of a claim have to support it, as if they were independent
    ends = [_estimate(config, claim, options, seeds, some, assumed).interval() for some in every]
    alone = [np.mean(np.maximum(-low, high) <= (b - a) / 2) for low, high in ends]
    power = float(np.prod(alone)) ** (1 + len(options.get("also") or ()))
    if claim.estimator == "ratio":
        return Power(name, rule, seeds, sum(sizes), power, math.exp(needs), "times")
    return Power(name, rule, seeds, sum(sizes), power, needs, "accuracy")


def _estimate(
    config: Config, claim: Claim, options: dict[str, Any], seeds: int, sizes: list[int], assumed: Assumed
) -> Estimate:
    """Simulated estimates [RUNS] of a number whose truth is 0."""
    run = config.runs[options["run"]]
    metric = options.get("metric", "avg")
    paired = claim.estimator not in (*SHARES, "gap", "gap_trend")
    sides = 2 if options.get("against") or options.get("since") not in (None, "base", 0) else 1
    samples = config.sampling_settings(run.model).n if metric == "avg" else None
    problem = assumed.problem if paired else assumed.level
    single = math.sqrt((2 if paired else 1) * _RIGHT / samples) if samples else 0.3
    if claim.estimator == "ratio":  # relative to an accuracy of about 0.3, which the base model's half is of
        problem, single, scale = 0.8, single / 0.3, assumed.seed / 0.3
    else:
        scale = assumed.seed
    expect = claim.model_dump(exclude_none=True)["expect"]
    if claim.estimator in SHARES and "within" not in expect:  # shares near 0 and 1 differ less
        near = 2 * math.sqrt(_room(expect) / 2 * (1 - _room(expect) / 2))
        problem, single, scale = problem * near, single * near, scale * near
    peak = claim.estimator == "peak_then_fall" or "peak" in [options.get(key) for key in ("at", "against_at", "since")]
    return _simulated(seeds, tuple(sizes), scale * math.sqrt(sides), problem, single, peak)


def _room(expect: dict[str, Any]) -> float:
    """How far a share can lie beyond the threshold."""
    return 1 - float(expect["above"]) if "above" in expect else float(expect["below"])


@lru_cache(maxsize=256)
def _simulated(seeds: int, sizes: tuple[int, ...], seed: float, problem: float, single: float, peak: bool) -> Estimate:
    generator = np.random.default_rng(0)
    common = seed * generator.standard_normal((RUNS, seeds, 1))
    cells = {}
    for place, size in enumerate(sizes):
        by_problem = problem * generator.standard_normal((RUNS, 1, size))
        cells[str(place)] = common + by_problem + single * generator.standard_normal((RUNS, seeds, size))
    return widened(crossed(cells)) if peak else crossed(cells)


def _seeds_alone(name: str, rule: str, seeds: int, expect: dict[str, Any]) -> Power:
    """Numbers whose spread between seeds nobody knows before: effects and margins in its standard deviations."""
    if seeds == 1:
        return Power(name, rule, seeds, 0, None, None, "")
    values = np.random.default_rng(0).standard_normal((RUNS * 10, seeds))
    half = t_quantile(0.95, seeds - 1) * values.std(axis=1, ddof=1) / math.sqrt(seeds)
    mean = values.mean(axis=1)
    if "within" in expect:
        needed = float(np.quantile(np.abs(mean) + half, ENOUGH))
        a, b = expect["within"]
        return Power(name, rule, seeds, 0, None, (b - a) / 2 / needed, "sd between seeds at most")
    return Power(name, rule, seeds, 0, None, float(np.quantile(half - mean, ENOUGH)), "sd between seeds")


def _rate_power(trials: int, expect: dict[str, Any]) -> float:
    """How often the exact interval of a share supports the claim if it is true to 5 %."""
    rate = 0.05 if "below" in expect else 0.95
    chances = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]
    return sum(
        chance
        for k, chance in enumerate(chances)
        if judge(*exact_interval(k, trials), expect) == SUPPORTED
    )  # fmt: skip


def summary(found: list[Power]) -> str:
    """Which claims cannot be decided, in one sentence."""
    never = [each.claim for each in found if each.verdict == "cannot be decided"]
    named = f": {', '.join(never)}" if never else ""
    return f"{len(never)} of {len(found)} claims cannot be decided with these seeds and problems{named}"


def margins_to_markdown(found: list[Power]) -> str:
    """A table of the claims that have a power, those with the same numbers in one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for each in found:
        if each.power is not None:
            needs = "" if each.needs is None else f"{digits(each.needs)} {each.unit}"
            key = (each.rule, str(each.seeds), str(each.problems or ""), f"{each.power:.0%}", needs)
            rows.setdefault(key, []).append(f"`{each.claim}`")
    head = ["expected", "seeds", "problems", "power", "needs", "claims"]
    return markdown_table(head, [[*key, ", ".join(claims)] for key, claims in rows.items()]) + "\n"


def to_markdown(found: list[Power]) -> str:
    """A table of the claims' power."""
    rows = [
        [
            f"`{each.claim}`", each.rule, str(each.seeds), str(each.problems or ""),
            "" if each.power is None else f"{each.power:.0%}",
            each.unit if each.needs is None else f"{digits(each.needs)} {each.unit}", each.verdict,
        ]
        for each in found
    ]  # fmt: skip
    return markdown_table(["claim", "expected", "seeds", "problems", "power", "needs", "verdict"], rows) + "\n"
