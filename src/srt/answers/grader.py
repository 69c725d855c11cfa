r"""Votes and verdicts for the trainer and the scorer.

Presets. `clean` (the paper's text): answers fall into equivalence classes, votes are counted per class, and a response
is correct if its answer and the label are equivalent. `authors` (their code): votes are counted per raw string, the
first seen wins a tie, and a response is correct if Math-Verify says so of the *whole response*.

Costs: answers are extracted and put into canonical form in this process. Only formulas with different canonical texts
go to comparison processes, which start with the first such pair. Verdicts are cached by meaning, so 32 samples cost as
much as their distinct answers. Nothing depends on the order of responses or groups, except the authors' tie rule.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from srt.answers import reasoning_gym
from srt.answers.canonical import parse
from srt.answers.comparison_pool import ComparisonPool
from srt.answers.equivalence import decide
from srt.answers.extract import EXTRACTORS, MAX_ANSWER_CHARS, OK, Extraction, boxed_authors, extract
from srt.answers.form import NUMBER, OPAQUE, Form
from srt.answers.votes import Vote, authors_vote, clean_vote
from srt.common.errors import SrtError, nearest
from srt.common.own_code import is_own, load

if TYPE_CHECKING:
    from srt.config.base import VotePreset

NO_LABEL, NO_ANSWER, TIMEOUT = "no label", "no answer", "timeout"

Outcome = bool | str  # of a comparison: equal, not equal, or TIMEOUT

_CACHE_ENTRIES = 1 << 18  # maximum number of outcomes kept; about 100 MB


@dataclass(frozen=True)
class Verdict:
    """Whether a response is correct; `reason` is "ok", an extraction's reason, "timeout" or "no label"."""

    correct: bool
    reason: str


class _Question(NamedTuple):
    """A pair to compare for some responses of a group: an answer with a reference, or a whole text with the label."""

    group: int
    responses: list[int]
    pair: tuple[Any, Any]  # of `Form`s, or of texts


# The authors' whole-response verdict needs no Math-Verify if one boxed integer is the only anchored answer.
_ONE_BOX = re.compile(r"\\boxed\{(-?\d{1,300})\}(?!\s*(?:\$+|\\\]|\\\))?\s*(?:\\?%|[Pp]ercent|[Pp]ct))", re.ASCII)
_PLAIN_INTEGER = re.compile(r"-?\d{1,300}", re.ASCII)
# An AIME key with two accepted answers ("080 or 081", 2022 II 8): three digits each, as only AIME writes them.
_AIME_KEYS = re.compile(r"\d{3}(?: or \d{3})+", re.ASCII)

# "12^{\mathrm{th}}\text{ grade}": a number with the mark of an ordinal, and perhaps what it counts.
_ROMAN = r"\\(?:text(?:rm|bf|it)?|mathrm)\s*\{"
_ORDINAL = re.compile(
    rf"\$?\s*(\d{{1,300}})\s*\^?\s*\{{?\s*(?:{_ROMAN})?\s*(?:st|nd|rd|th)(?![A-Za-z])(?:\s*\}}){{0,2}}"
    rf"(?:(?:\s|\\[,;: ]|~)*(?:{_ROMAN}[^{{}}\d]{{1,40}}\}}|[A-Za-z]{{1,20}}))?\s*\.?\s*\$?",
    re.ASCII,
)


def alternatives(label: str) -> tuple[str, ...]:
    """The answers that a reference accepts: itself, and each key of an AIME answer such as "080 or 081"."""
    return (label, *label.split(" or ")) if _AIME_KEYS.fullmatch(label.strip()) else (label,)


def _text(value: object, function: str) -> str | None:
    """What a function of the user returned: text without white space around it; None where it is None or empty."""
    if value is not None and not isinstance(value, str):
        raise SrtError(f"{function} returned {value!r}: return text, or None for no answer")
    return (value or "").strip()[:MAX_ANSWER_CHARS] or None


