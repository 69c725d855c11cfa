"""Make every fault of a cluster on a real SLURM of this machine, and write what it cost into docs/cluster.md.

    .venv/bin/python benchmarks/faults.py            all of them, about ten minutes on two idle cores
    .venv/bin/python benchmarks/faults.py scancel    these only; their rows are replaced, the others stay

Columns: attempts, starts of the trainer; steps again, steps that were finished more than once; seconds lost, from the
last step before the fault to the first one after it, less a usual step. Status is queried every second here, but only
after 40 s and more on a real cluster: add that where a retry is submitted. Results are compared byte for byte with
those of the undisturbed run; a difference ends this program with an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

BEGIN, END = "<!-- faults: written by benchmarks/faults.py -->", "<!-- end of faults -->"
HEADER = "| fault | what happens | what you do | attempts | steps again | seconds lost |\n|---|---|---|---|---|---|"


def main() -> None:
    from support.slurm_cluster import Cluster, can_limit_memory, missing
    from support.slurm_faults import FAULTS, TARGET, execute, local, outputs, prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"one or more of: {', '.join(FAULTS)}")
    args = parser.parse_args()
    if unknown := set(args.faults) - set(FAULTS):
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are: {', '.join(FAULTS)}")
    if why := missing():
        parser.exit(1, f"{why}\n")
    rows: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name, Cluster(memory_limits=can_limit_memory(), kill_wait=2) as cluster:
        place = Path(name)
        prepared = prepare(place / "prepared")
        local(Path(shutil.copytree(prepared, place / "undisturbed", symlinks=True)), TARGET)
        expected = outputs(place / "undisturbed")
        for key in args.faults or FAULTS:
            fault = FAULTS[key]
            measured = [f"not made: {reason}", "", ""] if (reason := fault.skip()) else None
            if measured is None:
                run = execute(cluster, prepared, place / key, fault)
                if outputs(run.folder) != expected:
                    raise SystemExit(f"{key}: the results differ from those of the undisturbed run")
                lost = f"{run.seconds_lost():.0f}"
                measured = [str(len(run.journal("start"))), str(len(run.repeated())), lost]
            rows[fault.title] = f"| {' | '.join([fault.title, fault.course, fault.person, *measured])} |"
            print(rows[fault.title], flush=True)
    document = ROOT / "docs" / "cluster.md"
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    kept = {line.split(" | ")[0].removeprefix("| "): line for line in old.strip().splitlines()[2:]}
    titles = [fault.title for fault in FAULTS.values()]
    table = "\n".join([HEADER, *(row for title in titles if (row := rows.get(title, kept.get(title))))])
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    print(f"written to {document.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
