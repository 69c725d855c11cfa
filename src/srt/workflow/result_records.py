"""The records beside the results, asked in Snakemake's place whether a result is up to date.

`srt.artefacts.records` says what a record is; `srt.workflow.patches` makes Snakemake ask here. For the rules in
RECORDED:

- a result with a record is planned again if its parameters or inputs differ from the record, never for file times;
- a result without one that Snakemake has records of is judged by these, and gets its record when a run starts;
- a result that neither knows is of unknown origin: it is never made again in silence, and no run uses it until
  `srt adopt` has written its record.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.persistence import ParamsChange

from srt.artefacts.records import RECORDED, Made, Records
from srt.common.errors import SrtError

ADOPT = "SRT_ADOPT"  # set by `srt adopt`: the person who calls it vouches for results of unknown origin


def are_there(job: Any) -> bool:
    """Whether a job's outputs exist, apart from temporary ones."""
    return all(Path(output).exists() for output in job.output if output not in job.temp_output)


class ResultRecords:
    """The records of a results folder in Snakemake's place, and what they said of the jobs that were looked at."""

    def __init__(self, results: Path) -> None:
        self.records = Records(results)
        self.rules = {name: name for name in RECORDED}  # name here: name in `rules/`; a module's rules have a prefix
        self.stale: dict[str, list[str]] = {}  # first output: phrases
        self.unknown: dict[str, Made] = {}
        self.adoptable: dict[str, Made] = {}
        self.jobs_started = False
        self.then: Callable[[Any], None] = lambda job: None  # called after each job that ended well

    def concern(self, job: Any) -> bool:
        """Whether the results of a job's rule have records."""
        return job.rule.name in self.rules

    def made_of(self, job: Any) -> Made:
        """What a job of Snakemake makes, and from what; parameters made from inputs or outputs are left out."""
        own = [repr(value) for value in job.non_derived_params]
        params = {name: value for name, value in job.params.items() if repr(value) in own}
        return Made(self.rules[job.rule.name], params, tuple(map(str, job.input)), tuple(map(str, job.output)))

    def differences(self, job: Any) -> list[str] | None:
        """As `Records.differences`, remembered."""
        made = self.made_of(job)
        said = self.records.differences(made)
        if said:
            self.stale[made.outputs[0]] = said
        return said

    def knows(self, job: Any) -> bool:
        """Whether the result of a job is one of those that have records, and has one."""
        return self.concern(job) and self.records.get(self.made_of(job)) is not None

    def note(self, job: Any, where: dict[str, Made]) -> None:
        """Add a job to `unknown` or `adoptable`."""
        made = self.made_of(job)
        where[made.outputs[0]] = made

    def made(self, job: Any) -> None:
        """Write the record of a job that ended well."""
        made = self.made_of(job)
        self.records.write(made)
        self.stale.pop(made.outputs[0], None)

    def adopt(self, which: dict[str, Made]) -> int:
        """Write records of results that are taken as they are; return how many."""
        for made in which.values():
            self.records.write(made)
        number = len(which)
        which.clear()
        return number

    def start(self) -> None:
        """Before the first job: record what Snakemake's records vouch for.

        Raises:
            SrtError: results of unknown origin, which jobs would read.
        """
        if self.unknown:
            raise SrtError(self.sentences()[-1])
        self.adopt(self.adoptable)
        self.jobs_started = True

    def sentences(self) -> list[str]:
        """What is stale and what is unknown, each in a sentence."""
        said = []
        if self.stale:
            first, phrases = next(iter(self.stale.items()))
            said.append(
                f"{len(self.stale)} results are not what the configuration asks for and are made again with all that "
                f"follows from them: {first} was made with {'; '.join(phrases)}{_more(self.stale)}"
            )
        if self.unknown:
            said.append(
                f"{len(self.unknown)} results are of unknown origin, as nothing records what they were made from: "
                f"{next(iter(self.unknown))}{_more(self.unknown)}. Take them on with `srt adopt`, or delete them"
            )
        return said


def _more(which: dict[str, Any]) -> str:
    return f" ({len(which) - 1} more)" if len(which) > 1 else ""


@functools.cache
def records_of(results: Path) -> ResultRecords:
    """The one object of a results folder in this process."""
    return ResultRecords(results)


