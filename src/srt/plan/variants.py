"""Other ways to run the same jobs, and other assumptions, whose GPU-hours the plan compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from srt.cost.parameters import Parameters
from srt.cost.seconds import WITHOUT_CUDA_GRAPHS
from srt.cost.work import TrainingWork


@dataclass(frozen=True)
class Variant:
    """Another way to run a configuration, or other assumptions; a default is what the configuration says.

    gpus: of every training job. reference_offload: False: never; None: where training fits in no other way.
    sample_in_run: the GPUs of a run evaluate its checkpoints. use_room: layers keep activations where memory is left.
    share_engines: False: no GPUs share a rollout engine.
    response_scale: times the mean tokens of a response.
    disk_scale: times the rates of reading and writing. The others are fields of `TrainingWork` and `Parameters`.
    """

    gpus: int | None = None
    reference_offload: bool | None = None
    sample_in_run: bool = False
    old_policy_pass: bool = False
    checkpointing: Literal["none", "selective", "full"] | None = None
    use_room: bool = True
    share_engines: bool = True
    share_prompts: bool = True
    states: Literal["background", "waiting", "none"] = "background"
    response_scale: float = 1.0
    decode_slowdown: float = 1.0
    efficiency: float | None = None
    disk_scale: float = 1.0

    def work(self, work: TrainingWork) -> TrainingWork:
        """The work of a segment under this variant."""
        return replace(
            work,
            old_policy_pass=self.old_policy_pass or work.old_policy_pass,
            checkpointing=self.checkpointing or work.checkpointing,
            activation_bytes=work.activation_bytes if self.use_room else 0.0,
            rollout_tensor_parallel=work.rollout_tensor_parallel if self.share_engines else 1,
            share_prompts=self.share_prompts,
            states=self.states,
        )

    def parameters(self, assumed: Parameters) -> Parameters:
        """The assumptions under this variant."""
        return replace(
            assumed,
            efficiency=self.efficiency or assumed.efficiency,
            decode_slowdown=self.decode_slowdown,
            disk_rate=assumed.disk_rate * self.disk_scale,
            disk_limit=assumed.disk_limit * self.disk_scale,
        )


# From the authors' way to this workflow's, one change after the other.
_AUTHORS = Variant(
    gpus=8, sample_in_run=True, old_policy_pass=True, checkpointing="full", share_prompts=False, states="none",
    decode_slowdown=WITHOUT_CUDA_GRAPHS, use_room=False, share_engines=False,
)  # fmt: skip
_CUDA_GRAPHS = replace(_AUTHORS, decode_slowdown=1.0)
_ONE_PASS = replace(_CUDA_GRAPHS, old_policy_pass=False)
_SHARED = replace(_ONE_PASS, share_prompts=True)
_UNSAVED = Variant(states="none", use_room=False, share_engines=False)
SAVINGS: tuple[tuple[str, Variant], ...] = (
    ("the authors' settings: decoding without CUDA graphs, old-policy pass, 8 GPUs, evaluation inside", _AUTHORS),
    ("CUDA graphs in decoding", _CUDA_GRAPHS),
    ("no separate pass of the old policy (ZeRO 3 keeps it)", _ONE_PASS),
    ("a prompt in the update once for all its responses", _SHARED),
    ("activations kept where the configuration says so", replace(_SHARED, checkpointing=None)),
    ("evaluation in jobs of one GPU, beside training", replace(_UNSAVED, gpus=8)),
    ("the fewest GPUs per run that hold it with its reference", replace(_UNSAVED, reference_offload=False)),
    ("still fewer: the reference in host memory between its passes", _UNSAVED),
    (
        "states saved, at checkpoints and between them, which the authors did not do",
        replace(_UNSAVED, states="waiting"),
    ),
    ("states written while training continues, each rank hashing its own part", replace(_UNSAVED, states="background")),
    ("layers keep their activations in the memory that is left", Variant(share_engines=False)),
    ("engines that GPUs share: the weights of a large model once on all of them", Variant()),
)
OPTIONS: tuple[tuple[str, Variant], ...] = (
    ("gradient_checkpointing: selective (if it fits)", Variant(checkpointing="selective")),
)
SENSITIVITY: tuple[tuple[str, Variant], ...] = (
    ("responses half as long", Variant(response_scale=0.5)),
    ("responses twice as long", Variant(response_scale=2.0)),
    ("updates at 30 % of the peak", Variant(efficiency=0.3)),
    ("tokens decoded at half the speed", Variant(decode_slowdown=2.0)),
    ("states written four times as fast", Variant(disk_scale=4.0)),
)
