"""The jobs of a configuration and their files, as the rules make them, without Snakemake: thousands take seconds.

The job that makes a file is found by the file's name; then come the jobs that make its inputs, and so on. Jobs whose
outputs no other job reads (figures, tables, pages) are `leaves`. This mirrors `rules/`; `tests/plan/test_plan.py`
compares the two in a real dry-run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from srt.artefacts.evaluations import BASE, evaluated, evaluations
from srt.artefacts.gradings import resolve_gradings
from srt.artefacts.paths import Paths
from srt.artefacts.training_inputs import segment_inputs, suite_problems
from srt.audit.resolve import audited_sets
from srt.browser.resolve import page_files, page_problems, pages
from srt.claims.resolve import resolve_claims
from srt.common.errors import SrtError
from srt.config.root import Config
from srt.config.runs import checkpoint_at, run_and_step
from srt.figures.resolve import resolve_figure

GPU_RULES = ("train", "train_last", "sample")
# What people call the work of a rule, in the order in which the stages begin. The rules of figures are those of the
# configuration; every other rule makes a table.
FIGURES, TABLES = "figures", "tables"
STAGE_OF = {
    "data": "data", "base_model": "base models", "sample": "sampling", "score": "scoring", "labels": "labels",
    "preferences": "labels", "curriculum": "labels", "train": "training", "train_last": "training",
    "browser": "rollout pages", "browser_list": "rollout pages",
}  # fmt: skip
STAGES = ("data", "base models", "sampling", "scoring", "labels", "training", FIGURES, TABLES, "rollout pages")


@dataclass(frozen=True)
class Job:
    """One job.

    name: tells the jobs of a rule apart. temp: outputs that are deleted when all jobs have read them. benchmark: where
    Snakemake writes how long the job took, "" where it does not. prunable: the output, also in `outputs` or `temp`,
    that may be deleted once all that is made from it is there ("": none); `srt.plan.prune` does.
    """

    rule: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    temp: tuple[str, ...] = ()
    benchmark: str = ""
    prunable: str = ""

    @property
    def key(self) -> str:
        """Rule and name: no two jobs have the same."""
        return f"{self.rule} {self.name}"


@dataclass
class Dag:
    """All jobs by key, the key of the job that makes each file, and the keys of the jobs that make targets."""

    jobs: dict[str, Job] = field(default_factory=dict)
    maker: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)  # figure -> key
    leaves: list[str] = field(default_factory=list)  # keys of everything that `snakemake` alone asks for
    _parents: dict[str, list[str]] = field(default_factory=dict)
    _temporary: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    _readers: dict[str, list[str]] = field(default_factory=dict)
    _order: list[str] = field(default_factory=list)

    def parents(self, key: str) -> list[str]:
        """Keys of the jobs that make a job's inputs, each once."""
        if key not in self._parents:
            self._parents[key] = list(dict.fromkeys(self.maker[path] for path in self.jobs[key].inputs))
        return self._parents[key]

    def temporary(self, key: str) -> list[tuple[str, int]]:
        """The temporary outputs that a job reads: key of the job that makes one, place in that job's `temp`."""
        if key not in self._temporary:
            makers = ((path, self.maker[path], self.jobs[self.maker[path]].temp) for path in self.jobs[key].inputs)
            self._temporary[key] = [(maker, temp.index(path)) for path, maker, temp in makers if path in temp]
        return self._temporary[key]

    def readers(self, path: str) -> list[str]:
        """Keys of the jobs that read a file."""
        if not self._readers:
            for key, job in self.jobs.items():
                for each in job.inputs:
                    self._readers.setdefault(each, []).append(key)
        return self._readers.get(path, [])

    def closure(self, keys: list[str], stop: frozenset[str] = frozenset()) -> set[str]:
        """Keys of jobs and of all jobs that they need, without those in `stop` and what only these need."""
        found: set[str] = set()
        todo = [key for key in keys if key not in stop]
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                todo.extend(parent for parent in self.parents(key) if parent not in stop)
        return found

    def done(self) -> set[str]:
        """Keys of the jobs whose outputs all exist; a pruned model counts while all that is made from it is there."""
        found: set[str] = set()
        for key in reversed(self.order()):
            job = self.jobs[key]
            if not all(Path(path).exists() for path in job.outputs if path != job.prunable):
                continue
            if not job.prunable or Path(job.prunable).exists() or found.issuperset(self.readers(job.prunable)):
                found.add(key)
        return found

    def order(self) -> list[str]:
        """All keys, parents before children."""
        if len(self._order) != len(self.jobs):
            self._order = list(TopologicalSorter({key: self.parents(key) for key in self.jobs}).static_order())
        return self._order


