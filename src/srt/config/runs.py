"""Training runs: the entries of `experiments.yaml`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from srt.common.own_code import is_own
from srt.config.base import OwnFunction, Seed, Strict
from srt.config.evaluation import Probe
from srt.config.models import JobSize
from srt.config.preferences import OFFLINE, Preference, check_keys
from srt.config.train import Train

# The keys of srt.figures.style.METHODS, written out because figures are not imported while rules are parsed.
Method = Literal[
    "ground_truth", "srt", "offline", "easy_pass_rate", "easy_majority", "test_time", "base", "soft_majority",
    "threshold", "fixed_teacher", "climbing", "warm_up", "distilled", "confidence", "mixed_labels",
]  # fmt: skip
AlarmAction = Literal["stop", "offline_labels"]
MOST_CHECKPOINTS = 10_000  # of one run; each makes jobs
Reward = Literal[
    "ground_truth", "majority", "soft_majority", "mixed_labels", "confidence", "offline_labels", "sft", "dpo", "scpo",
]  # fmt: skip
VOTING = frozenset({"majority", "soft_majority"})  # rewards whose label is the vote of the group itself
TRUE_LABELS = frozenset({"ground_truth", "mixed_labels"})  # rewards that see true answers, all or some
LABEL_FREE = VOTING | {"confidence"}  # rewards that see no label of any origin but the run's own responses


class Curriculum(Strict):
    """The easiest part of a training set, by a metric of a base model's samples (paper Section 5)."""

    by: Literal["pass_rate", "majority_frequency"] = Field(
        description="`pass_rate` needs true answers; `majority_frequency`, the share of the majority among all n, "
        "does not.",
    )
    fraction: float = Field(
        1 / 3,
        gt=0,
        lt=1,
        description="Share of the prompts that is kept; their number is rounded up. "
        "Of prompts with equal values the first of the data set's table are kept.",
    )
    model: str | None = Field(
        None,
        description="Id of the base model whose samples rank the prompts (Fig. 17: the 7B model); null means the run's "
        "own base model.",
    )


class Refill(Strict):
    """A step draws prompts until its batch is full of ones that its rule, or both rules, keep (docs/trainer.md)."""

    majority: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Online curriculum, for rewards `majority` and `soft_majority`: a prompt is kept if its majority "
        "is at least this share of all responses (v2: 0.6).",
    )
    dynamic_sampling: bool = Field(
        False,
        description="Dynamic sampling (DAPO, arXiv 2503.14476, Eq. 11), for every reward that judges responses: a "
        "prompt is kept if the rewards of its responses are not all equal. Not allowed with `on_alarm` and `stop_at`.",
    )
    rounds: int = Field(
        4,
        gt=0,
        description="Maximum number of rounds in a step, each drawing `prompts_per_step` prompts; after the last, the "
        "step trains on the prompts kept so far.",
    )

    @model_validator(mode="after")
    def _has_a_rule(self) -> Refill:
        if self.majority is None and not self.dynamic_sampling:
            raise ValueError("no rule says which prompts are kept: set majority (v2: 0.6) or dynamic_sampling: true")
        return self

    def rule(self) -> dict[str, Any]:
        """What a run's spec says; `dynamic_sampling` is newer than some results."""
        return {k: v for k, v in self.model_dump(mode="json").items() if v is not None and v is not False}


class StopAt(Strict):
    """Train to an accuracy instead of for a number of steps, as v2's warm-ups (Appendix B.3)."""

    accuracy: float = Field(
        gt=0, le=1, description="Mean accuracy on the training prompts (`true_accuracy`) with which the run ends."
    )
    window: int = Field(
        10, gt=0, le=1000, description="Number of steps whose mean accuracy is compared, the last one included."
    )


def checkpoint_at(run: str, step: int) -> str:
    """The name of a checkpoint of a run of one seed: `{run}/step-{n}`."""
    return f"{run}/step-{step}"


def run_and_step(checkpoint: str) -> tuple[str, int]:
    """Run and step of a checkpoint that `checkpoint_at` named."""
    run, _, step = checkpoint.rpartition("/step-")
    return run, int(step)


