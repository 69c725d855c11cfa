"""Qwen2.5-Math's default system turn, which the authors' prompts have: checked when the model's rule runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from srt.common.errors import SrtError
from srt.config import load_config, read_yaml
from srt.config.prompt_templates import template_text
from srt.models.base_models import SYSTEM_TURNS, check_system_turn, make
from srt.models.tiny import build_tokenizer
from support import ROOT

TEMPLATE = Path(__file__).with_name("qwen2_5_math.jinja").read_text(encoding="utf-8")
REPO = "Qwen/Qwen2.5-Math-7B"
USER = [{"role": "user", "content": "1 + 2 ="}]


def test_the_turn_is_that_of_the_template() -> None:
    tokenizer = build_tokenizer(" Go.")
    plain, named = (
        tokenizer.apply_chat_template(USER, chat_template=text, add_generation_prompt=True, tokenize=False)
        for text in (TEMPLATE, template_text("qwen_math", tokenizer))
    )
    assert plain == named == (
        f"<|im_start|>system\n{SYSTEM_TURNS[REPO]}<|im_end|>\n<|im_start|>user\n1 + 2 =<|im_end|>\n"
        "<|im_start|>assistant\n"
    )  # fmt: skip


def source(tiny_base: Path, folder: Path, template: str) -> Path:
    shutil.copytree(tiny_base, folder)
    (folder / "srt.json").unlink()
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


WITHOUT = {
    "none": TEMPLATE.replace('[{"role": "system", "content": default}] + messages', "messages"),
    "other": TEMPLATE.replace("Please reason step by step", "You are a helpful assistant"),
    "later": TEMPLATE.replace("default}] + messages", "default}] + messages if messages | length > 1 else messages"),
}


@pytest.mark.parametrize("lacks", WITHOUT)
def test_a_template_without_it_is_refused(lacks: str, tiny_base: Path, tmp_path: Path) -> None:
    check_system_turn(source(tiny_base, tmp_path / "good", TEMPLATE), SYSTEM_TURNS[REPO], "models: m")
    assert WITHOUT[lacks] != TEMPLATE
    with pytest.raises(SrtError, match=r"^models: m: the prompts lack the system turn 'Please reason .* \(they begin"):
        check_system_turn(source(tiny_base, tmp_path / "bad", WITHOUT[lacks]), SYSTEM_TURNS[REPO], "models: m")


def test_the_rule_checks_models_of_these_repositories(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = source(tiny_base, tmp_path / ("a" * 40), WITHOUT["none"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(found))

    def entry(repo: str, **keys: Any) -> dict[str, Any]:
        return {"source": "hub", "repo": repo, "revision": "a" * 40, "revision_of_code": 1, **keys}

    with pytest.raises(SrtError, match=rf"models: qwen: {REPO}: the prompts lack the system turn"):
        make("qwen", entry(REPO), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make("qwen", entry(REPO, prompt_template="plain"), tmp_path / "out")  # the user's prompts are the user's
    make("other", entry("lab/other"), tmp_path / "other")


def test_all_such_models_of_the_paper_are_checked() -> None:
    models = load_config(read_yaml(ROOT / "config/config.yaml"), ROOT, "config/config.yaml").models
    named = {entry.repo for entry in models.values() if entry.source == "hub" and "Qwen2.5-Math" in entry.repo}
    assert named == set(SYSTEM_TURNS)
