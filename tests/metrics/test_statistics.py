"""Bootstrap, pass@k and the gap curve against enumeration and hand-computed numbers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.metrics.statistics import bootstrap_mean, gap_curve, paired_difference, pass_at_k


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 8), st.data())
def test_pass_at_k_equals_enumeration(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(d) for d in draws) / len(draws), abs=1e-12)


def test_pass_at_k_arrays_and_errors():
    assert pass_at_k(np.array([4, 4]), np.array([0, 3]), 2) == pytest.approx([0.0, 1.0])
    assert pass_at_k(32, 1, 1) == pytest.approx(1 / 32)
    for n, c, k in [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)]:
        with pytest.raises(ValueError):
            pass_at_k(n, c, k)


def test_bootstrap_covers_and_repeats():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        values = rng.binomial(1, 0.4, size=80)
        mean, lo, hi = bootstrap_mean(values, n_boot=400, seed=trial)
        assert lo <= mean <= hi
        hits += lo <= 0.4 <= hi
    assert 180 <= hits <= 199  # 95 % nominal
    values = rng.random(50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_bootstrap_is_the_same_in_chunks(monkeypatch):
    values = np.random.default_rng(1).random(37)
    whole = bootstrap_mean(values, n_boot=300)
    monkeypatch.setattr("srt.metrics.statistics._CHUNK", 100)
    assert bootstrap_mean(values, n_boot=300) == whole


def test_bootstrap_edges():
    assert all(np.isnan(bootstrap_mean([])))
    assert bootstrap_mean([0.25]) == (0.25, 0.25, 0.25)
    for bad in ([np.nan], [[1.0]]):
        with pytest.raises(ValueError):
            bootstrap_mean(bad)
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean([1.0], level=1.0)


def test_paired_difference():
    a = np.linspace(0, 1, 30)
    assert paired_difference(a, a + 0.1) == pytest.approx((0.1, 0.1, 0.1))
    mean, lo, hi = paired_difference([0, 0, 1, 1], [1, 0, 1, 0])
    assert mean == 0 and lo < 0 < hi
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([1.0], [1.0, 0.0])


def test_gap_curve_by_hand():
    curve = gap_curve(
        [0.3, 1.0, 0.0, 0.75], [0.2, 1.0, 0.0, 0.6], [True, True, False, False], [0, 0.05 * 6, 0.75, 0.9, 1.1]
    )
    assert list(curve["kept"]) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert curve["pass_rate"][:4].tolist() == pytest.approx([0.45, 0.6, 0.8, 1.0])
    assert curve["majority_accuracy"][:4].tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1.0])
    assert curve.iloc[4][["pass_rate", "majority_accuracy"]].isna().all()
    assert len(gap_curve([1.0], [1.0], [True])) == 21
