"""The jobs of a configuration and their files, as the rules make them, without Snakemake: thousands take seconds.

A job that makes a file is found from the file's name, and asks for its own inputs in turn. What nobody else reads
(figures, tables, pages) are `leaves`. It mirrors `rules/`; `tests/plan/test_plan.py` compares it with a real dry-run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from srt.artefacts.evaluations import evaluations
from srt.audit.resolve import audited_sets
from srt.browser.resolve import page_files, page_problems, pages
from srt.claims.resolve import resolve_claims
from srt.config.preferences import OFFLINE, preference_file
from srt.config.root import Config
from srt.figures.resolve import resolve_figure

GPU_RULES = ("train", "train_last", "sample")


@dataclass(frozen=True)
class Job:
    """One job. `name`: what is after the rule's name in people's eyes; `temp`: outputs that go when all have read them.

    `benchmark`: where Snakemake writes how long it took, "" where it does not.
    """

    rule: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    temp: tuple[str, ...] = ()
    benchmark: str = ""

    @property
    def key(self) -> str:
        """Its identity."""
        return f"{self.rule} {self.name}"


@dataclass
class Dag:
    """All jobs by key, the job that makes each file, and the keys of each target's own jobs."""

    jobs: dict[str, Job] = field(default_factory=dict)
    maker: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)  # figure -> key
    leaves: list[str] = field(default_factory=list)  # keys of everything that `snakemake` alone asks for
    _parents: dict[str, list[str]] = field(default_factory=dict)
    _temporary: dict[str, list[str]] = field(default_factory=dict)
    _order: list[str] = field(default_factory=list)

    def parents(self, key: str) -> list[str]:
        """Keys of the jobs that make a job's inputs, each once."""
        if key not in self._parents:
            self._parents[key] = list(dict.fromkeys(self.maker[path] for path in self.jobs[key].inputs))
        return self._parents[key]

    def temporary(self, key: str) -> list[str]:
        """Keys of the jobs whose temporary outputs a job reads."""
        if key not in self._temporary:
            makers = ((path, self.maker[path]) for path in self.jobs[key].inputs)
            self._temporary[key] = list(dict.fromkeys(m for path, m in makers if path in self.jobs[m].temp))
        return self._temporary[key]

    def closure(self, keys: list[str], stop: frozenset[str] = frozenset()) -> set[str]:
        """The jobs and all that they need; jobs in `stop` are left out, with what only they need."""
        found: set[str] = set()
        todo = [key for key in keys if key not in stop]
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                todo.extend(parent for parent in self.parents(key) if parent not in stop)
        return found

    def order(self) -> list[str]:
        """All keys, parents before children."""
        if len(self._order) == len(self.jobs):
            return self._order
        state: dict[str, int] = {}
        made: list[str] = []
        for start in self.jobs:
            stack = [start]
            while stack:
                key = stack[-1]
                if state.get(key) is None:
                    state[key] = 1
                    stack.extend(p for p in self.parents(key) if state.get(p) is None)
                else:
                    stack.pop()
                    if state[key] == 1:
                        state[key] = 2
                        made.append(key)
        self._order = made
        return made


def build(config: Config) -> Dag:
    """The DAG of `snakemake` (target `all`)."""
    return _Builder(config).build()


