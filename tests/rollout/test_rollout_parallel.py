"""One vLLM engine over two processes (tensor parallelism) serves the trainer's ranks as two engines would.

Under torchrun this file is the worker: both processes run `worker`, and any assertion of it ends the job.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from srt.cluster import launch
from srt.common.errors import SrtError
from srt.rollout.vllm_weights import combine
from srt.training.sync_check import differing_tensors
from support import ROOT
from support.rollout_cases import EOS, KEYS, LONG, PROMPTS, SAMPLING, logprobs_of, make_model, worst


def worker(folder: Path) -> None:
    """Rank 0 has two prompts, rank 1 has one: each gets its own rollouts, sampled from the weights last synced."""
    from srt.rollout.vllm_engine import VllmEngine

    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    with pytest.raises(SrtError, match="rollout_tensor_parallel 3 does not divide the 2 processes"):
        VllmEngine(folder, [EOS], max_model_len=384, rollout_tensor_parallel=3)
    engine = VllmEngine(
        folder,
        [EOS],
        max_model_len=384,
        dtype="float32",
        kv_cache_gb=0.25,
        max_num_seqs=64,
        rollout_tensor_parallel=2,
    )
    mine = slice(0, 2) if rank == 0 else slice(2, 3)
    for seed in (0, 1):
        model = make_model(True, seed)
        if seed:
            engine.update_weights(model.named_parameters())
        assert differing_tensors(engine, model.named_parameters(), "float32") == []
        groups = engine.generate(PROMPTS[mine], KEYS[mine], SAMPLING)
        assert [len(group) for group in groups] == [SAMPLING.n] * len(PROMPTS[mine])
        assert worst(model, PROMPTS[mine], groups) < 1e-4
        (score,) = engine.logprobs([[7, rank + 5]], [np.array([9, 8, 7])], 0.6)
        np.testing.assert_allclose(score, logprobs_of(model, [7, rank + 5], np.array([9, 8, 7]), 0.6), atol=1e-4)
    draws = [[r.token_ids.tolist() for r in group] for group in groups]
    every: list = [None, None]
    torch.distributed.all_gather_object(every, draws)
    assert every[0][0] != every[0][1] != every[1][0]

    for name in ("self_attn.k_proj.weight", "self_attn.o_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"):
        name = f"model.layers.1.{name}"
        weights = {key: tensor.detach().clone() for key, tensor in model.named_parameters()}
        weights[name].view(-1)[-1] += 1e-4
        engine.update_weights(weights.items())
        assert differing_tensors(engine, model.named_parameters(), "float32") == [name]
    with pytest.raises(SrtError, match="prompt 'long' has 300 tokens"):  # rank 1's prompt, refused by both ranks
        engine.generate([LONG][:rank], ["long"][:rank], SAMPLING.__class__(n=1, max_new_tokens=100))
    engine.update_weights(model.named_parameters())
    again = engine.generate(PROMPTS[mine], KEYS[mine], SAMPLING)
    assert [[r.token_ids.tolist() for r in group] for group in again] == draws
    engine.close()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    print(f"rank {rank} is done")


@pytest.mark.long
@pytest.mark.vllm
def test_two_ranks_share_an_engine(tmp_path: Path) -> None:
    make_model(True).save_pretrained(tmp_path / "model")
    path = os.pathsep.join(str(ROOT / part) for part in ("src", "tests"))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = launch.torchrun(1, 2, "", "", [__file__, str(tmp_path / "model")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "rank 0 is done" in done.stdout and "rank 1 is done" in done.stdout


def test_parts_of_ranks_make_a_whole() -> None:
    """Shards of a matrix are added; copies are averaged, and a deviating copy shows."""
    ranks = [{"matrix": (1.0, 3.0, 6), "norm": (2.0, 2.5, 4)}, {"matrix": (-2.0, 4.0, 6), "norm": (2.0, 2.5, 4)}]
    sizes = {"matrix": 12, "norm": 4}
    assert combine(ranks, sizes) == {"matrix": (-1.0, 7.0), "norm": (2.0, 2.5)}
    ranks[1]["norm"] = (2.5, 2.5, 4)
    assert combine(ranks, sizes)["norm"] == (2.25, 2.5)
    assert combine(ranks[:1], {"matrix": 6, "norm": 4}) == {"matrix": (1.0, 3.0), "norm": (2.0, 2.5)}
    with pytest.raises(
        SrtError, match=r"vLLM holds matrix in a form that cannot be read.*: set train.rollout_engine to"
    ):
        combine([{"matrix": (0.0, 0.0, 0)}], {"matrix": 6})


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
