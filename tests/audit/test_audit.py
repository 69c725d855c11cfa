"""Contamination audit: texts, matches, faults, decontaminated results, and the checked pairs of real data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.artefacts.evaluations import evaluations
from srt.audit import audit_tables as tables
from srt.audit.decontaminate import MEAN, clean_ids, decontaminated
from srt.audit.overlap import CONTAINMENT, JACCARD, JACCARD_FLOOR, index, matches, same_answer
from srt.audit.resolve import audit_spec, audited_sets, expand, training_data
from srt.common import io
from srt.common.errors import SrtError
from srt.config.datasets import parse_dataset
from srt.data import load_with_report
from srt.data.problem_table import make_table, write_problems
from srt.data.question_text import core, normalise, shingles

TRAIN = "Janet rolls a fair die 4 times and keeps a running total. What is the chance that it is ever equal to 3?"
SUFFIX = " The answer can be written in the form $\\frac{m}{n}$ in lowest terms. Find $m+n$."


def table(*rows: tuple[str, str], task: str = "math"):
    """A problem table of (problem, answer) rows with ids p0, p1, ..."""
    return make_table(
        {"id": f"p{i}", "problem": p, "answer": a, "source": "t", "subject": "", "level": "", "task": task}
        for i, (p, a) in enumerate(rows)
    )


# ---- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Find $\\dfrac{1}{2}$.", "find \\( \\frac{1}{2} \\)"),
        ("$\\left( x \\right)^2$", "(x)^{2}"),
        ("If $x \\leq 3$, find $a_1, \\ldots, a_n$", "If x \u2264 3 find a_1,\u2026,a_n."),
        ("area \\textbf{ABC}\\,?", "Area $ABC$"),
        ("See. [asy] draw_overlap((0,0)--(1,1)); [/asy] Find x", "See. Find x [asy] dot((2,2)); [/asy]"),
    ],
)
def test_normalise_removes_layout(a: str, b: str) -> None:
    assert normalise(a) == normalise(b) != ""


@pytest.mark.parametrize(("a", "b"), [("x+1", "x-1"), ("Find 12", "Find 13"), ("x<3", "x>3"), ("x=2", "x^2")])
def test_normalise_keeps_numbers_and_operators(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


@given(st.text(max_size=60))
@settings(deadline=None, derandomize=True)
def test_normalise_ignores_white_space_and_case_of_ascii(text: str) -> None:
    assert normalise("  ".join(text.split(" ")) + "\n") == normalise(text)
    assert not set(normalise(text)) & set(" \n\t$,.;:?{}()[]\\_")


def test_core_drops_the_form_of_the_answer_only() -> None:
    assert core(TRAIN + SUFFIX) == TRAIN
    assert core(TRAIN + " Express your answer as a common fraction.") == TRAIN
    assert core(TRAIN + " Please provide the value of k + m.") == TRAIN
    assert core("Find $m+n$.") == "Find $m+n$."  # the first sentence stays
    asked = "Let $f(x)=x^2$. Find $f(3)$."
    assert core(asked) == asked
    assert core("Sum it. \\[x.\\]The answer is in the form $a/b$. Please provide $a+b$.") == "Sum it. \\[x.\\]"


def test_shingles_are_the_windows_of_eight_bytes() -> None:
    assert shingles("abcdefg").size == 0
    assert shingles("abcdefghi").tolist() == [int.from_bytes(b"abcdefgh", "big"), int.from_bytes(b"bcdefghi", "big")]


# ---- matches --------------------------------------------------------------------------------------------------------


def test_exact_near_and_nothing() -> None:
    train = index(table((TRAIN, "7/12"), ("What is the capital of the land of numbers, in words?", "one")), "a")
    test = index(
        table(
            (TRAIN.upper(), "7/12"),  # exact
            (TRAIN + SUFFIX, "19"),  # the same core, another answer
            (TRAIN.replace("3", "5"), "1/2"),  # a variant with another number
            ("How many primes are there below one hundred?", "25"),
        ),
        "b",
    )
    found = {m.test_id: m for m in matches(train, test)}
    assert sorted(found) == ["p0", "p1", "p2"]
    assert found["p0"].kind == "exact" and found["p0"].same_answer and found["p0"].jaccard == 1
    assert found["p1"].kind == "near" and not found["p1"].same_answer and found["p1"].jaccard == 1
    assert found["p2"].kind == "near" and not found["p2"].same_numbers and found["p2"].jaccard < 1


def test_generated_sets_match_exactly_or_not_at_all() -> None:
    train = index(table(("What is 3 + 4 + 5 in total?", "12"), ("2+2", "4"), task="chain_sum"), "a", generated=True)
    test = index(table(("What is 3 + 4 + 6 in total?", "13"), ("2 + 2", "4"), task="chain_sum"), "b", generated=True)
    (only,) = matches(train, test)
    assert (only.kind, only.test_id, only.jaccard, only.same_answer) == ("exact", "p1", 1.0, True)


WORDS = st.lists(st.sampled_from(["find", "area", "of", "the", "red", "circle", "side", "seven", "prime"]), max_size=14)


@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, min_size=1, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_inverted_index_finds_what_comparing_all_pairs_finds(a: list[list[str]], b: list[list[str]]) -> None:
    texts = [[" ".join(words) or "x" for words in side] for side in (a, b)]
    found = {
        (m.train_id, m.test_id): m.kind
        for m in matches(*(index(table(*((t, "1") for t in side)), "s") for side in texts))
    }
    expected = {}
    for i, left in enumerate(texts[0]):
        for j, right in enumerate(texts[1]):
            # shingles as plain strings: a second way to compute the same numbers
            x, y = ({n[k : k + 8] for k in range(len(n) - 7)} for n in (normalise(core(left)), normalise(core(right))))
            both = len(x & y)
            jaccard, inside = both / max(len(x | y), 1), both / max(len(y), 1)
            if normalise(left) == normalise(right):
                expected[f"p{i}", f"p{j}"] = "exact"
            elif both and (jaccard >= JACCARD or (inside >= CONTAINMENT and jaccard >= JACCARD_FLOOR)):
                expected[f"p{i}", f"p{j}"] = "near"
    assert found == expected


def test_same_answer() -> None:
    assert same_answer("080 or 081", "80") and same_answer("\\frac12", "0.5") and not same_answer("7", "8")
    assert same_answer("0x1f ", "0x1f", "bitwise_arithmetic") and not same_answer("0x1f", "31", "bitwise_arithmetic")


# ---- the tables -----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Problem tables: `train` (with a repeat and a contradiction), `test` (2 of 4 in train)."""
    rows = {
        "train": [(TRAIN, "1"), (TRAIN.upper(), "1"), ("Add one and one.", "2"), ("Add $one$ and one", "3")],
        "test": [
            ("How many primes are there below 100?", "25"), (TRAIN + SUFFIX, "19"), (TRAIN, "1"),
            ("How many squares are there below 50?", "7"),
        ],
    }  # fmt: skip
    paths = {}
    for name, some in rows.items():
        paths[name] = tmp_path / f"{name}.parquet"
        write_problems(paths[name], table(*some), name)
    return paths


