"""What a job computes, in the numbers that its FLOPs, bytes and seconds depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from srt.config.train import Checkpointing
from srt.cost.lengths import Lengths
from srt.cost.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class SamplingWork:
    """Drawing responses to prompts.

    Args:
        shape: of the model.
        lengths: of prompts and responses.
        prompts: of the whole sampling job, or of one training step.
        responses: per prompt.
        dtype: of weights and activations.
        vllm: the engine is vLLM; else it is transformers.
        threads: CPU threads of a process.
        rollout_tensor_parallel: GPUs that share one vLLM engine.
    """

    shape: Shape
    lengths: Lengths
    prompts: int
    responses: int
    dtype: str = "bfloat16"
    vllm: bool = True
    threads: int = 1
    rollout_tensor_parallel: int = 1

    @property
    def sequences(self) -> int:
        """Responses to all prompts."""
        return self.prompts * self.responses


@dataclass(frozen=True, kw_only=True)
class TrainingWork(SamplingWork):
    """Training steps: rollouts, an update, saved states.

    Args:
        steps: of the segment.
        trained: responses per prompt that the update runs over.
        rollout_rounds: rounds of rollouts that a step draws at most (`refill`); 0: the responses are stored ones.
        reference: a reference policy is loaded, and its log-probs are computed.
        reference_offload: the reference's weights stay in host memory between its passes; None means only where
            training fits its GPUs in no other way.
        old_policy_pass: the old policy's log-probs come from a separate pass, so that no graph outlives a pack.
        checkpointing: activations computed again in the backward pass: none, all but the matrix products', or all.
        activation_bytes: memory of each GPU in which layers may keep activations that `full` would compute again, with
            those that it keeps; 0: they keep no more.
        split_groups: a group whose graphs exceed `activation_bytes` goes through the model without graphs first, and
            then pack by pack (with `full` and on GPUs only).
        share_prompts: a forward pass holds a prompt once for all its responses; else once per response.
        pack_tokens: of one forward pass.
        zero_stage: of DeepSpeed: 1 splits masters and moments over GPUs, 2 gradients too, 3 weights too.
        engine_sleep: vLLM gives its GPU memory back between rollouts; None means where a step is faster with it.
        cache_bytes: of vLLM's cache on each GPU.
        save_every: steps between two saved states.
        states: written in the background while training continues, with training waiting for them, or not at all.
    """

    steps: int
    trained: int
    rollout_rounds: int = 1
    reference: bool = True
    reference_offload: bool | None = None
    old_policy_pass: bool = False
    checkpointing: Checkpointing = "full"
    activation_bytes: float = 0.0
    split_groups: bool = True
    share_prompts: bool = True
    pack_tokens: int = 16384
    zero_stage: int = 1
    engine_sleep: bool | None = False
    cache_bytes: float = math.inf
    save_every: int = 10
    states: Literal["background", "waiting", "none"] = "background"
