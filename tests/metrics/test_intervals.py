"""Intervals and peaks by simulation, and the t quantile against tables."""

from __future__ import annotations

import numpy as np
import pytest

from srt.metrics.coverage import interval_table, peak_table, share_table, to_markdown
from srt.metrics.intervals import crossed, mean_interval, one_run_interval, t_quantile
from support import ROOT


@pytest.mark.parametrize(
    ("level", "dof", "quantile"),
    [
        (0.95, 1, 12.7062), (0.95, 2, 4.3027), (0.95, 9, 2.2622), (0.95, 29, 2.0452), (0.95, 1000, 1.9623),
        (0.99, 3, 5.8409), (0.5, 1, 1.0), (0.999999, 1, 636619.77), (0.95, 100_000, 1.9600),
    ],
)  # fmt: skip
def test_t_quantile_is_that_of_the_tables(level: float, dof: int, quantile: float) -> None:
    assert t_quantile(level, dof) == pytest.approx(quantile, rel=5e-5)


def test_intervals_cover_with_few_seeds_whatever_their_share_of_the_variance() -> None:
    table = interval_table(2000, (30,))
    assert set(table["seeds"]) == {3, 4, 5, 7, 10} and {0.0, 1.0} < set(table["share"])
    assert table["coverage"].min() >= 0.93 and 0.94 <= table["coverage"].mean() <= 0.97
    widths = table[table["share"] == 1].set_index("seeds")["width"]
    assert widths.is_monotonic_decreasing  # more seeds are worth their cost


def test_shares_are_covered_near_0_and_1_too() -> None:
    table = share_table(1000, (30,))
    assert table["mean"].min() < 0.04 and set(table["samples"]) == {1, 32} and set(table["seeds"]) == {1, 3, 5, 10}
    assert table["coverage"].min() >= 0.92 and 0.94 <= table["coverage"].mean() <= 0.975  # 0.93 but for 1,000 draws


def test_peaks_are_seldom_called_better_where_no_checkpoint_is() -> None:
    table = peak_table(800, (30,))
    assert set(table["seeds"]) == {1, 3} and set(table["loss"]) == {0.0, 0.03}
    assert table["peak"].max() <= 0.03 and table["peak"].mean() <= 0.02  # 0.025 but for 800 draws
    assert table["naive"].max() > 0.1  # what the halves are for


@pytest.mark.slow
def test_the_documented_tables_are_what_the_command_prints() -> None:
    assert to_markdown() in (ROOT / "docs/claims.md").read_text(encoding="utf-8")


def test_one_run_has_a_t_interval_over_problems() -> None:
    generator = np.random.default_rng(5)
    gains = generator.normal(0.05, 0.2, 40)
    half = t_quantile(0.95, 39) * gains.std(ddof=1) / np.sqrt(40)
    assert one_run_interval(gains, share=False) == pytest.approx(
        (gains.mean(), gains.mean() - half, gains.mean() + half)
    )
    covered = [one_run_interval(generator.binomial(1, 0.05, 40)) for _ in range(400)]
    assert np.mean([lo <= 0.05 <= hi for _, lo, hi in covered]) >= 0.93
    assert one_run_interval(np.full(9, 0.1), share=False) == pytest.approx((0.1, 0.1, 0.1))
    assert np.isnan(one_run_interval(np.array([]))).all() and np.isnan(one_run_interval(np.array([0.5]))[1:]).all()
    for wrong in (np.array([np.nan, 1.0]), np.ones((2, 3))):
        with pytest.raises(ValueError, match="one finite number per problem"):
            one_run_interval(wrong)


def test_shares_stay_within_0_and_1_and_hold_their_mean() -> None:
    generator = np.random.default_rng(0)
    for chance in (0.01, 0.5, 0.99):
        for _ in range(20):
            mean, lo, hi = mean_interval(
                [generator.binomial(1, chance, (3, 20)), generator.binomial(1, chance, (3, 9))]
            )
            assert 0 <= lo <= mean <= hi <= 1 and hi - lo > 0.01
    # Wilson's interval of 20 of 20, with the t quantile: 1/(1 + t²/20)
    assert mean_interval([np.ones((1, 20))]) == pytest.approx((1, 1 / (1 + t_quantile(0.95, 19) ** 2 / 20), 1))


def test_simulated_sets_at_once_are_those_one_by_one() -> None:
    values = np.random.default_rng(1).random((4, 3, 12))
    together = crossed({"t": values}, share=True).interval()
    for place, (lo, hi) in enumerate(zip(*together, strict=True)):
        assert crossed({"t": values[place]}, share=True).interval() == pytest.approx((lo, hi))


def test_one_problem_has_no_interval_and_equal_values_one_of_no_width() -> None:
    assert np.isnan(crossed({"t": np.array([[0.3]])}).interval()).all()
    assert crossed({"t": np.full((3, 8), 0.1)}).interval() == (pytest.approx(0.1), pytest.approx(0.1))
    lo, hi = crossed({"t": np.full((3, 8), 0.1)}).interval()
    assert lo == hi
