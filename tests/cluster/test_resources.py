"""What jobs ask for: memory against the reference's arithmetic, monotone in every size, bounded, overridable."""

from __future__ import annotations

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
    minutes_of,
    read_cluster_limits,
)
from srt.cluster.resources import Work, gpu_memory, host_memory_mb, least_gpus, rows, sampling_job, training_job
from srt.common.errors import SrtError
from srt.config import Config, load_config, read_yaml
from srt.config.models import JobSize
from support import ROOT
from support.dag import MICRO, jobs, snakemake

H200 = 141e9
# one step of the paper on Qwen2.5-Math-7B
PAPER = Work(7.6e9, 512, 1024, 3072, steps=100, prompts=16)
GB = 1e9


# -- memory --------------------------------------------------------------------------------------------------------


def test_7b_on_eight_h200_is_the_references_arithmetic():
    """rl_engines.md 2.1: 57 GB of weights, gradients and states; 103 GB with reference, engine copy and cache."""
    parts = 2 * 7.6 + 4 * 7.6 + 12 * 7.6 / 8
    assert parts == pytest.approx(57, abs=0.2)
    spare = (resources.WORKSPACE + resources.BUCKETS) / GB
    bare = replace(PAPER, vllm=False, response_tokens=0, prompt_tokens=0, reference_offload=False)
    updates = 4 * 7.6 / 8  # while the step writes the weights: not in the reference's sum
    assert gpu_memory(bare, 8) / GB - spare - updates - 15.2 == pytest.approx(57, abs=0.2)
    cache = 64 * 4096 * 57_344 / GB
    assert cache == pytest.approx(15, abs=0.1)
    group = (1024 + 32 * 3072) * 196 * 1024 / GB  # the checkpointed inputs of one group at its limits
    assert resources.graph_memory(PAPER, 8) / GB == pytest.approx(group) == pytest.approx(19.9, abs=0.1)
    # a quarter of that cache is asked for: responses of usual length
    on_gpu = replace(PAPER, reference_offload=False)
    assert gpu_memory(on_gpu, 8) / GB == pytest.approx(103 - 0.75 * cache + group + spare, abs=1)
    # in host memory the reference and that graph are never there together: the larger one counts
    assert gpu_memory(PAPER, 8) / GB == pytest.approx(gpu_memory(on_gpu, 8) / GB - 15.2)


def test_the_least_number_of_gpus():
    """ZeRO 1 as the default of the code, 2 as in the full configuration; the reference elsewhere where it helps."""
    kept = replace(PAPER, reference_offload=False)
    assert (least_gpus(kept, H200), least_gpus(PAPER, H200)) == (8, 4)
    two = replace(PAPER, zero_stage=2)
    assert (least_gpus(replace(two, reference_offload=False), H200), least_gpus(two, H200)) == (4, 2)
    assert least_gpus(replace(PAPER, parameters=1.5e9), H200) == 1  # 28 GB of states, so the reference says
    assert least_gpus(replace(PAPER, parameters=4e9), H200) == 1
    large = replace(PAPER, parameters=14.8e9, zero_stage=3)
    assert least_gpus(large, H200) == 8 and least_gpus(replace(large, reference_offload=False), H200) == 16
    assert least_gpus(two, 2 * H200) == 1
    assert least_gpus(replace(PAPER, steps=0), H200) == 1
    assert gpu_memory(two, 1) > H200  # "on one H200 full 7B training does not fit"


def test_the_reference_moves_only_where_it_must():
    two = replace(PAPER, zero_stage=2)
    assert resources.needs_offload(two, 2, H200) and not resources.needs_offload(two, 4, H200)
    assert resources.needs_offload(replace(two, reference_offload=True), 4, H200)  # by hand
    assert not resources.needs_offload(replace(two, reference_offload=False), 2, H200)
    assert not resources.needs_offload(two, 0, H200)