def test_audit_writes_the_same_bytes_twice(files, tmp_path) -> None:
    for folder in ("a", "b"):
        tables.audit(files, ["train"], ["test"]).write(tmp_path / folder)
    made = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    expected = "clean_rows.parquet faults.csv overlap.csv overlap.parquet pairs.csv pairs.parquet"
    assert sorted(made) == expected.split()
    assert made == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert io.parquet_metadata(tmp_path / "a" / "clean_rows.parquet")["definition"]["jaccard"] == JACCARD


def test_overlap_counts_test_rows_once(files) -> None:
    found = tables.audit(files, ["train", "test"], ["test"])
    row = found.overlap.set_index(["train", "test"]).loc[("train", "test")]
    assert (row.test_rows, row.exact, row.near, row.contaminated, row.clean) == (4, 1, 1, 2, 2)
    assert row.same_answer == 1 and row.share == 0.5
    assert len(found.pairs) == 4  # each of the two copies in train
    own = found.overlap.set_index(["train", "test"]).loc[("test", "test")]
    assert own.clean == 0 and own.note == tables.ITSELF


def test_faults_name_rows_and_what_became_of_them(files, tmp_path) -> None:
    manifest = tmp_path / "train.json"
    io.write_json(manifest, {"dropped": {"empty answer": {"rows": 1, "ids": ["q9"]}}})
    faults = tables.audit(files, ["train"], ["test"], manifests={"train": manifest}).faults
    got = faults[["id", "fault", "other_ids", "action"]].to_numpy().tolist()
    assert got == [
        ["q9", "empty answer", "", "dropped"],
        ["p1", "repeated question", "p0", "kept"],
        ["p2", "conflicting answers", "p3", "kept"],
        ["p3", "conflicting answers", "p2", "kept"],
    ]
    assert faults.loc[faults["id"] == "p2", "other_answers"].item() == "3"


