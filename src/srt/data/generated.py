"""Problems from Reasoning Gym: distinct, split by question text, the same on every machine.

Items are drawn in chunks of `CHUNK`. Reasoning Gym seeds item i of a data set with seed + i, so neighbouring seeds give
nearly the same items. Each chunk therefore gets a seed hashed from everything that defines it. A chunk does not depend
on the requested size, so a smaller data set is the beginning of a larger one.

Reasoning Gym's metadata is dropped, because its scorers recompute the true answer from it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from srt.common import io
from srt.common.errors import SrtError, nearest
from srt.data.arithmetic import exact_value
from srt.data.keys import generated_split, hash_share, question_key, short_hash
from srt.data.kinship import relationship

if TYPE_CHECKING:
    from srt.config.datasets import MixPart, ReasoningGymDataset

CHUNK = 1000
# The questions count as exhausted after this many draws in a row without a new one, plus PATIENCE_EACH per question
# found. The probability that the last of n questions in the split is missed is below exp(-10).
PATIENCE, PATIENCE_EACH = 5000, 40
# Measured with reasoning_gym 0.1.25, by generating in processes with different string hash seeds.
HASH_SEED_DEPENDENT = frozenset(
    {
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
UNSEEDED = frozenset({"codeio", "list_functions"})


class _Stream:
    """Yields, endlessly and in a fixed order, questions that one parameter set generates and that fall in the split."""

    def __init__(self, config: ReasoningGymDataset, part: MixPart | ReasoningGymDataset, label: str) -> None:
        self.config, self.params, self.level, self.label = config, dict(part.params), part.level, label
        self.draws = self.other_split = self.repeated = self.wrong = 0

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All items as (category, entry), chunk after chunk."""
        identity = io.canonical_json([self.config.name, self.params, self.config.seed])
        chunk = 0
        while True:
            # 31 bits: some families pass seed + index to NumPy's legacy generators
            seed = int(hash_share(f"chunk-{chunk}", identity) * 2**31)
            dataset = _create(self.config.name, self.params, seed, self.label)
            for index in range(CHUNK):
                self.draws += 1
                try:
                    entry = dataset[index]
                except (AssertionError, ValueError, TypeError, IndexError, KeyError) as error:
                    raise SrtError(
                        f"{self.label}: reasoning_gym's '{self.config.name}' fails on params {self.params} "
                        f"({type(error).__name__}: {error}): change `params`"
                    ) from error
                yield dataset.category, entry
            chunk += 1

    def rows(self, seen: set[str]) -> Iterator[dict[str, str]]:
        """Rows with questions that are not in `seen`, to which they are added; an `SrtError` when there are no more."""
        found, last = 0, 0
        for category, entry in self.entries():
            question, answer = str(entry["question"]), str(entry["answer"]).strip()
            key = question_key(question)
            if generated_split(question) != self.config.split:
                self.other_split += 1
            elif key in seen:
                self.repeated += 1
            elif not answer or not label_is_right(self.config.name, entry, self.params):
                self.wrong += 1
            else:
                seen.add(key)
                found, last = found + 1, self.draws
                yield {
                    "id": f"{self.config.name}-{short_hash(key)}",
                    "problem": question,
                    "answer": answer,
                    "source": f"reasoning_gym/{self.config.name}",
                    "subject": category,
                    "level": self.level,
                    "task": self.config.task or self.config.name,
                }
            if self.draws - last > PATIENCE + PATIENCE_EACH * found:
                raise SrtError(
                    f"{self.label}: '{self.config.name}' with params {self.params} has only {found} distinct "
                    f"questions for split '{self.config.split}' ({self.draws} drawn): lower `size` or widen `params`"
                )


def generate(config: ReasoningGymDataset, name: str, progress: Any = iter) -> tuple[list[dict[str, str]], dict]:
    """`config.size` distinct problem rows, and counts of what was drawn; `progress` wraps the range of rows.

    The parts of a mix are interleaved: row i goes to the part that is furthest behind weight / sum * (i + 1), so at
    every length each part's count is right to about one row.
    """
    check_name(config.name, name)
    if config.mix:
        labels = [f"data set '{name}', mix part {i} ('{part.level}')" for i, part in enumerate(config.mix)]
        streams = [_Stream(config, part, label) for part, label in zip(config.mix, labels, strict=True)]
        weights = [part.weight for part in config.mix]
    else:
        streams, weights = [_Stream(config, config, f"data set '{name}'")], [1]
    seen: set[str] = set()
    sources = [stream.rows(seen) for stream in streams]
    total, taken = sum(weights), [0] * len(weights)
    rows = []
    for position in progress(range(config.size)):
        lag = [weight * (position + 1) - total * count for weight, count in zip(weights, taken, strict=True)]
        part = lag.index(max(lag))
        taken[part] += 1
        rows.append(next(sources[part]))
    counts = {
        "drawn": sum(stream.draws for stream in streams),
        "in_the_other_split": sum(stream.other_split for stream in streams),
        "repeated_questions": sum(stream.repeated for stream in streams),
        "wrong_label_upstream": sum(stream.wrong for stream in streams),
        "kept": len(rows),
    }
    return rows, counts


def label_is_right(name: str, entry: dict[str, Any], params: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """False for entries of `basic_arithmetic` and `family_relationships` that answer their question wrongly.

    With reasoning_gym 0.1.25:

    - `basic_arithmetic` uses floor division. Without parentheses it evaluates from left to right and may print other
      operands than it used. 0.7 % of the answers are wrong with its default parameters, and 64 % with
      `allow_parentheses: false`.
    - `family_relationships` asks what A is to B. If B is a parent of A's spouse, it answers with what B is to A (a
      daughter-in-law is called mother-in-law). For nieces and nephews it uses B's sex.

    Args:
        params: the generator's parameters; only `male_names` is used.
    """
    if name == "basic_arithmetic":
        return exact_value(entry["metadata"]["expression"]) == Fraction(entry["answer"])
    if name == "family_relationships":
        from reasoning_gym.graphs.family_relationships import FamilyRelationshipsConfig

        story, told = entry["question"].split("\n\n")[0], entry["metadata"]
        male = params.get("male_names") or FamilyRelationshipsConfig().male_names
        return relationship(story, told["person1"], told["person2"], male) == entry["answer"]
    return True


def check_name(family: str, name: str) -> None:
    """Raise an `SrtError` for a family that Reasoning Gym lacks or that cannot be generated reproducibly."""
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS or family == "composite":
        raise SrtError(f"data set '{name}': reasoning_gym has no '{family}'{nearest(family, DATASETS)}")
    if family in UNSEEDED:
        raise SrtError(
            f"data set '{name}': reasoning_gym's '{family}' ignores its seed and cannot be reproduced: choose another"
        )
    if family in HASH_SEED_DEPENDENT and sys.flags.hash_randomization:
        raise SrtError(
            f"data set '{name}': reasoning_gym's '{family}' depends on Python's string hashes: "
            "run with the environment variable PYTHONHASHSEED=0"
        )


def _create(family: str, params: dict[str, Any], seed: int, label: str) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    fields = {field.name for field in dataclasses.fields(DATASETS[family][1])} - {"seed", "size"}
    for key in params:
        if key not in fields:
            raise SrtError(f"{label}: reasoning_gym's '{family}' has no parameter '{key}'{nearest(key, fields)}")
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=CHUNK, **params)
    except (AssertionError, ValueError, TypeError) as error:
        detail = str(error) or "a value is out of range"
        raise SrtError(
            f"{label}: reasoning_gym's '{family}' refuses params {params} ({detail}): correct them"
        ) from error
