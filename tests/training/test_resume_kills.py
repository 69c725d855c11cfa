"""SIGKILL at 20 seeded moments of a 12-step run, then restarts: every byte is that of the undisturbed run.

The moments cover start-up, rollouts, updates, the saving of states and the writing of results. To afford them, a
worker process (this file as a script) imports torch and DeepSpeed once and forks one child per attempt.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STOP = 12  # 24 prompts, 4 per step: an epoch ends after step 6
KILLS = 20
SEED = 20
OWN = ("lock", "journal.jsonl", "timing.jsonl", "tensorboard")  # limits of an attempt, not of the run


# -- the worker: forks children that train ------------------------------------------------------------------------


def serve() -> None:
    """Read one JSON request per line: {"folder", "base", "sums", "spec", "start", "stop", "save_every"} forks a child
    and answers with its process id; {"wait": id} answers with its exit code, negative for a signal."""
    import deepspeed  # noqa: F401
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import srt.rollout.transformers_engine
    import srt.training.run  # noqa: F401

    with contextlib.suppress(ImportError):
        import torch.utils.tensorboard  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                attempt(**request)
        print(answer, flush=True)


def attempt(folder: str, base: str, sums: str, spec: dict, start: int, stop: int, save_every: int) -> None:
    """Train one segment and exit; messages go to {folder}/{process id}.log."""
    import traceback

    from srt.common.errors import Interrupted, SrtError
    from srt.training.run import run_segment
    from srt.training.training_set import read_training_set

    with open(Path(folder) / f"{os.getpid()}.log", "w", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    code = 1
    try:
        data, truth = read_training_set(Path(sums), spec["reward"])
        run_segment(make_segment(Path(folder), Path(base), spec, start, stop, save_every), data, truth)
        code = 0
    except SrtError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except Interrupted:
        code = 75
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def make_segment(folder: Path, base: Path, spec: dict, start: int, stop: int, save_every: int) -> Any:
    from srt.training.segment import Segment

    place, resume = folder / f"step-{stop}", folder / f"step-{start}" / "state" if start else None
    return Segment(
        spec=spec, base=base, resume=resume, start=start, stop=stop, work=folder / "work" / f"step-{stop}",
        model_out=place / "model", state_out=place / "state", metrics_out=place / "metrics.parquet",
        save_every=save_every,
    )  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "src"))
    serve()
    sys.exit()


# -- the tests ----------------------------------------------------------------------------------------------------


class Worker:
    """The worker process, seen from the tests."""

    def __init__(self, base: Path, sums: Path, spec: dict) -> None:
        self.fixed = {"base": str(base), "sums": str(sums), "spec": spec}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, folder: Path, start: int = 0, stop: int = STOP, save_every: int = 1) -> int:
        """Fork an attempt; returns its process id."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.ask(folder=str(folder), start=start, stop=stop, save_every=save_every, **self.fixed)

    def wait(self, child: int) -> int:
        return self.ask(wait=child)

    def finish(self, folder: Path, start: int = 0, stop: int = STOP, save_every: int = 1) -> str:
        """Run an attempt to its end; returns what it said."""
        child = self.start(folder, start, stop, save_every)
        code = self.wait(child)
        said = (folder / f"{child}.log").read_text(encoding="utf-8")
        assert code == 0, said
        return said

    def kill_when(
        self,
        child: int,
        folder: Path,
        moment: Callable[[], bool],
        delay: float,
        late: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send SIGKILL to the child `delay` seconds after `moment`, or once it is `late`; it must still be running."""
        deadline = time.monotonic() + 400
        while not moment():
            assert time.monotonic() < deadline, f"{folder}: the moment never came"
            assert running(child), (folder / f"{child}.log").read_text(encoding="utf-8")
            time.sleep(0.0005)
        end = time.monotonic() + delay
        while time.monotonic() < end and not late():
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        assert self.wait(child) == -signal.SIGKILL, "the child ended before the signal"


def running(child: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    stat = Path(f"/proc/{child}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def worker(tiny_base, sums) -> Iterator[Worker]:
    from support.specs import train_spec

    made = Worker(tiny_base, sums, train_spec())
    yield made
    assert made.process.stdin
    made.process.stdin.close()
    made.process.wait(timeout=400)


@pytest.fixture(scope="module")
def whole(worker, tmp_path_factory) -> Path:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    worker.finish(folder, save_every=STOP)
    return folder


def contents(folder: Path, stop: int = STOP) -> dict[str, bytes]:
    """Every file of a run: results and work folder, without the files of single attempts."""
    files = [p for part in (f"step-{stop}", f"work/step-{stop}") for p in (folder / part).rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if not set(p.parts) & set(OWN)}


def assert_same(folder: Path, whole: Path) -> None:
    ours, theirs = contents(folder), contents(whole)
    assert {"step-12/metrics.parquet", "step-12/model/model.safetensors", "step-12/state/manifest.json"} <= set(theirs)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def journal(work: Path) -> list[dict]:
    """The lines of the journal, without one that a kill cut short."""
    path = work / "journal.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reached(work: Path) -> int:
    """The furthest step of all attempts."""
    return max((x["step"] for x in journal(work) if x["event"] == "step"), default=0)


def moments(work: Path, place: Path, child: int, target: int) -> dict[str, Callable[[], bool]]:
    """Conditions to wait for before a kill, all about the attempt of process `child`."""

    def mine(event: str, step: int) -> bool:
        return any(x["process"] == child and x["event"] == event and x["step"] >= step for x in journal(work))

    return {
        "start-up": lambda: True,
        "ready": lambda: mine("start", 0),
        "step": lambda: mine("step", target),
        "last": lambda: mine("step", STOP - 1),
        "saving": lambda: any(work.glob(".state-*.tmp")),
        "results": lambda: any(place.glob(".*.tmp")) or (place / "model").exists(),
    }


@pytest.mark.slow
@pytest.mark.long
def test_twenty_kills_at_any_moment_change_no_byte(worker, whole, tmp_path):
    draw = random.Random(SEED)
    work, place = tmp_path / "work" / f"step-{STOP}", tmp_path / f"step-{STOP}"
    lines = journal(whole / "work" / f"step-{STOP}")
    times = [x["time"] for x in lines]
    a_step = (times[-1] - times[0]) / STOP  # on this machine, at this time
    kinds = ["start-up", "ready", "step", "step", "saving"] * (KILLS // 5 - 1) + ["step", "saving", "step", "start-up"]
    draw.shuffle(kinds)
    kinds.append("results")
    assert len(kinds) == KILLS
    every = {}
    for number, kind in enumerate(kinds):
        target = min(number * STOP // KILLS + 1, STOP - 1)
        save_every = draw.randint(1, 3)
        child = worker.start(tmp_path, save_every=save_every)
        every[child] = save_every
        delay = draw.uniform(0, {"start-up": 1.0, "saving": 0.02, "results": 0.01}.get(kind, a_step))
        at = moments(work, place, child, target)
        worker.kill_when(child, tmp_path, at[kind], delay, late=at["results"] if kind == "results" else at["last"])
    assert not (place / "metrics.parquet").exists()
    every[None] = 1
    worker.finish(tmp_path)
    assert_same(tmp_path, whole)
    assert [p.name for p in work.glob("*state-*")] == [f"state-{STOP}"], "a half-written state remains"
    assert_nothing_trained_twice(journal(work), every)


def assert_nothing_trained_twice(lines: list[dict], every: dict[int | None, int]) -> None:
    """Each attempt begins at the last state that earlier attempts saved, and continues without a gap.

    An attempt from step s saves after s + k, s + 2k, ...; once a later step is in the journal, that save is complete.
    """
    attempts: list[list[dict]] = []
    for line in lines:
        if line["event"] == "start":
            attempts.append([line])
        elif line["event"] == "step":
            assert line["process"] == attempts[-1][0]["process"]
            attempts[-1].append(line)
    saved = 0
    possible = {0}
    for first, *rest in attempts:
        begun, steps = first["step"], [x["step"] for x in rest]
        assert steps == list(range(begun + 1, begun + 1 + len(steps)))
        assert begun >= saved and begun in possible, f"began at {begun}, step {saved} was saved"
        k, last = every.get(first["process"], every[None]), begun + len(steps)
        saves = list(range(begun + k, last + 1, k))
        saved = max([begun, *(s for s in saves if s < last)])
        possible = {saved, *saves} | ({last} if last == STOP else set())
    assert len(attempts) > KILLS // 2 and attempts[-1][-1]["step"] == STOP


@pytest.mark.slow
def test_a_chain_of_three_segments_each_killed_and_one_with_a_torn_state_is_one_run(worker, whole, tmp_path):
    for start, stop in ((0, 5), (5, 9)):
        work, place = tmp_path / "work" / f"step-{stop}", tmp_path / f"step-{stop}"
        child = worker.start(tmp_path, start, stop)
        worker.kill_when(child, tmp_path, moments(work, place, child, start + 2)["step"], 0.0)
        worker.finish(tmp_path, start, stop)
        assert [x["step"] for x in journal(work) if x["event"] == "start"][-1] > start
    work = tmp_path / "work" / "step-12"
    child = worker.start(tmp_path, 9, 12)
    worker.kill_when(child, tmp_path, moments(work, tmp_path / "step-12", child, 11)["step"], 0.0)
    (state,) = work.glob("state-*")
    torn = max((p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    torn.write_bytes(torn.read_bytes()[:-100])
    said = worker.finish(tmp_path, 9, 12)
    assert f"not resuming: {torn} is damaged or missing" in said and "Traceback" not in said
    assert [x["step"] for x in journal(work) if x["event"] == "start"] == [9, 9]
    for name in ("model/model.safetensors", "state/manifest.json"):
        ours, theirs = ((x / "step-12" / name).read_bytes() for x in (tmp_path, whole))
        if name.endswith("json"):  # the progress file of a segment holds only its own steps
            ours, theirs = ({k: v for k, v in json.loads(x).items() if k.startswith("engine/")} for x in (ours, theirs))
            assert ours
        assert ours == theirs, name
    from srt.common.io import read_parquet
    from srt.training.training_set import join_metrics

    joined, _ = join_metrics([tmp_path / f"step-{n}" / "metrics.parquet" for n in (5, 9, 12)])
    assert joined.equals(read_parquet(whole / "step-12" / "metrics.parquet").to_pandas())


@pytest.mark.slow
def test_kills_after_the_last_step_leave_its_state_as_it_is(worker, tmp_path):
    """The outputs are written from the state; it is not saved again, since a kill during that would lose it."""
    work, place = tmp_path / "work" / "step-2", tmp_path / "step-2"
    worker.finish(tmp_path, stop=2)
    before, made = contents(tmp_path, 2), (work / "state-2").stat().st_ino
    shutil.copytree(work / "state-2", work / "state-1")  # a kill just after a save leaves the previous state
    for moment in ("ready", "results", "ready"):
        shutil.rmtree(place, ignore_errors=True)  # killed before it was made
        child = worker.start(tmp_path, stop=2)
        worker.kill_when(child, tmp_path, moments(work, place, child, 2)[moment], 0.0)
        assert (work / "state-2").stat().st_ino == made and not list(work.glob(".state-*"))
    worker.finish(tmp_path, stop=2)
    assert contents(tmp_path, 2) == before and (work / "state-2").stat().st_ino == made
    assert [x["step"] for x in journal(work) if x["event"] == "step"] == [1, 2]


@pytest.mark.slow
def test_a_second_job_on_one_run_is_refused_and_the_first_goes_on(worker, tmp_path):
    work = tmp_path / "work" / "step-2"
    first = worker.start(tmp_path, stop=2)
    while not journal(work):
        assert running(first)
        time.sleep(0.01)
    os.kill(first, signal.SIGSTOP)  # it holds the lock during this wait
    second = worker.start(tmp_path, stop=2)
    code = worker.wait(second)
    os.kill(first, signal.SIGCONT)
    said = (tmp_path / f"{second}.log").read_text(encoding="utf-8")
    assert code == 2 and f"is in use by process {first} on" in said and "Traceback" not in said
    assert worker.wait(first) == 0
    assert {x["process"] for x in journal(work)} == {first}
