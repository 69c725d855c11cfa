"""The generated README and JSON schemas: up to date with the models, complete, and valid for the shipped files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from srt.answers.extract import EXTRACTORS
from srt.config import Config, document, load_config, read_yaml
from srt.config.base import literals
from srt.config.checks.names import RULES
from srt.config.document.pages import members, pages
from srt.config.document.schema import main_schema
from srt.config.evaluation import ScoringConfig
from srt.config.figures import OPTIONS, DynamicsOptions, Figure
from srt.config.runs import Run
from support.commands import srt
from support.config_files import FILES


def reachable(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> set[type[BaseModel]]:
    """All models that a model's fields refer to, directly or not."""
    seen = set() if seen is None else seen
    if model not in seen:
        seen.add(model)
        todo: list[Any] = [info.annotation for info in model.model_fields.values()]
        while todo:
            annotation = todo.pop()
            todo.extend(getattr(annotation, "__args__", ()))
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                reachable(annotation, seen)
    return seen


def test_committed_files_are_in_step(root: Path) -> None:
    assert document.stale(root) == [], "run `srt docs`"


def test_every_key_of_every_model_is_described_on_a_page() -> None:
    text = "\n".join(pages().values())
    documented = set(members())
    needed = reachable(Config) | {m for option in OPTIONS.values() for m in reachable(option)}
    assert needed <= documented
    for model in documented:
        for name, info in model.model_fields.items():
            assert info.description and info.description.endswith("."), f"{model.__name__}.{name}"
            assert f"| `{name}` |" in text


@pytest.mark.parametrize(
    ("main", "sections"),
    [
        ("config/smoke.yaml", "config/smoke/{}.yaml"),
        ("config/config.yaml", "config/{}.yaml"),
    ],
)
def test_schema_accepts_the_shipped_files(main: str, sections: str, root: Path) -> None:
    schema = main_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(read_yaml(root / main), schema, cls=jsonschema.Draft7Validator)
    for section, file in [("models",) * 2, ("datasets",) * 2, ("runs", "experiments"), ("figures",) * 2]:
        path = root / sections.format(file)
        if path.exists():
            part = {"$ref": f"#/definitions/{section}", "definitions": schema["definitions"]}
            jsonschema.validate(read_yaml(path), part, cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    ("section", "entry"),
    [
        (None, {"reslts": "x"}),
        (None, {"train_defaults": {"lr": 1}}),
        (None, {"files": {"model": "x"}}),
        ("models", {"a": {"source": "hub", "repo": "a/b", "revision": "main"}}),
        ("runs", {"a": {"label": "x"}}),
        ("figures", {"a": {"kind": "gap", "title": "t", "suite": "s", "datasets": ["a"], "options": {"rows": 1}}}),
    ],
)
def test_schema_refuses_mistakes(section: str | None, entry: dict[str, Any]) -> None:
    schema = main_schema()
    if section:
        schema = {"$ref": f"#/definitions/{section}", "definitions": schema["definitions"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(entry, schema, cls=jsonschema.Draft7Validator)


def test_schemas_of_sections_point_into_the_main_one() -> None:
    made = document.files()
    definitions = json.loads(made["workflow/schemas/config.schema.json"])["definitions"]
    for name, text in made.items():
        if name.endswith(".schema.json") and "config.schema" not in name:
            file, _, pointer = json.loads(text)["$ref"].partition("#/definitions/")
            assert file == "config.schema.json" and pointer in definitions and Path(name).name.startswith(pointer)


@pytest.mark.slow
def test_check_tells_what_is_out_of_date(tmp_path: Path) -> None:
    assert "in the repository root" in srt("docs", folder=tmp_path, code=2).stderr
    (tmp_path / "config").mkdir()
    srt("docs", "--check", folder=tmp_path, code=2)
    srt("docs", folder=tmp_path)
    srt("docs", "--check", folder=tmp_path)
    page = tmp_path / "docs/config/train.md"
    page.write_text(page.read_text() + "x")
    done = srt("docs", "--check", folder=tmp_path, code=2)
    assert done.stderr == "error: docs/config/train.md: out of date with src/srt/config: run `srt docs`\n"


def test_the_examples_work(root: Path) -> None:
    raw = read_yaml(root / "config" / "smoke.yaml")
    sections = {name: read_yaml(root / path) for name, path in raw.pop("files").items()}
    blocks = re.findall(r"```yaml\n# (\w+)\n(.*?)```", (root / "docs/config/examples.md").read_text(), re.S)
    assert {section for section, _ in blocks} == {"models", "datasets", "runs", "figures"}
    for section, text in blocks:
        sections[section] |= yaml.safe_load(text)
    config = load_config({**raw, **sections}, root)
    assert config.instances("srt_authors") == ["srt_authors-s1", "srt_authors-s2"]
    assert config.runs["srt_authors"].train.resolved().kl_clamp == 10.0


# Lists copied from modules that are too slow to import while rules are parsed.


def test_methods_are_those_of_the_figures() -> None:
    from srt.figures.style import METHODS

    assert set(literals(Run.model_fields["method"].annotation)) == set(METHODS)


def test_kinds_and_quantities_are_those_of_the_figures() -> None:
    from srt.figures import KINDS
    from srt.figures.dynamics import QUANTITIES

    assert set(literals(Figure.model_fields["kind"].annotation)) == set(KINDS) == set(OPTIONS)
    items = DynamicsOptions.model_fields["quantities"].annotation.__args__[0]
    assert set(literals(items)) == {"accuracy", *QUANTITIES}


def test_extractors_are_those_of_the_answers() -> None:
    assert set(literals(ScoringConfig.model_fields["extractor"].annotation)) == set(EXTRACTORS)


def test_no_rule_has_a_name_that_an_id_may_have(root: Path) -> None:
    texts = [path.read_text() for path in [root / "Snakefile", *(root / "rules").glob("*.smk")]]
    names = re.findall(r"^(?:rule|checkpoint|use rule \w+ as) (\w+)(?::| with)", "\n".join(texts), re.M)
    assert {"train", "all"} <= set(names) <= RULES


def test_configuration_is_read_without_slow_imports(tmp_path: Path, root: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    code = (
        "import sys; from pathlib import Path; from srt.config import load_config, read_yaml\n"
        "load_config(read_yaml(Path('main.yaml')), Path('.'))\n"
        "print(sorted({'matplotlib', 'torch', 'transformers', 'pandas', 'reasoning_gym'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(root / "src")},
        timeout=400,
    )
    assert done.stdout.strip() == "[]", done.stderr
