"""The alarm as a trigger: stop, or switch to offline labels; bitwise over segments, interruptions and ranks.

The spec contains the alarm's rule; the rule of these runs rings at step 3 whatever the model does.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from srt.common.errors import SrtError
from srt.common.io import read_json, read_parquet, write_parquet
from srt.config import load_config, read_yaml
from srt.distributed.world import init_world
from srt.metrics.alarm import AlarmRule
from srt.plan.jobs import build
from srt.training.alarm_action import ActingAlarm, action_of
from srt.training.rl_trainer import RLTrainer
from srt.training.run import run_segment
from srt.training.training_set import METRICS, join_metrics, read_training_set
from support import ROOT
from support.specs import train_spec
from support.training import command, segment, start, train_on, two_ranks, weights

RINGS = 3
AT_ONCE = AlarmRule(agreement_rise=-1.0, drift=0.0, patience=1, baseline=RINGS - 1)


def spec_of(action: str | None = None, **changes: Any) -> dict[str, Any]:
    on_alarm = {"on_alarm": {"action": action, "rule": AT_ONCE.model_dump()}} if action else {}
    return {**train_spec(**changes), **on_alarm}


def rows(folder: Path, *cuts: int) -> pd.DataFrame:
    return join_metrics([folder / f"step-{n}" / "metrics.parquet" for n in cuts])[0]


def engine(step: Path) -> dict[str, str]:
    """Checksums of the files of optimizer states and master weights."""
    return {k: v for k, v in read_json(step / "state" / "manifest.json").items() if k.startswith("engine/")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_base, sums) -> Path:
    """SRT whose alarm only rings: checkpoints at steps 3 and 6."""
    folder = tmp_path_factory.mktemp("plain")
    train_on(folder, tiny_base, sums, spec_of(), RINGS, 6)
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory, sums) -> Path:
    """Labels of a teacher that is always wrong in the same way, for all but the first 8 of the 24 problems."""
    out = tmp_path_factory.mktemp("labels") / "labels.parquet"
    ids = read_parquet(sums)["id"].to_pylist()
    write_parquet(out, pa.table({"problem_id": ids, "label": [None if i < 8 else "1000" for i in range(len(ids))]}))
    return out


# -- stop ----------------------------------------------------------------------------------------------------------


def test_stop_leaves_the_weights_of_the_alarms_step(plain, tmp_path, tiny_base, sums, capsys):
    """The alarm rings at step 3; the checkpoints are at steps 2, 4 (in whose segment it rings) and 6."""
    train_on(tmp_path, tiny_base, sums, spec_of("stop"), 2, 4, 6)
    said = capsys.readouterr().err
    # when it rings, and in the next segment
    assert (
        said.count(f"test-s1: the collapse alarm rang at step {RINGS} (drift, docs/monitors.md): training ended") == 2
    )
    at_alarm = plain / f"step-{RINGS}"
    assert weights(tmp_path / "step-4") == weights(tmp_path / "step-6") == weights(at_alarm)
    assert engine(tmp_path / "step-4") == engine(tmp_path / "step-6") == engine(at_alarm)
    assert weights(tmp_path / "step-2") != weights(at_alarm) != weights(plain / "step-6")
    # the model is named after the step of the chain, not after the last trained step
    assert read_json(tmp_path / "step-6" / "state" / "progress.json")["step"] == 6


def test_metrics_of_a_stopped_run_end_with_the_alarm(plain, tmp_path, tiny_base, sums):
    train_on(tmp_path, tiny_base, sums, spec_of("stop"), 2, 4, 6)
    frame = rows(tmp_path, 2, 4, 6)
    assert frame.equals(rows(plain, RINGS, 6).iloc[:RINGS])  # with its dtypes, since the last segment has no row
    nothing = read_parquet(tmp_path / "step-6" / "metrics.parquet")
    assert len(nothing) == 0 and tuple(nothing.column_names) == METRICS
    assert {str(t) for t in nothing.drop_columns("step").schema.types} == {"double"}
    lines = [json.loads(x)["step"] for x in (tmp_path / "work/step-4/metrics.jsonl").read_text().splitlines()]
    assert lines == [RINGS]


REFILL = {"majority": 0.25, "rounds": 2}


@pytest.mark.parametrize(("action", "more"), [("stop", {}), ("stop", {"refill": REFILL}), ("offline_labels", {})])
def test_segments_interruptions_and_lost_outputs_change_no_byte(action, more, tmp_path, tiny_base, sums, labels):
    """One long segment; a chain with a checkpoint at the alarm's step; a chain interrupted after every step."""
    spec, given = spec_of(action) | more, labels if action == "offline_labels" else None
    whole = train_on(tmp_path / "whole", tiny_base, sums, spec, 6, labels=given)
    chain = train_on(tmp_path / "chain", tiny_base, sums, spec, RINGS, 4, 6, labels=given)
    torn = train_on(tmp_path / "torn", tiny_base, sums, spec, 4, 6, labels=given, minutes=1e-5)
    starts = [
        json.loads(x)["step"]
        for x in (tmp_path / "torn/work/step-4/journal.jsonl").read_text().splitlines()
        if '"start"' in x
    ]
    assert starts == [0, 1, 2, 3], "it was interrupted before the alarm and exactly at it"
    assert weights(whole) == weights(chain) == weights(torn) and engine(whole) == engine(chain) == engine(torn)
    frame = rows(tmp_path / "whole", 6)
    assert frame.equals(rows(tmp_path / "chain", RINGS, 4, 6)) and frame.equals(rows(tmp_path / "torn", 4, 6))
    alarms = {json.dumps(read_json(x / "state/progress.json")["alarm"]) for x in (whole, chain, torn)}
    assert len(alarms) == 1 and json.loads(alarms.pop())["rang"] == RINGS
    # Snakemake deletes the outputs of a job cancelled after its last step: they are written, not trained, again
    before = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    shutil.rmtree(whole)
    train_on(tmp_path / "whole", tiny_base, sums, spec, 6, labels=given)
    assert {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_the_alarms_state_and_no_log_decides(plain, tmp_path, tiny_base, sums):
    """With logs deleted, or forged so that the displayed alarm has rung, the run stops at the same step."""
    spec = spec_of("stop")
    train_on(tmp_path, tiny_base, sums, spec, 2)
    logs = tmp_path / "logs"
    logs.mkdir()
    forged = {"majority_ratio": 1.0, "top_majority_share": 1.0, "kl": 9.0, "response_length": 1.0}
    (logs / "metrics.jsonl").write_text("".join(json.dumps({"step": s, **forged}) + "\n" for s in range(1, 3)))
    data, truth = read_training_set(sums, "majority")
    run_segment(segment(tmp_path, tiny_base, spec, 2, 6, logs=logs), data, truth)
    assert weights(tmp_path / "step-6") == weights(plain / f"step-{RINGS}")


# -- the switch to offline labels ------------------------------------------------------------------------------------


def test_the_switch_is_srt_before_and_the_labels_after(plain, tmp_path, tiny_base, sums, labels, capsys):
    train_on(tmp_path, tiny_base, sums, spec_of("offline_labels"), 4, 6, labels=labels)
    frame, srt = rows(tmp_path, 4, 6), rows(plain, RINGS, 6)
    assert frame.iloc[:RINGS].equals(srt.iloc[:RINGS])
    after = frame.iloc[RINGS:]
    # no response is 1000, so these labels give no reward, and they are wrong where the majority may be right
    assert srt["reward"].gt(0).all() and (after["reward"] == 0).all() and (after["majority_ratio"] > 0).all()
    assert (after["label_accuracy"] == 0).all() and (after["kept_rate"] == 1).all()
    assert "8 prompts without one are left out" in capsys.readouterr().err
    assert weights(tmp_path / "step-6") != weights(plain / "step-6")
    # with other labels, the run is the same until the alarm
    other = tmp_path / "other.parquet"
    table = read_parquet(labels).to_pandas()
    truth = read_training_set(sums, "ground_truth")[1]
    write_parquet(other, table.assign(label=[truth[i] for i in table["problem_id"]]))
    train_on(tmp_path / "other", tiny_base, sums, spec_of("offline_labels"), RINGS, 6, labels=other)
    assert weights(tmp_path / "other" / f"step-{RINGS}") == weights(plain / f"step-{RINGS}")
    assert weights(tmp_path / "other" / "step-6") != weights(tmp_path / "step-6")
    assert (rows(tmp_path / "other", RINGS, 6)["label_accuracy"].iloc[RINGS:] == 1).all()


def test_after_the_switch_it_is_a_run_on_offline_labels(tmp_path, tiny_base, sums, labels):
    """The same prompts at the same steps, limited to those with a label; before the switch it is SRT on all prompts."""

    def trainer_of(spec: dict, action: str | None, given: Path | None) -> tuple[Any, RLTrainer]:
        data, truth = read_training_set(sums, spec["reward"], None, given, action)
        part = segment(tmp_path, tiny_base, spec, 0, 9)
        return part, RLTrainer(part, data, init_world(), truth)

    def batches(trainer: RLTrainer) -> list[list[int]]:
        return [trainer.order.batch(step) for step in range(12)]

    spec = spec_of("offline_labels")
    part, switching = trainer_of(spec, "offline_labels", labels)
    srt = batches(trainer_of(spec_of(), None, None)[1])
    offline = batches(trainer_of(spec_of(reward="offline_labels"), None, labels)[1])
    alarm = ActingAlarm(spec)
    assert alarm.restore(None, []) is None
    assert batches(switching) == srt and switching.data.labels is None
    for step in range(1, RINGS + 1):
        action = alarm.update({"step": step, **dict.fromkeys(("majority_ratio", "top_majority_share", "kl"), 0.5),
                               "response_length": 9.0})  # fmt: skip
        assert action == ("offline_labels" if step == RINGS else None)
    switching.apply(action)
    assert batches(switching) == offline and {i for batch in offline for i in batch} == set(range(8, 24))
    assert switching.data.labels_of([8]) == ["1000"] and switching.spec["reward"] == "offline_labels"
    assert part.spec == spec, "the spec of the run, and so its hash, is unchanged"


def test_true_answers_reach_neither_the_votes_nor_the_switch(tmp_path, tiny_base, sums, labels):
    """The answers dropped, or all wrong: the same weights, byte for byte."""
    table = read_parquet(sums)
    column = table.column_names.index("answer")
    files = [sums, tmp_path / "none.parquet", tmp_path / "wrong.parquet"]
    write_parquet(files[1], table.drop_columns(["answer"]))
    write_parquet(files[2], table.set_column(column, "answer", pa.array([str(i + 1000) for i in range(len(table))])))
    made = set()
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        made.add(weights(train_on(folder, tiny_base, file, spec_of("offline_labels"), 5, labels=labels)))
    assert len(made) == 1


# -- the command, and two processes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_hands_the_labels_on(tmp_path, tiny_base, sums, labels, plain):
    args = command(tmp_path, tiny_base, sums, spec_of("offline_labels"), 6, labels=labels)
    _, said = (process := start(args)).communicate(timeout=400)
    assert process.returncode == 0 and "from there on the labels are the teacher's" in said, said
    frame = rows(tmp_path, 6)
    assert frame.iloc[:RINGS].equals(rows(plain, RINGS, 6).iloc[:RINGS]) and (frame["reward"].iloc[RINGS:] == 0).all()


@pytest.mark.slow
def test_two_processes_stop_alike(tmp_path, tiny_base, sums):
    """If ranks disagreed, they would wait for each other forever."""
    done = two_ranks(*command(tmp_path, tiny_base, sums, spec_of("stop"), 6)[1:])
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("the collapse alarm rang at step 3") == 1, "rank 0 prints it, once"
    assert rows(tmp_path, 6)["step"].tolist() == list(range(1, RINGS + 1))


# -- mistakes, configuration, DAG --------------------------------------------------------------------------------------


def test_mistakes_are_sentences(tmp_path, tiny_base, sums, labels):
    with pytest.raises(
        SrtError, match="on_alarm: offline_labels needs labels: give the table that the labels rule makes"
    ):
        read_training_set(sums, "majority", on_alarm="offline_labels")
    with pytest.raises(SrtError, match="reward majority must not be given labels"):
        read_training_set(sums, "majority", None, labels, "stop")
    data, truth = read_training_set(sums, "majority", None, labels, "offline_labels")
    many = replace(data, later=dict(list((data.later or {}).items())[:3]))
    with pytest.raises(SrtError, match="only 3 usable prompts have a label for prompts_per_step=4"):
        run_segment(segment(tmp_path, tiny_base, spec_of("offline_labels"), 0, 2), many, truth)
    with pytest.raises(SrtError, match="test-s1: on_alarm: offline_labels needs labels"):
        run_segment(segment(tmp_path, tiny_base, spec_of("offline_labels"), 0, 2), replace(data, later=None), truth)


def micro(on_alarm: str) -> str:
    return (
        "srt: {label: SRT, method: srt, model: micro, data: sums, reward: majority, steps: 4, segment: 2, "
        f"suites: [tests]{on_alarm}}}\n"
    )


@pytest.mark.slow
def test_the_labels_are_an_input_of_such_a_run_only(tmp_path):
    """Both in the rules and in the plan."""
    from support.dag import copy_of_the_tree, jobs, snakemake

    folder = copy_of_the_tree(tmp_path)
    (folder / "tests/micro/figures.yaml").write_text("{}\n")
    counts, made = {}, {}
    for action in ("", ", on_alarm: stop", ", on_alarm: offline_labels"):
        (folder / "tests/micro/experiments.yaml").write_text(micro(action))
        file = "tests/micro/config.yaml"
        output = snakemake(folder, "--profile", "workflow/profiles/local", "--configfile", file, "-n")
        counts[action] = jobs(output)
        dag = build(load_config(read_yaml(folder / file), folder, file))
        made[action] = {job.key: set(job.inputs) for job in dag.jobs.values()}
        rules = [key.partition(" ")[0] for key in made[action]]
        planned = {name: number for name, number in counts[action].items() if name not in ("all", "total")}
        assert {rule: rules.count(rule) for rule in rules} == planned
    with_labels = made[", on_alarm: offline_labels"]
    assert made[""] == made[", on_alarm: stop"]
    # the base model is sampled and scored on the training set to make labels
    file = "results/micro/labels/base/micro/sums.parquet"
    extra = {"labels base/micro/sums", "sample base/micro/sums", "score base/micro/sums"}
    assert with_labels.keys() - made[""].keys() == extra
    for key in ("train srt-s1/step-2", "train_last srt-s1/step-4"):
        assert with_labels[key] == made[""][key] | {file}


def test_the_spec_holds_the_rule_where_it_acts():
    from srt.artefacts.specs import train_spec as spec_for

    file = "config/mini.yaml"
    config = load_config(read_yaml(ROOT / file), ROOT, file)
    spec = {i: json.loads(spec_for(config, f"{i}-s1")) for i in ("srt_mix", "ext_stop", "ext_alarm_offline")}
    assert action_of(spec["srt_mix"]) is None
    assert spec["ext_stop"]["on_alarm"] == {"action": "stop", "rule": config.alarm.model_dump()}
    assert action_of(spec["ext_alarm_offline"]) == "offline_labels"
    for name in ("ext_stop", "ext_alarm_offline"):  # SRT until the alarm; nothing else differs
        assert {k: v for k, v in spec[name].items() if k not in ("on_alarm", "run")} == {
            k: v for k, v in spec["srt_mix"].items() if k != "run"
        }
