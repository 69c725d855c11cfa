"""DeepSpeed behind one file: the distributed optimizer, its checkpoints and the weights it trains.

One process on a CPU and n processes on GPUs run the same code. The trainer decides the loss denominator over the
global batch, so DeepSpeed's own scalings are undone here: no division by accumulation steps, and the mean over ranks
that data parallelism takes becomes a sum.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srt.common.errors import SrtError
from srt.distributed.host_memory import host_copy

ENGINE_TAG = "engine"
BUCKET = 500_000_000  # gradients that are reduced at once: DeepSpeed's default


@dataclass(frozen=True)
class World:
    """This process among all: rank 0 writes files and shows progress."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the process that writes."""
        return self.rank == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def init_world() -> World:
    """Start torch.distributed under DeepSpeed: from torchrun's variables, or as one process without them.

    A second call in one process goes on with the group that there is: DeepSpeed cannot start another one.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    defaults = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local, "MASTER_ADDR": "127.0.0.1"}
    for key, value in defaults.items():
        os.environ.setdefault(key, str(value))
    if size == 1:  # alone: any free port, so that two runs on one machine do not meet
        os.environ["MASTER_PORT"] = str(_free_port())
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not cuda:
        # DeepSpeed would compile a shared-memory collective at first use (a minute, and a C++ compiler); gloo does.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if cuda:
        torch.cuda.set_device(local)
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False)
    return World(rank, size, torch.device("cuda", local) if cuda else torch.device("cpu"))


def _tensors_only_checkpoints(engine: Any) -> None:
    """Make DeepSpeed save copies for a later write, and read its files without unpickling arbitrary objects."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    allowed = [LossScaler, ZeroStageEnum, fragment_address]

    class TensorsOnly(TorchCheckpointEngine):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.taken: list[tuple[Any, str]] = []  # copies that wait to be written, and where to

        def save(self, state_dict: Any, path: str) -> None:
            self.taken.append((host_copy(state_dict), path))

        def write(self, state_dict: Any, path: str) -> None:
            super().save(state_dict, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location=map_location, weights_only=True)

    engine.checkpoint_engine = TensorsOnly(engine._config)


@contextlib.contextmanager
def _no_compiler() -> Iterator[None]:
    """torch.compile gives back what it is given: DeepSpeed would load it, for a second, for an optimizer of its own."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]
        if before is not None:
            os.environ["TORCHDYNAMO_DISABLE"] = before


class TrainEngine:
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
                # DeepSpeed allocates a bucket whole; one of all parameters is never flushed early, as its 500 million
                "reduce_bucket_size": min(BUCKET, self.parameters),
                "overlap_comm": world.device.type == "cuda",
                # ZeRO 3 would replace torch's linear for the whole process by one whose gradients are wrong where
                # activations are computed again selectively
                "memory_efficient_linear": False,
            },
            "zero_allow_untested_optimizer": True,
            # At stage 1 DeepSpeed adds bfloat16 gradients to a float32 sum after each backward pass, and clears them in
            # its own forward pass, which ours is not: without the second key earlier passes would count again.
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
        with _no_compiler():
            self.engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        if zero_stage in (1, 2):  # in float32 too an update that is not finite is left out (DeepSpeed: in half only)
            self.engine.optimizer.check_grad_overflow = True
        _tensors_only_checkpoints(self.engine)

    @property
    def model(self) -> Any:
        """The wrapped model, to call forward on."""
        return self.engine.module

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`, this rank's share of the global sum; reduce over ranks on the last call."""
        if self.sharded:  # ZeRO 3 counts backward passes by the engine's forward passes, which ours are not
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
        # DeepSpeed reports no norm of a plain float32 optimizer and steps whatever the gradient
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        if not math.isfinite(norm):
            self.engine.zero_grad()
            return math.nan, False
        self.engine.step()
        return norm, True

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """All weights on this rank, for sampling and copying: under ZeRO 3 a rank holds parts (all ranks)."""
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

        Returns what writes this rank's part of the copy under `folder`, once, in any thread, and names the files.
        """
        checkpoints = self.engine.checkpoint_engine
        checkpoints.taken = []
        self.engine.save_checkpoint(str(folder), tag=ENGINE_TAG, save_latest=False)
        taken, checkpoints.taken = checkpoints.taken, []

        def write() -> list[Path]:
            files = []
            while taken:
                state, path = taken.pop(0)
                checkpoints.write(state, path)
                files.append(Path(path))
            return files

        return write

    def save(self, folder: Path) -> None:
        """Write weights, masters and optimizer state under `folder` (all ranks)."""
        self.snapshot(folder)()
        barrier()

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, with the same number of ranks (all ranks)."""
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=ENGINE_TAG)
        except pickle.UnpicklingError as error:  # torch's message tells how to load it all the same
            raise SrtError(
                f"{folder}: not a training state: a file of it holds more than tensors, or is damaged, and is not "
                "loaded: delete it to start the segment again"
            ) from error
        except (RuntimeError, AssertionError, KeyError, EOFError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SrtError(
                f"{folder}: not a training state of this model and number of ranks ({first}): "
                "delete it to start the segment again"
            ) from error
        if path is None:
            raise SrtError(f"{folder}: holds no training state: delete it to start the segment again")

    def save_model(self, folder: Path) -> None:
        """Write the weights as a Hugging Face checkpoint (rank 0; inside `whole`)."""
        if self.world.main:
            self.model.save_pretrained(folder)


def barrier() -> None:
    """Wait for all ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def gather(values: list[Any], world: World) -> list[Any]:
    """The lists of all ranks, one after the other, on every rank."""
    if world.size == 1:
        return values
    parts: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(parts, values)
    return [v for part in parts for v in part]


def shutdown() -> None:
    """Leave the process group for good, so that the process ends without a warning."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
