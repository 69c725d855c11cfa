"""Refilled batches: the order of prompts against a plain loop, no use of labels, resuming, two processes.

As a program this file is a rank: both processes train, and each leaves the prompts that it drew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common.errors import Interrupted
from srt.common.io import read_json, read_parquet, write_parquet
from srt.distributed.world import init_world, shutdown
from srt.rollout.transformers_engine import TransformersEngine
from srt.training.batches import fill, label_threshold
from srt.training.rl_trainer import RLTrainer
from srt.training.run import run_segment
from srt.training.training_set import METRICS, REFILL, read_training_set
from srt.training.update import Update
from support.specs import train_spec
from support.training import command, killed_then_finished, segment, train, two_ranks, weights

# 24 prompts, 4 per step: about half of the tiny model's prompts reach 0.25, so batches take several rounds.
RULE = {"majority": 0.25, "rounds": 3}


def spec_of(rule: dict[str, Any] | None = RULE, **changes: Any) -> dict[str, Any]:
    spec = train_spec(**changes)
    return spec | ({"refill": rule} if rule else {})


# -- the order --------------------------------------------------------------------------------------------------------


def plain_loop(seed: int, length: int, size: int, rounds: int, steps: int, keeps: Any) -> list[list[int]]:
    """Epochs, rounds and leftover prompts, one prompt at a time."""
    batches, epoch, left = [], 0, list(np.random.default_rng([seed, 0]).permutation(length))
    for step in range(steps):
        if len(left) < size:
            epoch += 1
            left = list(np.random.default_rng([seed, epoch]).permutation(length))
        batch: list[int] = []
        for _ in range(rounds):
            sampled = left[:size]
            while sampled and len(batch) < size:
                prompt = int(sampled.pop(0))
                left.pop(0)
                if keeps(step, prompt):
                    batch.append(prompt)
            if len(batch) == size:
                break
        batches.append(batch)
    return batches


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    seed=st.integers(0, 3), length=st.integers(1, 40), size=st.integers(1, 9), rounds=st.integers(1, 6),
    share=st.sampled_from([0, 1, 3, 7, 10]), data=st.data(),
)  # fmt: skip
def test_the_order_is_that_of_a_plain_loop(seed, length, size, rounds, share, data):
    size = min(size, length)

    def keeps(step: int, prompt: int) -> bool:
        return (step * 31 + prompt * 17 + seed) % 10 < share

    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(length)

    place, batches = 0, []
    for step in range(12):
        filled = fill(order, place, size, rounds, lambda chunk, step=step: [keeps(step, i) for i in chunk])
        assert len(filled.drawn) == len(set(filled.drawn)) <= rounds * size  # no prompt twice in a step
        assert [i for i in filled.drawn if i in filled.kept] == filled.kept and len(filled.kept) <= size
        assert filled.place > place
        place = filled.place
        batches.append(filled.kept)
    assert batches == plain_loop(seed, length, size, rounds, 12, keeps)


def test_an_epoch_and_its_end_by_hand():
    """Six prompts in order, three per batch; 1 and 4 are never kept."""
    orders = {0: [0, 1, 2, 3, 4, 5], 1: [5, 4, 3, 2, 1, 0]}
    judged: list[list[int]] = []

    def judge(chunk: list[int]) -> list[bool]:
        judged.append(chunk)
        return [i not in (1, 4) for i in chunk]

    first = fill(orders.__getitem__, 0, 3, 2, judge)
    assert (first.kept, first.drawn, first.place) == ([0, 2, 3], [0, 1, 2, 3, 4, 5], 4)  # 4 and 5 come again
    second = fill(orders.__getitem__, first.place, 3, 2, judge)  # two are left: the next epoch
    assert (second.kept, second.place) == ([5, 3, 2], 6 + 4)
    assert judged == [[0, 1, 2], [3, 4, 5], [5, 4, 3], [2, 1, 0]]
    short = fill(orders.__getitem__, 3, 3, 9, judge)  # exactly three are left, two of which are kept: a short batch
    assert (short.kept, short.drawn, short.place) == ([3, 5], [3, 4, 5], 6)


def test_a_label_needs_the_threshold_of_the_batch():
    assert label_threshold(spec_of()) == 0.25 and label_threshold(spec_of(None)) == 0.0
    assert label_threshold(spec_of(majority_threshold=0.5)) == 0.5


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_base, sums) -> Path:
    """An undisturbed run of 7 steps."""
    return train(tmp_path_factory.mktemp("whole"), tiny_base, sums, spec_of(), 7)


def frame(step: Path) -> Any:
    return read_parquet(step / "metrics.parquet").to_pandas()


def test_the_metrics_say_what_was_drawn_and_kept(whole):
    table = frame(whole)
    assert table.columns.tolist() == [*METRICS, *REFILL]
    assert table["prompts_drawn"].between(4, 12).all() and table["prompts_drawn"].max() > 4
    assert table["prompts_kept"].between(1, 4).all() and (table["prompts_kept"] == 4).any()
    assert (table["drawn_keep_rate"] < 1).any() and (table["majority_ratio"] >= 0.25).all()
    assert (table["drawn_majority_ratio"] <= table["majority_ratio"] + 1e-9).all()  # dropped groups agree less
    assert table["data_place"].is_monotonic_increasing and table["data_place"].iloc[-1] > 24  # into a second epoch
    assert (table["kept_rate"] == 1).all()  # every group in the batch has a label
    assert read_json(whole / "state" / "progress.json")["place"] == table["data_place"].iloc[-1]


def test_the_engine_releases_its_memory_once_a_step_when_all_is_drawn(tmp_path, tiny_base, sums, monkeypatch):
    calls: list[str] = []

    def noting(owner: type, name: str) -> None:
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.append(name), method(*args, **kwargs))[1])

    for name in ("update_weights", "generate", "release_memory"):
        noting(TransformersEngine, name)
    noting(Update, "run")
    train(tmp_path, tiny_base, sums, spec_of(), 3)
    steps = " ".join(calls).split("update_weights")[1:]
    assert len(steps) == 3 and max(step.count("generate") for step in steps) > 1
    assert all(step.split()[-2:] == ["release_memory", "run"] and step.count("release_memory") == 1 for step in steps)


def test_a_threshold_that_all_reach_is_the_run_without_it(tmp_path, tiny_base, sums):
    """The same prompts, rollouts and bytes: the key only changes which groups are kept."""
    plain = train(tmp_path / "plain", tiny_base, sums, spec_of(None), 7)
    refilled = train(tmp_path / "refilled", tiny_base, sums, spec_of({"majority": 0.01, "rounds": 2}), 7)
    table = frame(refilled)
    assert (table["drawn_keep_rate"] == 1).all() and table["data_place"].tolist() == [4, 8, 12, 16, 20, 24, 28]
    assert weights(refilled) == weights(plain)
    assert table[list(METRICS)].equals(frame(plain))


def test_where_nothing_reaches_the_threshold_no_label_is_made(tmp_path, tiny_base, sums):
    table = frame(train(tmp_path, tiny_base, sums, spec_of({"majority": 1.0, "rounds": 1}, temperature=3.0), 1))
    assert table["prompts_kept"].tolist() == [0] and table["prompts_drawn"].tolist() == [4]
    assert (table[["kept_rate", "reward", "loss", "grad_norm"]] == 0).all(axis=None)


def test_true_answers_change_nothing_but_the_monitors(whole, tmp_path, tiny_base, sums):
    table = read_parquet(sums).to_pandas().drop(columns="answer")
    write_parquet(tmp_path / "blind.parquet", table)
    blind = train(tmp_path, tiny_base, tmp_path / "blind.parquet", spec_of(), 7)
    assert weights(blind) == weights(whole)
    seen = ["true_accuracy", "reward_accuracy", "label_accuracy"]
    assert frame(blind).drop(columns=seen).equals(frame(whole).drop(columns=seen))


def test_segments_are_one_long_run(whole, tmp_path, tiny_base, sums):
    chain = train(tmp_path, tiny_base, sums, spec_of(), 1, 3, 6, 7)
    assert weights(chain) == weights(whole)
    rows = [frame(tmp_path / f"step-{n}") for n in (1, 3, 6, 7)]
    assert np.array_equal(np.concatenate([r.to_numpy() for r in rows]), frame(whole).to_numpy(), equal_nan=True)
    ours, theirs = (read_json(x / "state" / "manifest.json") for x in (chain, whole))
    assert {k: v for k, v in ours.items() if k.startswith("engine/")} == {
        k: v for k, v in theirs.items() if k.startswith("engine/")
    }


def test_interrupted_at_every_step(whole, tmp_path, tiny_base, sums):
    """With a time budget of zero, each attempt trains one step, from the state of the previous attempt."""
    for attempt in range(1, 8):
        try:
            train(tmp_path, tiny_base, sums, spec_of(), 7, minutes=1e-6)
        except Interrupted:
            state = read_json(tmp_path / "work" / "step-7" / f"state-{attempt}" / "progress.json")
            assert state["place"] == frame(whole)["data_place"].iloc[attempt - 1]
            continue
        break
    assert weights(tmp_path / "step-7") == weights(whole)
    assert (tmp_path / "step-7/metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.long
def test_sigkill_at_odd_steps_then_the_same_command_gives_the_same_bytes(whole, tmp_path, tiny_base, sums):
    work = tmp_path / "work" / "step-7"
    killed_then_finished(command(tmp_path, tiny_base, sums, spec_of(), 7), work, ((1, 0.03), (3, 0.0)))
    assert weights(tmp_path / "step-7") == weights(whole)
    assert (tmp_path / "step-7/metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()


# -- two processes ----------------------------------------------------------------------------------------------------

# `few`: steps that keep one prompt, so that one process has none, and a step that keeps none.
CASES = {
    "usual": ({"majority": 0.25, "rounds": 3}, {}),
    "dynamic": ({"dynamic_sampling": True, "rounds": 3}, {"reward": "ground_truth"}),
    "few": ({"majority": 0.375, "rounds": 3}, {"seed": 6}),
    "soft": ({"majority": 0.25, "rounds": 3}, {"reward": "soft_majority", "aggregation": "token_mean_micro"}),
}


def draw_all(folder: Path, base: Path, sums: Path) -> None:
    """Train three steps of each case; write the prompts that this process drew and trained on, and its share."""
    original = RLTrainer.step
    for name, (rule, changes) in CASES.items():
        spec = spec_of(rule, learning_rate=2e-4, micro_batch_sequences=8, **changes)
        data, truth = read_training_set(sums, spec["reward"])
        seen: list[Any] = []

        def step(self: RLTrainer, number: int, seen: list[Any] = seen) -> dict[str, float]:
            draw = self.batches.draw

            def recorded(n: int) -> Any:
                positions, groups, metrics = draw(n)
                seen.append([positions, [[r.token_ids.tolist() for r in group] for group in groups]])
                return positions, groups, metrics

            self.batches.draw = recorded  # type: ignore[method-assign]
            try:
                return original(self, number)
            finally:
                self.batches.draw = draw  # type: ignore[method-assign]

        RLTrainer.step = step  # type: ignore[method-assign]
        try:
            run_segment(segment(folder / name, base, spec, 0, 3), data, truth)
        finally:
            RLTrainer.step = original  # type: ignore[method-assign]
        (folder / name / f"seen-{init_world().rank}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_base, sums) -> tuple[Path, Path]:
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    for folder in (alone, together):
        for name in CASES:
            (folder / name).mkdir()
    draw_all(alone, tiny_base, sums)
    result = two_ranks(__file__, str(together), str(tiny_base), str(sums))
    assert result.returncode == 0, result.stderr[-4000:]
    return alone, together


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_draw_and_keep_what_one_does(both, name):
    alone, together = (folder / name for folder in both)
    one = json.loads((alone / "seen-0.json").read_text())
    two = [json.loads((together / f"seen-{rank}.json").read_text()) for rank in range(2)]
    # rank 0 then rank 1: the same prompts in the same order, and the same tokens (weights differ by rounding)
    assert [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(*two, strict=True)] == one
    shares = [[len(step[0]) for step in rank] for rank in two]
    assert shares == ([[0, 0, 2], [1, 1, 2]] if name == "few" else shares)
    ours, theirs = frame(together / "step-3"), frame(alone / "step-3")
    assert ours[list(REFILL)].equals(theirs[list(REFILL)])
    np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(ours["reward"], theirs["reward"])
    places = [read_json(f / "step-3/state/progress.json")["place"] for f in (together, alone)]
    assert places == [theirs["data_place"].iloc[-1]] * 2


if __name__ == "__main__":
    try:
        draw_all(*map(Path, sys.argv[1:4]))
    finally:
        shutdown()
