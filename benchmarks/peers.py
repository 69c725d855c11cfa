"""Recorded completions, small Qwen2 models, and two trainers that update on them: TRL's RLOOTrainer and ours.

TRL is its released trainer in its own `train()` loop. Only `_generate` is replaced, so that it returns the recorded
token ids; log-probabilities, reference, KL, advantages, loss, backward, clipping and AdamW are its own code. What
`_generate` does beside generating (tokenising, decoding, length statistics) is not timed, as only the update is
measured.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Channel, matmul

EOS, PAD = 0, 1

# Qwen2 shapes. tiny-vllm is tiny with heads of 32, as vLLM's CPU kernels take no heads of 16; 135m has
# the sizes of SmolLM2-135M, 1.5b those of Qwen2.5-1.5B.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 172},
    "tiny-vllm": {"vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "num_key_value_heads": 1, "intermediate_size": 172},
    "3m": {"vocab_size": 2048, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6,
           "num_key_value_heads": 2, "intermediate_size": 576},
    "135m": {"vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "intermediate_size": 1536},
    "1.5b": {"vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "intermediate_size": 8960},
}  # fmt: skip

# What both trainers are told; TRL's names in `trl_config`, ours in `train_config`.
HYPER: dict[str, Any] = {"beta": 0.05, "learning_rate": 1e-6, "weight_decay": 0.0, "grad_clip": 1.0, "temperature": 1.0}


# -- recorded completions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """N = G n completions of G prompts, those of a prompt adjacent.

    `prompts` [G] token ids; `responses` [N] int32 arrays, which end with EOS unless they were cut at the limit;
    `rewards` float64 [N].
    """

    prompts: list[list[int]]
    responses: list[np.ndarray]
    rewards: np.ndarray

    @property
    def n(self) -> int:
        """Responses a prompt."""
        return len(self.responses) // len(self.prompts)

    @property
    def group(self) -> np.ndarray:
        """[N] prompt of each response."""
        return np.repeat(np.arange(len(self.prompts)), self.n)

    @property
    def tokens(self) -> int:
        """Real tokens: of each response and its own prompt, without padding."""
        return sum(len(r) for r in self.responses) + self.n * sum(len(p) for p in self.prompts)

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return max(len(r) for r in self.responses)

    def save(self, path: Path) -> None:
        """Write as npz (arrays only)."""
        flat = {"prompts": self.prompts, "responses": self.responses}
        arrays = {k: np.concatenate([np.asarray(x, np.int32) for x in v]) for k, v in flat.items()}
        arrays |= {f"{k}_lengths": np.array([len(x) for x in v]) for k, v in flat.items()}
        np.savez(path, rewards=self.rewards, **arrays)

    @staticmethod
    def load(path: Path) -> Recorded:
        """Read what `save` wrote."""
        with np.load(path) as file:
            parts = {k: np.split(file[k], np.cumsum(file[f"{k}_lengths"])[:-1]) for k in ("prompts", "responses")}
            return Recorded([p.tolist() for p in parts["prompts"]], parts["responses"], file["rewards"])


def record(
    shape: str, prompts: int, n: int, prompt_tokens: tuple[int, int], limit: int, sigma: float, seed: int = 0
) -> Recorded:
    """Completions of random tokens whose lengths are lognormal with 5 % at the limit.

    `sigma` is the standard deviation of the log length: 1.0 gives a mean of 0.3 of the limit, as in a run with a limit
    of 3,072 tokens and a mean of 670; 0.43 is that of Qwen2.5-7B's answers to MATH, at 0.5 of the limit.
    """
    rng = np.random.default_rng(seed)
    vocab = SHAPES[shape]["vocab_size"]
    median = limit / np.exp(1.645 * sigma)  # 1.645: the 95th percentile of the normal distribution
    drawn = rng.lognormal(np.log(median), sigma, prompts * n)
    responses = []
    for length in drawn:
        size = int(np.clip(np.ceil(length), 1, limit))
        response = rng.integers(2, vocab, size).astype(np.int32)
        if length < limit:
            response[-1] = EOS
        responses.append(response)
    asked = [rng.integers(2, vocab, rng.integers(*prompt_tokens, endpoint=True)).tolist() for _ in range(prompts)]
    rate = np.repeat(rng.uniform(0.1, 0.9, prompts), n)
    return Recorded(asked, responses, (rng.random(prompts * n) < rate).astype(np.float64))


# -- models ----------------------------------------------------------------------------------------------------------


def tokenizer(vocab: int) -> Any:
    """One word per token, its number, so that token ids survive TRL's decoding and encoding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(vocab)}, unk_token=str(PAD)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=str(EOS), pad_token=str(PAD), padding_side="left")


