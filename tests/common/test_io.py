"""Files are complete or absent, errors are one sentence with the file's name, equal tables have equal bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srt.common import atomic_files, io
from srt.common.errors import EXIT_INTERRUPTED, EXIT_RESUME, EXIT_USAGE, Interrupted, SrtError, nearest, run_cli
from srt.common.plain_text import printable
from srt.common.progress import log


class Stop(BaseException):
    """Like KeyboardInterrupt, not an Exception."""


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("error", [ValueError, Stop, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path, error):
    file, folder = tmp_path / "a" / "x.txt", tmp_path / "b"
    io.write_text(file, "old")
    with atomic_files.atomic_dir(folder) as temporary:
        (temporary / "y").write_text("old")
    before = listing(tmp_path)
    with pytest.raises(error), atomic_files.atomic_path(file) as temporary:
        temporary.write_text("half of")
        assert file.read_text() == "old"
        raise error
    with pytest.raises(error), atomic_files.atomic_dir(folder) as temporary:
        (temporary / "z").write_text("half of")
        assert listing(folder) == ["y"]
        raise error
    assert listing(tmp_path) == before == ["a", "a/x.txt", "b", "b/y"]
    assert file.read_text() == (folder / "y").read_text() == "old"


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    for name in ("one", "two"):
        with atomic_files.atomic_dir(tmp_path / "m") as temporary:
            (temporary / name).mkdir()
            (temporary / name / "deep").write_text(name)
    assert listing(tmp_path) == ["m", "m/two", "m/two/deep"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_files.atomic_path(tmp_path / "x"):
        pass
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/elsewhere/source"), errno.EDQUOT),
        (OSError("[('/a', '/b', \"[Errno 28] No space left on device: '/a'\")]"), errno.ENOSPC),  # shutil.copytree
        (Exception("No space left on device (os error 28)"), errno.ENOSPC),  # tokenizers
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), errno.ENOSPC),  # torch
    ],
)
def test_a_full_disk_is_one_error_that_names_the_output(tmp_path, raised, number):
    for writer in (atomic_files.atomic_path, atomic_files.atomic_dir):
        with pytest.raises(OSError) as caught, writer(tmp_path / "out"):
            raise raised
        assert caught.value.errno == number and caught.value.filename == str(tmp_path / "out")
    assert listing(tmp_path) == []


def test_other_errors_of_the_body_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_files.atomic_path(tmp_path / "out"):
        (tmp_path / "input").read_text()
    assert caught.value.filename == str(tmp_path / "input")
    with pytest.raises(RuntimeError, match="a bug"), atomic_files.atomic_dir(tmp_path / "out"):
        raise RuntimeError("a bug")
    with pytest.raises(ConnectionRefusedError), atomic_files.atomic_dir(tmp_path / "out"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


# -- run_cli: one sentence and an exit code -----------------------------------------------------------------------


def exit_of(main, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        run_cli(main)
    return int(caught.value.code or 0), capsys.readouterr().err


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (SrtError("x.yaml: key 'a'"), EXIT_USAGE, "error: x.yaml: key 'a'"),
        (Interrupted("SIGTERM"), EXIT_RESUME, "stopped: SIGTERM"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted: nothing half-written"),
        (OSError(errno.ENOSPC, "", "out/x"), EXIT_USAGE, "disk full while writing out/x: free space"),
        (OSError(errno.ENOSPC, "", "in/y", None, "out/x"), EXIT_USAGE, "disk full while writing out/x"),
        (OSError(errno.EDQUOT, "", "out/x"), EXIT_USAGE, "disk full while writing out/x"),
        (PermissionError(errno.EACCES, "", "out/x"), EXIT_USAGE, "no permission for out/x: make it accessible"),
        (OSError(errno.EROFS, "", "out/x"), EXIT_USAGE, "no permission for out/x"),
        (FileNotFoundError(errno.ENOENT, "", "in/y"), EXIT_USAGE, "in/y does not exist: check the path"),
        (FileExistsError(errno.EEXIST, "", "out"), EXIT_USAGE, "out, or a folder above it, is a file where a folder"),
        (NotADirectoryError(errno.ENOTDIR, "", "out"), EXIT_USAGE, "is a file where a folder is needed"),
        (IsADirectoryError(errno.EISDIR, "", "out"), EXIT_USAGE, "out is a folder where a file is needed"),
        (OSError(errno.ENAMETOOLONG, "", "o" * 9), EXIT_USAGE, "ooooooooo: the name is too long"),
    ],
)
def test_run_cli_says_one_sentence(capsys, error, code, text):
    found, stderr = exit_of(raising(error), capsys)
    assert found == code and text in stderr and stderr.count("\n") == 1


def test_run_cli_exit_codes_of_main(capsys):
    assert exit_of(lambda: None, capsys) == (0, "") and exit_of(lambda: 3, capsys) == (3, "")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("no number"), OSError(errno.EINVAL, "invalid")])
def test_run_cli_hides_no_bug(error):
    with pytest.raises(type(error)):
        run_cli(raising(error))


def in_the_way(tmp_path: Path) -> dict[str, Path]:
    """Output paths where the path itself, its parent or its grandparent is of the wrong kind."""
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("keep me")
    return {
        "parent is a file": tmp_path / "file" / "x",
        "grandparent is a file": tmp_path / "file" / "y" / "x",
        "a folder is there": tmp_path / "folder",
    }


@pytest.mark.parametrize("kind", ["parent is a file", "grandparent is a file", "a folder is there"])
def test_files_in_the_way_are_one_sentence(tmp_path, capsys, kind):
    path = in_the_way(tmp_path)[kind]
    code, stderr = exit_of(lambda: io.write_text(path, "x"), capsys)
    assert code == EXIT_USAGE and stderr.startswith("error: ") and stderr.count("\n") == 1 and ".tmp" not in stderr
    assert str(path) in stderr or str(tmp_path / "file") in stderr
    assert listing(tmp_path) == ["file", "folder", "folder/inside"]


@pytest.mark.parametrize("name", ["file", "file/x", "file/y/x"])
def test_files_in_the_way_of_a_folder_are_one_sentence(tmp_path, capsys, name):
    in_the_way(tmp_path)

    def main() -> None:
        with atomic_files.atomic_dir(tmp_path / name) as temporary:
            (temporary / "a").write_text("x")

    code, stderr = exit_of(main, capsys)
    assert code == EXIT_USAGE and "is a file where a folder is needed" in stderr and stderr.count("\n") == 1
    assert listing(tmp_path) == ["file", "folder", "folder/inside"] and (tmp_path / "file").read_text() == "keep me"


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Run as the user nobody, since root may write anywhere; skip where that is not possible."""
    if os.geteuid() != 0:
        yield
        return
    user, group = os.geteuid(), os.getegid()
    try:
        os.setegid(65534)
        os.seteuid(65534)
    except OSError as error:
        pytest.skip(f"root here cannot become another user ({error})")
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)


