"""What jobs request: as few GPUs as hold a run, times that cover it, limits of partitions, numbers by hand."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.cluster import resources
from srt.cluster.partitions import (
    PARTITIONS_FILE,
    ClusterLimits,
    JobRequest,
    Partition,
    PartitionEntry,
    minutes_of,
    read_cluster_limits,
)
from srt.cluster.resources import (
    Placement,
    cache_bytes,
    fewest_gpus,
    place,
    sampling_job,
    training_job,
    vllm_percent,
)
from srt.cluster.workloads import UNKNOWN_ROWS, expected_rows, training_work
from srt.common.errors import SrtError
from srt.config import Config, load_config, read_yaml
from srt.config.models import JobSize
from srt.config.runs import Refill
from srt.cost.lengths import Lengths
from srt.cost.memory import (
    activation_bytes,
    engine_bytes,
    host_sampling_bytes,
    host_training_bytes,
    kept_layers,
    trainer_bytes,
    training_bytes,
    workspace_bytes,
)
from srt.cost.parameters import CENTRAL, GENEROUS
from srt.cost.seconds import step_seconds
from srt.cost.shapes import SHAPES, scaled
from support import ROOT
from support.dag import MICRO, jobs, snakemake
from support.paper_work import GB, H200, PAPER, SHAPE_7B, SHAPE_14B

# -- GPUs --------------------------------------------------------------------------------------------------------------


OPEN = replace(PAPER, engine_sleep=None)  # as a run that says nothing about it


def test_the_fewest_gpus() -> None:
    """ZeRO 1 is the default of the code, the full configuration has 2; the reference in host memory where it helps."""
    whole = replace(PAPER, split_groups=False)  # with memory for the graphs of a group at its limits
    awake, asleep = replace(whole, reference_offload=False), replace(whole, engine_sleep=None)
    assert (fewest_gpus(awake, H200), fewest_gpus(whole, H200), fewest_gpus(asleep, H200)) == (8, 4, 2)
    assert fewest_gpus(replace(awake, split_groups=True), H200) == 4
    two = replace(whole, zero_stage=2)
    assert (fewest_gpus(replace(two, reference_offload=False), H200), fewest_gpus(two, H200)) == (4, 4)
    assert fewest_gpus(replace(two, engine_sleep=None), H200) == 2
    assert fewest_gpus(replace(OPEN, shape=SHAPES["Qwen/Qwen2.5-1.5B"]), H200) == 1
    assert fewest_gpus(replace(OPEN, shape=SHAPES["Qwen/Qwen3-4B-Base"]), H200) == 1
    large = replace(OPEN, shape=SHAPE_14B, zero_stage=3, old_policy_pass=True)
    assert fewest_gpus(large, H200) == 8 and fewest_gpus(replace(large, reference_offload=False), H200) == 16
    assert fewest_gpus(two, 2 * H200) == 1
    shared = replace(large, zero_stage=2, old_policy_pass=False, rollout_tensor_parallel=4)
    assert fewest_gpus(shared, H200) == 4
    for more in ({"split_groups": False}, {"rollout_tensor_parallel": 1}):  # it takes both
        assert fewest_gpus(replace(shared, **more), H200) == 8
    assert training_bytes(replace(OPEN, zero_stage=2), 1) > H200  # "on one H200 full 7B training does not fit"
    llama = replace(two, shape=SHAPES["meta-llama/Llama-3.1-8B-Instruct"])
    assert fewest_gpus(llama, H200) == 4 and fewest_gpus(replace(llama, engine_sleep=None), H200) == 2


def test_what_is_left_open_is_chosen_by_time_and_room() -> None:
    two = replace(OPEN, zero_stage=2)
    chosen = place(two, 2, H200)
    assert (chosen.reference_offload, chosen.engine_sleep) == (True, True)
    assert chosen.cache_bytes > 28e9  # it was 8.8 GB with the reference in host memory alone
    # on 4 GPUs the engine sleeps, so that layers keep activations; on 8 nothing is gained by moving
    assert [place(two, gpus, H200).engine_sleep for gpus in (4, 8)] == [True, False]
    assert [place(two, gpus, H200).reference_offload for gpus in (4, 8)] == [False, False]
    for sleep, offload in ((False, True), (True, False)):  # by hand
        given = place(replace(two, engine_sleep=sleep, reference_offload=offload), 2, H200)
        assert (given.engine_sleep, given.reference_offload) == (sleep, offload)
    assert place(two, 0, H200) == Placement(0) and place(two, 1, H200).engine_sleep  # fits nowhere: the least memory


def test_a_small_cache_makes_a_step_longer() -> None:
    """Responses that do not fit wait for those before them; of two ways that fit, the faster one is chosen."""
    seconds = [
        step_seconds(replace(OPEN, cache_bytes=size), 2, GENEROUS).rollout for size in (1e9, 8e9, 3e10, math.inf)
    ]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 2 * seconds[2] and seconds[2] == seconds[3]
    asleep = step_seconds(replace(OPEN, engine_sleep=True), 2, GENEROUS).rollout
    assert asleep == seconds[3] + GENEROUS.sleep_seconds


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.floats(1e9, 2e10), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4, 8]), st.floats(4e10, 3e11),
    st.sampled_from(["none", "selective", "full"]),
)  # fmt: skip
def test_the_chosen_way_fits_if_any_does(size: float, stage: int, gpus: int, gpu_bytes: float, mode: str) -> None:
    work = replace(OPEN, shape=scaled(size), zero_stage=stage, checkpointing=mode, pack_tokens=4096, trained=4)
    placed = place(work, gpus, gpu_bytes).of(work)
    fits = training_bytes(work, gpus) <= resources.USABLE * gpu_bytes
    assert fits == (training_bytes(placed, gpus) <= resources.USABLE * gpu_bytes)
    if fits and vllm_percent(placed, gpus, gpu_bytes) > 10:
        trainer = trainer_bytes(placed, gpus)
        beside = trainer.sync if placed.engine_sleep else max(trainer.update, trainer.sync)
        share = vllm_percent(placed, gpus, gpu_bytes) / 100 * gpu_bytes
        assert trainer.held + beside + share <= (resources.USABLE + 0.01) * gpu_bytes
        assert placed.cache_bytes <= share


def test_only_vllm_sleeps() -> None:
    full = config("config/config.yaml")
    slept = full.runs["srt_dapo"].model_copy(update={"engine_sleep": True})
    plain = slept.model_copy(update={"train": slept.train.model_copy(update={"rollout_engine": "transformers"})})
    stored = full.runs["sft_math12k"].model_copy(update={"engine_sleep": True})  # no rollouts
    open_ = full.runs["srt_dapo"]
    for run, sleeps in ((slept, True), (open_, None), (plain, False), (stored, False)):
        changed = full.model_copy(update={"runs": full.runs | {"srt_dapo": run}})
        assert training_work(changed, "srt_dapo-s1", 100).engine_sleep is sleeps


def test_engines_are_shared_as_the_run_says() -> None:
    large = replace(PAPER, shape=SHAPE_14B, zero_stage=3, old_policy_pass=True)
    assert fewest_gpus(replace(large, rollout_tensor_parallel=4), H200) == 4  # 8 otherwise
    assert fewest_gpus(replace(PAPER, shape=scaled(1.5e9), rollout_tensor_parallel=2), H200) == 2  # 1 otherwise
    with pytest.raises(SrtError, match="rollout_tensor_parallel 32 divides no number of GPUs for 16 prompts per step"):
        fewest_gpus(replace(PAPER, rollout_tensor_parallel=32), H200)
    full = config("config/config.yaml", gpus_train=None)
    run = full.runs["srt_dapo"].model_copy(update={"rollout_tensor_parallel": 2})
    changed = full.model_copy(update={"runs": full.runs | {"srt_dapo": run}})
    assert training_job(changed, "srt_dapo-s1", 100, LIMITS).rollout_tensor_parallel == 2
    assert training_job(full, "srt_dapo-s1", 100, LIMITS).rollout_tensor_parallel == 1
    plain = run.model_copy(update={"train": run.train.model_copy(update={"rollout_engine": "transformers"})})
    changed = full.model_copy(update={"runs": full.runs | {"srt_dapo": plain}})
    assert training_work(changed, "srt_dapo-s1", 100).rollout_tensor_parallel == 1


def test_a_step_draws_as_many_rounds_as_its_rule_says() -> None:
    plain = config("config/config.yaml")
    run = plain.runs["gt_dapo"].model_copy(update={"refill": Refill(dynamic_sampling=True, rounds=3)})
    refilled = plain.model_copy(update={"runs": plain.runs | {"gt_dapo": run}})
    assert [training_work(c, "gt_dapo-s1", 100).rollout_rounds for c in (plain, refilled)] == [1, 3]


def test_where_no_number_holds_it_the_sentence_says_what_to_do() -> None:
    with pytest.raises(
        SrtError, match=r"14.8e9 parameters needs GPUs of \d+ GB, even on 16 of them, .* use a higher zero_stage"
    ):
        fewest_gpus(replace(PAPER, shape=SHAPE_14B), H200)
    with pytest.raises(SrtError, match="even on 2 of them"):  # no more GPUs than prompts
        fewest_gpus(replace(PAPER, prompts=2), H200)
    full = config("config/config.yaml", repo="nobody/large", parameters=70e9)
    with pytest.raises(SrtError, match=r"models: \w+: a model of 70e9 .* by hand \(gpus_sample\)"):
        sampling_job(full, next(iter(full.models)), "aime24", LIMITS)


def test_vllm_gets_what_the_trainer_leaves() -> None:
    """On 8 GPUs the 7B's trainer leaves vLLM its weights, and a cache for the 64 responses of a GPU at full length."""
    whole = replace(PAPER, split_groups=False)
    share = vllm_percent(whole, 8, H200)
    assert share == 26 < vllm_percent(PAPER, 8, H200)  # with memory for a usual group only
    assert 1 < cache_bytes(whole, 8, H200) / (64 * 4096 * 57_344) < 2
    # a small model takes little of a GPU, but twice what it is estimated to need beside its weights
    small = replace(PAPER, shape=scaled(1.35e8), lengths=Lengths.of_limits(64, 128, GENEROUS))
    assert vllm_percent(small, 1, 24e9) == 26 and cache_bytes(small, 1, 24e9) > 3 * GB
    trainer = training_bytes(whole, 8) - engine_bytes(whole, 8)
    assert trainer + share / 100 * H200 <= resources.USABLE * H200
    two = replace(PAPER, zero_stage=2, reference_offload=True)
    assert vllm_percent(replace(two, engine_sleep=True), 2, H200) > vllm_percent(two, 2, H200)  # no activations then
    assert vllm_percent(PAPER, 1, H200) == 10  # too few GPUs, by hand
    assert vllm_percent(replace(PAPER, vllm=False), 8, H200) == resources.VLLM_PERCENT


