"""A pool of comparison processes: starts them when first needed, distributes jobs and replaces dead processes.

There are no threads, no pickle and no fork of the calling process (which may hold CUDA): the processes are fresh
interpreters that exchange JSON lines over pipes (`comparison_process`).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError

_CHUNK_JOBS = 16
_CHUNK_CHARS = 1 << 20
KILLED = {"timeout": "timeouts", "memory": "memory_kills", "crash": "crashes", "error": "errors"}


class ComparisonPool:
    """At most `size` comparison processes with `timeout_s` CPU seconds and `memory_mb` MiB per job."""

    def __init__(self, size: int, timeout_s: float, memory_mb: int) -> None:
        self.size, self.timeout_s, self.memory_mb = size, timeout_s, memory_mb
        self.processes: list[subprocess.Popen[bytes]] = []
        self.counters: Counter[str] = Counter()

    def _spawn(self) -> subprocess.Popen[bytes]:
        source = str(Path(__file__).resolve().parents[2])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        # Fixed hash seed: sympy orders some arguments by hash, and equal jobs must give equal verdicts.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.counters["processes_started"] += 1
        return subprocess.Popen(
            [sys.executable, "-m", "srt.answers.comparison_process", str(self.timeout_s), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            close_fds=True,
        )

    def run(self, jobs: Sequence[list[Any]]) -> list[bool | str | None]:
        """One result per job, in order: true, false, null, "timeout", "memory", "crash" or "error"."""
        chunks = self._chunks(jobs)
        results: list[bool | str | None] = [None] * len(jobs)
        while len(self.processes) < min(self.size, len(chunks)):
            self.processes.append(self._spawn())
        selector = selectors.DefaultSelector()
        waiting: dict[int, range] = {}
        failures: Counter[range] = Counter()
        chunks.reverse()  # pop from the end, in order

        def send(index: int) -> None:
            while chunks:
                chunk = chunks.pop()
                process = self.processes[index]
                try:
                    assert process.stdin is not None and process.stdout is not None
                    process.stdin.write(json.dumps([jobs[i] for i in chunk]).encode() + b"\n")
                    process.stdin.flush()
                except BrokenPipeError:
                    self._replace(index, chunk, chunks, failures)
                    continue
                waiting[index] = chunk
                selector.register(process.stdout, selectors.EVENT_READ, index)
                return

        try:
            for index in range(len(self.processes)):
                send(index)
            while waiting:
                for event, _ in selector.select():
                    index = event.data
                    chunk = waiting.pop(index)
                    selector.unregister(event.fileobj)
                    stdout = self.processes[index].stdout
                    line = stdout.readline() if stdout else b""
                    if line:
                        for i, answer in zip(chunk, json.loads(line), strict=True):
                            results[i] = answer
                            if isinstance(answer, str):
                                self.counters[KILLED[answer]] += 1
                    else:
                        self._replace(index, chunk, chunks, failures)
                    send(index)
        except BaseException:
            self.close()  # otherwise a later call could read late replies to this one
            raise
        finally:
            selector.close()
        return results

    def _chunks(self, jobs: Sequence[list[Any]]) -> list[range]:
        # Small enough that every process gets a share, large enough that the pipes do not dominate.
        most = max(1, min(_CHUNK_JOBS, len(jobs) // (2 * self.size) or 1))
        chunks, start, chars = [], 0, 0
        for i, job in enumerate(jobs):
            chars += len(job[1]) + len(job[2])
            if i + 1 - start >= most or chars >= _CHUNK_CHARS:
                chunks.append(range(start, i + 1))
                start, chars = i + 1, 0
        if start < len(jobs):
            chunks.append(range(start, len(jobs)))
        return chunks

    def _replace(self, index: int, chunk: range, chunks: list[range], failures: Counter[range]) -> None:
        """Replace a process that died and redo its chunk. It runs no model text itself, so the machine killed it."""
        self.counters["process_restarts"] += 1
        failures[chunk] += 1
        process = self.processes[index]
        process.kill()
        code = process.wait()
        _close_pipes(process)
        if failures[chunk] > 2:
            raise SrtError(
                f"a comparison process died three times on one batch (exit code {code}): see its messages, and check "
                "that math-verify is installed and that memory_mb fits the machine"
            )
        self.processes[index] = self._spawn()
        chunks.append(chunk)

    def close(self) -> None:
        """End the processes; a later `run` starts new ones."""
        for process in self.processes:
            process.kill()  # safe: the process has no state to save, and the system kills its child with it
            process.wait()
            _close_pipes(process)
        self.processes = []


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
