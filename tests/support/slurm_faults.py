"""Faults of a cluster, each made on a real one while a training job runs: for tests, and for the table in the docs.

A fault is a function, called when step 2 of 14 is done. It breaks something, and repairs it where a person would. The
same `snakemake --profile slurm` must then end with the results of the undisturbed run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from support.dag import copy_of_the_tree, snakemake
from support.slurm_cluster import Cluster, can_limit_memory

CONFIG = ["--configfile", "tests/cluster/faults.yaml"]
STEP = "results/faults/runs/gt-s1/step-14"
WORK = "results/faults/progress/gt-s1/step-14"
STEPS = 14
TARGET = f"{STEP}/metrics.parquet"
RESULTS = [f"{STEP}/model/model.safetensors", TARGET]


def prepare(folder: Path) -> Path:
    """A copy of the tree with data and base model made, ready to train."""
    copy_of_the_tree(folder)
    local(folder, "all_data", "all_models")
    return folder


def local(folder: Path, *targets: str) -> None:
    """Make targets without SLURM, by the same models without GPUs."""
    snakemake(folder, "--profile", "workflow/profiles/local", *CONFIG, "--cores", "2",
              "--config", "files={models: tests/micro/models.yaml}", "--", *targets)  # fmt: skip


def outputs(folder: Path) -> dict[str, bytes]:
    """The results that must not depend on faults."""
    return {name: (folder / name).read_bytes() for name in RESULTS}


class Run:
    """One `snakemake --profile slurm` on the training job of a prepared copy."""

    def __init__(self, cluster: Cluster, prepared: Path, folder: Path, *args: str, env: dict[str, str] | None = None):
        self.cluster, self.folder, self.args = cluster, folder, args
        self.env = {**cluster.env, **(env or {})}
        shutil.copytree(prepared, folder, symlinks=True)
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the controller; its output is appended to controller.log."""
        with open(self.folder / "controller.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--profile", "slurm", *CONFIG, *self.args,
                 "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5", "--", TARGET],
                cwd=self.folder, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        """What the controller printed, over all its starts."""
        return (self.folder / "controller.log").read_text(errors="replace")

    def journal(self, event: str | None = None) -> list[dict]:
        """The trainer's journal: its starts and steps."""
        file = self.folder / WORK / "journal.jsonl"
        lines = [json.loads(x) for x in file.read_text().splitlines() if x.endswith("}")] if file.exists() else []
        return [x for x in lines if event in (None, x["event"])]

    def wait(self, condition: Callable[[], object], seconds: float = 400, alive: bool = True) -> None:
        """Wait until `condition` is true; the controller must stay alive until then."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process is not None
            assert not alive or self.process.poll() is None, f"the controller ended too soon\n{self.log()}"
            assert time.monotonic() < end, f"{seconds} s were not enough\n{self.log()}"
            time.sleep(0.02)

    def until_step(self, step: int) -> dict:
        """Wait until a step's state is saved; return that step's entry of the journal."""
        self.wait(lambda: any(x["step"] >= step for x in self.journal("step")))
        self.wait(lambda: any((self.folder / WORK).glob("state-*")))
        done = next(x for x in self.journal("step") if x["step"] >= step)
        state = self.folder / WORK / f"state-{done['step']}"
        self.wait(lambda: state.is_dir() or self.journal("step")[-1]["step"] > done["step"])
        return done

    def job(self) -> int:
        """The SLURM job of the last attempt."""
        return int(self.journal()[-1]["job"])

    def finish(self, code: int = 0, seconds: float = 180) -> None:
        """Wait for the controller's end."""
        assert self.process is not None
        assert self.process.wait(seconds) == code, self.log()

    def kill_controller(self) -> None:
        """Send SIGKILL to Snakemake alone, as when the login node reboots: its jobs keep running."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    # -- outcome -------------------------------------------------------------------------------------------------

    def repeated(self) -> list[int]:
        """Steps that were finished more than once."""
        steps = [x["step"] for x in self.journal("step")]
        return sorted({s for s in steps if steps.count(s) > 1})

    def seconds_lost(self) -> float:
        """Longest time between two finished steps minus the usual one: from the fault to the first step after it."""
        times = sorted(x["time"] for x in self.journal("step"))
        gaps = sorted(b - a for a, b in pairwise(times))
        return max(0.0, gaps[-1] - gaps[len(gaps) // 2])


@dataclass(frozen=True)
class Fault:
    """A row of the table: what happens, what SLURM and Snakemake do, what a person does, and how it is made."""

    title: str
    course: str
    person: str
    act: Callable[[Cluster, Run], None]
    attempts: int = 2  # starts of the trainer, the first included
    may_repeat: int = 0  # steps that have to be repeated
    at_once: bool = False  # the fault comes before the first step
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    needs_root: bool = False
    needs_memory_limits: bool = False
    long: bool = False  # left out of the default test run, which has others of its kind

    def skip(self) -> str | None:
        """Why this fault cannot be made here; None where it can."""
        if self.needs_root and os.geteuid() != 0:
            return "needs root (a small file system is mounted)"
        if self.needs_memory_limits and not can_limit_memory():
            return "needs root and cgroup v1 (memory limits of jobs)"
        return None


def _hold(run: Run, trainer: int) -> None:
    """Stop the trainer in the middle of a step: in a save, a kill would lose the step that is saved."""
    while True:
        os.kill(trainer, signal.SIGSTOP)
        if (run.folder / WORK / f"state-{run.journal('step')[-1]['step']}").is_dir():
            break
        os.kill(trainer, signal.SIGCONT)
        time.sleep(0.02)


def _sigkill(cluster: Cluster, run: Run) -> None:
    trainer = run.journal()[-1]["process"]
    _hold(run, trainer)
    os.kill(trainer, signal.SIGKILL)


def _scancel(cluster: Cluster, run: Run) -> None:
    cluster.call("scancel", run.job(), check=True)


def _requeue(cluster: Cluster, run: Run) -> None:
    cluster.call("scontrol", "requeue", run.job(), check=True)


def _urgent(cluster: Cluster, run: Run) -> None:
    """A job of a partition with precedence takes the node of the training job for a second."""
    node = cluster.jobs()[run.job()]["node"]
    options = ["-p", "urgent", "-w", node, "--gres=gpu:8", "--mem=100", "-o", "/dev/null"]
    cluster.call("sbatch", *options, "--wrap", "sleep 1", check=True)


def _preempt_cancel(cluster: Cluster, run: Run) -> None:
    cluster.call("scontrol", "update", "PartitionName=h200", "PreemptMode=CANCEL", check=True)
    try:
        job = run.job()
        _urgent(cluster, run)
        run.wait(lambda: cluster.jobs()[job]["state"] == "PREEMPTED")
    finally:
        cluster.call("scontrol", "update", "PartitionName=h200", "PreemptMode=REQUEUE", check=True)


def _nothing(cluster: Cluster, run: Run) -> None:
    """The fault is in the job's limits."""


