"""Training runs: hyperparameters (paper Appendix B.1), presets, and the entries of `experiments.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from srt.config.base import Seed, Strict
from srt.config.evaluation import Probe
from srt.config.models import JobSize
from srt.config.preferences import OFFLINE, Preference, check_keys

# The keys of srt.figures.style.METHODS, written out because figures are not imported while rules are parsed.
Method = Literal[
    "ground_truth", "srt", "offline", "easy_pass_rate", "easy_majority", "test_time", "base", "soft_majority",
    "threshold", "fixed_teacher", "climbing", "warm_up",
    "distilled",
]  # fmt: skip
Beta = Annotated[float, Field(ge=0, lt=1)]
# Advantages whose baseline is the whole batch: srt.objective.advantages has the same, and would import torch here.
BATCH_ESTIMATORS = ("reinforce", "reinforce_pp")
Reward = Literal["ground_truth", "majority", "soft_majority", "offline_labels", "sft", "dpo", "scpo"]
VOTING = frozenset({"majority", "soft_majority"})  # rewards whose label is the vote of the group itself

# What a preset sets: only keys whose default is null, and every preset the same ones. Sources: docs/trainer.md.
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
    """Hyperparameters of one run. Every field changes the result and so is part of the run's spec.

    Keys that default to null take the preset's value; a value that is set wins over the preset.
    """

    preset: Literal["clean", "authors", "trl", "ttrl"] = Field(
        "clean",
        description="`clean`: what the paper says; `authors`: what their released code does; `trl`: TRL's RLOOTrainer; "
        "`ttrl`: TTRL's objective (docs/trainer.md).",
    )
    prompts_per_step: int = Field(16, gt=0, description="Prompts of one step (the authors' train_batch_size).")
    rollouts_per_prompt: int | None = Field(None, ge=2, description="Responses a prompt: all of them vote.")
    rollouts_trained: int | None = Field(
        None, ge=2, description="The first so many responses of a prompt are trained on; null in the presets too: all."
    )
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of rollouts.")
    max_prompt_tokens: int = Field(
        1024, gt=0, description="Longest prompt in tokens; longer ones are left out and counted."
    )
    max_new_tokens: int = Field(3072, gt=0, description="A response is cut after so many tokens.")
    learning_rate: float = Field(1e-6, gt=0, description="Learning rate of AdamW, constant, without warm-up.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW (verl's default in the authors' code).")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient; longer ones are scaled down.")
    kl_coefficient: float = Field(0.001, ge=0, description="Weight of the KL penalty to the base model.")
    kl_placement: Literal["reward", "loss"] | None = Field(
        None,
        description="KL penalty as a part of the reward, so of advantages and baselines, or as a term of the loss.",
    )
    kl_estimator: Literal["k1", "k2", "k3"] | None = Field(
        None, description="Estimator of the KL to the base model; in the loss k2 has its gradient and k1 has none."
    )
    advantage: Literal["rloo", "group_mean", "group_std", "reinforce", "reinforce_pp"] | None = Field(
        None,
        description="Reward minus the mean of the group's others (RLOO, the paper), or of the whole group (Dr. GRPO), "
        "or that over its standard deviation (GRPO); minus the batch's mean (REINFORCE), or that over the batch's "
        "standard deviation (REINFORCE++).",
    )
    votes: Literal["clean", "authors"] | None = Field(
        None, description="How answers are compared and counted: equivalence classes or raw strings (docs/answers.md)."
    )
    aggregation: Literal["token_mean", "token_mean_micro", "sequence_mean", "sequence_sum"] | None = Field(
        None,
        description="Denominator of the loss: tokens of the step, of a micro-batch, of a sequence (then the mean over "
        "sequences), or the number of sequences (srt.objective.policy_loss.sequence_weights).",
    )
    entropy_coefficient: float | None = Field(None, ge=0, description="Entropy bonus; 0.001 in the authors' code.")
    unparsable_groups: Literal["drop", "keep"] | None = Field(
        None, description="Prompts without a label: left out of the loss, or kept with advantage 0."
    )
    kl_clamp: float | None = Field(None, gt=0, description="Per-token KL estimates are cut to plus or minus this.")
    majority_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="A prompt has a label if its majority is at least this share of all responses (rewards `majority` "
        "and `soft_majority`; the others have their labels).",
    )
    skip_unanimous: bool = Field(
        False,
        description="Do not compute groups whose rewards are all equal; their tokens stay in the denominator. Not "
        "exact: it drops their KL and entropy gradients, all that is left when every vote is unanimous. `kl`, "
        "`entropy` and the mismatch then speak of the other groups only. Not with baselines of the batch, nor with "
        "`on_alarm`.",
    )
    iterations: int = Field(1, gt=0, description="Optimizer steps on one batch of rollouts; above 1 `clip` is needed.")
    ratio: Literal["token", "sequence"] | None = Field(
        None, description="Probability ratio to the sampling policy: of each token (PPO) or of a whole response (TRL)."
    )
    clip: float | None = Field(
        None, gt=0, lt=1, description="PPO clip range of the ratio; without effect where `iterations` is 1."
    )
    importance_cap: float | None = Field(
        None,
        ge=1,
        description="Truncated importance sampling: tokens weigh min(trainer's / rollout engine's probability, this); "
        "null: off.",
    )
    sync_tolerance: float | None = Field(
        None,
        gt=0,
        description="Largest mean difference of log-probabilities between rollout engine and trainer, in nats a token, "
        "before the run stops; null: by `dtype`.",
    )
    micro_batch_sequences: int = Field(32, gt=0, description="Sequences of a micro-batch of `token_mean_micro`.")
    micro_batch_tokens: int = Field(
        16384, gt=0, description="Token budget of one forward pass; only rounding depends on it."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="DeepSpeed ZeRO: what GPUs share: nothing, optimizer states, and gradients, and weights."
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Compute precision; masters are float32.")
    gradient_checkpointing: Literal["none", "selective", "full"] = Field(
        "full",
        description="Activations computed again in the backward pass: none, all but the matrix products', or all.",
    )
    rollout_engine: Literal["transformers", "vllm"] = Field("vllm", description="Engine that samples the rollouts.")
    threads: int = Field(1, gt=0, description="CPU threads of a training process; sums depend on it.")

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
        if full.skip_unanimous and full.advantage in BATCH_ESTIMATORS:
            raise ValueError(
                f"skip_unanimous leaves groups out of the mean of the batch, the baseline of {full.advantage}: set it "
                "to false, or advantage to one of a group (rloo, group_mean, group_std)"
            )
        if full.importance_cap is not None and full.ratio == "sequence":
            raise ValueError("importance_cap weighs tokens but ratio is sequence: set ratio to token")
        if full.kl_placement == "loss" and full.kl_estimator == "k1" and full.kl_coefficient > 0:
            raise ValueError(
                "kl_estimator k1 in the loss has a mean gradient of zero: set it to k2 or k3, or kl_placement to reward"
            )
        return self

    def resolved(self) -> Train:
        """With the preset's values filled in where null; equal settings give equal results of this."""
        preset = {k: v for k, v in PRESETS[self.preset].items() if getattr(self, k) is None}
        full = self.model_copy(update=preset)
        if full.rollouts_trained is None:
            full = full.model_copy(update={"rollouts_trained": full.rollouts_per_prompt})
        return full


