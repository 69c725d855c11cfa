"""The golden batch: four responses to one prompt, whose sums and losses were worked out by hand."""

from __future__ import annotations

import torch

OLD = [[-0.10, -0.70, -0.25], [-1.20, -0.40], [-0.05, -0.90, -0.30, -2.00], [-0.60, -0.10]]
REF = [[-0.20, -0.65, -0.25], [-0.90, -0.55], [-0.05, -1.10, -0.10, -1.50], [-0.80, -0.10]]
REWARD = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
GROUP = torch.zeros(4, dtype=torch.long)
LENGTHS = torch.tensor([3, 2, 4, 2])
BETA = 0.1


def padded(rows: list[list[float]]) -> torch.Tensor:
    out = torch.full((len(rows), max(map(len, rows))), float("nan"), dtype=torch.float64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return out


MASK = torch.arange(4)[None, :] < LENGTHS[:, None]


def near(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
