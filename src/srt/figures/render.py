"""Drawing a figure: the registry of kinds, and PDF, PNG and CSV from a spec."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srt.common.errors import SrtError, nearest
from srt.config.figures import OPTIONS
from srt.figures.spec import parse_spec

if TYPE_CHECKING:
    import pandas as pd

# A kind is named by its options in the configuration and drawn by the module of its name. Modules are imported only
# when they draw: the list of kinds for `--help` must not cost matplotlib and pandas.
KINDS = {kind: str(options.__doc__).partition(": ")[2] for kind, options in OPTIONS.items()}
SUFFIXES = (".pdf", ".png", ".csv")


def render(raw: Mapping[str, Any], out_prefix: str | Path) -> list[Path]:
    """Draw the figure of a raw spec (`srt.figures.spec.parse_spec`) to OUT_PREFIX.pdf, .png and .csv.

    All three are made in memory first and each is written atomically, so an error leaves earlier files as they were.

    Raises:
        SrtError: a wrong spec, or data that do not fit it.
    """
    spec = parse_spec(raw)
    if spec.kind not in KINDS:
        raise SrtError(f"{spec.where()}: kind '{spec.kind}' is unknown{nearest(spec.kind, KINDS)}")
    from srt.common.atomic_files import atomic_path
    from srt.common.io import write_csv
    from srt.figures import style
    from srt.figures.temperatures import labelled

    module, spec = import_module(f"srt.figures.{spec.kind}"), labelled(spec)
    with style.house_style():
        figure, table = module.draw(spec)
        style.note(figure, evidence_note(table))
        files = style.to_bytes(figure, spec.title)
    paths = [Path(f"{out_prefix}{suffix}") for suffix in SUFFIXES]
    for path in paths:
        if path.suffix == ".csv":
            write_csv(path, table)
        else:
            with atomic_path(path) as temporary:
                temporary.write_bytes(files[path.suffix[1:]])
    return paths


def evidence_note(table: pd.DataFrame) -> str:
    """How many seeds, problems and samples are behind what a figure shows, and what its intervals cover.

    Empty for a figure without intervals.
    """
    if "n_problems" not in table or "lo" not in table:
        return ""
    shown = table[table["lo"].notna() & table["n_problems"].notna()]
    if shown.empty:
        return ""
    parts = []
    for column, unit in (("n_seeds", "seed"), ("n_problems", "problem")):
        low, high = int(shown[column].min()), int(shown[column].max())
        parts.append(f"{low} {unit}{'s' * (low != 1)}" if low == high else f"{low} to {high} {unit}s")
    samples = sorted({name.rpartition("@")[2] for name in shown["quantity"] if "@" in name}, key=lambda n: (len(n), n))
    parts += [f"{' or '.join(samples)} samples per problem"] if samples else []
    single, several = (shown["n_seeds"] == 1).any(), (shown["n_seeds"] > 1).any()
    over = "over problems and seeds" if several else "over problems only, since there is one seed"
    over += ", those of single seeds over problems only" if single and several else ""
    return f"{', '.join(parts)}; 95 % intervals {over}"
