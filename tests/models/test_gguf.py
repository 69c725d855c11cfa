"""GGUF files: a whole one becomes a model, others are refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srt.common.errors import SrtError
from srt.common.io import sha256_file
from srt.models.base_models import make
from srt.models.checkpoint import load_model

pytestmark = pytest.mark.smollm
TOKENS = [*(chr(c) for c in range(33, 127)), "Ġ", "ab", "<|endoftext|>"]
WIDTH, INNER = 8, 16
TENSORS = {
    "token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,), "output.weight": (len(TOKENS), WIDTH),
    "blk.0.attn_norm.weight": (WIDTH,), "blk.0.ffn_norm.weight": (WIDTH,),
    **{f"blk.0.attn_{k}.weight": (WIDTH, WIDTH) for k in ("q", "k", "v", "output")},
    "blk.0.ffn_gate.weight": (INNER, WIDTH), "blk.0.ffn_up.weight": (INNER, WIDTH),
    "blk.0.ffn_down.weight": (WIDTH, INNER),
}  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package."""
    folder = tmp_path / "weights_in_a_wheel"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def write(file: Path, family: str = "llama", **changes: tuple[int, ...] | None) -> None:
    """A random Llama of one layer; tensors (dots as two underscores) get another shape, or (None) are left out."""
    GGUFWriter = pytest.importorskip("gguf").GGUFWriter  # from make setup-smollm

    writer = GGUFWriter(str(file), family)
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(TOKENS) - 1)
    rng = np.random.default_rng(0)
    shapes: dict[str, Any] = TENSORS | {name.replace("__", "."): shape for name, shape in changes.items()}
    for name, shape in shapes.items():
        if shape is not None:
            writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def build(package: Path) -> Path:
    out = package.parent / "made"
    file = package / "m.gguf"
    spec = {"source": "gguf", "package": package.name, "file": file.name, "sha256": sha256_file(file)}
    make("m", {**spec, "prompt_template": "plain", "revision_of_code": 1}, out)
    return out


def test_a_whole_file_becomes_a_model(package: Path) -> None:
    write(package / "m.gguf")
    model, tokenizer, ends = load_model(build(package), "float32")
    assert ends == [len(TOKENS) - 1] and tokenizer.decode(tokenizer("1 + 2")["input_ids"]) == "1 + 2"
    assert sum(p.numel() for p in model.parameters()) == sum(int(np.prod(shape)) for shape in TENSORS.values())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda f: write(f, "novel"),
            r"cannot be read as a model \(GGUF model with architecture novel is not supported",
        ),
        (lambda f: write(f, "bert"), r"cannot be read as a model \(GGUF model with architecture bert is not supported"),
        (lambda f: f.write_bytes(b"version https://git-lfs"), r"cannot be read as a model \(.* not a GGUF file"),
        (lambda f: (write(f), f.write_bytes(f.read_bytes()[:300])), r"cannot be read as a model \("),
        (
            lambda f: write(f, blk__0__ffn_up__weight=None),
            r"the weights lack model\.layers\.0\.mlp\.up_proj\.weight: copy",
        ),
        (
            lambda f: write(f, output_norm__weight=(9,)),
            r"model\.norm\.weight has shape \[9\], but config\.json asks for \[8\]",
        ),
    ],
)
def test_others_are_refused_in_one_sentence(package: Path, spoil: Any, sentence: str) -> None:
    spoil(package / "m.gguf")
    with pytest.raises(SrtError, match=rf"^models: m: (file: m\.gguf: )?{sentence}") as caught:
        build(package)
    assert "\n" not in str(caught.value)
