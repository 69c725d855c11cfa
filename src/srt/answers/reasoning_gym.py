"""Compare Reasoning Gym answers from (prediction, label) only, without the entry's metadata.

The library's own scorers take the whole entry, and some recompute the truth from it (bitwise_arithmetic evaluates
metadata["problem"]), so a "label-free" run that used them would train on ground truth. Here a task is a key function:
two answers are the same if their keys are equal. A verdict is correct exactly if the library's scorer gives full credit
(tests compare them); there is no partial credit. The library is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from srt.answers.normalise import strip_maths
from srt.common.errors import SrtError, nearest

# The roles that knights_knaves draws from.
_ROLES = {
    "knight", "knave", "pioneer", "laggard", "saint", "sinner", "hero", "villain", "angel", "devil", "altruist",
    "egoist", "sage", "fool",
}  # fmt: skip


def _knights_knaves(answer: str) -> str | None:
    """The set of (name, role) pairs, in any order and wording; None if there is no pair."""
    for mark in ".,()":
        answer = answer.replace(mark, " ")
    pairs, name = set(), None
    for word in answer.lower().replace(" and ", " ").split():
        if word in ("is", "a", "an"):
            continue
        if word in _ROLES:
            if name:
                pairs.add((name, word))
                name = None
        else:
            name = word
    return ";".join(f"{n}={r}" for n, r in sorted(pairs)) or None


def _bitwise_arithmetic(answer: str) -> str | None:
    """The integer, in hexadecimal (0x…), binary (0b…) or decimal as Python reads it; None for anything else."""
    try:
        return hex(int(answer, 0))
    except ValueError:
        return None


def _family_relationships(answer: str) -> str | None:
    return answer.strip().lower() or None


def _decimal(answer: str) -> str | None:
    """Exact decimal value without commas, "1e3" for "+01,000.00"; None for anything but a finite decimal."""
    try:
        sign, digits, exponent = Decimal(answer.replace(",", "")).as_tuple()
    except InvalidOperation:
        return None
    if not isinstance(exponent, int):  # NaN and Infinity equal nothing
        return None
    text = "".join(map(str, digits)).lstrip("0")
    if not text:
        return "0"
    stripped = text.rstrip("0")
    return f"{'-' if sign else ''}{stripped}e{exponent + len(text) - len(stripped)}"


def _exact(answer: str) -> str | None:
    return answer or None


_FIRST_NUMBER = re.compile(r"\b-?\d+(?:\.\d+)?\b")


def _gsm_symbolic(answer: str) -> str | None:
    """The first number of the answer as a float, found as the library finds it (it misses a leading minus)."""
    match = _FIRST_NUMBER.search(answer)
    return repr(float(match.group())) if match else None


KEYS: dict[str, Callable[[str], str | None]] = {
    "knights_knaves": _knights_knaves,
    "bitwise_arithmetic": _bitwise_arithmetic,
    "family_relationships": _family_relationships,
    "chain_sum": _decimal,
    "products": _decimal,
    "basic_arithmetic": _exact,
    "gsm_symbolic": _gsm_symbolic,
}

_WRAPPED = re.compile(r"\\(?:text(?:tt|bf|it|rm)?|mathrm|mathtt|mathbf|mbox)\{([^{}]*)\}")


def plain(answer: str) -> str:
    r"""The content of a box as plain text, without `$…$` and `\text{…}`, which the library's scorers do not handle."""
    return _WRAPPED.sub(r"\1", strip_maths(answer)).replace("\\_", "_").replace("{,}", ",").strip()


def check_task(task: str) -> None:
    """Raise an `SrtError` for a task that is not covered here."""
    if task not in KEYS:
        raise SrtError(
            f"no comparison for the task '{task}'{nearest(task, [*KEYS, 'math'])}: "
            "name a covered task, or add its key function to src/srt/answers/reasoning_gym.py"
        )


def key(answer: str, task: str) -> str | None:
    """What an answer means in a task; None if it does not have the task's form (then it does not vote)."""
    return KEYS[task](answer)


def match(prediction: str | None, label: str, task: str) -> bool:
    """Whether a prediction is fully correct against a reference label of the task."""
    if prediction is None:
        return False
    value = key(prediction, task)
    return value is not None and value == key(label, task)
