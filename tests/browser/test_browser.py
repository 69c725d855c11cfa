"""The rollout browser: what it shows, that untrusted text stays text, and the page itself in Chromium."""

from __future__ import annotations

import base64
import gzip
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from srt.browser.collect import MAX_CHARS, choose, collect, shortened
from srt.browser.page import render_list, render_page
from srt.browser.resolve import shown_steps
from srt.common import io
from srt.common.errors import SrtError
from support.browser_run import tables, write_run
from support.chrome import Chrome

EVIL = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=2</script>&amp;\u202e %%style%%'


def block(page: str, name: str) -> Any:
    """A data block of a page, unpacked."""
    data = re.search(rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(data[1])))


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_steps_are_evenly_spaced_and_keep_both_ends() -> None:
    assert shown_steps([10, 20]) == [0, 10, 20]
    many = shown_steps(list(range(50, 1201, 50)), most=12)
    assert len(many) == 12 and many[0] == 0 and many[-1] == 1200
    gaps = [b - a for a, b in pairwise(many)]
    assert set(gaps) == {100, 150}


def test_every_response_of_a_shown_problem_and_the_same_problems_at_each_step(tmp_path) -> None:
    spec = write_run(tmp_path, problems=10, n=7, steps=(0, 5, 9))
    page = collect(spec, tables(tmp_path), max_rollouts=7 * 3 * 5)
    shown = [(p["set"], p["id"]) for p in page.index["problems"]]
    assert shown == [("a", "a/0"), ("a", "a/3"), ("a", "a/6"), ("b", "b/0"), ("b", "b/1")]  # b has but two
    assert len(page.index["responses"]["sample"]) == 7 * 3 * 5 and [len(t) for t in page.texts] == [35, 35, 35]
    assert page.index["in_all"] == {"problems": 12, "rollouts": 252}
    for group in page.index["groups"]:
        i, key = group["first"], shown[group["problem"]]
        step = spec["points"][group["step"]]["step"]
        text = page.texts[group["step"]][group["text"]]
        assert text.startswith(f"step {step} sample 0 of {key[1]} ")
        assert page.index["responses"]["sample"][i : i + group["n"]] == list(range(7))
        assert page.index["responses"]["length"][i : i + group["n"]] == list(range(1, 8))
        assert group["winner"] == 0 and group["right"] and group["pass"] == pytest.approx(2 / 7, abs=1e-5)


def test_columns_of_responses(tmp_path) -> None:
    index = collect(write_run(tmp_path, 1, 4, (0,)), tables(tmp_path), 1000).index
    r = index["responses"]
    assert r["class"][:4] == [0, 1, 2, -1] and r["correct"][:4] == [1, 0, 0, 0]
    assert [index["answers"][a] if a >= 0 else None for a in r["answer"][:4]] == ["0", "1", "2", None]
    assert [index["finish"][f] for f in r["finish"][:4]] == ["length", "stop", "stop", "stop"]
    assert [index["reasons"][x] for x in r["reason"][:4]] == ["ok", "ok", "ok", "no box"]
    assert index["steps"][0]["sets"]["a"]["avg"] == 0.25 and index["steps"][0]["sets"]["a"]["truncated"] == 0.25


def test_at_least_one_problem_and_never_more_than_there_are() -> None:
    frame = pd.DataFrame({"dataset": ["a"] * 3, "problem_id": list("xyz"), "n": 32}).set_index(
        ["dataset", "problem_id"]
    )
    assert choose([frame], 1) == [("a", "x")]
    assert choose([frame], 10**6) == [("a", "x"), ("a", "y"), ("a", "z")]
    with pytest.raises(SrtError, match="share no problem"):
        choose([frame.iloc[:1], frame.iloc[1:]], 100)


def test_long_responses_keep_both_ends() -> None:
    text = "start " + "x" * 40_000 + " \\boxed{7}"
    short = shortened(text)
    assert len(short) < MAX_CHARS + 60 and short.startswith("start ") and short.endswith("\\boxed{7}")
    assert "24,016 characters left out" in short and shortened("short") == "short"


def test_errors_name_the_file_and_the_fix(tmp_path) -> None:
    spec = write_run(tmp_path, 2, 3, (0,))
    with pytest.raises(SrtError, match="in no problem table: name its file with --problems"):
        collect(spec, tables(tmp_path)[:1], 100)
    scores = io.read_parquet(tmp_path / "step-0.scores.parquet")
    io.write_parquet(tmp_path / "step-0.scores.parquet", scores.slice(1))
    with pytest.raises(SrtError, match=r"step-0\.scores\.parquet lacks sample 0 of 'a/0': score again"):
        collect(spec, tables(tmp_path), 100)
    (tmp_path / "step-0.groups.parquet").unlink()
    with pytest.raises(SrtError, match=r"step-0\.groups\.parquet does not exist"):
        collect(spec, tables(tmp_path), 100)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path) -> None:
    spec = write_run(tmp_path, 2, 4, (0, 5))
    pages = [render_page(collect(spec, tables(tmp_path), 100)) for _ in range(2)]
    assert pages[0] == pages[1]
    assert block(pages[0], "texts-1")[3].startswith("step 5 sample 3 of a/0")
    assert "default-src 'none'" in pages[0] and "%%" not in pages[0]
    assert not re.search(
        r"(?:src|href)\s*=|url\(|@import|fetch\(|XMLHttp|innerHTML|insertAdjacent|document\.write", pages[0]
    )


