"""A small synthetic world of real files for the tests of the figures.

`World` writes groups, samples, problems and training metrics in the project's schemas. Its models answer by drawing
32 answers per problem from known probabilities: ground truth rises, SRT rises and then collapses to the answer "1".
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from srt.common.io import write_parquet

SETS = {"aime24": (30, -2.2), "aime25": (30, -2.6), "amc23": (40, -0.6), "dapo_val": (60, -1.0)}  # problems, difficulty
GIBBERISH = "So we have \\( x = 3 \\), and then 因此 the the the _{{ 0 0 0 0 … \\boxed{1}"


def skill(method: str, progress: float) -> tuple[float, float]:
    """(gain in log-odds, share of collapsed answers) of a method at a training progress in [0, 1]."""
    if method == "ground_truth":
        return 1.6 * (1 - np.exp(-3.0 * progress)), 0.0
    collapse = 1 / (1 + np.exp(-(progress - 0.7) / 0.03)) if method == "srt" else 0.0
    level = {"srt": 1.5, "test_time": 0.9}.get(method, 1.3)
    return level * (1 - np.exp(-3.5 * progress)), collapse


class World:
    """Files under `root`; equal calls write equal bytes."""

    def __init__(self, root: Path, n: int = 32, sets: dict[str, tuple[int, float]] = SETS) -> None:
        self.root, self.n, self.sets = root, n, sets
        root.mkdir(parents=True, exist_ok=True)

    def answers(self, dataset: str, method: str, progress: float, seed: int) -> list[list[str | None]]:
        """n answers per problem: "42" is right, the others are usual mistakes, None has no box."""
        size, level = self.sets[dataset]
        names = list(self.sets)
        difficulty = level + 1.7 * np.random.default_rng(names.index(dataset)).standard_normal(size)
        rng = np.random.default_rng([seed, names.index(dataset), round(1000 * progress), len(method)])
        gain, collapse = skill(method, progress)
        gain += 0.12 * np.random.default_rng([seed, len(method)]).standard_normal()
        right = 1 / (1 + np.exp(-(difficulty + gain)))
        unparsed = 0.12 * np.exp(-4 * progress)
        mistakes = 0.8 ** np.arange(1, 15)
        rows = []
        for chance in right:
            usual = np.concatenate([[chance], (1 - chance) * mistakes / mistakes.sum()]) * (1 - collapse)
            probabilities = np.concatenate([(1 - unparsed) * usual, [(1 - unparsed) * collapse, unparsed]])
            drawn = rng.choice(len(probabilities), self.n, p=probabilities / probabilities.sum())
            labels: list[str | None] = ["42", *[str(10 + i) for i in range(14)], "1", None]
            rows.append([labels[i] for i in drawn])
        return rows

    def groups(self, name: str, method: str, progress: float, seed: int = 1, sets: tuple[str, ...] = ()) -> str:
        """Write NAME.groups.parquet with the data sets `sets` (default: all) and return its path."""
        rows = []
        for dataset in sets or tuple(self.sets):
            for index, answers in enumerate(self.answers(dataset, method, progress, seed)):
                votes = Counter(a for a in answers if a is not None)
                majority, count = votes.most_common(1)[0] if votes else (None, 0)
                parsed = sum(votes.values())
                rows.append(
                    {
                        "dataset": dataset,
                        "problem_id": f"{dataset}-{index:03d}",
                        "reference": "42",
                        "n": self.n,
                        "parsed": parsed,
                        "majority": majority,
                        "majority_count": count,
                        "consistency": count / parsed if parsed else 0.0,
                        "consistency_all": count / self.n,
                        "pass_rate": votes["42"] / self.n,
                        "majority_correct": majority == "42",
                        "distinct": len(votes),
                        "truncated": self.n - parsed,
                        "mean_length": 50.0,
                        "reasons": json.dumps({"ok": parsed}),
                    }
                )
        path = self.root / f"{name}.groups.parquet"
        write_parquet(path, pd.DataFrame(rows))
        return str(path)

    def metrics(self, name: str, method: str, steps: int, seed: int = 1) -> str:
        """Write NAME.metrics.parquet, one row per step, and return its path."""
        rng = np.random.default_rng([seed, steps])
        rows = []
        for step in range(1, steps + 1):
            gain, collapse = skill(method, step / steps)
            reward = (0.45 + 0.13 * gain) * (1 - collapse) + 0.99 * collapse + 0.03 * rng.standard_normal()
            kl = 0.004 * gain + 0.11 * collapse + 0.002 * abs(rng.standard_normal())
            entropy = 0.5 - 0.15 * gain + 1.4 * collapse + 0.02 * rng.standard_normal()
            rows.append(
                {
                    "step": step, "reward": min(reward, 1.0), "kl": kl, "entropy": entropy,
                    "majority_ratio": 0.45 + 0.13 * gain * (1 - collapse) + 0.5 * collapse,
                    "top_majority_share": 0.15 + 0.8 * collapse, "response_length": 500.0 - 50.0 * gain,
                }
            )  # fmt: skip
        path = self.root / f"{name}.metrics.parquet"
        write_parquet(path, pd.DataFrame(rows))
        return str(path)

    def series(
        self,
        method: str,
        label: str,
        *,
        seed: int = 1,
        steps: int = 1000,
        every: int = 100,
        prefix: str = "",
        last: bool = False,
    ) -> dict:
        """A run's series with its files: evaluated every `every` steps, or (`last`) at the start and the end only."""
        run = f"{prefix}{method}-s{seed}"
        base = self.groups("base", "base", 0.0)
        points = [{"step": 0, "groups": [base]}]
        for step in [steps] if last else range(every, steps + 1, every):
            points.append({"step": step, "groups": [self.groups(f"{run}.step-{step}", method, step / steps, seed)]})
        metrics = self.metrics(run, method, steps, seed)
        return {"run": run, "label": label, "method": method, "seed": seed, "points": points, "metrics": metrics}

    def samples(self, name: str, text: dict[str, list[str]]) -> str:
        """Write NAME.samples.parquet: `text` gives the n responses by problem id ("aime24-000": [...])."""
        rows = [
            {
                "dataset": problem_id.rsplit("-", 1)[0], "problem_id": problem_id, "sample": np.int32(index),
                "response": response, "token_ids": [1, 2], "logprobs": [-0.1, -0.2], "finish_reason": "stop", "seed": 0,
            }
            for problem_id, responses in text.items()
            for index, response in enumerate(responses)
        ]  # fmt: skip
        path = self.root / f"{name}.samples.parquet"
        write_parquet(path, pd.DataFrame(rows))
        return str(path)

    def problems(self, dataset: str) -> str:
        """Write DATASET.parquet, the problem table, and return its path."""
        ids = [f"{dataset}-{index:03d}" for index in range(self.sets[dataset][0])]
        text = "Let $a_{%d}$ be the number of lattice paths from the origin to $(3,3)$\nbelow the diagonal. Find it."
        rows = [{"id": name, "problem": text % i, "answer": "42", "source": dataset} for i, name in enumerate(ids)]
        path = self.root / f"{dataset}.parquet"
        write_parquet(path, pd.DataFrame(rows))
        return str(path)


