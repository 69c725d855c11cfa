"""One update against RLOO written out sequence by sequence; the order of data; which data a method may use."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from srt.answers import Grader
from srt.common.errors import SrtError
from srt.common.io import read_parquet, sha256_file, write_parquet
from srt.distributed.world import init_world
from srt.models.checkpoint import load_model
from srt.rollout import LENGTH, STOP, Rollout, tensor_checksum
from srt.rollout.transformers_engine import TransformersEngine
from srt.training import base_trainer, reference
from srt.training.batches import rank_share
from srt.training.rewards import training_rewards
from srt.training.rl_trainer import RLTrainer, make_batch
from srt.training.run import run_segment
from srt.training.training_set import METRICS, TrainingSet, join_metrics, read_training_set
from srt.training.update import PHASES
from support.specs import train_spec
from support.training import whole_run

# Four responses per group: a majority of "7", a tie, no answer at all, all agree.
GROUPS = [
    ["\\boxed{7}", "3 + 4 = 7; \\boxed{7}", "\\boxed{8}", "I do not know"],
    ["\\boxed{2}", "1 = 1; 2 = 2; \\boxed{3}", "\\boxed{3}", "\\boxed{2}"],
    ["7", "nothing", "\\boxed{", "1 + 2 = 3; and so on"],
    ["\\boxed{5}", "\\boxed{5}", "2 + 3 = 5; \\boxed{5}", "so \\boxed{5}"],
]
TRUTH = ["7", "3", "9", "6"]
PARSED = [True, True, False, True]


def make_trainer(folder: Path, base: Path, sums: Path, **changes: Any) -> RLTrainer:
    """A real trainer whose reference differs from its policy, so that the KL is not 0."""
    spec = train_spec(prompts_per_step=4, rollouts_per_prompt=4, kl_coefficient=0.05, **changes)
    data, truth = read_training_set(sums, spec["reward"])
    trainer = RLTrainer(whole_run(folder, base, spec), data, init_world(), truth)
    trainer.update.check_mismatch = None  # the rollouts are hand-made
    torch.manual_seed(5)
    with torch.no_grad():
        for p in trainer.update.reference.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return trainer


def hand_made(trainer: RLTrainer, groups: list[list[str]]) -> tuple[list[list[int]], list[Rollout]]:
    """Prompts of the first problems and rollouts of these texts; the second of each group is truncated."""
    prompts, rollouts = [], []
    for g, group in enumerate(groups):
        for i, text in enumerate(group):
            ids = trainer.tokenizer(text, add_special_tokens=False)["input_ids"]
            cut = i == 1
            ids = np.array(ids if cut else [*ids, trainer.tokenizer.eos_token_id], np.int32)
            prompts.append(trainer.prompts[g])
            rollouts.append(Rollout(ids, np.zeros(len(ids), np.float32), LENGTH if cut else STOP))
    return prompts, rollouts


def updated(trainer: RLTrainer, groups: list[list[str]] = GROUPS, labels: list[str] | None = None):
    """The gradient of one update (read from DeepSpeed before its step), and the update's return value."""
    flat_prompts, flat = hand_made(trainer, groups)
    prompts = flat_prompts[:: len(groups[0])]
    rollouts = [flat[i : i + len(groups[0])] for i in range(0, len(flat), len(groups[0]))]
    kind = trainer.spec["reward"]
    given = training_rewards(kind, trainer.grader, groups, labels, ["math"] * len(groups))
    found: dict[str, torch.Tensor] = {}
    step = trainer.policy.step

    def recording_step() -> tuple[float, bool]:
        for name, p in trainer.policy.model.named_parameters():
            grad = safe_get_full_grad(p)
            found[name] = torch.zeros_like(p) if grad is None else grad.clone()
        return step()

    trainer.policy.step = recording_step  # type: ignore[method-assign]
    try:
        result = trainer.update.run(make_batch(prompts, rollouts, given, None))
    finally:
        trainer.policy.step = step  # type: ignore[method-assign]
    return found, result


