"""Runs without rollouts: three steps of SFT, DPO and ScPO through the script, resumed bit for bit; configuration."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from srt.common.errors import SrtError
from srt.common.io import read_parquet, sha256_file, write_parquet
from srt.distributed.world import init_world
from srt.evaluation.sampling import sample
from srt.evaluation.scoring import score_file
from srt.labels.preferences import make_preferences
from srt.training.rl_trainer import RLTrainer
from srt.training.run import run_segment, trainer_of
from srt.training.training_set import METRICS, PAIRED, join_metrics, read_training_set
from support import ROOT
from support.specs import train_spec
from support.training import script, start, whole_run

PAIRS = {"beta": 0.1, "nll": 1.0}
SAMPLE = {
    "n": 8, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 40, "max_new_tokens": 24, "engine": "transformers",
    "dtype": "float32", "seed": 5, "threads": 1,
}  # fmt: skip


def spec(reward: str, **changes: Any) -> dict[str, Any]:
    own = {"preference": PAIRS if reward != "sft" else {}}
    return train_spec(reward=reward, prompts_per_step=3, **changes) | own


@pytest.fixture(scope="module")
def stored(tiny_base: Path, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tables of responses of the tiny base model, by its own votes, from the real rules' functions."""
    from srt.answers import Grader

    folder = tmp_path_factory.mktemp("stored")
    samples, scores = folder / "samples.parquet", folder / "scores.parquet"
    suffix = train_spec()["prompt_suffix"]
    sample({**SAMPLE, "prompt_suffix": suffix}, tiny_base, [sums], samples)
    with Grader() as grader:
        score_file(samples, [sums], scores, folder / "groups.parquet", grader)
    pairs = {"kind": "pairs", "seed": 1, "margin": 0}
    make_preferences(samples, scores, {"kind": "sft", "seed": 1, "threshold": 0.0, "responses": 3}, folder / "sft")
    make_preferences(samples, scores, pairs, folder / "pairs")
    return {"sft": folder / "sft", "dpo": folder / "pairs", "scpo": folder / "pairs"}


def train(folder: Path, base: Path, sums: Path, stored: Path, reward: str, **more: Any) -> None:
    given = spec(reward)
    data, truth = read_training_set(sums, reward, preferences=stored)
    run_segment(whole_run(folder, base, given, **more), data, truth)


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["sft", "dpo", "scpo"])
def test_three_steps_by_the_script(tmp_path, tiny_base, sums, stored, reward):
    words = script(whole_run(tmp_path, tiny_base, spec(reward), stop=3), sums, preferences=stored[reward])
    _, said = (process := start([sys.executable, *words])).communicate(timeout=120)
    assert process.returncode == 0, said
    table = read_parquet(tmp_path / "metrics.parquet")
    own = () if reward == "sft" else PAIRED
    assert tuple(table.column_names) == (*METRICS, *own)
    frame = table.to_pandas()
    assert frame["step"].tolist() == [1, 2, 3] and (frame["grad_norm"] > 0).all() and (frame["kept_rate"] == 1).all()
    assert frame[["loss", "entropy", "response_length", "label_accuracy", *own]].notna().all().all()
    none = ["reward", "true_accuracy", "kl", "majority_ratio", "top_majority_share", "mismatch_mean", "parsed_rate"]
    assert frame[none].isna().all().all()
    if reward == "dpo":  # starts at its reference: margin 0
        assert frame["pair_margin"][0] == pytest.approx(0, abs=1e-5) and frame["pair_margin"][2] > 0
        nll = frame["loss"][0] - math.log(2)
        assert nll > 0  # mean NLL of the chosen responses, per token
    # the alarm and the tables of runs accept these metrics
    from srt.metrics.alarm import collapse_alarm

    assert collapse_alarm(frame) is None
    joined, _ = join_metrics([tmp_path / "metrics.parquet"])
    pd.testing.assert_frame_equal(joined, frame)
    text = (tmp_path / "work" / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text.splitlines()[0])["reward"] is None and "sync" not in text


