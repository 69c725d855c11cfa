"""Does an engine sample from what the model says? Its log-probs against the model's plain forward pass.

The transformers engine is compared on a small copy of the model (`srt.models.plain_pass.small_copy`) in float32, with
prompts of unequal lengths, more samples than slots, and sequences longer than a sliding window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from srt.common.errors import SrtError
from srt.models.plain_pass import small_copy
from srt.models.probe_record import probed
from srt.rollout import Sampling
from srt.rollout.transformers_engine import TransformersEngine

LOGPROB_BOUND = 1e-4  # nats, float32
PROMPTS = (12, 3, 7)  # tokens
SAMPLING = Sampling(n=3, temperature=0.8, max_new_tokens=18, seed=1)
SLOTS = 4  # of nine samples


def check_sampling(folder: Path, model: Any) -> None:
    """Refuse a model that the transformers engine does not sample from exactly; the same bytes are probed once.

    Args:
        folder: of the model, for its record and messages.
    """

    def admit() -> dict[str, float]:
        try:
            difference = measure_sampling(model)
            found = f"log-probs of samples differ by up to {difference:.2g} nats from the model's own"
        except SrtError as error:
            found, difference = str(error), float("inf")
        if not difference <= LOGPROB_BOUND:
            raise SrtError(
                f"{folder}: the transformers engine would not sample exactly from model type "
                f"{model.config.model_type}: {found}: choose the engine vllm or another model"
            )
        return {"logprob": difference}

    probed(folder, f"sampling, {model.device.type}", admit)


def measure_sampling(model: Any) -> float:
    """The largest difference in nats between log-probs of samples of a small copy of `model` and its plain pass.

    Raises:
        SrtError: the engine cannot sample from it.
    """
    small = small_copy(model, torch.float32)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, small.config.vocab_size, n).tolist() for n in PROMPTS]
    end = int(rng.integers(0, small.config.vocab_size))
    engine = TransformersEngine(small, [end], max_rows=SLOTS)
    try:
        groups = engine.generate(prompts, [str(i) for i in range(len(prompts))], SAMPLING)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SrtError(f"its forward pass fails with the engine's cache ({first})") from error
    rows = [(prompt, r) for prompt, group in zip(prompts, groups, strict=True) for r in group]
    plain = engine.logprobs([p for p, _ in rows], [r.token_ids for _, r in rows], SAMPLING.temperature)
    worst = max(float(np.abs(r.logprobs - own).max()) for (_, r), own in zip(rows, plain, strict=True))
    return worst if worst == worst else float("inf")
