"""Files of a made-up run for pages of the rollout browser."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd

from srt.common import io
from srt.data.problem_table import make_table, write_problems


def write_run(folder: Path, problems: int, n: int, steps: tuple[int, ...], words: int = 0, evil: str = "") -> dict:
    """Files of a run on two data sets, `b` of two problems; returns the page's spec. Sample k answers k % 3.

    Each response holds `words` random words.
    """
    draw = random.Random(0)
    vocabulary = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz\\\\${}^0123456789", k=draw.randint(1, 12)))
        for _ in range(5000)
    ]
    sets = {"a": problems, "b": 2}
    for name, size in sets.items():
        rows = [
            {"id": f"{name}/{i}{evil}", "problem": f"Problem {i} of {name}? {evil}", "answer": "0", "source": "t",
             "subject": evil, "level": "1", "task": "math"}
            for i in range(size)
        ]  # fmt: skip
        write_problems(folder / f"{name}.parquet", make_table(rows), name)
    points = []
    for step in steps:
        samples, scores, groups = [], [], []
        for name, size in sets.items():
            for i in range(size):
                key = {"dataset": name, "problem_id": f"{name}/{i}{evil}"}
                for k in range(n):
                    answer = None if k == n - 1 else f"{k % 3}{evil if k % 3 == 2 else ''}"
                    text = " ".join(draw.choices(vocabulary, k=words))
                    response = f"step {step} sample {k} of {name}/{i} {evil}{text} \\boxed{{{k % 3}}}"
                    samples.append(
                        {**key, "sample": k, "response": response, "token_ids": [1] * (k + 1),
                         "finish_reason": "length" if k == 0 else "stop"}
                    )  # fmt: skip
                    class_id = -1 if answer is None else k % 3
                    reason = "ok" if answer is not None else "no box"
                    scores.append(
                        {
                            **key,
                            "sample": k,
                            "answer": answer,
                            "class_id": class_id,
                            "correct": class_id == 0,
                            "reason": reason,
                        }
                    )
                right = sum(s["correct"] for s in scores[-n:])
                groups.append(
                    {**key, "reference": "0", "n": n, "parsed": n - 1, "majority": "0", "majority_count": right,
                     "consistency_all": right / n, "pass_rate": right / n, "majority_correct": True, "truncated": 1,
                     "mean_length": (n + 1) / 2}
                )  # fmt: skip
        stem = folder / f"step-{step}"
        for kind, rows in (("samples", samples), ("scores", scores), ("groups", groups)):
            io.write_parquet(f"{stem}.{kind}.parquet", pd.DataFrame(rows))
        points.append({"step": step, "name": f"Step {step}", "stems": [str(stem)]})
    return {"run": f"run-s1{evil}", "label": f"SRT{evil}", "model": "tiny", "reward": "majority", "points": points}


def tables(folder: Path) -> list[Path]:
    return [folder / "a.parquet", folder / "b.parquet"]
