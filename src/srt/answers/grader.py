r"""Votes and verdicts: what the trainer and the scorer ask of this package.

Presets. `clean` (the paper's text): answers fall into equivalence classes, votes are counted a class, a response is
right when its answer and the label are equivalent. `authors` (their code, paper_and_authors_code §2): votes by raw
string, first seen wins a tie, a response is right when Math-Verify on the *whole response* says so.

Costs: an answer is extracted and put into canonical form here; only formulas that stay distinct go to worker
processes, started at the first such pair. Verdicts are cached by meaning, so 32 samples cost what their distinct
answers cost. Nothing depends on the order of responses or groups, but for the authors' tie rule, which does.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from srt.answers import reasoning_gym
from srt.answers.canonical import NUMBER, OPAQUE, Form, parse
from srt.answers.comparison_pool import Pool
from srt.answers.equivalence import decide
from srt.answers.extract import EXTRACTORS, NO_BOX, OK, Extraction, boxed_authors, extract
from srt.answers.voting import Vote, authors_vote, clean_vote
from srt.common.errors import SrtError, nearest

Preset = Literal["authors", "clean"]
NO_LABEL, NO_ANSWER, TIMEOUT = "no label", "no answer", "timeout"

_CACHE_ENTRIES = 1 << 18  # verdicts kept; about 100 MB at most


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right; `reason` is "ok", an extraction's reason, "timeout" or "no label"."""

    correct: bool
    reason: str


# Where the authors' whole-response verdict needs no Math-Verify: the only anchored answer is one boxed integer.
_ONE_BOX = re.compile(r"\\boxed\{(-?\d{1,300})\}(?!\s*(?:\$+|\\\]|\\\))?\s*(?:\\?%|[Pp]ercent|[Pp]ct))", re.ASCII)
_PLAIN_INTEGER = re.compile(r"-?\d{1,300}", re.ASCII)
# An AIME key with two accepted answers ("080 or 081", 2022 II 8): three digits each, as only AIME writes them.
_AIME_KEYS = re.compile(r"\d{3}(?: or \d{3})+", re.ASCII)


def alternatives(label: str) -> tuple[str, ...]:
    """The answers that a reference accepts: itself, or each key of an AIME answer such as "080 or 081"."""
    return (label, *label.split(" or ")) if _AIME_KEYS.fullmatch(label.strip()) else (label,)


