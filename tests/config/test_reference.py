"""results/reference/paper.csv: the paper's numbers, which marks of figures and claims use, each with its section."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from srt.config import Config, load_config, read_yaml
from support import ROOT


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results/reference/paper.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def full() -> Config:
    return load_config(read_yaml(ROOT / "config/config.yaml"), ROOT, "config/config.yaml")


def used(table: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    return [row for row in table.to_dict("records") if name in row["used_by"].split()]


def test_each_number_has_a_place_and_users_that_exist(table: pd.DataFrame, full: Config) -> None:
    assert set(table["version"]) == {"v1", "v2"} and (table["where"] != "").all()
    assert not table.duplicated(["version", "about", "quantity"]).any()
    assert set(" ".join(table["used_by"]).split()) <= set(full.claims) | set(full.figures)
    for row in table.to_dict("records"):
        assert float(row["value"]) < float(row["to"]) if row["to"] else float(row["value"]) > 0


def test_marks_of_figures_are_numbers_of_the_table(table: pd.DataFrame, full: Config) -> None:
    marked = 0
    for name, figure in full.figures.items():
        for mark in figure.options.get("marks") or []:
            number = next(mark[key] for key in ("step", "value", "times") if mark.get(key) is not None)
            found = [row for row in used(table, name) if float(row["value"]) == number]
            assert found, f"{name}: {mark['label']} is not in results/reference/paper.csv"
            place = mark["source"].removeprefix("v2, ")
            assert any(place.split(",")[0] in row["where"] for row in found), (name, place)
            assert not mark.get("to") or any(float(row["to"] or 0) == mark["to"] for row in found)
            marked += 1
    assert marked > 10


def test_claims_with_a_number_of_the_paper_name_its_row(table: pd.DataFrame, full: Config) -> None:
    names = r"AIME 1983-2023|AIME 20\d\d|MATH-\w+|Qwen[\w.-]+|Llama-[\w.-]+|DeepSeek-[\w-]+|\b14B|\b7B|level \d"
    for name, claim in full.claims.items():
        stated = re.sub(names, "", claim.statement)
        if claim.version != "ours" and re.search(r"\d|twice|three quarters", stated):
            rows = used(table, name)
            assert rows, f"claims.yaml: {name} states a number that results/reference/paper.csv lacks"
            assert {row["version"] for row in rows} == {claim.version}
            section = re.match(r"(§[\d.]+|Appendix [A-Z](?:\.\d)?)", claim.where).group(0)  # type: ignore[union-attr]
            assert any(section in row["where"] for row in rows), (name, claim.where)


@pytest.mark.parametrize("main", ["config/config.yaml", "config/mini.yaml"])
def test_each_claim_of_the_paper_has_its_version_and_section(main: str) -> None:
    for name, claim in load_config(read_yaml(ROOT / main), ROOT, main).claims.items():
        own = claim.version == "ours"
        assert re.match(r"docs/" if own else r"§\d|Appendix [A-L]", claim.where), (name, claim.where)
