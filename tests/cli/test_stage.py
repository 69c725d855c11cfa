"""A folder for machines without internet: filled from stand-ins of hub and index, used with the network off."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from models.test_base_models import ModelHub
from srt.cli.stage import BUILD, SETS, collect, environment, packages
from srt.common.errors import SrtError
from srt.common.io import canonical_json
from support import ROOT
from support.hub_server import NEW, OLD, REPOSITORIES, serve

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def without_network(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a network namespace without any interface, or where that is refused with no way out."""
    alone = (
        ["unshare", "-rn"] if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0 else []
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PIP_"))} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*alone, "sh", "-ec", command], env=kept | NOWHERE | environment, capture_output=True, text=True, timeout=400
    )


def test_the_sets_are_those_of_the_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    setup = (ROOT / "envs/setup.sh").read_text(encoding="utf-8")
    assert f'pip_install "torch" {" ".join(BUILD)} torch' in setup
    for arguments in SETS.values():
        assert " ".join(arguments) in setup
    tools, deepspeed, everything, smollm = packages(["smollm"])
    assert tools[-1] == "torch" and deepspeed == ["deepspeed"] and smollm[1] == "accelerate"
    assert "torch==2.13.0" in everything and any(line.startswith("pytest") for line in everything)


@pytest.mark.slow
def test_weights_and_data_of_the_folder_are_enough_without_a_network(
    tmp_path: Path, tiny_base: Path, monkeypatch
) -> None:
    monkeypatch.setitem(REPOSITORIES, "lab/tiny", {OLD: {p.name: p.read_bytes() for p in tiny_base.iterdir()}})
    model = {"source": "hub", "repo": "lab/tiny", "revision": OLD}
    data = {"source": "hub", "repo": "lab/sums", "revision": NEW, "config_name": "main", "answer_format": "gsm8k"}
    raw = yaml.safe_load((ROOT / "tests/micro/config.yaml").read_text(encoding="utf-8"))
    raw = {k: v for k, v in raw.items() if k not in ("files", "suites", "train_defaults")}
    raw |= {"models": {"m": model}, "datasets": {"sums": data}, "evaluate": {"suites": ["sums"]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    stage = tmp_path / "stage"
    command = [sys.executable, "-m", "srt.cli", "stage", "--configfile", str(tmp_path / "config.yaml")]
    with serve(ModelHub) as (url, _):
        online = os.environ | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        online |= {"PYTHONPATH": str(ROOT / "src"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        done = subprocess.run(
            [*command, "--out", str(stage), "--no-wheels"], cwd=ROOT, env=online, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert f". {stage}/env.sh" in done.stdout and "PIP" not in (stage / "env.sh").read_text()
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    python, out = sys.executable, tmp_path
    made = without_network(
        f". {stage}/env.sh; cd {ROOT};"
        f" {python} scripts/make_base.py --name m --spec '{canonical_json({**model, 'revision_of_code': 1})}'"
        f" --out {out}/m; {python} scripts/make_data.py --name sums --spec '{canonical_json(data)}'"
        f" --out {out}/sums.parquet --manifest {out}/sums.json",
        PYTHONPATH=str(ROOT / "src"),
    )
    assert made.returncode == 0, made.stderr
    assert (out / "m/model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()
    assert (out / "sums.parquet").is_file()


def wheel_of(folder: Path, name: str) -> None:
    """A wheel with one module, as a package index would hold it."""
    folder.mkdir()
    info, files = f"{name}-1.0.dist-info", {f"{name}.py": "VALUE = 7\n"}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    digest = {f: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b"=") for f, t in files.items()}
    record = "".join(f"{f},sha256={digest[f].decode()},{len(t)}\n" for f, t in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)


@pytest.mark.slow
def test_wheels_of_the_folder_are_enough_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel in a folder stands for PyPI; pip collects it, and installs it from the stage alone."""
    monkeypatch.chdir(ROOT)
    wheel_of(tmp_path / "index", "srtstandin")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    stage = tmp_path / "stage"
    collect(stage / "wheels", ["srtstandin"])
    with pytest.raises(SrtError, match=r"pip has not got the wheels \(.*no_such_standin"):
        collect(stage / "wheels", ["no_such_standin"])
    shutil.rmtree(tmp_path / "index")
    (stage / "env.sh").write_text(environment(stage, wheels=True), encoding="utf-8")
    done = without_network(
        f". {stage}/env.sh; {sys.executable} -m pip install -q --disable-pip-version-check --target {tmp_path}/lib"
        f" srtstandin; PYTHONPATH={tmp_path}/lib {sys.executable} -c 'import srtstandin; print(srtstandin.VALUE)'"
    )
    assert done.returncode == 0 and done.stdout.strip() == "7", done.stderr
