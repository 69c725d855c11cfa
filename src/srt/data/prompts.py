"""Prompts: the problem and a suffix as one user turn in the model's own chat template (as the authors did)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import TemplateError

from srt.common.errors import SrtError
from srt.common.own_code import load

Prompt = Callable[..., Any]
PROBLEM = "12 + 34 ="  # of the prompt that tries a template
FIXED_DATE = "macro strftime_now("  # hides the function of this name, which reads the clock (srt.models.customise)


def template_of(tokenizer: Any) -> str:
    """The chat template that prompts are made with, the default one if there are several.

    Raises:
        SrtError: there is none.
    """
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise SrtError("the tokenizer has no chat template: set prompt_template for this model") from None


def render(tokenizer: Any, problem: str, suffix: str, prompt: Prompt | None = None) -> list[int]:
    """Token ids of one problem's prompt: a user turn in the chat template, followed by the generation prompt.

    `prompt`: a function of the user, which makes the turns instead.

    Special tokens are those of the template: the tokenizer adds none of its own.

    Raises:
        SrtError: there is no template, or it refuses the turn.
    """
    template = template_of(tokenizer)
    turns = problem + suffix if prompt is None else prompt(problem=problem, suffix=suffix)
    messages = _messages(turns)
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise SrtError(
            f"the chat template cannot render a turn of the user ({str(error) or type(error).__name__}): set another "
            "prompt_template for this model"
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _messages(turns: Any) -> list[dict[str, str]]:
    """The turns of a prompt: text is one turn of the user; otherwise a list of mappings with role and content."""
    if isinstance(turns, str):
        return [{"role": "user", "content": turns}]
    fits = (
        isinstance(turns, list) and turns and all(isinstance(t, dict) and set(t) == {"role", "content"} for t in turns)
    )
    if not fits:
        raise SrtError(f"the function `prompt` returned {turns!r}: return text, or a list of {{role, content}}")
    return turns


def reads_clock(template: str) -> bool:
    """Whether prompts of this template change with the day on which they are made."""
    return "strftime_now" in template and FIXED_DATE not in template


def fault(tokenizer: Any, prompt: list[int]) -> str | None:
    """What is wrong with a prompt's template, and the fix: the day's date, or two tokens that begin a sequence."""
    if reads_clock(template_of(tokenizer)):
        return "the chat template prints today's date: make the model again, which fixes the date (key prompt_date)"
    first = tokenizer.bos_token_id
    if first is not None and prompt[:2] == [first, first]:
        return (
            f"the prompt begins with {tokenizer.bos_token!r} ({first}) twice: remove one from the chat template, or "
            "set prompt_template for this model"
        )
    return None


def check_prompts(tokenizer: Any) -> None:
    """Refuse a tokenizer whose chat template does not make a sound prompt.

    Raises:
        SrtError: there is no template, or it fails or leaves out the problem, or its prompt has a `fault`.
    """
    prompt = render(tokenizer, PROBLEM, "")
    if PROBLEM.replace(" ", "") not in tokenizer.decode(prompt).replace(" ", ""):
        raise SrtError("the chat template leaves out the problem: set another prompt_template for this model")
    if found := fault(tokenizer, prompt):
        raise SrtError(found)


def render_all(
    tokenizer: Any,
    ids: Sequence[str],
    problems: Sequence[str],
    suffix: str,
    max_prompt_tokens: int,
    own: str | None = None,
) -> tuple[list[list[int]], list[str]]:
    """One prompt per problem, and the ids of problems whose prompt is longer than `max_prompt_tokens`.

    `own`: the function of the user that makes the turns, `module:function@hash`.

    The prompt of an over-long problem is an empty list, so that positions match `problems`; the caller drops and counts
    these problems.
    """
    check_prompts(tokenizer)
    prompts, too_long = [], []
    prompt = load("prompt", own) if own else None
    for problem_id, problem in zip(ids, problems, strict=True):
        tokens = render(tokenizer, problem, suffix, prompt)
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
