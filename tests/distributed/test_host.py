"""Weights that wait in host memory: the same bytes each time, ties kept, gone from the device in between.

Without a GPU the "device" of these tests is the CPU: what is on it are fresh copies, what waits are others.
"""

from __future__ import annotations

import torch

from srt.distributed.host_memory import Parked, park

CPU = torch.device("cpu")


def tied() -> torch.nn.Module:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False), torch.nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    return model.requires_grad_(False).to(torch.bfloat16)


def test_weights_come_and_go_unchanged():
    model = tied()
    before = [p.clone() for p in model.parameters()]
    buffers = {name: b.data_ptr() for name, b in model.named_buffers()}
    parked = Parked(model, CPU)
    waiting = [p.data_ptr() for p in model.parameters()]
    for _ in range(2):
        with parked.here():
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
            assert not set(waiting) & {p.data_ptr() for p in model.parameters()}, "copies, not what waits"
            assert model[0].weight is model[1].weight and not model[0].weight.requires_grad
        assert [p.data_ptr() for p in model.parameters()] == waiting
    assert {name: b.data_ptr() for name, b in model.named_buffers()} == buffers


def test_they_leave_when_a_pass_fails():
    model = tied()
    parked = Parked(model, CPU)
    waiting = [p.data_ptr() for p in model.parameters()]
    try:
        with parked.here():
            raise RuntimeError
    except RuntimeError:
        pass
    assert [p.data_ptr() for p in model.parameters()] == waiting


def test_on_a_cpu_nothing_is_parked():
    model = tied()
    before = [p.data_ptr() for p in model.parameters()]
    assert park(model, CPU) is None and [p.data_ptr() for p in model.parameters()] == before