def test_activations_get_the_memory_that_is_left() -> None:
    """39 GB on 2 GPUs with an engine that sleeps: a usual group of a 7B keeps 16 of 28 layers, one at its limits 2."""
    two = replace(OPEN, zero_stage=2)
    placed = place(two, 2, H200).of(two)
    room, shape = placed.activation_bytes, placed.shape
    trainer = trainer_bytes(placed, 2)
    assert room == pytest.approx(38.9e9, rel=0.01)
    assert trainer.held + room + workspace_bytes(placed, 2) <= resources.USABLE * H200
    assert [kept_layers(shape, "bfloat16", tokens, room) for tokens in (21_620, 1024 + 32 * 3072)] == [16, 1]
    awake = place(replace(two, engine_sleep=False), 8, H200)
    used = vllm_percent(awake.of(two), 8, H200) / 100 * H200 + trainer_bytes(awake.of(two), 8).held
    assert used + awake.activation_bytes + workspace_bytes(awake.of(two), 8) <= resources.USABLE * H200
    assert awake.activation_bytes >= 0.999 * activation_bytes(awake.of(two), 8)
    for unused in (replace(two, checkpointing="none"), replace(two, shape=SHAPE_14B)):  # what fits in no way has none
        assert place(unused, 2, H200).activation_bytes == 0
    assert place(two, 0, H200).activation_bytes == 0
    assert training_job(config("config/config.yaml"), "srt_dapo-s1", 100, LIMITS).activation_mb == round(room / 1e6)


