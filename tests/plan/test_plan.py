"""The plan: the same jobs as a real dry-run, what is done, corrections by benchmarks, schedules, disk."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from srt.cluster.resources import Placement
from srt.common.io import write_parquet
from srt.config import Config, load_config, read_yaml
from srt.plan.jobs import Dag, Job, build
from srt.plan.measured import measure
from srt.plan.price import Price, Pricing
from srt.plan.schedule import critical_path, schedule
from srt.plan.spent import COLUMNS, spent
from srt.plan.tables import by_group, by_target, make_plan, to_json
from srt.plan.text import savings, to_text
from srt.plan.variants import Variant
from support import ROOT
from support.commands import srt
from support.dag import copy_of_the_tree, jobs, snakemake
from support.work import calls_of


def configuration(file: str, **changes: object) -> Config:
    raw = read_yaml(ROOT / file) | changes
    return load_config(raw, ROOT, file)


@pytest.fixture
def micro(tmp_path: Path) -> Config:
    return configuration("tests/micro/config.yaml", results=str(tmp_path / "results"))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["tests/micro/config.yaml", "config/smoke.yaml"])
def test_the_jobs_are_those_of_a_dry_run(file: str, tmp_path: Path) -> None:
    folder = copy_of_the_tree(tmp_path)
    planned = jobs(snakemake(folder, "--profile", "workflow/profiles/local", "--configfile", file, "-n"))
    for name in ("all", "total"):
        planned.pop(name)
    counted: dict[str, int] = {}
    for job in build(configuration(file)).jobs.values():
        counted[job.rule] = counted.get(job.rule, 0) + 1
    assert counted == planned


@pytest.mark.slow
def test_the_jobs_of_one_figure_are_those_of_a_dry_run(tmp_path: Path) -> None:
    folder = copy_of_the_tree(tmp_path)
    args = ["--profile", "workflow/profiles/local", "--configfile", "config/smoke.yaml", "-n"]
    table = by_target(make_plan(configuration("config/smoke.yaml", results="none"))).set_index("target")
    for figure in ("fig4", "fig9"):
        assert table.loc[figure, "jobs"] == jobs(snakemake(folder, *args, figure))["total"]


def test_a_job_is_in_the_total_once(micro: Config) -> None:
    plan = make_plan(micro)
    table = by_target(plan)
    total = table.iloc[-1]
    assert total["jobs"] == total["remaining_jobs"] == len(plan.dag.jobs) == len(set(plan.dag.order()))
    assert table["jobs"][:-1].sum() > total["jobs"]  # shared jobs are in several rows
    order = {key: i for i, key in enumerate(plan.dag.order())}
    assert all(order[parent] < order[key] for key in order for parent in plan.dag.parents(key))


def finish(config: Config, keys: set[str], slower: float = 1.0) -> None:
    """Make the outputs of these jobs, and benchmarks of `slower` times the predicted seconds."""
    dag = build(config)
    pricing = Pricing(config, dag)
    for key in keys:
        job = dag.jobs[key]
        for path in (*job.outputs, *([job.benchmark] if job.benchmark else [])):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        if job.benchmark:
            seconds = pricing.predicted(job).seconds * slower
            Path(job.benchmark).write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t1.0\n")


def test_what_is_done_and_what_remains(micro: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = build(micro)
    monkeypatch.setattr("srt.plan.measured._lengths", lambda config, dag: {})
    base = {k for k in dag.jobs if k.startswith(("base_model", "sample base", "score base"))}
    finish(micro, base)
    plan = make_plan(micro)
    assert plan.done == base and not plan.remaining & base
    assert plan.remaining == set(dag.jobs) - base
    # the state between two segments is temporary: a finished run does not need it
    finish(micro, {k for k in dag.jobs if not k.startswith("data")})
    again = make_plan(micro)
    assert not again.remaining and len(again.done) == len(dag.jobs) - 2  # no target needs the tables any more
    assert all(s.wall == 0 for s in again.schedules)


def test_benchmarks_correct_what_remains(micro: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srt.plan.measured._lengths", lambda config, dag: {})
    dag = build(micro)
    finish(micro, {"train gt-s1/step-2"}, slower=3.0)
    finish(micro, {"sample base/micro/tests"}, slower=0.5)
    plan = make_plan(micro)
    assumed = Pricing(micro, dag)
    assert plan.pricing.corrections[("train", "micro")] == (pytest.approx(3.0), 1)
    for key in ("train gt-s1/step-2", "train_last gt-s1/step-4", "train_last offline_easy-s1/step-2"):
        assert plan.prices[key].seconds == pytest.approx(3 * assumed.predicted(dag.jobs[key]).seconds)
    key = "sample gt-s1/step-4/tests"
    assert plan.prices[key].seconds == pytest.approx(assumed.predicted(dag.jobs[key]).seconds / 2)
    groups = by_group(plan).set_index("rule")
    assert groups.loc["train", "measured"] == 1 and groups.loc["train", "measured_over_assumed"] == pytest.approx(3)


def test_lengths_and_rows_are_measured(micro: Config) -> None:
    results = Path(micro.results)
    write_parquet(results / "data/sums_test.parquet", pd.DataFrame({"id": [str(i) for i in range(7)]}))
    write_parquet(results / "runs/gt-s1/step-2/metrics.parquet", pd.DataFrame({"response_length": [10.0, 14.0]}))
    write_parquet(results / "eval/base/micro/tests.groups.parquet", pd.DataFrame({"mean_length": [3.0, 5.0]}))
    found = measure(micro, build(micro))
    assert found.rows == {"sums_test": 7}
    assert found.lengths == {("train", "micro"): 12.0, ("sample", "micro"): 4.0}
    dag = build(micro)
    longer = Pricing(micro, dag, found).predicted(dag.jobs["train gt-s1/step-2"]).seconds
    assert longer > Pricing(micro, dag).predicted(dag.jobs["train gt-s1/step-2"]).seconds


# -- schedules ---------------------------------------------------------------------------------------------------------


def chain(*names: str, gpus: int = 8) -> tuple[Dag, dict[str, Price]]:
    """Jobs named `run/step` in chains by run, of one hour each; the state between two is temporary."""
    dag, prices = Dag(), {}
    for name in names:
        run, step = name.split("/")
        before = (f"{run}/{int(step) - 1}.state",) if int(step) else ()
        job = Job("train", name, before, (f"{name}.model",), (f"{name}.state",))
        dag.jobs[job.key] = job
        dag.maker |= {path: job.key for path in (*job.outputs, *job.temp)}
        dag.leaves.append(job.key)
        prices[job.key] = Price(3600, gpus, final=1.0, temp=(10.0,), work=20.0)
    return dag, prices


def test_two_runs_on_one_and_on_two_partitions() -> None:
    dag, prices = chain("a/0", "a/1", "a/2", "b/0", "b/1", "b/2")
    one, two = (schedule(dag, prices, set(dag.jobs), count, 8) for count in (1, 2))
    assert (one.wall, one.lower, two.wall, two.lower) == (6 * 3600, 6 * 3600, 3 * 3600, 3 * 3600)
    assert critical_path(dag, prices, set(dag.jobs))["train a/0"] == 3 * 3600
    # two runs of 4 GPUs share a partition
    dag, prices = chain("a/0", "a/1", "b/0", "b/1", gpus=4)
    assert schedule(dag, prices, set(dag.jobs), 1, 8).wall == 2 * 3600


def test_the_disk_of_a_chain() -> None:
    dag, prices = chain("a/0", "a/1", "a/2")
    found = schedule(dag, prices, set(dag.jobs), 1, 8, disk=100.0)
    # the third job starts with two models and the second's state, 2 + 10, and uses 20 more while it runs
    assert found.peak == 100 + 2 + 10 + 20
    # the same where the first two jobs are done: the second's state is on the disk until the third has read it
    assert schedule(dag, prices, {"train a/2"}, 1, 8, disk=102.0).peak == 102 + 10 + 20


def test_a_big_job_is_not_starved() -> None:
    """Later small jobs do not delay a job that needs the whole partition."""
    dag, prices = chain(*(f"s{i}/0" for i in range(20)), "big/0", "big/1", gpus=1)
    for step, hours in ((0, 1), (1, 2)):
        prices[f"train big/{step}"] = Price(3600 * hours, 8, temp=(0.0,))
    prices["train s0/0"] = Price(1800, 1, temp=(0.0,))
    found = schedule(dag, prices, set(dag.jobs), 1, 8)
    assert found.start["train big/0"] == 0 and found.start["train big/1"] == 3600


def test_schedules_keep_to_gpus_and_inputs() -> None:
    config = configuration("config/smoke.yaml", results="none")
    dag = build(config)
    gpus = {"sample": 1, "train": 4, "train_last": 4}
    prices = {key: Price(60.0 + len(key), gpus.get(job.rule, 0)) for key, job in dag.jobs.items()}
    for partitions in (1, 2):
        found = schedule(dag, prices, set(dag.jobs), partitions, 8)
        assert set(found.start) == set(dag.jobs) and found.lower <= found.wall + 1e-6
        for key, began in found.start.items():
            for parent in dag.parents(key):
                assert began >= found.start[parent] + prices[parent].seconds - 1e-6
        for now in found.start.values():
            busy = [k for k, began in found.start.items() if began <= now < began + prices[k].seconds - 1e-6]
            assert sum(prices[k].gpus for k in busy) <= 8 * partitions


def test_each_target_has_its_wall_time_and_disk() -> None:
    plan = make_plan(gpu_config(partitions=[1, 3]))
    table = by_target(plan).set_index("target")
    for name, key in plan.dag.figures.items():
        keys = plan.dag.closure([key])
        alone = schedule(plan.dag, plan.prices, keys, 3, 8)
        row = table.loc[name]
        assert row["wall_hours_3"] == pytest.approx(alone.wall / 3600) and row["disk_peak_bytes_3"] == alone.peak
        assert row["disk_bytes"] == pytest.approx(sum(plan.prices[k].final for k in keys))
        assert row["wall_hours_1"] >= row["wall_hours_3"] * 0.999
    total = table.iloc[-1]
    assert total["wall_hours_1"] == pytest.approx(plan.schedules[0].wall / 3600)
    assert (
        total["disk_bytes"] == pytest.approx(plan.final_bytes) and total["disk_peak_bytes_1"] == plan.schedules[0].peak
    )
    assert (table["disk_bytes"] <= total["disk_bytes"] * 1.000001).all()
    text = to_text(plan)
    head = next(line for line in text.splitlines() if line.strip().startswith("target"))
    assert head.split()[-5:] == ["on", "1", "on", "3", "disk"]


def test_the_wall_time_of_a_target_is_of_what_remains(micro: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srt.plan.measured._lengths", lambda config, dag: {})
    fresh = by_target(make_plan(micro)).set_index("target")
    dag = build(micro)
    write_parquet(Path(micro.results) / "data/sums_test.parquet", pd.DataFrame({"id": [str(i) for i in range(12)]}))
    finish(micro, dag.closure([dag.figures["fig9"]]))
    table = by_target(make_plan(micro)).set_index("target")
    assert table.loc["fig9", "wall_hours_1"] == 0 < fresh.loc["fig9", "wall_hours_1"]
    assert table.loc["fig2", "wall_hours_1"] < fresh.loc["fig2", "wall_hours_1"]
    # existing files take disk space from the start, and the total at the end is as before
    assert table.loc["fig9", "disk_peak_bytes_1"] == pytest.approx(table.loc["fig9", "disk_bytes"])
    assert table["disk_bytes"].tolist() == pytest.approx(fresh["disk_bytes"].tolist())


# -- what is printed ---------------------------------------------------------------------------------------------------


def gpu_config(seeds: int = 1, steps: dict[str, int] | None = None, **plan: object) -> Config:
    """The smoke configuration with the 7B model in the tiny one's place; `steps` of runs instead of its own."""
    raw = read_yaml(ROOT / "config/smoke.yaml")
    files = raw.pop("files")
    sections = {name: read_yaml(ROOT / path) for name, path in files.items()}
    entry = {"source": "hub", "repo": "Qwen/Qwen2.5-Math-7B", "revision": "b" * 40, "parameters": 7.6e9,
             "gpus_train": 8, "gpus_sample": 1}  # fmt: skip
    sections["models"] = {"tiny": entry}
    for run, count in (steps or {}).items():
        sections["runs"][run]["steps"] = count
    train = {"max_prompt_tokens": 1024, "max_new_tokens": 3072, "dtype": "bfloat16"}
    sampling = {"n": 32, "max_prompt_tokens": 1024, "max_new_tokens": 3072}
    raw |= {"results": "none", "seeds": seeds, "train_defaults": train, "sampling": sampling, "plan": plan}
    return load_config(raw | sections, ROOT)


