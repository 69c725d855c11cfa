"""Prompts: the problem and a suffix as one user turn in the model's own chat template (as the authors did)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srt.common.errors import SrtError


def render(tokenizer: Any, problem: str, suffix: str) -> list[int]:
    """Token ids of one problem's prompt: a user turn in the chat template, followed by the generation prompt."""
    messages = [{"role": "user", "content": problem + suffix}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_all(
    tokenizer: Any, ids: Sequence[str], problems: Sequence[str], suffix: str, max_prompt_tokens: int
) -> tuple[list[list[int]], list[str]]:
    """One prompt per problem, and the ids of problems whose prompt is longer than `max_prompt_tokens`.

    The prompt of an over-long problem is an empty list, so that positions match `problems`; the caller drops and counts
    these problems.
    """
    prompts, too_long = [], []
    for problem_id, problem in zip(ids, problems, strict=True):
        tokens = render(tokenizer, problem, suffix)
        if len(tokens) > max_prompt_tokens:
            too_long.append(problem_id)
            tokens = []
        prompts.append(tokens)
    if len(too_long) == len(prompts) and prompts:
        raise SrtError(
            f"every one of the {len(prompts)} prompts is longer than max_prompt_tokens={max_prompt_tokens}: "
            "raise it in the config"
        )
    return prompts, too_long
