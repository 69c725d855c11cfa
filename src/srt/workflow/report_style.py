"""The look of Snakemake's report (applied by srt.workflow.patches)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("report.css")


def with_our_style(original: Callable[..., None], results: Path) -> Callable[..., None]:
    """`Reporter.__post_init__` that takes our style sheet, unless the user names one."""

    def post_init(reporter: Any) -> None:
        settings = reporter.settings
        settings.stylesheet_path = settings.stylesheet_path or STYLE
        original(reporter)

    return post_init
