"""Seconds, GPUs and bytes of each job: the formulas of `srt.cost`, fed by the configuration and by what was measured.

A prediction comes from assumed rates. Once Snakemake has written `benchmark:` files, the median of measured over
predicted seconds, by rule and model, corrects what remains; rules without a GPU take the median of what was measured.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from srt.artefacts.training_inputs import previous_step
from srt.cluster.partitions import PARTITIONS_FILE, ClusterLimits, read_cluster_limits
from srt.cluster.resources import Placement, place_sampling, place_training
from srt.cluster.workloads import expected_rows, sampling_work, training_work
from srt.config.models import TinyModel
from srt.config.root import Config
from srt.config.runs import run_and_step
from srt.cost.flops import count_tokens, update_flops
from srt.cost.lengths import Lengths
from srt.cost.memory import sample_bytes, state_bytes, weight_bytes
from srt.cost.parameters import central
from srt.cost.seconds import compute_seconds, sampling_seconds, segment_seconds
from srt.cost.shapes import shape_of_model
from srt.plan.jobs import GPU_RULES, Dag, Job, model_of
from srt.plan.measured import Measured, with_measured_rates
from srt.plan.variants import Variant

_T = TypeVar("_T")
DOWNLOAD_RATE = 1e8  # bytes per second from the hub


@dataclass(frozen=True)
class Price:
    """What a job costs. Bytes: `final` stay, `work` is taken while it runs.

    `temp`: bytes of each of the job's temporary outputs, which goes when all jobs have read it.
    """

    seconds: float
    gpus: int
    final: float = 0.0
    temp: tuple[float, ...] = ()
    work: float = 0.0

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return self.gpus * self.seconds / 3600


class Pricing:
    """Prices of a configuration's jobs."""

    def __init__(self, config: Config, dag: Dag, measured: Measured | None = None) -> None:
        config = with_measured_rates(config)
        self.config, self.dag, self.assumed = config, dag, central(config.plan)
        self.measured = measured or Measured()
        self._known: dict[tuple[object, ...], Any] = {}  # jobs of a run differ by step only: few prices for many jobs

    # -- one job -----------------------------------------------------------------------------------------------------

    def predicted(self, job: Job, variant: Variant | None = None) -> Price:
        """The price from rates, without benchmarks."""
        variant = variant or Variant()
        if job.rule in ("train", "train_last"):
            run, step = run_and_step(job.name)
            steps, temp = step - previous_step(self.config, run, step), tuple(Path(path).name for path in job.temp)
            return self._once(("train", self.config.entry(run).id, steps, temp, variant),
                              lambda: self._train(run, steps, temp, variant))  # fmt: skip
        if job.rule == "sample":
            checkpoint, _, suite = job.name.rpartition("/")
            run = "" if checkpoint.startswith("base/") else checkpoint.partition("/")[0]
            name = run and self.config.entry(run).id
            return self._once(("sample", self.config.checkpoint_model(checkpoint), suite, name, variant),
                              lambda: self._sample(checkpoint, suite, run, variant))  # fmt: skip
        if job.rule == "base_model":
            return self._base_model(job.name)
        return Price(self.assumed.cpu_seconds, 0)

    def price(self, key: str) -> Price:
        """A job's price: with its measured time if the job has run, else corrected by what its rule and model took."""
        job, found = self.dag.jobs[key], self.predicted(self.dag.jobs[key])
        if key in self.measured.seconds:
            return replace(found, seconds=self.measured.seconds[key])
        if correction := self.corrections.get(self.group(job)):
            seconds = correction[0] * (found.seconds if job.rule in GPU_RULES else 1.0)
            return replace(found, seconds=seconds)
        return found

    @cached_property
    def corrections(self) -> dict[tuple[str, str], tuple[float, int]]:
        """(rule, model) -> measured over predicted for GPU rules, else seconds; and how many measurements."""
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for key, seconds in self.measured.seconds.items():
            job = self.dag.jobs[key]
            scale = self.predicted(job).seconds if job.rule in GPU_RULES else 1.0
            found[self.group(job)].append(seconds / scale)
        return {group: (statistics.median(values), len(values)) for group, values in sorted(found.items())}

    def group(self, job: Job) -> tuple[str, str]:
        """Rule and model: the jobs that are corrected together."""
        rule = "train" if job.rule == "train_last" else job.rule
        return rule, model_of(self.config, job) or ""

    # -- by rule -----------------------------------------------------------------------------------------------------

    def _train(self, run: str, steps: int, temp: tuple[str, ...], variant: Variant) -> Price:
        entry = self.config.entry(run).run
        placement = self.placement(run, steps, variant.reference_offload, variant.share_engines)
        work = training_work(self.config, run, steps)
        if variant.gpus and placement.gpus:
            placement = Placement(min(variant.gpus, work.prompts))
        lengths = self.lengths("train", entry.model, entry.data, work.lengths, variant.response_scale)
        work = replace(variant.work(placement.of(work)), lengths=lengths)
        state = state_bytes(work.shape, work.dtype, work.zero_stage)
        size = {"model": weight_bytes(work.shape, work.dtype), "state": state}
        return Price(
            seconds=segment_seconds(work, placement.gpus, variant.parameters(self.assumed)),
            gpus=placement.gpus,
            final=sum(size[name] for name in size.keys() - set(temp)),
            temp=tuple(size[name] for name in temp),
            work=2 * state,  # a state is written beside the one before
        )

    def _sample(self, checkpoint: str, suite: str, run: str, variant: Variant) -> Price:
        name, assumed = self.config.checkpoint_model(checkpoint), variant.parameters(self.assumed)
        work = sampling_work(self.config, name, suite, {d: self.rows(d) for d in self.config.members(suite)})
        gpus, gpu_bytes = place_sampling(self.config, name, work, self._limits), self._limits.gpu_bytes
        work = replace(work, lengths=self.lengths("sample", name, suite, work.lengths, variant.response_scale))
        if variant.sample_in_run and gpus and run:
            gpus = variant.gpus or self.placement(run, 1).gpus
            part = replace(work, prompts=-(-work.prompts // gpus))  # each GPU samples its own; the engine runs already
            return Price(sampling_seconds(part, 1, gpu_bytes, assumed) - assumed.start_seconds, gpus)
        seconds = sampling_seconds(work, gpus, gpu_bytes, assumed)
        return Price(seconds, gpus, final=sample_bytes(work.prompts, work.responses, work.lengths.response))

    def _base_model(self, name: str) -> Price:
        entry, shape = self.config.models[name], shape_of_model(self.config.models[name])
        size = weight_bytes(shape, "float32" if isinstance(entry, TinyModel) else "bfloat16")
        if not isinstance(entry, TinyModel):
            return Price(self.assumed.cpu_seconds + size / DOWNLOAD_RATE, 0, final=size)
        tokens = count_tokens([0], [entry.context / 2]).times(entry.steps * entry.batch_size)
        flops = update_flops(shape, tokens, reference=False)
        seconds = self.assumed.cpu_seconds + compute_seconds(flops, 0, entry.threads, self.assumed)
        return Price(seconds, 0, final=size)

    # -- what prices depend on ---------------------------------------------------------------------------------------

    def placement(
        self, run: str, steps: int, reference_offload: bool | None = None, share_engines: bool = True
    ) -> Placement:
        """GPUs of a training job and where its reference's weights are, as for the job's request.

        Args:
            reference_offload: None: as the run says; False: the reference stays on the GPU.
            share_engines: False: each GPU has an engine.
        """

        def find() -> Placement:
            work = training_work(self.config, run, steps)
            if not share_engines:
                work = replace(work, rollout_tensor_parallel=1)
            if reference_offload is not None:
                work = replace(work, reference_offload=reference_offload)
            return place_training(self.config, run, work, self._limits)

        return self._once(("placement", self.config.entry(run).id, steps, reference_offload, share_engines), find)

    def lengths(self, kind: str, model: str, where: str, limits: Lengths, response_scale: float = 1.0) -> Lengths:
        """Mean tokens: of `plan.lengths` for the data set or suite, else measured, else in proportion to the limits.

        Args:
            kind: `train` or `sample`.
            where: a data set or a suite.
            limits: the limits of the lengths, whose means are not used.
        """
        assumed = Lengths.of_limits(limits.prompt_limit, limits.response_limit, self.assumed)
        known = self.config.plan.lengths
        given = [known[dataset] for dataset in self.config.members(where) if dataset in known]
        prompt, response = (
            [statistics.mean(v) for v in zip(*given, strict=True)] if given else (assumed.prompt, assumed.response)
        )
        response = response_scale * min(self.measured.lengths.get((kind, model), response), limits.response_limit)
        return replace(limits, prompt=min(prompt, limits.prompt_limit), response=min(response, limits.response_limit))

    def rows(self, dataset: str) -> int:
        """Problems of a data set: of its table, of `plan.rows`, of its entry, else `plan.unknown_rows`."""
        plan = self.config.plan
        known = self.measured.rows.get(dataset) or plan.rows.get(dataset)
        return known or expected_rows(self.config.datasets[dataset], plan.unknown_rows)

    @cached_property
    def _limits(self) -> ClusterLimits:
        return read_cluster_limits(PARTITIONS_FILE)

    def _once(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        if key not in self._known:
            self._known[key] = make()
        found: _T = self._known[key]
        return found