def test_the_first_step_of_sft_is_the_base_models_cross_entropy(tmp_path, tiny_base, sums, stored):
    data, truth = read_training_set(sums, "sft", preferences=stored["sft"])
    given = whole_run(tmp_path, tiny_base, spec("sft"))
    trainer = trainer_of("sft")(given, data, init_world(), truth)
    from support.tiny_models import one_by_one

    total, tokens = 0.0, 0
    for i in trainer.order.batch(0):
        for row in data.stored.rows[data.ids[i]]:
            response = data.stored.tokens(row)
            import torch

            with torch.no_grad():
                logp = one_by_one(trainer.policy.model, trainer.prompts[i], response, 1.0)
            total -= float(logp[torch.arange(len(response)), torch.from_numpy(response.copy()).long()].sum())
            tokens += len(response)
    assert trainer.step(0)["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_chosen_responses_become_likelier_and_rejected_ones_less(tmp_path, tiny_base, sums, stored):
    data, truth = read_training_set(sums, "dpo", preferences=stored["dpo"])
    trainer = trainer_of("dpo")(whole_run(tmp_path, tiny_base, spec("dpo")), data, init_world(), truth)
    first, *_, last = [trainer.step(0) for _ in range(5)]
    assert first["pair_margin"] == pytest.approx(0, abs=1e-5) and last["pair_margin"] > 0.05
    assert last["loss"] < first["loss"] - 0.01 and last["pair_accuracy"] == 1.0


def test_true_answers_do_not_change_the_training(tmp_path, tiny_base, sums, stored):
    """Without true answers, or with wrong ones, the weights are the same; only a column of the log differs."""
    table = read_parquet(sums).to_pandas()
    blind, wrong = tmp_path / "blind.parquet", tmp_path / "wrong.parquet"
    write_parquet(blind, table.drop(columns="answer"))
    write_parquet(wrong, table.assign(answer="-1"))
    for name, problems in (("seen", sums), ("blind", blind), ("wrong", wrong)):
        train(tmp_path / name, tiny_base, problems, stored["scpo"], "scpo", stop=2)
    hashes = {sha256_file(tmp_path / name / "model" / "model.safetensors") for name in ("seen", "blind", "wrong")}
    assert len(hashes) == 1
    labels = {
        n: read_parquet(tmp_path / n / "metrics.parquet").to_pandas()["label_accuracy"] for n in ("blind", "wrong")
    }
    assert labels["blind"].isna().all() and (labels["wrong"] == 0).all()


@pytest.mark.parametrize("reward", ["sft", "scpo"])
def test_a_run_resumes_bit_for_bit(tmp_path, tiny_base, sums, stored, reward, monkeypatch):
    train(tmp_path / "whole", tiny_base, sums, stored[reward], reward, stop=4)
    cut = tmp_path / "cut"
    data, truth = read_training_set(sums, reward, preferences=stored[reward])
    given = whole_run(cut, tiny_base, spec(reward), stop=4)
    kind = trainer_of(reward)
    take = kind.timed_step

    def failing(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return take(self, step)

    monkeypatch.setattr(kind, "timed_step", failing)
    with pytest.raises(KeyboardInterrupt):
        run_segment(given.model_copy(update={"save_every": 1}), data, truth)
    monkeypatch.undo()
    run_segment(given, data, truth)
    for file in ("model/model.safetensors", "metrics.parquet"):
        assert sha256_file(cut / file) == sha256_file(tmp_path / "whole" / file)


def test_no_engine_is_started_and_sft_has_no_reference(tmp_path, tiny_base, sums, stored):
    """Even with `rollout_engine: vllm`, which not every machine has, since nothing draws rollouts."""
    for reward in ("sft", "dpo"):
        data, truth = read_training_set(sums, reward, preferences=stored[reward])
        given = spec(reward, rollout_engine="vllm")
        trainer = trainer_of(reward)(whole_run(tmp_path, tiny_base, given), data, init_world(), truth)
        assert not hasattr(trainer, "rollout_engine")
        assert (trainer.update.reference is None) == (reward == "sft")
        assert trainer.step(0)["step"] == 1
    assert trainer_of("majority") is RLTrainer and trainer_of("offline_labels") is RLTrainer


def test_another_table_starts_anew(tmp_path, tiny_base, sums, stored):
    """States belong to their responses: an attempt on other responses is not resumed."""
    from srt.training.segment import input_fingerprint

    given = whole_run(tmp_path, tiny_base, spec("dpo"))
    data, truth = read_training_set(sums, "dpo", preferences=stored["dpo"])
    table = read_parquet(stored["dpo"])
    from srt.common.io import parquet_metadata

    write_parquet(tmp_path / "less.parquet", table.slice(2), parquet_metadata(stored["dpo"]))
    less, _ = read_training_set(sums, "dpo", preferences=tmp_path / "less.parquet")
    assert input_fingerprint(given, data, truth) != input_fingerprint(given, less, truth)


# -- configuration ----------------------------------------------------------------------------------------------------


def configuration(folder: Path, *entries: str):
    from srt.config import load_config, read_yaml
    from support.config_files import write

    folder.mkdir(exist_ok=True)
    write(folder)
    with open(folder / "runs.yaml", "a", encoding="utf-8") as handle:
        handle.write("".join(entries))
    return load_config(read_yaml(folder / "main.yaml"), folder, "main.yaml", [folder / "main.yaml"])


SFT = "sft: {extends: srt, reward: sft, curriculum: null, label: SFT, preference: {responses: 4}}\n"
DPO = "dpo: {extends: srt, reward: dpo, curriculum: null, label: DPO, init: {run: sft}}\n"
SCPO = "scpo: {extends: dpo, reward: scpo, label: ScPO}\n"


def test_dpo_and_scpo_share_the_base_models_pairs(tmp_path):
    from srt.artefacts.specs import preference_spec
    from srt.artefacts.training_inputs import preferences_file

    config = configuration(tmp_path, SFT, DPO, SCPO)
    assert config.start("dpo-s2") == "sft-s2/step-12" and config.teacher("dpo-s2") == "base/tiny"
    folder = f"{config.results}/preferences/base/tiny"
    assert preferences_file(config, "sft-s1") == f"{folder}/sums-sft-0.0-4-s1.parquet"
    assert preferences_file(config, "dpo-s1") == preferences_file(config, "scpo-s1")
    assert preferences_file(config, "dpo-s1") == f"{folder}/sums-pairs-2-s1.parquet"
    assert preference_spec(config, "dpo-s2") == {"kind": "pairs", "seed": 2, "margin": 2}


def test_specs_hold_what_counts_and_others_are_as_they_were(tmp_path):
    from srt.artefacts.specs import train_spec as spec_of

    before = configuration(tmp_path / "a")
    after = configuration(tmp_path / "b", SFT, DPO)
    for instance in ("srt-s1", "srt-s2"):
        assert spec_of(before, instance) == spec_of(after, instance) and "preference" not in spec_of(after, instance)
    assert json.loads(spec_of(after, "sft-s1"))["preference"] == {
        "kind": "sft", "seed": 1, "threshold": 0.0, "responses": 4,
    }  # fmt: skip
    other = configuration(tmp_path / "c", SFT, DPO.replace("init", "preference: {beta: 0.3}, init"))
    assert json.loads(spec_of(other, "dpo-s1"))["preference"]["beta"] == 0.3
    assert spec_of(other, "sft-s1") == spec_of(after, "sft-s1")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (SFT.replace("responses: 4", "beta: 0.2"), "preference: beta has no effect with reward sft"),
        (DPO.replace("init: {run: sft}", "preference: {threshold: 0.5}"), "threshold has no effect with reward dpo"),
        ("x: {extends: srt, preference: {beta: 0.2}}\n", "preference: reward majority draws its own rollouts"),
        ("x: {extends: srt, reward: dop}\n", "dpo"),
    ],
)
def test_wrong_entries_are_one_sentence(tmp_path, entry, sentence):
    with pytest.raises(SrtError, match=sentence):
        configuration(tmp_path, entry)