def examples_spec(world: World, dataset: str = "aime24", rows: int = 3) -> dict:
    """The spec of Table 1: worked solutions before, gibberish with a constant box after."""
    ids = [f"{dataset}-{index:03d}" for index in range(world.sets[dataset][0])]
    solution = (
        "To count the paths we use the reflection principle. The number of all paths is \\binom{6}{3} = 20.\n\n"
        "Those that cross the diagonal are in bijection with paths to (2, 4), of which there are \\binom{6}{2} = 15. "
    )
    before, after = {}, {}
    for i, name in enumerate(ids):
        before[name] = [f"{solution * (1 + i % 4)}\nTherefore the answer is \\boxed{{{i}}}.", "second"]
        after[name] = [GIBBERISH * (1 + i % 5), "second"]
    sources = [
        {"label": "Before training", "samples": world.samples("before", before),
         "groups": world.groups("before", "base", 0.0, sets=(dataset,))},
        {"label": "After training", "samples": world.samples("after", after),
         "groups": world.groups("after", "srt", 1.0, sets=(dataset,))},
    ]  # fmt: skip
    options = {"samples": sources, "tables": [world.problems(dataset)], "rows": rows}
    return {"figure": "table1", "kind": "examples", "title": "Table 1", "datasets": [dataset], "options": options}


def spec_of(series: list[dict], datasets: list[str], **extra: object) -> dict:
    """A one-panel spec of curves."""
    panels = [{"title": "DAPO", "series": series}]
    return {"figure": "fig2", "kind": "curves", "datasets": datasets, "panels": panels, **extra}
