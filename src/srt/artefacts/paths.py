"""Where each artefact lies in the results folder: one function a path, for rules, plan and resolvers alike."""

from __future__ import annotations


def groups_file(results: str, checkpoint: str, suite: str) -> str:
    """Scored groups of a checkpoint (`base/{model}` or `{run}/step-{n}`) on a suite."""
    return f"{results}/eval/{checkpoint}/{suite}.groups.parquet"
