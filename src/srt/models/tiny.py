"""A tiny base model, trained from scratch in about a minute: Qwen2 architecture, its own tokenizer, worked-out sums.

It is meant to behave like a base model. A known share of the steps in its training traces is wrong, so that at
temperature 1 avg@32 is well below maj@32, and long sums are beyond it. It has no other skill: problems other than
Reasoning Gym's chain_sum get a boxed but wrong answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from srt.common.errors import SrtError
from srt.common.progress import progress_bar
from srt.config.models import TinyModel
from srt.config.prompt_templates import template_text
from srt.data.prompts import render

EOS, PAD = "<|endoftext|>", "<|pad|>"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
IGNORE = -100
QUESTION = "State the final answer to the following arithmetic problem: "
PHRASES = (" + ", " - ", " = ", "; ", "\\boxed{")


def trace(expression: str, rng: random.Random, corruption: float, misread: float = 0.0) -> str:
    """A step-by-step solution of a sum such as '12 + 34 - 5', each step wrong with probability `corruption`.

    >>> trace('12 + 34 - 5', random.Random(0), 0.0)
    '12 + 34 = 46; 46 - 5 = 41; \\\\boxed{41}'

    A wrong step is off by 1, 2, 10 or 100, and later steps continue from it, as with a model's own errors. With
    probability `misread` the whole trace reads every sign as plus.

    >>> trace('12 + 34 - 5', random.Random(0), 0.0, misread=1.0)
    '12 + 34 = 46; 46 + 5 = 51; \\\\boxed{51}'
    """
    if misread and rng.random() < misread:
        expression = expression.replace(" - ", " + ")
    parts = expression.split()
    total, steps = int(parts[0]), []
    for sign, term in zip(parts[1::2], parts[2::2], strict=True):
        result = total + int(term) if sign == "+" else total - int(term)
        if rng.random() < corruption:
            result += rng.choice((-1, 1)) * rng.choice((1, 1, 2, 10, 10, 100))
        steps.append(f"{total} {sign} {term} = {result}; ")
        total = result
    return "".join(steps) + f"\\boxed{{{total}}}"


def problems(model: TinyModel, seed: int) -> Iterator[tuple[str, str, float]]:
    """Endless (question, expression, misread) of the pretraining mix, drawn from Reasoning Gym's chain_sum."""
    import reasoning_gym

    rng = random.Random(seed)
    try:
        sets = [
            reasoning_gym.create_dataset("chain_sum", size=1 << 30, seed=seed + i, **part.params)
            for i, part in enumerate(model.parts)
        ]
    except (TypeError, AssertionError) as error:
        raise SrtError(
            f"models: parts: chain_sum refuses these params ({error}); see Reasoning Gym's ChainSumConfig"
        ) from None
    weights = [part.weight for part in model.parts]
    position = [0] * len(sets)
    while True:
        i = rng.choices(range(len(sets)), weights)[0]
        item = sets[i][position[i]]
        position[i] += 1
        yield item["question"], item["metadata"]["expression"], model.parts[i].misread


def build_tokenizer(suffix: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, which can encode every text, with single digits as tokens.

    The phrases that every prompt and trace repeats are one token each, so that a sum has about 15 tokens and its
    solution 25. Text is normalised to Unicode NFC, as transformers does for every Qwen2 model whatever its files say.
    """
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(bytes_)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    phrases = [f"{suffix.lstrip()}\n", QUESTION, *PHRASES]
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in phrases])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (EOS, PAD)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def batch(
    tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, str]], suffix: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels [B, T]; prompt and padding have no label, the end token has one."""
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    encoded = []
    for question, solution in rows:
        prompt = render(tokenizer, question, suffix)
        encoded.append((prompt, [*tokenizer(solution, add_special_tokens=False)["input_ids"], eos]))
    width = max(len(p) + len(s) for p, s in encoded)
    ids = torch.full((len(encoded), width), pad)
    labels = torch.full((len(encoded), width), IGNORE)
    for i, (prompt, solution) in enumerate(encoded):
        end = len(prompt) + len(solution)
        ids[i, :end] = torch.tensor(prompt + solution)
        labels[i, len(prompt) : end] = torch.tensor(solution)
    return ids, labels


def learning_rate(model: TinyModel, step: int) -> float:
    """Linear warm-up over 5 % of the steps, then cosine decay to a tenth of the peak."""
    warmup = max(1, model.steps // 20)
    if step < warmup:
        return model.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, model.steps - warmup)
    return model.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def train_base(model: TinyModel, out: Path) -> dict[str, Any]:
    """Train the model and save it in Hugging Face format to `out`; return its sizes and the final training loss."""
    torch.set_num_threads(model.threads)
    torch.manual_seed(model.seed)
    rng = random.Random(model.seed)
    stream = problems(model, model.seed)
    tokenizer = build_tokenizer(model.prompt_suffix)
    if model.prompt_template:
        tokenizer.chat_template = template_text(model.prompt_template, tokenizer)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden_size,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        intermediate_size=model.intermediate_size,
        max_position_embeddings=model.context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    net = Qwen2ForCausalLM(config)
    net.generation_config.eos_token_id = tokenizer.eos_token_id
    net.generation_config.pad_token_id = tokenizer.pad_token_id
    optimizer = torch.optim.AdamW(net.parameters(), lr=model.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    losses = []
    bar = progress_bar(range(model.steps), desc="base model", unit="step")
    for step in bar:
        corrupted = step >= model.corrupt_from * model.steps
        corruption = model.corruption if corrupted else 0.0
        drawn = (next(stream) for _ in range(model.batch_size))
        rows = [(q, trace(e, rng, corruption, misread if corrupted else 0.0)) for q, e, misread in drawn]
        ids, labels = batch(tokenizer, rows, model.prompt_suffix)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(model, step)
        hidden = net.model(input_ids=ids).last_hidden_state[:, :-1]
        target = labels[:, 1:]
        keep = target != IGNORE  # only labelled positions: the head is the larger half of a tiny model
        loss = torch.nn.functional.cross_entropy(net.lm_head(hidden[keep]), target[keep])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            bar.set_postfix(loss=f"{sum(losses[-100:]) / 100:.3f}")
    out.mkdir(parents=True, exist_ok=True)
    net.save_pretrained(out)
    tokenizer.save_pretrained(out)
    tail = losses[-100:]
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "vocabulary": len(tokenizer),
        "final_loss": round(sum(tail) / len(tail), 6),
    }