def test_an_engine_that_sleeps_counts_or_the_update_does():
    """14B under ZeRO 2 on 4 GPUs: held 98 GB, the larger of a group's graph and the engine's 35, not both."""
    work = replace(PAPER, parameters=14.8e9, zero_stage=2, reference_offload=True)
    asleep = replace(work, engine_sleep=True)
    graph, engine = resources.graph_memory(work, 4), resources.engine_memory(work, 4)
    assert gpu_memory(work, 4) - gpu_memory(asleep, 4) == pytest.approx(min(graph, engine))
    assert least_gpus(replace(PAPER, zero_stage=1, engine_sleep=True), H200) == 2  # 4 otherwise
    awake, resting = (resources.engine_percent(w, 8, H200) for w in (PAPER, replace(PAPER, engine_sleep=True)))
    assert resting > awake  # while it samples there is no graph
    sampling = replace(asleep, zero_stage=3)  # ZeRO 3 gathers the weights for the engine
    assert gpu_memory(sampling, 8) >= sampling.weights * 7 / 8 + resources.engine_memory(sampling, 8)


def test_only_vllm_sleeps():
    full = config("config/config.yaml")
    slept = full.runs["srt_dapo"].model_copy(update={"engine_sleep": True})
    plain = slept.model_copy(update={"train": slept.train.model_copy(update={"rollout_engine": "transformers"})})
    stored = full.runs["sft_math12k"].model_copy(update={"engine_sleep": True})  # no rollouts
    for run, sleeps in ((slept, True), (plain, False), (stored, False)):
        changed = full.model_copy(update={"runs": full.runs | {"srt_dapo": run}})
        assert resources.training_work(changed, "srt_dapo-s1", 100).engine_sleep == sleeps


def test_gpus_that_share_an_engine_hold_a_part_of_its_weights():
    large = replace(PAPER, parameters=14.8e9, zero_stage=3)
    shared = replace(large, tensor_parallel=4)
    assert gpu_memory(large, 8) - gpu_memory(shared, 8) == pytest.approx(large.weights * 3 / 4)
    assert least_gpus(large, H200) == 8 and least_gpus(shared, H200) == 4
    assert least_gpus(replace(PAPER, parameters=1.5e9, tensor_parallel=2), H200) == 2  # 1 otherwise
    with pytest.raises(SrtError, match="rollout_tensor_parallel 32 divides no number of GPUs for 16 prompts a step: l"):
        least_gpus(replace(PAPER, tensor_parallel=32), H200)


def test_engines_are_shared_as_the_run_says():
    full = config("config/config.yaml", gpus_train=None)
    run = full.runs["srt_dapo"].model_copy(update={"rollout_tensor_parallel": 2})
    changed = full.model_copy(update={"runs": full.runs | {"srt_dapo": run}})
    assert training_job(changed, "srt_dapo-s1", 100, LIMITS).rollout_tensor_parallel == 2
    assert training_job(full, "srt_dapo-s1", 100, LIMITS).rollout_tensor_parallel == 1
    plain = run.model_copy(update={"train": run.train.model_copy(update={"rollout_engine": "transformers"})})
    changed = full.model_copy(update={"runs": full.runs | {"srt_dapo": plain}})
    assert resources.training_work(changed, "srt_dapo-s1", 100).tensor_parallel == 1


def test_one_pack_where_no_group_is_held():
    pack = 16_384 * 196 * 1024
    for work in (replace(PAPER, two_pass=True), replace(PAPER, zero_stage=3)):
        assert resources.graph_memory(work, 8) == pytest.approx(pack)
    assert resources.graph_memory(replace(PAPER, trained=8), 8) == pytest.approx((1024 + 8 * 3072) * 196 * 1024)


def test_sampling_under_zero_3_has_all_weights_on_each_gpu():
    large = replace(PAPER, parameters=14.8e9, zero_stage=3, reference_offload=True)
    bare = replace(large, vllm=False, response_tokens=1, prompt_tokens=1, micro_batch_tokens=1, sequences=8)
    states = 14 * 14.8 / 8 + 4 * 14.8 / 8
    whole = max(2 * 14.8 * 7 / 8, 2 * 14.8)  # gathered, or the reference: not both at once
    spare = (resources.WORKSPACE + resources.BUCKETS) / GB
    assert gpu_memory(bare, 8) / GB == pytest.approx(states + whole + spare, abs=0.1)


