"""What an entry changes in a model's prompts and end tokens, and what comes with a model and is used or mended."""

from __future__ import annotations

import json
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import chat_template_utils

from srt.common.errors import SrtError
from srt.common.io import read_json
from srt.config.prompt_templates import PROMPT_TEMPLATES, template_text
from srt.data.prompts import render, render_all
from srt.models.base_models import make
from srt.models.checkpoint import load_model
from srt.models.customise import DIRECTIVES, with_date
from srt.models.tiny import PAD, build_tokenizer
from srt.rollout import Sampling
from srt.rollout.transformers_engine import TransformersEngine

LLAMA = (  # how Llama 3.1's template gets its date
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    'Today Date: {{ date_string }}\n\n{{ messages[0]["content"] }}\n'
)


def build(tiny_base: Path, out: Path, template: str | None = None, **keys: Any) -> Path:
    """The tiny base with another chat template, made again with these keys of a local model."""
    source = out.with_name("source")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(tiny_base, source)
    (source / "srt.json").unlink()
    if template is not None:
        (source / "chat_template.jinja").write_text(template, encoding="utf-8")
    make("m", {"source": "local", "path": str(source), "revision_of_code": 1, **keys}, out)
    return out


def prompt(folder: Path, problem: str = "1 + 2 =") -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (ids,), _ = render_all(tokenizer, ["a"], [problem], " Go.", 1000)
    return str(tokenizer.decode(ids))


# -- templates ------------------------------------------------------------------------------------------------------

BUILT = build_tokenizer(" Go.")
FIELD = {  # as strings, in sail-sg/understand-r1-zero (train_zero_math.py)
    "qwen_math": lambda question: (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n"
    ),
    "r1_zero": lambda question: (
        "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The "
        "Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
        "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\nUser: "
        + question + "\nAssistant: <think>"
    ),
    "plain": lambda question: question,
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPT_TEMPLATES)
@settings(max_examples=50, deadline=None)
@given(question=st.text(st.characters(codec="ascii"), min_size=1))
def test_named_templates_are_the_texts_of_the_field(name: str, question: str) -> None:
    messages = [{"role": "user", "content": question}]
    text = BUILT.apply_chat_template(
        messages, chat_template=template_text(name, BUILT), add_generation_prompt=True, tokenize=False
    )
    assert text == FIELD[name](question)


