"""Jobs that `sbatch` refuses: waited for if the refusal passes, else failed at once with the key to change."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from srt.cluster.refusals import refusal
from support import ROOT, warm
from support.slurm_cluster import Cluster

POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
PASSING = {  # what sbatch prints: the words that name the reason
    f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: {POLICY}": (
        "QOSMaxSubmitJobPerUserLimit"
    ),
    f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: {POLICY}": (
        "AssocMaxSubmitJobLimit"
    ),
    f"sbatch: error: AssocGrpSubmitJobsLimit\nsbatch: error: Batch job submission failed: {POLICY}": (
        "AssocGrpSubmitJobsLimit"
    ),
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)": (
        "Unable to contact slurm controller (connect failure)"
    ),
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation": (
        "Socket timed out on send/recv operation"
    ),
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
    "sbatch: error: Batch job submission failed: Resource temporarily unavailable": (
        "Slurm temporarily unable to accept job, sleeping and retrying"
    ),
    "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)": (
        "Required partition not available (inactive or drain)"
    ),
    f"sbatch: error: Batch job submission failed: {POLICY}": POLICY,  # the limit is not named
    "sacctmgr: error: Problem talking to the database: Connection refused": "Problem talking to the database",
}
LASTING = {  # what sbatch prints: the key to change
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified": (
        "SRT_SLURM_ACCOUNT"
    ),
    "sbatch: error: invalid partition specified: h100\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified": "the names under `partitions`",
    "sbatch: error: Batch job submission failed: User's group not permitted to use this partition": (
        "the names under `partitions`"
    ),
    "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)": (
        "`max_runtime` of the partition in workflow/profiles/slurm/partitions.yaml"
    ),
    f"sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: {POLICY}": (
        "`max_runtime` of the partition"
    ),
    f"sbatch: error: QOSMaxMemoryPerJob\nsbatch: error: Batch job submission failed: {POLICY}": "`max_mem_mb`",
    "sbatch: error: Batch job submission failed: Invalid qos specification": "--slurm-qos",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available": "`max_gpu`",
    "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification": (
        "`available_gpu_models`"
    ),
    "sbatch: error: Batch job submission failed: Invalid feature specification": "`constraint`",
}
UNKNOWN = "sbatch: error: Batch job submission failed: Unspecified error"
HEADER = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from pathlib import Path
from srt.workflow import submission
from srt.workflow.patches import apply_patches
submission.FIRST_WAIT = submission.LONGEST_WAIT = 0.5
assert apply_patches(Path("results")) == []
"""
# sbatch of a few lines: the n-th call for a rule prints refusals/RULE/n and fails, or the job is done at once.
SBATCH = """#!/bin/sh
for word; do case $last in --comment) rule=${word#rule_};; --job-name) name=$word;; esac; last=$word; done
n=$(($(cat calls/$rule 2>/dev/null || echo 0) + 1)); mkdir -p calls; echo $n > calls/$rule
[ -e refusals/$rule/all ] && [ ! -e until ] && n=all
[ -e taken/$rule ] && echo "7|$name|rule_$rule" > live && touch $rule
if [ -e refusals/$rule/$n ]; then cat refusals/$rule/$n >&2; exit 1; fi
touch $rule; echo 7
"""
COMMANDS = {
    "sbatch": SBATCH,
    "squeue": '#!/bin/sh\ncase "$*" in *--user=*) cat live 2>/dev/null || true;; *) echo "7|COMPLETED";; esac\n',
    "scontrol": "#!/bin/sh\necho 'MinJobAge = 300 sec'; echo 'MaxArraySize = 1001'\n",
    "sacctmgr": "#!/bin/sh\necho lab\n",
}
OPTIONS = ("--executor", "slurm", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1")


def snakemake(folder: Path, rules: str, *args: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """Run Snakemake with its SLURM plugin and the patches on these rules; return all that it printed."""
    (folder / "Snakefile").write_text(HEADER + rules, encoding="utf-8")
    done = warm.run(["-m", "snakemake", *OPTIONS, *args], cwd=folder, env=env or dict(os.environ), timeout=500)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


class FakeSlurm:
    """Commands of a few lines in place of SLURM's, in a folder of their own; `refusals` by rule."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tools").mkdir()
        for name, text in COMMANDS.items():
            (folder / "tools" / name).write_text(text)
            (folder / "tools" / name).chmod(0o755)

    def refuse(self, rule: str, *texts: str, always: str | None = None) -> None:
        """The texts of the first submissions of a rule, or of all until the file `until` is there."""
        target = self.folder / "refusals" / rule
        target.mkdir(parents=True)
        for name, text in [*enumerate(texts, 1), *([("all", always)] if always else [])]:
            (target / str(name)).write_text(text + "\n")

    def run(self, rules: str, *args: str, code: int = 0) -> str:
        """Run Snakemake with these commands first in PATH."""
        path = f"{self.folder / 'tools'}:{os.environ['PATH']}"
        resources = ["--default-resources", "slurm_account=lab", "slurm_partition=cpu"]
        return snakemake(
            self.folder, rules, "--jobs", "9", *resources, *args, code=code, env=os.environ | {"PATH": path}
        )

    def calls(self, rule: str) -> int:
        """How often a rule was submitted."""
        return int((self.folder / "calls" / rule).read_text())


@pytest.fixture
def slurm(tmp_path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


def rule(name: str, *inputs: str) -> str:
    return f"\nrule {name}:\n    input: {', '.join(map(repr, inputs))}\n    output: {name!r}\n    shell: 'false'\n"


# -- the texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "reason"), PASSING.items(), ids=list(PASSING.values()))
def test_a_refusal_that_passes(text, reason):
    found = refusal(f"SLURM sbatch failed. The error message was '{text}'.\n    sbatch call:\n        sbatch", "train")
    assert found is not None and found.reason == reason and not found.remedy
    assert found.unclear == ("timed out" in text)


@pytest.mark.parametrize(("text", "key"), LASTING.items())
def test_a_refusal_that_lasts(text, key):
    found = refusal(text, "train")
    assert found is not None and key in found.remedy and "{rule}" not in found.remedy


def test_a_refusal_that_is_not_known():
    assert refusal(UNKNOWN, "train") is None


def test_words_of_the_call_are_no_refusal():
    call = f"sbatch --wrap='{POLICY} AssocMaxSubmitJobLimit'"
    assert refusal(f"SLURM sbatch failed. 'odd'.\n    sbatch call:\n        {call}", "train") is None


# -- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_refusal_that_passes_is_waited_for_and_told_once(slurm):
    """No retry is configured, so that one that was spent would end the run."""
    slurm.refuse("one", *PASSING, *PASSING)
    output = slurm.run(rule("one"))
    assert slurm.calls("one") == 2 * len(PASSING) + 1
    told = re.findall(r"SLURM accepts no job for now \((.*)\): jobs wait and are submitted again", output)
    assert told == list(PASSING.values())
    assert "Error in rule" not in output and "restart" not in output


@pytest.mark.slow
def test_a_refusal_that_lasts_fails_at_once_with_the_key(slurm):
    names = [f"rule{n}" for n in range(len(LASTING))]
    for name, text in zip(names, LASTING, strict=True):
        slurm.refuse(name, *[text] * 4)
    rules = rule("all", *names) + "".join(map(rule, names))
    output = slurm.run(rules, "--retries", "3", "--keep-going", code=1)
    assert [slurm.calls(name) for name in names] == [1] * len(names)
    for key in LASTING.values():
        assert re.search(rf"SLURM refuses the job \(.*\): .*{re.escape(key)}", output), key
    assert "restart" not in output


@pytest.mark.slow
def test_an_unknown_refusal_spends_a_retry(slurm):
    slurm.refuse("one", UNKNOWN, UNKNOWN)
    assert slurm.run(rule("one"), "--retries", "2").count("Trying to restart job") == 2
    assert slurm.calls("one") == 3


@pytest.mark.slow
def test_a_job_that_slurm_took_although_sbatch_failed_is_not_submitted_twice(slurm):
    """After a time-out the job of that rule is looked for in the queue, and followed under its number."""
    (slurm.folder / "taken").mkdir()
    (slurm.folder / "taken" / "one").touch()
    slurm.refuse("one", next(text for text in PASSING if "timed out" in text))
    sbatch = slurm.folder / "tools" / "sbatch"
    sbatch.write_text(SBATCH.replace("|$name|", f"|{name_of(slurm.folder)}_1|"))
    slurm.run(rule("one"))
    assert slurm.calls("one") == 1


def name_of(folder: Path) -> str:
    from srt.cluster.slurm import job_prefix

    return job_prefix(folder / "results")


@pytest.mark.slow
def test_other_jobs_go_on_while_some_wait(slurm):
    """Four jobs, more than the plugin has threads, are refused until a job that is submitted after them is done."""
    waiting = [f"wait{n}" for n in range(4)]
    for name in waiting:
        slurm.refuse(name, always=next(iter(PASSING)))
    rules = "localrules: until\n" + rule("all", *waiting, "until") + "".join(map(rule, waiting)) + rule("first")
    rules += rule("until", "first").replace("'false'", "'touch {output}'")
    output = slurm.run(rules)
    assert all(slurm.calls(name) >= 2 for name in waiting) and slurm.calls("first") == 1
    assert output.count("SLURM accepts no job for now") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_workflow_that_is_told_to_end_does_not_wait_for_slurm(slurm, number):
    slurm.refuse("one", always=next(iter(PASSING)))
    calls = slurm.folder / "calls" / "one"
    rules = f"""
import os, threading, time

def end():
    while not os.path.exists({str(calls)!r}):
        time.sleep(0.1)
    os.kill(os.getpid(), {int(number)})

threading.Thread(target=end, daemon=True).start()
"""
    output = slurm.run(rules + rule("one"), code=1)
    assert "Traceback" not in output and not (slurm.folder / "one").exists()


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.parametrize("count", [10, 30])
def test_many_jobs_where_four_may_be_submitted(tmp_path, count):
    """A real SLURM, and before its sbatch the limit of an association, which SLURM itself has only with a database."""
    with Cluster() as cluster:
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "sbatch").write_text(
            f"#!/bin/sh\nexec 9>{tmp_path}/lock; flock 9\n"
            f"if [ $(squeue --me -h | wc -l) -ge 4 ]; then echo >> {tmp_path}/refused\n"
            "printf 'sbatch: error: AssocMaxSubmitJobLimit\\nsbatch: error: Batch job submission failed: %s\\n'"
            f' "{POLICY}" >&2; exit 1; fi\n'
            f'squeue --me -h | wc -l >> {tmp_path}/before\nPATH=${{PATH#*:}} exec sbatch "$@"\n'
        )
        (tools / "sbatch").chmod(0o755)
        env = cluster.env | {"PATH": f"{tools}:{cluster.env['PATH']}"}
        rules = f"""
rule all:
    input: expand("{{n}}.txt", n=range({count}))

rule one:
    output: "{{n}}.txt"
    resources: mem_mb=50, runtime=5
    shell: "echo $SLURM_JOB_ID > {{output}}"
"""
        output = snakemake(
            tmp_path, rules, "--jobs", "30", "--default-resources", "slurm_partition=cpu", "mem_mb=50",
            "--latency-wait", "5", env=env,
        )  # fmt: skip
        jobs = {file.read_text().strip() for file in tmp_path.glob("*.txt")}
        assert len(list(tmp_path.glob("*.txt"))) == count and len(jobs) == count
        assert {str(number) for number in cluster.jobs("COMPLETED")} == jobs
        submitted = (tmp_path / "before").read_text().split()
        assert len(submitted) == count and max(map(int, submitted)) < 4
        assert (tmp_path / "refused").exists()
        assert output.count("SLURM accepts no job for now (AssocMaxSubmitJobLimit)") == 1
        assert "Trying to restart" not in output and "Error in rule" not in output


@pytest.mark.slurm
def test_slurmctld_away_when_a_job_is_submitted(tmp_path):
    """SLURM's own words, of the version that is installed here."""
    rules = """
localrules: gone

rule one:
    input: "gone"
    output: "one"
    resources: mem_mb=50, runtime=5
    shell: "echo $SLURM_JOB_ID > {output}"

rule gone:
    output: "gone"
    shell: "touch asked; while [ ! -e stopped ]; do sleep 0.1; done; touch {output}"
"""
    with Cluster() as cluster:

        def stop_and_start() -> None:
            while not (tmp_path / "asked").exists():
                time.sleep(0.1)
            cluster.stop_slurmctld()
            (tmp_path / "stopped").touch()
            time.sleep(25)  # sbatch itself tries for some 9 s
            cluster.start_slurmctld()

        admin = threading.Thread(target=stop_and_start)
        admin.start()
        output = snakemake(
            tmp_path, rules, "--jobs", "1", "--default-resources", "slurm_partition=cpu", "mem_mb=50",
            "--latency-wait", "5", env=cluster.env,
        )  # fmt: skip
        admin.join()
        assert [str(number) for number in cluster.jobs("COMPLETED")] == [(tmp_path / "one").read_text().strip()]
    told = re.findall(r"SLURM accepts no job for now \((.*)\): jobs wait", output)
    assert told == ["Unable to contact slurm controller (connect failure)"]
    assert "Error in rule" not in output