def build(shape: str, seed: int = 0, dtype: str = "float32", device: str = "cpu") -> Any:
    """A Qwen2 of random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=32768, tie_word_embeddings=True, eos_token_id=EOS, bos_token_id=None,
        pad_token_id=PAD, initializer_range=SHAPES[shape]["hidden_size"] ** -0.5, dtype=dtype,
    )  # fmt: skip
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(getattr(torch, dtype))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = EOS, PAD
    return model


def shift(model: Any) -> Any:
    """Move the weights a little, so that the KL to where they were is not 0."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1 * float(p.float().std()))
    return model


@torch.no_grad()
def stop_at_rate(model: Any, rate: float) -> Any:
    """Give the end token about the same chance at every position, so that lengths are geometric with mean 1 / rate.

    Every position receives the whole bias of the last value projection, as attention weights sum to 1. The bias is put
    into a direction in which only the end token's row of the head has a component.
    """
    attention, embedding = model.model.layers[-1].self_attn, model.get_input_embeddings().weight
    bias = attention.v_proj.bias.normal_()
    repeat = model.config.num_attention_heads // model.config.num_key_value_heads
    led = bias.view(model.config.num_key_value_heads, -1).repeat_interleave(repeat, 0).flatten()
    direction = torch.nn.functional.normalize(torch.randn(model.config.hidden_size), dim=0)
    attention.o_proj.weight.add_(torch.outer(direction, led) * 100 / led.square().sum())
    embedding.sub_(torch.outer(embedding @ direction, direction))
    hidden = model.model(torch.randint(2, len(embedding), (8, 32))).last_hidden_state.flatten(0, 1)
    others = (hidden @ embedding[2:].T).logsumexp(-1).mean()
    embedding[EOS] = direction * (np.log(rate / (1 - rate)) + others) / (hidden @ direction).mean()
    embedding[PAD] = -direction  # next to never sampled
    return model


