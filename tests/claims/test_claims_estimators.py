"""Each estimator of claims on tables with a known truth: supported, refuted, undecided; intervals by brute force."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from srt.claims.accuracy_estimators import fall_index
from srt.claims.evidence import Undecided
from srt.claims.training_estimators import exact_interval, rise_index
from srt.claims.verdict import REFUTED, SUPPORTED, UNDECIDED, decide
from srt.common.io import write_parquet
from srt.metrics.intervals import draw_counts, mean_interval, t_quantile
from support.claims_tables import STEPS, P, Tables, curve, groups


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


# -- each estimator: supported, refuted, undecided ---------------------------------------------------------------------


def test_level_change_and_difference(tables: Tables) -> None:
    tables.run("up", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5, noise=0.02)})
    tables.run("down", {"t": curve(0.3, 0.3, 0.2, 0.2, 0.2, noise=0.02, seed=7)})
    tables.run("noisy", {"t": curve(0.3, 0.3, 0.3, 0.3, 0.32, noise=0.3)})
    up, down, noisy = ({"run": run, "datasets": ["t"]} for run in ("up", "down", "noisy"))
    assert tables.verdict("change", {"above": 0}, **up) == SUPPORTED
    assert tables.verdict("change", {"above": 0}, **down) == REFUTED
    assert tables.verdict("change", {"above": 0}, **noisy) == UNDECIDED
    assert tables.verdict("change", {"within": [-0.05, 0.05]}, **noisy) == UNDECIDED
    assert tables.verdict("change", {"within": [-0.05, 0.05]}, since=300, **up) == SUPPORTED
    assert tables.verdict("level", {"above": 0.4}, **up) == SUPPORTED
    assert tables.verdict("difference", {"above": 0}, against="down", **up) == SUPPORTED
    assert tables.verdict("difference", {"within": [-0.03, 0.03]}, against="down", at="peak", **up) == REFUTED
    tables.run("like up", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5, noise=0.021)})
    assert tables.verdict("difference", {"within": [-0.03, 0.03]}, against="like up", at="peak", **up) == SUPPORTED
    assert tables.verdict("difference", {"within": [-0.03, 0.03]}, against="up", at="peak", **up) == UNDECIDED  # [0, 0]
    assert (
        tables.verdict("difference", {"within": [-0.1, 0.1]}, against="up", at=300, against_at="last", **up)
        == SUPPORTED
    )
    # one number per further run, all of which must hold
    numbers = tables.numbers("difference", against="down", also=["noisy", "up"], **up)
    assert [n.name.split(" minus ")[1].split(",")[0] for n in numbers] == ["down", "noisy", "up"]
    assert numbers[2].estimate == 0 and numbers[0].estimate > numbers[1].estimate > 0
    assert tables.verdict("difference", {"above": 0}, against="down", also=["down"], **up) == SUPPORTED
    assert tables.verdict("difference", {"above": 0}, against="down", also=["up"], **up) != SUPPORTED


def test_peaks_within_the_same_steps(tables: Tables) -> None:
    tables.run("long", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.7)})
    nearly = [rates + 1e-4 * (np.arange(P) % 3 - 1) for rates in curve(0.3, 0.4, 0.5)]
    tables.run("short", {"t": nearly}, steps=[100, 200])
    tables.run("often", {"t": curve(0.3, 0.9, 0.4, 0.9, 0.5)}, steps=[50, 100, 150, 200])
    pair = {"run": "long", "datasets": ["t"], "at": "peak"}
    (free,) = tables.numbers("difference", against="short", **pair)
    (bound,) = tables.numbers("difference", against="short", until=200, **pair)
    assert free.estimate == pytest.approx(0.2) and bound.estimate == pytest.approx(0)
    assert bound.name.endswith("peak up to step 200")
    assert tables.verdict("difference", {"within": [-0.02, 0.02]}, against="short", until=200, **pair) == SUPPORTED
    # a run must not gain chances from steps at which only it is evaluated
    (fewer,) = tables.numbers("difference", against="often", until=200, **pair)
    assert fewer.estimate == pytest.approx(0)
    with pytest.raises(Undecided, match="run short stops at step 200, before step 300"):
        tables.numbers("difference", against="short", until=300, **pair)


def test_a_step_between_two_evaluated_ones_is_called_so(tables: Tables) -> None:
    tables.run("r", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5)})
    with pytest.raises(Undecided, match=r"run r is not evaluated at step 150, only at 100 and 200$"):
        tables.numbers("level", run="r", datasets=["t"], at=150)


def test_metrics_of_the_groups(tables: Tables) -> None:
    shares = [np.full(P, 0.1 * i) for i in range(5)]
    tables.run("r", {"t": curve(0.3, 0.4, 0.5, 0.5, 0.5)}, consistency_all=shares,
               parsed=[np.full(P, 16)] * 5, majority_correct=[np.arange(P) < 15] * 5)  # fmt: skip
    found = {
        metric: tables.numbers("level", run="r", datasets=["t"], metric=metric)[0]
        for metric in ("avg", "maj", "consistency", "parsed")
    }
    assert found["consistency"].estimate == pytest.approx(0.4) and found["parsed"].estimate == 0.5
    assert found["maj"].estimate == 0.25 and "maj@32" in found["maj"].name and "avg@32" in found["avg"].name


def test_a_number_for_each_test_set(tables: Tables) -> None:
    rises, falls = curve(0.3, 0.5, 0.5, 0.5, 0.5, noise=0.01), curve(0.5, 0.5, 0.4, 0.4, 0.3, noise=0.01)
    tables.run("r", {"good": rises, "bad": falls})
    both = {"run": "r", "datasets": ["good", "bad"]}
    assert tables.verdict("change", {"above": -0.05}, **both) == SUPPORTED
    numbers = tables.numbers("change", each=True, **both)
    assert [n.name.rpartition(" ")[2] for n in numbers] == ["good", "bad"]
    assert decide(numbers, {"above": -0.05}, 1).verdict == REFUTED


def test_ratio(tables: Tables) -> None:
    tables.run("r", {"t": curve(0.3, 0.45, 0.6, 0.5, 0.4)})
    tables.run("zero", {"t": [np.zeros(P)] * 5})
    r = {"run": "r", "datasets": ["t"]}
    assert tables.numbers("ratio", **r)[0].estimate == pytest.approx(2)
    assert tables.verdict("ratio", {"within": [1.5, 2.5]}, **r) == SUPPORTED
    assert tables.verdict("ratio", {"within": [1.5, 2.5]}, at="last", **r) == REFUTED
    assert tables.verdict("ratio", {"within": [1.9, 1.95]}, at="last", against="r", against_at=200, **r) == REFUTED
    with pytest.raises(Undecided, match="there is no ratio"):
        tables.numbers("ratio", run="zero", datasets=["t"])


def test_peak_then_fall_and_peak_step(tables: Tables) -> None:
    tables.run("collapse", {"t": curve(0.3, 0.5, 0.6, 0.3, 0.05, noise=0.02)})
    tables.run("steady", {"t": curve(0.3, 0.5, 0.6, 0.6, 0.61, noise=0.001)})
    tables.run("flat", {"t": curve(0.3, 0.3, 0.3, 0.3, 0.3, noise=0.2)})
    for run, verdict in [("collapse", SUPPORTED), ("steady", REFUTED)]:
        assert tables.verdict("peak_then_fall", {"above": 0.05}, run=run, datasets=["t"]) == verdict
    assert tables.verdict("peak_then_fall", {"above": 0}, run="flat", datasets=["t"]) != SUPPORTED
    steps = tables.numbers("peak_step", run="collapse", datasets=["t"])
    assert (steps[0].estimate, steps[0].lo, steps[0].hi) == (200, 150, 250)  # as far as the checkpoints tell
    assert tables.verdict("peak_step", {"within": [150, 250]}, run="collapse", datasets=["t"]) == SUPPORTED
    assert tables.verdict("peak_step", {"within": [251, 350]}, run="collapse", datasets=["t"]) == REFUTED
    assert tables.verdict("peak_step", {"within": [150, 250]}, run="flat", datasets=["t"]) == UNDECIDED


def test_peaks_on_several_test_sets(tables: Tables) -> None:
    """By hand: peaks at 200 (in one seed at 300) and 100; each lies within half the distance of its neighbours."""
    early, late, later = (curve(*rates, noise=0.02) for rates in (
        (0.3, 0.6, 0.3, 0.2, 0.1), (0.3, 0.4, 0.6, 0.4, 0.2), (0.3, 0.4, 0.4, 0.6, 0.2),
    ))  # fmt: skip
    tables.run("same", {"a": late, "b": late, "held": late})
    tables.run("apart", {"a": early, "held": late})
    same = {"run": "same", "datasets": ["a", "b"], "against_datasets": ["held"]}
    numbers = tables.numbers("peak_step", each=True, **same)
    assert [n.name for n in numbers] == [f"peak step of avg@32 of same on {name} minus that on held" for name in "ab"]
    assert [(n.estimate, n.lo, n.hi) for n in numbers] == [(0, -100, 100)] * 2
    apart = {"run": "apart", "datasets": ["a"], "against_datasets": ["held"]}
    (number,) = tables.numbers("peak_step", **apart)
    assert (number.estimate, number.lo, number.hi) == (-100, -200, 0)
    assert tables.verdict("peak_step", {"within": [-100, 100]}, **same) == SUPPORTED
    assert tables.verdict("peak_step", {"within": [50, 100]}, **apart) == REFUTED
    tables.run("seeds", {"a": [late, later], "held": [late, late]}, seeds=2)
    (number,) = tables.numbers("peak_step", run="seeds", datasets=["a"], against_datasets=["held"])
    # the seeds' differences are 0 and 100: their standard error is 50
    assert number.seeds == 2 and number.hi - number.estimate >= t_quantile(0.95, 1) * 50


def test_when_the_fall_comes(tables: Tables) -> None:
    rates = {
        "late": curve(0.3, 0.5, 0.6, 0.58, 0.2, noise=0.01), "early": curve(0.3, 0.6, 0.3, 0.25, 0.2, noise=0.01),
        "both": curve(0.3, 0.6, 0.6, 0.4, 0.2, noise=0.01), "rising": curve(0.3, 0.4, 0.5, 0.7, 0.2, noise=0.01),
    }  # fmt: skip
    for run, points in rates.items():
        tables.run(run, {"t": points})
    late = tables.numbers("peak_then_fall", run="late", datasets=["t"], after=300)
    assert [n.name.split(" of ")[0] for n in late] == ["rise to the peak", "fall from the peak", "fall"]
    at = {run: [float(np.mean(point)) for point in points] for run, points in rates.items()}
    assert late[2].estimate == pytest.approx((at["late"][3] - at["late"][4]) - (at["late"][2] - at["late"][3]))
    for run, after, verdict in [
        ("late", 300, SUPPORTED), ("early", 300, REFUTED), ("early", 100, SUPPORTED), ("both", 300, REFUTED),
        ("rising", 200, SUPPORTED),
    ]:  # fmt: skip
        assert tables.verdict("peak_then_fall", {"above": 0.05}, run=run, datasets=["t"], after=after) == verdict, run
    assert tables.verdict("peak_then_fall", {"above": 0.05}, run="early", datasets=["t"]) == SUPPORTED
    # the best value from that step on, not the value at that step
    third = tables.numbers("peak_then_fall", run="rising", datasets=["t"], after=200)[2]
    assert third.estimate == pytest.approx(at["rising"][3] - at["rising"][4])
    with pytest.raises(Undecided, match="nothing comes after it"):
        tables.numbers("peak_then_fall", run="late", datasets=["t"], after=400)
    with pytest.raises(Undecided, match="before step 500"):
        tables.numbers("peak_then_fall", run="late", datasets=["t"], after=500)


def test_saturates(tables: Tables) -> None:
    tables.run("quick", {"t": curve(0.3, 0.5, 0.51, 0.5, 0.5, noise=0.005)})
    tables.run("slow", {"t": curve(0.3, 0.4, 0.5, 0.6, 0.7, noise=0.005)})
    tables.run("noisy", {"t": curve(0.3, 0.5, 0.5, 0.5, 0.5, noise=0.15)})
    for run, verdict in [("quick", SUPPORTED), ("slow", REFUTED), ("noisy", UNDECIDED)]:
        assert tables.verdict("saturates", {"below": 0.05}, run=run, datasets=["t"], by=100) == verdict
    with pytest.raises(Undecided, match="nothing comes after"):
        tables.numbers("saturates", run="quick", datasets=["t"], by=400)


def test_early_stopping(tables: Tables) -> None:
    peak_at_200 = curve(0.3, 0.5, 0.6, 0.3, 0.05, noise=0.01)
    same = curve(0.2, 0.4, 0.5, 0.2, 0.1, seed=3, noise=0.01)
    late = curve(0.1, 0.2, 0.3, 0.5, 0.6, seed=5, noise=0.01)
    tables.run("r", {"held": peak_at_200, "same": same, "late": late})
    options = {"run": "r", "validation_dataset": "held"}
    assert tables.verdict("early_stopping", {"below": 0.05}, datasets=["same"], **options) == SUPPORTED
    assert tables.verdict("early_stopping", {"below": 0.05}, datasets=["same", "late"], **options) == REFUTED
    # how much better another step is: the next best has 0.4, and the last of the other set 0.6
    assert tables.numbers("early_stopping", datasets=["same"], **options)[0].estimate == pytest.approx(-0.1, abs=0.01)
    assert tables.numbers("early_stopping", datasets=["late"], **options)[0].estimate == pytest.approx(0.3, abs=0.01)


def test_gain_difference_of_other_problems_is_unpaired(tables: Tables) -> None:
    small, large = (
        [np.random.default_rng(i).random(20) for i in range(5)],
        [np.random.default_rng(i).random(50) for i in range(5)],
    )
    tables.run("small", {"s": small})
    tables.run("large", {"l": large})
    (got,) = tables.numbers("gain_difference", run="large", datasets=["l"], against="small", against_datasets=["s"])
    gains = [large[4] - large[0], small[4] - small[0]]
    half = math.sqrt(sum(t_quantile(0.95, len(g) - 1) ** 2 * g.var(ddof=1) / len(g) for g in gains))
    estimate = gains[0].mean() - gains[1].mean()
    assert (got.lo, got.hi) == pytest.approx((estimate - half, estimate + half), abs=1e-12)
    tables.run("much", {"l": curve(0.2, 0.6, 0.6, 0.6, 0.6, noise=0.01)})
    tables.run("little", {"s": curve(0.2, 0.2, 0.2, 0.2, 0.25, noise=0.01)})
    sides = {"run": "much", "datasets": ["l"], "against": "little", "against_datasets": ["s"]}
    assert tables.verdict("gain_difference", {"above": 0}, **sides) == SUPPORTED
    assert tables.verdict("gain_difference", {"below": 0}, **sides) == REFUTED


def test_falls_sooner_by_seed(tables: Tables) -> None:
    hard = [curve(0.3, 0.5, 0.1, 0.1, 0.1, noise=0.01), curve(0.3, 0.5, 0.5, 0.1, 0.1, noise=0.01)] * 3
    tables.run("hard", {"t": hard}, seeds=6)
    tables.run("easy", {"t": [curve(0.3, 0.4, 0.5, 0.5, 0.52)] * 6}, seeds=6)
    (got,) = tables.numbers("falls_sooner", run="hard", against="easy", datasets=["t"])
    assert got.estimate == 250 - 400  # the steady run's value is that of the last common step
    seeds = t_quantile(0.95, 5) * math.sqrt(np.var([-200, -100] * 3, ddof=1) / 6)
    # the fall is seen up to 100 steps after it has happened
    assert (got.lo, got.hi) == pytest.approx((-150 - seeds - 100, -150 + seeds))
    assert tables.verdict("falls_sooner", {"below": 0}, run="hard", against="easy", datasets=["t"]) == SUPPORTED
    assert tables.verdict("falls_sooner", {"below": 0}, run="easy", against="hard", datasets=["t"]) == REFUTED
    with pytest.raises(Undecided, match="neither"):
        tables.numbers("falls_sooner", run="easy", against="easy", datasets=["t"])


def test_fall_index_by_a_loop() -> None:
    generator = np.random.default_rng(0)
    for row in generator.random((200, 6)):
        best = int(np.argmax(row))
        later = [i for i in range(best + 1, 6) if row[i] < row[best] - 0.3]
        assert fall_index(row, 0.3) == (later[0] if later else -1)


def test_one_answer(tables: Tables) -> None:
    mixed = np.array([str(i % 30) for i in range(P)])
    collapsed = np.where(np.arange(P) < 57, "1", mixed)
    none = np.array([None] * P, dtype=object)
    tables.run("r", {"t": curve(0.3, 0.3, 0.3, 0.3, 0.3)}, majority=[mixed, mixed, none, mixed, collapsed])
    r = {"run": "r", "datasets": ["t"]}
    (got,) = tables.numbers("one_answer", **r)
    assert got.estimate == 57 / P and got.lo < got.estimate < got.hi <= 1
    assert tables.verdict("one_answer", {"above": 0.8}, **r) == SUPPORTED
    assert tables.verdict("one_answer", {"above": 0.8}, at="base", **r) == REFUTED
    assert tables.verdict("one_answer", {"above": 0.95}, **r) == UNDECIDED
    assert tables.numbers("one_answer", at=200, **r)[0].estimate == 0  # with no parsed answer there is no agreement


def test_one_answer_pools_test_sets_by_brute_force(tables: Tables) -> None:
    generator = np.random.default_rng(5)
    answers = {d: generator.choice(["1", "2", "3"], size, p=[0.6, 0.3, 0.1]) for d, size in {"a": 20, "b": 9}.items()}
    for dataset, said in answers.items():
        tables.run(dataset, {dataset: [np.full(len(said), 0.5)] * 5}, majority=[said] * 5)
    both = pd.concat([groups(d, np.full(len(a), 0.5), majority=a) for d, a in answers.items()])
    tables.run("r", {"a": [np.full(20, 0.5)] * 5, "b": [np.full(9, 0.5)] * 5})
    for name in ("base/r", *(f"r-s1/step-{s}" for s in STEPS)):
        write_parquet(tables.folder / f"eval/{name}/tests.groups.parquet", both)
    (got,) = tables.numbers("one_answer", run="r", datasets=["a", "b"])
    common = pd.Series(np.concatenate(list(answers.values()))).value_counts().index[0]
    agree = np.concatenate(list(answers.values())) == common
    assert got.estimate == agree.mean() and (got.lo, got.hi) == pytest.approx(mean_interval([agree[None] * 1.0])[1:])


def test_one_answer_among_many_rare_ones_lies_in_its_interval(tables: Tables) -> None:
    rare = np.array([str(i // 2) for i in range(P)])  # every answer occurs twice; a resample has a larger count
    tables.run("r", {"t": curve(0.3, 0.3, 0.3, 0.3, 0.3)}, majority=[rare] * 5)
    (got,) = tables.numbers("one_answer", run="r", datasets=["t"])
    assert got.estimate == 2 / P and got.lo <= got.estimate <= got.hi


def test_gap_and_its_trend(tables: Tables) -> None:
    consistency = np.linspace(0.1, 1, P)
    rates = consistency**2
    right = consistency > 0.4
    columns = {"consistency": [consistency] * 5, "majority_correct": [right] * 5}
    tables.run("good", {"t": [rates] * 5}, **columns)
    tables.run("bad", {"t": [rates] * 5}, consistency=[consistency] * 5, majority_correct=[rates > 2] * 5)
    good, bad = ({"run": run, "datasets": ["t"]} for run in ("good", "bad"))
    (got,) = tables.numbers("gap", **good)
    assert got.estimate == pytest.approx(right.mean() - rates.mean()) and got.problems == P
    keep = consistency >= 0.5 - 1e-9
    (high,) = tables.numbers("gap", threshold=0.5, **good)
    assert high.estimate == pytest.approx((right - rates)[keep].mean()) and high.problems == keep.sum()
    assert tables.verdict("gap", {"above": 0}, **good) == SUPPORTED
    assert tables.verdict("gap", {"above": 0}, **bad) == REFUTED
    (trend,) = tables.numbers("gap_trend", curve="majority", low=0, high=0.5, **good)
    assert trend.estimate == pytest.approx(1 - right.mean())
    assert tables.verdict("gap_trend", {"above": 0}, curve="majority", low=0, high=0.5, **good) == SUPPORTED
    assert tables.verdict("gap_trend", {"above": 0}, curve="gap", low=0, high=0.5, **bad) == REFUTED
    tables.run("low", {"t": [rates] * 5})  # a consistency of 0.5 everywhere
    with pytest.raises(Undecided, match="reaches the consistency"):
        tables.numbers("gap", threshold=0.9, run="low", datasets=["t"])


def ramp(jump: int, size: float = 0.5, length: int = 400, seed: int = 0) -> np.ndarray:
    """A metric that jumps after the step `jump`, with small noise."""
    steps = np.arange(1, length + 1)
    return (
        0.2
        + size / (1 + np.exp(np.clip(-(steps - jump) / 3, None, 50)))
        + 0.01 * np.random.default_rng(seed).standard_normal(length)
    )


def test_training(tables: Tables) -> None:
    flat = curve(0.3, 0.3, 0.3, 0.3, 0.3)
    tables.run("jumps", {"t": flat}, [{"reward": ramp(200)}])
    tables.run("still", {"t": flat}, [{"reward": ramp(9999)}])
    (got,) = tables.numbers("training", run="jumps", quantity="reward", window=20)
    assert got.estimate == pytest.approx(ramp(200)[-20:].mean()) and got.lo < got.estimate < got.hi
    window = draw_counts(20, 20_011).astype(float) @ ramp(200)[-20:] / 20
    assert (got.lo, got.hi) == pytest.approx(tuple(np.quantile(window, [0.025, 0.975])), abs=1e-4)
    # with several seeds, the interval is over seeds, paired where both runs have the same
    shifted = [ramp(200, seed=seed) + 0.1 * seed for seed in range(3)]
    tables.run("three", {"t": [flat] * 3}, [{"reward": values} for values in shifted], seeds=3)
    tables.run("as three", {"t": [flat] * 3}, [{"reward": values - 0.2} for values in shifted], seeds=3)
    (over,) = tables.numbers("training", run="three", quantity="reward", window=20)
    means = np.array([ramp(200, seed=seed)[-20:].mean() + 0.1 * seed for seed in range(3)])
    half = t_quantile(0.95, 2) * means.std(ddof=1) / math.sqrt(3)
    assert (over.lo, over.hi, over.seeds) == pytest.approx((means.mean() - half, means.mean() + half, 3))
    (paired,) = tables.numbers("training", run="three", against="as three", quantity="reward", window=20)
    assert paired.estimate == pytest.approx(0.2) and paired.hi - paired.lo < 1e-9
    rise = {"quantity": "reward", "since": 100, "window": 20}
    assert tables.verdict("training", {"above": 0.1}, run="jumps", **rise) == SUPPORTED
    assert tables.verdict("training", {"above": 0.1}, run="still", **rise) == REFUTED
    assert tables.verdict("training", {"above": 0.5}, run="jumps", **rise) == UNDECIDED
    assert tables.verdict("training", {"below": 0}, run="still", against="jumps", quantity="reward") == SUPPORTED
    for wrong, match in [
        ({"at": 500}, "before step 500"),
        ({"window": 401}, "fewer than"),
        ({"quantity": "kl"}, "no 'kl'"),
    ]:
        with pytest.raises(Undecided, match=match):
            tables.numbers("training", **{"run": "jumps", "quantity": "reward", **wrong})


def test_jumps_together(tables: Tables) -> None:
    falls = {"t": curve(0.3, 0.5, 0.55, 0.1, 0.05, noise=0.01)}
    options = {"datasets": ["t"], "quantities": ["reward", "kl"], "window": 10}
    tables.run("together", falls, [{"reward": ramp(250), "kl": ramp(260, seed=1)}])
    tables.run("apart", falls, [{"reward": ramp(250), "kl": ramp(60, seed=1)}])
    tables.run("steady", {"t": curve(0.3, 0.5, 0.5, 0.5, 0.5)}, [{"reward": ramp(250), "kl": ramp(250)}])
    near, far = tables.numbers("jumps_together", run="apart", **options)
    # the fall lies in steps 201 to 300: a jump in that range has distance 0
    assert near.estimate == 0 and far.estimate == pytest.approx(201 - 60, abs=10)
    assert tables.verdict("jumps_together", {"below": 50}, run="together", **options) == SUPPORTED
    assert tables.verdict("jumps_together", {"below": 50}, run="apart", **options) == REFUTED
    with pytest.raises(Undecided, match="does not fall"):
        tables.numbers("jumps_together", run="steady", **options)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, P)
    low = np.full(P, 0.445) + noise - noise.mean()  # lower than 0.5 by 0.055, give or take 0.02
    rates = [np.full(P, 0.3), np.full(P, 0.5), np.full(P, 0.5), low, low]
    tables.run("unsure", {"t": rates}, [{"reward": ramp(250), "kl": ramp(250)}])
    with pytest.raises(Undecided, match=r"in only .*% of replicates"):
        tables.numbers("jumps_together", run="unsure", **options)


def monitors(rings_at: int | None, length: int = 400) -> dict[str, np.ndarray]:
    """Metrics whose only sign of a collapse is one answer for all prompts from a step on."""
    steps = np.arange(1, length + 1)
    late = steps >= (rings_at or length + 1) - 1  # it must hold for two steps
    return {"reward": 0.3 + 0.4 * late, "majority_ratio": 0.3 + 0.4 * late, "kl": 0.01 * np.ones(length),
            "top_majority_share": 0.1 + 0.8 * late, "response_length": 500.0 * np.ones(length)}  # fmt: skip


def test_alarm_leads(tables: Tables) -> None:
    falls = [curve(0.3, 0.5, 0.55, 0.1, 0.05, noise=0.01)] * 2
    options = {"datasets": ["t"]}
    tables.run("early", {"t": falls * 2}, [monitors(150), monitors(160), monitors(170), monitors(160)], seeds=4)
    tables.run("late", {"t": falls * 2}, [monitors(390), monitors(380), monitors(370), monitors(380)], seeds=4)
    tables.run("silent", {"t": falls}, [monitors(150), monitors(None)], seeds=2)
    (got,) = tables.numbers("alarm_leads", run="early", **options)
    seeds = t_quantile(0.95, 3) * math.sqrt(np.var([51, 41, 31, 41], ddof=1) / 4)
    # the fall is after step 200 and seen at step 300
    assert (got.estimate, got.lo, got.hi) == pytest.approx((41, 41 - seeds, 41 + seeds + 100))
    assert tables.verdict("alarm_leads", {"above": 0}, run="early", **options) == SUPPORTED
    assert tables.verdict("alarm_leads", {"above": 0}, run="late", **options) == REFUTED
    (silent,) = tables.numbers("alarm_leads", run="silent", **options)
    assert silent.estimate == silent.lo == -np.inf and silent.hi == 201 - 150
    assert tables.verdict("alarm_leads", {"above": 0}, run="silent", **options) == UNDECIDED
    tables.run("steady", {"t": curve(0.3, 0.5, 0.5, 0.5, 0.5)}, [monitors(150)])
    with pytest.raises(Undecided, match="does not fall"):
        tables.numbers("alarm_leads", run="steady", **options)


def test_alarm_rate(tables: Tables) -> None:
    flat = curve(0.3, 0.3, 0.3, 0.3, 0.3)
    tables.run("one", {"t": flat}, [monitors(None)])
    tables.run("quiet", {"t": [flat] * 20}, [monitors(None)], seeds=20)
    tables.run("loud", {"t": [flat] * 6}, [monitors(100)], seeds=6)
    tables.run("old", {"t": flat}, [{"reward": np.ones(400)}])
    for run, verdict in [("quiet", SUPPORTED), ("loud", REFUTED), ("one", UNDECIDED)]:
        assert tables.verdict("alarm_rate", {"below": 0.2}, run=run) == verdict
    with pytest.raises(Undecided, match="no 'majority_ratio'"):
        tables.numbers("alarm_rate", run="old")
    # the seeds of several runs are pooled: one of 22
    tables.run("rings", {"t": flat}, [monitors(100)])
    (got,) = tables.numbers("alarm_rate", run="one", also=["quiet", "rings"])
    assert (got.estimate, got.seeds) == (1 / 22, 22) and (got.lo, got.hi) == exact_interval(1, 22)
    assert got.name == "share of seeds of one and 2 more runs in which the alarm rings"
    assert tables.verdict("alarm_rate", {"below": 0.25}, run="one", also=["quiet", "rings"]) == SUPPORTED


def test_exact_interval_covers() -> None:
    for p in (0.05, 0.3, 0.5):
        for n in (1, 5, 12):
            ends = [exact_interval(k, n) for k in range(n + 1)]
            chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
            assert sum(c for c, (lo, hi) in zip(chance, ends, strict=True) if lo <= p <= hi) >= 0.95
    assert exact_interval(2, 10) == pytest.approx((0.02521, 0.55610), abs=1e-5)  # a known value


def test_rise_index_by_a_loop() -> None:
    generator = np.random.default_rng(1)
    for row in generator.random((50, 30)):
        rises = {i: row[i : i + 4].mean() - row[i - 4 : i].mean() for i in range(4, 27)}
        assert rise_index(row, 4) == max(rises, key=lambda i: (round(rises[i], 12), -i))