def _controller(cluster: Cluster, run: Run) -> None:
    run.kill_controller()
    run.start()
    run.wait(lambda: "SLURM jobs of an earlier start" in run.log())


def _slurmctld(cluster: Cluster, run: Run) -> None:
    cluster.stop_slurmctld()
    time.sleep(30)
    cluster.start_slurmctld()


def _node(cluster: Cluster, run: Run) -> None:
    node = cluster.jobs()[run.job()]["node"]
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test", check=True)
    step = run.journal("step")[-1]["step"]
    run.wait(lambda: run.journal("step")[-1]["step"] > step)  # a job on a drained node keeps running
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test", check=True)
    try:
        run.wait(lambda: len(run.journal("start")) > 1)
        assert cluster.jobs()[run.job()]["node"] != node
    finally:
        cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=True)


def _disk_full(cluster: Cluster, run: Run) -> None:
    ballast = run.folder / WORK / "ballast"
    with open(ballast, "wb", buffering=0) as handle:
        try:
            while True:
                handle.write(bytes(1 << 16))
        except OSError:
            pass
    run.finish(code=1)
    log = (run.folder / "results/faults/logs/train/gt-s1/step-14.log").read_text()
    assert "disk full while writing" in log and "Traceback" not in log, log
    ballast.unlink()
    run.start()