def test_savings_are_those_of_the_variants() -> None:
    plan = make_plan(gpu_config(paper_gpu_hours={"v1": 1000}, target_gpu_hours=1.0))
    hours = [value for _, value in plan.savings]
    assert hours[0] > hours[1] > hours[2]  # CUDA graphs save time, and so does leaving out the old-policy pass
    assert hours[-1] == pytest.approx(plan.gpu_hours(set(plan.dag.jobs)))  # nothing was measured
    text = "\n".join(savings(plan))
    assert "The target of 1 is missed by" in text and "v1 states 1,000 GPU-hours" in text
    changed = [f"{b - a:+,.0f}" for a, b in itertools.pairwise(hours)]
    assert all(change in text for change in changed)
    met = "\n".join(savings(make_plan(gpu_config(target_gpu_hours=1e6))))
    assert "is met" in met
    shorter = dict(plan.sensitivity)["responses half as long"]
    assert shorter < hours[-1] < dict(plan.sensitivity)["responses twice as long"]


def test_seeds_are_counted_once_for_the_target() -> None:
    one, three = make_plan(gpu_config(target_gpu_hours=1.0)), make_plan(gpu_config(3, target_gpu_hours=1.0))
    line = next(line for line in savings(one) if line.startswith("With one seed"))
    assert line in savings(three) and len(three.dag.jobs) > 2 * len(one.dag.jobs)


