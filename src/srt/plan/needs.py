"""What the jobs that remain need of disk and GPUs, for the checks before a run."""

from __future__ import annotations

from dataclasses import dataclass

from srt.config.root import Config
from srt.plan.jobs import build
from srt.plan.measured import measure
from srt.plan.price import Pricing
from srt.plan.schedule import schedule


@dataclass(frozen=True)
class Needs:
    """The most bytes that the remaining jobs add to the disk at a time, and the GPUs of the largest of them."""

    disk_bytes: float
    gpus: int


def needs(config: Config) -> Needs:
    """What remains of a configuration needs, by the prices and the list schedule of the plan."""
    dag = build(config)
    pricing = Pricing(config, dag, measure(config, dag))
    prices = {key: pricing.price(key) for key in dag.jobs}
    remaining = dag.closure(dag.leaves, stop=frozenset(dag.done()))
    gpus = max((prices[key].gpus for key in remaining), default=0)
    if not remaining:
        return Needs(0.0, gpus)
    per_partition = max(gpus, config.plan.gpus_per_partition)
    return Needs(schedule(dag, prices, remaining, config.plan.partitions[0], per_partition).peak, gpus)
