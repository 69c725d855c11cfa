"""Where each artefact is: one method per path of the results folder, for rules, plan and tables alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# What the names of an evaluation's three tables end with.
SAMPLES, SCORES, GROUPS = ".samples.parquet", ".scores.parquet", ".groups.parquet"
# What a run writes one line per step to, in its folder `progress`.
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Paths:
    """The paths below a results folder.

    A checkpoint is `base/{model}` or `{run}/step-{n}`, where a run is of one seed (`{id}-s{seed}`). Rules pass
    Snakemake's wildcards as arguments, such as `"{run}"`.
    """

    results: str

    # -- data and models ---------------------------------------------------------------------------------------------

    def problems(self, dataset: str) -> str:
        """The problem table of a data set."""
        return f"{self.results}/data/{dataset}.parquet"

    def manifest(self, dataset: str) -> str:
        """Counts, dropped rows and fingerprint of a problem table."""
        return f"{self.results}/data/{dataset}.json"

    def base_model(self, model: str) -> str:
        """The folder of a base model, in Hugging Face format."""
        return f"{self.results}/models/{model}"

    def checkpoint(self, checkpoint: str) -> str:
        """The model folder of a checkpoint."""
        name = checkpoint.removeprefix("base/")
        return self.segment_model(checkpoint) if name == checkpoint else self.base_model(name)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def evaluation(self, checkpoint: str, suite: str) -> str:
        """How the paths of an evaluation's three tables begin; `suite` is its name of `srt.artefacts.settings`."""
        return f"{self.results}/eval/{checkpoint}/{suite}"

    def evaluated(self, table: Path) -> str:
        """The checkpoint of one of an evaluation's tables."""
        return table.parent.relative_to(f"{self.results}/eval").as_posix()

    def samples(self, checkpoint: str, suite: str) -> str:
        """The raw responses of a checkpoint on a suite."""
        return f"{self.evaluation(checkpoint, suite)}{SAMPLES}"

    def scores(self, checkpoint: str, suite: str) -> str:
        """One row per response: answer, vote, correctness."""
        return f"{self.evaluation(checkpoint, suite)}{SCORES}"

    def groups(self, checkpoint: str, suite: str) -> str:
        """One row per problem: majority answer, pass rate."""
        return f"{self.evaluation(checkpoint, suite)}{GROUPS}"

    def evaluation_settings(self) -> str:
        """Which sampling settings each name of an evaluation stands for (`srt.artefacts.settings`)."""
        return f"{self.results}/eval/settings.json"

    # -- what training reads beside data and models ------------------------------------------------------------------

    def labels(self, checkpoint: str, suite: str) -> str:
        """Offline labels: the majority answers of a checkpoint."""
        return f"{self.results}/labels/{checkpoint}/{suite}.parquet"

    def preferences(self, checkpoint: str, suite: str, part: str) -> str:
        """Stored responses of a checkpoint; `part` names how they were selected."""
        return f"{self.results}/preferences/{checkpoint}/{suite}-{part}.parquet"

    def subset(self, model: str, suite: str, metric: str, fraction: str) -> str:
        """The easiest fraction of a data set by a metric of a base model's samples."""
        return f"{self.results}/curriculum/{model}/{suite}-{metric}-{fraction}.parquet"

    # -- training ----------------------------------------------------------------------------------------------------

    def segment_model(self, checkpoint: str) -> str:
        """The weights of a run's checkpoint, in Hugging Face format."""
        return f"{self.results}/runs/{checkpoint}/model"

    def segment_state(self, checkpoint: str) -> str:
        """Optimizer, random states and progress at a checkpoint, from which the next segment resumes."""
        return f"{self.results}/runs/{checkpoint}/state"

    def segment_metrics(self, checkpoint: str) -> str:
        """Training metrics of the segment that ends at a checkpoint."""
        return f"{self.results}/runs/{checkpoint}/metrics.parquet"

    def segment_progress(self, checkpoint: str) -> str:
        """The working folder of the segment that ends at a checkpoint: description, lock, journal, saved states."""
        return f"{self.results}/progress/{checkpoint}"

    def run_metrics(self, run: str) -> str:
        """Training metrics of all segments of a run."""
        return f"{self.results}/runs/{run}/metrics.parquet"

    def run_metrics_csv(self, run: str) -> str:
        """The same as CSV."""
        return f"{self.results}/runs/{run}/metrics.csv"

    def progress(self, run: str) -> str:
        """The folder of a run's files that no job declares as output: saves within a segment, logs of a tracker."""
        return f"{self.results}/progress/{run}"

    def step_metrics(self, run: str) -> str:
        """Training metrics of a run so far, one line per step."""
        return f"{self.progress(run)}/{METRICS_FILE}"

    # -- figures, tables, pages --------------------------------------------------------------------------------------

    def figure(self, name: str, suffix: str) -> str:
        """A figure as pdf, png or csv."""
        return f"{self.results}/figures/{name}.{suffix}"

    def table(self, name: str, suffix: str = "csv") -> str:
        """A table over all runs."""
        return f"{self.results}/tables/{name}.{suffix}"

    def claims(self, suffix: str) -> str:
        """The verdicts on all claims as csv, html or md."""
        return f"{self.results}/claims/claims.{suffix}"

    def audit(self, file: str) -> str:
        """A file of the contamination audit."""
        return f"{self.results}/audit/{file}"

    def pairs(self) -> str:
        """The audit's table of a test and a training question each that match."""
        return self.audit("pairs.parquet")

    def clean_rows(self) -> str:
        """The audit's table of test rows that are in no training set."""
        return self.audit("clean_rows.parquet")

    def browser(self, page: str) -> str:
        """A page of the rollout browser: a run, or `index`."""
        return f"{self.results}/browser/{page}.html"

    def provenance(self) -> str:
        """What all results were made of."""
        return f"{self.results}/provenance/provenance.csv"

    def costs(self) -> str:
        """What all jobs took."""
        return f"{self.results}/costs/costs.csv"

    def partition(self, partition: str) -> str:
        """What a job on a partition of the cluster found."""
        return f"{self.results}/cluster/{partition}.json"

    def partition_report(self) -> str:
        """What was found on all partitions, as it is printed."""
        return f"{self.results}/cluster/report.txt"

    # -- the workflow itself -----------------------------------------------------------------------------------------

    def config(self) -> str:
        """The resolved configuration, written when a workflow starts."""
        return f"{self.results}/config.json"

    def plan(self) -> str:
        """The folder of the plan's tables."""
        return f"{self.results}/plan"

    def log(self, job: str) -> str:
        """The log of a job, `{stage}/{name}`."""
        return f"{self.results}/logs/{job}.log"

    def planned(self) -> str:
        """The outputs of the jobs that the last workflow started for, one a line."""
        return f"{self.results}/logs/planned.txt"

    def benchmark(self, job: str) -> str:
        """The time and memory of a job, `{stage}/{name}`, as Snakemake measured them."""
        return f"{self.results}/benchmarks/{job}.tsv"