def test_a_part_that_stands_apart_is_what_the_total_would_lack() -> None:
    long = make_plan(gpu_config(3, apart={"longer mix": {"gt_mix": 6, "srt_mix": 6}}, target_gpu_hours=1.0))
    short = make_plan(gpu_config(3, steps={"gt_mix": 6, "srt_mix": 6}))
    added = long.gpu_hours(set(long.dag.jobs)) - short.gpu_hours(set(short.dag.jobs))
    (row,) = to_json(long)["apart"]
    assert row["part"] == "longer mix" and row["gpu_hours"] == pytest.approx(added) and added > 0
    assert row["jobs"] == len(long.dag.jobs) - len(short.dag.jobs)
    assert row["one_seed_gpu_hours"] == pytest.approx(added / 3) and row["remaining_gpu_hours"] == row["gpu_hours"]
    text = to_text(long)
    assert f"without them, the total is {short.gpu_hours(set(short.dag.jobs)):,.0f} GPU-hours" in text
    assert "without the parts that stand apart. The target" in text and "longer mix" in text
    assert "stand apart" not in to_text(short) and to_json(short)["apart"] == []
    assert long.apart["longer mix"] == {key for key in long.dag.jobs if "_mix-s" in key and "step-12" in key}
    whole = make_plan(gpu_config(apart={"test-time training": {"ttt_sums4": 0}}))
    assert whole.apart["test-time training"] == {k for k in whole.dag.jobs if "ttt_sums4-s1/step-6" in k}


