"""The page of the miniature run: its numbers come only from the CSVs beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest

from srt.common.errors import SrtError
from srt.common.io import write_csv, write_parquet
from srt.config import Config, load_config, read_yaml
from srt.metrics.intervals import t_quantile
from srt.report.miniature_page import _Page, fill
from srt.report.miniature_tables import alarm_table, collect, judge_again
from support import ROOT

PAGE = ROOT / "docs/miniature"


def configuration(tmp_path: Path, main: str = "config/mini.yaml") -> Config:
    return load_config(read_yaml(ROOT / main) | {"results": str(tmp_path / "results")}, ROOT, main)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CSVs as a run makes them, with numbers that are easy to recognise."""
    claim = {
        "version": "v1",
        "where": "§4",
        "problems": 10,
        "seeds": 3,
        "max_width": 0.2,
        "expect": "> 0",
        "reason": "",
        "p": 0.001,
        "p_adjusted": 0.002,
    }
    claims = [
        {"claim": "up", "statement": "It rises.", "verdict": "supported", "number": "rise", "estimate": 0.125,
         "lo": 0.1, "hi": 0.15, **claim},
        {"claim": "two", "statement": "Two.", "verdict": "not supported", "number": "a", "estimate": 20.0, "lo": 10.0,
         "hi": float("inf"), **claim},
        {"claim": "two", "statement": "Two.", "verdict": "not supported", "number": "b", "estimate": -0.5, "lo": -0.6,
         "hi": -0.4, **claim},
        {"claim": "open", "statement": "Open.", "verdict": "undecided", **claim, "reason": "Too wide."},
    ]  # fmt: skip
    write_csv(tmp_path / "claims.csv", pd.DataFrame(claims))
    earlier = pd.DataFrame(
        [row | ({"verdict": "undecided", "lo": -0.1} if row["claim"] == "up" else {}) for row in claims]
    )
    write_csv(tmp_path / "earlier_claims.csv", earlier[earlier["claim"] != "open"])
    results = [
        {"run": f"{run}-s{seed}", "seed": seed, "step": step, "dataset": "t", "avg": value + 0.1 * seed, "maj": 0.5}
        for run, gain in (("a", 0.2), ("a_b", 0.9))
        for step, value in ((0, 0.1), (20, 0.1 + gain))
        for seed in (1, 2, 3)
    ]
    write_csv(tmp_path / "results.csv", pd.DataFrame(results))
    curve = {"quantity": "avg@32", "runs": "x"}
    rows = [
        {"panel": panel, "step": step, "value": value, "lo": value - 0.05, "hi": value + 0.05, **curve}
        for panel, values in (("SRT", (0.4, 0.5, 0.2)), ("Chain", (0.4, 0.45, 0.45, 0.5)))
        for step, value in zip((0, 20, 40) if panel == "SRT" else (0, 20, 20, 40), values, strict=True)
    ]
    rows.append({"panel": "SRT", "step": 30, "value": None, "quantity": "alarm", "runs": "x"})
    write_csv(tmp_path / "extensions.csv", pd.DataFrame(rows))
    alarms = {"run": ["a", "a"], "seed": [1, 2], "steps": 60, "alarm": [12, None], "fall": [15, 20], "lead": [3, None],
              "false_alarm": [False, False], "missed": [False, True]}  # fmt: skip
    write_csv(tmp_path / "alarm.csv", pd.DataFrame(alarms))
    cost = {"rule": ["train", "score", "figures", "total"], "model": ["tiny", None, None, None],
            "measured": [2, 4, 0, 6], "hours": [2.0, 0.5, 0.0, 2.5], "cpu_hours": [1.9, 0.4, 0.0, 2.3],
            "peak_memory_mib": [900.0, 100.0, None, 900.0]}  # fmt: skip
    write_csv(tmp_path / "cost.csv", pd.DataFrame(cost))
    return tmp_path