def test_an_unnamed_table_is_an_error(files) -> None:
    with pytest.raises(SrtError, match="no problem table is given for data set 'other'"):
        tables.audit(files, ["other"], ["test"])


def test_the_picture_shows_every_pair(files, tmp_path) -> None:
    from srt.audit.overlap_plot import draw_overlap

    found = tables.audit(files, ["train", "test"], ["test"])
    first = [path.read_bytes() for path in draw_overlap(found.overlap, tmp_path / "overlap")]
    assert first == [path.read_bytes() for path in draw_overlap(found.overlap, tmp_path / "overlap")]
    assert first[0].startswith(b"%PDF") and first[1].startswith(b"\x89PNG")


# ---- the policy for contradictions ----------------------------------------------------------------------------------

ROWS = [("a", "Add 1 and 1.", "2"), ("b", "add $1$ and 1", "3"), ("c", "Add 2 and 2.", "4"), ("d", "Add 2 and 2", "4")]


def loaded(folder: Path, **policy: str):
    lines = [json.dumps({"id": i, "problem": p, "answer": a}) for i, p, a in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    entry = {"source": "local", "path": "rows.jsonl", **policy}
    return load_with_report(parse_dataset("t", entry), "t", folder), parse_dataset("t", entry)


def test_contradictions_are_kept_and_listed_by_default(tmp_path) -> None:
    made, config = loaded(tmp_path)
    assert made.table["id"].to_pylist() == ["a", "b", "c", "d"]
    assert made.manifest("t", config)["conflicts"] == [{"a": "2", "b": "3"}]
    assert made.counts["conflicting_answers"] == 2


def test_contradictions_can_be_dropped(tmp_path) -> None:
    made, _ = loaded(tmp_path, on_conflicting_answers="drop")
    assert made.table["id"].to_pylist() == ["c", "d"]
    assert made.dropped == {"conflicting answers": ["a", "b"]} and made.conflicts == [{"a": "2", "b": "3"}]


def test_contradictions_can_be_refused(tmp_path) -> None:
    with pytest.raises(SrtError, match="'a' and 'b' ask the same question but have the answers '2' and '3'"):
        loaded(tmp_path, on_conflicting_answers="error")


# ---- results on the clean rows --------------------------------------------------------------------------------------


def groups(path: Path, rates: dict[str, list[float]]) -> str:
    rows = [
        {"dataset": d, "problem_id": f"p{i}", "pass_rate": r, "majority_correct": r > 0.5}
        for d, some in rates.items()
        for i, r in enumerate(some)
    ]
    io.write_parquet(path, pd.DataFrame(rows))
    return str(path)


@pytest.fixture
def clean() -> pd.DataFrame:
    """Of test set x rows p0, p1 are in `train`; of y all; z has one in `other`."""
    rows = [("train", "x", i, i > 1) for i in range(4)] + [("train", "y", i, False) for i in range(2)]
    rows += [("other", "x", i, i != 3) for i in range(4)] + [("other", "y", i, True) for i in range(2)]
    return pd.DataFrame([(a, b, f"p{i}", c) for a, b, i, c in rows], columns=["train", "test", "problem_id", "clean"])


def test_decontaminated_means_are_those_of_the_clean_rows(tmp_path, clean) -> None:
    before = groups(tmp_path / "tests.0.groups.parquet", {"x": [0, 0, 0.5, 0.25], "y": [0, 1]})
    after = groups(tmp_path / "tests.groups.parquet", {"x": [1, 1, 0.5, 0.75], "y": [1, 1]})
    entry = {"run": "r-s1", "label": "SRT", "method": "srt", "seed": 1, "trained_on": ["train"]}
    made = decontaminated([{**entry, "step": 0, "groups": [before]}, {**entry, "step": 4, "groups": [after]}], clean)
    x = made[(made.step == 4) & (made.dataset == "x")].iloc[0]
    assert (x.problems, x.clean) == (4, 2)
    assert x.avg == pytest.approx(0.8125) and x.avg_clean == pytest.approx(0.625)
    assert x.maj == pytest.approx(0.75) and x.maj_clean == pytest.approx(0.5)
    assert x.gain_clean == pytest.approx(0.25) and x.avg_clean_lo <= x.avg_clean <= x.avg_clean_hi
    y = made[(made.step == 4) & (made.dataset == "y")].iloc[0]
    assert y.clean == 0 and np.isnan(y.avg_clean) and np.isnan(y.gain_clean) and y.avg == 1
    mean = made[(made.step == 4) & made.dataset.str.startswith(MEAN)].iloc[0]
    assert mean.avg == pytest.approx((0.8125 + 1) / 2) and mean.avg_clean == pytest.approx(0.625)
    assert (mean.sets, mean.sets_clean, mean.clean) == (2, 1, 2)


def test_rows_of_any_training_set_are_dirty(clean) -> None:
    assert clean_ids(clean, ["train"])["x"] == {"p2", "p3"}
    assert clean_ids(clean, ["train", "other"]) == {"x": {"p2"}, "y": set()}
    with pytest.raises(SrtError, match="'new' is not in the table of clean rows: rerun the audit"):
        clean_ids(clean, ["new"])


def test_sets_of_a_configuration(root) -> None:
    from srt.config import load_config
    from srt.config.loading import read_yaml

    config = load_config(read_yaml(root / "tests/micro/config.yaml"), root, "tests/micro/config.yaml")
    sets = audited_sets(config)
    assert set(sets["train"]) == {run.data for run in config.runs.values()} and sets["test"]
    assert set(sets["generated"]) == set(sets["train"]) | set(sets["test"])
    rows = expand(audit_spec(config))
    assert [{k: v for k, v in row.items() if k != "trained_on"} for row in rows] == evaluations(config)
    assert all(row["trained_on"] == training_data(config, row["run"].rpartition("-s")[0]) for row in rows)


# ---- real data ------------------------------------------------------------------------------------------------------

SOURCES = {
    "dapo17k": ("dapo_math_17k_dedup.parquet", {}),
    "math12k": ("math_train12k.parquet", {"on_empty_answer": "drop"}),
    "aime83_23": ("aime_1983_2023.parquet", {}),
    "gsm8k_train": ("gsm8k_train.parquet", {}),
    "aime24": ("aime24_test.parquet", {}),
    "aime25": ("aime25_test.parquet", {}),
    "amc23": ("amc23_test.parquet", {}),
    "math500": ("math500_test.parquet", {}),
    "gsm8k_test": ("gsm8k_test.parquet", {}),
    **{name: ("extra_tests.parquet", {"filter": {"set": name}}) for name in ("amc24", "amc_ttt", "olympiadbench")},
}


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory) -> tables.Audit:
    folder = tmp_path_factory.mktemp("real")
    for name, (path, changes) in SOURCES.items():
        entry = parse_dataset(name, {"source": "local", "path": path, **changes})
        write_problems(folder / f"{name}.parquet", load_with_report(entry, name, shared_data).table, name)
    names = list(SOURCES)
    return tables.audit({n: folder / f"{n}.parquet" for n in names}, names[:4], names[4:])


