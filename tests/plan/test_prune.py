"""Models that nothing needs any more: which they are, that no job is planned because of them, the plan's disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from srt.artefacts.records import Made, Records
from srt.artefacts.specs import sample_spec
from srt.config import Config, load_config, read_yaml
from srt.plan.jobs import build
from srt.plan.prune import Pruner, WhileRunning, sentence_on_pruned
from srt.plan.tables import make_plan
from support import ROOT
from support.commands import srt
from support.dag import MICRO, jobs, snakemake, trained

MODEL = "runs/gt-s1/step-2/model"


def micro(folder: Path, **changes: object) -> Config:
    file = "tests/micro/config.yaml"
    return load_config(read_yaml(ROOT / file) | {"results": str(folder / "results")} | changes, ROOT, file)


@pytest.fixture
def made(tmp_path: Path) -> Config:
    """The micro configuration, all of whose outputs exist, with the records of training and sampling jobs."""
    config = micro(tmp_path)
    dag = build(config)
    for job in dag.jobs.values():
        for path in map(Path, job.outputs):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.touch()
            else:
                path.mkdir()
                (path / "srt.json").write_text(job.key)
    records = Records(Path(config.results))
    for job in dag.jobs.values():
        params = {}
        if job.rule == "sample":
            checkpoint, _, suite = job.name.rpartition("/")
            params = {"spec": sample_spec(config, config.checkpoint_model(checkpoint), suite)}
        if job.rule in ("sample", "train", "train_last"):
            records.write(Made(job.rule, params, job.inputs, job.outputs))
    return config


def test_a_model_goes_once_its_samples_are_there(made: Config) -> None:
    (model,) = Pruner(made).models()
    assert (model.checkpoint, model.needed, model.path) == ("gt-s1/step-2", "", Path(made.results) / MODEL)
    assert model.bytes == len("train gt-s1/step-2")  # one file
    samples = Path(made.results) / "eval/gt-s1/step-2/tests.samples.parquet"
    samples.rename(samples.with_suffix(".away"))
    assert [each.needed for each in Pruner(made).models()] == [f"{samples} is not made"]
    samples.with_suffix(".away").rename(samples)
    samples.with_name("tests.samples.made.json").rename(samples.with_name("away"))
    assert "has no record of what it was made from" in Pruner(made).models()[0].needed


def test_samples_that_are_made_again_need_their_model(made: Config) -> None:
    prompts = {name: entry.model_copy(update={"prompt_suffix": " Well?"}) for name, entry in made.models.items()}
    changed = made.model_copy(update={"models": prompts})
    changed.stored_suites.update(made.stored_suites)
    assert "tests.samples.parquet is made again" in Pruner(changed).models()[0].needed


def test_a_model_that_another_run_starts_from_stays(made: Config, tmp_path: Path) -> None:
    runs = read_yaml(ROOT / "tests/micro/experiments.yaml")
    runs["gt2"] = {**runs["gt"], "label": "From step 2", "init": {"run": "gt", "step": 2}}
    raw = read_yaml(ROOT / "tests/micro/config.yaml")
    raw["files"].pop("runs")
    config = load_config(raw | {"results": made.results, "runs": runs}, ROOT, "tests/micro/config.yaml")
    assert Pruner(config).models() == []


def test_models_go_after_their_last_planned_job(made: Config) -> None:
    path, output = f"{made.results}/{MODEL}", "tests.samples.parquet"
    running = WhileRunning(Pruner(made), [(path, output), (path, "other")])
    running.made(path, output)
    assert Path(path).is_dir()
    running.made(path, "other")
    assert not Path(path).exists() and not list(Path(path).parent.glob(".*"))
    running.made(f"{made.results}/models/micro", "base")
    assert Path(made.results, "models/micro").is_dir() and Path(made.results, "runs/gt-s1/step-4/model").is_dir()
    assert sentence_on_pruned([path, f"{made.results}/models/micro"]).startswith("1 models that were pruned")
    # the plan counts the segment as done, until another suite needs the model
    dag = build(made)
    assert "train gt-s1/step-2" in dag.done()
    Path(made.results, "eval/gt-s1/step-2/tests.samples.parquet").unlink()
    assert "train gt-s1/step-2" not in dag.done()


def test_the_disk_of_a_plan_has_no_pruned_models() -> None:
    raw = {"results": "none", "seeds": 1}
    whole, less = (
        make_plan(load_config(read_yaml(ROOT / "config/mini.yaml") | raw | {"keep_models": keep}, ROOT))
        for keep in ("all", "needed")
    )
    earlier = [job for job in whole.dag.jobs.values() if job.prunable]
    freed = sum(sum(less.prices[job.key].temp) - sum(whole.prices[job.key].temp) for job in earlier)
    assert whole.final_bytes - less.final_bytes == pytest.approx(freed) and freed > 0
    assert less.schedules[0].peak < whole.schedules[0].peak


@pytest.fixture
def copied(micro_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(micro_run, tmp_path / "copied", symlinks=True))


def test_a_pruned_folder_plans_nothing_and_can_be_extended(copied: Path) -> None:
    model = copied / "results/micro" / MODEL
    command = ["prune", "--configfile", "tests/micro/config.yaml"]
    text = srt(*command, folder=copied).stdout
    assert "results/micro/runs/gt-s1/step-2/model" in text and "1 models of earlier checkpoints can go" in text
    assert model.is_dir()
    assert "1 models of earlier checkpoints deleted" in srt(*command, "--delete", folder=copied).stdout
    assert not model.exists() and "Nothing to be done" in snakemake(copied, *MICRO, "-n")
    runs = copied / "tests/micro/experiments.yaml"
    text = runs.read_text()
    runs.write_text(text.replace("steps: 4, segment: 2", "steps: 6, segment: 2"))
    output = snakemake(copied, *MICRO, "-n", "gt_s1")
    assert jobs(output)["train_last"] == 1 and "train" not in jobs(output) and "that were pruned" not in output
    # a suite that is added later needs the model
    runs.write_text(text.replace("suites: [tests]}", "suites: [tests, sums]}"))
    output = snakemake(copied, *MICRO, "-n", "gt_s1")
    assert "1 models that were pruned are needed again" in output and trained(output) == {"gt-s1"}


def test_keep_models_needed_deletes_a_model_after_its_samples(copied: Path) -> None:
    results = copied / "results/micro"
    for path in (results / "eval/gt-s1/step-2").iterdir():
        path.unlink()
    snakemake(copied, *MICRO, "--config", "keep_models=needed", "--", "gt_s1")
    assert not (results / MODEL).exists() and (results / "eval/gt-s1/step-2/tests.groups.parquet").is_file()
    assert "Nothing to be done" in snakemake(copied, *MICRO, "-n")
