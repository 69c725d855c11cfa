"""The sizes of a dense decoder that FLOPs, bytes and seconds depend on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError
from srt.config.models import HubModel, LocalModel, ModelBase, TinyModel


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense decoder.

    body: weights of all linear layers but the head. head: weights of the head (vocabulary x hidden size), also where it
    is tied to the embedding. total: all weights as stored, a tied head once. attention: layers x heads x head size.
    kv: numbers that the cache holds per token. hidden: layers x hidden size, the numbers that activation checkpointing
    keeps per token. intermediate: layers x size of the feed-forward's inner vectors. layers: their number.
    """

    body: float
    head: float
    total: float
    attention: float
    kv: float
    hidden: float
    intermediate: float
    layers: float

    @property
    def matmul(self) -> float:
        """Weights that every token is multiplied with: N of 2N FLOP per token."""
        return self.body + self.head

    @classmethod
    def of(cls, config: Any) -> Shape:
        """The shape of any dense model, counted on one without storage (torch's meta device).

        Args:
            config: a transformers config of a causal language model.

        Raises:
            SrtError: the model is a mixture of experts.
        """
        import torch
        from transformers import AutoModelForCausalLM

        if any(getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise SrtError(
                f"model type {config.model_type}: FLOPs of mixtures of experts are not counted here, so there is no "
                "MFU for it; use a dense model"
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        head = model.get_output_embeddings()
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            body=sum(m.weight.numel() for m in linear),
            head=head.weight.numel(),
            total=sum(p.numel() for p in model.parameters()),
            attention=layers * heads * size,
            kv=2 * layers * (getattr(config, "num_key_value_heads", None) or heads) * size,
            hidden=layers * config.hidden_size,
            intermediate=layers * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
            layers=layers,
        )


def decoder(
    layers: int, hidden: int, heads: int, kv_heads: int, head_size: int, intermediate: int, vocabulary: int, tied: bool
) -> Shape:
    """The shape of a Llama- or Qwen-like decoder: grouped-query attention, gated feed-forward.

    Norms and biases are left out of `total`: below 0.1 %.

    >>> round(decoder(28, 3584, 28, 4, 128, 18944, 152064, False).total / 1e9, 2)  # Qwen2.5-7B: 7.62 with biases
    7.62
    """
    attention = hidden * head_size * (2 * heads + 2 * kv_heads)
    body = float(layers * (attention + 3 * hidden * intermediate))
    head = float(vocabulary * hidden)
    return Shape(
        body=body,
        head=head,
        total=body + head * (1 if tied else 2),
        attention=float(layers * heads * head_size),
        kv=2.0 * layers * kv_heads * head_size,
        hidden=float(layers * hidden),
        intermediate=float(layers * intermediate),
        layers=float(layers),
    )


# From the models' config.json. Qwen2.5-1.5B is the model of the benchmarks on a GPU.
SHAPES = {
    "Qwen/Qwen2.5-Math-7B": decoder(28, 3584, 28, 4, 128, 18944, 152064, tied=False),
    "Qwen/Qwen2.5-1.5B": decoder(28, 1536, 12, 2, 128, 8960, 151936, tied=True),
    "Qwen/Qwen3-14B-Base": decoder(40, 5120, 40, 8, 128, 17408, 151936, tied=False),
    "Qwen/Qwen3-4B-Base": decoder(36, 2560, 32, 8, 128, 9728, 151936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": decoder(32, 4096, 32, 8, 128, 14336, 128256, tied=False),
}
_QWEN_7B = SHAPES["Qwen/Qwen2.5-Math-7B"]
TINY_VOCABULARY = 64  # about what the tokenizer of the tiny models has


def scaled(parameters: float) -> Shape:
    """A guess where only the number of parameters is known: Qwen2.5-7B, depth and width each by the 1/3 power."""
    share = parameters / _QWEN_7B.total
    width = share ** (2 / 3)
    return Shape(
        body=_QWEN_7B.body * share,
        head=_QWEN_7B.head * share,
        total=parameters,
        attention=_QWEN_7B.attention * width,
        kv=_QWEN_7B.kv * width,
        hidden=_QWEN_7B.hidden * width,
        intermediate=_QWEN_7B.intermediate * width,
        layers=_QWEN_7B.layers * share ** (1 / 3),
    )


@cache
def _of_folder(path: str) -> Shape | None:
    """The shape that a folder's config.json states; None without such a file, or if it is not of a dense decoder."""
    try:
        raw = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        if any("expert" in key for key in raw):
            return None
        hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
        return decoder(
            raw["num_hidden_layers"], hidden, heads, raw.get("num_key_value_heads") or heads,
            raw.get("head_dim") or hidden // heads, raw["intermediate_size"], raw["vocab_size"],
            tied=raw.get("tie_word_embeddings", False),  # the default of Llama and Qwen, which their files may omit
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def shape_of_model(entry: ModelBase) -> Shape:
    """The shape of an entry of models.yaml.

    Known by its repository, its folder's config.json or its own keys, else scaled to `parameters`.
    """
    if isinstance(entry, LocalModel) and (known := _of_folder(entry.path)):
        return known
    if isinstance(entry, HubModel) and entry.repo in SHAPES:
        return SHAPES[entry.repo]
    if isinstance(entry, TinyModel):
        return decoder(
            entry.layers, entry.hidden_size, entry.heads, entry.kv_heads, entry.hidden_size // entry.heads,
            entry.intermediate_size, TINY_VOCABULARY, tied=True,
        )  # fmt: skip
    return scaled(entry.parameters)