def save_models(folder: Path, shape: str, seed: int = 0, rate: float | None = None) -> dict[str, str]:
    """A reference and a policy near it as checkpoints under `folder`, each with its tokenizer.

    With a `rate` both are the same model, whose responses end at it.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = build(shape, seed)
    if rate is not None:
        stop_at_rate(model, rate)
    words = tokenizer(SHAPES[shape]["vocab_size"])
    for name in ("reference", "policy"):
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
        if rate is None:
            shift(model)
    return {name: str(folder / name) for name in ("reference", "policy")}


def load_models(spec: dict[str, Any]) -> tuple[Any, Any]:
    """Policy and reference of a spec: from its folders, or of random weights by its shape on its device."""
    if "shape" in spec:
        policy, reference = (build(spec["shape"], 0, spec["dtype"], spec["device"]) for _ in range(2))
        shift(policy)
    else:
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, spec.get("dtype", "float32"))
        policy, reference = (
            AutoModelForCausalLM.from_pretrained(spec[k], dtype=dtype).to(spec["device"])
            for k in ("policy", "reference")
        )
    if spec.get("checkpointing"):
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.train()
    return policy, reference.requires_grad_(False).eval()


def flops(config: Any, data: Recorded) -> dict[str, float]:
    """FLOPs of one update (gradient forward and backward, reference forward; no old-policy pass, no recomputation).

    `model` is the usual count, each response with a prompt of its own. `necessary` counts each prompt once, the least
    possible work, so that a share of the limit computed from it cannot exceed 1.
    """
    from srt.cost.flops import count_tokens, update_flops
    from srt.cost.shapes import Shape

    shape = Shape.of(config)
    prompts, responses = [len(data.prompts[g]) for g in data.group], [len(r) for r in data.responses]
    return {
        "model": update_flops(shape, count_tokens(prompts, responses)),
        "necessary": update_flops(shape, count_tokens(prompts, responses, data.group)),
    }


def text_rewards(texts: list[str]) -> list[float]:
    """A reward of almost no cost: 1 where the last number of the text is even."""
    return [float(int(text.rpartition(" ")[2] or 0) % 2 == 0) for text in texts]


# -- gradients -------------------------------------------------------------------------------------------------------


def keep_tensors(model: Any, path: str | None, gradients: bool) -> None:
    """Write the gradients or the weights of a model as safetensors; nothing without a path."""
    if path is None:
        return
    from safetensors.torch import save_file

    named = ((n, p.grad if gradients else p.data) for n, p in model.named_parameters())
    save_file({n: t.detach().float().cpu().contiguous() for n, t in named if t is not None}, path)


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> tuple[float, str, float]:
    """Relative difference of two sets of tensors in the Euclidean norm, and the worst tensor with its own."""
    if set(ours) != set(theirs):
        raise AssertionError(f"not the same tensors: {sorted(set(ours) ^ set(theirs))[:4]}")
    squares = {n: (float((ours[n].double() - t.double()).norm()), float(t.double().norm())) for n, t in theirs.items()}
    total = float(np.linalg.norm([d for d, _ in squares.values()]) / np.linalg.norm([r for _, r in squares.values()]))
    each = {n: d / r if r else float(d > 0) for n, (d, r) in squares.items()}
    worst = max(each, key=lambda n: each[n])
    return total, worst, each[worst]


# -- TRL -------------------------------------------------------------------------------------------------------------


def trl_side(spec: dict[str, Any], channel: Channel) -> None:
    """TRL's RLOOTrainer in its own training loop; a round is one optimizer step, from `on_step_begin` on.

    spec: policy, reference (folders), data (npz), batch (per_device_train_batch_size), and optionally limit (draw
    responses of at most this many tokens with its own generate instead of replaying), gradients and weights (files, of
    the first step).
    """
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    data = Recorded.load(Path(spec["data"]))
    hyper = HYPER | spec.get("hyper", {})
    replay, count = "limit" not in spec, len(data.responses)

    class Replay(trl.RLOOTrainer):
        def _generate(self, prompts: list[Any]) -> Any:
            if not replay:
                return super()._generate(prompts)
            assert prompts == [str(g) for g in data.group]  # whole generation batches, groups adjacent
            return [data.prompts[g] for g in data.group], [r.tolist() for r in data.responses], [""] * count

    def reward(completions: list[str], **_: Any) -> list[float]:
        return data.rewards.tolist() if replay else text_rewards(completions)

    class Rounds(TrainerCallback):
        first = True

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            channel.ready()
            control.should_training_stop = not channel.wait()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            channel.begin()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if self.first:
                keep_tensors(model, spec.get("gradients"), gradients=True)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if self.first:
                keep_tensors(model, spec.get("weights"), gradients=False)
            self.first = False
            metrics = {k: v[-1] for k, v in trainer._metrics["train"].items() if k in ("kl", "entropy")}
            channel.done(new_tokens=round(trainer._metrics["train"].get("completions/mean_length", [0])[-1] * count),
                         **metrics)  # fmt: skip
            control.should_training_stop = not channel.wait()

    with tempfile.TemporaryDirectory() as folder:
        args = trl.RLOOConfig(
            output_dir=folder, use_cpu=True, bf16=False, per_device_train_batch_size=spec["batch"],
            gradient_accumulation_steps=count // spec["batch"], num_generations=data.n,
            max_completion_length=spec.get("limit", data.longest), temperature=hyper["temperature"],
            beta=hyper["beta"], learning_rate=hyper["learning_rate"], weight_decay=hyper["weight_decay"],
            max_grad_norm=hyper["grad_clip"], lr_scheduler_type="constant", optim="adamw_torch_fused",
            gradient_checkpointing=False, disable_dropout=True, shuffle_dataset=False, max_steps=1_000_000,
            report_to="none", logging_strategy="no", save_strategy="no", disable_tqdm=True,
            dataloader_pin_memory=False, seed=spec.get("seed", 0), **spec.get("trl", {}),
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(spec["policy"], dtype=torch.float32)
        model.config._name_or_path = spec["reference"]  # the trainer loads its reference from there
        names = [str(g) if replay else " ".join(map(str, p)) for g, p in enumerate(data.prompts)]
        trainer = Replay(
            model=model, reward_funcs=reward, args=args, callbacks=[Rounds()],
            train_dataset=Dataset.from_dict({"prompt": names}),
            processing_class=AutoTokenizer.from_pretrained(spec["policy"]),
        )  # fmt: skip
        trainer.train()


# -- ours ------------------------------------------------------------------------------------------------------------


class PlainEngine:
    """AdamW without DeepSpeed, with the interface of `srt.distributed.deepspeed_engine.DeepSpeedEngine`."""

    def __init__(self, model: Any, hyper: dict[str, Any]) -> None:
        self.model, self.clip = model, hyper["grad_clip"]
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"], fused=True
        )

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`."""
        loss.backward()

    def step(self) -> tuple[float, bool]:
        """Clip, update, zero the gradients; the norm before clipping, and that the update was made."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm), True


def train_config(hyper: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Our preset `trl` with the same hyperparameters that `trl_side` gives TRL."""
    from srt.config.train import Train

    values = {
        "preset": "trl", "kl_coefficient": hyper["beta"], "learning_rate": hyper["learning_rate"],
        "weight_decay": hyper["weight_decay"], "grad_clip": hyper["grad_clip"], "temperature": hyper["temperature"],
        "dtype": "float32", "gradient_checkpointing": "none", "rollout_engine": "transformers", "zero_stage": 0,
        **changes,
    }  # fmt: skip
    return Train.model_validate(values).hyperparameters()