def test_where_no_number_holds_it_the_sentence_says_what_to_do():
    with pytest.raises(
        SrtError, match=r"14.8e9 parameters needs GPUs of \d+ GB, also on 16 .* use a higher zero_stage"
    ):
        least_gpus(replace(PAPER, parameters=14.8e9), H200)
    with pytest.raises(SrtError, match="also on 1 of them"):
        least_gpus(replace(PAPER, parameters=70e9, steps=0), H200)


def test_the_engine_gets_what_the_trainer_leaves():
    """On 8 GPUs the 7B's trainer leaves vLLM 43 GB: its weights, and a cache of 100 responses of full length."""
    share = resources.engine_percent(PAPER, 8, H200)
    assert share == 31
    assert (share / 100 * H200 - PAPER.weights) / (4096 * 57_344) > 90
    trainer = gpu_memory(PAPER, 8) - resources.engine_memory(PAPER, 8)
    assert trainer + share / 100 * H200 <= resources.USABLE * H200
    assert resources.engine_percent(replace(PAPER, parameters=1.5e9), 8, H200) == 60
    assert resources.engine_percent(PAPER, 1, H200) == 10  # too few, by hand: the least that two digits say
    assert resources.engine_percent(replace(PAPER, vllm=False), 8, H200) == resources.ENGINE_PERCENT


def test_no_more_gpus_than_prompts():
    with pytest.raises(SrtError, match="also on 2 of them"):
        least_gpus(replace(PAPER, prompts=2), H200)


def test_host_memory_of_the_7b_holds_eight_copies_that_are_being_read():
    """And the copy of the state that is being written: 107 GB."""
    assert 8 * 15_200 + 106_400 < host_memory_mb(PAPER, 8) < 384_000
    assert host_memory_mb(replace(PAPER, steps=0), 1) < 32_000


# -- monotone ------------------------------------------------------------------------------------------------------

WORKS = st.builds(
    Work,
    parameters=st.floats(1e5, 1e11),
    sequences=st.integers(1, 4096),
    prompt_tokens=st.integers(1, 4096),
    response_tokens=st.integers(1, 16384),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    vllm=st.booleans(),
    steps=st.integers(1, 1000),
    prompts=st.integers(1, 512),
    save_every=st.integers(1, 100),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
    checkpointing=st.booleans(),
    threads=st.integers(1, 16),
    two_pass=st.booleans(),
    reference_offload=st.sampled_from([None, False, True]),
    engine_sleep=st.booleans(),
)
LARGER = {"parameters": 1.5, "sequences": 2, "prompt_tokens": 2, "response_tokens": 2, "steps": 2}