class Grader:
    """Grades groups of responses; a context manager that owns its worker processes.

    `timeout_s` CPU seconds and `memory_mb` MiB bound one comparison. `counters` holds what happened so far:
    `compared` (pairs sent to workers), `cache_hits`, `timeouts`, `memory_kills`, `crashes` (killed, all reported as
    "timeout"), `errors` (the libraries raised: not equal), `workers_started`, `worker_restarts`.
    """

    def __init__(
        self,
        preset: Preset = "clean",
        extractor: str = "boxed",
        task: str = "math",
        timeout_s: float = 5.0,
        memory_mb: int = 2048,
        workers: int = 1,
    ) -> None:
        if preset not in ("authors", "clean"):
            raise SrtError(f"unknown grading preset '{preset}'{nearest(preset, ('authors', 'clean'))}")
        if extractor not in EXTRACTORS:
            raise SrtError(f"unknown extractor '{extractor}'{nearest(extractor, EXTRACTORS)}")
        if timeout_s <= 0 or workers < 1 or memory_mb < 256:
            raise SrtError(
                "grading needs timeout_s > 0, workers >= 1 and memory_mb >= 256, "
                f"not {timeout_s}, {workers}, {memory_mb}"
            )
        self.preset, self.extractor, self.task = preset, extractor, task
        self._check_task(task)
        self._pool = Pool(workers, timeout_s, memory_mb)
        self._verdicts: dict[tuple[str, ...], bool | str | None] = {}
        self._counts: Counter[str] = Counter()
        self._extracted: tuple[list[tuple[str, ...]], list[list[Extraction]]] = ([], [])

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; the grader may be used again and starts new ones."""
        self._pool.close()

    @property
    def counters(self) -> dict[str, int]:
        names = ("compared", "cache_hits", "timeouts", "memory_kills", "crashes", "errors")
        names += ("workers_started", "worker_restarts")
        return {name: self._counts[name] + self._pool.counters[name] for name in names}

    # ---- votes

    def vote(
        self, groups: Sequence[Sequence[str]], *, tasks: Sequence[str] | None = None, evaluation: bool = False
    ) -> list[Vote]:
        """The vote of each group (the n responses of one prompt). `tasks`, one a group, overrides `task`.

        `evaluation` matters for `authors` only: their training counts an empty box as a vote, their maj@32 drops it.
        """
        kinds = self._tasks(groups, tasks)
        if self.preset == "authors":
            return [authors_vote(items, evaluation) for items in self._extract_all(groups)]
        extracted = self._extract_all(groups)
        forms = [
            [None if item.answer is None else self._form(item.answer, kind) for item in group]
            for group, kind in zip(extracted, kinds, strict=True)
        ]
        # All undecided pairs of all groups go to the workers as one batch.
        distinct = [list({f.text: f for f in group if f}.values()) for group in forms]
        pairs = [_candidate_pairs(members) for members in distinct]
        equal = self._equal_forms([pair for group in pairs for pair in group])
        return [
            clean_vote(items, found, [p for p in group_pairs if equal[_pair_key(*p)] is True])
            for items, found, group_pairs in zip(extracted, forms, pairs, strict=True)
        ]

    # ---- verdicts

    def verify(
        self,
        groups: Sequence[Sequence[str]],
        labels: Sequence[str | None],
        *,
        tasks: Sequence[str] | None = None,
    ) -> list[list[Verdict]]:
        """Each response of a group against the group's label: the truth, the majority or an offline label.

        A None or empty label makes every response of its group incorrect with the reason "no label".
        """
        kinds = self._tasks(groups, tasks)
        if len(labels) != len(groups):
            raise ValueError(f"{len(groups)} groups but {len(labels)} labels")
        return self._verify(groups, self._extract_all(groups), labels, kinds)

    def _verify(
        self,
        groups: Sequence[Sequence[str]],
        extracted: Sequence[Sequence[Extraction]],
        labels: Sequence[str | None],
        kinds: Sequence[str],
    ) -> list[list[Verdict]]:
        whole_text = [self.preset == "authors" and kind == "math" for kind in kinds]
        answers: list[list[bool | str]] = [[False] * len(group) for group in groups]
        forms: list[list[Form | None]] = [[] for _ in groups]
        questions: list[tuple[int, Form, Form]] = []
        metrics: list[tuple[int, int, str, str]] = []
        for g, (group, label, kind) in enumerate(zip(groups, labels, kinds, strict=True)):
            if label is None or not label.strip():
                continue
            if whole_text[g]:
                for r, text in enumerate(group):
                    shortcut = _boxed_integer_verdict(text, label)
                    if shortcut is None:
                        metrics.append((g, r, text, label))
                    else:
                        answers[g][r] = shortcut
                continue
            references = [self._form(option, kind) for option in (alternatives(label) if kind == "math" else (label,))]
            forms[g] = [None if item.answer is None else self._form(item.answer, kind) for item in extracted[g]]
            distinct = {form.text: form for form in forms[g] if form is not None}
            questions.extend((g, form, ref) for form in distinct.values() for ref in references if ref is not None)
        equal = self._equal_forms([(form, ref) for _, form, ref in questions])
        found: list[dict[str, bool | str]] = [{} for _ in groups]
        for g, form, ref in questions:  # True by any reference outranks a timeout, which outranks False
            verdict = equal[_pair_key(form, ref)]
            if verdict is not False and found[g].get(form.text) is not True:
                found[g][form.text] = verdict
        for g, group_forms in enumerate(forms):
            for r, form in enumerate(group_forms):
                if form is not None:
                    answers[g][r] = found[g].get(form.text, False)
        for (g, r, _, _), verdict in zip(metrics, self._metric([(t, la) for _, _, t, la in metrics]), strict=True):
            answers[g][r] = verdict
        return [
            [_verdict(answer, item, label) for answer, item in zip(group_answers, group_items, strict=True)]
            for group_answers, group_items, label in zip(answers, extracted, labels, strict=True)
        ]

    def verify_answers(
        self, answers: Sequence[str | None], labels: Sequence[str | None], *, tasks: Sequence[str] | None = None
    ) -> list[Verdict]:
        """Answers (a majority, an offline label) instead of responses, one a label; a missing answer is "no answer".

        In `authors` the answer is boxed again and goes through Math-Verify, as in their maj@32.
        """
        kinds = self._tasks([()] * len(answers), tasks)
        if len(labels) != len(answers):
            raise ValueError(f"{len(answers)} answers but {len(labels)} labels")
        items = [Extraction(answer, OK if answer else NO_ANSWER) for answer in answers]
        responses = [(f"\\boxed{{{item.answer}}}",) if item.answer else ("",) for item in items]
        return [v for group in self._verify(responses, [[i] for i in items], labels, kinds) for v in group]

    def equal(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether two answers (not responses) are equivalent in the grader's task; None equals nothing."""
        forms = [
            (None, None) if a is None or b is None else (self._form(a, self.task), self._form(b, self.task))
            for a, b in pairs
        ]
        equal = self._equal_forms([(a, b) for a, b in forms if a and b])
        return [bool(a and b) and equal[_pair_key(a, b)] is True for a, b in forms]

    # ---- inside

    def _check_task(self, task: str) -> None:
        if task != "math":
            reasoning_gym.check_task(task)

    def _tasks(self, groups: Sequence[Sequence[str]], tasks: Sequence[str] | None) -> Sequence[str]:
        if tasks is None:
            return [self.task] * len(groups)
        if len(tasks) != len(groups):
            raise ValueError(f"{len(groups)} groups but {len(tasks)} tasks")
        for task in set(tasks):
            self._check_task(task)
        return tasks

    def _extract_all(self, groups: Sequence[Sequence[str]]) -> list[list[Extraction]]:
        """Extractions of all groups; those of the previous call are used again for the very same texts."""
        old_texts, old_items = self._extracted
        texts = [tuple(group) for group in groups]
        items = []
        for i, group in enumerate(texts):
            same = i < len(old_texts) and len(group) == len(old_texts[i])
            if same and all(map(operator.is_, group, old_texts[i])):
                items.append(old_items[i])
            else:
                items.append([self._extract(text) for text in group])
        self._extracted = texts, items
        return items

    def _extract(self, text: str) -> Extraction:
        if self.preset == "authors" and self.extractor == "boxed":
            return boxed_authors(text)
        return extract(text, self.extractor)

    def _form(self, answer: str, task: str) -> Form | None:
        """The canonical form; of a Reasoning Gym answer its key as an opaque text, None if it has none."""
        if task == "math":
            form = parse(answer)
            return form if form.text else None
        key = reasoning_gym.key(reasoning_gym.plain(answer), task)
        return None if key is None else Form(OPAQUE, f"{task}:{key}")

    def _equal_forms(self, pairs: Sequence[tuple[Form, Form]]) -> dict[tuple[str, str], bool | str]:
        """Verdicts by pair key: True, False or "timeout"."""
        verdicts: dict[tuple[str, str], bool | str] = {}
        pending: dict[tuple[str, str], list[Any]] = {}
        for a, b in pairs:
            key = _pair_key(a, b)
            if key in verdicts or key in pending:
                continue
            decided = decide(a, b)
            if decided is not None:
                verdicts[key] = decided
            elif key in self._verdicts:
                self._counts["cache_hits"] += 1
                verdicts[key] = bool(self._verdicts[key]) if self._verdicts[key] != TIMEOUT else TIMEOUT
            else:
                pending[key] = ["equal", _source(key[0]), _source(key[1])]
        for key, answer in zip(pending, self._ask(list(pending.values())), strict=True):
            verdicts[key] = self._remember(key, answer)
        return verdicts

    def _metric(self, items: Sequence[tuple[str, str]]) -> list[bool | str]:
        """Math-Verify on (whole response, label), each distinct pair once."""
        keys = [
            ("metric", hashlib.blake2b(text.encode("utf-8", "surrogatepass")).hexdigest(), la) for text, la in items
        ]
        pending: dict[tuple[str, ...], list[Any]] = {}
        known: dict[tuple[str, ...], bool | str] = {}
        for key, (text, label) in zip(keys, items, strict=True):
            if key in self._verdicts:
                self._counts["cache_hits"] += 1
                found = self._verdicts[key]
                known[key] = TIMEOUT if found == TIMEOUT else bool(found)
            else:
                pending[key] = ["metric", text, label]
        for key, answer in zip(pending, self._ask(list(pending.values())), strict=True):
            known[key] = self._remember(key, answer)
        return [known[key] for key in keys]

    def _ask(self, jobs: list[list[Any]]) -> list[bool | str | None]:
        self._counts["compared"] += len(jobs)
        return self._pool.run(jobs) if jobs else []

    def _remember(self, key: tuple[str, ...], answer: bool | str | None) -> bool | str:
        verdict: bool | str = TIMEOUT if isinstance(answer, str) and answer != "error" else answer is True
        while len(self._verdicts) >= _CACHE_ENTRIES:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[key] = verdict
        return verdict


