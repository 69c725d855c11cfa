"""Does the trainer learn? 30 RL steps with ground-truth reward on the smoke configuration's tiny model, 3 seeds.

Accuracy is avg@32 on 64 held-out problems, before and after, sampled and graded as the workflow does (the library calls
behind scripts/train.py, sample.py and score.py). Prints the gain of each seed in points and their mean last; writes
benchmarks/results/learning.json. Exit code 1 if the mean gain is below --least. Same seeds, same bytes: a CPU run's
accuracies repeat exactly on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

TRAIN, TEST = "sums3", "sums3_test"  # data sets of config/smoke: sums of three one-digit numbers
CHANGES = {"rollouts_per_prompt": 16, "learning_rate": 2.0e-4}  # against the smoke configuration's train_defaults


def configuration() -> dict[str, Any]:
    """The smoke configuration's model, data sets, sampling and hyperparameters, from its files."""
    import yaml

    from srt.config.models import BOXED_SUFFIX
    from srt.config.train import Train

    read = {p: yaml.safe_load((ROOT / p).read_text(encoding="utf-8")) for p in (
        "config/smoke.yaml", "config/smoke/models.yaml", "config/smoke/datasets.yaml")}  # fmt: skip
    smoke, models, datasets = read.values()
    train = Train.model_validate({**smoke["train_defaults"], **CHANGES}).hyperparameters()
    return {
        "model": models["tiny"],
        "data": {name: datasets[name] for name in (TRAIN, TEST)},
        "sampling": {"top_p": 1.0, "prompt_suffix": BOXED_SUFFIX, **smoke["sampling"]},
        "run": {"reward": "ground_truth", "extractor": "boxed", "prompt_suffix": BOXED_SUFFIX, "train": train},
    }


def problem_tables(config: dict[str, Any], folder: Path) -> dict[str, Path]:
    """The problem tables of training and test."""
    from srt.config.datasets import parse_dataset
    from srt.data import load, write_problems

    paths = {}
    for name, entry in config["data"].items():
        paths[name] = folder / f"{name}.parquet"
        write_problems(paths[name], load(parse_dataset(name, entry), name), name)
    return paths


def evaluate(config: dict[str, Any], checkpoint: Path, problems: Path, folder: Path) -> dict[str, float]:
    """avg@n and maj@n of a checkpoint on a problem table, in percent."""
    from srt.answers import Grader
    from srt.common.io import read_parquet
    from srt.evaluation.sampling import sample
    from srt.evaluation.scoring import score_file

    folder.mkdir(parents=True)
    samples, scores, groups = (folder / f"{kind}.parquet" for kind in ("samples", "scores", "groups"))
    sample(config["sampling"], checkpoint, [problems], samples)
    with Grader(preset="clean", extractor="boxed") as grader:
        score_file(samples, [problems], scores, groups, grader)
    table = read_parquet(groups, ["pass_rate", "majority_correct"]).to_pandas()
    return {"avg": 100 * float(table["pass_rate"].mean()), "maj": 100 * float(table["majority_correct"].mean())}


def train(config: dict[str, Any], base: Path, problems: Path, seed: int, steps: int, folder: Path) -> Path:
    """Train one run from the base model; returns its last checkpoint."""
    from srt.training.run import run_segment
    from srt.training.segment import Segment
    from srt.training.training_set import read_training_set

    spec = {"run": f"learning-s{seed}", "seed": seed, **config["run"]}
    data, truth = read_training_set(problems, spec["reward"])
    run_segment(
        Segment(
            spec=spec, base=base, start=0, stop=steps, work=folder / "work", model_out=folder / "model",
            state_out=folder / "state", metrics_out=folder / "metrics.parquet", save_every=steps,
        ),
        data, truth,
    )  # fmt: skip
    return folder / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--base", type=Path, help="base model (default: results/smoke/models/tiny, made if missing)")
    parser.add_argument("--least", type=float, default=10.0, help="points that the mean gain must reach (default 10)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/learning.json")
    args = parser.parse_args()

    from measure import machine

    from srt.models.base_models import make
    from srt.models.checkpoint import fingerprint

    config = configuration()
    base = args.base or ROOT / "results/smoke/models/tiny"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if args.base is None and not (base / "srt.json").exists():
            base = folder / "base"
            make("tiny", config["model"], base)
        tables = problem_tables(config, folder)
        before = evaluate(config, base, tables[TEST], folder / "base-eval")
        runs = []
        for seed in args.seeds:
            began = time.monotonic()
            model = train(config, base, tables[TRAIN], seed, args.steps, folder / f"s{seed}")
            seconds = time.monotonic() - began
            after = evaluate(config, model, tables[TEST], folder / f"s{seed}-eval")
            gain = {kind: after[kind] - before[kind] for kind in after}
            runs.append({"seed": seed, "after": rounded(after), "gain": rounded(gain), "train_s": round(seconds, 1)})
            print(f"seed {seed}: avg@32 {before['avg']:.1f} -> {after['avg']:.1f}, gain {gain['avg']:.1f}", flush=True)
        mean = sum(run["gain"]["avg"] for run in runs) / len(runs)
        result = {
            "steps": args.steps, "before": rounded(before), "runs": runs, "gain": round(mean, 2),
            "base": fingerprint(base), "train": TRAIN, "test": TEST, "hyperparameters": config["run"]["train"],
            "machine": machine(config["run"]["train"]["threads"], "cpu"),
        }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"gain: {mean:.2f}")
    if mean < args.least:
        sys.exit(1)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To 0.001 points, for the file."""
    return {key: round(value, 3) for key, value in values.items()}


if __name__ == "__main__":
    main()
