"""The collapse alarm on tasks and seeds that its rule never saw: delay, misses and false alarms (docs/monitors.md).

The rule is that of `srt.config.alarm.AlarmRule`, chosen on sums (tests/metrics/alarm_runs.csv). Here a tiny base model
is trained on each of three families: sums with new seeds, products, and counting, which has few possible answers. On
each, the same runs, fixed before any of them was made:

    collapse   SRT at 5e-4 on a mix of which two thirds are beyond the base model, 4 seeds
    steady     SRT at 1e-4 on the third within its reach, 2 seeds
    truth      true answers at 3e-4 on the mix, 2 seeds

Whether a run collapses is decided afterwards by its true accuracy (`accuracy_fall`), not by its name. Runs of 60 steps
of 16 prompts x 16 rollouts in float32, one after the other; a call that is interrupted continues. Writes the metrics to
--out and prints the judgement; with --judge it only judges that file.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import pandas as pd  # noqa: E402

from srt.metrics.alarm import COLUMNS, Alarm, accuracy_fall, evaluate_alarm  # noqa: E402

OUT = ROOT / "tests/metrics/alarm_heldout.csv"
STEPS, SIZE = 60, 192
ARMS: dict[str, tuple[str, str, float, tuple[int, ...]]] = {  # reward, data, learning rate, seeds
    "collapse": ("majority", "mix", 5e-4, (11, 12, 13, 14)),
    "steady": ("majority", "reach", 1e-4, (11, 12)),
    "truth": ("ground_truth", "mix", 3e-4, (11, 12)),
}


@dataclass(frozen=True)
class Family:
    """A family of tasks. draw: an expression, of the base model's training or beyond it; ask: the question of one.

    solve: a worked solution whose steps are wrong with a probability; the answer is an integer.
    """

    draw: Callable[[random.Random, bool], str]
    ask: Callable[[str], str]
    solve: Callable[[str, random.Random, float], str]


def _off(value: int, rng: random.Random, corruption: float, errors: tuple[int, ...]) -> int:
    return value + rng.choice((-1, 1)) * rng.choice(errors) if rng.random() < corruption else value


def _sum(rng: random.Random, beyond: bool) -> str:
    terms = [rng.randint(100, 999) if beyond else rng.randint(1, 9) for _ in range(3 if beyond else rng.randint(2, 4))]
    return " ".join([str(terms[0]), *(f"{rng.choice('+-')} {term}" for term in terms[1:])])


def _product(rng: random.Random, beyond: bool) -> str:
    return (
        f"{rng.randint(100, 999)} * {rng.randint(11, 99)}" if beyond else f"{rng.randint(11, 99)} * {rng.randint(2, 9)}"
    )


def _solve_product(expression: str, rng: random.Random, corruption: float) -> str:
    """`23 * 7` -> `140 + 21 = 161; \\boxed{161}`: the tens, the ones, their sum."""
    left, right = map(int, expression.split(" * "))
    tens = _off(left // 10 * 10 * right, rng, corruption, (10, 10, 20, 100))
    ones = _off(left % 10 * right, rng, corruption, (1, 1, 2, 10))
    total = _off(tens + ones, rng, corruption, (1, 2, 10, 100))
    return f"{tens} + {ones} = {total}; \\boxed{{{total}}}"


def _count(rng: random.Random, beyond: bool) -> str:
    return " ".join(str(rng.randint(1, 3)) for _ in range(rng.randint(13, 15) if beyond else rng.randint(6, 9)))


def _solve_count(expression: str, rng: random.Random, corruption: float) -> str:
    """`1 3 1` -> `1 1; 3 1; 1 2; \\boxed{2}`: each digit with the number of 1s so far."""
    found, steps = 0, []
    for digit in expression.split():
        found = max(0, _off(found + (digit == "1"), rng, corruption / 3, (1,)))
        steps.append(f"{digit} {found}; ")
    return "".join(steps) + f"\\boxed{{{found}}}"


def families() -> dict[str, Family]:
    """The families by name."""
    from srt.models.tiny import QUESTION, trace

    return {
        "sums": Family(_sum, lambda text: f"{QUESTION}{text} =", trace),
        "products": Family(_product, lambda text: f"Multiply: {text} =", _solve_product),
        "counting": Family(_count, lambda text: f"Count the 1s: {text} =", _solve_count),
    }


def answer(family: Family, expression: str) -> str:
    """The true answer: that of the solution without an error."""
    return family.solve(expression, random.Random(0), 0.0).rpartition("\\boxed{")[2].removesuffix("}")


def make_base(family: Family, out: Path) -> None:
    """The smoke configuration's model, trained on this family."""
    import yaml

    from srt.models import tiny
    from srt.models.base_models import make

    def problems(_: Any, seed: int) -> Iterator[tuple[str, str]]:
        rng = random.Random(seed)
        while True:
            expression = family.draw(rng, False)
            yield family.ask(expression), expression

    entry = yaml.safe_load((ROOT / "config/smoke/models.yaml").read_text(encoding="utf-8"))["tiny"]
    with patch.object(tiny, "problems", problems), patch.object(tiny, "trace", family.solve):
        make("base", {**entry, "revision_of_code": 1}, out)


