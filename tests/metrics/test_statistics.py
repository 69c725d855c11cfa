"""pass@k and the gap curve against enumeration and hand-computed numbers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.metrics.statistics import gap_curve, maj_at_k, pass_at_k


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


def test_gap_curve_by_hand():
    curve = gap_curve(
        [0.3, 1.0, 0.0, 0.75], [0.2, 1.0, 0.0, 0.6], [True, True, False, False], [0, 0.05 * 6, 0.75, 0.9, 1.1]
    )
    assert list(curve["kept"]) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert curve["pass_rate"][:4].tolist() == pytest.approx([0.45, 0.6, 0.8, 1.0])
    assert curve["majority_accuracy"][:4].tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1.0])
    assert curve.iloc[4][["pass_rate", "majority_accuracy"]].isna().all()
    assert len(gap_curve([1.0], [1.0], [True])) == 21


def test_maj_at_k_equals_enumeration():
    classes, correct = np.array([0, 0, 0, 1, 1, -1, 2]), np.array([False, True, True])
    for k in range(1, len(classes) + 1):
        chances = []
        for drawn in combinations(classes, k):
            votes = np.array([drawn.count(each) for each in range(3)])
            top = votes == votes.max()
            chances.append(correct[top].mean() if votes.max() else 0.0)
        assert maj_at_k(classes, correct, k, np.random.default_rng(1)) == pytest.approx(np.mean(chances), abs=0.08), k
    assert maj_at_k(np.array([-1, -1]), np.array([], bool), 1, np.random.default_rng(1)) == 0.0
    with pytest.raises(ValueError, match="k=3 with n=2"):
        maj_at_k(np.array([0, 0]), np.array([True]), 3, np.random.default_rng(1))
