"""Training runs: hyperparameters (paper Appendix B.1), presets, and the entries of `experiments.yaml`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from srt.config.base import Strict

Reward = Literal["ground_truth", "majority", "offline_labels"]

# What the two presets mean, where the paper and the authors' code differ (docs/trainer.md has the list).
PRESETS: dict[str, dict[str, Any]] = {
    "clean": {
        "votes": "clean",
        "aggregation": "token_mean",
        "entropy_coefficient": 0.0,
        "unparsable_groups": "drop",
        "kl_clamp": None,
    },
    "authors": {
        "votes": "authors",
        "aggregation": "token_mean_micro",
        "entropy_coefficient": 0.001,
        "unparsable_groups": "keep",
        "kl_clamp": 10.0,
    },
}


class Train(Strict):
    """Hyperparameters of one run. Every field changes the result and so is part of the run's spec.

    Fields that default to null come from the preset.
    """

    preset: Literal["clean", "authors"] = Field(
        "clean", description="`clean`: what the paper says; `authors`: what their released code does."
    )
    prompts_per_step: int = Field(16, gt=0, description="Prompts of one step (the authors' train_batch_size).")
    rollouts_per_prompt: int = Field(32, gt=1, description="Responses a prompt: they vote and they train.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of rollouts.")
    max_prompt_tokens: int = Field(1024, gt=0, description="Longer prompts are left out and counted.")
    max_new_tokens: int = Field(3072, gt=0, description="A response is cut after so many tokens.")
    learning_rate: float = Field(1e-6, gt=0, description="AdamW, constant, no warm-up.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW (verl's default in the authors' code).")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    kl_coefficient: float = Field(0.001, ge=0, description="Weight of the KL penalty in the reward.")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k3", description="Estimator of the KL to the base model.")
    advantage: Literal["rloo", "group_mean", "group_std"] = Field("rloo", description="Paper Eq. 2: rloo.")
    votes: Literal["clean", "authors"] | None = Field(
        None, description="How answers are compared and counted: equivalence classes or raw strings (docs/answers.md)."
    )
    aggregation: Literal["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"] | None = Field(
        None, description="Denominator of the loss (srt.objective.sequence_weights)."
    )
    entropy_coefficient: float | None = Field(None, ge=0, description="Entropy bonus; 0.001 in the authors' code.")
    unparsable_groups: Literal["drop", "keep"] | None = Field(
        None, description="Prompts without any parsable answer: left out of the loss, or kept with advantage 0."
    )
    kl_clamp: float | None = Field(None, gt=0, description="Bound of the per-token KL estimate.")
    micro_batch_sequences: int = Field(32, gt=0, description="Run length of token_mean_micro.")
    micro_batch_tokens: int = Field(
        16384, gt=0, description="Token budget of one forward pass; rounding alone depends on it."
    )
    zero_stage: Literal[0, 1, 2] = Field(1, description="DeepSpeed ZeRO stage.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Compute precision; masters are float32.")
    gradient_checkpointing: bool = Field(True, description="Recompute activations in the backward pass.")
    rollout_engine: Literal["transformers", "vllm"] = Field("vllm", description="Who samples the rollouts.")
    threads: int = Field(1, gt=0, description="CPU threads of a training process; sums depend on it.")

    def resolved(self) -> Train:
        """With the preset's values filled in where null."""
        preset = {k: v for k, v in PRESETS[self.preset].items() if getattr(self, k) is None}
        return self.model_copy(update=preset)


class Curriculum(Strict):
    """The easiest part of a training set by a metric of the base model's samples (paper Section 5)."""

    by: Literal["pass_rate", "majority_frequency"] = Field(
        description="`pass_rate` needs true answers; `majority_frequency` (share of the majority among all n) does not."
    )
    fraction: float = Field(1 / 3, gt=0, lt=1, description="Share of prompts that is kept.")


class Run(Strict):
    """One entry of `experiments.yaml`; with seeds [1, 2] it makes the runs `id-s1` and `id-s2`."""

    label: str = Field(description="Name in figures.")
    method: str = Field(description="Key of the colour in figures: ground_truth, srt, offline, easy_pass_rate, …")
    model: str = Field(description="Key of the base model in models.yaml.")
    data: str = Field(description="Key of the training set in datasets.yaml (a test set: test-time training).")
    reward: Reward = Field(description="Where the training reward comes from.")
    curriculum: Curriculum | None = Field(None, description="Train on the easiest part only.")
    seeds: list[int] = Field([1], min_length=1, description="One run a seed.")
    steps: int = Field(gt=0, description="Last optimizer step.")
    segment: int = Field(gt=0, description="Steps between two checkpoints; each is evaluated.")
    suites: list[str] = Field(description="Keys of suites.yaml section that the checkpoints are evaluated on.")
    train: Train = Field(default_factory=Train, description="Hyperparameters; unset ones come from train_defaults.")

    @model_validator(mode="after")
    def _consistent(self) -> Run:
        if self.steps % self.segment:
            raise ValueError(f"steps ({self.steps}) must be a multiple of segment ({self.segment})")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat: every seed once")
        return self

    @property
    def checkpoints(self) -> list[int]:
        """The steps at which a checkpoint is written."""
        return list(range(self.segment, self.steps + 1, self.segment))