# -- time and cores ----------------------------------------------------------------------------------------------------


def test_what_is_requested_covers_the_paper_s_step() -> None:
    """14 s for the longest response, 8 s for 0.4 M tokens at 10N; 11 s for its share of a saved state of 107 GB."""
    waiting = replace(PAPER, states="waiting")
    one = step_seconds(waiting, 8, GENEROUS)
    assert one.rollout == pytest.approx(14, abs=1) and one.update == pytest.approx(8, abs=0.5)
    assert one.save == pytest.approx(14 * SHAPE_7B.total / GENEROUS.disk_rate / 10)
    assert one.seconds < 60 < resources.SAFETY * one.seconds  # the authors' configuration is put at 60 to 100 s
    assert one.seconds > step_seconds(PAPER, 8, CENTRAL).seconds
    assert 100 * 60 / 60 <= resources.training_minutes(PAPER, 8) <= 300


def test_times_are_rounded_so_that_small_changes_change_no_request() -> None:
    assert resources.training_minutes(PAPER, 8) % resources.MINUTES_STEP == 0
    assert resources.training_minutes(replace(PAPER, steps=1), 8) == resources.MINUTES_STEP


def test_cores_feed_gpus_or_are_what_the_run_computes_with() -> None:
    assert [resources.cores(replace(PAPER, threads=threads), 2) for threads in (1, 16)] == [8, 32]
    assert resources.cores(replace(PAPER, threads=3), 0) == 3


