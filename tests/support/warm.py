"""Python programs started from a process that has imported the large libraries already: seconds less per program.

Each program is a process of its own with its own folder, environment and output, forked from multiprocessing's fork
server. Of this project nothing is imported before the fork, so a clone's scripts use the clone's library. A test that
sends signals starts its program with `subprocess` instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ["torch", "transformers", "transformers.models.qwen2.modeling_qwen2", "pandas", "pyarrow.parquet",
             "pydantic", "yaml", "snakemake.cli", "snakemake.api"]  # fmt: skip

SEARCH_PATH = list(sys.path)  # before tests and libraries add to it


def run(
    words: list[str], cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 400
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` returns for `python WORDS`: a script's path, or -m and a module, and arguments."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ("out", "err"))
        place, environment = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        process = _SERVER.Process(target=_program, args=(words, place, environment, SEARCH_PATH, out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout, *(path.read_bytes() for path in (out, err)))
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(words, code, *(path.read_text("utf-8", "replace") for path in (out, err)))


def _program(
    words: list[str], cwd: str, environment: dict[str, str], search_path: list[str], out: Path, err: Path
) -> None:
    """Become `python WORDS`: output into two files, and the interpreter's own exit code."""
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False, encoding="utf-8") for n in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    extra = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    try:
        if words[0] == "-m":
            sys.argv, sys.path[:] = words[1:], [cwd, *extra, *search_path]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[:] = words, [str(Path(words[0]).parent), *extra, *search_path]
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(LIBRARIES)
