"""`make real`: its layers share results, its time by the plan, and two steps of it with the pretrained model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pandas as pd
import pytest

from srt.artefacts.specs import train_spec
from srt.cli.shared import merged
from srt.config import Config, load_config, read_yaml
from srt.config.datasets import ReasoningGymDataset
from srt.plan.jobs import build
from srt.plan.measured import Measured
from srt.plan.price import Pricing
from srt.plan.schedule import schedule
from support import ROOT
from support.dag import copy_of_the_tree, snakemake

QUICK, MORE, GPU = ("real_quick", "real_more", "real_gpu")


def files(*layers: str) -> list[str]:
    return [f"config/{name}.yaml" for name in ("real", *layers)]


def configuration(*layers: str) -> Config:
    raw = reduce(merged, (read_yaml(ROOT / file) for file in files(*layers)))
    return load_config(raw, ROOT, files(*layers)[-1], files(*layers))


def training(config: Config) -> dict[str, str]:
    return {run: train_spec(config, run) for name in config.runs for run in config.instances(name)}


def hours(config: Config) -> float:
    """The plan's wall time on two cores, where one job at a time fits beside the others in memory."""
    dag = build(config)
    pricing = Pricing(config, dag, Measured())
    prices = {key: replace(pricing.price(key), gpus=1) for key in dag.jobs}
    return schedule(dag, prices, set(dag.jobs), 1, 1).wall / 3600


def test_each_layer_goes_on_from_the_one_before() -> None:
    quick, real, more = (training(configuration(*layers)) for layers in ((QUICK,), (), (MORE,)))
    assert quick.keys() == {"srt_easy-s1"}
    assert quick.items() < real.items() < more.items()
    # at the same cost two seeds would have an interval three times as wide
    assert [run for run in real if run.startswith("srt_")] == [
        f"{name}-s{seed}" for name in ("srt_easy", "srt_mix") for seed in (1, 2, 3)
    ]
    assert configuration(QUICK).results == configuration().results == configuration(MORE).results


def test_it_stays_within_four_hours_and_its_first_picture_within_forty_minutes() -> None:
    """By what the plan assumes (docs/measured.md has what was measured)."""
    assert hours(configuration(QUICK)) < 40 / 60
    assert hours(configuration()) < 4


def test_test_problems_are_enough_and_disjoint_from_training() -> None:
    config = configuration(MORE)
    tested = {name for suite in config.suites.values() for name in suite.datasets}
    trained = {run.data for run in config.runs.values()}
    for name, entry in config.datasets.items():
        assert isinstance(entry, ReasoningGymDataset) and (name in tested) != (name in trained)
        assert entry.split == ("test" if name in tested else "train")  # which the question's text decides
        assert name in trained or entry.size >= 48


def test_one_gpu_trains_it_in_bfloat16_with_either_engine() -> None:
    for engine in ("vllm", "transformers"):
        layers = [*(read_yaml(ROOT / file) for file in files(GPU)), {"train_defaults": {"rollout_engine": engine}}]
        config = load_config(reduce(merged, layers), ROOT, "config/real_gpu.yaml")
        train = json.loads(train_spec(config, "srt_mix-s1"))["train"]
        assert (train["dtype"], train["rollout_engine"], train["rollouts_per_prompt"]) == ("bfloat16", engine, 32)
        dag = build(config)
        pricing = Pricing(config, dag, Measured())
        prices = {pricing.price(key) for key, job in dag.jobs.items() if job.rule.startswith("train")}
        assert {price.gpus for price in prices} == {1} and max(price.seconds for price in prices) < 600
    assert config.results != configuration().results


@pytest.mark.slow
@pytest.mark.smollm
def test_two_steps_of_eight_responses(tmp_path: Path) -> None:
    """The pretrained model, its few shots, the real lengths; eight test problems, each sampled once."""
    tree = copy_of_the_tree(tmp_path / "tree")
    datasets = tree / "config/real/datasets.yaml"
    datasets.write_text(datasets.read_text().replace("size: 48", "size: 8"))
    own = {
        "files": {"runs": ["easy.yaml", "config/real/srt.yaml"]},
        "suites": {"two": {"n": 1}},
        "train_defaults": {"prompts_per_step": 2, "rollouts_per_prompt": 4},
    }
    easy = read_yaml(ROOT / "config/real/easy.yaml")["_easy"] | {"steps": 2, "segment": 2}
    (tree / "easy.yaml").write_text(json.dumps({"_easy": easy}))
    (tree / "own.yaml").write_text(json.dumps(own))
    layers = [*files(QUICK), "own.yaml"]
    options = ["--profile", "workflow/profiles/mini", "--configfile", *layers, "--cores", "2"]
    snakemake(tree, *options, "--", "gain", "claims")
    results = tree / "results/real"
    metrics = pd.read_csv(results / "runs/srt_easy-s1/metrics.csv")
    assert metrics["step"].tolist() == [1, 2] and metrics["parsed_rate"].min() > 0.5
    assert metrics["mismatch_max"].max() < 1e-3 and metrics["packed_tokens"].max() < metrics["tokens"].max()
    assert {"png", "csv"} <= {path.suffix[1:] for path in results.glob("figures/gain.*")}
    assert re.search("gap_is_positive", (results / "claims/claims.csv").read_text())