@given(work=WORKS, key=st.sampled_from(sorted(LARGER)), gpus=st.sampled_from([0, 1, 2, 4, 8, 16]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_larger_work_never_asks_for_less(work, key, gpus):
    value = getattr(work, key) * LARGER[key]
    larger = replace(work, **{key: value if key == "parameters" else int(value)})
    assert gpu_memory(larger, max(1, gpus)) >= gpu_memory(work, max(1, gpus))
    assert host_memory_mb(larger, gpus) >= host_memory_mb(work, gpus)
    assert resources.training_minutes(larger, gpus) >= resources.training_minutes(work, gpus)
    drawn, more = replace(work, steps=0), replace(larger, steps=0)
    assert resources.sampling_minutes(more, H200, min(1, gpus)) >= resources.sampling_minutes(drawn, H200, min(1, gpus))


@given(work=WORKS, gpus=st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_more_gpus_need_no_more_memory_each_and_no_more_time(work, gpus):
    assert gpu_memory(work, 2 * gpus) <= gpu_memory(work, gpus)
    assert resources.training_minutes(work, 2 * gpus) <= resources.training_minutes(work, gpus)
    assert resources.cores(work, 2 * gpus) >= resources.cores(work, gpus)


@given(work=WORKS)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_zero_stages_never_cost_memory(work):
    needs = [gpu_memory(replace(work, zero_stage=stage), 8) for stage in range(4)]
    assert needs == sorted(needs, reverse=True)


# -- time ----------------------------------------------------------------------------------------------------------


def test_a_step_of_the_paper_takes_what_the_reference_says():
    """14 s for the longest of 64 x 3,072 tokens on each GPU, 8.6 s for 0.435 M tokens at 10N; with saving below 60."""
    weights = 3072 * 1.3 * PAPER.weights / 4.3e12
    assert weights == pytest.approx(14, abs=0.5)
    cache = 3072 * 1.3 * 64 * 1024 * 57_344 / 4.3e12
    update = 10 * 7.6e9 * 512 * 1024 / (8 * 0.45 * 989e12)
    save = 14 * 7.6e9 / resources.DISK / 10
    expected = weights + cache + update + save + resources.STEP_SECONDS
    assert resources.step_seconds(PAPER, 8) == pytest.approx(expected, rel=1e-6)
    assert expected < 60 < resources.SAFETY * expected  # what is asked covers the authors' 60 to 100 s a step
    assert 100 * 60 / 60 <= resources.training_minutes(PAPER, 8) <= 300


def test_times_are_rounded_so_that_small_changes_change_no_request():
    assert resources.training_minutes(PAPER, 8) % resources.MINUTES_STEP == 0
    assert resources.training_minutes(replace(PAPER, steps=1), 8) == resources.MINUTES_STEP


SIZES = ((1.54e9, 2), (4e9, 2), (7.6e9, 2), (14.8e9, 3))  # parameters, ZeRO stage: as in the full configuration


def test_the_table_in_the_docs_is_what_the_formulas_give():
    rows = [
        "| parameters | GPUs (ZeRO stage), used | training, 100 steps | sampling 17,225 problems x 32 |",
        "|---|---|---|---|",
    ]
    for parameters, stage in SIZES:
        work = replace(PAPER, parameters=parameters, zero_stage=stage)
        gpus, drawn = least_gpus(work, H200), replace(work, steps=0, sequences=17_225 * 32)
        work = replace(work, reference_offload=resources.needs_offload(work, gpus, H200))
        training = f"{resources.training_minutes(work, gpus) / 60:g} h, {host_memory_mb(work, gpus) / 1000:.0f} GB"
        sampling = f"{resources.sampling_minutes(drawn, H200, 1) / 60:g} h, {host_memory_mb(drawn, 1) / 1000:.0f} GB"
        used = f"{gpu_memory(work, gpus) / GB:.0f} GB each"
        rows.append(f"| {parameters / 1e9:.3g}e9 | {gpus} ({stage}), {used} | {training} | {sampling} |")
    assert "\n".join(rows) in (ROOT / "docs/cluster.md").read_text()


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
    assert cluster.memory_mb(JobRequest(0, 5000, 1, 1), 3) == 5000  # by hand, above the limit: as it stands
    assert read_cluster_limits(tmp_path / "none.yaml") == ClusterLimits()
    file.write_text("partitions:\n  a: {max_runtime: soon}\n")
    with pytest.raises(SrtError, match=r"partitions.yaml: partitions: a: max_runtime: 'soon' is not a valid value"):
        read_cluster_limits(file)


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
    assert 1600 < request.memory_mb < 2000  # measured: 1,100 MB for the trainer, 170 for each of the two Snakemakes
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
        assert request.reference_offload and request.vllm_percent == 17
        assert sampling_job(full, model, "aime24", LIMITS) == JobRequest(1, 26_160, 30, 4)
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
    large = config("config/config.yaml", gpus_train=None, parameters=40e9)
    with pytest.raises(SrtError, match=r"runs: srt_dapo-s1: .* by hand \(gpus_train of '\w+', or gpus of the run\)"):
        training_job(large, "srt_dapo-s1", 100, LIMITS)


def test_rows_of_a_data_set_are_known_from_its_entry():
    full, smoke = config("config/config.yaml"), config("config/smoke.yaml")
    assert rows(smoke.datasets["mix"]) == 192
    assert rows(full.datasets["aime24"]) == 30
    assert rows(full.datasets["dapo"]) + rows(full.datasets["dapo_heldout"]) in (17_398, 17_399)
    assert rows(full.datasets["aime24"].model_copy(update={"expect_rows": None})) == resources.UNKNOWN_ROWS


# -- requests change no result ---------------------------------------------------------------------------------------


def test_other_requests_rerun_nothing(micro_run, tmp_path):
    """Memory, time, cores, GPUs, parameters and partitions of finished jobs are no reason to do them again."""
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
    assert set(jobs(output)) <= {"provenance", "all", "total"}, output  # it names the configuration's hash
