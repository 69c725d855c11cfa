"""Each patch is called by the real Snakemake and the real plugin; one that does not apply is named and left out."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import snakemake_executor_plugin_slurm as plugin
from snakemake.jobs import Job
from snakemake.persistence import PersistenceBase

from srt.cluster.slurm import job_prefix
from srt.workflow import out_of_memory
from srt.workflow.patches import PATCHES, StatusQuery, apply_patches, is_controller, submits_to_slurm
from support import ROOT, warm

HEADER = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from pathlib import Path
from srt.workflow.patches import apply_patches
assert apply_patches(Path("results")) == []
"""


def snakemake(folder: Path, rules: str, *args: str, code: int = 0, **environment: str) -> str:
    """Run Snakemake, with the patches, on a Snakefile of these rules; return all that it printed."""
    (folder / "Snakefile").write_text(HEADER + rules, encoding="utf-8")
    done = warm.run(["-m", "snakemake", *args], cwd=folder, env=os.environ | environment)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


@pytest.fixture
def unpatched() -> Iterator[None]:
    """What is patched in this process, as it was before and again afterwards."""
    found = [part.find() for patch in PATCHES for part in patch.parts]
    yield
    for owner, name, original in found:
        setattr(owner, name, original)


# -- called ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_snakemake_asks_for_many_timers_and_one_runs(tmp_path):
    """Its timer of a minute is a daemon, so the end does not wait for it."""
    rules = """
import threading
from snakemake.jobs import Job
from snakemake.persistence import PersistenceBase

patched, asked, started = JobScheduler._schedule_reevalutation, [], []

class Timer(threading.Timer):
    def start(self):
        started.append(self)
        super().start()

def schedule(scheduler, delay):
    asked.append(delay)
    patched(scheduler, delay)

threading.Timer, JobScheduler._schedule_reevalutation = Timer, schedule

onsuccess:
    print(f"asked {len(asked)} times for {max(asked):.0f} s, started {len(started)}")

rule all:
    input: expand("{n}.txt", n=range(4))

rule one:
    output: "{n}.txt"
    shell: "touch {output}"
"""
    output = snakemake(tmp_path, rules, "--cores", "1", "--max-jobs-per-timespan", "100/60s")
    found = re.search(r"asked (\d+) times for 60 s, started 1$", output, re.MULTILINE)
    assert found and int(found[1]) >= 4, output


@pytest.mark.slow
def test_the_slurm_plugin_calls_what_was_replaced(tmp_path):
    """A real run, with commands of a few lines for SLURM: job names, logs, a state unknown to the plugin, memory."""
    commands = {
        "sbatch": """echo "$@" > submitted
            while [ "$1" != --output ]; do shift; done
            mkdir -p "${2%/*}"; echo 'Detected 1 oom_kill event in StepId=7.0.' > "${2%/*}/7.log"; echo 7""",
        "squeue": "echo '7|CANCELLED by 1000'",
        "scontrol": "echo 'MinJobAge = 300 sec'; echo 'MaxArraySize = 1001'",
        "sacctmgr": "echo lab",
    }
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in commands.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    rules = """
from srt.workflow.patches import submits_to_slurm

onstart:
    print("slurm:", submits_to_slurm(workflow))

rule one:
    output: "x"
    resources: mem_mb=800
    shell: "touch {output}"
"""
    output = snakemake(
        tmp_path, rules, "--executor", "slurm", "--jobs", "1", "--slurm-status-command", "squeue",
        "--slurm-init-seconds-before-status-checks", "1", "--default-resources",
        "slurm_account=lab", "slurm_partition=cpu", code=1, PATH=f"{tools}:{os.environ['PATH']}",
    )  # fmt: skip
    assert "slurm: True" in output
    submitted = (tmp_path / "submitted").read_text()
    assert f"--job-name {job_prefix(tmp_path / 'results')}_" in submitted
    assert f"{tmp_path}/results/logs/slurm/rule_one/" in submitted
    assert "SLURM status is: 'CANCELLED'" in output
    assert "out of memory: rule one asked for 800 MB in attempt 1 of 1: give it more with --set-resources" in output


