"""`make mini`: its configuration, jobs, cost, and the time left that it reports."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from srt.artefacts.paths import Paths
from srt.config import Config, load_config, read_yaml
from srt.plan.eta import Eta, Progress
from srt.plan.jobs import STAGES, build
from srt.plan.measured import Measured
from srt.plan.price import Pricing
from srt.plan.schedule import schedule
from support import ROOT
from support.dag import copy_of_the_tree, jobs, snakemake

# The paper's phenomena that `make mini` shows, and the claims that test each.
PHENOMENA = {
    "SRT tracks ground truth early": ["tracks_ground_truth"],
    "it raises avg@32 and maj@32": ["raises_avg", "raises_majority"],
    "it peaks and collapses on the mix": ["peaks_and_falls", "jumps_at_collapse", "one_answer_after_collapse"],
    "ground truth goes on": ["ground_truth_goes_on"],
    "offline labels stay stable": ["offline_stable"],
    "the easiest third": ["easy_pass_rate_no_collapse", "easy_majority_no_collapse"],
    "early stopping": ["early_stopping_near_optimal"],
    "test-time training": ["test_time_raises_majority", "test_time_no_collapse", "test_time_saturates"],
    "the gap": ["gap_is_positive", "gap_grows"],
    "harder data collapses sooner": ["harder_collapses_sooner"],
    "the alarm": ["alarm_leads", "alarm_silent_easy", "alarm_silent_ground_truth"],
    "the alarm as a trigger": ["alarm_stop_sustains", "alarm_switch_sustains"],
}


def configuration(file: str = "config/mini.yaml", **changes: object) -> Config:
    return load_config(read_yaml(ROOT / file) | changes, ROOT, file)


def test_every_phenomenon_has_a_claim_on_at_least_three_seeds() -> None:
    config = configuration()
    assert all(len(run.seeds) >= 3 for run in config.runs.values())
    for names in PHENOMENA.values():
        for name in names:
            claim = config.claims[name]
            of_base = claim.options.get("at") == "base" and claim.estimator in ("gap", "gap_trend")
            assert claim.untested is None and (claim.min_seeds == 3 or of_base), name


def test_extensions_are_compared_after_equally_many_steps() -> None:
    config = configuration()

    def steps_from_base(name: str) -> int:
        run, total = config.runs[name], 0
        end = run.steps
        while True:
            total += end
            if run.init is None:
                return total
            end = run.init.step or config.runs[run.init.run].steps
            run = config.runs[run.init.run]

    compared = [panel.runs[0] for panel in config.figures["extensions"].panels]
    variants = {name: steps_from_base(name) for name in compared if name != "srt_mix"}
    (steps,) = set(variants.values())
    assert steps in config.runs["srt_mix"].checkpoints
    for name, claim in config.claims.items():
        if name.endswith("_sustains"):
            assert claim.options["run"] in compared
            assert (claim.options["against"], claim.options["against_at"]) == ("srt_mix", steps)


@pytest.mark.slow
def test_jobs_are_those_of_a_dry_run(tmp_path: Path) -> None:
    folder = copy_of_the_tree(tmp_path)
    planned = jobs(snakemake(folder, "--profile", "workflow/profiles/mini", "--cores", "2", "-n"))
    total = planned.pop("total") - planned.pop("all")
    counted: dict[str, int] = {}
    for job in build(configuration()).jobs.values():
        counted[job.rule] = counted.get(job.rule, 0) + 1
    assert counted == planned and sum(counted.values()) == total


def test_it_is_planned_for_an_hour_on_two_cores() -> None:
    # the assumptions under `plan:` were measured for this configuration on one idle core (docs/measured.md)
    config = configuration()
    dag = build(config)
    pricing = Pricing(config, dag, Measured())
    prices = {key: replace(pricing.price(key), gpus=1) for key in dag.jobs}
    wall = schedule(dag, prices, set(dag.jobs), 1, 2).wall
    assert 0.4 * 3600 < wall < 3600
    # training and sampling make up most of it
    work = {
        rule: sum(prices[k].seconds for k, job in dag.jobs.items() if job.rule.startswith(rule))
        for rule in ("train", "sample")
    }
    assert 0.6 < sum(work.values()) / sum(price.seconds for price in prices.values()) < 1


def test_every_job_has_one_thread_and_memory_for_two_at_a_time() -> None:
    from srt.cluster.partitions import PARTITIONS_FILE, read_cluster_limits
    from srt.cluster.resources import sampling_job, training_job

    config = configuration()
    limits = read_cluster_limits(ROOT / PARTITIONS_FILE)
    requests = [
        training_job(config, i, run.segment, limits) for n, run in config.runs.items() for i in config.instances(n)
    ]
    requests += [sampling_job(config, "tiny", suite, limits) for suite in ("tests", "mix")]
    assert {request.cores for request in requests} == {1} and max(request.memory_mb for request in requests) * 2 < 8000


# -- the ETA


class Replay:
    """Finishes jobs of a configuration in a results folder, on a clock of its own."""

    def __init__(self, config: Config, true_seconds: dict[str, float]) -> None:
        self.now, self.true = 0.0, true_seconds
        self.dag = build(config)

    def clock(self) -> float:
        return self.now

    def finish(self, key: str) -> None:
        job = self.dag.jobs[key]
        for path in job.outputs:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        if job.benchmark:
            Path(job.benchmark).parent.mkdir(parents=True, exist_ok=True)
            Path(job.benchmark).write_text(f"s\th:m:s\n{self.true[key]}\t0\n")


@pytest.fixture
def mini_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return configuration(results="results")


@pytest.mark.parametrize(("train", "other", "gaps"), [(1.0, 1.0, 1.0), (2.0, 1.0, 1.1), (0.5, 0.7, 1.3)])
def test_after_ten_minutes_the_eta_is_right(mini_in_tmp: Config, train: float, other: float, gaps: float) -> None:
    """Jobs take other times than assumed, and Snakemake needs time between them: the ETA learns both."""
    config = mini_in_tmp
    dag = build(config)
    pricing = Pricing(config, dag, Measured())
    true = {
        key: pricing.price(key).seconds * (train if job.rule.startswith("train") else other)
        for key, job in dag.jobs.items()
    }
    prices = {key: replace(pricing.price(key), gpus=1, seconds=true[key] * gaps) for key in dag.jobs}
    played = schedule(dag, prices, set(dag.jobs), 1, 2)
    ends = sorted((start + prices[key].seconds, key) for key, start in played.start.items())
    replay = Replay(config, true)
    eta = Eta(config, cores=2, clock=replay.clock)
    for end, key in ends:
        if end > 600:
            break
        replay.finish(key)
    replay.now = 600.0
    found = eta.progress()
    assert found.jobs == len(dag.jobs) and 0 < found.done < found.jobs
    assert [stage.name for stage in found.stages] == list(STAGES), "the miniature has all of them"
    assert (sum(stage.done for stage in found.stages), sum(stage.jobs for stage in found.stages)) == (
        found.done, found.jobs
    )  # fmt: skip
    assert found.left == pytest.approx(played.wall - 600, rel=0.15)


def test_what_was_done_before_is_not_done_again(mini_in_tmp: Config) -> None:
    config = mini_in_tmp
    dag = build(config)
    replay = Replay(config, dict.fromkeys(dag.jobs, 1.0))
    for key in dag.order()[:200]:
        replay.finish(key)
    found = Eta(config, cores=2, clock=replay.clock).progress()
    assert found.done == 200 and found.elapsed == 0
    for key in dag.order()[200:]:
        replay.finish(key)
    found = Eta(config, cores=2, clock=replay.clock).progress()
    assert (found.done, found.left) == (found.jobs, 0) and "left" not in found.line()


def test_what_the_workflow_makes_again_is_not_done(mini_in_tmp: Config) -> None:
    """Results of another configuration, and a target that needs a part of the jobs."""
    config = mini_in_tmp
    dag = build(config)
    replay = Replay(config, dict.fromkeys(dag.jobs, 1.0))
    for key in dag.order():
        replay.finish(key)
        for path in dag.jobs[key].outputs:
            os.utime(path, (1e9, 1e9))  # long ago
    eta = Eta(config, cores=2, clock=replay.clock)
    assert eta.progress().left == 0
    again = [dag.figures["fig2"], "score base/tiny/tests", "sample base/tiny/tests"]
    planned = Path(Paths(config.results).planned())
    planned.parent.mkdir(parents=True, exist_ok=True)
    planned.write_text("\n".join(path for key in again for path in dag.jobs[key].outputs) + "\nunknown\n")
    found = eta.progress()
    assert found.jobs == len(dag.closure(again)) < len(dag.jobs) and found.jobs - found.done == 3 and found.left > 0
    assert {stage.name: stage.jobs - stage.done for stage in found.stages if stage.done < stage.jobs} == {
        "sampling": 1, "scoring": 1, "figures": 1,
    }  # fmt: skip
    Path(dag.jobs[again[2]].outputs[0]).unlink()
    assert eta.progress().jobs - eta.progress().done == 3
    for key in again:
        replay.finish(key)
    assert eta.progress().done == found.jobs and eta.progress().left == 0
    os.utime(planned, (1e9, 1e9))  # of an earlier start, after which nothing was left to do
    assert eta.progress().done == len(dag.jobs)


def test_progress_reads_well() -> None:
    assert Progress(12, 60, 45.0, 300.0).line() == "12 of 60 jobs done after 5 min, about 45 s left"


def test_the_second_version_is_a_layer_over_the_miniature() -> None:
    """As Snakemake merges the files; its own jobs fit in forty minutes of the machine that `plan:` was measured on."""
    from argparse import ArgumentParser

    from snakemake.utils import update_config

    from srt.cli.shared import add_configfile
    from srt.cli.shared import configuration as of_command

    files = [ROOT / "config/mini.yaml", ROOT / "config/mini_v2.yaml"]
    merged = read_yaml(files[0])
    update_config(merged, read_yaml(files[1]))
    parser = ArgumentParser()
    add_configfile(parser)
    config = of_command(parser.parse_args([f"--configfile={file}" for file in files]))
    assert config == load_config(merged, ROOT, "config/mini_v2.yaml")
    assert config.sampling == configuration().sampling and set(config.runs) >= {"srt", "teacher", "gt", "climb_6"}
    dag = build(config)
    pricing = Pricing(config, dag, Measured())
    prices = {key: replace(pricing.price(key), gpus=1) for key in dag.jobs}
    assert schedule(dag, prices, set(dag.jobs), 1, 2).wall < 2400