class _Builder:
    def __init__(self, config: Config) -> None:
        self.config, self.results = config, config.results
        self.dag = Dag()
        self.last = {
            i: config.entry(i)[1].checkpoints[-1] for run in config.runs for i in config.instances(run)
        }  # by seed

    def build(self) -> Dag:
        """Every leaf, and everything under it."""
        for job in self.leaves():
            if job.rule in self.config.figures:
                self.dag.figures[job.rule] = job.key
            self.dag.leaves.append(job.key)
            self.add(job)
        return self.dag

    def add(self, job: Job) -> None:
        """A job and, one after the other, what makes its inputs (no recursion: runs are long chains)."""
        todo = [job]
        while todo:
            one = todo.pop()
            if one.key in self.dag.jobs:
                continue
            self.dag.jobs[one.key] = one
            self.dag.maker.update(dict.fromkeys((*one.outputs, *one.temp), one.key))
            todo.extend(self.make(path) for path in one.inputs if path not in self.dag.maker)

    # -- what nobody else reads --------------------------------------------------------------------------------------

    def leaves(self) -> Iterator[Job]:
        """The jobs that `snakemake` alone asks for."""
        config = self.config
        rows = evaluations(config)
        groups = sorted({file for row in rows for file in row["groups"]})
        for figure in config.figures:
            made = [f"figures/{figure}.{suffix}" for suffix in ("pdf", "png", "csv")]
            yield self.leaf(figure, figure, resolve_figure(config, figure)[1], *made, benchmark=f"figures/{figure}")
        yield self.leaf("results_table", "results", groups, "tables/results.csv", benchmark="tables/results")
        sets = audited_sets(config)
        data = [self.path(f"data/{d}.parquet") for d in dict.fromkeys([*sets["train"], *sets["test"]])]
        clean = "audit/clean_rows.parquet"
        yield self.leaf("audit", "audit", data, "audit/overlap.csv", clean, benchmark="audit/audit")
        yield self.leaf("decontaminated", "decontaminated", [*groups, self.path(clean)], "tables/decontaminated.csv",
                        benchmark="tables/decontaminated")  # fmt: skip
        last = [row for row in rows if row["step"] == self.last[row["run"]]]
        sources = [self.path(f"models/{m}") for m in config.models]
        sources += [self.path(f"data/{d}.parquet") for d in config.datasets]
        sources += [file for row in last for file in (self.metrics(row["run"]), row["groups"][0])]
        yield self.leaf("provenance", "provenance", sources, "provenance/provenance.csv")
        ends = [self.path("tables/results.csv"), *(self.metrics(row["run"]) for row in last)]
        yield self.leaf("costs", "costs", ends, "costs/costs.csv")
        stopped = [run for run, entry in config.runs.items() if getattr(entry, "validation", None)]
        if stopped:
            mine = {i for run in stopped for i in config.instances(run)}
            read = sorted({file for row in rows if row["run"] in mine for file in row["groups"]})
            yield self.leaf("early_stopping", "early_stopping", read, "tables/early_stopping.csv",
                            benchmark="tables/early_stopping")  # fmt: skip
        if config.claims:
            yield self.leaf("claims", "claims", resolve_claims(config)[1], "claims/claims.csv",
                            benchmark="claims/claims")  # fmt: skip
        for instance in self.last:
            yield self.make(self.metrics(instance))
        for page in pages(config):
            run = page["run"]
            read = [*page_files(config, run), *page_problems(config, run)]
            yield self.leaf("browser", run, read, f"browser/{page['file']}", benchmark=f"browser/{run}")
        yield self.leaf("browser_list", "index", [], "browser/index.html")

    def leaf(self, rule: str, name: str, inputs: list[str], *outputs: str, benchmark: str = "") -> Job:
        """A job of the workflow's end; outputs and benchmark from the results folder on."""
        return Job(rule, name, tuple(dict.fromkeys(inputs)), tuple(map(self.path, outputs)), (), self.bench(benchmark))

    # -- what makes a file -------------------------------------------------------------------------------------------

    def make(self, path: str) -> Job:
        """The job that makes a file of the results folder."""
        stage, _, rest = path.removeprefix(f"{self.results}/").partition("/")
        return {
            "data": self.data, "models": self.base_model, "eval": self.evaluation, "labels": self.labels,
            "preferences": self.preferences, "curriculum": self.curriculum, "runs": self.run, "audit": self.audit,
        }[stage](rest)  # fmt: skip

    def data(self, rest: str) -> Job:
        """data/{dataset}.parquet"""
        name = rest.rpartition(".")[0]
        made = (self.path(f"data/{name}.parquet"), self.path(f"data/{name}.json"))
        return Job("data", name, (), made, (), self.bench(f"data/{name}"))

    def base_model(self, rest: str) -> Job:
        """models/{model}"""
        return Job("base_model", rest, (), (self.path(f"models/{rest}"),), (), self.bench(f"models/{rest}"))

    def audit(self, rest: str) -> Job:
        """Is a leaf, too, and read by `decontaminated`."""
        return next(job for job in self.leaves() if job.rule == "audit")

    def evaluation(self, rest: str) -> Job:
        """eval/{checkpoint}/{suite}.samples.parquet, .scores.parquet or .groups.parquet"""
        checkpoint, _, file = rest.rpartition("/")
        suite, kind = file.removesuffix(".parquet").rsplit(".", 1)
        stem = f"{checkpoint}/{suite}"
        problems = [self.path(f"data/{d}.parquet") for d in self.config.members(suite)]
        samples = self.path(f"eval/{stem}.samples.parquet")
        if kind == "samples":
            read = (self.checkpoint(checkpoint), *problems)
            return Job("sample", stem, read, (samples,), (), self.bench(f"sample/{stem}"))
        made = (self.path(f"eval/{stem}.scores.parquet"), self.path(f"eval/{stem}.groups.parquet"))
        return Job("score", stem, (samples, *problems), made, (), self.bench(f"score/{stem}"))

    def labels(self, rest: str) -> Job:
        """labels/{checkpoint}/{dataset}.parquet"""
        stem = rest.removesuffix(".parquet")
        return Job("labels", stem, (self.path(f"eval/{stem}.groups.parquet"),), (self.path(f"labels/{rest}"),), (),
                   self.bench(f"labels/{stem}"))  # fmt: skip

    def preferences(self, rest: str) -> Job:
        """preferences/{checkpoint}/{dataset}-{kind}-…-s{seed}.parquet"""
        stem = rest.removesuffix(".parquet")
        checkpoint, _, part = stem.rpartition("/")
        files = tuple(
            self.path(f"eval/{checkpoint}/{part.partition('-')[0]}.{kind}.parquet") for kind in ("samples", "scores")
        )
        made = (self.path(f"preferences/{rest}"),)
        return Job("preferences", stem, files, made, (), self.bench(f"preferences/{stem}"))

    def curriculum(self, rest: str) -> Job:
        """curriculum/{model}/{dataset}-{metric}-{fraction}.parquet"""
        stem = rest.removesuffix(".parquet")
        model, _, part = stem.partition("/")
        dataset = part.rsplit("-", 2)[0]
        read = (self.path(f"eval/base/{model}/{dataset}.groups.parquet"),)
        return Job("curriculum", stem, read, (self.path(f"curriculum/{rest}"),), (), self.bench(f"curriculum/{stem}"))

    def run(self, rest: str) -> Job:
        """runs/{run}/metrics.parquet, or model, state or metrics of runs/{run}/step-{n}/"""
        instance, _, file = rest.partition("/")
        entry = self.config.entry(instance)[1]
        if not file.startswith("step-"):
            read = tuple(self.path(f"runs/{instance}/step-{n}/metrics.parquet") for n in entry.checkpoints)
            made = (self.metrics(instance), self.path(f"runs/{instance}/metrics.csv"))
            return Job("run_metrics", instance, read, made, (), self.bench(f"run_metrics/{instance}"))
        step = int(file.removeprefix("step-").partition("/")[0])
        steps = [0, *entry.checkpoints]
        before = steps[steps.index(step) - 1]
        read_ = [self.checkpoint(self.config.start(instance)), self.path(f"data/{entry.data}.parquet")]
        if before:
            read_.append(self.path(f"runs/{instance}/step-{before}/state"))
        if entry.uses_labels:
            read_.append(self.path(f"labels/{self.config.teacher(instance)}/{entry.data}.parquet"))
        if entry.reward in OFFLINE:
            read_.append(self.path(preference_file(self.config, instance)))
        if entry.curriculum:
            part = f"{entry.data}-{entry.curriculum.by}-{entry.curriculum.fraction:.4f}"
            read_.append(self.path(f"curriculum/{self.config.ranking_model(entry)}/{part}.parquet"))
        folder, last = self.path(f"runs/{instance}/step-{step}"), step == self.last[instance]
        made, state = (f"{folder}/model", f"{folder}/metrics.parquet"), (f"{folder}/state",)
        stays = last or self.config.keep_states == "all"
        return Job(
            "train_last" if last else "train", f"{instance}/step-{step}", tuple(read_), made + state * stays,
            state * (not stays), self.bench(f"train/{instance}/step-{step}"),
        )  # fmt: skip

    # -- names -------------------------------------------------------------------------------------------------------

    def path(self, rest: str) -> str:
        """A path under the results folder."""
        return f"{self.results}/{rest}"

    def bench(self, rest: str) -> str:
        """The benchmark file of a job."""
        return self.path(f"benchmarks/{rest}.tsv") if rest else ""

    def metrics(self, instance: str) -> str:
        """The joined training metrics of a run."""
        return self.path(f"runs/{instance}/metrics.parquet")

    def checkpoint(self, name: str) -> str:
        """The model folder of `base/{model}` or `{run}/step-{n}`."""
        return self.path(f"models/{name.removeprefix('base/')}" if name.startswith("base/") else f"runs/{name}/model")


def model_of(config: Config, job: Job) -> str | None:
    """The base model that a GPU job runs, or comes from."""
    if job.rule == "base_model":
        return job.name
    if job.rule not in GPU_RULES:
        return None
    first, _, rest = job.name.partition("/")
    return rest.partition("/")[0] if first == "base" else config.entry(first)[1].model
