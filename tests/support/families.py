"""Tiny random models of each family, with the keys that make the family what it is, and docs/models.md.

`.venv/bin/python tests/support/families.py` probes each of them and writes the table in docs/models.md again.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

VOCABULARY = 48
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": 3, "pad_token_id": 0,
}  # fmt: skip
WIDE = 0.2  # standard deviation of random matrices: logits of some nats, so that faults are seen


@dataclass(frozen=True)
class Family:
    """`like`: the models that it stands for. `architecture`: the prefix of its config's class in transformers."""

    like: str
    architecture: str
    keys: dict[str, Any]
    without: tuple[str, ...] = ()

    def config(self) -> Any:
        """Its config."""
        shape = {key: value for key, value in SHAPE.items() if key not in self.without}
        return getattr(transformers, f"{self.architecture}Config")(**shape | self.keys)

    def model(self) -> Any:
        """A random model in float32, the same whenever it is made; its norms and biases are random too."""
        config = self.config()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for p in model.parameters():
                    if p.dim() == 1:
                        p.add_(0.2 * torch.randn_like(p))
                    else:
                        p.normal_(0.0, WIDE)
        return model.eval()


def base_of(family: str, folder: Path, tokenizer_of: Path, **keys: object) -> Path:
    """A model folder of a family with the tokenizer of another one."""
    from srt.models.checkpoint import write_provenance

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_of)
    entry = FAMILIES[family]
    own = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    replace(entry, keys=entry.keys | own | keys).model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_provenance(folder)
    return folder


ROPE = {"rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0], "original_max_position_embeddings": 64,
}  # fmt: skip
NO_HEADS = ("num_key_value_heads", "head_dim")
GPT2 = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 128} | dict.fromkeys(
    ("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0
)
GPT2_WITHOUT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", *NO_HEADS
)  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXED = ["sliding_attention", "full_attention"]