class Checkpoint(Strict):
    """A checkpoint of another run with the same seed: seed 2 takes the checkpoint of seed 2 of that run."""

    run: str = Field(description="Id of the other run, without the seed.")
    step: int | None = Field(
        None,
        gt=0,
        description="Step of the checkpoint; null means the last step of `run`, which moves if that run is extended.",
    )


class Validation(Strict):
    """Early stopping: the evaluated step at which a labelled validation set is best (paper Section 5.1)."""

    dataset: str = Field(description="Validation set, in one of the run's suites and held out of its training set.")
    metric: Literal["avg", "maj"] = Field(
        "avg",
        description="Metric that chooses the step: avg@n, as in the paper's Fig. 6, or maj@n; of equal steps the "
        "earliest.",
    )


class Run(Strict):
    """One entry of `experiments.yaml`; with `seeds: [1, 2]` it makes the runs `id-s1` and `id-s2`."""

    extends: str | None = Field(
        None,
        description="Id of an entry whose keys this one inherits; its own keys take precedence, those of `train` one "
        "by one. An entry whose id starts with `_` is only inherited from.",
    )
    label: str = Field(min_length=1, description="Name in figures.")
    method: Method = Field(description="Colour and marker in figures; has no effect on numbers.")
    model: str = Field(description="Id of the base model.")
    data: str = Field(description="Id of the training set; a test set makes it test-time training.")
    reward: Reward | OwnFunction = Field(
        description="Training reward. `ground_truth`: agreement with the true answer; `majority`: with the majority "
        "of the group (SRT); `soft_majority`: the share of the group that agrees; `mixed_labels`: the true answer for "
        "`train.label_share` of the prompts, the majority for the others; `confidence`: no answer counts, only "
        "`train.entropy_reward` and `train.certainty_reward`; `offline_labels`: agreement with "
        "the majority of a fixed teacher, labelled once. `sft`, `dpo` and `scpo` draw no rollouts but learn from the "
        "teacher's stored responses; of `train` they use only prompts, optimizer, precision and (`sft`) `aggregation`. "
        "`module:function`: a function of yours (docs/own_code.md).",
    )
    reward_labels: Literal["ground_truth", "offline_labels"] | None = Field(
        None,
        description="Labels that a reward `module:function` is given, as its parameter `label`: the true answers, or "
        "a fixed teacher's majorities; null: none, and the function must not ask for one.",
    )
    preference: Preference | None = Field(
        None, description="Responses and loss of the rewards `sft`, `dpo` and `scpo`; null means the defaults below."
    )
    init: Checkpoint | None = Field(
        None,
        description="Checkpoint of another run to start from; null means the base model. The start is also the "
        "reference of the KL, as in verl (our choice: the paper does not say).",
    )
    teacher: Checkpoint | None = Field(
        None,
        description="Checkpoint whose majority answers are the labels of reward (or `on_alarm`) `offline_labels`; null "
        "means the one that the run starts from. For `sft`, `dpo` and `scpo`: the checkpoint whose responses the run "
        "learns from; null means the base model.",
    )
    on_alarm: AlarmAction | None = Field(
        None,
        description="What happens when the label-free collapse alarm rings (docs/monitors.md). `stop`: training ends, "
        "and later checkpoints have the weights of that step; `offline_labels`: training continues with this reward; "
        "null: nothing happens. For rewards `majority` and `soft_majority`.",
    )
    stop_at: StopAt | None = Field(
        None,
        description="Accuracy with which training ends, for reward `ground_truth`; later checkpoints have the weights "
        "of that step. `steps` is then the maximum. null trains for `steps`.",
    )
    curriculum: Curriculum | None = Field(
        None, description="Train only on the easiest part of the data; null means all of the data."
    )
    refill: Refill | None = Field(
        None,
        description="Rule by which a step drops prompts and draws others: online curriculum, dynamic sampling; null "
        "trains on every prompt.",
    )
    validation: Validation | None = Field(
        None,
        description="Validation set for early stopping, reported in tables/early_stopping.csv; has no effect on "
        "training.",
    )
    seeds: list[Seed] = Field(
        [1],
        min_length=1,
        description="Seeds, with one run each: `id-s1`, `id-s2` and so on. Left out: 1 to `seeds` of the main file.",
    )
    steps: int = Field(gt=0, description="Last optimizer step; raise it to extend a run.")
    segment: int = Field(
        gt=0, description="Steps between two checkpoints, all of which are evaluated; must divide `steps`."
    )
    suites: list[str] = Field(min_length=1, description="Suites (or data sets) that the checkpoints are evaluated on.")
    probe: Probe | None = Field(None, description="Further suites, for the start and one checkpoint only.")
    gpus: int | None = Field(None, ge=0, description="GPUs of this run's jobs; null means the model's `gpus_train`.")
    job: JobSize = Field(
        default_factory=JobSize, description="Resources that this run's jobs request; take precedence over the model's."
    )
    reference_offload: bool | None = Field(
        None,
        description="Keep the weights of the KL reference in host memory while they are not used; null does so where "
        "the run would otherwise need more GPUs or take longer. Has no effect on results.",
    )
    engine_sleep: bool | None = Field(
        None,
        description="Let vLLM release its GPU memory between rollouts; null does so where the run would otherwise need "
        "more GPUs or take longer. Has no effect on results beyond rounding.",
    )
    rollout_tensor_parallel: int = Field(
        1,
        gt=0,
        description="GPUs that share one vLLM engine, for weights that do not fit on one beside the trainer; must "
        "divide the run's GPUs. Has no effect on results beyond rounding.",
    )
    train: Train = Field(
        default_factory=Train,
        description="Hyperparameters of this run; keys that are left out come from `train_defaults`.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Run:
        if self.steps % self.segment:
            near = max(self.segment, round(self.steps / self.segment) * self.segment)
            raise ValueError(
                f"steps ({self.steps}) must be a multiple of segment ({self.segment}): set steps to {near}"
            )
        if self.steps // self.segment > MOST_CHECKPOINTS:
            raise ValueError(
                f"steps ({self.steps}) in segments of {self.segment} make {self.steps // self.segment:,} checkpoints: "
                f"raise segment, for at most {MOST_CHECKPOINTS:,}"
            )
        for key, values in (("seeds", self.seeds), ("suites", self.suites)):
            repeated = [v for i, v in enumerate(values) if v in values[:i]]
            if repeated:
                raise ValueError(f"{key}: {repeated[0]} appears twice: remove one")
        if self.on_alarm is not None and self.reward not in VOTING:
            raise ValueError(
                f"on_alarm: reward {self.reward} does not come from the run's own votes alone: set reward to majority "
                "or soft_majority, or remove on_alarm"
            )
        if self.on_alarm is not None and self.train.skip_unanimous:
            raise ValueError(
                "on_alarm: the alarm reads the KL, and skip_unanimous leaves unanimous groups out of it: set "
                "train.skip_unanimous to false, or remove on_alarm"
            )
        if self.stop_at is not None and self.reward != "ground_truth":
            raise ValueError(
                f"stop_at: reward {self.reward} must not depend on true answers: set reward to ground_truth, or remove "
                "stop_at"
            )
        if self.refill is not None:
            self._check_refill(self.refill)
        if self.rollout_tensor_parallel > 1 and self.train.rollout_engine != "vllm":
            raise ValueError(
                f"rollout_tensor_parallel ({self.rollout_tensor_parallel}) works with vLLM only: set "
                "train.rollout_engine to vllm, or remove it"
            )
        if self.train.truncated != "count" and self.uses_stored_responses:
            raise ValueError(
                f"train.truncated: {self.train.truncated}: reward {self.reward} draws no responses that could be cut: "
                "set it to count"
            )
        if self.train.overlong_cache is not None and self.uses_stored_responses:
            raise ValueError(
                f"train.overlong_cache: reward {self.reward} draws no responses that could be punished: remove it"
            )
        if self.train.schedule != "constant":
            self._check_schedule()
        if self.train.truncated == "no_vote" and self.reward not in (*VOTING, "mixed_labels"):
            raise ValueError(
                f"train.truncated: no_vote: reward {self.reward} does not come from the run's own votes: set it to "
                "count or mask"
            )
        if (self.train.label_share is None) == (self.reward == "mixed_labels"):
            raise ValueError(
                "reward: mixed_labels needs train.label_share, the share of the prompts that have a true label: set it"
                if self.train.label_share is None
                else f"train.label_share: reward {self.reward} has one source of labels: set reward to mixed_labels, "
                "or remove it"
            )
        confident = self.train.entropy_reward or self.train.certainty_reward
        if self.reward == "confidence" and not confident:
            raise ValueError(
                "reward: confidence is 0 without train.entropy_reward (RENT) and train.certainty_reward (Intuitor): "
                "set one of them to 1"
            )
        if confident and (self.uses_stored_responses or self.train.skip_unanimous):
            key = "skip_unanimous" if self.train.skip_unanimous else f"reward {self.reward}"
            raise ValueError(
                f"train.entropy_reward and train.certainty_reward do not work with {key}: set them to 0, or change it"
            )
        if self.reward_labels is not None and not is_own(self.reward):
            raise ValueError(
                f"reward_labels: reward {self.reward} has its labels by its name: remove reward_labels, or set reward "
                "to a function of yours"
            )
        if self.preference is not None:
            check_keys(self.preference, self.reward)
        if self.teacher is not None and not self.uses_labels and not self.uses_stored_responses:
            raise ValueError(
                f"teacher: reward {self.reward} uses no teacher: set reward to offline_labels or remove teacher"
            )
        return self

    def _check_refill(self, refill: Refill) -> None:
        if refill.majority is not None and self.reward not in VOTING:
            raise ValueError(
                f"refill: reward {self.reward} does not come from the run's own votes: set reward to majority or "
                "soft_majority, or remove refill"
            )
        if refill.dynamic_sampling and (self.uses_stored_responses or self.reward == "confidence"):
            raise ValueError(
                f"refill: dynamic_sampling: reward {self.reward} judges no responses that a step draws: remove refill"
            )
        if refill.dynamic_sampling and (self.on_alarm or self.stop_at):
            key, reads = ("on_alarm", "agreement") if self.on_alarm else ("stop_at", "accuracy")
            raise ValueError(
                f"refill: dynamic_sampling drops the groups that agree, and {key} reads the {reads} of a batch: remove "
                "one of the two"
            )
        if self.on_alarm == "offline_labels":
            raise ValueError(
                "refill: with on_alarm offline_labels the prompts would change during the run: set on_alarm to stop, "
                "or remove one"
            )

    def _check_schedule(self) -> None:
        end, warmup = self.schedule_end, self.train.warmup_steps
        if end < self.steps:
            raise ValueError(
                f"train.schedule_steps ({end}) is below steps ({self.steps}), so the learning rate would be 0 before "
                f"the end: set it to {self.steps} or more, or remove it"
            )
        if warmup >= end:
            raise ValueError(
                f"train.warmup_steps ({warmup}) leaves nothing of a schedule of {end} steps: set it to less than {end}"
            )

    @property
    def schedule_end(self) -> int:
        """The step after which a learning rate that falls has reached 0."""
        return self.train.schedule_steps or self.steps

    @property
    def uses_labels(self) -> bool:
        """Whether the run is trained on a teacher's labels, from the start or after its alarm."""
        return "offline_labels" in (self.reward, self.on_alarm, self.reward_labels)

    @property
    def uses_true_answers(self) -> bool:
        """Whether the run is trained on true answers, all or some."""
        return not TRUE_LABELS.isdisjoint((self.reward, self.reward_labels))

    @property
    def uses_stored_responses(self) -> bool:
        """Whether the run learns from a teacher's stored responses and draws no rollouts."""
        return self.reward in OFFLINE

    @property
    def preferences(self) -> Preference:
        """For a reward without rollouts: which stored responses the run learns from, and with which loss."""
        return self.preference or Preference()

    @property
    def checkpoints(self) -> list[int]:
        """The steps at which a checkpoint is written."""
        return list(range(self.segment, self.steps + 1, self.segment))