class UpToDate:
    """A paragraph for the report's first page, made when the page is written: the plan is known by then."""

    def __init__(self, known: ResultRecords) -> None:
        self._known = known

    def __str__(self) -> str:
        sentences = self._known.sentences()
        if not sentences:
            return "All data, models, samples, scores, labels and runs were made with the configuration of this report."
        first = "**Not all results below were made with the configuration of this report.**"
        return " ".join([first, *(f"{sentence}." for sentence in sentences)])


def report_at_the_end(known: ResultRecords, dry_run: bool) -> None:
    """Say what was found; write the records that are missing, unless nothing may be written."""
    if os.environ.get(ADOPT):
        print(f"{known.adopt(known.unknown) + known.adopt(known.adoptable)} results adopted", file=sys.stderr)
    elif not dry_run and not known.jobs_started:  # with nothing to be done no job started, and `onstart` did not run
        known.adopt(known.adoptable)
    for sentence in known.sentences():
        print(sentence, file=sys.stderr)


# -- what Snakemake calls in place of its own functions (srt.workflow.patches) ---------------------------------------


@dataclass
class Differences(ParamsChange):
    """The reason of a job whose result differs from its record, as Snakemake prints it."""

    phrases: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.phrases)

    def __str__(self) -> str:
        return f"it was made with {'; '.join(self.phrases)}"


def knowing_records(original: Callable[..., bool], results: Path) -> Callable[..., bool]:
    """`PersistenceBase.has_metadata` that counts a record; without either the result's origin is unknown."""
    known = records_of(results)

    def has_metadata(persistence: Any, job: Any) -> bool:
        if known.knows(job):
            return True
        has = original(persistence, job)
        if known.concern(job) and not has and are_there(job):
            known.note(job, known.unknown)
        return has

    return has_metadata


def never_outdated(original: Callable[..., bool], results: Path) -> Callable[..., bool]:
    """`PersistenceBase.has_outdated_metadata`, which is not asked of results that have a record."""
    known = records_of(results)

    def has_outdated_metadata(persistence: Any, job: Any) -> bool:
        return not known.knows(job) and original(persistence, job)

    return has_outdated_metadata


def differing_from_record(original: Callable[..., Any], results: Path) -> Callable[..., Any]:
    """`PersistenceBase.params_changed` that compares with the record, parameters and inputs alike."""
    known = records_of(results)

    def params_changed(persistence: Any, job: Any, file: Any = None) -> Any:
        said = known.differences(job) if known.concern(job) else None
        if said is not None:
            return Differences(files={str(job.output[0])} if said else set(), phrases=tuple(said))
        change = original(persistence, job, file)
        if (
            known.concern(job)
            and are_there(job)
            and persistence.has_metadata(job)
            and not change
            and not any(persistence.input_changed(job))
        ):
            known.note(job, known.adoptable)
        return change

    return params_changed


def inputs_by_record(original: Callable[..., Any], results: Path) -> Callable[..., Any]:
    """`PersistenceBase.input_changed`, which is answered by `params_changed` for results that have a record."""
    known = records_of(results)

    def input_changed(persistence: Any, job: Any, file: Any = None) -> Any:
        if known.knows(job):
            return iter(()) if file is None else False
        return original(persistence, job, file)

    return input_changed


def without_record(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`PersistenceBase.started` that removes the record: until the job ends well, its outputs have no known origin."""
    known = records_of(results)

    def started(persistence: Any, job: Any, external_jobid: str | None = None) -> None:
        if known.concern(job):
            known.records.drop(known.made_of(job))
        original(persistence, job, external_jobid)

    return started


def with_record(original: Callable[..., Any], results: Path) -> Callable[..., Any]:
    """`Job.postprocess` that also writes the record of a job that ended well."""
    known = records_of(results)

    async def postprocess(job: Any, *args: Any, **options: Any) -> None:
        await original(job, *args, **options)
        if known.concern(job) and job.dag.workflow.is_main_process and not options.get("error"):
            known.made(job)
            known.then(job)

    return postprocess


def newer_than_any_input(original: Callable[..., Any], results: Path) -> Callable[..., Any]:
    """`Job.output_mintime` that is infinite for results with a record, whose inputs are compared by content.

    Also for results of unknown origin: the times of a copy would make them again in silence.
    """
    known = records_of(results)

    async def output_mintime(job: Any) -> float | None:
        time = await original(job)
        if time is None or not known.concern(job):
            return time
        by_snakemake = all(job.dag.workflow.persistence.metadata(path) is not None for path in job.output)
        return time if by_snakemake and not known.knows(job) else math.inf

    return output_mintime