def make_engine(spec: dict[str, Any], model: Any, hyper: dict[str, Any]) -> tuple[Any, Any]:
    """The product's DeepSpeed engine, or the plain one if `spec` says so, and its world."""
    from srt.distributed.deepspeed_engine import DeepSpeedEngine
    from srt.distributed.world import World, init_world

    if spec.get("plain"):
        return PlainEngine(model, hyper), World(0, 1, torch.device(spec["device"]))
    world = init_world()
    engine = DeepSpeedEngine(
        model, world, learning_rate=hyper["learning_rate"], betas=(0.9, 0.999), weight_decay=hyper["weight_decay"],
        grad_clip=hyper["grad_clip"], zero_stage=0, dtype="float32",
    )  # fmt: skip
    return engine, world


def record_first(engine: Any, spec: dict[str, Any]) -> None:
    """Let the engine write the gradients before its first step and the weights after it."""
    if "gradients" not in spec and "weights" not in spec:
        return
    step = engine.step

    def first() -> Any:
        keep_tensors(engine.model, spec.get("gradients"), gradients=True)
        result = step()
        keep_tensors(engine.model, spec.get("weights"), gradients=False)
        engine.step = step
        return result

    engine.step = first


def our_side(spec: dict[str, Any], channel: Channel) -> None:
    """Our update on the recorded completions; a round is one optimizer step.

    spec: policy and reference (folders) or shape (random weights), data (npz), train (changes to the configuration),
    plain (no DeepSpeed), and gradients and weights as for TRL.
    """
    from srt.training.batches import Batch
    from srt.training.objectives import policy_update
    from srt.training.reference import Reference

    data = Recorded.load(Path(spec["data"]))
    hyper = HYPER | spec.get("hyper", {})
    policy, reference = load_models(spec)
    engine, world = make_engine(spec, policy, hyper)
    update = policy_update(engine, Reference(reference), train_config(hyper, **spec.get("train", {})), world)
    record_first(engine, spec)
    batch = Batch(
        prompts=[data.prompts[g] for g in data.group], responses=data.responses, group=data.group.tolist(),
        rewards=data.rewards, labelled=np.ones(len(data.responses), dtype=bool),
    )  # fmt: skip
    channel.ready(spec["device"] == "cuda")
    while channel.wait():
        found = update.run(batch)
        channel.done(processed=found["packed_tokens"], kl=found["kl"], entropy=found["entropy"])


SIDES: dict[str, Any] = {"trl": trl_side, "ours": our_side, "matmul": matmul}
