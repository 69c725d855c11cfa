"""The launcher: how many processes, where, until when; two torchruns on loopback are one process; jobs left behind."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from srt.cluster import launch, slurm
from srt.common.errors import SrtError
from srt.common.io import read_parquet
from support import ROOT
from support.specs import train_spec
from support.training import script, segment


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SRT_PROCESSES_PER_NODE", "SRT_DEADLINE", "SRT_MARGIN_SECONDS"):
        monkeypatch.delenv(name, raising=False)


def tool(folder: Path, name: str, text: str) -> None:
    """An executable shell script in a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# -- processes -----------------------------------------------------------------------------------------------------


def cuda(monkeypatch, build: str | None, seen: int) -> None:
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)


@pytest.mark.parametrize(
    ("build", "seen", "gpus", "processes"),
    [(None, 0, 8, 1), (None, 0, 0, 1), ("13.0", 8, 8, 8), ("13.0", 8, 4, 4), ("13.0", 1, 1, 1), ("13.0", 8, 0, 1)],
)
def test_one_process_a_gpu_that_is_there(monkeypatch, build, seen, gpus, processes):
    cuda(monkeypatch, build, seen)
    assert launch.processes(gpus, "node") == processes


def test_fewer_gpus_than_the_job_has_is_a_sentence(monkeypatch):
    cuda(monkeypatch, "13.0", 3)
    with pytest.raises(SrtError, match="node: the job has 8 GPUs and torch sees 3: check nvidia-smi"):
        launch.processes(8, "node")


def test_the_number_can_be_given(monkeypatch):
    monkeypatch.setenv("SRT_PROCESSES_PER_NODE", "3")
    assert launch.processes(8, "node") == 3
    monkeypatch.setenv("SRT_PROCESSES_PER_NODE", "0")
    with pytest.raises(SrtError, match="at least 1"):
        launch.processes(8, "node")


def test_a_job_without_a_gpu_sees_none_of_the_machine(monkeypatch):
    """A workstation with a GPU runs tiny models on its CPU; a job that has GPUs sees what its cluster has given it."""
    started = []
    shown = ("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setattr(os, "execvp", lambda *words: started.append(tuple(os.environ.get(name) for name in shown)))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    cuda(monkeypatch, "13.0", 4)
    for gpus, given in ((1, "2"), (4, None), (0, "2"), (0, None)):
        for name in shown:
            os.environ.pop(name, None)
        if given is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = given
        launch.main(gpus, 1, ["train.py"])
    segments = "expandable_segments:True"
    assert started == [("2", segments), (None, segments), ("", None), ("", None)]


def test_commands(monkeypatch):
    cuda(monkeypatch, "13.0", 8)
    script = ["scripts/train.py", "--start", "0"]
    assert launch.command(0, 1, script) == [sys.executable, *script]
    assert launch.command(8, 1, script) == [
        sys.executable, "-m", "srt.cluster.torchrun", "--standalone", "--nproc-per-node=8", "--", *script,
    ]  # fmt: skip
    with pytest.raises(SrtError, match="16 GPUs over 2 nodes need a SLURM job"):
        launch.command(16, 2, script)
    with pytest.raises(SrtError, match="use a multiple of 2"):
        launch.command(9, 2, script)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = launch.command(16, 2, script)
    assert command[:4] == ["srun", "--overlap", "--nodes=2", "--ntasks=2"]
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-id=7"} <= set(command) and command[-4:] == ["--", *script]


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:30", 30), ("59:59", 3599), ("23:00:00", 82800), ("2-01:00:05", 176405), ("UNLIMITED", None), ("INVALID", None),
     ("NOT_SET", None), ("", None)],
)  # fmt: skip
def test_time_left(text, seconds):
    assert launch.seconds_of(text) == seconds


def test_the_deadline_is_the_jobs_end_less_a_margin(monkeypatch, tmp_path):
    tool(tmp_path, "squeue", 'test "$2" = --jobs=7 && echo 1:40')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert launch.deadline(1000) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert launch.deadline(1000) == 1090
    tool(tmp_path, "squeue", "echo 1-00:00:00")
    assert launch.deadline(0) == 86400 - 300
    monkeypatch.setenv("SRT_MARGIN_SECONDS", "1000")
    assert launch.deadline(0) == 86400 - 1000
    tool(tmp_path, "squeue", "exit 1")
    assert launch.deadline(0) is None


def test_the_smaller_budget_holds(monkeypatch):
    monkeypatch.setattr(launch.time, "time", lambda: 1000.0)
    assert launch.time_budget(5) == 5 and launch.time_budget(None) is None
    monkeypatch.setenv("SRT_DEADLINE", "1120")
    assert launch.time_budget(5) == 2 and launch.time_budget(1) == 1 and launch.time_budget(None) == 2
    monkeypatch.setenv("SRT_DEADLINE", "900")
    assert launch.time_budget(5) == 0


