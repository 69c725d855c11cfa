"""Why `sbatch` refused a job: temporarily, so that it is submitted again, or for a reason that the user must remove.

The texts are those of SLURM's source (slurm_errno.c and job_state_reason, versions 20 to 24), of its accounting tools,
and of Snakemake's SLURM plugin, which asks for the account before it submits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Limits on the number of submitted jobs, a controller or a database that is away, a full or paused queue.
PASSING = re.compile(
    r"\b(?:QOS|Assoc)\w*SubmitJob\w*"
    r"|Unable to contact slurm controller(?: \([a-z ]+\))?"
    r"|Socket timed out on send/recv operation"
    r"|Zero Bytes were transmitted or received"
    r"|Slurm backup controller in standby mode"
    r"|Controller is in standby mode, try a different controller"
    r"|Slurm temporarily unable to accept job, sleeping and retrying"
    r"|Unable to create job record, try again"
    r"|Resource temporarily unavailable"
    r"|Required partition not available \(inactive or drain\)"
    r"|Unable to connect to database"
    r"|Problem talking to (?:the )?database"
    # Without a limit's name it is most often that of submitted jobs. SLURM itself lets a job that is over another
    # limit wait in its queue.
    r"|Job violates accounting/QOS policy(?: \([^)]*\))?"
)
# After these the controller may have taken the job although sbatch failed.
UNCLEAR = re.compile(r"Socket timed out|Zero Bytes|\((?:receive|shutdown) failure\)")

PARTITIONS = "workflow/profiles/slurm/partitions.yaml"
RULE_RESOURCES = "--set-resources {rule}:mem_mb=... {rule}:gpu=... {rule}:threads=..."
LASTING = {
    r"Invalid account or account/partition combination specified|The given account .* appears to be invalid": (
        "set SRT_SLURM_ACCOUNT to an account that may use the partition "
        "(sacctmgr show associations user=$USER format=account,partition lists them)"
    ),
    r"Invalid partition name specified|invalid partition specified|User's group not permitted to use this partition": (
        f"correct the names under `partitions` in {PARTITIONS} (sinfo lists them)"
    ),
    r"Requested time limit is invalid \(missing or exceeds some limit\)|\b(?:QOS|Assoc)\w*Wall\w*": (
        f"set `max_runtime` of the partition in {PARTITIONS} to the cluster's limit (sinfo -o '%P %l' prints it), "
        "or --set-resources {rule}:runtime=MINUTES"
    ),
    r"Invalid qos specification": (
        "set --slurm-qos to a QOS that the account may use (sacctmgr show associations user=$USER format=account,qos)"
    ),
    r"Requested reservation is invalid": "correct the reservation that you pass with --slurm-reservation",
    r"Invalid feature specification": "correct `constraint` in --default-resources or --set-resources",
    r"Invalid generic resource \(gres\) specification|Invalid Trackable RESource \(TRES\) specification": (
        f"correct `available_gpu_models` and `gpus_per_node` in {PARTITIONS} (sinfo -o '%P %G' prints the GPUs)"
    ),
    r"Requested node configuration is not available|Memory required by task is not available"
    r"|Invalid memory specification|More processors requested than permitted|CPU count specification invalid"
    r"|Node count specification invalid": (
        f"correct `max_mem_mb`, `max_threads` and `max_gpu` of the partition in {PARTITIONS} "
        f"(sinfo -o '%P %m %c %G' prints them), or {RULE_RESOURCES}"
    ),
    r"\b(?:QOS|Assoc)(?:Max|Min|Grp)(?!\w*SubmitJob)\w+": (
        f"request less (`max_mem_mb`, `max_threads`, `max_gpu` in {PARTITIONS}, or {RULE_RESOURCES}), or use another "
        "account (SRT_SLURM_ACCOUNT) or QOS (--slurm-qos)"
    ),
}


@dataclass(frozen=True)
class Refusal:
    """A refusal that is understood.

    Attributes:
        reason: SLURM's own words.
        remedy: what to change; '' for a refusal that passes.
        unclear: the job may have been taken nevertheless.
    """

    reason: str
    remedy: str = ""
    unclear: bool = False


def refusal(message: str, rule: str) -> Refusal | None:
    """What a message of a failed submission says; None if it is not known.

    Args:
        message: the error of `sbatch` or of the plugin, with the call of `sbatch` behind it or without.
        rule: name of the rule, for the remedy.
    """
    said = message.partition("sbatch call:")[0]  # the call holds paths and commands
    for pattern, remedy in LASTING.items():
        if found := re.search(pattern, said):
            return Refusal(found[0], remedy.replace("{rule}", rule))
    if found := PASSING.search(said):
        return Refusal(found[0], unclear=UNCLEAR.search(said) is not None)
    return None
