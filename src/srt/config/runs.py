"""Training runs: hyperparameters (paper Appendix B.1), presets, and the entries of `experiments.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from srt.config.base import Seed, Strict

# The keys of srt.figures.style.METHODS, written out because figures are not imported while rules are parsed.
Method = Literal["ground_truth", "srt", "offline", "easy_pass_rate", "easy_majority", "test_time", "base"]
Beta = Annotated[float, Field(ge=0, lt=1)]
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

    Keys that default to null take the preset's value; a value that is set wins over the preset.
    """

    preset: Literal["clean", "authors"] = Field(
        "clean", description="`clean`: what the paper says; `authors`: what their released code does."
    )
    prompts_per_step: int = Field(16, gt=0, description="Prompts of one step (the authors' train_batch_size).")
    rollouts_per_prompt: int = Field(32, ge=2, description="Responses a prompt: they vote and they train (at least 2).")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of rollouts.")
    max_prompt_tokens: int = Field(
        1024, gt=0, description="Longest prompt in tokens; longer ones are left out and counted."
    )
    max_new_tokens: int = Field(3072, gt=0, description="A response is cut after so many tokens.")
    learning_rate: float = Field(1e-6, gt=0, description="Learning rate of AdamW, constant, without warm-up.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW (verl's default in the authors' code).")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient; longer ones are scaled down.")
    kl_coefficient: float = Field(0.001, ge=0, description="Weight of the KL penalty in the reward.")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k3", description="Estimator of the KL to the base model.")
    advantage: Literal["rloo", "group_mean", "group_std"] = Field(
        "rloo",
        description="Rewards of a group minus the others' mean (the paper, Eq. 2) or the mean, or that over the "
        "standard deviation (GRPO).",
    )
    votes: Literal["clean", "authors"] | None = Field(
        None, description="How answers are compared and counted: equivalence classes or raw strings (docs/answers.md)."
    )
    aggregation: Literal["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"] | None = Field(
        None,
        description="Denominator of the loss: tokens of the step, of a micro-batch, of a sequence (then the mean over "
        "sequences), or the number of sequences (srt.objective.sequence_weights).",
    )
    entropy_coefficient: float | None = Field(None, ge=0, description="Entropy bonus; 0.001 in the authors' code.")
    unparsable_groups: Literal["drop", "keep"] | None = Field(
        None, description="Prompts without any parsable answer: left out of the loss, or kept with advantage 0."
    )
    kl_clamp: float | None = Field(None, gt=0, description="Per-token KL estimates are cut to plus or minus this.")
    micro_batch_sequences: int = Field(32, gt=0, description="Sequences of a micro-batch of `token_mean_micro`.")
    micro_batch_tokens: int = Field(
        16384, gt=0, description="Token budget of one forward pass; only rounding depends on it."
    )
    zero_stage: Literal[0, 1, 2] = Field(1, description="DeepSpeed ZeRO stage.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Compute precision; masters are float32.")
    gradient_checkpointing: bool = Field(True, description="Recompute activations in the backward pass.")
    rollout_engine: Literal["transformers", "vllm"] = Field("vllm", description="Engine that samples the rollouts.")
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
    fraction: float = Field(1 / 3, gt=0, lt=1, description="Share of prompts that is kept, rounded up.")


class Run(Strict):
    """One entry of `experiments.yaml`; with seeds [1, 2] it makes the runs `id-s1` and `id-s2`."""

    label: str = Field(min_length=1, description="Name in figures.")
    method: Method = Field(description="Colour and marker in figures; changes no number.")
    model: str = Field(description="Id of the base model.")
    data: str = Field(description="Id of the training set; a test set makes it test-time training.")
    reward: Reward = Field(
        description="Training reward: the true answer, the majority of the group (SRT), or the base model's majority, "
        "made once (offline labels)."
    )
    curriculum: Curriculum | None = Field(None, description="Train on the easiest part only; null: on all.")
    seeds: list[Seed] = Field([1], min_length=1, description="One run a seed: `id-s1`, `id-s2` and so on.")
    steps: int = Field(gt=0, description="Last optimizer step; raise it to extend a run.")
    segment: int = Field(
        gt=0, description="Steps between two checkpoints, each of which is evaluated; divides `steps`."
    )
    suites: list[str] = Field(min_length=1, description="Suites (or data sets) that the checkpoints are evaluated on.")
    train: Train = Field(
        default_factory=Train, description="Hyperparameters of this run; what is left out comes from `train_defaults`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Run:
        if self.steps % self.segment:
            near = max(self.segment, round(self.steps / self.segment) * self.segment)
            raise ValueError(
                f"steps ({self.steps}) must be a multiple of segment ({self.segment}): set steps to {near}"
            )
        for key, values in (("seeds", self.seeds), ("suites", self.suites)):
            repeated = [v for i, v in enumerate(values) if v in values[:i]]
            if repeated:
                raise ValueError(f"{key}: {repeated[0]} is there twice: remove one")
        return self

    @property
    def checkpoints(self) -> list[int]:
        """The steps at which a checkpoint is written."""
        return list(range(self.segment, self.steps + 1, self.segment))
