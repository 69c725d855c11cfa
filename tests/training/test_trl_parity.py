"""One optimizer step of preset `trl` is TRL's: the real RLOOTrainer and our update on the same completions.

TRL runs in its own process; only its generation is replaced (benchmarks/peers.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import measure
import peers

pytestmark = [pytest.mark.trl, pytest.mark.slow]

TOLERANCE = 1e-5
# Of the change of the weights: Adam's first step is lr g / (|g| + 1e-8), which turns the rounding of a gradient that is
# near 0 into a part of lr. TRL differs from itself by 1e-5 between two batch sizes.
CHANGE_TOLERANCE = 3e-4
HYPER = {"beta": 0.5, "learning_rate": 1e-3, "grad_clip": 1e9}  # a noticeable KL, no clipping
# rows per micro-batch of TRL, tokens per pack of ours, changes to the hyperparameters
CASES: dict[str, tuple[int, int, dict[str, float]]] = {
    "one pack": (32, 8192, {}),
    "a group in several packs": (8, 100, {}),
    "temperature, more KL": (4, 400, {"temperature": 0.7, "beta": 2.0}),
    "gradient clipped": (16, 400, {"grad_clip": 0.01}),
    "no KL": (16, 400, {"beta": 0.0}),
}


def completions() -> peers.Recorded:
    """4 groups of 8: truncated and finished responses, one of only the end token, one group of equal rewards."""
    data = peers.record("tiny", 4, 8, (3, 20), 24, 1.0, seed=1)
    responses = list(data.responses)
    responses[5] = np.array([peers.EOS], dtype=np.int32)
    rewards = data.rewards.copy()
    rewards[8:16] = 1.0
    ended = [r[-1] == peers.EOS for r in responses]
    assert 0 < sum(ended) < len(responses) and 0 < rewards[:8].sum() < 8
    return replace(data, responses=responses, rewards=rewards)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Per case and side: gradients, weights and their change. Two processes run all cases."""
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("parity")
    models = peers.save_models(folder, "tiny")
    completions().save(folder / "data.npz")
    start = load_file(Path(models["policy"]) / "model.safetensors")
    found: dict[str, dict[str, Any]] = {case: {} for case in CASES}
    for name in ("trl", "ours"):
        with measure.Side(ROOT / "benchmarks" / "update.py", threads=1) as side:
            for case, (rows, budget, changes) in CASES.items():
                paths = {key: str(folder / f"{key}.safetensors") for key in ("gradients", "weights")}
                hyper = HYPER | changes
                side.load(name, data=str(folder / "data.npz"), batch=rows, train={"micro_batch_tokens": budget},
                          hyper=hyper, **paths, **models)  # fmt: skip
                side.step()
                found[case][name] = {key: load_file(path) for key, path in paths.items()}
                found[case][name]["change"] = {n: w - start[n] for n, w in found[case][name]["weights"].items()}
    yield found


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_weights_after_one_step(steps: dict[str, dict[str, Any]], case: str) -> None:
    ours, theirs = steps[case]["ours"], steps[case]["trl"]
    clipped = CASES[case][2].get("grad_clip", HYPER["grad_clip"]) < 1e6  # TRL shows its gradients after clipping
    for what, tolerance in (("gradients", TOLERANCE), ("weights", TOLERANCE), ("change", CHANGE_TOLERANCE)):
        if what != "gradients" or not clipped:
            total, worst, by = peers.difference(ours[what], theirs[what])
            assert total <= tolerance, (what, total, worst, by)


def test_the_cases_are_not_trivial(steps: dict[str, dict[str, Any]]) -> None:
    base = steps["one pack"]["trl"]
    assert all(float(g.abs().sum()) > 0 for g in base["gradients"].values())
    for other in ("temperature, more KL", "no KL", "gradient clipped"):
        for what in ("gradients", "change"):
            total, _, _ = peers.difference(steps[other]["trl"][what], base[what])
            assert total > 10 * CHANGE_TOLERANCE, (other, what, total)
