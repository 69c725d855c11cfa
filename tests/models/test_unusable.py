"""Models that cannot be used are refused in one sentence when their rule runs, and when a job loads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from srt.common.errors import SrtError
from srt.models.base_models import make
from srt.models.checkpoint import load_model, write_provenance
from srt.models.tiny import build_tokenizer

ROWS = 272  # rows of the embeddings, of which the tokenizer uses 265
NORM, DEEP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer, which is usable."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=ROWS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, tie_word_embeddings=False, bos_token_id=None, eos_token_id=263, pad_token_id=264,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    build_tokenizer(" Go.").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "folder"))


def build(folder: Path, **keys: Any) -> Path:
    """What the model's rule does; the model's folder."""
    out = folder.with_name("made")
    make("m", {"source": "local", "path": str(folder), "revision_of_code": 1, **keys}, out)
    return out


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def settings(name: str, **changes: Any) -> Callable[[Path], object]:
    """Change keys of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        content = {key: value for key, value in content.items() if key not in changes or value is not None}
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def config(**changes: Any) -> Callable[[Path], object]:
    return settings("config.json", **changes)


def tensors(**changes: torch.Tensor | None) -> Callable[[Path], object]:
    """Replace, add or (None) remove tensors; dots are written as two underscores."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors") | {k.replace("__", "."): v for k, v in changes.items()}
        save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")

    return change


def shards(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file_of = {k: f"model-0000{1 + (k == NORM)}-of-00002.safetensors" for k in weights}
    for name in set(file_of.values()):
        save_file({k: weights[k] for k in weights if file_of[k] == name}, folder / name)
    write("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": file_of}))(folder)
    return file_of


def sharded(spoil: Callable[[Path, dict[str, str]], object]) -> Callable[[Path], object]:
    return lambda folder: spoil(folder, shards(folder))


def reindex(folder: Path, file_of: dict[str, str]) -> None:
    write("model.safetensors.index.json", json.dumps({"weight_map": file_of}))(folder)


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def token_without_row(folder: Path) -> None:
    tokenizer = build_tokenizer(" Go.")
    tokenizer.add_tokens([f"<extra{i}>" for i in range(8)])
    tokenizer.save_pretrained(folder)


def template(text: str, **tokens: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tokenizer = build_tokenizer(" Go.")
        for key, token in tokens.items():
            setattr(tokenizer, key, token)
        tokenizer.chat_template = text
        tokenizer.save_pretrained(folder)

    return change


def spoilt(value: float) -> torch.Tensor:
    tensor = torch.ones(32, 16)
    tensor[3, 5] = value
    return tensor


FILES = {  # found before anything is copied
    "no config": (without("config.json"), r"path: .*folder has no config\.json: name a folder in Hugging Face format"),
    "damaged config": (write("config.json", '{"model_type": '), r"config\.json is not JSON .*: copy the file again"),
    "config of another kind": (write("config.json", "[]"), r"config\.json is not an object"),
    "damaged generation config": (write("generation_config.json", "{"), r"generation_config\.json is not JSON"),
    "damaged tokenizer": (write("tokenizer.json", "{"), r"tokenizer\.json is not JSON"),
    "LFS pointer": (
        write("model.safetensors", LFS),
        r"model\.safetensors is a Git LFS pointer .* `git lfs pull` there",
    ),
    "LFS pointer of the tokenizer": (write("tokenizer.json", LFS), r"tokenizer\.json is a Git LFS pointer"),
    "adapter": (write("adapter_config.json", "{}"), r"has an adapter .* merge it with peft .*merge_and_unload"),
    "no weights": (without("model.safetensors"), r"has no \.safetensors file .* \(pickled weights are refused\)"),
    "pickled weights": (pickled, r"file that is a model's but pytorch_model\.bin: convert it"),
    "empty weights": (write("model.safetensors", ""), r"model\.safetensors is damaged or cut short .*: copy it again"),
    "cut weights": (cut, r"model\.safetensors is damaged or cut short"),
    "missing shard": (
        sharded(lambda folder, _: (folder / "model-00002-of-00002.safetensors").unlink()),
        r"model-00002-of-00002\.safetensors does not exist, though model\.safetensors\.index\.json names it",
    ),
    "shard absent from the index": (
        sharded(lambda folder, file_of: reindex(folder, {k: f for k, f in file_of.items() if k != NORM})),
        r"index\.json does not name model-00002-of-00002\.safetensors",
    ),
    "tensor absent from the index": (
        sharded(lambda folder, file_of: reindex(folder, {k: f for k, f in file_of.items() if k != DEEP})),
        rf"index\.json does not list {DEEP} of model-00001-of-00002",
    ),
    "tensor absent from its shard": (
        sharded(lambda folder, file_of: reindex(folder, file_of | {"other": file_of[NORM]})),
        r"model-00002-of-00002\.safetensors lacks other, which .*index\.json says it has",
    ),
    "shards without index": (
        sharded(lambda folder, _: (folder / "model.safetensors.index.json").unlink()),
        r"has model-00001-of-00002\.safetensors but no model\.safetensors\.index\.json",
    ),
    "index outside the folder": (
        sharded(lambda folder, file_of: reindex(folder, dict.fromkeys(file_of, "../model.safetensors"))),
        r"has no weight_map from tensors to files beside it",
    ),
    "both forms": (write("model.safetensors.index.json", "{}"), r"has both model\.safetensors and model\.safeten"),
}
LOADED = {  # found whenever the model is loaded
    "unknown family": (config(model_type="novel"), r"model_type: transformers \d\S* has no 'novel': choose"),
    "own code": (
        config(model_type="novel", auto_map={"AutoModelForCausalLM": "modeling_novel.Novel"}),
        r"has no 'novel', and code that comes with a model \(auto_map\) is never run",
    ),
    "no family": (config(model_type=None), r"has no 'None'"),
    "wrong type in the config": (config(hidden_size="16"), r"models: m: cannot be read as a model \(.*hidden_size"),
    "masked language model": (config(model_type="bert", architectures=["BertForMaskedLM"]), r"'bert' has an encoder"),
    "encoder with a decoder": (config(model_type="t5"), r"'t5' has an encoder: choose a decoder-only model"),
    "vision": (config(model_type="qwen2_vl"), r"'qwen2_vl' reads more than text"),
    "classifier": (
        config(architectures=["Qwen2ForSequenceClassification"]),
        r"Qwen2ForSequenceClassification is no causal language model \(that of 'qwen2' is Qwen2ForCausalLM\)",
    ),
    "no language model": (config(model_type="vit", architectures=None), r"vit is no causal language model: choose"),
    "quantised": (config(quantization_config={"quant_method": "gptq"}), r"the weights are quantised \(gptq\)"),
    "integer weights": (
        tensors(model__layers__1__mlp__up_proj__weight=torch.ones(32, 16, dtype=torch.int8)),
        rf"{DEEP} is stored as I8: the weights are quantised",
    ),
    "missing tensor": (tensors(model__norm__weight=None), rf"models: m: the weights lack {NORM}: copy all files"),
    "missing layer": (config(num_hidden_layers=3, layer_types=None), r"lack model\.layers\.2\.\S+ \(and 11 more\)"),
    "missing head": (tensors(lm_head__weight=None), r"lack lm_head\.weight: .* set tie_word_embeddings in its config"),
    "missing head, key absent": (
        lambda folder: (tensors(lm_head__weight=None)(folder), config(tie_word_embeddings=None)(folder)),
        r"lack lm_head\.weight",
    ),
    "unexpected tensor": (tensors(adapter__weight=torch.ones(2)), r"adapter\.weight is no part of Qwen2ForCausalLM"),
    "unexpected layer": (
        config(num_hidden_layers=1, layer_types=None), r"model\.layers\.1\.\S+ \(and 11 more\) is no part of"
    ),
    "other shape": (tensors(model__norm__weight=torch.ones(17)), rf"{NORM} has shape \[17\], but .* asks for \[16"),
    "no elements": (tensors(model__norm__weight=torch.ones(0)), rf"{NORM} has shape \[0\]"),
    "nan": (tensors(model__layers__1__mlp__up_proj__weight=spoilt(float("nan"))), rf"{DEEP} has values that are not"),
    "infinite": (tensors(model__layers__1__mlp__up_proj__weight=spoilt(float("-inf"))), rf"{DEEP} has values"),
    "two heads": (config(tie_word_embeddings=True), r"tie_word_embeddings is true, but the head has weights"),
    "no tokenizer": (
        without("tokenizer.json", "tokenizer_config.json"), r"the tokenizer makes '' of .*: add tokenizer\.json"
    ),
    "half a tokenizer": (without("tokenizer.json"), r"the tokenizer makes '' of"),
    "end token without a row": (settings("generation_config.json", eos_token_id=[263, 272]), r"eos_token_id: 272 is"),
    "end token by name": (settings("generation_config.json", eos_token_id="<|endoftext|>"), r"'<\|endoftext\|>' is"),
    "no end token": (
        lambda folder: (
            template("{{ messages[0]['content'] }}", eos_token=None)(folder),
            settings("generation_config.json", eos_token_id=None)(folder), config(eos_token_id=None)(folder),
        ),
        r"names no end-of-sequence token: set eos_token_id",
    ),
}  # fmt: skip
PROMPTS = {  # found when prompts are made
    "token without a row": (token_without_row, r"token '<extra7>' has number 272, but the embeddings have 272 rows"),
    "no chat template": (without("chat_template.jinja"), r"the tokenizer has no chat template: set prompt_temp"),
    "damaged template": (write("chat_template.jinja", "{{ messages["), r"cannot render a turn .*: set another"),
    "template that refuses": (
        write("chat_template.jinja", "{{ raise_exception('system first') }}"), r"cannot render .* \(system first\)"
    ),
    "template without the problem": (write("chat_template.jinja", "Go."), r"leaves out the problem"),
    "doubled beginning": (
        template("{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}", bos_token="<|pad|>"),
        r"begins with '<\|pad\|>' \(264\) twice: remove one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*FILES, *LOADED, *PROMPTS])
def test_the_models_rule_refuses_it_in_one_sentence(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("a library asked on standard input")

    monkeypatch.setattr("builtins.input", ask)
    spoil, sentence = (FILES | LOADED | PROMPTS)[kind]
    spoil(folder)
    with pytest.raises(SrtError, match=sentence) as caught:
        build(folder)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("models: m: ")
    assert not folder.with_name("made").exists()
    assert capsys.readouterr().err == "", "the sentence is all that is said"


@pytest.mark.parametrize("kind", LOADED)
def test_so_does_a_job_that_loads_one_made_earlier(kind: str, folder: Path) -> None:
    spoil, sentence = LOADED[kind]
    spoil(folder)
    write_provenance(folder)
    with pytest.raises(SrtError, match=sentence.replace("models: m: ", "folder: ")) as caught:
        load_model(folder, "float32")
    assert "\n" not in str(caught.value)


def test_a_whole_model_is_made(folder: Path) -> None:
    made = build(folder)
    assert {p.name for p in made.iterdir()} == {p.name for p in folder.iterdir()} | {"srt.json"}
    model, tokenizer, ends = load_model(made, "float32")
    assert ends == [263] and len(tokenizer) == 265 and model.lm_head.weight.shape[0] == ROWS


def test_so_is_one_in_shards(folder: Path) -> None:
    expected = load_file(folder / "model.safetensors")
    shards(folder)
    model, *_ = load_model(build(folder), "float32")
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_names_of_older_checkpoints_are_those_of_the_same_model(family: str, folder: Path) -> None:
    """GPT-2 without the prefix and with its masks as tensors, Llama with inverse frequencies: nothing is refused."""
    common = {"vocab_size": ROWS, "bos_token_id": None, "eos_token_id": 263, "pad_token_id": 264}
    if family == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **common))
        more = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(2)}
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **common))
        more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    model.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    save_file({k.removeprefix("transformer."): v for k, v in stored.items()} | more, folder / "model.safetensors")
    loaded, *_ = load_model(build(folder), "float32")
    expected = dict(model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in loaded.named_parameters())