def write_tables(family: Family, folder: Path) -> None:
    """The training sets `mix` and `reach`, of distinct problems."""
    from srt.common.io import write_parquet

    for name, share in (("mix", 3), ("reach", 1)):
        rng, rows = random.Random(name), {}
        while len(rows) < SIZE:
            rows.setdefault(family.draw(rng, len(rows) % share != 0), None)
        table = [
            {"id": f"{name}-{i}", "problem": family.ask(text), "answer": answer(family, text), "task": "math"}
            for i, text in enumerate(rows)
        ]
        write_parquet(folder / f"{name}.parquet", pd.DataFrame(table), {"dataset": name})


def train(folder: Path, tables: Path, base: Path, arm: str, seed: int) -> pd.DataFrame:
    """The metrics of a run; a run that was interrupted continues."""
    from srt.common.io import read_parquet
    from srt.config.models import BOXED_SUFFIX
    from srt.config.train import Train
    from srt.training.run import run_segment
    from srt.training.segment import Segment
    from srt.training.training_set import read_training_set

    reward, data, rate, _ = ARMS[arm]
    metrics = folder / "metrics.parquet"
    if not metrics.exists():
        values = {
            "prompts_per_step": 16, "rollouts_per_prompt": 16, "max_prompt_tokens": 64, "max_new_tokens": 64,
            "learning_rate": rate, "dtype": "float32", "gradient_checkpointing": "none",
            "rollout_engine": "transformers", "micro_batch_tokens": 8192, "threads": 1,
        }  # fmt: skip
        spec = {
            "run": f"{arm}-s{seed}", "seed": seed, "reward": reward, "extractor": "boxed",
            "prompt_suffix": BOXED_SUFFIX, "train": Train.model_validate(values).hyperparameters(),
        }  # fmt: skip
        segment = Segment(
            spec=spec, base=base, start=0, stop=STEPS, work=folder / "work", model_out=folder / "model",
            state_out=folder / "state", metrics_out=metrics, save_every=20,
        )  # fmt: skip
        run_segment(segment, *read_training_set(tables / f"{data}.parquet", reward))
        for part in ("work", "model", "state"):
            shutil.rmtree(folder / part, ignore_errors=True)
    return read_parquet(metrics).to_pandas()


def record(folder: Path, out: Path) -> None:
    """Make all runs that are not made yet, and write their metrics."""
    parts = []
    for name, family in families().items():
        place = folder / name
        if not (place / "base/srt.json").exists():
            make_base(family, place / "base")
        write_tables(family, place)
        for arm, (*_, seeds) in ARMS.items():
            for seed in seeds:
                frame = train(place / f"{arm}-s{seed}", place, place / "base", arm, seed)
                kept = frame[["step", "true_accuracy", *COLUMNS[1:]]].map(lambda value: float(f"{value:.5g}"))
                parts.append(kept.assign(step=frame["step"].astype(int)).pipe(_named, name, arm, seed))
    pd.concat(parts).to_csv(out, index=False)