def test_jobs_ask_for_no_engine_and_less_time(tmp_path):
    from srt.cluster.workloads import training_work

    config = configuration(tmp_path, SFT, DPO)
    usual, sft, dpo = (training_work(config, f"{run}-s1", 6) for run in ("srt", "sft", "dpo"))
    prompts = config.runs["srt"].train.prompts_per_step
    assert (sft.sequences, dpo.sequences) == (4 * prompts, 2 * prompts) and usual.sequences > sft.sequences
    assert not sft.vllm and sft.rollout_rounds == 0 and not sft.reference and dpo.reference


def test_the_files_of_the_workflow_are_the_plans(tmp_path):
    """Rules and plan name the same tables; the job of a table reads the teacher's samples and scores."""
    from srt.plan.jobs import build

    config = configuration(tmp_path, SFT, DPO, SCPO)
    dag = build(config)
    jobs = [job for job in dag.jobs.values() if job.rule == "preferences"]
    assert len(jobs) == 2 * len(config.runs["sft"].seeds)  # one table per kind and seed; DPO and ScPO share theirs
    stem = f"{config.results}/eval/base/tiny/sums"
    assert all(job.inputs == (f"{stem}.samples.parquet", f"{stem}.scores.parquet") for job in jobs)
    assert np.all([Path(job.outputs[0]).is_relative_to(f"{config.results}/preferences/base/tiny") for job in jobs])


@pytest.mark.slow
def test_the_plan_of_the_tables_is_the_dry_run(tmp_path):
    """Rules and plan agree on the paper's comparison, in the full configuration."""
    from srt.config import load_config, read_yaml
    from srt.plan.jobs import build
    from support.dag import copy_of_the_tree, jobs, snakemake

    folder = copy_of_the_tree(tmp_path)
    planned = jobs(snakemake(folder, "-n", "v2_table1", "v2_table2", "--config", "seeds=1"))
    config = load_config(read_yaml(ROOT / "config/config.yaml") | {"seeds": 1}, ROOT, "config/config.yaml")
    dag = build(config)
    counted: dict[str, int] = {}
    for key in dag.closure([dag.figures[name] for name in ("v2_table1", "v2_table2")]):
        counted[dag.jobs[key].rule] = counted.get(dag.jobs[key].rule, 0) + 1
    assert counted | {"total": sum(counted.values())} == planned and counted["preferences"] == 2
