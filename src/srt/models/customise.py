"""What an entry of `models.yaml` changes in its model's folder: the template of prompts, its date, the end tokens.

The changes are in the files of the folder, so that sampling, training and every later checkpoint have them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError, nearest
from srt.common.io import read_json, write_json
from srt.config.models import Example, ModelBase
from srt.config.prompt_templates import template_text
from srt.data.prompts import FIXED_DATE, reads_clock
from srt.models.loading import read_tokenizer

DATE = date(2024, 7, 26)  # what Llama 3.1's template takes for today where it cannot read the clock
# every directive of strftime that depends on the day or the time, those with a modifier first
DIRECTIVES = [*(f"%-{c}" for c in "dmyjHIMS"), *(f"%{c}" for c in "aAwdbBmyYjUWGVueDFxcHIMSpfTRXZz")]


def customise(model: ModelBase, folder: Path, where: str) -> dict[str, str]:
    """Change the files of `folder` as the entry asks for.

    Returns:
        What `srt.json` says beside the entry: `prompt_date`, if the template prints the date.

    Raises:
        SrtError: one sentence that names the key, after `where`.
    """
    tokenizer = read_tokenizer(folder, where)
    facts = _write_template(model, folder, tokenizer, where)
    if model.end_tokens:
        _write_end_tokens(model.end_tokens, folder, tokenizer, where)
    return facts


def with_examples(template: str, examples: Sequence[Example]) -> str:
    """A chat template that inserts solved turns before the given messages.

    Jinja reads JSON as a list of mappings, with the same escapes. The template of a checkpoint inserts them already.
    """
    turns = [{"role": role, "content": getattr(e, role)} for e in examples for role in ("user", "assistant")]
    inserts = f"{{%- set messages = {json.dumps(turns)} + messages -%}}"
    return template if template.startswith(inserts) else f"{inserts}{template}"


def with_date(template: str, day: date) -> str:
    """A chat template whose `strftime_now` is always that of `day`, at midnight: a macro hides the function."""
    values = [("%%", "\0"), *((d, day.strftime(d)) for d in DIRECTIVES), ("\0", "%")]
    replaced = "".join(f" | replace({json.dumps(old)}, {json.dumps(new)})" for old, new in values)
    return f"{{%- {FIXED_DATE}format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}\n{template}"


def _write_template(model: ModelBase, folder: Path, tokenizer: Any, where: str) -> dict[str, str]:
    own, facts = tokenizer.chat_template, {}
    if isinstance(own, dict):  # several, by name
        own = own.get("default")
    template = template_text(model.prompt_template, tokenizer) if model.prompt_template else own
    if template is None:
        return {}  # `check_prompts` says what is missing
    if model.examples:
        template = with_examples(template, model.examples)
    if reads_clock(template):
        day = model.prompt_date or DATE
        template, facts = with_date(template, day), {"prompt_date": day.isoformat()}
    elif model.prompt_date:
        raise SrtError(f"{where}: prompt_date: the chat template prints no date: remove the key")
    if template != own:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return facts


def _write_end_tokens(tokens: Sequence[str], folder: Path, tokenizer: Any, where: str) -> None:
    """Add tokens to those of generation_config.json, or of config.json where there is none."""
    known = tokenizer.get_vocab()
    for token in tokens:
        if token not in known:
            near = nearest(token, tokenizer.get_added_vocab())
            raise SrtError(f"{where}: end_tokens: '{token}' is not a token of the model's tokenizer{near}: correct it")
    file = folder / "generation_config.json"
    config = read_json(folder / "config.json")
    own = ("bos_token_id", "eos_token_id", "pad_token_id")
    settings = read_json(file) if file.is_file() else {key: config[key] for key in own if key in config}
    found = settings.get("eos_token_id")
    if found is None:
        found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.get("eos_token_id")
    ends = {*(found if isinstance(found, list) else [found]), *(known[token] for token in tokens)} - {None}
    write_json(file, {**settings, "eos_token_id": sorted(ends)})
