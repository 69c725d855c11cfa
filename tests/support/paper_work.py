"""A training step of the paper and the memory of an H200, for the tests of memory, seconds and resources."""

from __future__ import annotations

from srt.cost.lengths import Lengths
from srt.cost.parameters import GENEROUS
from srt.cost.shapes import SHAPES
from srt.cost.work import TrainingWork

GB, H200 = 1e9, 141e9  # bytes
LENGTHS = Lengths.of_limits(1024, 3072, GENEROUS)
SHAPE_7B = SHAPES["Qwen/Qwen2.5-Math-7B"]
SHAPE_14B = SHAPES["Qwen/Qwen3-14B-Base"]
PAPER = TrainingWork(shape=SHAPE_7B, lengths=LENGTHS, prompts=16, responses=32, trained=32, steps=100)