TABLE = {  # GPUs that share an engine as in the full configuration, which has ZeRO 2
    "Qwen2.5 1.5B": ("Qwen/Qwen2.5-1.5B", 1), "Qwen3 4B": ("Qwen/Qwen3-4B-Base", 1),
    "Qwen2.5 7B": ("Qwen/Qwen2.5-Math-7B", 1), "Qwen3 14B": ("Qwen/Qwen3-14B-Base", 4),
}  # fmt: skip


def test_the_table_in_the_docs_is_what_the_formulas_give() -> None:
    rows = [
        "| model | GPUs, used | training, 100 steps | sampling 17,225 problems x 32 |",
        "|---|---|---|---|",
    ]
    for name, (repo, shared) in TABLE.items():
        work = replace(OPEN, shape=SHAPES[repo], zero_stage=2, rollout_tensor_parallel=shared)
        gpus, drawn = fewest_gpus(work, H200), replace(work, prompts=17_225, rollout_tensor_parallel=1)
        work = place(work, gpus, H200).of(work)
        hours = resources.training_minutes(work, gpus) / 60, resources.sampling_minutes(drawn, 1, H200) / 60
        host = host_training_bytes(work, gpus) / GB, host_sampling_bytes(drawn, 1) / GB
        rows.append(
            f"| {name} | {gpus}, {training_bytes(work, gpus) / GB:.0f} GB each "
            f"| {hours[0]:g} h, {host[0]:.0f} GB | {hours[1]:g} h, {host[1]:.0f} GB |"
        )
    assert "\n".join(rows) in (ROOT / "docs/cluster.md").read_text(), "\n".join(rows)


# -- the cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [(90, 90), ("90", 90), ("3d", 4320), ("1d12h", 2160), ("1d 12h", 2160), ("90s", 1.5), ("2-12:30", 3630),
     ("12:30:00", 750), ("1-00:00:00", 1440), ("2-12", 3600)],
)  # fmt: skip
def test_time_limits_are_read_as_the_plugin_reads_them(text, minutes):
    from snakemake_executor_plugin_slurm.utils import parse_time_to_minutes

    assert minutes_of(text) == minutes
    assert abs(parse_time_to_minutes(text) - minutes) <= 0.5


def test_the_shipped_cluster():
    cluster = read_cluster_limits(ROOT / PARTITIONS_FILE)
    assert (cluster.gpu_bytes, cluster.gpus_per_node) == (H200, 8)
    assert cluster.limits_for(8).minutes == 4320 and cluster.limits_for(0).minutes == 1440
    assert cluster.limits_for(0).memory_mb == 64_000
    assert [cluster.nodes(n) for n in (0, 1, 8, 9, 16)] == [1, 1, 1, 2, 2]