def test_no_untrusted_byte_is_in_the_page_as_text(tmp_path) -> None:
    page = render_page(collect(write_run(tmp_path, 2, 4, (0,), evil=EVIL), tables(tmp_path), 100))
    clean = render_page(collect(write_run(tmp_path, 2, 4, (0,)), tables(tmp_path), 100))
    assert "onerror" not in page.replace("&lt;img src=x onerror=", "")  # the title, escaped
    assert page.count("<script") == clean.count("<script") and page.count("<img") == 0
    assert EVIL in block(page, "texts-0")[0] and block(page, "index")["problems"][0]["subject"] == EVIL


def test_the_list_escapes_names() -> None:
    page = render_list([{"file": "a-s1.html", "run": "a-s1", "label": "<b>&", "model": "m", "data": "d"}])
    assert '<a href="a-s1.html">a-s1</a>' in page and "&lt;b&gt;&amp;" in page and "<b>" not in page


# ---- in Chromium ----------------------------------------------------------------------------------------------------

READY = "document.documentElement?.dataset?.ready"


def opened(chrome: Chrome, folder: Path, page: str, fragment: str = "") -> None:
    file = folder / f"page-{len(list(folder.glob('page-*')))}.html"  # a new name, or Chromium would show the old page
    file.write_text(page, encoding="utf-8")
    chrome.open(f"{file.as_uri()}{fragment}")
    chrome.wait(READY)


@pytest.mark.slow
@pytest.mark.chromium
def test_filters_keys_and_links(tmp_path) -> None:
    page = render_page(collect(write_run(tmp_path, 3, 7, (0, 5)), tables(tmp_path), 1000))
    with Chrome() as chrome:
        opened(chrome, tmp_path, page)
        count, place = "document.getElementById('count').textContent", "location.hash"
        cards = "document.querySelectorAll('.response').length"
        assert chrome.js(count) == "35 responses to 5 problems" and chrome.js(cards) == 7
        first = "document.querySelector('.votes').innerText"
        assert "2 of 7" in chrome.js(first) and "majority" in chrome.js(first) and "no answer" in chrome.js(first)
        for show, left in (
            ("correct", 2),
            ("majority", 2),
            ("minority", 4),
            ("none", 1),
            ("length", 1),
            ("incorrect", 5),
        ):
            chrome.js(f"go({{show: '{show}'}})")
            assert chrome.js(cards) == left, show
        chrome.js("go({show: 'all', q: 'SAMPLE 3'})")
        assert chrome.js(count) == "5 responses to 5 problems"
        assert chrome.js("document.querySelector('mark').textContent") == "sample 3"
        chrome.js("go({q: '', set: 'b'})")
        assert chrome.js(count) == "14 responses to 2 problems"
        for key, expected in (
            ("Escape", "#step=0&problem=b%2Fb%2F0"), ("ArrowRight", "#step=0&problem=b%2Fb%2F1"),
            ("]", "#step=5&problem=b%2Fb%2F1"), ("n", "#step=5&problem=b%2Fb%2F1&sample=0"),
            ("n", "#step=5&problem=b%2Fb%2F1&sample=1"), ("k", "#step=5&problem=b%2Fb%2F0"),
            ("[", "#step=0&problem=b%2Fb%2F0"),
        ):  # fmt: skip
            chrome.key(key)
            chrome.wait(f"{place} === '{expected}'", 5)
        opened(
            chrome,
            tmp_path,
            page,
            "#step=5&problem=a%2Fa%2F2&sample=4&show=minority",
        )
        assert chrome.js("document.querySelector('h2').textContent") == "a · a/2"
        assert chrome.js("document.querySelector('.response.here').id") == "sample-4"
        # the responses are drawn after the question and the votes
        chrome.wait("document.querySelector('.response.here').innerText.includes('step 5 sample 4 of a/2')", 5)
        assert chrome.errors == []
        assert [u.rpartition("/")[2] for u in chrome.requests] == ["page-0.html", "page-1.html"]


