"""The models and suites that `evaluate` names; a configuration without it has training runs."""

from __future__ import annotations

from srt.config.base import ConfigError
from srt.config.checks.references import refuse_repeat, require, require_suite
from srt.config.checks.runs import check_lengths
from srt.config.root import Config


def check_evaluate(config: Config) -> None:
    """Models and suites are known, each once, and some suite has enough responses for each k."""
    evaluate = config.evaluate
    if evaluate is None:
        if not config.runs:
            raise ConfigError(["runs"], "is missing")  # srt.config.loading says more
        return
    models = config.evaluated_models()
    for position, model in enumerate(models):
        require(config, "models", model, ["evaluate", "models"])
        refuse_repeat(models, position, "model", ["evaluate", "models"])
        check_lengths(config, model, config.sampling, ["sampling"])
    for position, suite in enumerate(evaluate.suites):
        require_suite(config, suite, ["evaluate", "suites"])
        refuse_repeat(evaluate.suites, position, "suite", ["evaluate", "suites"])
    for key, values in (("seeds", evaluate.seeds or []), ("k", evaluate.k or [])):
        repeated = [value for place, value in enumerate(values) if value in values[:place]]
        if repeated:
            raise ConfigError(["evaluate", key], f"{repeated[0]} appears twice: remove one")
    most = max(config.sampling_settings(model, suite).n for model in models for suite in evaluate.suites)
    if evaluate.k and max(evaluate.k) > most:
        raise ConfigError(
            ["evaluate", "k"], f"{max(evaluate.k)} is more than the {most} responses to a problem: raise sampling.n"
        )
