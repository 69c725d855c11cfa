"""Sampling temperatures of a figure's evaluations, shown where a figure has more than one of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from srt.common.io import parquet_metadata
from srt.figures.spec import Series, Spec


@cache
def temperature(groups: str) -> float | None:
    """The temperature that the responses of a groups file were drawn with; None if the file does not say it."""
    value = parquet_metadata(groups).get("spec", {}).get("temperature")
    return None if value is None else float(value)


def labelled(spec: Spec) -> Spec:
    """The spec with temperatures in the labels of series that differ in them, or in the titles of such panels.

    Marks that name a series or a panel follow.
    """
    labels: dict[str | None, str] = {}
    titles: dict[str | None, str] = {}
    of_panel = [_text(panel.series) for panel in spec.panels]
    panels = []
    for panel, text in zip(spec.panels, of_panel, strict=True):
        of_label = {label: _text(seeds) for label, seeds in panel.groups_of_seeds().items()}
        changes: dict[str, object] = {}
        if len({*of_label.values()}) > 1:
            new = {label: _with(label, text) for label, text in of_label.items()}
            labels |= new
            changes["series"] = tuple(each.model_copy(update={"label": new[each.label]}) for each in panel.series)
        elif len({*of_panel}) > 1:
            titles[panel.title] = _with(panel.title, text)
            changes |= {"title": titles[panel.title], "temperature": text}
        panels.append(panel.model_copy(update=changes))
    if not labels and not titles:
        return spec
    options = spec.options
    if marks := getattr(options, "marks", []):
        named = [(labels.get(mark.series, mark.series), titles.get(mark.panel, mark.panel)) for mark in marks]
        marks = [m.model_copy(update={"series": s, "panel": p}) for m, (s, p) in zip(marks, named, strict=True)]
        options = options.model_copy(update={"marks": marks})
    return spec.model_copy(update={"panels": tuple(panels), "options": options})


def _with(name: str, text: str) -> str:
    """A label or title with the temperature, unless it says that itself."""
    return name if not text or text in name else f"{name} ({text})" if name else text


def _text(runs: Iterable[Series]) -> str:
    """ "T = 0.6", or "T = 0/0.6" where runs differ; "" if no file says it."""
    files = {path for run in runs for point in run.points for path in point.groups}
    known = sorted({value for path in files if (value := temperature(path)) is not None})
    return f"T = {'/'.join(f'{value:g}' for value in known)}" if known else ""