def test_calls(folder: Path) -> None:
    def said(call: str) -> str:
        return fill(f"x {{{{ {call} }}}} y", folder).removeprefix("x ").removesuffix(" y")

    assert said('claim("up")') == "**supported**; rise: 0.125 [0.100, 0.150]"
    assert said('claim("two")') == "**not supported**; a: 20 [10, inf]; b: -0.500 [-0.600, -0.400]"
    assert said('claim("open")') == "**undecided** (Too wide)"
    assert (said('verdict("up")'), said('verdict("two")'), said('verdict("open")')) == (
        "supported",
        "not supported",
        "undecided",
    )
    assert said('number("two")') == "20 [10, inf], -0.500 [-0.600, -0.400]"
    assert said("alarm_counts()").startswith("in 1 of 2 [0.01, 0.99] runs whose accuracy fell, in 1 of them before")
    assert said('alarm_counts("a")').startswith("in 0 of 0 ")
    with pytest.raises(SrtError, match=r"alarm_counts: alarm\.csv has no run 'b'"):
        said('alarm_counts("b")')
    assert said('finding("up")') == "*It rises* is **supported**: 0.125 [0.100, 0.150]"
    assert said('finding("open")') == "*Open* is **undecided**"
    assert said("in_short()") == "- **Supported**: It rises.\n- **Not supported**: Two.\n- **Undecided**: Open."
    assert said("chance()").startswith("If none of the 3 measured claims were true, at most 0.1 would be supported by")
    assert "1 of the 1 supported ones remain" in said("chance()")
    assert said("counts()") == "1 supported, 1 not supported, 1 undecided"
    assert said('accuracy("a", "t", 20, "avg")') == said('accuracy("a", "t", "last", "avg")') == "0.500"  # not a_b's
    assert "| a | 60 | 12, none | 15, 20 | 3, none | 0 | 1 |" in said("alarms()")
    assert "| SRT | 0.400 | 0.500 | 0.200 [0.150, 0.250] | 20 |" in said("extensions()")
    assert said("sustains_longest()") == "Chain (end 0.500 [0.450, 0.550])"
    assert "| train | tiny | 2 | 2.00 | 1.90 | 900 |\n| score |  | 4 |" in said("costs()") and said("hours()") == "2.50"
    assert said("detectable()") == "No measured claim is undecided."
    assert said("claims()").count("\n") == 1 + 3
    assert said("earlier()") == (
        "1 of 2 verdicts were the same. None of the others changed from supported to not supported or back:\n\n"
        "| statement | here | earlier |\n|---|---|---|\n"
        "| It rises. | supported: 0.125 [0.100, 0.150] | undecided: 0.125 [-0.100, 0.150] |"
    )


def test_variants_above_srt_are_read_from_the_intervals(folder: Path) -> None:
    table = pd.read_csv(folder / "claims.csv")[lambda t: t["claim"] != "two"]
    table["number"] = ["avg@32 of second minus srt, last", "avg@32 of other minus srt, last"]
    table.loc[table["claim"] == "open", ["estimate", "lo", "hi"]] = (0.1, 0.0, 0.2)
    write_csv(folder / "claims.csv", table)
    curves = [("Chain", 20, "first-s1+first-s2"), ("Chain", 40, "second-s1"), ("First", 20, "first-s1")]
    write_csv(folder / "extensions.csv", pd.DataFrame(curves, columns=["panel", "step", "runs"]))
    assert fill('{{ above_srt("up", "open") }}', folder) == (
        "the whole interval is above SRT for `Chain` (0.125 [0.100, 0.150]), and not for `other` (0.100 [0.000, 0.200])"
    )


def test_effects_that_undecided_claims_could_have_found(folder: Path) -> None:
    table = pd.read_csv(folder / "claims.csv")
    write_csv(folder / "claims.csv", table.replace({"verdict": {"supported": "undecided"}}))
    assert fill("{{ detectable() }}", folder).endswith("| It rises. | 3 | 0.125 [0.100, 0.150] | 0.025 |")


def test_verdicts_that_turned_have_a_reason(folder: Path) -> None:
    table = pd.read_csv(folder / "claims.csv")
    before = table.replace({"verdict": {"supported": "undecided", "not supported": "supported"}})
    write_csv(folder / "bootstrap_claims.csv", before)
    assert fill("{{ turned() }}", folder) == (
        "| claim | with the bootstrap | now | why |\n|---|---|---|---|\n"
        "| `up` | undecided: 0.125 [0.100, 0.150] | supported: 0.125 [0.100, 0.150] | "
        "a clear result counts however wide its interval |\n"
        "| `two` | supported: 20 [10, inf], -0.500 [-0.600, -0.400] | not supported: 20 [10, inf], "
        "-0.500 [-0.600, -0.400] | 3 seeds have a t interval |"
    )