class Grader:
    """Grades groups of responses; a context manager that owns its comparison processes.

    Args:
        preset, extractor, task: see docs/answers.md; `task` is "math" or a covered task of Reasoning Gym.
        timeout_s, memory_mb: CPU seconds and MiB of one comparison.
        workers: number of comparison processes.
        own_tasks: tasks that are functions of the user, `module:function@hash`: the key of an answer, as text, or None
            where it has no meaning. Two answers are the same exactly if their keys are.
    """

    def __init__(
        self,
        preset: VotePreset = "clean",
        extractor: str = "boxed",
        task: str = "math",
        timeout_s: float = 5.0,
        memory_mb: int = 2048,
        workers: int = 1,
        own_tasks: Sequence[str] = (),
    ) -> None:
        if preset not in ("authors", "clean"):
            raise SrtError(f"unknown grading preset '{preset}'{nearest(preset, ('authors', 'clean'))}")
        if extractor not in EXTRACTORS and not is_own(extractor):
            raise SrtError(f"unknown extractor '{extractor}'{nearest(extractor, EXTRACTORS)}")
        if timeout_s <= 0 or workers < 1 or memory_mb < 256:
            raise SrtError(
                "grading needs timeout_s > 0, workers >= 1 and memory_mb >= 256, "
                f"not {timeout_s}, {workers}, {memory_mb}"
            )
        self.preset, self.extractor, self.task = preset, extractor, task
        self._own_extractor = load("extractor", extractor) if is_own(extractor) else None
        self._own_keys = {name.partition("@")[0]: load("task", name) for name in own_tasks}
        self._check_task(task)
        self._pool = ComparisonPool(workers, timeout_s, memory_mb)
        self._outcomes: dict[tuple[str, ...], Outcome] = {}
        self._counts: Counter[str] = Counter()
        self._extracted: tuple[list[tuple[str, ...]], list[list[Extraction]]] = ([], [])

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the comparison processes; the grader stays usable and starts new ones."""
        self._pool.close()

    @property
    def counters(self) -> dict[str, int]:
        """Counts so far.

        `compared`: pairs sent to a comparison process; `cache_hits`; `timeouts`, `memory_kills` and `crashes`: killed
        comparisons, all reported as "timeout"; `errors`: the libraries raised, so the pair is not equal;
        `processes_started`, `process_restarts`.
        """
        names = ("compared", "cache_hits", "timeouts", "memory_kills", "crashes", "errors")
        names += ("processes_started", "process_restarts")
        return {name: self._counts[name] + self._pool.counters[name] for name in names}

    # ---- votes

    def vote(
        self, groups: Sequence[Sequence[str]], *, tasks: Sequence[str] | None = None, evaluation: bool = False
    ) -> list[Vote]:
        """The vote of each group (the n responses of one prompt). `tasks`, one per group, overrides `task`.

        `evaluation` matters for `authors` only: an empty box counts as a vote in their training, but not in maj@32.
        """
        kinds = self._tasks(groups, tasks)
        extracted = self._extract_all(groups)
        if self.preset == "authors":
            return [authors_vote(items, evaluation) for items in extracted]
        forms = [
            [self._form(item.answer, kind) for item in group] for group, kind in zip(extracted, kinds, strict=True)
        ]
        # All undecided pairs of all groups go to the comparison processes as one batch.
        pairs = [_candidate_pairs(list({f.text: f for f in group if f}.values())) for group in forms]
        outcomes = iter(self._equal([pair for group in pairs for pair in group]))
        return [
            clean_vote(items, found, [pair for pair in group_pairs if next(outcomes) is True])
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
        """Grade each response of a group against the group's label: the truth, the majority or an offline label.

        With a None or empty label, every response of the group is incorrect with the reason "no label".
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
        outcomes: list[list[Outcome]] = [[False] * len(group) for group in groups]
        by_answer: list[_Question] = []
        by_text: list[_Question] = []
        for g, (texts, items, label, kind) in enumerate(zip(groups, extracted, labels, kinds, strict=True)):
            if label is None or not label.strip():
                continue
            if self.preset != "authors" or kind != "math":
                by_answer += self._answer_questions(g, items, label, kind)
                continue
            for r, text in enumerate(texts):
                known = _boxed_integer_verdict(text, label)
                if known is None:
                    by_text.append(_Question(g, [r], (text, label)))
                else:
                    outcomes[g][r] = known
        found = self._equal([q.pair for q in by_answer]) + self._whole_text_equal([q.pair for q in by_text])
        for question, outcome in zip(by_answer + by_text, found, strict=True):
            for r in question.responses:  # with several references, "equal" outranks a timeout, which outranks False
                if outcome is not False and outcomes[question.group][r] is not True:
                    outcomes[question.group][r] = outcome
        return [
            [_verdict(outcome, item, label) for outcome, item in zip(group, items, strict=True)]
            for group, items, label in zip(outcomes, extracted, labels, strict=True)
        ]

    def _answer_questions(self, group: int, items: Sequence[Extraction], label: str, kind: str) -> list[_Question]:
        """Each distinct answer of a group with each reference that the label accepts."""
        options = alternatives(label) if kind == "math" else (label,)
        references = [form for option in options if (form := self._form(option, kind))]
        forms: dict[str, Form] = {}
        responses: dict[str, list[int]] = {}
        parsed: dict[str | None, Form | None] = {}  # most responses of a group have an answer that others have
        for r, item in enumerate(items):
            if item.answer not in parsed:
                parsed[item.answer] = self._form(_beside(item.answer, label), kind)
            if form := parsed[item.answer]:
                forms[form.text] = form
                responses.setdefault(form.text, []).append(r)
        return [_Question(group, responses[text], (forms[text], ref)) for text in forms for ref in references]

    def verify_answers(
        self, answers: Sequence[str | None], labels: Sequence[str | None], *, tasks: Sequence[str] | None = None
    ) -> list[Verdict]:
        """Grade answers (a majority, an offline label) instead of responses, one per label; None is "no answer".

        In `authors` the answer is boxed again and goes through Math-Verify, as in their maj@32.
        """
        kinds = self._tasks([()] * len(answers), tasks)
        if len(labels) != len(answers):
            raise ValueError(f"{len(answers)} answers but {len(labels)} labels")
        items = [Extraction(answer, OK if answer else NO_ANSWER) for answer in answers]
        responses = [(f"\\boxed{{{item.answer}}}",) if item.answer else ("",) for item in items]
        return [v for group in self._verify(responses, [[i] for i in items], labels, kinds) for v in group]

    def equal(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether each answer (not response) is equivalent to its reference in the grader's task; None never is."""
        forms = [(self._form(_beside(a, b), self.task), self._form(b, self.task)) for a, b in pairs]
        outcomes = iter(self._equal([(a, b) for a, b in forms if a and b]))
        return [bool(a and b) and next(outcomes) is True for a, b in forms]

    # ---- inside

    def _check_task(self, task: str) -> None:
        if is_own(task):
            if task not in self._own_keys:
                raise SrtError(f"the task '{task}' is a function of yours: name it under own_tasks")
        elif task != "math":
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
        """Extractions of all groups; those of the previous call are reused for identical text objects."""
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
        if self._own_extractor is not None:
            answer = _text(self._own_extractor(response=text), self.extractor)
            return Extraction(answer, OK) if answer else Extraction(None, NO_ANSWER)
        if self.preset == "authors" and self.extractor == "boxed":
            return boxed_authors(text)
        return extract(text, self.extractor)

    def _form(self, answer: str | None, task: str) -> Form | None:
        """The canonical form of an answer, for Reasoning Gym its key as an opaque text; None if it has none."""
        if answer is None:
            return None
        if task == "math":
            form = parse(answer)
            return form if form.text else None
        if is_own(task):
            key = _text(self._own_keys[task](answer=answer), task)
        else:
            key = reasoning_gym.key(reasoning_gym.plain(answer), task)
        return None if key is None else Form(OPAQUE, f"{task}:{key}")

    def _equal(self, pairs: Sequence[tuple[Form, Form]]) -> list[Outcome]:
        """Whether the forms of each pair are equal."""
        keys = [_pair_key(a, b) for a, b in pairs]
        outcomes: dict[tuple[str, ...], Outcome] = {}
        jobs: dict[tuple[str, ...], list[Any]] = {}
        for key, (a, b) in zip(keys, pairs, strict=True):
            if key in outcomes or key in jobs:
                continue
            decided = decide(a, b)
            if decided is None:
                jobs[key] = ["equal", _source(key[0]), _source(key[1])]
            else:
                outcomes[key] = decided
        outcomes |= self._compare(jobs)
        return [outcomes[key] for key in keys]

    def _whole_text_equal(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Math-Verify's verdict on each (whole response, label)."""
        keys = [("metric", hashlib.blake2b(t.encode("utf-8", "surrogatepass")).hexdigest(), la) for t, la in pairs]
        outcomes = self._compare({key: ["metric", *pair] for key, pair in zip(keys, pairs, strict=True)})
        return [outcomes[key] for key in keys]

    def _compare(self, jobs: dict[tuple[str, ...], list[Any]]) -> dict[tuple[str, ...], Outcome]:
        """Outcomes of jobs for the comparison processes by key; those in the cache are not compared again."""
        outcomes = {key: self._outcomes[key] for key in jobs if key in self._outcomes}
        self._counts["cache_hits"] += len(outcomes)
        pending = [key for key in jobs if key not in outcomes]
        self._counts["compared"] += len(pending)
        for key, answer in zip(pending, self._pool.run([jobs[key] for key in pending]), strict=True):
            killed = isinstance(answer, str) and answer != "error"
            outcomes[key] = TIMEOUT if killed else answer is True
            while len(self._outcomes) >= _CACHE_ENTRIES:
                del self._outcomes[next(iter(self._outcomes))]
            self._outcomes[key] = outcomes[key]
        return outcomes


def _verdict(outcome: Outcome, item: Extraction, label: str | None) -> Verdict:
    if label is None or not label.strip():
        return Verdict(False, NO_LABEL)
    if outcome == TIMEOUT:
        return Verdict(False, TIMEOUT)
    return Verdict(outcome is True, item.reason)


def _beside(answer: str | None, reference: str | None) -> str | None:
    """An answer as compared with a reference; an ordinal ("12th grade") is a number if the reference is one."""
    if not answer or answer[-1].isdigit() or not reference or not _PLAIN_INTEGER.fullmatch(reference.strip()):
        return answer
    ordinal = _ORDINAL.fullmatch(answer)
    return ordinal[1] if ordinal else answer


def _key(form: Form) -> str:
    """The text from which a comparison process parses the same form again: the name of an assignment is put back."""
    return f"{form.name}={form.text}" if form.name else form.text


def _pair_key(a: Form, b: Form) -> tuple[str, str]:
    x, y = f"{a.kind}\x1f{_key(a)}", f"{b.kind}\x1f{_key(b)}"
    return (x, y) if x <= y else (y, x)


def _source(key: str) -> str:
    return key.split("\x1f", 1)[1]


def _candidate_pairs(members: list[Form]) -> list[tuple[Form, Form]]:
    """Pairs of distinct forms that may be equal; exact numbers with different texts never are."""
    exact = [form for form in members if form.kind == NUMBER and not form.approximate]
    others = [form for form in members if form.kind != NUMBER or form.approximate]
    pairs = [(a, b) for a in others for b in exact]
    pairs += [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
    return pairs


def _boxed_integer_verdict(text: str, label: str) -> bool | None:
    r"""Math-Verify's verdict on a response with one `\boxed{integer}` and no other anchor; None if it must be asked.

    Math-Verify then parses that integer: its priority of 50 is before "answer: …" and plain numbers. In a response
    without any digit or formula it finds no answer. The tests compare this function with Math-Verify itself.
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