@pytest.mark.slow
@pytest.mark.chromium
def test_two_steps_side_by_side_the_curve_and_problems_that_changed(tmp_path) -> None:
    spec = write_run(tmp_path, 3, 7, (0, 5))
    frame = pd.DataFrame({"step": [5, 1, 3], "true_accuracy": [0.5, 0.25, None], "majority_ratio": [1.0, 0.5, 0.75]})
    io.write_parquet(tmp_path / "metrics.parquet", frame.assign(kl=0.1))
    page = collect({**spec, "metrics": str(tmp_path / "metrics.parquet")}, tables(tmp_path), 1000)
    assert page.index["training"] == {
        "step": [1, 3, 5], "true_accuracy": [0.25, None, 0.5], "majority_ratio": [0.5, 0.75, 1.0]
    }  # fmt: skip
    changed = next(g for g in page.index["groups"] if (g["step"], g["problem"]) == (1, 1))
    changed |= {"winner": 1, "right": False}
    with Chrome() as chrome:
        opened(chrome, tmp_path, render_page(page), "#step=5&problem=a%2Fa%2F1")
        count = "document.getElementById('count').textContent"
        for kind, left in (("flipped", 1), ("lost", 1), ("wrong", 1), ("gained", 0), ("cut", 5), ("all", 5)):
            chrome.js(f"go({{kind: '{kind}'}})")
            assert chrome.js(count).endswith(f" to {left} problems"), kind
        names = "[...document.querySelectorAll('#list button')].map((b) => b.innerText.split('\\n')[1]).join('|')"
        assert chrome.js(names).startswith("Problem 0 of a?|Problem 1 of a?"), "questions, not ids"
        chrome.js("go({problem: 1})")
        chrome.key("b")
        columns = "[...document.querySelectorAll('.columns > div')].map((c) => c.innerText)"
        chrome.wait(f"{columns}.filter((text) => text.includes('sample 6')).length === 2", 5)
        before, here = chrome.js(columns)
        assert before.startswith("Step 0") and "step 0 sample 6 of a/1" in before and "step 5" not in before
        assert here.startswith("Step 5") and "step 5 sample 6 of a/1" in here
        chrome.js("go({show: 'correct'})")
        assert chrome.js("document.querySelectorAll('.response').length") == 4
        assert "beside=0" in chrome.js("location.hash")
        told = "document.getElementById('curve').innerText"
        assert "step 5 of 5" in chrome.js(told) and "accuracy in training 50 %" in chrome.js(told)
        assert "agreement in training 100 %" in chrome.js(told)
        chrome.js(
            "{const s = document.querySelector('#curve svg'), b = s.getBoundingClientRect();"
            "s.dispatchEvent(new MouseEvent('click', {clientX: b.left + 1, clientY: b.top + 1}))}"
        )
        chrome.wait("location.hash.startsWith('#step=0')", 5)
        assert chrome.js("document.querySelectorAll('#curve .place').length") == 1
        chrome.key("b")
        chrome.wait("!location.hash.includes('beside')", 5)
        assert chrome.errors == []


@pytest.mark.slow
@pytest.mark.chromium
def test_a_phone_shows_the_page_without_scrolling_to_the_side(tmp_path) -> None:
    page = render_page(collect(write_run(tmp_path, 3, 7, (0, 5, 9)), tables(tmp_path), 1000))
    with Chrome(390, 844) as chrome:
        opened(chrome, tmp_path, page, "#step=5&problem=a%2Fa%2F1&beside=0")
        assert chrome.js("document.documentElement.scrollWidth <= innerWidth")
        assert chrome.js("document.getElementById('curve').hidden"), "without metrics there is no curve"
        assert chrome.js("document.querySelector('.response').getBoundingClientRect().width") > 300


@pytest.mark.slow
@pytest.mark.chromium
def test_untrusted_text_stays_text(tmp_path) -> None:
    page = render_page(collect(write_run(tmp_path, 2, 4, (0,), evil=EVIL), tables(tmp_path), 100))
    with Chrome() as chrome:
        opened(chrome, tmp_path, page)
        assert EVIL in chrome.js("document.querySelector('.body').textContent")
        assert EVIL in chrome.js("document.querySelector('.problem').textContent")
        assert chrome.js("document.images.length") == 0 and chrome.js("window.hacked") is None
        chrome.js("go({q: '<img'})")
        assert chrome.js("document.querySelectorAll('mark').length") > 0 and chrome.js("document.images.length") == 0
        # if one got through all the same, the content security policy would stop it
        chrome.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
        chrome.js("new Promise((done) => setTimeout(done, 200))")
        assert chrome.js("window.hacked") is None


@pytest.mark.chromium
@pytest.mark.slow
def test_a_page_of_ten_thousand_rollouts_unpacks_one_step_and_draws_one_problem(tmp_path) -> None:
    """What is unpacked and drawn until the page is readable does not grow with the run."""
    spec = write_run(tmp_path, 61, 32, (0, 5, 10, 15, 20), words=450)  # 3.4 kB per response
    page = render_page(collect(spec, tables(tmp_path), 10_080))
    assert len(block(page, "index")["responses"]["sample"]) == 10_080
    with Chrome() as chrome:
        opened(chrome, tmp_path, page)
        print(f"10,080 rollouts, {len(page) / 1e6:.1f} MB: readable after {chrome.js(READY)} ms")
        assert chrome.js("[...texts.keys()].join()") == "0"
        assert chrome.js("document.querySelectorAll('.response').length") == 32
        assert chrome.js("document.querySelectorAll('*').length") < 2000
