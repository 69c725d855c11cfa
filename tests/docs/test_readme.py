"""What README and docs/howto.md say is true: commands plan, entries load, files exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib

import pytest
import yaml

from srt.cli import __main__ as cli
from srt.config import Config, load_config, read_yaml
from srt.plan.jobs import build
from srt.plan.preview import preview
from support import ROOT
from support.config_files import full
from support.dag import copy_of_the_tree, snakemake
from support.rooms import ROOMS

README = (ROOT / "README.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs/howto.md").read_text(encoding="utf-8")
COMMANDS = [c for c in re.findall(r"\| `(snakemake [^`]*)` \|", HOWTO) if "--report" not in c]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return copy_of_the_tree(tmp_path_factory.mktemp("readme"))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_snakemake_command_plans(clone, command, request):
    args = shlex.split(command)[1:]
    if args == ["--profile", "slurm", "-n"]:  # tests/workflow/test_matrix_dag.py
        return
    if args == ["--profile", "slurm", "-n", "--quiet", "host"]:  # as other tests need it
        assert "Job stats" in request.getfixturevalue("full_plan")
        return
    if args[0].startswith("--list"):
        listed = snakemake(clone, *args).splitlines()
        names = {line.partition(" ")[0] for line in listed}
        assert {"all_figures", "fig1", "plan"} <= names and (len(listed) < 20 or "fig2" in names)
        return
    at = args.index("--") if "--" in args else len(args)
    never_trains = "--allowed-rules" in args  # in a fresh clone there are no results to redraw from
    output = snakemake(clone, *args[:at], "-n", *args[at:], code=1 if never_trains else 0)
    assert re.search("Missing input files" if never_trains else "Job stats|jobs are planned", output)


def cost(config: Config, *targets: str) -> dict[str, str]:
    """GPU-hours, wall time by number of partitions, and disk, as a dry-run of these figures (or of all) prints them."""
    dag = build(config)
    keys = dag.closure([dag.figures[name] for name in targets] or dag.leaves)
    text = preview(config, [path for key in keys for path in dag.jobs[key].outputs])
    hours, disk = re.search(r"planned: (\S+) GPU-hours, (.*) on disk in the end", text).groups()
    spans = re.findall(r"([\d.]+ \w+) on (\d+)", text.partition("Wall time")[2])
    return {"hours": f"{float(hours.replace(',', '')):,.0f} GPU-hours", "disk": disk, **{n: span for span, n in spans}}


def test_the_first_screen_says_what_it_costs():
    """The numbers of the plan, and the measured times of docs/measured.md.

    After a change of the matrix, copy the row that the assertion prints into README.
    """
    screen = README.partition("Requirements:")[0]
    rows = dict(re.findall(r"^\|[^|]*\| `([^`]+)` \|(.*)\|$", screen, re.MULTILINE))
    assert len(screen.splitlines()) < 30
    for command, seeds in (("snakemake --profile slurm --config seeds=1", 1), ("snakemake --profile slurm", 3)):
        found = cost(full(seeds=seeds))
        told = f" {found['hours']}: {found['1']} on 8 GPUs, {found['4']} on 32 | {found['disk']} "
        assert rows[command] == told
    one = cost(full(), "fig3")
    assert f"`snakemake --profile slurm -n fig3` prices\none ({one['hours']}, {one['disk']})" in screen
    measured = (ROOT / "docs/measured.md").read_text(encoding="utf-8")
    for name, time, disk in (("smoke", "170 s", "86 MB"), ("mini", "an hour", "0.85 GB")):
        file = f"config/{name}.yaml"
        planned = cost(load_config(read_yaml(ROOT / file), ROOT, file))["disk"].split()
        told = rows[f"make {name}"]
        assert told.startswith(f" {time} on two CPU cores") and told.endswith(f"| {disk} ")
        planned_mb, told_mb = (float(n) * {"MB": 1, "GB": 1000}[unit] for n, unit in (planned, disk.split()))
        assert planned_mb == pytest.approx(told_mb, rel=0.05)
    assert "| `make smoke` | 170 s |" in measured and "| `make mini` | 58 min" in measured


@pytest.mark.slow
def test_named_stage_targets_exist(clone):
    listed = snakemake(clone, "--list")
    for target in re.findall(r"`(all_\w+)`", HOWTO):
        assert re.search(rf"^{target}\b", listed, re.MULTILINE), target


@pytest.mark.parametrize("target", ["smoke", "test", "mini", "gpu-check", "setup-cluster", "setup-gpu"])
def test_make_targets_exist(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_entries_to_add_load(tmp_path):
    """Each block is appended to the file of its section, as a reader would do."""
    blocks = re.findall(r"```yaml\n(.*?)```", HOWTO, re.DOTALL)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    sections = [("mini", "runs"), *(("config", name) for name in ("datasets", "models", "runs"))]
    for (main, section), block in zip(sections, blocks, strict=True):
        files = read_yaml(ROOT / f"config/{main}.yaml")["files"]
        path = files[section][0] if isinstance(files[section], list) else files[section]
        with open(tmp_path / path, "a", encoding="utf-8") as file:
            file.write("\n" + block)
    mini = load_config(read_yaml(tmp_path / "config/mini.yaml"), tmp_path)
    assert mini.runs["my_idea"].on_alarm == "stop" and len(mini.instances("my_idea")) == 3
    config = load_config(read_yaml(tmp_path / "config/config.yaml"), tmp_path)
    assert config.instances("srt_math12k_strong_kl") == [f"srt_math12k_strong_kl-s{seed}" for seed in (1, 2, 3)]


def test_files_and_pictures_that_it_names_exist():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:docs|config|workflow)/[\w./-]+|[A-Z]+\.(?:md|cff))`", README):
        assert (ROOT / path).exists(), path


def test_the_tree_names_what_is_there():
    tree = README.split("## The tree")[1].split("```")[1]
    for name in re.findall(r"^(\S+)", tree, re.MULTILINE):
        assert (ROOT / name.rstrip("/")).exists(), name
    assert re.findall(r"^  (\w+)/", tree, re.MULTILINE) == list(reversed(ROOMS))


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
)
def test_every_srt_command_exists(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^ *|`)srt (\w[\w-]*)", text, re.MULTILINE)) <= set(cli.COMMANDS)


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|config|workflow|benchmarks)/[\w./*-]+)`", text)
    assert len(named) > 20
    for path in [*named, *re.findall(r"\]\(([^)]+)\)", text)]:
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]
    assert (ROOT / "CHANGELOG.md").read_text().startswith("# Changelog\n\n## ")
