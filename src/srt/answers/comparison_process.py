"""A process that runs Math-Verify and sympy on text written by a model; started by `comparison_pool` only.

It is two processes. The *supervisor* imports sympy once, reads jobs from stdin and never parses their texts. It forks a
*child* that does the work. If a job takes too long or too much memory, the child is killed, by the supervisor or by its
own CPU timer, and the supervisor forks another within milliseconds; a fresh interpreter would take a second. So a
model's text can harm only a child. docs/security.md describes how the child is confined.

Protocol: one JSON line in, a list of jobs [op, a, b]; one JSON line out, a list of results. Ops: "equal" (two canonical
answers, by `equivalence.decide`), "metric" (Math-Verify's math_metric: a whole response against a label, the `authors`
reward) and "text" (the same with options [match types, precision, allow_set_relation_comp], for the tests). A result is
true, false, null (the gold answer does not parse), "timeout", "memory", "crash" or "error".
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from functools import lru_cache
from typing import Any

TIMEOUT, MEMORY, CRASH, ERROR = "timeout", "memory", "crash", "error"
_SAMPLE_SECONDS = 0.02  # between two looks at the child's memory
_HEADROOM = 512 << 20  # address space beyond the memory limit: a backstop, since the supervisor limits resident memory
_PR_SET_PDEATHSIG = 1
_REMEMBERED = 4096  # maximum number of answers remembered as too costly
_PROBE = "\\sqrt{2}+q"  # a harmless formula; an answer whose comparison even with this one fails is too costly


def confine_parsers() -> None:
    """Close every path from text to `eval`.

    sympy's `parse_expr` ends in eval. Math-Verify calls it on plain arithmetic, and sympy on each numeral
    (`Number("2")`) and a unit's name. It is replaced by `parse_arithmetic` and plain symbols, and `eval_expr` refuses.
    """
    import math_verify.parser
    import sympy
    import sympy.parsing
    import sympy.parsing.sympy_parser as sympy_parser

    from srt.answers.sympy_arithmetic import parse_arithmetic

    constants = {name: getattr(sympy, name) for name in ("pi", "E", "I", "oo", "zoo", "nan")}

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("text is never evaluated here")

    def parse_expr(text: str, *_: Any, evaluate: bool = True, **__: Any) -> Any:
        text = text.strip()
        if text.isidentifier():
            return constants.get(text) or sympy.Symbol(text)
        expression = parse_arithmetic(text)
        return expression.doit() if evaluate else expression

    for module in (math_verify.parser, sympy.parsing, sympy_parser):
        module.parse_expr = parse_expr  # type: ignore[attr-defined]
    sympy_parser.eval_expr = refuse


@lru_cache(maxsize=4096)
def _parsed(latex: str) -> tuple[Any, ...]:
    """A formula parsed by Math-Verify, which keeps units: `canonical` has removed real ones, and 2t is not 2."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        )
    )
    return tuple(parse(f"${latex}$", [config], parsing_timeout=None))


def equal(a: str, b: str) -> bool:
    """Whether two answers are equal; formulas are compared in both directions, since Math-Verify is not symmetric."""
    from math_verify import verify

    from srt.answers.canonical import parse
    from srt.answers.equivalence import decide, latex_of
    from srt.answers.form import Form
    from srt.answers.sympy_values import apart

    def leaf(x: Form, y: Form) -> bool:
        first, second = sorted((latex_of(x, y), latex_of(y, x)))
        left, right = list(_parsed(first)), list(_parsed(second))
        if not (verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None)):
            return False
        return not (left and right and apart(left[0], right[0]))

    return bool(decide(parse(a), parse(b), leaf))


def text_equal(
    pred: str, gold: str, pred_types: list[str], gold_types: list[str], precision: int = 6, relation: bool = False
) -> bool | None:
    """Math-Verify on two whole texts; None if nothing can be parsed from the gold text."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = {"latex": LatexExtractionConfig(), "expr": ExprExtractionConfig()}
    reference = parse(gold, [targets[t] for t in gold_types], parsing_timeout=None)
    if not reference:
        return None
    answer = parse(pred, [targets[t] for t in pred_types], parsing_timeout=None)
    return verify(reference, answer, float_rounding=precision, allow_set_relation_comp=relation, timeout_seconds=None)


def _run(op: str, a: str, b: str, options: list[Any]) -> bool | None:
    if op == "equal":
        return equal(a, b)
    if op == "metric":  # math_metric(gold=(Latex,), pred=(Expr, Latex)); 0 if the gold answer does not parse
        return bool(text_equal(a, f"\\boxed{{{b}}}", ["expr", "latex"], ["latex"]))
    types, precision, relation = options
    return text_equal(a, b, types, types, precision, relation)


def child_main(jobs: int, answers: int, timeout_s: float, memory_bytes: int) -> None:
    """Do jobs until the pipe closes."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the CPU timer's default action kills, even inside C code
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # does not outlive its supervisor
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as handle:
        handle.write("1000")  # if the machine runs out of memory, this process goes first
    limit = memory_bytes + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to pipes only
    with os.fdopen(jobs, "rb") as source:
        for line in source:
            op, a, b, *options = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, timeout_s)
            try:
                result: bool | str | None = _run(op, a, b, options)
            except MemoryError:
                result = MEMORY
            except Exception:  # answers that the libraries cannot compare are not equal, and are counted
                result = ERROR
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(answers, json.dumps(result).encode() + b"\n")
            if result == MEMORY:
                return