class Curriculum(Strict):
    """The easiest part of a training set by a metric of a base model's samples (paper Section 5)."""

    by: Literal["pass_rate", "majority_frequency"] = Field(
        description="`pass_rate` needs true answers; `majority_frequency` (share of the majority among all n) does not."
    )
    fraction: float = Field(1 / 3, gt=0, lt=1, description="Share of prompts that is kept, rounded up.")
    model: str | None = Field(
        None,
        description="Id of the base model whose samples rank the prompts; null: the run's own (Fig. 17: the 7B's).",
    )


class Refill(Strict):
    """Online curriculum: a step draws prompts until its batch is full of those whose votes agree (docs/trainer.md)."""

    majority: float = Field(
        gt=0, le=1, description="A prompt is kept if its majority is at least this share of all responses (v2: 0.6)."
    )
    rounds: int = Field(
        4,
        gt=0,
        description="Rounds of `prompts_per_step` prompts that a step draws at most; then it trains on what it has.",
    )


class Checkpoint(Strict):
    """A checkpoint of another run, of the same seed: `id-s2` takes it from `id-s2` of that run."""

    run: str = Field(description="Id of the other run, without the seed.")
    step: int | None = Field(
        None, gt=0, description="One of its checkpoints; null: its last (extending that run then moves it)."
    )


class Validation(Strict):
    """Early stopping: the evaluated step at which a labelled validation set is best (paper Section 5.1)."""

    dataset: str = Field(
        description="Validation set, in one of the run's suites and really apart from its training set."
    )
    metric: Literal["avg", "maj"] = Field(
        "avg", description="What is best there: avg@n, as in the paper's Fig. 6, or maj@n. Ties: the earliest step."
    )