def test_a_variant_changes_only_what_it_says() -> None:
    plan = make_plan(gpu_config())
    job = plan.dag.jobs["train srt_mix-s1/step-6"]
    variants = Variant(), Variant(decode_slowdown=4.0), Variant(gpus=4)
    base, slow, small = (plan.pricing.predicted(job, variant) for variant in variants)
    assert slow.seconds > base.seconds and slow.gpus == base.gpus == 8 and small.gpus == 4
    assert base.temp == () and base.final > 14 * 7.6e9  # keep_states: all


def test_text_and_json_hold_the_same_numbers() -> None:
    plan = make_plan(gpu_config())
    text, data = to_text(plan), to_json(plan)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    total = data["targets"][-1]
    assert f"{total['jobs']:,} jobs, {total['gpu_hours']:,.0f} GPU-hours" in text
    assert len(data["wall"]) == 3 and all(w["lower"] <= w["wall"] + 1 for w in data["wall"])
    assert max(len(line) for line in text.splitlines()) < 140


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    words = ("plan", "--configfile", "config/smoke.yaml", "--partitions", "1", "3")
    done = srt(*words, "--out", tmp_path)
    with open(tmp_path / "plan.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[0]["target"] == "fig1" and rows[-1]["target"] == "total, each job once"
    assert f"{int(rows[-1]['jobs']):,} jobs" in done.stdout.replace("\n", " ")
    assert [w["partitions"] for w in json.loads((tmp_path / "plan.json").read_text())["wall"]] == [1, 3]
    assert srt(*words, "0", code=2).stderr == "error: --partitions must be at least 1\n"


def test_a_resolved_configuration_gives_the_same_plan(tmp_path: Path) -> None:
    config = configuration("config/smoke.yaml", results="none")
    again = Config.model_validate(json.loads(config.model_dump_json()))
    assert to_text(make_plan(again)) == to_text(make_plan(config))


def test_the_work_of_planning_grows_as_the_number_of_jobs() -> None:
    counts, calls = [], []
    for seeds in (1, 8, 16):  # the first also fills caches
        config = gpu_config(seeds=seeds)
        counts.append(len(build(config).jobs))
        calls.append(calls_of(lambda config=config: make_plan(config)))
    assert counts[2] > 700 and calls[2] / calls[1] < 1.1 * counts[2] / counts[1]


def test_the_full_configuration_has_a_plan() -> None:
    config = configuration("config/config.yaml", seeds=1, results="none")
    plan = make_plan(config)
    assert plan.gpu_hours(set(plan.dag.jobs)) > 100 and not plan.done


def test_what_was_spent_is_what_the_benchmarks_say(micro: Config) -> None:
    dag = build(micro)
    train = [job for job in dag.jobs.values() if job.rule in ("train", "train_last")]
    for seconds, job in zip((10, 20), train, strict=False):
        Path(job.benchmark).parent.mkdir(parents=True, exist_ok=True)
        Path(job.benchmark).write_text(f"s\tmax_pss\tcpu_time\n{seconds}\t{100 + seconds}\t9\n", encoding="utf-8")
    table = spent(micro)
    assert list(table.columns) == list(COLUMNS)
    (row,) = (row for _, row in table.iterrows() if row["rule"] == "train")
    assert (row["jobs"], row["measured"], row["peak_memory_mib"]) == (len(train), 2, 120)
    assert row["hours"] == pytest.approx(30 / 3600) and row["cpu_hours"] == pytest.approx(18 / 3600)
    pricing = Pricing(micro, dag)
    expected = sum(pricing.predicted(job).seconds for job in train[:2])
    assert row["measured_over_expected"] == pytest.approx(30 / expected)
    total = table.iloc[-1]
    assert total["jobs"] == len(dag.jobs) and total["measured"] == 2 and total["hours"] == pytest.approx(30 / 3600)


def test_the_full_configuration_uses_the_fewest_gpus_that_hold_a_run() -> None:
    config = configuration("config/config.yaml", results="none", seeds=1)
    pricing = Pricing(config, build(config))
    placed = {run: pricing.placement(run, 100) for run in ("srt_dapo-s1", "srt_dapo_14b-s1", "srt_bitwise_3-s1")}
    assert {run: replace(found, cache_bytes=0.0, activation_bytes=0.0) for run, found in placed.items()} == {
        "srt_dapo-s1": Placement(2, reference_offload=True, engine_sleep=True, cache_bytes=0.0),
        "srt_dapo_14b-s1": Placement(4, reference_offload=True, engine_sleep=True, cache_bytes=0.0),
        "srt_bitwise_3-s1": Placement(1, reference_offload=True, engine_sleep=True, cache_bytes=0.0),
    }
    assert all(25e9 < found.cache_bytes < 50e9 for found in placed.values())
    kept = pricing.placement("srt_dapo-s1", 100, reference_offload=False)
    assert (kept.gpus, kept.reference_offload, kept.engine_sleep) == (2, False, True)
    job = pricing.dag.jobs["train srt_dapo-s1/step-100"]
    background, waiting, none = (
        pricing.predicted(job, Variant(states=states)) for states in ("background", "waiting", "none")
    )
    assert none.seconds < background.seconds < waiting.seconds
    assert background.seconds < pricing.predicted(job, Variant(share_prompts=False)).seconds
    large = next(job for key, job in pricing.dag.jobs.items() if key.startswith("train srt_dapo_14b-s1/"))
    kept, moved = (pricing.predicted(large, Variant(reference_offload=offload)) for offload in (False, None))
    assert (kept.gpus, moved.gpus) == (8, 4)
    assert kept.gpu_hours > moved.gpu_hours and kept.seconds < moved.seconds