@pytest.mark.slow
def test_what_is_read_of_the_workflow_is_there(tmp_path):
    """In the Snakemake that plans, and in the one that it starts for the job (a rule with `run` has one)."""
    rules = """
from srt.workflow.patches import is_controller, submits_to_slurm

with open("seen", "a") as seen:
    print(is_controller(workflow), file=seen)

onstart:
    print("slurm:", submits_to_slurm(workflow))

rule one:
    output: "x"
    run: open(output[0], "w").close()
"""
    output = snakemake(tmp_path, rules, "--cores", "1")
    assert (tmp_path / "seen").read_text().split() == ["True", "False"]
    assert "slurm: False" in output and "warning: " not in output


# -- left out -------------------------------------------------------------------------------------------------------


def test_an_attribute_that_a_later_snakemake_lacks_is_named(capsys):
    assert is_controller(object()) and not submits_to_slurm(object())
    first, second = capsys.readouterr().err.splitlines()
    assert "has no workflow.is_main_process. Without it a job that fails inside a SLURM job is tried again" in first
    assert "has no workflow.executor_plugin. Without it jobs that a killed controller left in SLURM" in second


# Snakemake itself plans with these: a version that renames them calls them by the new name
NEEDED_BY_SNAKEMAKE = {
    "PersistenceBase.has_metadata", "Job.output_mintime", "DAG._update_group_components", "Workflow._build_dag",
}  # fmt: skip


PARTS = [(patch, part) for patch in PATCHES for part in patch.parts if part.attribute not in NEEDED_BY_SNAKEMAKE]


@pytest.mark.slow
@pytest.mark.parametrize(("patch", "part"), PARTS, ids=[part.attribute for _, part in PARTS])
def test_a_version_that_it_does_not_fit_still_plans(patch, part, tmp_path):
    """The attribute is renamed, as in a later version of Snakemake or of the plugin."""
    script = (
        f"import functools, importlib, sys\n"
        f"from snakemake.cli import main\n"  # first: its modules import each other in a circle
        f"*path, name = {part.attribute!r}.split('.')\n"
        f"owner = functools.reduce(getattr, path, importlib.import_module({part.module!r}))\n"
        f"original = getattr(owner, name)\n"
        f"for scope in getattr(owner, '__mro__', [owner]):\n"
        f"    if name in vars(scope):\n"
        f"        delattr(scope, name)\n"
        f"        scope.renamed = original\n"
        f"main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "-n", "--profile", "workflow/profiles/local", "--configfile",
         "tests/micro/config.yaml", "--directory", str(ROOT), "all_data"],
        cwd=ROOT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and patch.symptom in warnings[0], done.stderr
    assert f"has no {part.module}.{part.attribute}, which is patched for version {patch.version}" in warnings[0]


def test_other_parameters_are_noticed(unpatched, monkeypatch, tmp_path):
    monkeypatch.setattr(plugin, "query_job_status", lambda command, logger, timeout: None)
    (sentence,) = apply_patches(tmp_path)
    assert "snakemake-executor-plugin-slurm 2.8.0 has other parameters for" in sentence
    assert not isinstance(plugin.query_job_status, StatusQuery)


def test_a_second_call_changes_nothing(unpatched, tmp_path):
    assert apply_patches(tmp_path) == []
    once = [part.find() for patch in PATCHES for part in patch.parts]
    assert apply_patches(tmp_path) == []
    assert once == [part.find() for patch in PATCHES for part in patch.parts]


def test_records_are_asked_everywhere_or_nowhere(unpatched, monkeypatch, tmp_path):
    """Half of the parts would leave stale results unnoticed: without its times Snakemake would ask nobody."""
    original = Job.output_mintime
    monkeypatch.setattr(PersistenceBase, "params_changed", lambda persistence, jobs: None)
    (sentence,) = apply_patches(tmp_path)
    assert "has other parameters for snakemake.persistence.PersistenceBase.params_changed" in sentence
    assert Job.output_mintime is original


