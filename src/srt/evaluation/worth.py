"""Whether a model can learn from its own votes on a data set, from a few samples of the base model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.io import parquet_metadata, read_parquet, write_parquet
from srt.evaluation.sampling import sample
from srt.evaluation.scoring import score_file
from srt.metrics.intervals import one_run_interval

SEED = 0  # of the choice of problems
FEW_ANSWERS, MANY_CUT = 0.5, 0.2  # shares of responses with an answer, and cut at the maximum length, that need a word


@dataclass(frozen=True)
class Worth:
    """What the samples show: `groups` has a row per problem, answers are what `extractor` reads (docs/answers.md)."""

    groups: pd.DataFrame
    extractor: str = "boxed"

    @property
    def gap(self) -> tuple[float, float, float]:
        """maj@n minus avg@n, paired by problem, with its 95 % interval over problems."""
        return one_run_interval(self._majority - self.groups["pass_rate"].to_numpy(), share=False)

    @property
    def worth(self) -> bool:
        """Whether the majority is right more often than an answer is, beyond an interval that has a width."""
        _, lo, hi = self.gap
        return bool(0 < lo < hi)

    @property
    def _majority(self) -> np.ndarray:
        return self.groups["majority_correct"].fillna(False).to_numpy(dtype=np.float64)

    def lines(self) -> list[str]:
        """The measures with their 95 % intervals over problems, what to mend first, and the verdict in one sentence."""
        groups, n = self.groups, int(self.groups["n"].iloc[0])
        answers, cut = (_interval_of(groups[column] / groups["n"]) for column in ("parsed", "truncated"))
        rows = [
            (f"avg@{n}", _interval_of(groups["pass_rate"]), "a response is right"),
            (f"maj@{n}", _interval_of(self._majority), "the majority of a problem's answers is right"),
            ("gap", self.gap, f"maj@{n} minus avg@{n}"),
            ("agreement", _interval_of(groups["consistency_all"]), "a response agrees with the majority"),
            ("answers", answers, f"a response has an answer (extractor {self.extractor})"),
            ("cut", cut, "a response is cut at the maximum length"),
        ]
        said = [f"{len(groups)} problems, {n} responses each; shares with 95 % intervals over problems"]
        said += [f"  {name:<10} {_shown(found, '+' * (name == 'gap')):<24} {what}" for name, found, what in rows]
        if answers[0] < FEW_ANSWERS:
            said.append(
                f"Only {answers[0]:.0%} of the responses have an answer: ask for it with --suffix (key prompt_suffix), "
                "or show it with examples (key examples of the model)."
            )
        if cut[0] > MANY_CUT:
            said.append(f"{cut[0]:.0%} of the responses are cut: raise --max-new-tokens (key max_new_tokens).")
        said.append(self._verdict())
        return said

    def _verdict(self) -> str:
        gap, (_, lo, hi) = f"gap {_shown(self.gap, '+')}", self.gap
        if self.worth:
            return f"worth self-training: {gap}"
        if lo == hi:
            return f"not shown to be worth self-training: {gap} has no width, as all problems have the same gap"
        if hi < 0:
            return f"not worth self-training: {gap}, the majority is wrong more often than an answer is"
        return f"not shown to be worth self-training: {gap} includes 0; more --problems narrow it"


def _interval_of(shares: pd.Series | np.ndarray) -> tuple[float, float, float]:
    """Mean of one share per problem, with its 95 % interval over problems."""
    return one_run_interval(np.asarray(shares, dtype=np.float64))


def _shown(found: tuple[float, float, float], sign: str = "") -> str:
    return "{0:{s}.3f} [{1:{s}.3f}, {2:{s}.3f}]".format(*found, s=sign)


def measure(
    spec: dict[str, Any], checkpoint: Path, file: Path, problems: int, extractor: str, own_tasks: Sequence[str] = ()
) -> Worth:
    """Sample and grade.

    Args:
        spec: sampling settings (`srt.evaluation.sampling.SPEC`).
        file: problem table, of which `problems` rows are drawn at random, always the same ones.

    Raises:
        SrtError: problems without a true answer, which no share of right answers can be known for.
    """
    table = read_parquet(file)
    known = np.flatnonzero([answer is not None for answer in table.column("answer").to_pylist()])
    if len(known) < 2:
        raise SrtError(f"{file} has fewer than two problems with an answer: name a table with answers")
    chosen = np.sort(np.random.default_rng(SEED).permutation(known)[:problems])
    with tempfile.TemporaryDirectory() as place:
        few, samples, scores, groups = (
            Path(place, f"{name}.parquet") for name in ("few", "samples", "scores", "groups")
        )
        write_parquet(few, table.take(chosen), {"dataset": parquet_metadata(file).get("dataset", file.stem)})
        sample(spec, checkpoint, [few], samples)
        with Grader(extractor=extractor, own_tasks=own_tasks) as grader:
            score_file(samples, [few], scores, groups, grader)
        return Worth(read_parquet(groups).to_pandas(), extractor)