def test_no_permission_is_a_sentence_for_readers_and_writers(capsys):
    folder = Path(tempfile.mkdtemp())  # not pytest's folder, which other users cannot enter
    try:
        io.write_parquet(folder / "x.parquet", pd.DataFrame({"a": [1]}))
        (folder / "x.json").write_text("{}")
        before = listing(folder)
        for name in before:
            (folder / name).chmod(0)
        folder.chmod(0o555)
        actions = {
            "x.parquet": lambda: io.read_parquet(folder / "x.parquet"),
            "x.json": lambda: io.read_json(folder / "x.json"),
            "y.txt": lambda: io.write_text(folder / "y.txt", "y"),
            "z": lambda: io.write_json(folder / "z" / "y.json", 1),
        }
        for name, action in actions.items():
            with without_privileges():
                code, stderr = exit_of(action, capsys)
            assert code == EXIT_USAGE and re.fullmatch(rf"error: no permission for \S*{name}: .*\n", stderr), stderr
        assert listing(folder) == before
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_nearest_names_what_was_meant():
    assert nearest("majorty", ("majority", "ground_truth")) == " (did you mean 'majority'?)"
    assert nearest("zzz", ("b", "a")) == " (known: a, b)"
    assert nearest("zzz", map(str, range(20))).endswith(", …)") and nearest("zzz", ()) == ""


# -- parquet, JSON, CSV -------------------------------------------------------------------------------------------


def test_parquet_metadata_and_missing_columns(tmp_path):
    path = tmp_path / "x.parquet"
    io.write_parquet(path, pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), {"z": 1, "a": "ü"})
    assert io.parquet_metadata(path) == {"a": "ü", "z": 1}
    assert io.read_parquet(path, ["b"]).column_names == ["b"] and io.read_parquet(path).num_rows == 2
    with pytest.raises(SrtError, match=r"x.parquet lacks the column 'c' \(it has: a, b\)"):
        io.read_parquet(path, ["a", "c"])
    pa.parquet.write_table(pa.table({"a": [1]}), path)
    assert io.parquet_metadata(path) == {}


