"""Short jobs with and without packing, through a real SLURM of this machine: submissions, wall time, a failed member.

    nice .venv/bin/python benchmarks/packed.py CLONE      about ten minutes on two idle cores

CLONE is a copy of the tree in which the micro DAG has run. Its base model is evaluated with further seeds: a sampling
and a scoring job for each. Writes benchmarks/results/packed.json: what SLURM recorded of each submission. In the packed
run one scoring job fails at its first attempt.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

# Put before scripts/score.py in the clone: the second seed's scores fail once.
FAIL_ONCE = """import pathlib, sys
flag = pathlib.Path("failed-once")
if any("tests-s2.scores" in word for word in sys.argv) and not flag.exists():
    flag.touch()
    sys.exit("fails once")
"""


def measure(clone: Path, place: Path, packed: bool, seeds: int) -> dict[str, Any]:
    """Run the evaluation in a copy of the clone through a cluster of its own."""
    from support.slurm_cluster import Cluster
    from support.slurm_smoke import FAST, slurm_jobs, snakemake

    folder = Path(shutil.copytree(clone, place / f"packed-{packed}", symlinks=True))
    with (folder / "tests/micro/config.yaml").open("a", encoding="utf-8") as file:
        file.write(f"evaluate: {{suites: [tests], seeds: {list(range(1, seeds + 1))}}}\n")
    if packed:
        script = folder / "scripts/score.py"
        text = script.read_text(encoding="utf-8")
        head, mark, rest = text.partition("from pathlib import Path\n")
        assert mark, "scripts/score.py has another first import"
        script.write_text(head + mark + FAIL_ONCE + rest, encoding="utf-8")
    with Cluster() as cluster:
        options = ["--workflow-profile", "packed"] if packed else []
        target = "results/micro/tables/evaluate.csv"
        words = ["--profile", "slurm", *options, "--configfile", "tests/micro/config.yaml", *FAST, "--", target]
        seconds = snakemake(folder, *words, env=cluster.env)
        jobs = slurm_jobs(cluster)
    shown = ("Partition", "JobState", "TimeLimit", "MinMemoryNode", "NumNodes", "NumCPUs", "TresPerJob", "RunTime")
    submissions = [{"comment": job["Comment"], **{key: job.get(key, "") for key in shown}} for job in jobs]
    table = (folder / "results/micro/tables/evaluate.csv").read_text(encoding="utf-8")
    return {"seconds": seconds, "submissions": len(submissions), "jobs": submissions, "table": table}


def main() -> None:
    """Measure both and write the file."""
    from support.slurm_cluster import missing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, metavar="CLONE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/packed.json")
    args = parser.parse_args()
    if why := missing():
        parser.exit(1, f"{why}\n")
    with tempfile.TemporaryDirectory() as place:
        found = {
            name: measure(args.clone, Path(place), name == "packed", args.seeds) for name in ("packed", "one_by_one")
        }
    found["same_table"] = found["packed"].pop("table") == found["one_by_one"].pop("table")
    args.out.write_text(json.dumps({"seeds": args.seeds, **found}, indent=1) + "\n", encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
