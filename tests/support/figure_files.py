"""Synthetic tables under the paths that figures of a configuration ask for, so that any of them can be drawn.

Ground truth rises; SRT rises and then collapses, on DAPO and at the higher learning rate; a chain of runs gets better
from level to level. Equal calls write equal bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from srt.common.io import write_parquet
from srt.config.lookups import lineage
from srt.config.root import Config

SIZE = 24


def state(config: Config, checkpoint: str) -> tuple[float, float, int]:
    """(gain in log-odds, share of collapsed answers, seed) of `base/{model}` or `{run}-s{seed}/step-{n}`."""
    if checkpoint.startswith("base/"):
        return 0.0, 0.0, 0
    instance, _, step = checkpoint.partition("/step-")
    name, run, seed = config.entry(instance)
    progress = int(step) / run.steps
    gain = 1.5 * (len(lineage(config.runs, name)) - 1) + 1.6 * (1 - np.exp(-3.0 * progress))
    gain -= 0.5 * (run.reward == "offline_labels") * progress
    hacked = run.method == "srt" and run.data in ("dapo", "mix", "big_math_medium") and run.train.learning_rate > 2e-7
    collapse = 1 / (1 + np.exp(-(progress - 0.6) / 0.03)) if hacked else 0.0
    return float(gain), float(collapse), seed


def groups(config: Config, checkpoint: str, suite: str, n: int) -> pd.DataFrame:
    """The groups of a checkpoint on a suite: the right answer is "42", a collapsed one "1"."""
    gain, collapse, seed = state(config, checkpoint)
    rows = []
    for dataset in config.members(suite):
        key = zlib.crc32(dataset.encode())
        level = float(getattr(config.datasets[dataset], "level", "") or 0)
        difficulty = -1.0 - 0.25 * level + 1.6 * np.random.default_rng(key).standard_normal(SIZE)
        rng = np.random.default_rng([key, zlib.crc32(checkpoint.encode())])
        shift = 0.15 * np.random.default_rng([seed, len(checkpoint.partition("/")[0])]).standard_normal()
        chance = (1 - collapse) / (1 + np.exp(-(difficulty + gain + (shift if gain else 0.0))))
        for index, p in enumerate(chance):
            parsed = int(rng.binomial(n, 1 - 0.1 * np.exp(-2 * gain)))
            right = int(rng.binomial(parsed, p))
            other = max(int(rng.binomial(parsed - right, 0.3 + 0.7 * collapse)), int(parsed > right))
            count = max(right, other)
            rows.append(
                {
                    "dataset": dataset, "problem_id": f"{dataset}-{index:03d}", "reference": "42", "n": n,
                    "parsed": parsed, "majority": "42" if right >= other else "1", "majority_count": count,
                    "consistency": count / parsed if parsed else 0.0, "consistency_all": count / n,
                    "pass_rate": right / n, "majority_correct": right >= other and right > 0,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def metrics(config: Config, instance: str) -> pd.DataFrame:
    """One row per step, with the columns that kind `dynamics` and the alarm read."""
    run = config.entry(instance)[1]
    rng = np.random.default_rng(zlib.crc32(instance.encode()))
    rows = []
    for step in range(1, run.steps + 1):
        gain, collapse, _ = state(config, f"{instance}/step-{step}")
        agreement = (0.45 + 0.1 * gain) * (1 - collapse) + 0.99 * collapse
        rows.append(
            {
                "step": step, "reward": min(agreement + 0.03 * rng.standard_normal(), 1.0),
                "kl": 0.004 * gain + 0.2 * collapse + 0.002 * abs(rng.standard_normal()),
                "entropy": 0.5 - 0.1 * gain + 1.4 * collapse, "majority_ratio": agreement,
                "top_majority_share": 0.15 + 0.8 * collapse, "response_length": 500.0 - 40.0 * gain,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def samples(config: Config, checkpoint: str, suite: str) -> pd.DataFrame:
    """One response per problem: a solution, or gibberish after a collapse."""
    collapsed = state(config, checkpoint)[1] > 0.5
    text = "and then the the the \\boxed{1}" if collapsed else "We count the paths and find \\boxed{42}."
    rows = [
        {"dataset": dataset, "problem_id": f"{dataset}-{index:03d}", "sample": np.int32(0), "response": text}
        for dataset in config.members(suite)
        for index in range(SIZE)
    ]
    return pd.DataFrame(rows)


def write_inputs(config: Config, paths: Iterable[str], n: int = 8) -> None:
    """Write each file that does not exist yet; `config.results` is its folder.

    `n` responses per problem, scaled where a model or a suite is sampled more or less often.
    """
    for path in paths:
        if Path(path).exists():
            continue
        name = path.removeprefix(f"{config.results}/")
        if name.startswith("data/"):
            ids = [f"{Path(name).stem}-{index:03d}" for index in range(SIZE)]
            write_parquet(path, pd.DataFrame({"id": ids, "problem": [f"How many paths has {i}?" for i in ids]}))
        elif name.startswith("runs/"):
            write_parquet(path, metrics(config, name.split("/")[1]))
        else:
            checkpoint, _, file = name.removeprefix("eval/").rpartition("/")
            suite, kind = file.split(".")[:2]
            model = name.split("/")[2] if name.startswith("eval/base/") else config.entry(name.split("/")[1])[1].model
            own = max(1, n * config.sampling_settings(model, suite).n // config.sampling.n)
            write_parquet(
                path, groups(config, checkpoint, suite, own) if kind == "groups" else samples(config, checkpoint, suite)
            )
