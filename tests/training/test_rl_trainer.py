"""One update against RLOO written out sequence by sequence; the order of data; which data a method may use."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.io import read_parquet, sha256_file, write_parquet
from srt.distributed.world import init_world
from srt.models.checkpoint import load_model
from srt.packing import attention
from srt.rollout import tensor_checksum
from srt.rollout.transformers_engine import TransformersEngine
from srt.training import base_trainer, reference
from srt.training.batches import rank_share
from srt.training.rl_trainer import RLTrainer
from srt.training.run import run_segment
from srt.training.training_set import METRICS, TrainingSet, join_metrics, read_training_set
from srt.training.update import PHASES
from support.hand_made_rollouts import GROUPS, PARSED, TRUTH, hand_made, make_trainer, naive_of_preset, near, updated
from support.specs import train_spec
from support.training import whole_run


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("reward", ["majority", "ground_truth"])
@pytest.mark.parametrize("preset", ["clean", "authors"])
def test_gradient_is_that_of_the_formulas(tmp_path, tiny_base, sums, preset, reward, zero_stage):
    """Groups of 4 in token means of 6 sequences: the authors' micro-batches cut through a group."""
    trainer = make_trainer(tmp_path, tiny_base, sums, preset=preset, reward=reward, temperature=0.9,
                           micro_batch_sequences=6, zero_stage=zero_stage)  # fmt: skip
    labels = TRUTH if reward == "ground_truth" else None
    expected = naive_of_preset(trainer, labels, preset)
    actual, result = updated(trainer, labels=labels)
    near(actual, expected)
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in expected.values()))
    assert result["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert result["kl"] > 0.1 and result["skipped"] == 0
    votes_missing = reward == "majority" and preset == "clean"
    assert result["kept_rate"] == (0.75 if votes_missing else 1.0)


def test_gradient_does_not_depend_on_micro_batches_or_checkpointing(tmp_path, tiny_base, sums, monkeypatch):
    """From one row per pass to all rows in one pass, with and without recomputation.

    The models compute in float64: in float32, matrix products of other shapes sum in another order, which alone changes
    the whole gradient by 3e-6 of its norm on some CPUs. DeepSpeed sums the gradients in float32 as ever.
    """

    def load_in_double(*args: Any) -> tuple:
        model, *rest = load_model(*args)
        return model.double(), *rest

    for module in (base_trainer, reference):
        monkeypatch.setattr(module, "load_model", load_in_double)
    found = []
    for number, (budget, checkpointing) in enumerate(
        [(1, "none"), (150, "none"), (150, "selective"), (150, "full"), (10**6, "none")]
    ):
        trainer = make_trainer(
            tmp_path / str(number), tiny_base, sums, preset="authors", micro_batch_tokens=budget,
            gradient_checkpointing=checkpointing, entropy_coefficient=0.05,
        )  # fmt: skip
        assert trainer.update.dtype == torch.float64
        found.append(updated(trainer))
    (first, result), *others = found
    for grads, other in others:
        near(grads, first, 1e-6)
        for key in ("kl", "entropy", "loss", "grad_norm"):
            assert other[key] == pytest.approx(result[key], rel=1e-6)


def test_groups_without_an_answer_clean_and_authors(tmp_path, tiny_base, sums):
    """Dropped: as if the group did not exist. Kept: its tokens are in the denominator, and only the entropy acts."""
    rest = [group for group, parsed in zip(GROUPS, PARSED, strict=True) if parsed]

    def gradient(name: str, groups: list[list[str]], **changes: Any) -> tuple[dict, RLTrainer]:
        trainer = make_trainer(tmp_path / name, tiny_base, sums, aggregation="token_mean", **changes)
        if groups is rest:  # the same prompts with the same groups
            trainer.prompts = [trainer.prompts[i] for i in (0, 1, 3)]
        return updated(trainer, groups)[0], trainer

    dropped, _ = gradient("a", GROUPS, preset="clean")
    alone, trainer = gradient("b", rest, preset="clean")
    near(dropped, alone, 1e-6)
    kept, _ = gradient("c", GROUPS, preset="authors", entropy_coefficient=0.0, votes="clean", kl_clamp=1e9)
    tokens = [sum(len(r.token_ids) for r in hand_made(trainer, [group])[1]) for group in GROUPS]
    share = 1 - tokens[2] / sum(tokens)
    near(kept, {name: g * share for name, g in dropped.items()})
    spared, _ = gradient("e", [GROUPS[2]], preset="authors", entropy_coefficient=0.0)
    assert all((g == 0).all() for g in spared.values())
    entropic, _ = gradient("f", [GROUPS[2]], preset="authors", entropy_coefficient=0.5)
    assert max(float(g.abs().max()) for g in entropic.values()) > 1e-3


def test_a_step_without_any_answer_is_a_step_without_gradient(tmp_path, tiny_base, sums):
    """Weight decay off and no momentum yet: the weights stay, the loss is 0, nothing is nan."""
    trainer = make_trainer(tmp_path, tiny_base, sums, weight_decay=0.0)
    before = {name: p.clone() for name, p in trainer.policy.weights()}
    grads, result = updated(trainer, [GROUPS[2]] * 4)
    assert all((g == 0).all() for g in grads.values())
    assert result["loss"] == 0 and result["grad_norm"] == 0 and result["kept_rate"] == 0
    assert all(torch.equal(p, before[name]) for name, p in trainer.policy.weights())
    grads, result = updated(trainer)  # training continues
    assert result["grad_norm"] > 0


def test_a_run_that_never_answers_counts_its_steps(tmp_path, tiny_base, sums):
    """With max_new_tokens = 1 no response has a box and every group is dropped; both steps are still written."""
    spec = train_spec(max_new_tokens=1)
    data, truth = read_training_set(sums, "majority")
    run_segment(whole_run(tmp_path, tiny_base, spec), data, truth)
    frame = read_parquet(tmp_path / "metrics.parquet").to_pandas()
    assert frame["step"].tolist() == [1, 2]
    assert (frame[["reward", "parsed_rate", "kept_rate", "loss", "grad_norm", "true_accuracy"]] == 0).all(axis=None)
    assert (frame["truncated_rate"] == 1).all() and (frame["response_length"] == 1).all()
    assert (frame["reward_accuracy"] == 1).all()  # nothing was right and nothing was rewarded


def test_rollouts_of_other_weights_stop_the_run(tmp_path, tiny_base, sums, monkeypatch):
    """The engine samples with one stale layer: one sentence names run, step and layer."""
    spec = train_spec()
    data, truth = read_training_set(sums, "majority")
    trainer = RLTrainer(whole_run(tmp_path, tiny_base, spec), data, init_world(), truth)
    row, timing = trainer.timed_step(0)
    assert row["mismatch_mean"] < 1e-5 and row["mismatch_max"] < 1e-4
    assert timing["seconds_rollout"] > 0 and set(PHASES) <= {k.removeprefix("seconds_") for k in timing}
    stale = copy.deepcopy(trainer.policy.model)
    trainer.rollout_engine = TransformersEngine(stale, trainer.rollout_engine.eos.tolist())
    before = {name: w.clone() for name, w in trainer.policy.weights()}
    trainer.step(1)  # after a sync the weights agree
    with torch.no_grad():
        for name, w in trainer.policy.weights():
            w.copy_(before[name])
    stale.model.layers[1].mlp.down_proj.weight.data.mul_(1.5)
    trainer.rollout_engine.update_weights = lambda weights: None
    with pytest.raises(SrtError, match=r"run test-s1, step 3: .* 1 tensors differ, first model.layers.1.mlp.down_proj"):
        trainer.step(2)
    trainer.rollout_engine.checksums = lambda: {  # an engine whose checksums do not show the fault
        name: tensor_checksum(w) for name, w in trainer.policy.weights()
    }
    with pytest.raises(
        SrtError, match=r"step 3: the rollout engine's log-probs are .*: it is how the engine computes: "
    ):
        trainer.step(2)
    with monkeypatch.context() as patch:  # a token sees only itself and the one before
        stale.load_state_dict(trainer.policy.model.state_dict())
        seen = attention.Bucket.wide
        patch.setattr(attention.Bucket, "wide", lambda self, shared, window=None: seen(self, shared, 2))
        with pytest.raises(SrtError, match=r"step 3: .*: the model does not fit into packs: .* engine [0-9.]+e-0"):
            trainer.step(2)
    assert all(torch.equal(w, before[name]) for name, w in trainer.policy.weights()), "nothing was updated"


def without_answers(sums: Path, out: Path) -> Path:
    table = read_parquet(sums)
    write_parquet(out, table.drop_columns(["answer"]))
    return out


@pytest.mark.parametrize("reward", ["majority", "offline_labels"])
def test_label_free_training_never_sees_the_answers(tmp_path, tiny_base, sums, reward):
    """With answers dropped, or all wrong, the weights are the same byte for byte; only monitors differ."""
    table = read_parquet(sums)
    wrong = table.set_column(
        table.column_names.index("answer"), "answer", pa.array([str(i + 1000) for i in range(len(table))])
    )
    write_parquet(tmp_path / "wrong.parquet", wrong)
    labels = None
    if reward == "offline_labels":
        labels = tmp_path / "labels.parquet"
        write_parquet(labels, pa.table({"problem_id": table["id"], "label": [str(i % 7) for i in range(len(table))]}))
    frames, weights = [], []
    for number, file in enumerate([sums, without_answers(sums, tmp_path / "none.parquet"), tmp_path / "wrong.parquet"]):
        folder = tmp_path / str(number)
        data, truth = read_training_set(file, reward, labels=labels)
        run_segment(whole_run(folder, tiny_base, train_spec(reward=reward)), data, truth)
        frames.append(read_parquet(folder / "metrics.parquet").to_pandas())
        weights.append(sha256_file(folder / "model" / "model.safetensors"))
    assert weights[0] == weights[1] == weights[2] != sha256_file(tiny_base / "model.safetensors")
    monitors = ["true_accuracy", "reward_accuracy", "label_accuracy"]
    assert frames[0][monitors].notna().all(axis=None) and frames[1][monitors].isna().all(axis=None)
    assert frames[1].drop(columns=monitors).equals(frames[0].drop(columns=monitors))
    assert (frames[2]["true_accuracy"] == 0).all()


def test_metrics_columns_and_seed(tmp_path, tiny_base, sums):
    """Documented columns, in order; the spec travels with them."""
    spec = train_spec()
    data, truth = read_training_set(sums, "majority")
    run_segment(whole_run(tmp_path, tiny_base, spec, 1), data, truth)
    table = read_parquet(tmp_path / "metrics.parquet")
    assert tuple(table.column_names) == METRICS
    frame, metadata = join_metrics([tmp_path / "metrics.parquet"])
    assert metadata["spec"] == json.loads(json.dumps(spec)) and len(frame) == 1
    assert frame[[c for c in METRICS if c != "step"]].dtypes.eq("float64").all()


# -- the data ----------------------------------------------------------------------------------------------------


def order_of(folder: Path, base: Path, data: TrainingSet, steps: int, **changes: Any) -> list[list[int]]:
    spec = train_spec(**changes)
    trainer = RLTrainer(whole_run(folder, base, spec), data, init_world(), {})
    return [trainer.order.batch(step) for step in range(steps)]


def test_every_epoch_is_a_permutation_and_the_rest_is_dropped(tmp_path, tiny_base, sums):
    """24 prompts, 7 per step: three steps per epoch, and three prompts left out, different ones each time."""
    data, _ = read_training_set(sums, "majority")
    steps = order_of(tmp_path, tiny_base, data, 12, prompts_per_step=7)
    assert all(len(set(batch)) == 7 for batch in steps)
    epochs = [sorted(i for batch in steps[e : e + 3] for i in batch) for e in range(0, 12, 3)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 21 and set(epoch) <= set(range(24))
    assert len({tuple(set(range(24)) - set(epoch)) for epoch in epochs}) > 1
    assert len({tuple(i for batch in steps[e : e + 3] for i in batch) for e in range(0, 12, 3)}) == 4
    assert order_of(tmp_path, tiny_base, data, 12, prompts_per_step=7) == steps
    assert order_of(tmp_path, tiny_base, data, 12, prompts_per_step=7, seed=2) != steps


def test_a_whole_epoch_sees_every_prompt_once(tmp_path, tiny_base, sums):
    data, _ = read_training_set(sums, "majority")
    steps = order_of(tmp_path, tiny_base, data, 12)  # 24 prompts, 4 per step
    for start in (0, 6):
        assert sorted(i for batch in steps[start : start + 6] for i in batch) == list(range(24))


def test_too_few_prompts_is_a_sentence(tmp_path, tiny_base, sums):
    data, _ = read_training_set(sums, "majority")
    with pytest.raises(SrtError, match=r"test-s1: only 24 usable prompts for prompts_per_step=25: lower it"):
        order_of(tmp_path, tiny_base, data, 1, prompts_per_step=25)


def test_over_long_prompts_are_left_out(tmp_path, tiny_base, sums, capsys):
    data, _ = read_training_set(sums, "majority")
    longer = replace(data, problems=[p + " and more" * (20 * (i % 3 == 0)) for i, p in enumerate(data.problems)])
    steps = order_of(tmp_path, tiny_base, longer, 4)
    assert sorted(i for batch in steps for i in batch) == [i for i in range(24) if i % 3]
    assert "8 prompts left out: 8 too long" in capsys.readouterr().err
    with pytest.raises(SrtError, match="every one of the 24 prompts is longer than max_prompt_tokens=3"):
        order_of(tmp_path, tiny_base, data, 1, max_prompt_tokens=3)


def test_curriculum_subset_and_labels(tmp_path, tiny_base, sums):
    table = read_parquet(sums)
    ids = table["id"].to_pylist()
    subset, labels = tmp_path / "subset.parquet", tmp_path / "labels.parquet"
    write_parquet(subset, pa.table({"problem_id": ids[20:4:-2]}))
    data, truth = read_training_set(sums, "majority", subset)
    assert data.ids == ids[6:21:2] and data.labels is None and len(truth) == 24
    write_parquet(labels, pa.table({"problem_id": ids, "label": [None if i % 4 == 0 else "5" for i in range(24)]}))
    data, _ = read_training_set(sums, "offline_labels", subset, labels)
    assert data.labels_of([1]) == [None if 8 % 4 == 0 else "5"] if data.has_label(1) else not data.has_label(1)
    assert [data.has_label(i) for i in range(8)] == [(6 + 2 * i) % 4 != 0 for i in range(8)]
    steps = order_of(tmp_path, tiny_base, data, 2, reward="offline_labels", prompts_per_step=2)
    assert sorted(i for batch in steps for i in batch) == [0, 2, 4, 6]
    assert data.labels_of([0, 2]) == ["5", "5"]
    write_parquet(subset, pa.table({"problem_id": [ids[0], "not-there"]}))
    with pytest.raises(SrtError, match="problem 'not-there' is not in"):
        read_training_set(sums, "majority", subset)


def test_ground_truth_and_offline_labels_need_their_tables(tmp_path, sums):
    bare = without_answers(sums, tmp_path / "none.parquet")
    with pytest.raises(SrtError, match="has no column 'answer', which reward ground_truth needs"):
        read_training_set(bare, "ground_truth")
    with pytest.raises(SrtError, match="needs labels"):
        read_training_set(sums, "offline_labels")
    with pytest.raises(SrtError, match="must not be given labels"):
        read_training_set(sums, "majority", labels=tmp_path / "labels.parquet")
    data, truth = read_training_set(sums, "ground_truth")
    assert data.labels == truth and len(truth) == 24


def test_ranks_share_whole_groups_in_order():
    """The ranks' shares, concatenated, are the batch, so sums do not depend on the number of ranks."""
    for size in (1, 2, 3, 5):
        shares = [rank_share(list(range(7)), replace(init_world(), rank=r, size=size)) for r in range(size)]
        assert [i for share in shares for i in share] == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_ranks_than_prompts_is_a_sentence(tmp_path, tiny_base, sums):
    data, _ = read_training_set(sums, "majority")
    world = replace(init_world(), size=5)
    with pytest.raises(SrtError, match="prompts_per_step=4 is too small for 5 processes"):
        RLTrainer(whole_run(tmp_path, tiny_base, train_spec()), data, world, {})


def test_votes_of_the_naive_computation():
    """Both presets give the labels that `naive` assumes."""
    for preset in ("clean", "authors"):
        votes = Grader(preset=preset).vote(GROUPS, tasks=["math"] * 4)
        assert [v.majority for v in votes] == ["7", "2", None, "5"]
