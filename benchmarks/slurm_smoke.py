"""The whole smoke DAG through a real SLURM of this machine, compared byte for byte with a run without SLURM.

    nice .venv/bin/python benchmarks/slurm_smoke.py           about ten minutes on two idle cores
    nice .venv/bin/python benchmarks/slurm_smoke.py --load    the load of a login node instead, see below

Training jobs ask for 8 GPUs of partition h200 (two nodes with 8 fake ones each), sampling and evaluation for 1. Writes
benchmarks/results/slurm_smoke.json: jobs, wall times, bytes compared, and from SLURM's own records which jobs ran at
the same time and which waited for a node. Ends with an error if one byte differs or a training job shared its node.

`--load` runs the micro DAG with the profile as users have it (status is asked every second otherwise) and writes how
often the controller called SLURM into the same file, under `login_load`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]


def main() -> None:
    from support.slurm_cluster import Cluster, missing
    from support.slurm_smoke import compare, login_load, problems

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/slurm_smoke.json")
    parser.add_argument("--load", action="store_true", help="measure the calls of SLURM by the login node instead")
    args = parser.parse_args()
    if why := missing():
        parser.exit(1, f"{why}\n")
    with tempfile.TemporaryDirectory() as place, Cluster() as cluster:
        found = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
        if args.load:
            found["login_load"] = login_load(cluster, Path(place))
        else:
            found = {**found, **compare(cluster, Path(place))}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    if not args.load and (wrong := problems(found)):
        parser.exit(1, "".join(f"{x}\n" for x in wrong))


if __name__ == "__main__":
    main()