def _asked(cluster: Cluster) -> list[str]:
    """The memory that each training job of this cluster requested, in order of submission."""
    shown = cluster.call("scontrol", "show", "job", "-o", check=True).splitlines()
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown if "Comment=rule_train" in line]
    return [j["MinMemoryNode"] for j in sorted(jobs, key=lambda j: int(j["JobId"]))]


# This process takes all memory left in a job's cgroup until the kernel kills the job's trainer, which is marked to die
# first. While a killed trainer still holds its memory, the kernel kills this process instead.
HOG = """import os, pathlib, sys
group, trainer = pathlib.Path(sys.argv[1]), pathlib.Path("/proc", sys.argv[2])
(trainer / "oom_score_adj").write_text("1000")
(group / "cgroup.procs").write_text(str(os.getpid()))
limit, held = int((group / "memory.limit_in_bytes").read_text()), []
assert limit <= 2 << 30, "this much is not to be taken from a machine that others use"
while len(held) << 22 < limit:
    held.append(b"x" * (1 << 22))
    if (trainer / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
        break
"""


def _lives(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _out_of_memory(cluster: Cluster, run: Run) -> None:
    """The running job reaches its limit, and the kernel kills its largest process, the trainer."""
    before, job, trainer = len(_asked(cluster)), run.job(), run.journal()[-1]["process"]
    group = f"/sys/fs/cgroup/memory/slurm_{cluster.jobs()[job]['node']}/uid_{os.geteuid()}/job_{job}"

    def take_all() -> None:
        _hold(run, trainer)
        subprocess.run([sys.executable, "-c", HOG, group, str(trainer)], timeout=60, check=False)

    run.wait(lambda: not _lives(trainer) or take_all())
    run.wait(lambda: len(run.journal("start")) > 1)
    first, second = (float(m.rstrip("M")) for m in _asked(cluster)[before - 1 :])
    assert second == 2 * first, "a retry asks for more"
    job = "rule train_last (checkpoint=gt-s1/step-14)"
    said = re.findall(rf"out of memory: {re.escape(job)} asked for {first:.0f} MB.*", run.log())
    assert said == [f"out of memory: {job} asked for {first:.0f} MB in attempt 1 of 4; "
                    f"it is tried again. {said[0].partition('again. ')[2]}"]  # fmt: skip


def _never_enough(cluster: Cluster, run: Run) -> None:
    """Every attempt is killed for its memory; a person follows the last message; it is too little again."""
    run.finish(code=1)
    tried = [f"asked for {50 + 50 * n} MB in attempt {n} of 4" for n in range(1, 5)]
    for attempt in tried:
        assert attempt in run.log(), run.log()
    assert (
        f"out of memory: rule train_last (checkpoint=gt-s1/step-14) {tried[-1]}: give it more with train_job: "
        "{memory_mb: 500} of the model in config/models.yaml, or --set-resources train_last:mem_mb=500"
    ) in run.log().splitlines(), run.log()
    assert not run.journal(), "it is too little to start with"
    run.args = MORE_EACH_TIME
    run.start()
    run.until_step(2)
    _out_of_memory(cluster, run)


MORE_EACH_TIME = ("--set-resources", "train_last:mem_mb=1500*attempt")
REQUEUED = "back in the queue, same job id; no retry is spent; resumes from the last saved state"
NOTHING = "nothing"
FAULTS: dict[str, Fault] = {
    "sigkill": Fault(
        "Trainer killed (SIGKILL, crash, out of host memory)",
        "the job fails; a retry is submitted and resumes from the last saved state", NOTHING, _sigkill, long=True,
    ),
    "scancel": Fault(
        "`scancel` of a training job", "counts as a failure; a retry is submitted and resumes",
        "nothing; to stop for good, Ctrl-C in the controller", _scancel, long=True,
    ),
    "preempted": Fault("Preemption, PreemptMode=REQUEUE", REQUEUED, NOTHING, _urgent, long=True),
    "requeued": Fault("`scontrol requeue`", REQUEUED, NOTHING, _requeue, long=True),
    "preempted_for_good": Fault(
        "Preemption, PreemptMode=CANCEL", "the plugin alone would wait for ever; after 3 minutes the job counts as "
        "cancelled, and a retry resumes", NOTHING, _preempt_cancel, env={"SRT_PREEMPTED_SECONDS": "2"}, long=True,
    ),
    "time_limit": Fault(
        "Time limit", "the trainer ends before it: state saved, exit code 75; a retry resumes",
        "nothing; the same command again if a segment needs more than 4 jobs", _nothing,
        # the first job keeps 50 of its 60 s free, so it stops after a step or two; the next one has 4 minutes
        args=("--set-resources", "train_last:runtime=attempt*attempt"), env={"SRT_MARGIN_SECONDS": "50"}, long=True,
    ),
    "controller": Fault(
        "Controller (Snakemake) killed, login node rebooted", "its jobs continue; the same command waits for them, "
        "then plans again from what they wrote", "start the same command", _controller, attempts=1, long=True,
    ),
    "slurmctld": Fault(
        "slurmctld away for 30 s", "jobs continue; the controller keeps asking", NOTHING, _slurmctld, attempts=1,
        long=True,
    ),
    "node": Fault(
        "Node drained, then down", "drained: the job continues; down: the job starts on another node, same id. It "
        "waits for a trainer that still runs where SLURM cannot reach it, and resumes from its state", NOTHING, _node,
        long=True,
    ),
    "memory": Fault(
        "Out of memory in a step", "the kernel kills the trainer; retries request two, three and four times the "
        "memory, and resume", NOTHING, _out_of_memory, needs_memory_limits=True,
        args=MORE_EACH_TIME, long=True,
    ),
    "memory_always": Fault(
        "Out of memory at every attempt", "the rule fails for good; the last line names it, the memory that it had, "
        "and the key that gives it more", "change that key, start the same command", _never_enough,
        at_once=True,
        args=("--set-resources", "train_last:mem_mb=50+50*attempt"), needs_memory_limits=True, long=True,
    ),
    "disk_full": Fault(
        "Results disk full", "the job fails with one sentence, and so do retries; the last state stays intact",
        "free space, start the same command", _disk_full, attempts=5, may_repeat=1, needs_root=True,
        long=True,
    ),
}  # fmt: skip


def _in_a_row(cluster: Cluster, run: Run) -> None:
    """Three faults in one run, each three steps after the last: a trainer killed, preempted, cancelled."""
    for number, act in enumerate((_sigkill, _urgent, _scancel), start=1):
        run.until_step(3 * number - 1)
        act(cluster, run)
        run.wait(lambda: len(run.journal("start")) > number)  # noqa: B023 (called before the next turn)


IN_A_ROW = Fault("", "", NOTHING, _in_a_row, attempts=4)


def execute(cluster: Cluster, prepared: Path, folder: Path, fault: Fault) -> Run:
    """Start the training, make the fault when step 2 is saved, wait for the end and assert success."""
    run = Run(cluster, prepared, folder, *fault.args, env=fault.env)
    mounted = fault.needs_root
    (folder / WORK).mkdir(parents=True)
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder / WORK)], check=True)
    try:
        run.start()
        if fault.act is not _nothing:
            if not fault.at_once:
                run.until_step(2)
            fault.act(cluster, run)
        run.finish()
        if mounted:  # before the cluster forgets the jobs
            journal = (folder / WORK / "journal.jsonl").read_text()
    finally:
        if run.process is not None and run.process.poll() is None:
            run.kill_controller()
        for job in cluster.jobs("PENDING,RUNNING"):
            cluster.call("scancel", job)
        if mounted:
            subprocess.run(["umount", "-l", str(folder / WORK)], check=True)
    if mounted:
        (folder / WORK / "journal.jsonl").write_text(journal)
    return run