def test_the_kept_claims_are_what_the_kept_tables_say(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    for name in ("results.csv", "bootstrap_claims.csv"):
        shutil.copyfile(PAGE / name, tmp_path / name)
    judge_again(config, tmp_path)
    assert (tmp_path / "claims.csv").read_bytes() == (PAGE / "claims.csv").read_bytes()
    # the spread of seeds by hand, paired; that of problems only widens it
    results = pd.read_csv(PAGE / "results.csv")
    rows = results[results["run"].str.match(r"srt_easy-s\d") & (results["dataset"] == "sums3_test")]
    by_seed = rows.pivot(index="run", columns="step", values="avg")
    gain = by_seed[by_seed.columns.max()] - by_seed[0]
    claim = pd.read_csv(PAGE / "claims.csv").set_index("claim").loc["raises_avg"]
    half = t_quantile(0.95, len(gain) - 1) * gain.std() / np.sqrt(len(gain))
    assert claim.estimate == pytest.approx(gain.mean()) and claim.hi - claim.estimate > half
    assert claim.hi - claim.estimate < 3 * half + 0.05


@pytest.mark.parametrize(
    ("sentence", "claims"),
    [
        ("SRT's pseudo-reward and KL climb while its accuracy falls",
         dict.fromkeys(["reward_up_after_collapse", "kl_up_after_collapse", "peaks_and_falls"], "supported")),
        ("whether training on true answers goes on improving, three seeds leave undecided",
         {"ground_truth_goes_on": "undecided"}),
    ],
)  # fmt: skip
def test_the_readme_says_what_the_verdicts_are(sentence: str, claims: dict[str, str]) -> None:
    assert sentence in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    verdicts = pd.read_csv(PAGE / "claims.csv").drop_duplicates("claim").set_index("claim")["verdict"]
    assert verdicts[list(claims)].to_dict() == claims


def test_a_verdict_that_turned_round_is_counted(folder: Path) -> None:
    table = pd.read_csv(folder / "claims.csv")
    write_csv(folder / "earlier_claims.csv", table.replace({"verdict": {"not supported": "supported"}}))
    assert fill("{{ earlier() }}", folder).startswith("2 of 3 verdicts were the same. 1 of the others changed from")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ('claim("upp")', "unknown claim 'upp'"),
        ("claims2()", "'claims2' is undefined"),
        ('accuracy("a", "t", 10, "avg")', "no avg of run 'a' on 't' at step 10"),
        ("claim()", "missing 1 required positional argument: 'name'"),
    ],
)
def test_a_wrong_call_is_a_sentence(folder: Path, call: str, sentence: str) -> None:
    with pytest.raises(SrtError, match=sentence):
        fill(f"{{{{ {call} }}}}", folder)


def test_table_of_alarms(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    # a run that acts on its alarm is not judged, so its metrics are not needed
    kept = {n: config.runs[n].model_copy(update={"seeds": [1, 2, 3]}) for n in ("srt_beyond", "ext_stop")}
    config = config.model_copy(update={"runs": kept})
    steps = range(1, 31)
    collapsing = {
        "step": steps,
        "true_accuracy": [0.5 if s < 20 else 0.0 for s in steps],
        "majority_ratio": [0.3 if s < 15 else 0.9 for s in steps],
        "top_majority_share": [0.1 if s < 15 else 1.0 for s in steps],
        "kl": 0.1,
        "response_length": 20.0,
    }
    for seed in (1, 2, 3):
        path = Path(config.results, "runs", f"srt_beyond-s{seed}", "metrics.parquet")
        path.parent.mkdir(parents=True)
        write_parquet(path, pd.DataFrame(collapsing), {})
    tests = {0: (0.5, 0.3), 10: (0.6, 0.4), 20: (0.5, 0.3), 30: (0.1, 0.0)}
    rows = [
        {"run": f"srt_beyond-s{seed}", "step": step, "dataset": dataset, "avg": avg if seed < 3 else 0.5}
        for seed in (1, 2, 3)
        for step, values in tests.items()
        for dataset, avg in zip("ab", values, strict=True)
    ]
    write_csv(Path(config.results, "tables/results.csv"), pd.DataFrame(rows))
    table = alarm_table(config)
    # the mean of the sets is 0.4, 0.5, 0.4, 0.05: it falls at 20; the third seed holds, so its alarm is false
    assert table["alarm"].tolist() == [17] * 3 and table["fall"].fillna(-1).tolist() == [20, 20, -1]
    assert table["lead"].fillna(0).tolist() == [3, 3, 0] and table["false_alarm"].tolist() == [False, False, True]
    with pytest.raises(SrtError, match="finish the run"):
        collect(config, tmp_path)


@pytest.mark.parametrize(("page", "main"), [("miniature", "config/mini.yaml"), ("real", "config/real.yaml")])
def test_calls_of_the_template_name_what_there_is(page: str, main: str, tmp_path: Path) -> None:
    config = configuration(tmp_path, main)
    tree = jinja2.Environment().parse((ROOT / "docs" / page / "template.md").read_text(encoding="utf-8"))
    calls = [(call.node.name, [argument.value for argument in call.args]) for call in tree.find_all(jinja2.nodes.Call)]
    assert len(calls) > 30
    assert all(hasattr(_Page, name) for name, _ in calls)
    for name, arguments in calls:
        if name in ("claim", "finding", "number", "verdict"):
            assert arguments[0] in config.claims
        if name == "accuracy":
            run, dataset, step, _ = arguments
            tested = {member for suite in config.runs[run].suites for member in config.members(suite)}
            assert dataset in tested and (step in (0, "last") or step in config.runs[run].checkpoints)


@pytest.mark.parametrize(
    "page", [path.parent for path in (ROOT / "docs").rglob("template.md")], ids=lambda page: page.name
)
def test_the_page_is_what_its_tables_say(page: Path) -> None:
    if not (page / "claims.csv").is_file():
        pytest.skip(f"docs/{page.relative_to(ROOT / 'docs')} holds no tables: no run of it is kept yet")
    assert (page / "README.md").read_text(encoding="utf-8") == fill((page / "template.md").read_text("utf-8"), page)
