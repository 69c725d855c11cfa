"""Hyperparameters of a training run (paper Appendix B.1), and the presets that fill them in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from srt.config.base import Dtype, RolloutEngineName, Strict, VotePreset

Beta = Annotated[float, Field(ge=0, lt=1)]
KlEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["rloo", "group_std"]
Aggregation = Literal["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"]
Ratio = Literal["token", "sequence", "gspo"]
Schedule = Literal["constant", "linear", "cosine"]
Truncated = Literal["count", "mask", "no_vote"]
Checkpointing = Literal["none", "selective", "full"]
TrackerName = Literal["tensorboard", "wandb"]
TRACKERS: tuple[TrackerName, ...] = ("tensorboard",)  # where the configuration names none
# All presets set the same keys: those of `Train` whose default is null. Sources: docs/trainer.md.
PRESETS: dict[str, dict[str, Any]] = {
    "clean": {
        "rollouts_per_prompt": 32,
        "rollouts_trained": None,
        "votes": "clean",
        "unparsable_groups": "drop",
        "advantage": "rloo",
        "kl_placement": "reward",
        "kl_estimator": "k3",
        "kl_clamp": None,
        "aggregation": "token_mean",
        "ratio": "token",
        "clip": None,
        "entropy_coefficient": 0.0,
    },
    "authors": {
        "rollouts_per_prompt": 32,
        "rollouts_trained": None,
        "votes": "authors",
        "unparsable_groups": "keep",
        "advantage": "rloo",
        "kl_placement": "reward",
        "kl_estimator": "k3",
        "kl_clamp": 10.0,
        "aggregation": "token_mean_micro",
        "ratio": "token",
        "clip": 0.2,
        "entropy_coefficient": 0.001,
    },
    "trl": {
        "rollouts_per_prompt": 32,
        "rollouts_trained": None,
        "votes": "clean",
        "unparsable_groups": "keep",
        "advantage": "rloo",
        "kl_placement": "reward",
        "kl_estimator": "k1",
        "kl_clamp": None,
        "aggregation": "sequence_sum",
        "ratio": "sequence",
        "clip": 0.2,
        "entropy_coefficient": 0.0,
    },
    "ttrl": {
        "rollouts_per_prompt": 64,
        "rollouts_trained": 32,
        "votes": "clean",
        "unparsable_groups": "keep",
        "advantage": "group_std",
        "kl_placement": "loss",
        "kl_estimator": "k3",
        "kl_clamp": 10.0,
        "aggregation": "token_mean",
        "ratio": "token",
        "clip": 0.2,
        "entropy_coefficient": 0.0,
    },
}


class Train(Strict):
    """Hyperparameters of one run. Every key but `trackers` can change the result, so all others are part of the run's
    spec.

    A key that is null takes the preset's value.
    """

    preset: Literal["clean", "authors", "trl", "ttrl"] = Field(
        "clean",
        description="`clean`: what the paper says; `authors`: what their released code does; `trl`: TRL's "
        "RLOOTrainer; `ttrl`: TTRL's objective (docs/trainer.md).",
    )
    prompts_per_step: int = Field(16, gt=0, description="Prompts per step (the authors' train_batch_size).")
    rollouts_per_prompt: int | None = Field(None, ge=2, description="Responses per prompt; all of them vote.")
    rollouts_trained: int | None = Field(
        None,
        ge=2,
        description="Responses per prompt that the update uses, the first drawn; null, also in a preset, means all.",
    )
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of rollouts.")
    max_prompt_tokens: int = Field(
        1024, gt=0, description="Maximum prompt length in tokens; longer prompts are left out and counted."
    )
    max_new_tokens: int = Field(
        3072, gt=0, description="Maximum response length in tokens; longer responses are truncated."
    )
    learning_rate: float = Field(1e-6, gt=0, description="Learning rate of AdamW; its peak where it is not constant.")
    warmup_steps: int = Field(
        0, ge=0, description="Steps in which the learning rate rises linearly from 0, its value in the first step."
    )
    schedule: Schedule = Field(
        "constant",
        description="Learning rate after the warm-up: constant, or down to 0 in a straight line (`linear`) or in half "
        "a cosine (`cosine`), by the formulas of transformers (docs/trainer.md).",
    )
    schedule_steps: int | None = Field(
        None,
        gt=0,
        description="Steps after which `linear` or `cosine` has reached 0; null means the run's `steps`, and a run "
        "that is extended then trains again from its start.",
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW (verl's default in the authors' code).")
    grad_clip: float = Field(
        1.0, gt=0, description="Maximum gradient norm; larger gradients are scaled down to this norm."
    )
    kl_coefficient: float = Field(0.001, ge=0, description="Weight of the KL penalty to the base model.")
    kl_placement: Literal["reward", "loss"] | None = Field(
        None,
        description="Where the KL penalty enters: the reward, and so advantages and baselines, or the loss.",
    )
    kl_estimator: KlEstimator | None = Field(
        None,
        description="Estimator of the KL to the base model. In the loss, k2 has the gradient of the KL; that of k1 is "
        "zero on average.",
    )
    advantage: Advantage | None = Field(
        None,
        description="`rloo`: reward minus the mean reward of the group's other responses (the paper); `group_std`: "
        "reward minus the mean of the whole group, over the group's standard deviation (GRPO).",
    )
    votes: VotePreset | None = Field(
        None, description="How answers are counted: by equivalence class or by raw string (docs/answers.md)."
    )
    aggregation: Aggregation | None = Field(
        None,
        description="Denominator of the loss: `token_mean`: the tokens of the step; `token_mean_micro`: those of a "
        "micro-batch; `sequence_mean`: those of a sequence, then the mean over sequences; `sequence_sum`: the number "
        "of sequences (docs/trainer.md).",
    )
    entropy_coefficient: float | None = Field(
        None, ge=0, description="Weight of the entropy bonus; 0.001 in the authors' code."
    )
    unparsable_groups: Literal["drop", "keep"] | None = Field(
        None, description="Prompts without a label: `drop` leaves them out of the loss, `keep` gives them advantage 0."
    )
    entropy_reward: float = Field(
        0.0,
        ge=0,
        description="Weight of minus the mean entropy of a response's tokens, in nats, in its reward (RENT, arXiv "
        "2505.22660: reward `confidence` with 1).",
    )
    certainty_reward: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean self-certainty of a response's tokens, KL(uniform || policy) in nats, in its "
        "reward (Intuitor, arXiv 2505.19590: reward `confidence` with 1).",
    )
    label_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="For reward `mixed_labels`: the share of the prompts whose true answers the run sees; a hash of "
        "their ids and the run's seed chooses them.",
    )
    truncated: Truncated = Field(
        "count",
        description="Responses cut at `max_new_tokens`: `count`: like any other (all presets); `mask`: they vote and "
        "are in the baseline, but not in the loss (DAPO's overlong filtering, TRL's mask_truncated_completions); "
        "`no_vote`: like those without an answer, no vote and reward 0, for rewards `majority`, `soft_majority` and "
        "`mixed_labels`.",
    )
    overlong_cache: int | None = Field(
        None,
        gt=0,
        description="Soft overlong punishment (DAPO, arXiv 2503.14476, Eq. 13): over the last so many tokens before "
        "`max_new_tokens`, a number from 0 to -1 is added to a response's reward; null adds nothing (DAPO: 4096 of "
        "20480).",
    )
    kl_clamp: float | None = Field(None, gt=0, description="Per-token KL estimates are clipped to plus or minus this.")
    majority_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="For rewards `majority`, `soft_majority` and the votes of `mixed_labels`: a prompt has a label "
        "only if its majority is at least this share of all responses.",
    )
    skip_unanimous: bool = Field(
        False,
        description="Skip groups whose rewards are all equal; their tokens stay in the denominator. Not exact: the KL "
        "and entropy gradients of these groups are dropped, and the metrics `kl`, `entropy` and the log-probability "
        "mismatch cover the other groups only. Not allowed with `on_alarm`.",
    )
    iterations: int = Field(1, gt=0, description="Optimizer steps per batch of rollouts; more than 1 requires `clip`.")
    ratio: Ratio | None = Field(
        None,
        description="Probability ratio to the sampling policy: per token (PPO), per response (`sequence`: the product "
        "of its tokens' ratios, as TRL's RLOOTrainer), or per response and normalised by its length (`gspo`: their "
        "geometric mean, arXiv 2507.18071; clip ranges are near 0.0003).",
    )
    clip: float | None = Field(
        None, gt=0, lt=1, description="PPO clip range of the ratio; has no effect if `iterations` is 1."
    )
    clip_high: float | None = Field(
        None,
        gt=0,
        description="Clip range above 1, where it differs from `clip` below 1: DAPO's Clip-Higher (arXiv 2503.14476: "
        "`clip` 0.2, `clip_high` 0.28); null means `clip`.",
    )
    importance_cap: float | None = Field(
        None,
        ge=1,
        description="Truncated importance sampling: a token's weight is its probability in the trainer over that in "
        "the rollout engine, at most this value; null turns it off.",
    )
    sync_tolerance: float | None = Field(
        None,
        gt=0,
        description="The run stops if the mean difference of log-probabilities between rollout engine and trainer "
        "exceeds this value, in nats per token; null means a limit that depends on `dtype`.",
    )
    micro_batch_sequences: int = Field(32, gt=0, description="Sequences per micro-batch, for `token_mean_micro`.")
    micro_batch_tokens: int = Field(
        16384, gt=0, description="Maximum number of tokens in one forward pass; affects nothing but rounding."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="DeepSpeed ZeRO stage: what is partitioned over the GPUs. 0 (with `dtype: float32` only): nothing; "
        "1: optimizer states; 2: also gradients; 3: also weights.",
    )
    dtype: Dtype = Field("bfloat16", description="Precision of computation; the optimizer updates float32 weights.")
    gradient_checkpointing: Checkpointing = Field(
        "full",
        description="Activations that the backward pass recomputes: none, all but those of matrix products, or all "
        "(`full`; where a GPU has memory left, layers keep as much as with `selective`: docs/cost.md).",
    )
    rollout_engine: RolloutEngineName = Field("vllm", description="Engine that draws the rollouts.")
    threads: int = Field(
        1,
        gt=0,
        description="CPU threads of a training process; they affect the order of summation and so rounding.",
    )
    trackers: list[TrackerName] = Field(
        list(TRACKERS),
        description="Programs that draw the run's curves beside `metrics.jsonl`: `tensorboard`, `wandb` (Weights & "
        "Biases, `make setup-tracking`; docs/monitors.md). Has no effect on results.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        full = self.resolved()
        voting, trained = full.rollouts_per_prompt or 0, full.rollouts_trained or 0
        if trained > voting:
            raise ValueError(
                f"rollouts_trained ({trained}) is above rollouts_per_prompt ({voting}): set it to {voting} or less"
            )
        if full.iterations > 1 and full.clip is None:
            raise ValueError(f"iterations ({full.iterations}) needs clip: set clip (PPO: 0.2) or iterations to 1")
        if full.schedule_steps is not None and full.schedule == "constant":
            raise ValueError(
                f"schedule_steps ({full.schedule_steps}) has no effect if schedule is constant: set schedule to linear "
                "or cosine, or remove schedule_steps"
            )
        if full.overlong_cache is not None and full.overlong_cache > full.max_new_tokens:
            raise ValueError(
                f"overlong_cache ({full.overlong_cache}) is above max_new_tokens ({full.max_new_tokens}): set it to a "
                "part of it, such as a fifth"
            )
        if full.clip_high is not None and full.clip is None:
            raise ValueError(f"clip_high ({full.clip_high}) needs clip: set clip (DAPO: 0.2) or remove clip_high")
        if full.importance_cap is not None and full.ratio != "token":
            raise ValueError(f"importance_cap weights tokens, but ratio is {full.ratio}: set ratio to token")
        if full.kl_placement == "loss" and full.kl_estimator == "k1" and full.kl_coefficient > 0:
            raise ValueError(
                "kl_estimator k1 in the loss has a mean gradient of zero: set it to k2 or k3, or kl_placement to reward"
            )
        if full.zero_stage == 0 and full.dtype == "bfloat16":
            raise ValueError(
                "zero_stage 0 keeps no float32 weights for the optimizer, which dtype bfloat16 needs: set zero_stage "
                "to 1, 2 or 3, or dtype to float32"
            )
        return self

    def hyperparameters(self) -> dict[str, Any]:
        """What can change the result, as JSON with the preset's values in place of null: all keys but `trackers`."""
        return self.resolved().model_dump(mode="json", exclude={"trackers"})

    def resolved(self) -> Train:
        """These hyperparameters with the preset's values in place of null."""
        preset = {k: v for k, v in PRESETS[self.preset].items() if getattr(self, k) is None}
        full = self.model_copy(update=preset)
        if full.rollouts_trained is None:
            full = full.model_copy(update={"rollouts_trained": full.rollouts_per_prompt})
        return full
