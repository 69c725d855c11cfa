"""The rollout browser: what it shows, that untrusted text stays text, and the page itself in Chromium."""

from __future__ import annotations

import base64
import gzip
import json
import random
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
from srt.data.problem_table import make_table, write_problems
from support.chrome import Chrome

EVIL = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=2</script>&amp;\u202e %%style%%'


def write_run(folder: Path, problems: int, n: int, steps: tuple[int, ...], words: int = 0, evil: str = "") -> dict:
    """Files of a run on two data sets, `b` of two problems; returns the page's spec. Sample k answers k % 3.

    Each response holds `words` random words.
    """
    draw = random.Random(0)
    vocabulary = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz\\\\${}^0123456789", k=draw.randint(1, 12)))
        for _ in range(5000)
    ]
    sets = {"a": problems, "b": 2}
    for name, size in sets.items():
        rows = [
            {"id": f"{name}/{i}{evil}", "problem": f"Problem {i} of {name}? {evil}", "answer": "0", "source": "t",
             "subject": evil, "level": "1", "task": "math"}
            for i in range(size)
        ]  # fmt: skip
        write_problems(folder / f"{name}.parquet", make_table(rows), name)
    points = []
    for step in steps:
        samples, scores, groups = [], [], []
        for name, size in sets.items():
            for i in range(size):
                key = {"dataset": name, "problem_id": f"{name}/{i}{evil}"}
                for k in range(n):
                    answer = None if k == n - 1 else f"{k % 3}{evil if k % 3 == 2 else ''}"
                    text = " ".join(draw.choices(vocabulary, k=words))
                    response = f"step {step} sample {k} of {name}/{i} {evil}{text} \\boxed{{{k % 3}}}"
                    samples.append(
                        {**key, "sample": k, "response": response, "token_ids": [1] * (k + 1),
                         "finish_reason": "length" if k == 0 else "stop"}
                    )  # fmt: skip
                    class_id = -1 if answer is None else k % 3
                    reason = "ok" if answer is not None else "no box"
                    scores.append(
                        {
                            **key,
                            "sample": k,
                            "answer": answer,
                            "class_id": class_id,
                            "correct": class_id == 0,
                            "reason": reason,
                        }
                    )
                right = sum(s["correct"] for s in scores[-n:])
                groups.append(
                    {**key, "reference": "0", "n": n, "parsed": n - 1, "majority": "0", "majority_count": right,
                     "consistency_all": right / n, "pass_rate": right / n, "majority_correct": True, "truncated": 1,
                     "mean_length": (n + 1) / 2}
                )  # fmt: skip
        stem = folder / f"step-{step}"
        for kind, rows in (("samples", samples), ("scores", scores), ("groups", groups)):
            io.write_parquet(f"{stem}.{kind}.parquet", pd.DataFrame(rows))
        points.append({"step": step, "name": f"Step {step}", "stems": [str(stem)]})
    return {"run": f"run-s1{evil}", "label": f"SRT{evil}", "model": "tiny", "reward": "majority", "points": points}


def tables(folder: Path) -> list[Path]:
    return [folder / "a.parquet", folder / "b.parquet"]


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
        assert chrome.js("document.querySelector('.response.here').innerText").find("step 5 sample 4 of a/2") > 0
        assert chrome.errors == []
        assert [u.rpartition("/")[2] for u in chrome.requests] == ["page-0.html", "page-1.html"]


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
