"""Time a page of the rollout browser in headless Chromium: from opening to the first paint, and for each filter.

    python benchmarks/browser_page.py [--rounds 5] [--quick] [--out benchmarks/results/browser_page.json]

Pages hold 10,080 responses of 3.4 kB random text: 63 problems at five steps, and 315 problems at one step, where a
filter looks at all responses. A filter is timed from its call to the end of the frame that shows its result. The last
line says whether the medians keep the limits: 2 s until the question and the votes are shown, 200 ms for a filter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
sys.path.insert(0, str(ROOT / "tests"))

from measure import machine, spread  # noqa: E402

from srt.browser.collect import collect  # noqa: E402
from srt.browser.page import render_page  # noqa: E402
from srt.common.io import write_json  # noqa: E402
from support.browser_run import tables, write_run  # noqa: E402
from support.chrome import Chrome  # noqa: E402

SHOWN_MS, FILTER_MS = 2000, 200
SETTLE = 3.0  # seconds between opening a page and the first filter, as for a reader
SHAPES = {"63 problems, 5 steps": (61, (0, 5, 10, 15, 20)), "315 problems, 1 step": (313, (0,))}
FILTERS = {
    "flipped": "{kind: 'flipped'}", "lost": "{kind: 'lost'}", "majority wrong": "{kind: 'wrong'}",
    "problems with a cut": "{kind: 'cut'}", "incorrect": "{kind: 'all', show: 'incorrect'}",
    "against the majority": "{show: 'minority'}", "all": "{show: 'all'}", "search, many hits": "{q: 'sample 3'}",
    "search, no hit": "{q: 'nowhere to be found'}", "none": "{q: ''}", "data set": "{set: 'b'}",
    "all sets": "{set: ''}",
}  # fmt: skip
READY = "document.documentElement?.dataset?.ready"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
SHOWN = "document.documentElement.dataset.shown"
TIMED = """(async () => {{
  const start = performance.now();
  await go({changes});
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  return performance.now() - start;
}})()"""


def one_shape(folder: Path, problems: int, steps: tuple[int, ...], words: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of one page, over `rounds` browsers, each with a page of its own."""
    folder.mkdir()
    page = collect(write_run(folder, problems, 32, steps, words=words), tables(folder), 10_080)
    file = folder / "page.html"
    file.write_text(render_page(page), encoding="utf-8")
    paints, shown, readable, filters = [], [], [], {name: [] for name in FILTERS}
    for _ in range(rounds):
        with Chrome() as chrome:
            chrome.open(file.as_uri())
            readable.append(float(chrome.wait(READY)))
            paints.append(float(chrome.wait(PAINT)))
            shown.append(float(chrome.js(SHOWN)))
            time.sleep(SETTLE)
            for name, changes in FILTERS.items():
                filters[name].append(float(chrome.js(TIMED.format(changes=changes))))
            assert not chrome.errors, chrome.errors
    return {
        "responses": len(page.index["responses"]["sample"]),
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "first_paint_ms": spread(paints, 1),
        "shown_ms": spread(shown, 1),
        "readable_ms": spread(readable, 1),
        "filter_ms": {name: spread(values, 1) for name, values in filters.items()},
    }


def medians(page: dict[str, Any]) -> dict[str, float]:
    """Milliseconds until the question and the votes are shown, and of the slowest filter."""
    return {
        "shown_ms": page["shown_ms"]["median"],
        "filter_ms": max(each["median"] for each in page["filter_ms"].values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="browsers per page (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small pages, one round")
    parser.add_argument("--threads", type=int, default=2, help="for the record of the machine (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/browser_page.json", help="JSON to write")
    args = parser.parse_args()
    words, rounds = (5, 1) if args.quick else (450, args.rounds)
    pages = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, (problems, steps)) in enumerate(SHAPES.items()):
            problems = 3 if args.quick else problems
            pages[name] = one_shape(Path(folder, str(place)), problems, steps, words, rounds)
            print(f"{name}: {medians(pages[name])}", flush=True)
    worst = {key: max(medians(page)[key] for page in pages.values()) for key in ("shown_ms", "filter_ms")}
    kept = worst["shown_ms"] < SHOWN_MS and worst["filter_ms"] < FILTER_MS
    limits = {"shown_ms": SHOWN_MS, "filter_ms": FILTER_MS}
    result = {"machine": machine(args.threads, "cpu"), "limits": limits, "kept": kept, "worst": worst, "pages": pages}
    write_json(args.out, result)
    print(f"worst medians: {worst}; limits {'kept' if kept else 'not kept'}")


if __name__ == "__main__":
    main()