def build(config: Config) -> Dag:
    """The DAG of `snakemake` (target `all`)."""
    return _Builder(config).build()


class _Builder:
    def __init__(self, config: Config) -> None:
        self.config, self.paths = config, Paths(config.results)
        self.dag = Dag()
        self.last = {i: run.checkpoints[-1] for name, run in config.runs.items() for i in config.instances(name)}
        self.starts = {config.start(instance) for instance in self.last}  # other runs begin there, now or extended
        self.makers = self.rules()

    def build(self) -> Dag:
        """Every leaf, with all jobs that the leaf needs."""
        for job in self.leaves():
            if job.rule in self.config.figures:
                self.dag.figures[job.rule] = job.key
            self.dag.leaves.append(job.key)
            self.add(job)
        return self.dag

    def add(self, job: Job) -> None:
        """Add a job and all jobs that it needs; without recursion, since runs are long chains."""
        todo = [job]
        while todo:
            one = todo.pop()
            if one.key in self.dag.jobs:
                continue
            self.dag.jobs[one.key] = one
            self.dag.maker.update(dict.fromkeys((*one.outputs, *one.temp), one.key))
            todo.extend(self.make(path) for path in one.inputs if path not in self.dag.maker)

    def job(
        self,
        rule: str,
        name: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        benchmark: str = "",
        temp: Iterable[str] = (),
        prunable: str = "",
    ) -> Job:
        """A job with each input once; `benchmark` is `{stage}/{name}`."""
        measured = self.paths.benchmark(benchmark) if benchmark else ""
        return Job(rule, name, tuple(dict.fromkeys(inputs)), tuple(outputs), tuple(temp), measured, prunable)

    # -- jobs whose outputs no other job reads -----------------------------------------------------------------------

    def leaves(self) -> Iterator[Job]:
        """The jobs that `snakemake` alone asks for."""
        config, paths, job = self.config, self.paths, self.job
        rows = evaluations(config)
        groups = sorted({file for row in rows for file in row["groups"]})
        of_runs = sorted({file for row in rows if row["run"] in self.last for file in row["groups"]})
        for figure in config.figures:
            made = [paths.figure(figure, suffix) for suffix in ("pdf", "png", "csv")]
            yield job(figure, figure, resolve_figure(config, figure)[1], made, f"figures/{figure}")
        yield job("results_table", "results", groups, [paths.table("results")], "tables/results")
        if config.evaluate:
            places = [(f"{BASE}{one['model']}", one["stored"]) for one in evaluated(config)]
            read = [file(*place) for file in (paths.groups, paths.scores) for place in places]
            made = [paths.table("evaluate"), paths.figure("evaluate", "pdf")]
            yield job("evaluate", "evaluate", read, made, "tables/evaluate")
        if self.last:
            yield self.audit()
            clean = [*of_runs, paths.clean_rows()]
            made = [paths.table("decontaminated")]
            yield job("decontaminated", "decontaminated", clean, made, "tables/decontaminated")
        last = [row for row in rows if row["step"] == self.last.get(row["run"])]
        sources = [paths.base_model(name) for name in config.models]
        sources += [paths.manifest(name) for name in config.datasets]
        sources += [file for row in last for file in (paths.run_metrics(row["run"]), row["groups"][0])]
        yield job("provenance", "provenance", sources, [paths.provenance()])
        ends = [paths.table("results"), *(paths.run_metrics(row["run"]) for row in last)]
        yield job("costs", "costs", ends, [paths.costs()])
        validated = {i for name, run in config.runs.items() if run.validation for i in config.instances(name)}
        if validated:
            read = sorted({file for row in rows if row["run"] in validated for file in row["groups"]})
            made = [paths.table("early_stopping")]
            yield job("early_stopping", "early_stopping", read, made, "tables/early_stopping")
        if config.gradings:
            read = [file for kind in resolve_gradings(config)[1].values() for file in kind]
            yield job("gradings", "gradings", read, [paths.table("gradings")], "tables/gradings")
        if config.claims:
            read = [*resolve_claims(config)[1], paths.clean_rows(), paths.pairs()]
            yield job("claims", "claims", read, [paths.claims("csv")], "claims/claims")
        for run in self.last:
            yield self.run_metrics(run)
        for page in pages(config):
            run = page["run"]
            read = [*page_files(config, run), *page_problems(config, run)]
            yield job("browser", run, read, [paths.browser(run)], f"browser/{run}")
        if self.last:
            yield job("browser_list", "index", [], [paths.browser("index")])

    # -- the job that makes a file -----------------------------------------------------------------------------------

    def make(self, path: str) -> Job:
        """The job that makes a file of the results folder."""
        for pattern, rule in self.makers:
            if match := pattern.fullmatch(path):
                return rule(**match.groupdict())
        raise SrtError(f"{path}: no rule makes it")

    def rules(self) -> list[tuple[re.Pattern[str], Callable[..., Job]]]:
        """The method that makes each output, by the output's path with the wildcards of the rules."""
        paths = self.paths
        evaluated = "{checkpoint}", "{suite}"
        outputs: list[tuple[str, Callable[..., Job]]] = [
            (paths.problems("{dataset}"), self.data),
            (paths.manifest("{dataset}"), self.data),
            (paths.base_model("{model}"), self.base_model),
            (paths.samples(*evaluated), self.sample),
            (paths.scores(*evaluated), self.score),
            (paths.groups(*evaluated), self.score),
            (paths.labels(*evaluated), self.labels),
            (paths.preferences(*evaluated, "{part}"), self.preferences),
            (paths.subset("{model}", "{suite}", "{metric}", "{fraction}"), self.curriculum),
            (paths.segment_model("{checkpoint}"), self.segment),
            (paths.segment_state("{checkpoint}"), self.segment),
            (paths.segment_metrics("{checkpoint}"), self.segment),
            (paths.run_metrics("{run}"), self.run_metrics),
            (paths.clean_rows(), self.audit),
            (paths.pairs(), self.audit),
        ]
        return [(_pattern(output), rule) for output, rule in outputs]

    def data(self, dataset: str) -> Job:
        made = [self.paths.problems(dataset), self.paths.manifest(dataset)]
        return self.job("data", dataset, [], made, f"data/{dataset}")

    def base_model(self, model: str) -> Job:
        return self.job("base_model", model, [], [self.paths.base_model(model)], f"models/{model}")

    def audit(self) -> Job:
        """A leaf that `decontaminated` reads as well."""
        sets = audited_sets(self.config)
        datasets = [*sets["train"], *sets["test"]]
        read = [path for name in datasets for path in (self.paths.problems(name), self.paths.manifest(name))]
        made = [self.paths.audit("overlap.csv"), self.paths.clean_rows(), self.paths.pairs()]
        return self.job("audit", "audit", read, made, "audit/audit")

    def sample(self, checkpoint: str, suite: str) -> Job:
        name = f"{checkpoint}/{suite}"
        read = [self.paths.checkpoint(checkpoint), *suite_problems(self.config, suite)]
        return self.job("sample", name, read, [self.paths.samples(checkpoint, suite)], f"sample/{name}")

    def score(self, checkpoint: str, suite: str) -> Job:
        name = f"{checkpoint}/{suite}"
        read = [self.paths.samples(checkpoint, suite), *suite_problems(self.config, suite)]
        made = [self.paths.scores(checkpoint, suite), self.paths.groups(checkpoint, suite)]
        return self.job("score", name, read, made, f"score/{name}")

    def labels(self, checkpoint: str, suite: str) -> Job:
        name = f"{checkpoint}/{suite}"
        read, made = self.paths.groups(checkpoint, suite), self.paths.labels(checkpoint, suite)
        return self.job("labels", name, [read], [made], f"labels/{name}")

    def preferences(self, checkpoint: str, suite: str, part: str) -> Job:
        name = f"{checkpoint}/{suite}-{part}"
        read = [self.paths.samples(checkpoint, suite), self.paths.scores(checkpoint, suite)]
        made = [self.paths.preferences(checkpoint, suite, part)]
        return self.job("preferences", name, read, made, f"preferences/{name}")

    def curriculum(self, model: str, suite: str, metric: str, fraction: str) -> Job:
        name = f"{model}/{suite}-{metric}-{fraction}"
        made = [self.paths.subset(model, suite, metric, fraction)]
        return self.job("curriculum", name, [self.paths.groups(f"base/{model}", suite)], made, f"curriculum/{name}")

    def segment(self, checkpoint: str) -> Job:
        """A state that the next segment reads is temporary, unless all are kept; so is a model that is pruned."""
        run, step = run_and_step(checkpoint)
        read = segment_inputs(self.config, run, step).values()
        model, state = self.paths.segment_model(checkpoint), self.paths.segment_state(checkpoint)
        made, benchmark = [self.paths.segment_metrics(checkpoint)], f"train/{checkpoint}"
        if step == self.last[run]:
            return self.job("train_last", checkpoint, read, [model, *made, state], benchmark)
        prunable = "" if checkpoint in self.starts else model
        temp = [state] * (self.config.keep_states == "last")
        temp += [model] * bool(prunable and self.config.keep_models == "needed")
        kept = [path for path in (model, *made, state) if path not in temp]
        return self.job("train", checkpoint, read, kept, benchmark, temp, prunable)

    def run_metrics(self, run: str) -> Job:
        steps = self.config.entry(run).run.checkpoints
        read = [self.paths.segment_metrics(checkpoint_at(run, step)) for step in steps]
        made = [self.paths.run_metrics(run), self.paths.run_metrics_csv(run)]
        return self.job("run_metrics", run, read, made, f"run_metrics/{run}")