def test_a_named_template_begins_as_the_tokenizer_would() -> None:
    """Plain strings get the tokenizer's own first token; a template of the user has it only where it says so."""
    tokenizer = build_tokenizer(" Go.")
    tokenizer.bos_token = PAD
    assert template_text("plain", tokenizer) == PROMPT_TEMPLATES["plain"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{PAD} $A", special_tokens=[(PAD, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = template_text("plain", tokenizer)
    assert render(tokenizer, "1 + 2", "") == tokenizer("1 + 2")["input_ids"]
    assert template_text("{{ messages }}", tokenizer) == "{{ messages }}"


def test_the_template_stays_with_the_model_and_its_checkpoints(tiny_base: Path, tmp_path: Path) -> None:
    own = "Q: {{ messages[0]['content'] }}\nA:"
    for number, (given_, shown) in enumerate(
        [("qwen_math", FIELD["qwen_math"]("1 + 2 = Go.")), (own, "Q: 1 + 2 = Go.\nA:")]
    ):
        made = build(tiny_base, tmp_path / str(number) / "m", prompt_template=given_)
        assert prompt(made) == shown and read_json(made / "srt.json")["source"]["prompt_template"] == given_
        AutoTokenizer.from_pretrained(made).save_pretrained(tmp_path / "checkpoint")
        assert prompt(tmp_path / "checkpoint") == shown


def test_it_replaces_several_templates_by_name_and_one_that_is_missing(tiny_base: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    shutil.copytree(tiny_base, several)
    (several / "chat_template.jinja").unlink()
    settings_ = read_json(several / "tokenizer_config.json")
    named = [{"name": n, "template": f"{n} {{{{ messages[0]['content'] }}}}"} for n in ("default", "tool_use")]
    (several / "tokenizer_config.json").write_text(json.dumps(settings_ | {"chat_template": named}), encoding="utf-8")
    assert prompt(build(several, tmp_path / "a/m")) == "default 1 + 2 = Go."
    assert prompt(build(several, tmp_path / "b/m", prompt_template="plain")) == "1 + 2 = Go."
    (several / "tokenizer_config.json").write_text(json.dumps(settings_), encoding="utf-8")
    with pytest.raises(SrtError, match="models: m: the tokenizer has no chat template: set prompt_template"):
        build(several, tmp_path / "c/m")
    assert prompt(build(several, tmp_path / "d/m", prompt_template="plain")) == "1 + 2 = Go."


def test_solved_examples_precede_the_prompt_of_any_model(tiny_base: Path, tmp_path: Path) -> None:
    template = "{% for turn in messages %}{{ turn.role[0] }}: {{ turn.content }}\n{% endfor %}"
    examples = [{"user": "2 + 2 = Go.", "assistant": "It is \\boxed{4}."}]
    made = build(tiny_base, tmp_path / "m", template, examples=examples)
    shown = "u: 2 + 2 = Go.\na: It is \\boxed{4}.\nu: 1 + 2 = Go.\n"
    assert prompt(made) == shown
    assert prompt(build(made, tmp_path / "again/m", examples=examples)) == shown, "once, in a checkpoint's prompts too"
    with pytest.raises(SrtError, match="examples: prompt_template plain has one turn only: write a template in Jinja"):
        build(tiny_base, tmp_path / "n", prompt_template="plain", examples=examples)


# -- dates ----------------------------------------------------------------------------------------------------------


def set_clock(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Let transformers' templates read a clock that is some days ahead."""

    class Clock:
        @staticmethod
        def now() -> datetime:
            return datetime.now() + timedelta(days=days)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def test_prompts_do_not_change_with_the_day(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer(" Go.")
    tokenizer.chat_template, seen = LLAMA, set()
    for days in (0, 1):  # without what follows
        set_clock(monkeypatch, days)
        seen.add(tuple(render(tokenizer, "1 + 2 =", "")))
    assert len(seen) == 2
    with pytest.raises(SrtError, match=r"prints today's date: make the model again, .* \(key prompt_date\)"):
        render_all(tokenizer, ["a"], ["1"], "", 1000)

    made = build(tiny_base, tmp_path / "a/m", LLAMA)
    for days in (0, 1):
        set_clock(monkeypatch, days)
        assert prompt(made) == "Today Date: 26 Jul 2024\n\n1 + 2 = Go."
    assert read_json(made / "srt.json")["prompt_date"] == "2024-07-26"
    other = build(tiny_base, tmp_path / "b/m", LLAMA, prompt_date="2025-01-02")
    assert prompt(other).startswith("Today Date: 02 Jan 2025\n")
    assert read_json(other / "srt.json")["prompt_date"] == "2025-01-02"
    with pytest.raises(SrtError, match="models: m: prompt_date: the chat template prints no date: remove the key"):
        build(tiny_base, tmp_path / "c/m", prompt_date="2025-01-02")
    assert "prompt_date" not in read_json(build(tiny_base, tmp_path / "d/m") / "srt.json")


@pytest.mark.parametrize("day", [date(2024, 7, 6), date(1999, 12, 31), date(2025, 11, 10)])
def test_the_fixed_date_is_formatted_as_the_clock_would_be(day: date) -> None:
    template = with_date("{{ strftime_now(messages[0]['content']) }}", day)
    for form in [*DIRECTIVES, "%d %b %Y", "%B %-d, %Y", "%%d %d%%", "%%%d", "100 %", "%Y-%m-%d%H:%M:%S", ""]:
        messages = [{"role": "user", "content": form}]
        shown = BUILT.apply_chat_template(messages, chat_template=template, tokenize=False)
        assert shown == day.strftime(form), form


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_further_end_tokens_end_a_response(tiny_base: Path, tmp_path: Path) -> None:
    _, tokenizer, ends = load_model(tiny_base, "float32")
    made = build(tiny_base, tmp_path / "m", end_tokens=["; ", "7"])
    model, _, more = load_model(made, "float32")
    assert more == sorted({*ends, *tokenizer.convert_tokens_to_ids(["; ", "7"])})
    assert {k: v for k, v in read_json(made / "generation_config.json").items() if k != "eos_token_id"} == {
        k: v for k, v in read_json(tiny_base / "generation_config.json").items() if k != "eos_token_id"
    }
    (group,) = TransformersEngine(model, more).generate([render(tokenizer, "3 + 4 =", "")], ["a"], Sampling(8))
    assert all(set(r.token_ids[:-1]).isdisjoint(more) for r in group)
    with pytest.raises(
        SrtError, match=r"models: m: end_tokens: '<\|im_end\|>' is not a token of the model's tokenizer"
    ):
        build(tiny_base, tmp_path / "n", end_tokens=["<|im_end|>"])
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("form", ["list", "padding is the end", "no padding", "in config.json only", "tokenizer only"])
def test_end_and_padding_tokens_of_any_form_draw_the_same_responses(form: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_base, folder)
    end = read_json(folder / "config.json")["eos_token_id"]
    change = {
        "list": {"generation_config.json": {"eos_token_id": [end]}, "config.json": {"eos_token_id": [end]}},
        "padding is the end": {"generation_config.json": {"pad_token_id": end}, "config.json": {"pad_token_id": end}},
        "no padding": {"generation_config.json": {"pad_token_id": None}, "config.json": {"pad_token_id": None},
                       "tokenizer_config.json": {"pad_token": None}},
        "in config.json only": {"generation_config.json": None},
        "tokenizer only": {"generation_config.json": {"eos_token_id": None}, "config.json": {"eos_token_id": None}},
    }[form]  # fmt: skip
    for name, keys in change.items():
        content = read_json(folder / name)
        (folder / name).unlink()
        if keys is not None:
            (folder / name).write_text(json.dumps(content | keys), encoding="utf-8")
    drawn = []
    for each in (tiny_base, folder):
        model, tokenizer, ends = load_model(each, "float32")
        assert ends == [end]
        (group,) = TransformersEngine(model, ends).generate([render(tokenizer, "3 + 4 =", "")], ["a"], Sampling(4))
        drawn.append([r.token_ids.tolist() for r in group])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("family", "tied"), [("gemma", True), ("llama", False), ("qwen2", False), ("gpt2", True)])
def test_where_tying_is_not_stated_the_class_decides_for_both_engines(family: str, tied: bool, tmp_path: Path) -> None:
    from srt.rollout.vllm_engine import _ties_embeddings

    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    assert _ties_embeddings(tmp_path) is tied is bool(AutoConfig.from_pretrained(tmp_path).tie_word_embeddings)


def test_sampling_settings_that_contradict_each_other_do_not_stop_the_save(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`do_sample: false` with a temperature: transformers refuses to save it, which was noticed after the last step."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_base, folder)
    file = folder / "generation_config.json"
    file.write_text(
        json.dumps(read_json(file) | {"do_sample": False, "temperature": 0.6, "top_p": 0.9}), encoding="utf-8"
    )
    model, _, ends = load_model(folder, "float32")
    said = capsys.readouterr().err
    assert "m: generation_config.json contradicts itself, so only its tokens are used (`temperature`:" in said
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/srt.json").write_text('{"fingerprint": "0"}', encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "saved")
    assert load_model(tmp_path / "saved", "float32")[2] == ends
    assert "temperature" not in read_json(tmp_path / "saved/generation_config.json")


def test_rows_without_a_token_may_be_drawn_and_have_no_text(tiny_base: Path, tmp_path: Path) -> None:
    """Vocabularies are padded: a row that no token has is drawn like any other, ends nothing and says nothing."""
    model, tokenizer, ends = load_model(tiny_base, "float32")
    model.resize_token_embeddings(len(tokenizer) + 7, mean_resizing=False)
    source = tmp_path / "padded"
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    make("m", {"source": "local", "path": str(source), "revision_of_code": 1}, tmp_path / "m")
    padded, same, _ = load_model(tmp_path / "m", "float32")
    padded.get_input_embeddings().weight.data[len(tokenizer) :] *= 1000  # so that they are drawn
    (group,) = TransformersEngine(padded, ends).generate([render(same, "3 + 4 =", "")], ["a"], Sampling(4))
    drawn = [i for r in group for i in r.token_ids.tolist()]
    assert max(drawn) >= len(same) and max(drawn) < len(same) + 7
    texts = same.batch_decode([r.token_ids for r in group], skip_special_tokens=True)
    assert texts == same.batch_decode(
        [[i for i in r.token_ids.tolist() if i < len(same)] for r in group], skip_special_tokens=True
    )
