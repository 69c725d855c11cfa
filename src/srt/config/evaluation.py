"""How checkpoints are evaluated: sampling, scoring, and the suites of data sets that one job samples together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from srt.config.base import Dtype, OwnFunction, RolloutEngineName, Seed, Strict, VotePreset

# Between the id of a suite and the hash of its settings, where a model was sampled on it with others before
# (srt.artefacts.settings); no id contains it.
SETTINGS_MARK = "@"
# Between the id of a suite and the seed of its samples, where that is not `sampling.seed` (key `evaluate`).
SEED_MARK = "-s"


def suite_and_seed(name: str) -> tuple[str, int | None]:
    """The id of a suite and the seed of its samples, from the name of its tables; None is the seed of `sampling`.

    >>> suite_and_seed("core-s2@0123abcd"), suite_and_seed("core")
    (('core', 2), ('core', None))
    """
    name = name.partition(SETTINGS_MARK)[0]
    suite, _, seed = name.partition(SEED_MARK)
    return (suite, int(seed)) if seed.isdecimal() else (name, None)


class SamplingConfig(Strict):
    """How checkpoints are sampled for evaluation, labels and curriculum (the authors: n = 32, T = 1, no top-p)."""

    n: int = Field(32, gt=0, description="Responses per problem, from which avg@n and maj@n are computed.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Nucleus sampling: probability mass that is kept; 1 turns it off."
    )
    max_prompt_tokens: int = Field(
        1024, gt=0, description="Maximum prompt length in tokens; problems with longer prompts are left out."
    )
    max_new_tokens: int = Field(
        3072, gt=0, description="Maximum response length in tokens; longer responses are truncated."
    )
    engine: RolloutEngineName = Field("vllm", description="Engine that draws the samples.")
    dtype: Dtype = Field("bfloat16", description="Precision of weights and activations.")
    seed: Seed = Field(0, description="Seed of all samples.")
    threads: int = Field(
        1,
        gt=0,
        description="CPU threads of a sampling process; they affect the order of summation and so rounding.",
    )


class ScoringConfig(Strict):
    """How responses are graded. A change here never leads to new samples."""

    preset: VotePreset = Field(
        "clean", description="`clean`: votes are counted by equivalence class; `authors`: by raw string."
    )
    extractor: Literal["boxed", "boxed_or_last_number", "reasoning_gym", "gsm8k_hash"] | OwnFunction = Field(
        "boxed",
        description="How the answer is extracted from a response (docs/answers.md), or `module:function`, a function "
        "of yours (docs/own_code.md); training uses the same.",
    )
    timeout_s: float = Field(
        5.0, gt=0, description="Time limit of one comparison in seconds; beyond it the comparison counts as `timeout`."
    )
    memory_mb: int = Field(2048, gt=0, description="Memory limit of one grading process in MB.")
    workers: int = Field(2, gt=0, description="Grading processes per job; has no effect on results.")


class Evaluate(Strict):
    """Checkpoints that are evaluated without training: each of `models` on each of `suites` with each of `seeds`.

    `snakemake evaluate` makes tables/evaluate.csv, tables/evaluate.md and figures/evaluate.pdf (docs/evaluate.md).
    """

    models: list[str] | None = Field(
        None,
        min_length=1,
        description="Ids of `models`. The others are compared with the first; null means all, in their order.",
    )
    suites: list[str] = Field(min_length=1, description="Suites (or data sets) that they are evaluated on.")
    seeds: list[Seed] | None = Field(
        None,
        min_length=1,
        description="Seeds of the samples; each draws `n` responses of its own to each problem. null means the seed of "
        "`sampling` alone. Greedy samples have the first seed only.",
    )
    k: list[Annotated[int, Field(gt=0)]] | None = Field(
        None, min_length=1, description="The k of maj@k and pass@k, up to n; null means the powers of 2 up to n, and n."
    )

    def sizes(self, n: int) -> list[int]:
        """The k of maj@k and pass@k for n responses, in order.

        >>> Evaluate(suites=["core"]).sizes(12), Evaluate(suites=["core"], k=[16, 4]).sizes(12)
        ([1, 2, 4, 8, 12], [4])
        """
        powers = [1 << i for i in range(n.bit_length()) if 1 << i < n]
        return [*powers, n] if self.k is None else sorted(k for k in self.k if k <= n)


class Gradings(Strict):
    """Runs whose start and peak are graded with both presets, `clean` and `authors`; nothing is sampled again."""

    runs: list[str] = Field(min_length=1, description="Ids of the runs.")
    datasets: list[str] = Field(min_length=1, description="Test sets, on whose mean accuracy the peak is chosen.")


class Suite(Strict):
    """A list of data sets, or a mapping with these keys: `{datasets: [math500], temperature: 0.6}`."""

    datasets: list[str] = Field(description="Data sets that one job samples together.")
    temperature: float | None = Field(
        None,
        ge=0,
        description="Sampling temperature of this suite; null means that of the model, or else that of `sampling`.",
    )
    n: int | None = Field(
        None,
        gt=0,
        description="Responses per problem; null means 1 at `temperature: 0`, where all responses would be the same, "
        "otherwise the `n` of the model or of `sampling`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, data: Any) -> Any:
        if isinstance(data, list):
            return {"datasets": data}
        if isinstance(data, str | int | float):
            raise ValueError(f"must be a list, not {data!r}: write [{data}]")
        return data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, made]}

    @property
    def own_sampling(self) -> dict[str, Any]:
        """The keys of `sampling` that this suite sets itself."""
        values = {"temperature": self.temperature, "n": 1 if self.n is None and self.temperature == 0 else self.n}
        return {key: value for key, value in values.items() if value is not None}


class Probe(Strict):
    """Further suites for the run's start and one checkpoint only, such as other temperatures or an expensive test.

    Figures of kind `bars` and claims with estimator `suite_gain` read them; the tables of all evaluations do not.
    """

    suites: list[str] = Field(min_length=1, description="Suites (or data sets) that are not in the run's `suites`.")
    step: int | None = Field(None, gt=0, description="Step of the checkpoint; null means the run's last step.")
