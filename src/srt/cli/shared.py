"""What several commands share: the configuration that they are about, and tables for a terminal."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srt.common.plain_text import printable

if TYPE_CHECKING:
    import pandas as pd

    from srt.config import Config


class _ConfigFiles(argparse.Action):
    """The files of a repeated --configfile, instead of the default."""

    def __call__(self, parser: Any, args: argparse.Namespace, value: Any, option: str | None = None) -> None:
        files = [] if getattr(args, self.dest) == self.default else getattr(args, self.dest)
        setattr(args, self.dest, [*files, value])


def add_configfile(parser: Any, default: str = "config/config.yaml") -> None:
    """Add --configfile; given several times, the files are merged as by Snakemake."""
    parser.add_argument(
        "--configfile", type=Path, default=(Path(default),), metavar="FILE", action=_ConfigFiles,
        help=f"repeatable: later files win (default: {default})",
    )  # fmt: skip


def configuration(args: argparse.Namespace, **changes: Any) -> Config:
    """The configuration of --configfile, with top-level keys changed as by Snakemake's --config."""
    from srt.common.errors import SrtError
    from srt.common.own_code import FOLDERS
    from srt.config import load_config, read_yaml

    raw: dict[str, Any] = {}
    for file in args.configfile:
        if not file.is_absolute() and not Path("config").is_dir() and not file.exists():
            raise SrtError(
                f"{file} does not exist below {Path.cwd()}: run the command in the repository root, or name the file "
                "with --configfile"
            )
        raw = merged(raw, read_yaml(file))
    config = load_config(raw | changes, Path.cwd(), str(args.configfile[-1]), list(args.configfile))
    os.environ[FOLDERS] = os.pathsep.join(map(str, config.code_folders))
    return config


def merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Both, of equal keys the second's value; mappings are merged, as Snakemake merges several --configfile."""
    both = {key: merged(one[key], two[key]) for key in one.keys() & two.keys() if _mappings(one[key], two[key])}
    return one | two | both


def _mappings(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def model_and_data(args: argparse.Namespace) -> tuple[Path, Path, Config | None]:
    """The model's folder and the problem table that `args.model` and `args.data` name, as paths or configuration keys.

    Also the configuration, if one of them is not a path.

    Raises:
        SrtError: there is no such key, or nothing was made of it yet.
    """
    from srt.artefacts.paths import Paths
    from srt.common.errors import SrtError, nearest

    folder, file, config = Path(args.model), Path(args.data), None
    if not (folder.is_dir() and file.is_file()):
        config = configuration(args)
        if not folder.is_dir():
            if args.model not in config.models:
                raise SrtError(f"no model '{args.model}'{nearest(args.model, config.models)}, and no such folder")
            folder = Path(Paths(config.results).base_model(args.model))
        if not file.is_file():
            if args.data not in config.datasets:
                raise SrtError(f"no data set '{args.data}'{nearest(args.data, config.datasets)}, and no such file")
            file = Path(Paths(config.results).problems(args.data))
    if not (folder / "config.json").is_file():
        raise SrtError(f"{folder} holds no model: name another folder, or make it with snakemake {folder}")
    if not file.is_file():
        raise SrtError(f"{file} does not exist: make it with snakemake {file}")
    return folder, file, config


def table(frame: pd.DataFrame, **formats: str) -> str:
    """A table as text, its first column flush left. `formats`: the format of some columns, such as `avg="{:.3f}"`."""
    first = str(frame.columns[0])
    width = max(map(len, [first, *frame[first].astype(str)]))
    shown = {first: f"{{:<{width}}}", **formats}
    text = frame.rename(columns={first: f"{first:<{width}}"}).to_string(
        index=False,
        na_rep="",
        formatters={(f"{first:<{width}}" if key == first else key): value.format for key, value in shown.items()},
    )
    return printable("\n".join(line.rstrip() for line in text.split("\n")))
