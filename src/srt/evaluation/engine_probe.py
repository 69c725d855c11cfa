"""Does an engine sample from what the model says? Its log-probs against the model's plain forward pass.

The transformers engine is compared on a small copy of the model (`srt.models.plain_pass.small_copy`) in float32, with
prompts of unequal lengths, more samples than slots, and sequences longer than a sliding window. vLLM, which reads the
model's folder, is compared on the whole model in the type that it samples with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srt.common.errors import SrtError
from srt.models.plain_pass import small_copy
from srt.models.probe_record import probed
from srt.rollout import TOLERANCE, RolloutEngine, Sampling
from srt.rollout.transformers_engine import TransformersEngine

LOGPROB_BOUND = 1e-4  # nats, float32
PROMPTS = (12, 3, 7)  # tokens
SAMPLING = Sampling(n=3, temperature=0.8, max_new_tokens=18, seed=1)
SLOTS = 4  # of nine samples
NEW_TOKENS, PROMPT_TOKENS, OVERLAP = 16, 24, 8  # for vLLM: of a response, of a prompt, beyond a sliding window


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


@dataclass(frozen=True)
class PlainSamples:
    """Responses of a whole model to random prompts, with the log-probs [T] of its plain pass at temperature 1."""

    prompts: list[list[int]]
    responses: list[np.ndarray]
    logprobs: list[np.ndarray]


def vllm_probe(dtype: str) -> str:
    """The name of the probe of vLLM, for its record."""
    return f"vllm, {'cuda' if torch.cuda.is_available() else 'cpu'}, {dtype}"


def plain_samples(model: Any, tokens: int) -> PlainSamples:
    """What `check_vllm` compares vLLM with.

    Args:
        tokens: most tokens of prompt and response together that vLLM is started for. One prompt is longer than the
            model's sliding window, if that is shorter.
    """
    new = max(1, min(NEW_TOKENS, tokens // 3))
    window = getattr(model.config, "sliding_window", None) or tokens
    longest = window + OVERLAP if window < tokens else PROMPT_TOKENS
    rng = np.random.default_rng(0)
    lengths = [max(1, min(n, tokens - new - 1)) for n in (longest, PROMPT_TOKENS // 4)]
    prompts = [rng.integers(0, model.config.vocab_size, n).tolist() for n in lengths]
    engine = TransformersEngine(model, [-1])
    groups = engine.generate(prompts, ["0", "1"], Sampling(n=2, max_new_tokens=new))
    rows = [(prompt, r.token_ids) for prompt, group in zip(prompts, groups, strict=True) for r in group]
    given, responses = [p for p, _ in rows], [r for _, r in rows]
    return PlainSamples(given, responses, engine.logprobs(given, responses, 1.0))


def check_vllm(folder: Path, model_type: str, samples: PlainSamples, engine: RolloutEngine, dtype: str) -> None:
    """Refuse a model whose log-probs in vLLM are not those of its plain forward pass.

    Two chains of equal numbers reach from the plain pass to what vLLM samples: the plain pass and vLLM on given
    responses, and vLLM on responses that it has just sampled.
    """
    bound = TOLERANCE[dtype]

    def admit() -> dict[str, float]:
        given = engine.logprobs(samples.prompts, samples.responses, 1.0)
        prompts = samples.prompts[::2]
        new = len(samples.responses[0])
        groups = engine.generate(prompts, ["0", "1"], Sampling(n=2, max_new_tokens=new))
        rows = [(prompt, r) for prompt, group in zip(prompts, groups, strict=True) for r in group]
        again = engine.logprobs([p for p, _ in rows], [r.token_ids for _, r in rows], 1.0)
        found = {
            "given": _mean_difference(given, samples.logprobs),
            "sampled": _mean_difference(again, [r.logprobs for _, r in rows]),
        }
        for which, difference in found.items():
            if not difference <= bound:
                raise SrtError(
                    f"{folder}: vLLM does not compute what model type {model_type} says: its log-probs of {which} "
                    f"responses are {difference:.2g} nats from those of the "
                    f"{'model' if which == 'given' else 'same responses without sampling'} on average, more than "
                    f"{bound:g}: choose the engine transformers or another model"
                )
        return found

    probed(folder, vllm_probe(dtype), admit)


def _mean_difference(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """The mean |difference| over all tokens; infinite where one is not finite."""
    mean = float(np.abs(np.concatenate(a).astype(np.float64) - np.concatenate(b)).mean())
    return mean if np.isfinite(mean) else float("inf")