# What a wildcard of the rules may be; ids are words of lower-case letters, digits and `_`.
_WILDCARDS = {
    "dataset": r"\w+",
    "model": r"\w+",
    "suite": r"\w+(?:-s\d+)?(?:@\w+)?",
    "checkpoint": r"base/\w+|[\w-]+/step-\d+",
    "run": r"\w+-s\d+",
    "step": r"\d+",
    "part": r"[^/]+",
    "metric": r"pass_rate|majority_frequency",
    "fraction": r"[\d.]+",
}


def _pattern(output: str) -> re.Pattern[str]:
    """`results/data/{dataset}.parquet` -> a regular expression with the group `dataset`."""
    parts = re.split(r"\{(\w+)\}", output)  # text and names of wildcards in turn
    for i in range(0, len(parts), 2):
        parts[i] = re.escape(parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f"(?P<{parts[i]}>{_WILDCARDS[parts[i]]})"
    return re.compile("".join(parts))


def stage_of(config: Config, job: Job) -> str:
    """The stage of `STAGES` that a job belongs to."""
    return STAGE_OF.get(job.rule, FIGURES if job.rule in config.figures else TABLES)


def model_of(config: Config, job: Job) -> str | None:
    """The base model that a job makes, samples or trains; None for other jobs."""
    if job.rule == "base_model":
        return job.name
    if job.rule not in GPU_RULES:
        return None
    return config.checkpoint_model(job.name.rpartition("/")[0] if job.rule == "sample" else job.name)