FAMILIES: dict[str, Family] = {
    "llama3": Family("Llama 3", "Llama", {}),
    "llama31": Family("Llama 3.1, 3.2", "Llama", {"rope_parameters": LLAMA3}),
    "deepseek_llm": Family("DeepSeek-LLM, DeepSeek-Math", "Llama", {"num_key_value_heads": 4}),
    "smollm2": Family("SmolLM2", "Llama", {"tie_word_embeddings": True}),
    "smollm3": Family(
        "SmolLM3",
        "SmolLM3",
        {"num_hidden_layers": 5, "no_rope_layers": [1, 1, 1, 0, 1], "layer_types": None},
        ("head_dim",),
    ),
    "qwen2": Family("Qwen2, Qwen2.5", "Qwen2", {"tie_word_embeddings": True}),
    "qwen25_math": Family("Qwen2.5-Math-7B", "Qwen2", {}),
    "qwen2_window": Family(
        "Qwen2 with use_sliding_window",
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3_4b": Family("Qwen3-4B", "Qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    "qwen3_14b": Family("Qwen3-14B", "Qwen3", {"head_dim": 16}),
    "qwen3_moe": Family("Qwen3-30B-A3B", "Qwen3Moe", EXPERTS),
    "mistral": Family("Mistral-7B-v0.1", "Mistral", {"sliding_window": 6}),
    "mistral_full": Family("Mistral-7B-v0.3", "Mistral", {"sliding_window": None}),
    "phi3": Family("Phi-4", "Phi3", {"sliding_window": None}),
    "phi3_window": Family("Phi-3-mini-4k", "Phi3", {"sliding_window": 6}),
    "phi3_long": Family("Phi-3-mini-128k", "Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
    "gemma": Family("Gemma", "Gemma", {"tie_word_embeddings": True}),
    "gemma2": Family(
        "Gemma 2",
        "Gemma2",
        {
            "tie_word_embeddings": True,
            "sliding_window": 6,
            "layer_types": MIXED,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 8,
        },
    ),
    "gemma3": Family(
        "Gemma 3 (text)",
        "Gemma3Text",
        {"tie_word_embeddings": True, "sliding_window": 6, "layer_types": MIXED, "query_pre_attn_scalar": 8},
    ),
    "granite": Family(
        "Granite 3",
        "Granite",
        {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
        ("head_dim",),
    ),
    "cohere": Family("Command R", "Cohere", {"logit_scale": 0.25, "tie_word_embeddings": True}, ("head_dim",)),
    "cohere2": Family(
        "Command R7B",
        "Cohere2",
        {"logit_scale": 0.25, "tie_word_embeddings": True, "sliding_window": 6, "layer_types": MIXED},
    ),
    "olmo2": Family("OLMo 2", "Olmo2", {}, ("head_dim",)),
    "olmo3": Family("OLMo 3", "Olmo3", {"sliding_window": 6, "layer_types": MIXED}, ("head_dim",)),
    "gpt_neox": Family("Pythia, GPT-NeoX", "GPTNeoX", {}, NO_HEADS),
    "gpt2": Family("GPT-2", "GPT2", GPT2 | {"tie_word_embeddings": True}, GPT2_WITHOUT),
    "opt": Family(
        "OPT",
        "OPT",
        {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "tie_word_embeddings": True},
        ("intermediate_size", *NO_HEADS),
    ),
    "stablelm": Family("StableLM 2", "StableLm", {}, ("head_dim",)),
    "falcon": Family("Falcon-7B", "Falcon", {"multi_query": True, "alibi": False, "ffn_hidden_size": 48}, NO_HEADS),
    "falcon_alibi": Family("Falcon-RW", "Falcon", {"alibi": True, "multi_query": False}, NO_HEADS),
    "bloom": Family(
        "BLOOM", "Bloom", {"n_layer": 2, "n_head": 4}, ("num_hidden_layers", "num_attention_heads", *NO_HEADS)
    ),
    "gpt_oss": Family(
        "gpt-oss",
        "GptOss",
        {"sliding_window": 6, "layer_types": MIXED, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}


# -- the table -------------------------------------------------------------------------------------------------------

TABLE = Path(__file__).resolve().parents[2] / "docs/models.md"
BEGIN, END = "<!-- families -->", "<!-- end of families -->"
EXACT, SLOWER, REFUSED = "exact", "exact, slower", "refused"
HEAD = (
    "| models | config | training | log-probs | gradient | sampling | log-probs |\n"
    "|---|---|---|---|---|---|---|"
)  # fmt: skip


def training(model: Any) -> tuple[str, Any]:
    """The verdict of the trainer's probe, and what it measured; None where it refuses."""
    from srt.common.errors import SrtError
    from srt.packing import attention
    from srt.training.pack_probe import measure, problem

    try:
        with mock.patch.object(attention, "_explicit", wraps=attention._explicit) as explicit:
            measured = measure(model)
    except SrtError:
        return REFUSED, None
    if problem(measured) is not None:
        return REFUSED, measured
    return (SLOWER if explicit.called else EXACT), measured


def sampling(model: Any) -> tuple[str, float]:
    """The verdict of the transformers engine's probe, and the difference that it measured."""
    from srt.evaluation.engine_probe import LOGPROB_BOUND, measure_sampling
    from srt.rollout.kv_cache import OWN, decode_attention

    difference = measure_sampling(model)
    if difference > LOGPROB_BOUND:
        return REFUSED, difference
    return (SLOWER if decode_attention(model) == OWN else EXACT), difference


def row(name: str) -> str:
    """A family's line of the table."""
    family, model = FAMILIES[name], FAMILIES[name].model()
    (trained, measured), (sampled, difference) = training(model), sampling(model)
    numbers = ("", "") if measured is None else (f"{measured.logprob:.0e}", f"{measured.gradient:.0e}")
    cells = (family.like, f"`{model.config.model_type}`", trained, *numbers, sampled, f"{difference:.0e}")
    return f"| {' | '.join(cells)} |"


def verdicts() -> dict[str, tuple[str, str]]:
    """The verdicts on training and sampling in docs/models.md, by `Family.like`."""
    lines = TABLE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {like: (trained, sampled) for like, _, trained, _, _, sampled, _ in cells}


def write_table() -> None:
    """Probe all families and write their table."""
    text = TABLE.read_text(encoding="utf-8")
    table = "\n".join([BEGIN, HEAD, *(row(name) for name in FAMILIES), END])
    TABLE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(TABLE.parents[1] / "src"))
    write_table()
    print(TABLE.name)
