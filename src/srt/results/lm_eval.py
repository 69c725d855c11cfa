"""Stored evaluations as lm-evaluation-harness writes its own: `results_*.json` and `samples_*.jsonl`.

The formats are those of lm-eval 0.4.13 (`lm_eval.result_schema`, `lm_eval.loggers.evaluation_tracker`). A data set is a
task. The harness has one row per question and filter; the filters here are `avg@{n}` (the mean over all n responses) and
`maj@{n}` (the majority answer). The metric is `exact_match` by this project's grader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srt.artefacts.paths import GROUPS, Paths
from srt.common.errors import SrtError
from srt.common.io import sha256_bytes, write_json, write_text
from srt.results.folder import Results

METRIC = "exact_match"
VERSION = 1.0  # of a task: the column `Version` of the harness's tables


def export(results: Results, checkpoint: str, suite: str, out: Path) -> list[Path]:
    """Write the evaluation of a checkpoint on a suite to `out`/{checkpoint, `/` as `__`}; return the files.

    The time in their names is that of the scores, so that a second export writes the same names and bytes.

    Raises:
        SrtError: the evaluation is not there, or a data set has no true answers.
    """
    settings = results.settings(checkpoint, suite)
    responses, groups = results.responses(checkpoint, suite), results.groups(checkpoint, suite)
    seconds = Path(f"{Paths(str(results.folder)).evaluation(checkpoint, suite)}{GROUPS}").stat().st_mtime
    when = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H-%M-%S")
    name = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", checkpoint)
    answers = {key: part for key, part in responses.groupby(["dataset", "problem_id"], sort=False)}
    tasks: dict[str, list[dict[str, Any]]] = {}
    for dataset, part in groups.groupby("dataset", sort=False):
        if part["reference"].isna().any():
            raise SrtError(f"data set '{dataset}' has no true answers, and lm-eval needs them: export another suite")
        rows = [
            row
            for place, group in enumerate(part.to_dict("records"))
            for row in _samples(place, group, answers[dataset, group["problem_id"]], settings)
        ]
        tasks[str(dataset)] = rows
    files = []
    for task, rows in tasks.items():
        files.append(out / name / f"samples_{task}_{when}.jsonl")
        write_text(files[-1], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    files.append(out / name / f"results_{when}.json")
    write_json(files[-1], _results(tasks, settings, checkpoint, name, seconds))
    return files


def _samples(
    place: int, group: Mapping[str, Any], responses: pd.DataFrame, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of one question: one per filter (`SampleResult`)."""
    first = responses.iloc[0]
    doc = {"id": group["problem_id"], "problem": first["problem"], "answer": group["reference"]}
    if "prompt" in settings:
        raise SrtError(f"the prompts were made by {settings['prompt'].partition('@')[0]}, and their text is not stored")
    prompt = first["problem"] + settings["prompt_suffix"]
    asked = {"arg_0": prompt, "arg_1": generation(settings)}
    shared = {
        "doc_id": place,
        "doc": doc,
        "target": group["reference"],
        "arguments": {"gen_args_0": asked},
        "resps": [responses["response"].tolist()],
    }
    hashes = {
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(group["reference"]),
    }
    shared |= {"metrics": [METRIC], **hashes}
    each = responses["answer"].astype(object).where(responses["answer"].notna(), "").tolist()
    majority = "" if pd.isna(group["majority"]) else group["majority"]
    return [
        {**shared, "filtered_resps": [read], "filter": f"{kind}@{group['n']}", METRIC: value}
        for kind, read, value in (
            ("avg", each, float(group["pass_rate"])),
            ("maj", majority, float(group["majority_correct"])),
        )
    ]  # fmt: skip


def generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings by the harness's names."""
    greedy = settings["temperature"] == 0
    return {
        "until": [],
        "do_sample": not greedy,
        "temperature": settings["temperature"],
        "top_p": settings["top_p"],
        "max_gen_toks": settings["max_new_tokens"],
    }


def _results(
    tasks: Mapping[str, list[dict[str, Any]]],
    settings: Mapping[str, Any],
    checkpoint: str,
    name: str,
    seconds: float,
) -> dict[str, Any]:
    """The aggregated results (`EvalResults`); standard errors are over questions, as in the harness."""
    results, sizes = {}, {}
    for task, rows in tasks.items():
        values: dict[str, list[float]] = {}
        for row in rows:
            values.setdefault(row["filter"], []).append(row[METRIC])
        size = len(next(iter(values.values())))
        sizes[task] = {"original": size, "effective": size}
        results[task] = {"name": task, "alias": task, "sample_len": size}
        for kind, found in values.items():
            error = float(np.std(found, ddof=1) / np.sqrt(size)) if size > 1 else "N/A"
            results[task] |= {f"{METRIC},{kind}": float(np.mean(found)), f"{METRIC}_stderr,{kind}": error}
    kept = {key: settings[key] for key in sorted(settings)}
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {
            task: {"task": task, "output_type": "generate_until", "repeats": settings["n"], "metadata": kept}
            for task in tasks
        },
        "versions": dict.fromkeys(tasks, VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {METRIC: True} for task in tasks},
        "n-samples": sizes,
        "config": {
            "model": settings["engine"],
            "model_args": {"pretrained": checkpoint, "dtype": settings["dtype"]},
            "model_dtype": settings["dtype"],
            "gen_kwargs": generation(settings),
            "random_seed": settings["seed"],
        },
        "date": float(int(seconds)),
        "task_hashes": {
            task: _hash("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
            for task, rows in tasks.items()
        },
        "model_source": settings["engine"],
        "model_name": checkpoint,
        "model_name_sanitized": name,
    }


def _hash(text: str) -> str:
    return sha256_bytes(text.encode())
