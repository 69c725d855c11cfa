"""Figures: a spec in, PDF + PNG + CSV out, byte-identical for equal inputs.

`KINDS` is the registry. A kind is a module with `draw(spec) -> (figure, table)`; its docstring lists its options. A
new figure of a known kind is configuration only. What is not here: which figure shows which runs (configuration), and
where files lie (the workflow resolves paths into the spec).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from srt.common.errors import SrtError, nearest
from srt.figures.spec import parse_spec

# name -> (module, what it draws); modules are imported when drawn, so that a list of kinds costs nothing.
KINDS: dict[str, tuple[str, str]] = {
    "curves": ("srt.figures.curves", "accuracy against RL step, a panel a train set or a data set"),
    "climb": ("srt.figures.climb", "accuracy from level to level along chains of runs, steps added up"),
    "dynamics": ("srt.figures.dynamics", "accuracy, training reward and KL penalty of the same runs"),
    "bars": ("srt.figures.bars", "base model against trained model, a group of bars a test set"),
    "gap": ("srt.figures.gap", "generation-verification gap against the consistency threshold"),
    "examples": ("srt.figures.examples", "responses to the same prompts before and after training"),
    "scheme": ("srt.figures.scheme", "where the reward comes from: a verifier, or the majority vote"),
}
SUFFIXES = (".pdf", ".png", ".csv")


def render(raw: Mapping[str, Any], out_prefix: str | Path) -> list[Path]:
    """Draw the figure of a raw spec (see `srt.figures.spec.parse_spec`) to OUT_PREFIX.pdf, .png and .csv.

    All three are made in memory first, then each is written atomically: an error leaves what was there before. Raises
    SrtError for a wrong spec or data that do not fit it.
    """
    spec = parse_spec(raw)
    if spec.kind not in KINDS:
        raise SrtError(f"{spec.where()}: kind '{spec.kind}' is unknown{nearest(spec.kind, KINDS)}")
    # Here, not at the top: matplotlib and pandas take half a second that `--help` should not.
    from srt.common.io import atomic_path, write_csv
    from srt.figures import style

    module = import_module(KINDS[spec.kind][0])
    with style.house_style():
        figure, table = module.draw(spec)
        files = style.to_bytes(figure, spec.title)
    paths = [Path(f"{out_prefix}{suffix}") for suffix in SUFFIXES]
    for path in paths:
        if path.suffix == ".csv":
            write_csv(path, table)
        else:
            with atomic_path(path) as temporary:
                temporary.write_bytes(files[path.suffix[1:]])
    return paths