def test_partitions_bound_what_is_asked(tmp_path):
    file = tmp_path / "partitions.yaml"
    file.write_text(
        "gpus_per_node: 4\npartitions:\n  a: {max_runtime: 2h, max_gpu: 4, max_threads: 8}\n  b: {max_mem_mb: 900}\n"
    )
    cluster = read_cluster_limits(file)
    assert cluster.capped(JobRequest(8, 10_000, 600, 64)) == JobRequest(8, 10_000, 120, 8)
    assert cluster.capped(JobRequest(0, 10_000, 600, 64)) == JobRequest(0, 900, 600, 64)
    assert [cluster.memory_mb(JobRequest(0, 400, 1, 1), attempt) for attempt in (1, 2, 3)] == [400, 800, 900]
    assert cluster.memory_mb(JobRequest(0, 5000, 1, 1), 3) == 5000  # by hand, above the limit: unchanged
    assert read_cluster_limits(tmp_path / "none.yaml") == ClusterLimits()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitions: {a: {max_runtime: soon}}", "partitions: a: max_runtime: 'soon' is not a time: write minutes, or"),
        ("partitions: {a: {max_runtime: 0}}", "partitions: a: max_runtime: 0 is not a time"),
        ("partitions:\n  a:\n    max_runtime: 12:30:00", "line 3: YAML reads 12:30:00 as 45000 (in base 60)"),
        ("partitions: {a: {max_runtme: 1d}}", "partitions: a: unknown key 'max_runtme' (did you mean 'max_runtime'?)"),
        ("partitions: {a: {max_gpu: 0}}", "partitions: a: max_gpu: must be greater than 0, not 0"),
        ("partitions: {a: {max_mem_mb: lots}}", "partitions: a: max_mem_mb: must be a number, not 'lots'"),
        ("partitions: {a: }", "partitions: a: is empty: give it a value or remove the key"),
        ("partitions: [a]", "partitions: must be a mapping of keys, not a list"),
        ("gpus_per_node: 0", "gpus_per_node: must be greater than 0, not 0"),
        ("gpu_memory: 80", "unknown key 'gpu_memory' (did you mean 'gpu_memory_gb'?)"),
    ],
)
def test_partitions_are_checked_like_the_configuration(text, sentence, tmp_path):
    (tmp_path / "partitions.yaml").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(SrtError, match=rf"partitions.yaml: {re.escape(sentence)}"):
        read_cluster_limits(tmp_path / "partitions.yaml")


def test_the_plugin_knows_the_keys_of_partitions():
    from snakemake_executor_plugin_slurm.partitions import PartitionLimits

    known = set(PartitionEntry.model_fields) - {"slurm_cluster", "cluster", "clusters"}
    assert known == set(PartitionLimits.__dataclass_fields__)


def test_gpus_per_node_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SRT_GPUS_PER_NODE", "4")
    assert read_cluster_limits(ROOT / PARTITIONS_FILE).gpus_per_node == 4


def test_a_job_that_no_partition_takes_is_bounded_by_the_largest():
    cluster = ClusterLimits(partitions={"a": Partition(60, 1000, 8, 2), "b": Partition(30, 2000, 4, 0)})
    assert cluster.limits_for(8) == Partition(60, 2000, 8, 2)


# -- jobs of a configuration -----------------------------------------------------------------------------------------


def config(path: str, **changes: object) -> Config:
    """A configuration of the repository, with changed fields in every model."""
    loaded = load_config(read_yaml(ROOT / path), ROOT)
    models = {name: entry.model_copy(update=changes) for name, entry in loaded.models.items()}
    return loaded.model_copy(update={"models": models})


LIMITS = ClusterLimits(partitions={"h200": Partition(4320, gpus=8), "cpu": Partition(1440, 64_000, 32)})


@pytest.mark.parametrize(("path", "run"), [("tests/micro/config.yaml", "gt-s1"), ("config/smoke.yaml", "srt_mix-s1")])
def test_tiny_models_need_half_an_hour_of_one_core(path, run):
    small = config(path)
    request = training_job(small, run, 6, LIMITS)
    assert (request.gpus, request.minutes, request.cores) == (0, 30, 1)
    assert 1600 < request.memory_mb < 2000  # measured: 1,100 MB for the trainer, 170 MB per Snakemake process
    model, suite = next(iter(small.models)), next(iter(small.suites))
    drawn = sampling_job(small, model, suite, LIMITS)
    assert (drawn.gpus, drawn.minutes, drawn.cores) == (0, 30, 1) and drawn.memory_mb < 2000