@pytest.mark.slow
def test_amc23_is_inside_dapo_and_aime_is_not(real) -> None:
    overlap = real.overlap.set_index(["train", "test"])
    amc = overlap.loc[("dapo17k", "amc23")]
    assert (amc.test_rows, amc.exact, amc.contaminated, amc.same_answer) == (40, 8, 28, 24) and amc.share == 0.7
    for train in ("dapo17k", "math12k", "aime83_23", "gsm8k_train"):
        assert overlap.loc[(train, "aime24")].contaminated == overlap.loc[(train, "aime25")].contaminated == 0


@pytest.mark.slow
def test_agreement_with_the_checked_pairs(real, shared_data) -> None:
    checked = pd.DataFrame(
        map(json.loads, (shared_data / "contamination_pairs.jsonl").read_text(encoding="utf-8").splitlines())
    )
    keys = ["test_set", "test_id", "train_set", "train_id"]
    ours = real.pairs.rename(columns={"test": "test_set", "train": "train_set"})
    a, b = (set(frame[keys].itertuples(index=False, name=None)) for frame in (checked, ours))
    recall, precision = len(a & b) / len(a), len(a & b) / len(b)
    print(f"checked pairs: recall {recall:.3f}, precision {precision:.3f} ({len(a)} checked, {len(b)} found)")
    assert recall >= 0.97 and precision >= 0.88
    both = checked.merge(ours, on=keys, suffixes=("", "_ours"))
    assert (both.loc[both["kind"] == "exact", "kind_ours"] == "exact").all()
    # pairs that a person found by reading; their answers are written in another form
    assert len(both[both["kind"] == "manual"]) == (checked["kind"] == "manual").sum() == 6


@pytest.mark.slow
def test_real_faults(real, shared_data) -> None:
    dapo = real.faults[real.faults["dataset"] == "dapo17k"]
    assert 40 <= (dapo["fault"] == "conflicting answers").sum() <= 60
    assert pq.read_metadata(shared_data / "dapo_math_17k_dedup.parquet").num_rows - len(dapo) > 16_000
