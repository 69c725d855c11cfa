"""Prompt templates with a name, as evaluations and zero-RL papers use them, in Jinja.

`qwen_math` and `r1_zero` are the texts of Qwen2.5-Math's chat template and of DeepSeek-R1-Zero (Table 1 of its paper)
as Dr. GRPO has them (sail-sg/understand-r1-zero, train_zero_math.py: `qwen_math`, `r1`, `no` for `plain`). A newline
at the end is an expression, because Jinja drops one that ends a template.
"""

from __future__ import annotations

from typing import Any

PROBLEM = "{{ messages[0]['content'] }}"
PROMPT_TEMPLATES = {
    "qwen_math": (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        f"<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant{{{{ '\\n' }}}}"
    ),
    "r1_zero": (
        "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The "
        "Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
        "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
        f"User: {PROBLEM}\nAssistant: <think>"
    ),
    "plain": PROBLEM,
}


def checked_template(value: str) -> str:
    """A name of `PROMPT_TEMPLATES` or a template in Jinja.

    Raises:
        ValueError: it is neither.
    """
    from jinja2 import Environment, TemplateSyntaxError

    from srt.common.errors import nearest

    if value in PROMPT_TEMPLATES:
        return value
    if "{{" not in value and "{%" not in value:
        raise ValueError(
            f"'{value}' is no named template{nearest(value, PROMPT_TEMPLATES)} and has no {{{{ }}}}: write Jinja that "
            "uses `messages`"
        )
    if "messages" not in value:
        raise ValueError("does not use `messages`: write the problem as {{ messages[0]['content'] }}")
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(value)
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} is not Jinja ({error.message}): correct it") from None
    return value


def template_text(value: str, tokenizer: Any) -> str:
    """The Jinja text of a `prompt_template`.

    A named one begins with the token that the tokenizer itself puts before a text, if it does, as it would where these
    prompts are plain strings; one that a user writes is taken as it is.
    """
    text = PROMPT_TEMPLATES.get(value)
    if text is None:
        return value
    first = tokenizer.bos_token_id
    begins = first is not None and tokenizer("x")["input_ids"][:1] == [first]
    return ("{{ bos_token }}" if begins else "") + text