def test_broken_parquet_is_a_sentence(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(SrtError, match=r"x.parquet does not exist"):
        io.read_parquet(path)
    io.write_parquet(path, pd.DataFrame({"a": np.random.default_rng(0).random(1000)}))
    whole = path.read_bytes()
    for damaged in (b"", b"not parquet", whole[:-10], whole[:200] + bytes(200) + whole[400:]):
        path.write_bytes(damaged)
        with pytest.raises(SrtError, match=r"x.parquet is not a readable parquet file .*, or delete it"):
            io.read_parquet(path)
    with pytest.raises(SrtError, match="is not a readable parquet file"):
        io.read_parquet(tmp_path)
    path.write_text("a file")
    with pytest.raises(NotADirectoryError) as caught:
        io.read_parquet(path / "y")
    assert caught.value.filename == str(path / "y")


def test_broken_json_is_a_sentence(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(SrtError, match=r"x\.json does not exist"):
        io.read_json(path)
    for text in (b"", b"{", b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(SrtError, match=r"x\.json is not JSON"):
            io.read_json(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(JSON.filter(lambda v: "\ud800" not in repr(v)))
def test_canonical_json_is_one_text_a_value(value):
    import json

    text = io.canonical_json(value)
    assert json.loads(text) == value and io.canonical_json(json.loads(text)) == text
    if isinstance(value, dict):
        assert io.canonical_json(dict(reversed(list(value.items())))) == text
    assert io.spec_hash(value) == io.sha256_bytes(text.encode())[:16]


def test_same_tables_same_bytes(tmp_path):
    frame = pd.DataFrame({"a": np.arange(100) / 7, "b": [str(i) for i in range(100)]})
    for name in ("x", "y"):
        io.write_parquet(tmp_path / name, frame.copy(), {"n": 1, "k": [2]})
        io.write_csv(tmp_path / f"{name}.csv", frame.copy())
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    text = (tmp_path / "x.csv").read_bytes()
    assert text == (tmp_path / "y.csv").read_bytes() and b"\r" not in text and b"0.1428571429,1" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "--spec is not JSON"), ("[1]", "a JSON list, not a dict"), ('{"a": 1}', "--spec lacks the key 'b'")],
)
def test_specs_of_the_command_line(tmp_path, text, expected):
    file = tmp_path / "spec.json"
    file.write_text(text)
    for option in (text, f"@{file}"):
        with pytest.raises(SrtError, match=expected):
            io.parse_spec(option, ["a", "b"])
    assert io.parse_spec('{"b": 2, "a": 1}', ["a", "b"]) == {"a": 1, "b": 2}
    assert io.parse_spec("[1]", kind=list) == [1]


def test_sha256_file_reads_all_blocks(tmp_path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(data)
    assert io.sha256_file(tmp_path / "x") == io.sha256_bytes(data)


def test_text_of_a_table_is_no_formula(tmp_path):
    frame = pd.DataFrame(
        {
            "text": ["=HYPERLINK(1)", "+1+2", "@SUM(1)", "-x", "-0.5", "-", "a\x1b[2J\u202eb", None],
            "number": [-0.5, -1.0, 2.0, 1e-9, 3.0, 4.0, 5.0, None],
            "mixed": pd.Series([1, None, True, -2, "x", 0.5, "=x", 2], dtype=object),
            "nullable": pd.array([1, None, 3, 4, 5, 6, 7, 8], dtype="Int64"),
        }
    )
    io.write_csv(tmp_path / "t.csv", frame)
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "text,number,mixed,nullable", "'=HYPERLINK(1),-0.5,1,1", "'+1+2,-1,,", "'@SUM(1),2,True,3", "'-x,1e-09,-2,4",
        "-0.5,3,x,5", "-,4,0.5,6", "a\\x1b[2J\\u202eb,5,'=x,7", ",,2,8",
    ]  # fmt: skip
    io.write_parquet(tmp_path / "t.parquet", frame[["text"]].iloc[:7])
    assert io.read_parquet(tmp_path / "t.parquet").to_pydict()["text"] == frame["text"].tolist()[:7]


def test_no_message_commands_the_terminal(capsys):
    hostile = "\x1b]0;title\x07\x9b2J\r\u202etxt\u2066"
    log(f"row 1: {hostile}")
    with pytest.raises(SystemExit):
        run_cli(lambda: (_ for _ in ()).throw(SrtError(f"no problem '{hostile}'")))
    with pytest.raises(SystemExit):
        run_cli(lambda: len(Path(f"/absent/{hostile}").read_text()))
    shown = capsys.readouterr().err
    assert "title" in shown and shown == printable(shown) and shown.count("\n") == 3
    assert printable("a\tb\nü 数 \\x") == "a\tb\nü 数 \\x"