class Supervisor:
    """Forks, feeds, watches and kills the child."""

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self.timeout_s, self.memory_bytes = timeout_s, memory_mb << 20
        self.page = os.sysconf("SC_PAGE_SIZE")
        self.pid = 0
        self.too_costly: dict[str, None] = {}

    def fork(self) -> None:
        jobs_read, self.jobs = os.pipe()
        self.answers, answers_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.jobs)
            os.close(self.answers)
            try:
                child_main(jobs_read, answers_write, self.timeout_s, self.memory_bytes)
            finally:
                os._exit(0)
        os.close(jobs_read)
        os.close(answers_write)

    def reap(self, kill: bool) -> int:
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.jobs)
        os.close(self.answers)
        self.pid = 0
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def resident(self) -> int:
        try:
            with open(f"/proc/{self.pid}/statm") as handle:
                return int(handle.read().split()[1]) * self.page
        except (OSError, IndexError, ValueError):
            return 0

    def ask(self, job: list[Any]) -> bool | str | None:
        """One job: the child's answer, or why there is none."""
        if not self.pid:
            self.fork()
        try:
            payload = memoryview(json.dumps(job).encode() + b"\n")
            while payload:
                payload = payload[os.write(self.jobs, payload) :]
        except BrokenPipeError:
            self.reap(kill=True)
            return CRASH
        # The child's own timer counts CPU time, so that a busy machine changes no verdict. This one is a backstop.
        deadline = time.monotonic() + 3 * self.timeout_s + 2
        reply = b""
        while not reply.endswith(b"\n"):
            ready, _, _ = select.select([self.answers], [], [], _SAMPLE_SECONDS)
            if ready:
                block = os.read(self.answers, 65536)
                if not block:
                    return TIMEOUT if self.reap(kill=False) == signal.SIGPROF else CRASH
                reply += block
            elif self.resident() > self.memory_bytes:
                self.reap(kill=True)
                return MEMORY
            elif time.monotonic() > deadline:
                self.reap(kill=True)
                return TIMEOUT
        answer = json.loads(reply)
        if answer == MEMORY:
            self.reap(kill=True)
        return answer

    def do(self, job: list[Any]) -> bool | str | None:
        """Like `ask`, but remembers answers that are too costly in every comparison, and does not try them again."""
        op, a, b = job[:3]
        if op == "equal" and (a in self.too_costly or b in self.too_costly):
            return TIMEOUT
        answer = self.ask(job)
        if op == "equal" and answer in (TIMEOUT, MEMORY, CRASH):
            for text in (a, b):
                if self.ask(["equal", text, _PROBE]) in (TIMEOUT, MEMORY, CRASH):
                    self.too_costly[text] = None
            while len(self.too_costly) > _REMEMBERED:
                del self.too_costly[next(iter(self.too_costly))]
        return answer


def main() -> None:
    """Supervise: serve job lines from stdin until it closes."""
    timeout_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes stdin
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints goes to stderr, not into the protocol
    import logging

    logging.disable(logging.CRITICAL)  # Math-Verify logs each answer that it cannot parse; the counters report them
    confine_parsers()
    equal("|\\sin(2x)|", "|2\\sin(x)\\cos(x)|")  # run lazy imports before the first fork; only sympy can tell
    text_equal("\\boxed{1}", "\\boxed{2}", ["expr", "latex"], ["latex"])
    supervisor = Supervisor(timeout_s, memory_mb)
    for line in sys.stdin.buffer:
        replies = [supervisor.do(job) for job in json.loads(line)]
        out.write(json.dumps(replies).encode() + b"\n")
    if supervisor.pid:
        supervisor.reap(kill=True)


if __name__ == "__main__":
    main()
