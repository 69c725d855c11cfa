"""Tables of made-up runs, whose true values are known, for the tests of claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.claims.check_claims import ESTIMATORS
from srt.claims.evidence import Evidence, View
from srt.claims.verdict import Number, decide
from srt.common.io import write_parquet
from srt.config.claims import OPTIONS

STEPS = [100, 200, 300, 400]
P = 60  # problems of a test set


def values(mean: float, seed: int = 0, size: int = P, spread: float = 0.2) -> np.ndarray:
    """Pass rates [P] of hard and easy problems, with exactly this mean."""
    raw = np.random.default_rng(seed).uniform(-spread, spread, size)
    return np.clip(mean + raw - raw.mean(), 0, 1)


class Tables:
    """Writes the tables of made-up runs and resolves claims on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, Any] = {}

    def run(
        self,
        name: str,
        accuracy: dict[str, list[np.ndarray]],
        metrics: list[dict[str, np.ndarray]] | None = None,
        steps: list[int] = STEPS,
        seeds: int = 1,
        **columns: list[np.ndarray],
    ) -> None:
        """Add a run: per data set, pass rates of each evaluated step (0 first), or [seeds][steps]; also `columns`."""
        instances = [f"{name}-s{seed + 1}" for seed in range(seeds)]
        points = [[f"base/{name}", *(f"{i}/step-{s}" for s in steps)] for i in instances]
        for seed, names in enumerate(points):
            for index, checkpoint in enumerate(names):
                parts = []
                for dataset, rates in accuracy.items():
                    rate = rates[seed][index] if isinstance(rates[0], list) else rates[index]
                    chosen = {k: v[index] for k, v in columns.items()}
                    parts.append(groups(dataset, rate, **chosen))
                write_parquet(self.folder / f"eval/{checkpoint}/tests.groups.parquet", pd.concat(parts))
        for seed, instance in enumerate(instances if metrics else []):
            columns_ = metrics[seed % len(metrics)]
            frame = pd.DataFrame({"step": np.arange(1, len(next(iter(columns_.values()))) + 1), **columns_})
            write_parquet(self.folder / f"runs/{instance}/metrics.parquet", frame)
        self.runs[name] = {
            "instances": instances, "starts": [f"base/{name}"] * seeds, "steps": steps,
            "suites": {"tests": list(accuracy)},
        }  # fmt: skip

    def spec(self, **claims: dict[str, Any]) -> dict[str, Any]:
        return {"results": str(self.folder), "runs": self.runs, "claims": claims}

    def numbers(self, estimator: str, **options: Any) -> list[Number]:
        checked = OPTIONS[estimator].model_validate(options).model_dump(mode="json")
        return ESTIMATORS[estimator](View(Evidence(self.spec())), checked)

    def verdict(self, estimator: str, expect: dict[str, Any], max_width: float = 1000, **options: Any) -> str:
        return decide(self.numbers(estimator, **options), expect, max_width).verdict


def groups(dataset: str, rate: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
    size = len(rate)
    base = {
        "dataset": dataset, "problem_id": [f"{dataset}-{i}" for i in range(size)], "n": 32, "parsed": 32,
        "majority": [str(i) for i in range(size)], "consistency": 0.5, "consistency_all": 0.5, "pass_rate": rate,
        "majority_correct": rate > 0.5,
    }  # fmt: skip
    return pd.DataFrame({**base, **columns})


def curve(*means: float, seed: int = 0, noise: float = 0.0) -> list[np.ndarray]:
    """One array of pass rates per step: the same problems are hard at each step, the noise differs."""
    shape = values(0.5, seed) - 0.5
    generator = np.random.default_rng(seed + 1)
    return [np.clip(m + shape + noise * generator.standard_normal(P), 0, 1) for m in means]