# -- two nodes -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.slow
def test_two_nodes_of_two_processes_have_the_gradients_of_one(tmp_path, tiny_base, sums):
    """Two torchruns that meet on a loopback port, with two gloo ranks each, as scripts/launch.py starts them."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}

    def one_step(name: str) -> list[str]:
        spec = train_spec(zero_stage=1, learning_rate=2e-4)
        return script(segment(tmp_path / name, tiny_base, spec, 0, 1), sums)

    endpoint = f"127.0.0.1:{launch.free_port()}"
    command = launch.torchrun(2, 2, endpoint, "7", one_step("four"))
    nodes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    output = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(output)[-4000:]
    alone = [sys.executable, *one_step("one")]
    subprocess.run(alone, env=environment, check=True, capture_output=True, timeout=400)

    one, four = (load_file(tmp_path / n / "step-1/model/model.safetensors") for n in ("one", "four"))
    base = load_file(tiny_base / "model.safetensors")
    assert max(float((one[k] - four[k]).abs().max()) for k in one) < 1e-5
    assert max(float((one[k] - base[k]).abs().max()) for k in one) > 1e-4
    norms = [
        float(read_parquet(tmp_path / n / "step-1/metrics.parquet").to_pandas()["grad_norm"][0])
        for n in ("one", "four")
    ]
    assert norms[0] > 1e-3 and norms[1] == pytest.approx(norms[0], rel=1e-5)
    shards = sorted(p.name for p in (tmp_path / "four/step-1/state").rglob("*rank_*optim*"))
    assert len(shards) == 4, "each rank writes its part of the optimizer state"


# -- jobs of a dead controller -------------------------------------------------------------------------------------


def test_jobs_of_this_results_folder_only(monkeypatch, tmp_path):
    prefix = slurm.job_prefix(tmp_path)
    tool(
        tmp_path,
        "squeue",
        f"echo '4|{prefix}_a-b|rule_train_wildcards_x|y'; echo '5|srt-00000000_c|rule_data'; echo '6|x|'",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.live_jobs(tmp_path) == {"4": "rule_train_wildcards_x|y"}
    tool(tmp_path, "squeue", "exit 1")
    assert slurm.live_jobs(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert slurm.live_jobs(tmp_path) == {}


@pytest.mark.parametrize(
    ("answers", "by_slurm", "again", "told"),
    [
        ([{}], True, 0, 0),
        ([None], False, 0, 0),
        ([None, None, {}], True, 0, 0),
        ([{"4": "rule_train"}, {"4": "rule_train"}, None, {}], True, 1, 1),
        ([{"4": "rule_train"}, {}], False, 1, 1),
    ],
)
def test_a_new_start_waits_for_them_and_plans_again(monkeypatch, capsys, tmp_path, answers, by_slurm, again, told):
    left = list(answers)
    monkeypatch.setattr(slurm, "live_jobs", lambda results: left.pop(0))
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0)
    calls: list[int] = []
    slurm.wait_for_orphans(tmp_path, by_slurm, lambda: calls.append(1))
    assert len(calls) == again and not left
    assert capsys.readouterr().err.count("scancel 4 (training then resumes from its last saved state)") == told


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "given", "kept"), [(0, None, True), (0, "glibc.malloc.check=3", False), (2, None, False)]
)
def test_a_trainer_on_a_cpu_keeps_what_it_frees(monkeypatch, gpus, given, kept):
    """Unless the user has set the allocator's options."""
    started = []
    monkeypatch.setattr(launch.os, "execvp", lambda file, argv: started.append(dict(os.environ)))
    monkeypatch.setattr(launch, "command", lambda *args: ["python"])
    monkeypatch.setattr(launch.os, "environ", {"GLIBC_TUNABLES": given} if given else {})
    launch.main(gpus, 1, ["train.py"])
    assert started[0].get("GLIBC_TUNABLES") == (launch.KEEP_MEMORY["GLIBC_TUNABLES"] if kept else given)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_allocator_understands_it(tmp_path):
    """Freed memory is reused without a page fault."""
    script = tmp_path / "script.py"
    script.write_text(
        "import resource\n"
        "for _ in range(3):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    held = [bytearray(24 << 20) for _ in range(4)]\n"
        "    del held\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = []
    for tunables in ("", launch.KEEP_MEMORY["GLIBC_TUNABLES"]):
        environment = {**os.environ, "GLIBC_TUNABLES": tunables}
        faults.append(
            int(subprocess.run([sys.executable, script], env=environment, capture_output=True, check=True).stdout)
        )
    assert faults[1] < 100 < 10_000 < faults[0]
