"""A random model of a real shape, its tokenizer, and problems: nothing is downloaded.

Most tokens stand for a boxed digit, so that the responses of a random model are answered, votes have majorities, and
rewards differ. About one token in `END_EVERY` ends a response, so that lengths differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.cost.shapes import Shape, decoder

END_EVERY = 48  # mean tokens of a response that is not cut
CONTEXT = 4096
# Standard deviation of logits, about. At 1.0, engine and trainer are 0.03 nats apart in bfloat16 for a random model of
# 28 layers, as errors grow with the logits: too near to the tolerance of 0.05.
SPREAD = 0.4
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@dataclass(frozen=True)
class Size:
    """A shape of a Qwen2 model, and how much is done with it.

    `prompts`, `responses`: of a training step. `new_tokens`: limit of a response. `longest`: tokens of the longest row
    whose packs are compared with the plain pass.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    prompts: int
    responses: int
    new_tokens: int
    longest: int

    @property
    def shape(self) -> Shape:
        """For the formulas of `srt.cost`."""
        head_size = self.hidden // self.heads
        return decoder(
            self.layers, self.hidden, self.heads, self.kv_heads, head_size, self.intermediate, self.vocabulary,
            self.tied,
        )  # fmt: skip


SIZES = {
    "tiny": Size(2, 128, 4, 2, 256, 512, True, prompts=2, responses=4, new_tokens=24, longest=96),
    "135m": Size(30, 576, 9, 3, 1536, 49152, True, prompts=8, responses=16, new_tokens=128, longest=2048),
    "1.5b": Size(28, 1536, 12, 2, 8960, 151936, True, prompts=8, responses=16, new_tokens=128, longest=2048),
    "7b": Size(28, 3584, 28, 4, 18944, 152064, False, prompts=8, responses=16, new_tokens=128, longest=2048),
}


def tokenizer_of(vocabulary: int) -> Any:
    """A byte-level tokenizer of `vocabulary` tokens: bytes, an end and a padding token, boxed digits."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    names += [f"\\boxed{{{i % 10}}}~{i}" for i in range(vocabulary - len(names) - 2)]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    end, pad = "<|endoftext|>", "<|pad|>"
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (end, pad)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=pad)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(folder: Path, size: Size, dtype: str, device: str) -> None:
    """Write a model with random weights, norms and biases in Hugging Face format."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from srt.models.checkpoint import write_provenance

    tokenizer = tokenizer_of(size.vocabulary)
    config = Qwen2Config(
        vocab_size=size.vocabulary, hidden_size=size.hidden, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.kv_heads, intermediate_size=size.intermediate,
        max_position_embeddings=CONTEXT, tie_word_embeddings=size.tied, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=size.hidden**-0.5, dtype=dtype,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(getattr(torch, dtype))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:  # constants, which would hide a mistake in how they are applied
                    noise = torch.randn_like(parameter)
                    parameter.add_(0.1 * noise) if "norm" in name else parameter.copy_(0.1 * noise)
            model.model.norm.weight.mul_(SPREAD)
    ends = range(0, size.vocabulary, END_EVERY)
    model.generation_config.eos_token_id = sorted({tokenizer.eos_token_id, *ends})
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    model.to("cpu").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_provenance(folder)


def make_problems(path: Path, count: int) -> None:
    """Write a table of `count` sums of two digits with their answers."""
    from srt.data.problem_table import make_table, write_problems

    rows: list[dict[str, str | None]] = []
    for i in range(count):
        a, b = i % 10, i // 10 % 10
        rows.append(
            {"id": f"sum-{i}", "problem": f"What is {a} + {b}?", "answer": str(a + b), "source": "gpu-check",
             "subject": "sums", "level": "1", "task": "math"}
        )  # fmt: skip
    write_problems(path, make_table(rows), "sums")