class Run(Strict):
    """One entry of `experiments.yaml`; with seeds [1, 2] it makes the runs `id-s1` and `id-s2`."""

    extends: str | None = Field(
        None,
        description="Id of an entry, also of one that starts with `_`, whose keys this one takes over; its own keys "
        "win, and those of `train` one by one.",
    )
    label: str = Field(min_length=1, description="Name in figures.")
    method: Method = Field(description="Colour and marker in figures; changes no number.")
    model: str = Field(description="Id of the base model.")
    data: str = Field(description="Id of the training set; a test set makes it test-time training.")
    reward: Reward = Field(
        description="Training reward: agreement with the true answer, with the majority of the group (SRT), or with "
        "a fixed teacher's majority, made once (offline labels); soft majority: the share of the group that agrees. "
        "`sft`, `dpo` and `scpo` draw no rollouts: they learn from the teacher's stored responses, and of `train` only "
        "prompts, optimizer, precision and (`sft`) `aggregation` count.",
    )
    preference: Preference | None = Field(
        None, description="What rewards `sft`, `dpo` and `scpo` learn from, and how; null: the defaults below."
    )
    init: Checkpoint | None = Field(
        None,
        description="Start from a checkpoint of another run; null: from the base model. The reference of the KL is "
        "where the run starts, as in verl (our choice: the paper does not say).",
    )
    teacher: Checkpoint | None = Field(
        None,
        description="Whose majority is the label of reward (or `on_alarm`) `offline_labels`; null: the checkpoint that "
        "the run starts from, or its base model. Of `sft`, `dpo` and `scpo`: whose responses they are; null: the base "
        "model.",
    )
    on_alarm: Literal["stop", "offline_labels"] | None = Field(
        None,
        description="What the label-free collapse alarm does when it rings (docs/monitors.md): training ends for good, "
        "and later checkpoints are that step's weights; or it goes on as with reward `offline_labels`; null: nothing. "
        "For rewards `majority` and `soft_majority`.",
    )
    curriculum: Curriculum | None = Field(None, description="Train on the easiest part only; null: on all.")
    refill: Refill | None = Field(
        None,
        description="Online curriculum, for rewards `majority` and `soft_majority`; null: every prompt is trained on.",
    )
    validation: Validation | None = Field(
        None, description="Validation set for early stopping; recorded in tables/early_stopping.csv, changes no result."
    )
    seeds: list[Seed] = Field(
        [1],
        min_length=1,
        description="One run a seed: `id-s1`, `id-s2` and so on. Left out: 1 to `seeds` of the main file.",
    )
    steps: int = Field(gt=0, description="Last optimizer step; raise it to extend a run.")
    segment: int = Field(
        gt=0, description="Steps between two checkpoints, each of which is evaluated; divides `steps`."
    )
    suites: list[str] = Field(min_length=1, description="Suites (or data sets) that the checkpoints are evaluated on.")
    probe: Probe | None = Field(None, description="Further suites, for the start and one checkpoint alone.")
    gpus: int | None = Field(None, ge=0, description="GPUs of this run's jobs; null: as the model's `gpus_train`.")
    job: JobSize = Field(default_factory=JobSize, description="What this run's jobs ask for; wins over the model's.")
    reference_offload: bool | None = Field(
        None,
        description="Keep the reference's weights in host memory between its passes; changes no result; null: where "
        "the run does not fit its GPUs otherwise, or fits fewer so.",
    )
    engine_sleep: bool = Field(
        False,
        description="vLLM gives its GPU memory back between rollouts, so that the run may fit fewer GPUs; changes no "
        "result.",
    )
    rollout_tensor_parallel: int = Field(
        1,
        gt=0,
        description="GPUs that share one vLLM engine, for weights that do not fit beside the trainer on one; divides "
        "the run's GPUs; changes no result but rounding.",
    )
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
        if self.on_alarm is not None and self.reward not in VOTING:
            raise ValueError(
                f"on_alarm: reward {self.reward} does not come from the run's own votes: set reward to majority or "
                "soft_majority, or remove on_alarm"
            )
        if self.on_alarm is not None and self.train.skip_unanimous:
            raise ValueError(
                "on_alarm: the alarm reads the KL, and skip_unanimous leaves out of it the groups that a collapse "
                "makes: set train.skip_unanimous to false, or remove on_alarm"
            )
        if self.refill is not None and self.reward not in VOTING:
            raise ValueError(
                f"refill: reward {self.reward} does not come from the run's own votes: set reward to majority or "
                "soft_majority, or remove refill"
            )
        if self.refill is not None and self.on_alarm == "offline_labels":
            raise ValueError(
                "refill: on_alarm offline_labels changes the prompts on the way: set on_alarm to stop, or remove one"
            )
        if self.rollout_tensor_parallel > 1 and self.train.rollout_engine != "vllm":
            raise ValueError(
                f"rollout_tensor_parallel ({self.rollout_tensor_parallel}) is for vLLM alone: set train.rollout_engine "
                "to vllm, or remove it"
            )
        if self.preference is not None:
            check_keys(self.preference, self.reward)
        if self.teacher is not None and not self.uses_labels and not self.uses_stored_responses:
            raise ValueError(f"teacher: reward {self.reward} has none: set reward to offline_labels or remove teacher")
        return self

    @property
    def uses_labels(self) -> bool:
        """Whether a teacher's labels are among its inputs, from the start or from its alarm on."""
        return "offline_labels" in (self.reward, self.on_alarm)

    @property
    def uses_stored_responses(self) -> bool:
        """Whether it learns from a teacher's stored responses and draws no rollouts."""
        return self.reward in OFFLINE

    @property
    def preferences(self) -> Preference:
        """What it learns from, of a reward that draws no rollouts."""
        return self.preference or Preference()

    @property
    def checkpoints(self) -> list[int]:
        """The steps at which a checkpoint is written."""
        return list(range(self.segment, self.steps + 1, self.segment))
