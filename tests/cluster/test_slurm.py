"""The whole DAG through a real SLURM, with the profile that users have; and the cluster fixture itself."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from support import ROOT, warm
from support.dag import copy_of_the_tree, jobs, results
from support.slurm_cluster import Cluster, missing, processes_of, sweep

pytestmark = pytest.mark.slurm
FAST = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as own:
        yield own


def snakemake(cluster: Cluster, folder: Path, *args: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """`snakemake --profile slurm` in `folder`; all that it printed."""
    words = ["-m", "snakemake", "--profile", "slurm", *args]
    done = warm.run(words, cwd=folder, env={**cluster.env, **(env or {})})
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


# -- the fixture ---------------------------------------------------------------------------------------------------


def test_ready_and_gone_without_a_trace():
    with Cluster() as own:
        folder = own.folder
        assert own.call("sinfo", "-h", "-N", "-p", "h200", "-o", "%N %t %G").splitlines() == [
            f"{node} idle gpu:h200:8" for node in own.gpu_nodes
        ]
        given = own.call("srun", "-p", "h200", "--gpus=8", "--nodes=1", "printenv", "CUDA_VISIBLE_DEVICES", check=True)
        assert given.strip() == "0,1,2,3,4,5,6,7"
        own.call("sbatch", "--wrap", "sleep 600", "-o", "/dev/null", check=True)
        assert len(processes_of(folder)) >= 6
    assert not processes_of(folder) and not folder.exists()


def test_without_slurm_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("support.slurm_cluster.SBIN", str(tmp_path))
    assert "slurmctld, slurmd, munged, sbatch, srun not found): apt-get install" in str(missing())
    with pytest.raises(RuntimeError, match="no SLURM here"):
        Cluster()


@pytest.mark.parametrize("user", ["same", "unprivileged"])
def test_a_killed_owner_leaves_nothing_after_the_next_start(user, tmp_path):
    """The process that started the cluster gets SIGKILL while a job runs; as root, also for an unprivileged user."""
    options: dict = {}
    if user == "unprivileged":
        if os.geteuid() != 0:
            pytest.skip("is one already")
        options = {"user": "nobody", "group": "nogroup"}
    module = shutil.copy(ROOT / "tests/support/slurm_cluster.py", f"/tmp/slurm_cluster_{os.getpid()}.py")
    os.chmod(module, 0o644)
    code = (
        "import sys, time; sys.path.insert(0, '/tmp'); m = __import__(sys.argv[1]); c = m.Cluster(); c.start();"
        "c.call('sbatch', '-o', '/dev/null', '--wrap', 'sleep 600'); print(c.folder, flush=True); time.sleep(600)"
    )
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:" + os.environ["PATH"]) or sys.executable
    try:
        owner = subprocess.Popen([python, "-B", "-c", code, Path(module).stem], stdout=subprocess.PIPE, text=True,
                                 cwd="/tmp", **options)  # fmt: skip
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert folder.name.startswith("srt-slurm-"), "it did not start"
        assert processes_of(folder)
        assert folder not in sweep() and processes_of(folder), "a living owner's cluster is left alone"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        clear = "import sys; sys.path.insert(0, '/tmp'); __import__(sys.argv[1]).sweep()"
        subprocess.run([python, "-B", "-c", clear, Path(module).stem], check=True, cwd="/tmp", **options)
        assert not processes_of(folder) and not folder.exists()
    finally:
        os.unlink(module)


def test_the_cluster_config_is_the_micro_config_with_gpus(root):
    """So that their results can be compared."""
    micro, ours = (yaml.safe_load((root / "tests" / n / "config.yaml").read_text()) for n in ("micro", "cluster"))
    assert ours == {**micro, "files": {**micro["files"], "models": "tests/cluster/models.yaml"}}
    micro, ours = (yaml.safe_load((root / "tests" / n / "models.yaml").read_text()) for n in ("micro", "cluster"))
    assert ours == {name: {**model, "gpus_train": 8, "gpus_sample": 1} for name, model in micro.items()}


# -- the DAG -------------------------------------------------------------------------------------------------------

TARGETS = ["gt_s1", "results/micro/labels/base/micro/sums.parquet"]


@pytest.fixture(scope="module")
def run(cluster, tmp_path_factory) -> tuple[Path, str, list[dict[str, str]]]:
    """A fresh clone after `snakemake --profile slurm` on one run of the micro DAG and on the labels of its base model.

    Returns folder, output, SLURM's record of each job.
    """
    folder = copy_of_the_tree(tmp_path_factory.mktemp("slurm") / "clone")
    output = snakemake(cluster, folder, "--configfile", "tests/cluster/config.yaml", *FAST, *TARGETS)
    shown = cluster.call("scontrol", "show", "job", "-o", check=True).splitlines()
    seen = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown]
    return folder, output, [job for job in seen if job["JobName"].startswith("srt-")]


def test_the_results_are_those_of_a_local_run_byte_for_byte(run, micro_run):
    ours, theirs = results(run[0]), results(micro_run)
    assert ours.keys() <= theirs.keys() and len(ours) > 18
    assert [name for name in ours if ours[name] != theirs[name]] == []


def rule(job: dict[str, str]) -> str:
    return job["Comment"].removeprefix("rule_").partition("_wildcards")[0]


def test_every_job_asks_for_what_its_rule_needs(run):
    _, output, seen = run
    assert {rule(job) for job in seen} >= {"data", "base_model", "sample", "score", "train", "train_last", "labels"}
    assert len(seen) == sum(n for name, n in jobs(output).items() if name not in (*TARGETS, "all", "total"))
    for job in seen:
        gpus = {"train": 8, "train_last": 8, "sample": 1}.get(rule(job), 0)
        assert job["Partition"] == ("h200" if gpus else "cpu"), job
        assert job["NumNodes"] == "1" and job["JobState"] == "COMPLETED" and job["Requeue"] == "1"
        assert job.get("TresPerJob") == (f"gres:gpu:{gpus}" if gpus else None), job
        assert job["MinMemoryNode"] != "0"
        if gpus:  # from the model's size: half an hour of four cores per GPU
            assert (job["TimeLimit"], job["NumCPUs"]) == ("00:30:00", str(4 * gpus)), job


def test_training_jobs_have_a_node_for_themselves_and_sampling_jobs_share_one(cluster, run):
    training = [j for j in run[2] if rule(j).startswith("train")]
    for node in cluster.gpu_nodes:
        times = sorted((j["StartTime"], j["EndTime"]) for j in run[2] if j["NodeList"] == node and rule(j) != "sample")
        assert all(a[1] <= b[0] for a, b in pairwise(times)), times
    assert len(training) == 2
    sampling = [(j["StartTime"], j["EndTime"]) for j in run[2] if rule(j) == "sample"]
    assert any(a[0] < b[1] and b[0] < a[1] for a in sampling for b in sampling if a is not b), sampling


def test_logs_are_found_by_rule_and_wildcards(run):
    logs = run[0] / "results/micro/logs"
    assert (logs / "train/gt-s1/step-2.log").is_file()
    assert "one process on the CPU, 8 GPUs stay unused" in (logs / "train/gt-s1/step-2.log").read_text()
    assert len(list((logs / "slurm/rule_train/gt-s1_step-2").glob("*.log"))) == 1


def test_slurm_check_reports_each_partition(cluster, tmp_path):
    folder = copy_of_the_tree(tmp_path / "clone")
    # no accounting daemon runs here, so the plugin's question whether the account exists is answered in its place
    sacctmgr = cluster.folder / "bin" / "sacctmgr"
    sacctmgr.write_text("#!/bin/sh\necho lab\n")
    sacctmgr.chmod(0o755)
    try:
        output = snakemake(cluster, folder, "--configfile", "tests/cluster/config.yaml", *FAST, "slurm_check",
                           env={"SRT_SCRATCH": str(tmp_path), "SRT_SLURM_ACCOUNT": "lab"})  # fmt: skip
    finally:
        sacctmgr.unlink()
    charged = re.findall(r"Account=(\S+)", cluster.call("scontrol", "show", "job", "-o", check=True))
    assert charged.count("lab") == 2, "the jobs of this call, one per partition, and no others"
    assert re.search(r"^cpu: job \d+ on cpu-\w+-\d", output, re.MULTILINE)
    assert re.search(r"^h200: job \d+ on h200-\w+-\d", output, re.MULTILINE)
    assert "0 requested, '' given" in output and re.search(r"1 requested, '\d' given", output)
    assert re.search(rf"scratch {tmp_path} \d+\.\d MB/s", output)


def test_a_run_over_two_nodes(cluster, run, tmp_path):
    """16 GPUs on nodes of 8: one SLURM job of two nodes, two processes on each, the state in four parts, one result."""
    folder = tmp_path / "clone"
    shutil.copytree(run[0], folder, symlinks=True)
    models = folder / "tests/cluster/models.yaml"
    models.write_text(models.read_text().replace("gpus_train: 8", "gpus_train: 16"))
    shutil.rmtree(folder / "results/micro/runs")
    shutil.rmtree(folder / "results/micro/progress")
    target = "results/micro/runs/gt-s1/step-2/metrics.parquet"
    snakemake(cluster, folder, "--configfile", "tests/cluster/config.yaml", *FAST, "--notemp", "--", target,
              env={"SRT_PROCESSES_PER_NODE": "2"})  # fmt: skip
    job = cluster.call("scontrol", "show", "job", "-o", str(max(cluster.jobs())))
    assert (
        "NumNodes=2 " in job and "TresPerNode=gres:gpu:8" in job and f"NodeList={cluster.gpu_nodes[0][:-1]}[0-1]" in job
    )
    state = folder / "results/micro/runs/gt-s1/step-2/state"
    assert len(list(state.rglob("*rank_*optim*"))) == 4

    from safetensors.torch import load_file

    ours, theirs = (load_file(f / "results/micro/runs/gt-s1/step-2/model/model.safetensors") for f in (folder, run[0]))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-5


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_whole_smoke_dag_is_byte_for_byte_that_of_a_local_run(tmp_path):
    """67 jobs in ten minutes, measured by benchmarks/slurm_smoke.py; the micro DAG above runs with all tests."""
    from support.slurm_smoke import compare, problems

    with Cluster() as own:
        found = compare(own, tmp_path)
    assert problems(found) == [], found
    assert found["files_compared"] > 250 and found["slurm_jobs"] == sum(found["by_rule"].values()) > 60
