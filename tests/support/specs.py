"""The base model that most tests train, and specs of runs on it."""

from __future__ import annotations

from srt.config.models import BOXED_SUFFIX
from srt.config.train import Train

TINY_BASE = {
    "source": "tiny", "hidden_size": 32, "heads": 1, "kv_heads": 1, "layers": 2, "intermediate_size": 64,
    "context": 128, "steps": 120, "batch_size": 32, "learning_rate": 5e-3, "threads": 1,
    "parts": [{"params": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}],
    "revision_of_code": 1,
}  # fmt: skip


def train_spec(**changes: object) -> dict:
    """A run's spec for the tiny base; keyword arguments change hyperparameters or top-level keys."""
    top = {k: changes.pop(k) for k in ("reward", "seed") if k in changes}
    values = {
        "prompts_per_step": 4, "rollouts_per_prompt": 8, "max_prompt_tokens": 40, "max_new_tokens": 24,
        "learning_rate": 1e-3, "dtype": "float32", "gradient_checkpointing": "none",
        "rollout_engine": "transformers", "micro_batch_tokens": 600, **changes,
    }  # fmt: skip
    train = Train.model_validate(values).hyperparameters()
    return {
        "run": "test-s1", "seed": 1, "reward": "majority", "extractor": "boxed", "prompt_suffix": BOXED_SUFFIX,
        "train": train, **top,
    }  # fmt: skip
