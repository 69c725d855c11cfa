"""The report as a person opens it, in a headless Chromium: what is in sight, in which order, whether all is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srt.report.first_page import figure_label
from support.chrome import Chrome
from support.config_files import full
from support.dag import MICRO, snakemake

pytestmark = pytest.mark.chromium

CONTENT = "document.querySelector('#app > div > nav + div')"


@pytest.fixture(scope="module")
def report(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the micro configuration, beside its results."""
    folder = tmp_path_factory.mktemp("report") / "clone"
    shutil.copytree(micro_run, folder, symlinks=True)
    snakemake(folder, *MICRO, "--report", "results/micro/report.html")
    return folder / "results/micro/report.html"


def first_page(browser: Chrome, report: Path) -> None:
    browser.open(report.as_uri())
    browser.wait("document.readyState == 'complete' && !!document.querySelector('#app .prose h1') && !!window.tailwind")
    browser.wait("getComputedStyle(document.querySelector('#app > div')).display == 'flex'")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_everything_is_in_sight_and_there(report: Path, width: int, height: int) -> None:
    with Chrome(width, height) as browser:
        first_page(browser, report)
        head = browser.js(
            "(r => [r.top, r.left, r.right])(document.querySelector('#app .prose h1').getBoundingClientRect())"
        )
        assert 0 <= head[0] < height / 2 and 0 <= head[1] < head[2] <= width, "the heading is in the window"
        text = browser.js("document.querySelector('#app .prose').innerText")
        assert "Self-Rewarded Training" in text and not any(word in text for word in ("AMC23", "Claims", "Verdicts"))
        font = browser.js("parseFloat(getComputedStyle(document.querySelector('#app .prose p')).fontSize)")
        assert font >= 14 and browser.js("document.querySelector('#app .prose').clientWidth") > min(width - 60, 500)
        for link in browser.js("[...document.querySelectorAll('#app .prose a')].map(a => a.getAttribute('href'))"):
            assert link.startswith("javascript:") or (report.parent / link).is_file(), link
        assert browser.js("Object.keys(categories).length") == 5
        for path in browser.js("Object.keys(results)"):
            browser.js(f"app.showResultInfo({json.dumps(path)})")
            assert browser.wait("document.querySelector('nav').innerText.length > 200"), f"{path} has a caption"
        browser.js("app.showCategory('1 Figures')")
        names = browser.js(
            "[...document.querySelectorAll('nav td')].map(cell => cell.innerText).filter(text => text.trim())"
        )
        assert names == [figure_label("fig2", "Micro"), figure_label("fig9", "Gap")]
        for number in range(len(names)):
            browser.js(f"document.querySelectorAll('nav tbody tr')[{number}].querySelector('a').click()")
            picture = browser.wait(f"(i => i && i.complete && i.naturalWidth && i.src)({CONTENT}.querySelector('img'))")
            assert picture.startswith("data:image/png") and len(picture) > 1000
            sides = browser.js(f"(r => [r.left, r.right])({CONTENT}.querySelector('img').getBoundingClientRect())")
            assert 0 <= sides[0] < sides[1] <= width and sides[1] - sides[0] > 300
            menu = browser.js("(m => [m.scrollWidth, m.clientWidth])(document.querySelector('#app > div > nav'))")
            assert menu[0] <= menu[1] + 1, "the buttons of the menu are in sight"
        assert browser.js("document.documentElement.scrollWidth") <= width
        assert browser.errors == [] and all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests)


def test_figures_are_sorted_by_their_numbers() -> None:
    """As the report's JavaScript sorts them."""
    figures = full().figures
    labels = [figure_label(name, figure.title) for name, figure in figures.items()]
    with Chrome() as browser:
        ordered = browser.js(f"{json.dumps(labels)}.sort((a, b) => a.localeCompare(b))")
    for kind in ("Figure ", "Table ", "v2 Figure ", "v2 Table "):
        numbers = [int(label.removeprefix(kind).partition(":")[0]) for label in ordered if label.startswith(kind)]
        assert numbers == sorted(numbers) and numbers, kind
    assert [label.partition(" ")[0] for label in ordered] == sorted(label.partition(" ")[0] for label in labels)
