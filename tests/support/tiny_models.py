"""Random models of each family with a vocabulary of 30 tokens, and forward passes without packing as a reference."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 30
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def make_model(tied: bool = True, dtype: str = "float32", family: str = "qwen2"):
    torch.manual_seed(0)
    make, build = FAMILIES[family]
    config = make(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=None, eos_token_id=3, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    return build(config).eval().to(getattr(torch, dtype))


def one_by_one(model, prompt: list[int], response: np.ndarray, temperature: float) -> torch.Tensor:
    """The log-probs [T, V] that predict each response token, from one unpadded pass with a full head."""
    ids = torch.tensor([[*prompt, *response.tolist()]])
    return (model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)


def double_norm(self, hidden: torch.Tensor) -> torch.Tensor:
    """Transformers' norm in the model's own type: theirs computes in float32, whose rounding would hide errors."""
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