def _named(frame: pd.DataFrame, family: str, arm: str, seed: int) -> pd.DataFrame:
    for place, (column, value) in enumerate({"family": family, "arm": arm, "seed": seed}.items()):
        frame.insert(place, column, value)
    return frame


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per run: where the alarm rings and by which sign, where the accuracy falls, lead, false alarm, miss."""
    rows = []
    for (family, arm, seed), run in frame.groupby(["family", "arm", "seed"], sort=False):
        alarm = Alarm()
        for row in run.to_dict("records"):
            alarm.update(row)
        found = evaluate_alarm(run, accuracy_fall(run))
        rows.append(
            {
                "family": family, "arm": arm, "seed": seed, "alarm": found.alarm, "sign": alarm.sign,
                "fall": found.fall, "lead": found.lead, "false": found.false_alarm, "missed": found.missed,
            }
        )  # fmt: skip
    return pd.DataFrame(rows).astype({"alarm": "Int64", "fall": "Int64", "lead": "Int64"})


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """A row per family, and one for all: misses among runs that fell, false alarms among all that rang or held.

    Shares have the exact 95 % interval (Clopper and Pearson), the mean lead a t interval over runs.
    """
    from srt.claims.training_estimators import exact_interval
    from srt.metrics.intervals import Estimate, seeds_of

    rows = []
    for name, part in [*judged.groupby("family", sort=False), ("all", judged)]:
        fell, held = part[part["fall"].notna()], part[part["fall"].isna()]
        leads = part["lead"].dropna().to_numpy(float)
        lead = Estimate(float(leads.mean()), seeds_of(leads), ()) if len(leads) else None
        rows.append(
            {
                "family": name,
                "missed": _share(int(fell["missed"].sum()), len(fell), exact_interval),
                "false": _share(int(held["false"].sum()), len(held), exact_interval),
                "lead": "" if lead is None else _lead(lead, len(leads)),
            }
        )
    return pd.DataFrame(rows)


def to_markdown(judged: pd.DataFrame) -> str:
    """The tables of docs/monitors.md: the runs of each arm in one row, and the summary."""
    from srt.common.markup import markdown_table

    def cells(part: pd.DataFrame, column: str) -> str:
        return ", ".join("none" if pd.isna(value) else str(value) for value in part[column])

    rows = [
        [str(family), str(arm), *(cells(part, column) for column in ("alarm", "sign", "fall", "lead"))]
        for (family, arm), part in judged.groupby(["family", "arm"], sort=False)
    ]
    head = ["family", "runs", "false, where nothing fell", "missed, where it fell", "mean lead in steps"]
    counts = judged.groupby("family", sort=False).size()
    found = [
        [str(row.family), str(counts.get(row.family, len(judged))), row.false, row.missed, row.lead]
        for row in summary(judged).itertuples()
    ]
    return "\n\n".join(
        [markdown_table(["family", "arm", "alarm", "sign", "fall", "lead"], rows), markdown_table(head, found)]
    )


def _share(k: int, n: int, interval: Callable[[int, int], tuple[float, float]]) -> str:
    if not n:
        return "no run"
    lo, hi = interval(k, n)
    return f"{k} of {n} [{lo:.2f}, {hi:.2f}]"


def _lead(lead: Any, count: int) -> str:
    lo, hi = lead.interval()
    return f"{lead.value:+.1f} [{lo:+.1f}, {hi:+.1f}]" if count > 1 else f"{lead.value:+.1f} (one run)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("alarm_heldout"), help="base models and runs (default: here)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="metrics of all runs (CSV)")
    parser.add_argument("--judge", action="store_true", help="only judge the file")
    args = parser.parse_args()
    if not args.judge:
        record(args.folder.resolve(), args.out)
    judged = judge(pd.read_csv(args.out))
    print(to_markdown(judged))


if __name__ == "__main__":
    main()
