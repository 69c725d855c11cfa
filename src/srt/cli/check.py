"""Look for problems that would stop a configuration, in seconds and without starting a job.

Compares Python and the installed packages with pyproject.toml and constraints.txt. Checks that data files, model
folders and hub repositories of what is not made yet can be read, that the results folder can be written and has the
space that the plan needs, and that SLURM's partitions or this machine have the GPUs. The exit code is 1 if something is
wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srt.cli.shared import add_configfile, configuration


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_configfile(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line per finding; 1 if one is bad."""
    from srt.claims.power import powers, summary
    from srt.cluster.partitions import PARTITIONS_FILE, read_cluster_limits
    from srt.plan.needs import needs
    from srt.workflow import preflight

    config = configuration(args)
    datasets, models = preflight.unmade(config)
    need = needs(config)
    slurm = preflight.slurm_partitions() is not None
    findings = [
        *preflight.versions(Path()),
        *preflight.data(config, datasets),
        *preflight.models(config, models),
        *preflight.hub(config, datasets, models),
        preflight.results(config),
        preflight.space(config, need.disk_bytes),
        *(preflight.partitions(read_cluster_limits(PARTITIONS_FILE), need.gpus) if slurm else ()),
        *(() if slurm else (preflight.gpus(need.gpus),)),
        *((preflight.Finding(True, "claims", f"{summary(powers(config))} (srt power)"),) if config.claims else ()),
    ]
    for finding in findings:
        print(f"{'ok' if finding.good else 'ERROR':<6} {finding.topic:<9} {finding.text}")
    return int(not all(finding.good for finding in findings))
