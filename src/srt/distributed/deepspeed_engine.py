"""All use of DeepSpeed: a model with its distributed optimizer, and the checkpoints of both.

One process on a CPU and n processes on GPUs run the same code. The update divides by the loss denominator of the global
batch (srt.training.update), so DeepSpeed's own scalings are undone here: gradients are not divided by accumulation
steps, and they are summed over ranks instead of averaged.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from srt.common.errors import SrtError
from srt.distributed.host_copy import host_copy
from srt.distributed.world import World, barrier

ENGINE_TAG = "engine"
BUCKET = 500_000_000  # DeepSpeed's default: gradients that are reduced at a time


def _tensors_only_checkpoints(engine: Any) -> None:
    """Let DeepSpeed copy what it saves for a later write, and load its files without unpickling arbitrary objects."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    allowed = [LossScaler, ZeroStageEnum, fragment_address]

    class TensorsOnly(TorchCheckpointEngine):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.copies: list[tuple[Any, str]] = []  # to be written, each with its path

        def save(self, state_dict: Any, path: str) -> None:
            self.copies.append((host_copy(state_dict), path))

        def write(self, state_dict: Any, path: str) -> None:
            super().save(state_dict, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location=map_location, weights_only=True)

    engine.checkpoint_engine = TensorsOnly(engine._config)


@contextlib.contextmanager
def _no_compiler() -> Iterator[None]:
    """Disable torch.compile: otherwise DeepSpeed loads it for one of its own optimizers, which takes a second."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]
        if before is not None:
            os.environ["TORCHDYNAMO_DISABLE"] = before


class DeepSpeedEngine:
    """A model with its AdamW under DeepSpeed ZeRO 0, 1, 2 or 3.

    Args:
        model: float32 or bfloat16 causal language model; bfloat16 gets float32 masters (not at stage 0: refused).
        world: from `init_world`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        world: World,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        grad_clip: float,
        zero_stage: int,
        dtype: str,
    ) -> None:
        import deepspeed

        if zero_stage == 0 and dtype == "bfloat16":
            raise SrtError(
                "zero_stage 0 keeps no float32 masters of bfloat16 weights: use zero_stage 1, 2 or 3, or float32"
            )
        self.parameters = sum(p.numel() for p in model.parameters())
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": grad_clip,
            "zero_optimization": {
                "stage": zero_stage,
                # DeepSpeed allocates the whole bucket; it needs at most all parameters
                "reduce_bucket_size": min(BUCKET, self.parameters),
                "overlap_comm": world.device.type == "cuda",
                # ZeRO 3 would replace torch's linear for the whole process by one whose gradients are wrong where
                # activations are computed again selectively
                "memory_efficient_linear": False,
            },
            "zero_allow_untested_optimizer": True,
            # At stage 1 DeepSpeed adds bfloat16 gradients to a float32 sum after each backward pass, and clears them in
            # its own forward pass, which is not called here: without the second key earlier passes would count twice.
            "bf16": {"enabled": dtype == "bfloat16", "immediate_grad_update": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "steps_per_print": 1 << 30,
        }
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay, foreach=True
        )
        self.world = world
        self.plain = zero_stage == 0
        self.sharded = zero_stage == 3
        barrier(world)  # each rank has loaded the model at its own pace, and DeepSpeed broadcasts the weights
        with _no_compiler():
            self.engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        if zero_stage in (1, 2):
            # skip updates that are not finite in float32 too; DeepSpeed does so in half precision only
            self.engine.optimizer.check_grad_overflow = True
        _tensors_only_checkpoints(self.engine)

    @property
    def model(self) -> Any:
        """The wrapped model, to call forward on."""
        return self.engine.module

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`, this rank's share of the global sum; reduce over ranks on the last call."""
        if self.sharded:  # ZeRO 3 counts them by the engine's forward passes, which are not called here
            self.engine.optimizer.clear_backward_seen_flag()
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(self) -> tuple[float, bool]:
        """Clip, update, zero the gradients.

        Returns the gradient's norm before clipping, and whether the update was made: one whose gradient is not finite
        leaves weights and optimizer as they were, on all ranks.
        """
        if not self.plain:
            self.engine.step()
            norm = self.engine.get_global_grad_norm()
            made = not self.engine.optimizer.overflow
            return (math.nan if norm is None or not made else float(norm)), made
        # DeepSpeed reports no norm of a plain float32 optimizer, and steps even if the gradient is not finite
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        if not math.isfinite(norm):
            self.engine.zero_grad()
            return math.nan, False
        self.engine.step()
        return norm, True

    def set_learning_rate(self, rate: float) -> None:
        """The learning rate of the next updates (all ranks)."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on every rank within the `with` block: under ZeRO 3 a rank holds a part (all ranks call it)."""
        if not self.sharded:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
            yield

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors as in a Hugging Face checkpoint; inside `whole`."""
        yield from ((name, p.data) for name, p in self.model.named_parameters())

    def snapshot(self, folder: Path) -> Callable[[], list[Path]]:
        """Copy weights, masters and optimizer state to host memory (all ranks).

        Returns a function to be called once, in any thread: it writes this rank's part under `folder` and returns the
        files.
        """
        checkpoints = self.engine.checkpoint_engine
        checkpoints.copies = []
        self.engine.save_checkpoint(str(folder), tag=ENGINE_TAG, save_latest=False)
        copies, checkpoints.copies = checkpoints.copies, []

        def write() -> list[Path]:
            files = []
            while copies:  # each copy is freed once it is written
                state, path = copies.pop(0)
                checkpoints.write(state, path)
                files.append(Path(path))
            return files

        return write

    def save(self, folder: Path) -> None:
        """Write weights, masters and optimizer state under `folder` (all ranks)."""
        self.snapshot(folder)()
        barrier(self.world)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, with the same number of ranks (all ranks)."""
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=ENGINE_TAG)
        except pickle.UnpicklingError as error:  # torch's own message says how to load it anyway
            raise SrtError(
                f"{folder} is not a training state: one of its files is damaged or holds more than tensors, and is not "
                "loaded: delete it to start the segment again"
            ) from error
        except (RuntimeError, AssertionError, KeyError, EOFError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SrtError(
                f"{folder} is not a training state of this model and number of ranks ({first}): "
                "delete it to start the segment again"
            ) from error
        if path is None:
            raise SrtError(f"{folder} holds no training state: delete it to start the segment again")

    def save_model(self, folder: Path) -> None:
        """Write the weights as a Hugging Face checkpoint (rank 0; inside `whole`)."""
        if self.world.main:
            self.model.save_pretrained(folder)
