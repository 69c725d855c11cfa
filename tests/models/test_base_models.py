"""Base models from a folder and from a hub: the same files, fingerprinted; never code, never pickled weights."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srt.common.errors import SrtError
from srt.common.io import canonical_json
from srt.config.models import Example
from srt.models.base_models import make
from srt.models.checkpoint import fingerprint
from srt.models.customise import with_examples
from support import ROOT
from support.hub_server import ABSENT, OLD, REPOSITORIES, Hub, serve


class ModelHub(Hub):
    """The same server with the paths of model repositories, which have no prefix."""

    def _find(self) -> tuple[int, dict[str, str], bytes]:
        if not self.path.startswith(("/api", "/datasets")):
            self.path = "/datasets" + self.path
        return super()._find()


@pytest.fixture
def hub(tiny_base, monkeypatch):
    files = {p.name: p.read_bytes() for p in tiny_base.iterdir()}
    files |= {"modeling_evil.py": b"raise SystemExit('run')\n", "pytorch_model.bin": b"pickled"}
    monkeypatch.setitem(REPOSITORIES, "lab/tiny", {OLD: files})
    with serve(ModelHub) as (url, _):
        yield url


def make_from_hub(url: str, home: Path, out: Path, revision: str) -> subprocess.CompletedProcess:
    spec = {"source": "hub", "repo": "lab/tiny", "revision": revision, "revision_of_code": 1}
    environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [
            sys.executable, str(ROOT / "scripts/make_base.py"), "--name", "m", "--spec", canonical_json(spec),
            "--out", str(out),
        ],
        capture_output=True, text=True, env=environment, timeout=400,
    )  # fmt: skip


@pytest.mark.slow
def test_a_pinned_hub_revision_is_fetched_without_code_or_pickles(hub, tmp_path, tiny_base):
    done = make_from_hub(hub, tmp_path / "home", tmp_path / "m", OLD)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "m").iterdir()}
    assert "modeling_evil.py" not in names and "pytorch_model.bin" not in names
    weights = (tmp_path / "m/model.safetensors").read_bytes()
    assert weights == (tiny_base / "model.safetensors").read_bytes()
    assert fingerprint(tmp_path / "m")


@pytest.mark.slow
def test_a_revision_that_the_hub_lacks_is_one_sentence(hub, tmp_path):
    done = make_from_hub(hub, tmp_path / "home", tmp_path / "m", ABSENT)
    assert done.returncode == 2 and not (tmp_path / "m").exists()
    assert "error: models: m: lab/tiny@cccccccc cannot be fetched" in done.stderr and "Traceback" not in done.stderr


def test_a_local_folder_is_copied_and_others_are_refused(tiny_base, tmp_path):
    spec = {"source": "local", "path": str(tiny_base), "revision_of_code": 1}
    make("m", spec, tmp_path / "m")
    assert (tmp_path / "m/model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()
    with pytest.raises(SrtError, match=r"has no config\.json"):
        make("m", {**spec, "path": str(tmp_path)}, tmp_path / "n")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_text("{}")
    with pytest.raises(SrtError, match="pickled weights are refused"):
        make("m", {**spec, "path": str(tmp_path / "pickled")}, tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_solved_turns_come_before_every_prompt():
    """They are in the chat template, so sampling, training and every later checkpoint use them."""
    from jinja2 import Template

    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    examples = [Example(user='2 + 2 = "?"', assistant="4. \\boxed{4}\n{{ 7 * 7 }}")]
    shown = Template(with_examples(template, examples)).render(messages=[{"role": "user", "content": "1 + 1 ="}])
    assert shown == '<user>2 + 2 = "?"<assistant>4. \\boxed{4}\n{{ 7 * 7 }}<user>1 + 1 ='


def test_a_gguf_file_is_refused_in_one_sentence_unless_it_is_the_one_named(tmp_path, monkeypatch):
    spec = {"source": "gguf", "package": "weights_in_a_wheel", "file": "m.gguf", "sha256": "0" * 64}
    with pytest.raises(SrtError, match="'weights_in_a_wheel' is not installed: install it"):
        make("m", spec, tmp_path / "m")
    (tmp_path / "weights_in_a_wheel").mkdir()
    (tmp_path / "weights_in_a_wheel/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    find = importlib.util.find_spec
    for package in ("gguf", "accelerate"):  # transformers needs both to read GGUF files
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, gone=package: None if n == gone else find(n) or True)
        with pytest.raises(SrtError, match=f"'{package}' is not installed: install it"):
            make("m", spec, tmp_path / "m")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: find(n) or True)
    with pytest.raises(SrtError, match=r"has no m\.gguf: correct the name"):
        make("m", spec, tmp_path / "m")
    (tmp_path / "weights_in_a_wheel/m.gguf").write_bytes(b"other weights")
    with pytest.raises(
        SrtError, match=r"sha256: m\.gguf of the installed package has [0-9a-f]{64}: install the version"
    ):
        make("m", spec, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
@pytest.mark.smollm
def test_smollm2_is_dequantised_and_answers(tmp_path):
    """The model of config/smollm2.yaml, from the installed package."""
    import torch

    from srt.artefacts.specs import model_spec
    from srt.config import load_config, read_yaml
    from srt.data.prompts import render
    from srt.models.checkpoint import load_model

    config = load_config(read_yaml(ROOT / "config/smollm2.yaml"), ROOT, "config/smollm2.yaml")
    make("smollm2", json.loads(model_spec(config, "smollm2")), tmp_path / "m")
    model, tokenizer, eos = load_model(tmp_path / "m", "float32", "cpu")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    suffix = config.models["smollm2"].prompt_suffix
    question = "State the final answer to the following arithmetic problem: 3 + 4 ="
    ids = torch.tensor([render(tokenizer, question, suffix)])
    with torch.no_grad():
        said = model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=eos)
    assert "\\boxed{7}" in tokenizer.decode(said[0, ids.shape[1] :])