# -- the status query -----------------------------------------------------------------------------------------------


def ask(query: StatusQuery, command: str = "squeue --name u") -> dict[str, str]:
    return asyncio.run(query(command, logging.getLogger("test")))[0]


def answers(*values):
    """A status query that returns these values one after another, and the commands that it was given."""
    asked: list[str] = []

    async def query(command, logger):
        asked.append(command)
        value = values[min(len(asked), len(values)) - 1]
        return value, None if value is None else 0.1

    return query, asked


def test_no_answer_is_not_the_end_of_all_jobs(caplog):
    query = StatusQuery(answers(None, None, {"1": "RUNNING"})[0])
    assert ask(query) == {} and ask(query) == {} and ask(query) == {"1": "RUNNING"}
    assert [r.message for r in caplog.records] == [
        "SLURM does not answer. Running jobs continue, and the query is repeated until it does.",
        "SLURM answers again.",
    ]


def test_a_cancelled_job_is_cancelled_whoever_did_it():
    assert ask(StatusQuery(answers({"1": "CANCELLED by 1000"})[0])) == {"1": "CANCELLED"}


def test_without_accounting_slurmctld_is_asked():
    query, asked = answers(None, {"1": "RUNNING"})
    assert ask(StatusQuery(query), "sacct -X --endtime now --name run-1") == {"1": "RUNNING"}
    assert asked[1] == "squeue --noheader --states=all --name=run-1 '--format=%i|%T'"


def test_a_job_that_stays_preempted_is_cancelled():
    now = [0.0]
    states = [{"1": s} for s in ("PREEMPTED", "PREEMPTED", "PENDING", "PREEMPTED", "PREEMPTED")]
    query = StatusQuery(answers(*states)[0], clock=lambda: now[0])
    seen = []
    for time in (0, 170, 190, 400, 590):
        now[0] = time
        seen.append(ask(query)["1"])
    assert seen == ["PREEMPTED", "PREEMPTED", "PENDING", "PREEMPTED", "CANCELLED"]


# -- out of memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "killed"),
    [
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0. Some of your processes may have been", True),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=3.batch. Some of the step tasks have been", True),
        ("srun: error: h200-0: task 0: Out Of Memory", True),
        ("slurmstepd: error: Job 7 exceeded memory limit (900 > 800), being killed", True),
        ("slurmstepd: error: Exceeded job memory limit", True),
        ("slurmstepd: error: *** JOB 3 ON h200-0 CANCELLED AT 2026-11-22T04:00:00 DUE TO TIME LIMIT ***", False),
    ],
)
def test_slurms_words_for_too_little_memory(tmp_path, text, killed):
    file = tmp_path / "1.log"
    file.write_text("x" * 100_000 + "\n" + text + "\n")
    assert out_of_memory.was_the_cause([None, str(tmp_path / "gone.log"), str(file)]) is killed


def test_the_last_attempt_says_what_to_change_and_is_said_again_at_the_end(monkeypatch):
    monkeypatch.setattr(out_of_memory, "FINAL", {})
    wildcards = {"run": "gt-s1", "step": "4"}
    first = out_of_memory.sentence("train", wildcards, 800, 1, 4)
    assert (
        first == "out of memory: rule train (run=gt-s1, step=4) asked for 800 MB in attempt 1 of 4; it is tried again."
    )
    assert out_of_memory.FINAL == {}
    last = out_of_memory.sentence("train", wildcards, 800, 4, 4)
    assert "800 MB in attempt 4 of 4: give it more with train_job: {memory_mb: 1600}" in last
    assert last.endswith("or --set-resources train:mem_mb=1600.")
    other = out_of_memory.sentence("score", {}, 800, 4, 4)
    assert other.endswith(
        "rule score asked for 800 MB in attempt 4 of 4: give it more with --set-resources score:mem_mb=1600."
    )
    assert [f"{s}." for s in out_of_memory.FINAL.values()] == [last, other]
