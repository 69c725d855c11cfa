"""Splitting a batch into packs, balancing it over ranks, laying it out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config

from srt.common.errors import SrtError
from srt.packing import attention
from srt.packing.attention import PackAttention, check_packable
from srt.packing.pack import balance, pack, runs, split

quick = settings(deadline=None, derandomize=True, max_examples=200)
GROUPS = st.lists(st.tuples(st.integers(1, 20), st.lists(st.integers(0, 40), min_size=1, max_size=8)), max_size=8)


def flat(groups):
    tokens = [t for _, row in groups for t in row]
    group = [g for g, (_, row) in enumerate(groups) for _ in row]
    prompt = [p for p, row in groups for _ in row]
    return tokens, group, prompt


@quick
@given(GROUPS, st.integers(1, 200))
def test_units_hold_whole_groups_within_the_budget(groups, budget):
    tokens, group, prompt = flat(groups)
    units = split(tokens, group, prompt, budget)
    assert sorted(i for unit in units for rows in unit for i in rows) == list(range(len(tokens)))
    seen = [{group[i] for rows in unit for i in rows} for unit in units]
    assert sum(len(s) for s in seen) == len(groups), "a group is in one unit"
    for unit in units:
        for rows in unit:
            size = sum(tokens[i] for i in rows) + sum({group[i]: prompt[i] for i in rows}.values())
            assert rows and (size <= budget or len(rows) == 1)
        if len(unit) > 1:
            assert len({group[i] for rows in unit for i in rows}) == 1, "only a group that is too large is cut"


@quick
@given(st.lists(st.integers(0, 9)))
def test_runs(values):
    assert [(k, len(list(v))) for k, v in itertools.groupby(values)] == [(values[a], b - a) for a, b in runs(values)]


@quick
@given(st.lists(st.integers(1, 100), max_size=12), st.integers(1, 4))
def test_balance_is_a_partition_close_to_the_best(costs, parts):
    shares = balance(costs, parts)
    assert sorted(i for s in shares for i in s) == list(range(len(costs))) and len(shares) == parts
    load = [sum(costs[i] for i in s) for s in shares]
    least = max([sum(costs) / parts, *costs]) if costs else 0
    assert max(load) <= 4 / 3 * least + max(costs, default=0) / 3, "Graham's bound of longest first"
    if len(costs) >= parts:
        assert all(shares)


def test_layout_of_a_pack():
    """Each prompt once, responses without their last tokens, the states that predict, positions in the sequence."""
    prompts, responses = [[7, 8], [7, 8], [9]], [np.array(x, np.int32) for x in ([1, 2, 3], [4], [5, 6])]
    p = pack(prompts, responses, [0, 0, 1], [0, 1, 2])
    assert p.ids.tolist() == [7, 8, 9, 1, 2, 5]
    assert p.position.tolist() == [0, 1, 0, 2, 3, 1]
    assert p.predict.tolist() == [1, 3, 4, 1, 2, 5]
    assert p.token.tolist() == [1, 2, 3, 4, 5, 6]
    assert p.lengths.tolist() == [3, 1, 2]


def test_layout_of_prompts_that_begin_alike():
    """What all of them begin with is computed once; each keeps its last token, which predicts."""
    prompts, responses = [[7, 8], [7, 8], [7, 8, 9]], [np.array(x, np.int32) for x in ([1, 2, 3], [4], [5, 6])]
    p = pack(prompts, responses, [0, 0, 1], [0, 1, 2], least_prefix=1)
    assert p.ids.tolist() == [7, 8, 8, 9, 1, 2, 5]
    assert p.position.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert p.predict.tolist() == [1, 4, 5, 1, 3, 6]
    assert p.token.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(pack(prompts, responses, [0, 0, 1], [0, 1, 2]).ids) == 8, "one common token is too few"
    assert pack(prompts, responses, [0, 0, 1], [0, 1], least_prefix=1).attention.layout.prefix == 0, "one prompt"


@quick
@given(st.integers(0, 1000), st.none() | st.integers(1, 20))
def test_attention_sees_its_prompt_and_its_past(seed, window):
    """Which positions each position of a pack attends to, read from the buckets, against the definition."""
    rng = np.random.default_rng(seed)
    prompts, responses, group = [], [], []
    for g in range(rng.integers(1, 4)):
        prompt = [0] * int(rng.integers(1, 6))
        for _ in range(rng.integers(1, 30)):
            prompts.append(prompt)
            responses.append(np.zeros(rng.integers(1, 12), np.int32))
            group.append(g)
    p = pack(prompts, responses, group, range(len(group)))
    sees: dict[int, set[int]] = {}
    for b in p.attention.buckets:
        bias = b.wide(1, window)
        for r, row in enumerate(b.query.tolist()):
            for c, q in enumerate(row):
                if b.real[r, c]:
                    assert q not in sees
                    sees[q] = {k for k, x in zip(b.key[r].tolist(), bias[r, 0, c].tolist(), strict=True) if x == 0}
    place, expected, starts = 0, {}, {}
    for g in dict.fromkeys(group):
        starts[g] = range(place, place + len(prompts[group.index(g)]))
        place = starts[g].stop
        for k in starts[g]:
            expected[k] = set(range(starts[g].start, k + 1)[-(window or k + 1) :])
    for g, response in zip(group, responses, strict=True):
        for k in range(place, place + len(response) - 1):
            own = [*starts[g], *range(place, k + 1)]
            expected[k] = set(own[-(window or len(own)) :])
        place += len(response) - 1
    assert sees == expected and place == len(p.ids)
    queries = torch.cat([b.query.flatten() for b in p.attention.buckets])
    assert p.attention.place is not None and queries[p.attention.place].tolist() == list(range(len(p.ids)))
    assert torch.cat([b.real.flatten() for b in p.attention.buckets])[p.attention.place].all()


def test_models_that_cannot_be_packed_are_refused():
    config = Qwen2Config(num_hidden_layers=2)
    config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(SrtError, match=r"base/config.json: layer_types has chunked_attention: .*: choose another base"):
        check_packable("base", config)
    check_packable("base", Qwen2Config(use_sliding_window=True, max_window_layers=1, num_hidden_layers=2))


@pytest.mark.parametrize(
    ("device", "dtype", "kernel"),
    [
        ("cuda", torch.bfloat16, True), ("cuda", torch.float16, True), ("cuda", torch.float32, False),
        ("cuda", torch.float64, False), ("cpu", torch.bfloat16, False),
    ],
)  # fmt: skip
def test_the_kernel_of_a_gpu_gets_only_the_types_that_it_takes(monkeypatch, device, dtype, kernel):
    """The probe of a base model (srt.training.pack_probe) computes in float32 on a GPU too."""
    layout = pack([[1, 2]], [np.array([3, 4])], [0], [0]).attention.layout
    monkeypatch.setattr(attention, "_varlen", lambda layout, device: "arguments of the kernel")
    assert (PackAttention(layout, 3, device, dtype).varlen is not None) == kernel
