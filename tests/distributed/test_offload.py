"""Weights in host memory: the same bytes on the device each time, ties kept, off the device in between.

Without a GPU the "device" of these tests is the CPU: the weights on the device are fresh copies.
"""

from __future__ import annotations

import torch

from srt.distributed.offload import OffloadedModel, offload

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
    offloaded = OffloadedModel(model, CPU)
    on_host = [p.data_ptr() for p in model.parameters()]
    for _ in range(2):
        with offloaded.on_device():
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
            assert not set(on_host) & {p.data_ptr() for p in model.parameters()}, "copies of the host's"
            assert model[0].weight is model[1].weight and not model[0].weight.requires_grad
        assert [p.data_ptr() for p in model.parameters()] == on_host
    assert {name: b.data_ptr() for name, b in model.named_buffers()} == buffers


def test_weights_leave_the_device_when_a_pass_fails():
    model = tied()
    offloaded = OffloadedModel(model, CPU)
    on_host = [p.data_ptr() for p in model.parameters()]
    try:
        with offloaded.on_device():
            raise RuntimeError
    except RuntimeError:
        pass
    assert [p.data_ptr() for p in model.parameters()] == on_host


def test_on_a_cpu_nothing_is_offloaded():
    model = tied()
    before = [p.data_ptr() for p in model.parameters()]
    assert offload(model, CPU) is None and [p.data_ptr() for p in model.parameters()] == before