def test_the_7b_of_the_full_configuration():
    by_hand, by_size = config("config/config.yaml"), config("config/config.yaml", gpus_train=None, gpus_sample=None)
    runs = [n for n, r in by_hand.runs.items() if by_hand.models[r.model].parameters == 7.6e9]
    model = by_hand.runs[runs[0]].model
    for full in (by_hand, by_size):
        request = training_job(full, f"{runs[0]}-s1", 100, LIMITS)
        assert (
            request.gpus == 2 and request.cores == 8 and 240 <= request.minutes <= 480 and request.memory_mb < 200_000
        )
        assert request.reference_offload and request.engine_sleep and request.vllm_percent == 34
        assert sampling_job(full, model, "aime24", LIMITS) == JobRequest(1, 26_197, 30, 4)
    # 17 thousand problems x 32: half a day, not the four hours that every job once got
    assert 480 <= sampling_job(by_hand, model, "dapo", LIMITS).minutes <= 1440


def test_a_segment_longer_than_the_partition_gets_the_partitions_limit():
    assert training_job(config("config/config.yaml"), "srt_dapo-s1", 100_000, LIMITS).minutes == 4320


SMALL = JobSize(minutes=77, memory_mb=5)


def test_numbers_by_hand_win_the_runs_over_the_models():
    full = config("config/config.yaml", gpus_train=4, train_job=SMALL, sample_job=JobSize(cores=3))
    request = training_job(full, "srt_dapo-s1", 100, LIMITS)
    assert (request.gpus, request.minutes, request.memory_mb) == (4, 77, 5)
    fresh = config("config/config.yaml", gpus_train=4, train_job=SMALL)
    run = fresh.runs["srt_dapo"].model_copy(update={"gpus": 16, "job": JobSize(minutes=9999)})
    request = training_job(
        fresh.model_copy(update={"runs": {**fresh.runs, "srt_dapo": run}}), "srt_dapo-s1", 100, LIMITS
    )
    assert (request.gpus, request.minutes, request.memory_mb) == (16, 9999, 5)
    assert sampling_job(full, full.runs["srt_dapo"].model, "aime24", LIMITS).cores == 3


def test_a_model_that_fits_nowhere_names_the_run_and_the_key():
    large = config("config/config.yaml", gpus_train=None, repo="nobody/large", parameters=40e9)
    with pytest.raises(SrtError, match=r"runs: srt_dapo-s1: .* by hand \(gpus_train of '\w+', or gpus of the run\)"):
        training_job(large, "srt_dapo-s1", 100, LIMITS)


def test_rows_of_a_data_set_are_known_from_its_entry():
    full, smoke = config("config/config.yaml"), config("config/smoke.yaml")
    assert expected_rows(smoke.datasets["mix"]) == 192
    assert expected_rows(full.datasets["aime24"]) == 30
    assert expected_rows(full.datasets["dapo"]) + expected_rows(full.datasets["dapo_heldout"]) in (17_398, 17_399)
    assert expected_rows(full.datasets["aime24"].model_copy(update={"expect_rows": None})) == UNKNOWN_ROWS


# -- requests change no result ---------------------------------------------------------------------------------------


def test_other_requests_rerun_nothing(micro_run, tmp_path):
    """Other memory, time, cores, GPUs, parameters or partitions do not rerun finished jobs."""
    folder = tmp_path / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    file: Path = folder / "tests/micro/models.yaml"
    size = {"memory_mb": 9999, "minutes": 99, "cores": 2}
    changed = {"gpus_train": 4, "gpus_sample": 2, "parameters": 1e9, "train_job": size, "sample_job": size}
    file.write_text(yaml.safe_dump({k: {**v, **changed} for k, v in yaml.safe_load(file.read_text()).items()}))
    runs: Path = folder / "tests/micro/experiments.yaml"
    runs.write_text(
        yaml.safe_dump({k: {**v, "gpus": 2, "job": size} for k, v in yaml.safe_load(runs.read_text()).items()})
    )
    (folder / "workflow/profiles/slurm/partitions.yaml").write_text("partitions: {cpu: {max_runtime: 1h}}\n")
    output = snakemake(folder, *MICRO, "-n")
    assert set(jobs(output)) <= {"provenance", "all", "total"}, output  # it contains the configuration's hash
