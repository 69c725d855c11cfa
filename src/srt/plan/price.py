"""Seconds, GPUs and bytes of each job: `srt.cost.formulas` fed by the configuration, by measured lengths and by
benchmarks.

A prediction comes from assumed rates. Once Snakemake has written `benchmark:` files, the median of measured over
predicted seconds, by rule and model, corrects what remains; rules without a GPU take the median of what was measured.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from srt.cluster.partitions import PARTITIONS_FILE, ClusterLimits, read_cluster_limits
from srt.cluster.resources import place, sampling_job, training_work
from srt.common.io import open_parquet, read_parquet
from srt.config.models import HubModel, TinyModel
from srt.config.plan import PlanConfig
from srt.config.preferences import OFFLINE
from srt.config.root import Config
from srt.cost import formulas as cost
from srt.plan.jobs import GPU_RULES, Dag, Job, model_of

_T = TypeVar("_T")
_FILES_READ = 200  # of each kind and model: medians do not need more


@dataclass(frozen=True)
class Price:
    """What a job costs. `final`: bytes that stay; `temp`: that go when all have read them; `work`: while it runs."""

    seconds: float
    gpus: int
    final: float = 0.0
    temp: float = 0.0
    work: float = 0.0

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return self.gpus * self.seconds / 3600


@dataclass(frozen=True)
class Variant:
    """Another way to run the same jobs, or other assumptions; None is what the configuration says.

    `states`: how they are saved. `offload` False: the reference stays on the GPU, None: as `srt.cluster.resources`
    decides.
    `length`: times the responses' mean; `efficiency`: share of the peak; `disk`: times the rate of writing.
    """

    eager: float = 1.0
    old_policy: bool = False
    recompute: bool | None = None
    gpus: int | None = None
    save_every: int | None = None
    sample_in_run: bool = False
    states: Literal["background", "waiting", "none"] = "background"
    share_prompts: bool = True
    offload: bool | None = None
    length: float = 1.0
    efficiency: float | None = None
    disk: float = 1.0


@dataclass
class Measured:
    """What was found in the results folder: lengths by (kind, model), seconds by (rule, model), rows by data set."""

    lengths: dict[tuple[str, str], float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # by job key
    rows: dict[str, int] = field(default_factory=dict)


class Pricing:
    """Prices of a configuration's jobs."""

    def __init__(self, config: Config, dag: Dag, measured: Measured | None = None) -> None:
        self.config, self.dag, self.rates = config, dag, config.plan
        self.measured = measured or Measured()
        self._known: dict[tuple[object, ...], Any] = {}  # jobs of a run differ by step only: few prices for many jobs

    # -- one job -----------------------------------------------------------------------------------------------------

    def predicted(self, job: Job, variant: Variant | None = None) -> Price:
        """The price from rates, without benchmarks."""
        variant = variant or Variant()
        if job.rule in ("train", "train_last"):
            instance, _, step = job.name.partition("/step-")
            name, run, _ = self.config.entry(instance)
            steps = [0, *run.checkpoints]
            length = int(step) - steps[steps.index(int(step)) - 1]
            return self._once(("train", name, length, bool(job.temp), variant),
                              lambda: self._train(instance, length, bool(job.temp), variant))  # fmt: skip
        if job.rule == "sample":
            checkpoint, _, suite = job.name.rpartition("/")
            run_name = "" if checkpoint.startswith("base/") else self.config.entry(checkpoint.partition("/")[0])[0]
            return self._once(("sample", model_of(self.config, job), suite, run_name, variant),
                              lambda: self._sample(job, variant))  # fmt: skip
        if job.rule == "base_model":
            entry = self.config.models[job.name]
            size = cost.weight_bytes(self.shape(job.name), "float32" if isinstance(entry, TinyModel) else "bfloat16")
            return Price(self._base_model_seconds(job.name, size), 0, final=size)
        return Price(self.rates.cpu_seconds, 0)

    def price(self, key: str) -> Price:
        """The price with what was measured: its own time if it has run, else corrected by its rule and model."""
        job, found = self.dag.jobs[key], self.predicted(self.dag.jobs[key])
        if key in self.measured.seconds:
            return replace(found, seconds=self.measured.seconds[key])
        group = self._group(job)
        if job.rule in GPU_RULES:
            return replace(found, seconds=found.seconds * self.corrections.get(group, (1.0, 0))[0])
        median = self.corrections.get(group)
        return replace(found, seconds=median[0]) if median else found

    @cached_property
    def corrections(self) -> dict[tuple[str, str], tuple[float, int]]:
        """(rule, model) -> measured over predicted for GPU rules, else seconds; and how many measurements."""
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for key, seconds in self.measured.seconds.items():
            job = self.dag.jobs[key]
            scale = self.predicted(job).seconds if job.rule in GPU_RULES else 1.0
            found[self._group(job)].append(seconds / scale)
        return {group: (statistics.median(values), len(values)) for group, values in sorted(found.items())}

    def _group(self, job: Job) -> tuple[str, str]:
        rule = "train" if job.rule == "train_last" else job.rule
        return rule, model_of(self.config, job) or ""

    # -- by rule -----------------------------------------------------------------------------------------------------

    def _once(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        if key not in self._known:
            self._known[key] = make()
        found: _T = self._known[key]
        return found

    def _rates(self, variant: Variant) -> PlanConfig:
        changed = {key: getattr(self.rates, key) * variant.disk for key in ("disk_rate", "disk_limit")}
        if variant.efficiency is not None:
            changed["efficiency"] = variant.efficiency
        return self.rates.model_copy(update=changed)

    def _train(self, instance: str, length: int, temp: bool, variant: Variant) -> Price:
        run = self.config.entry(instance)[1]
        train, shape, name = run.train.resolved(), self.shape(run.model), run.model
        rates = self._rates(variant)
        gpus, offload = self.place(instance, length, variant.offload)
        if variant.gpus and gpus:
            gpus, offload = min(variant.gpus, train.prompts_per_step), False
        two_pass = train.zero_stage == 3 or training_work(self.config, instance, length).two_pass
        prompt, mean = self.lengths("train", name, run.data, train.max_prompt_tokens, train.max_new_tokens)
        mean = min(mean * variant.length, train.max_new_tokens)
        recompute = train.gradient_checkpointing in (True, "full")
        save_every = variant.save_every or self.config.save_every
        rollouts, trained = int(train.rollouts_per_prompt or 32), getattr(train, "rollouts_trained", None)
        if run.reward in OFFLINE:
            rollouts = trained = run.preferences.per_prompt(run.reward, self.config.sampling_of(name).n)
        one = cost.train_step(
            shape, train.prompts_per_step, rollouts, prompt, mean, train.max_new_tokens, gpus, rates,
            trained=trained, dtype=train.dtype, threads=train.threads,
            recompute=recompute if variant.recompute is None else variant.recompute,
            reference=run.reward != "sft" and train.kl_coefficient > 0,
            old_policy=variant.old_policy or two_pass,
            eager=variant.eager if gpus else 1.0,
            save_every=10**9 if variant.states == "none" else save_every, background=variant.states == "background",
            share_prompts=variant.share_prompts, offload=offload, zero_stage=train.zero_stage,
            pack=train.micro_batch_tokens,
        )  # fmt: skip
        if run.reward in OFFLINE:
            one = replace(one, rollout=0.0)
        if run.refill:
            drawn = cost.refill_rounds(train.prompts_per_step, rates.refill_kept, run.refill.rounds)
            one = replace(one, rollout=one.rollout * drawn)
        state = cost.state_bytes(shape, train.dtype)
        model = cost.weight_bytes(shape, train.dtype)
        stays = not temp
        return Price(
            seconds=cost.segment_seconds(one, length, shape, train.dtype, gpus, rates, variant.states),
            gpus=gpus,
            final=model + state * stays,
            temp=state * (not stays),
            work=2 * state,  # a state is written beside the one before
        )

    def _sample(self, job: Job, variant: Variant) -> Price:
        checkpoint, _, suite = job.name.rpartition("/")
        name = model_of(self.config, job) or ""
        sampling, shape = self.config.sampling_of(name, suite), self.shape(name)
        gpus = self.sample_gpus(name, suite)
        problems = sum(self.rows(member) for member in self.config.members(suite))
        prompt, mean = self.lengths("sample", name, suite, sampling.max_prompt_tokens, sampling.max_new_tokens)
        mean, rates = min(mean * variant.length, sampling.max_new_tokens), self._rates(variant)
        if variant.sample_in_run and gpus and not checkpoint.startswith("base/"):
            gpus = variant.gpus or self.gpus(checkpoint.partition("/")[0], 1)
            seconds = cost.sampling_seconds(
                shape, -(-problems // gpus), sampling.n, prompt, mean, sampling.max_new_tokens, 1, rates,
                sampling.dtype,
            ) - rates.start_seconds  # fmt: skip
            return Price(seconds, gpus)
        seconds = cost.sampling_seconds(
            shape, problems, sampling.n, prompt, mean, sampling.max_new_tokens, gpus, rates, sampling.dtype,
            sampling.threads,
        )  # fmt: skip
        return Price(seconds, gpus, final=cost.sample_bytes(problems, sampling.n, mean))

    def _base_model_seconds(self, name: str, size: float) -> float:
        entry = self.config.models[name]
        if not isinstance(entry, TinyModel):
            return self.rates.cpu_seconds + size / 1e8  # a download of 100 MB/s
        shape = self.shape(name)
        tokens = entry.steps * entry.batch_size * entry.context / 2
        flops = cost.update_flops(shape, tokens, entry.context / 2, recompute=False, reference=False)
        return self.rates.cpu_seconds + cost.update_seconds(flops, 0, entry.threads, self.rates)

    # -- what prices depend on ---------------------------------------------------------------------------------------

    def shape(self, name: str) -> cost.Shape:
        """The shape of a base model."""
        entry = self.config.models[name]
        if isinstance(entry, HubModel) and entry.repo in cost.SHAPES:
            return cost.SHAPES[entry.repo]
        if isinstance(entry, TinyModel):
            return cost.decoder(
                entry.layers, entry.hidden_size, entry.heads, entry.kv_heads, entry.hidden_size // entry.heads,
                entry.intermediate_size, 64, tied=True,
            )  # fmt: skip
        return cost.scaled(entry.parameters)

    def gpus(self, instance: str, steps: int) -> int:
        """GPUs of a training job."""
        return self.place(instance, steps)[0]

    def place(self, instance: str, steps: int, offload: bool | None = None) -> tuple[int, bool]:
        """GPUs of a training job, and whether its reference waits in host memory (`srt.cluster.resources`).

        `offload` False: it never does.
        """

        def find() -> tuple[int, bool]:
            work = training_work(self.config, instance, steps)
            if offload is not None:
                work = replace(work, reference_offload=offload)
            return place(self.config, instance, work, self._limits)

        return self._once(("place", self.config.entry(instance)[0], steps, offload), find)

    def sample_gpus(self, name: str, suite: str) -> int:
        """GPUs of a sampling job."""
        given = self.config.models[name].gpus_sample
        if given is not None:
            return int(given)
        return self._once(
            ("sample gpus", name, suite), lambda: int(sampling_job(self.config, name, suite, self._limits).gpus)
        )

    @cached_property
    def _limits(self) -> ClusterLimits:
        return read_cluster_limits(PARTITIONS_FILE)

    def lengths(self, kind: str, model: str, where: str, prompt_limit: float, limit: float) -> tuple[float, float]:
        """Mean prompt and response tokens: given for the data set, else measured, else assumed in proportion."""
        assumed = self.rates.prompt_tokens * prompt_limit / 1024, self.rates.response_tokens * limit / 3072
        given = [self.rates.lengths[d] for d in self._members(where) if d in self.rates.lengths]
        prompt, response = [statistics.mean(v) for v in zip(*given, strict=True)] if given else assumed
        response = self.measured.lengths.get((kind, model), response)
        return min(prompt, prompt_limit), min(response, limit)

    def _members(self, where: str) -> list[str]:
        return self.config.members(where)

    def rows(self, dataset: str) -> int:
        """Problems of a data set: of its table, of `plan.rows`, of its entry, else `plan.unknown_rows`."""
        entry = self.config.datasets[dataset]
        if dataset in self.measured.rows:
            return self.measured.rows[dataset]
        known = self.rates.rows.get(dataset) or getattr(entry, "take", None) or getattr(entry, "size", None)
        if known is None:
            share = {"train": 1 - (entry.holdout_fraction or 0), "heldout": entry.holdout_fraction or 0, None: 1.0}
            known = round((getattr(entry, "expect_rows", None) or self.rates.unknown_rows) * share[entry.part])
        return int(known)


def measure(config: Config, dag: Dag) -> Measured:
    """What the results folder says: rows of data sets, lengths of responses, seconds of jobs."""
    rows = {}
    for name in config.datasets:
        path = Path(config.results, "data", f"{name}.parquet")
        if path.is_file():
            rows[name] = open_parquet(path).metadata.num_rows
    seconds = {
        key: s for key, job in dag.jobs.items() if job.benchmark and (s := benchmark_seconds(Path(job.benchmark)))
    }
    return Measured(_lengths(config, dag), seconds, rows)


def benchmark_seconds(path: Path) -> float | None:
    """The seconds in a benchmark file of Snakemake; None without one."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            values = [float(row["s"]) for row in csv.DictReader(handle, delimiter="\t")]
    except FileNotFoundError:
        return None
    return statistics.mean(values) if values else None


def _lengths(config: Config, dag: Dag) -> dict[tuple[str, str], float]:
    """Mean response tokens by (train or sample, model), from training metrics and scored groups."""
    train: dict[str, list[Path]] = defaultdict(list)
    sample: dict[str, list[Path]] = defaultdict(list)
    for job in dag.jobs.values():
        model = model_of(config, job)
        if job.rule in ("train", "train_last"):
            train[str(model)].append(Path(job.outputs[1]))
        elif job.rule == "sample":
            sample[str(model)].append(Path(job.outputs[0].replace(".samples.", ".groups.")))
    found = {}
    for kind, files, column in (("train", train, "response_length"), ("sample", sample, "mean_length")):
        for model, paths in files.items():
            if mean := _mean_of(paths, column):
                found[kind, model] = mean
    return found


def _mean_of(paths: Iterable[Path], column: str) -> float | None:
    values = []
    for path in [path for path in paths if path.is_file()][:_FILES_READ]:
        part = [v for v in read_parquet(path, [column]).column(column).to_pylist() if v is not None]
        if part:
            values.append(statistics.fmean(part))
    return statistics.fmean(values) if values else None