def _verdict(answer: bool | str, item: Extraction, label: str | None) -> Verdict:
    if label is None or not label.strip():
        return Verdict(False, NO_LABEL)
    if answer == TIMEOUT:
        return Verdict(False, TIMEOUT)
    return Verdict(answer is True, item.reason)


# A form travels as text: the name of an assignment comes back as `name=text`, so that the worker parses the same form.
def _key(form: Form) -> str:
    return f"{form.name}={form.text}" if form.name else form.text


def _pair_key(a: Form, b: Form) -> tuple[str, str]:
    x, y = f"{a.kind}\x1f{_key(a)}", f"{b.kind}\x1f{_key(b)}"
    return (x, y) if x <= y else (y, x)


def _source(key: str) -> str:
    return key.split("\x1f", 1)[1]


def _candidate_pairs(members: list[Form]) -> list[tuple[Form, Form]]:
    """Pairs of distinct forms that may be equal: exact numbers with different texts never are."""
    exact = [form for form in members if form.kind == NUMBER and not form.approximate]
    others = [form for form in members if form.kind != NUMBER or form.approximate]
    pairs = [(a, b) for a in others for b in exact]
    pairs += [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
    return pairs


def _boxed_integer_verdict(text: str, label: str) -> bool | None:
    r"""Math-Verify's verdict on a response with one `\boxed{integer}` and no other anchor; None if it must be asked.

    There Math-Verify's reading is that integer (priority 50, the only match before "answer: …" and plain numbers);
    tests/answers/test_answers_authors.py compares with Math-Verify itself. Without any digit or formula it reads
    nothing.
    """
    if not _PLAIN_INTEGER.fullmatch(label):
        return None
    if text.count("\\boxed") == 1 and "\\fbox" not in text and "final answer" not in text.lower():
        match = _ONE_BOX.search(text)
        if match:
            return int(match.group(1)) == int(label)
    if "\\" not in text and "$" not in text and "[" not in text and not any(char.isdigit() for char in text):
        return False
    return None


__all__ = ["NO_BOX", "NO_LABEL", "TIMEOUT", "Grader", "Preset", "Verdict", "Vote", "alternatives"]