def naive(trainer: RLTrainer, labels: list[str] | None, drop: bool, entropy_coefficient: float, clamp: float | None,
          micro: int | None) -> dict[str, torch.Tensor]:  # fmt: skip
    """The gradient of the RLOO loss with the KL in the reward, from the formulas, sequence by sequence.

    s_i = R_i - beta sum_t k3_it,  A_i = s_i - mean of the other s_j of the group,
    L = - mean over tokens of (A_i log pi_it + c H_it), over all tokens, or over those of each `micro` sequences.
    """
    model, beta = trainer.policy.model, trainer.train["kl_coefficient"]
    prompts, rollouts = hand_made(trainer, GROUPS)
    answers = [["7", "7", "8", None], ["2", "3", "3", "2"], [None] * 4, ["5"] * 4]
    label = labels or ["7", None, None, "5"]
    if labels is None:  # a tie: the class seen first, of the raw strings and of the clean preset alike
        label[1] = "2"
    rows = []
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        g, j = divmod(i, 4)
        sequence = torch.tensor([[*prompt, *rollout.token_ids.tolist()]])
        logits = model(input_ids=sequence, use_cache=False).logits[0].double() / trainer.train["temperature"]
        with torch.no_grad():
            other = trainer.update.reference.model(input_ids=sequence).logits[0].double() / trainer.train["temperature"]
        logp, entropy, kl = [], [], 0.0
        for t in range(len(prompt), sequence.shape[1]):
            now, ref = logits[t - 1].log_softmax(-1), other[t - 1].log_softmax(-1)
            token = int(sequence[0, t])
            logp.append(now[token])
            entropy.append(-(now.exp() * now).sum())
            d = float(ref[token] - now[token].detach())
            k3 = math.exp(d) - d - 1
            kl += k3 if clamp is None else min(clamp, k3)
        reward = float(answers[g][j] is not None and answers[g][j] == label[g])
        voted = label[g] is not None
        rows.append({"g": g, "s": reward - beta * kl, "voted": voted, "logp": logp, "entropy": entropy})
    total = torch.zeros((), dtype=torch.float64)
    chunks = [rows] if micro is None else [rows[k : k + micro] for k in range(0, len(rows), micro)]
    for chunk in chunks:
        kept = [r for r in chunk if r["voted"] or not drop]
        tokens = sum(len(r["logp"]) for r in kept)
        for r in kept:
            others = [x["s"] for x in rows if x["g"] == r["g"] and x is not r]
            advantage = r["s"] - sum(others) / 3 if r["voted"] else 0.0
            gain = sum(advantage * lp + entropy_coefficient * h for lp, h in zip(r["logp"], r["entropy"], strict=True))
            total = total - gain / tokens / len(chunks)
    grads = torch.autograd.grad(total, list(model.parameters()))
    return {name: grad for (name, _), grad in zip(model.named_parameters(), grads, strict=True)}


def near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    size = max(float(g.abs().max()) for g in expected.values())
    assert size > 1e-3, "a gradient of zero would prove nothing"
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad.to(actual[name]), atol=tolerance * size, rtol=tolerance)


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("reward", ["majority", "ground_truth"])
@pytest.mark.parametrize("preset", ["clean", "authors"])
def test_gradient_is_that_of_the_formulas(tmp_path, tiny_base, sums, preset, reward, zero_stage):
    """Groups of 4 in token means of 6 sequences: the authors' micro-batches cut through a group."""
    trainer = make_trainer(tmp_path, tiny_base, sums, preset=preset, reward=reward, temperature=0.9,
                           micro_batch_sequences=6, zero_stage=zero_stage)  # fmt: skip
    labels = TRUTH if reward == "ground_truth" else None
    authors = preset == "authors"
    expected = naive(
        trainer, labels, drop=not authors, entropy_coefficient=0.001 if authors else 0.0,
        clamp=10.0 if authors else None, micro=6 if authors else None,
    )  # fmt: skip
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


def test_rollouts_of_other_weights_stop_the_run(tmp_path, tiny_base, sums):
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
    with pytest.raises(SrtError, match=r"step 3: the rollout engine's log-probs are .* from the trainer's"):
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
