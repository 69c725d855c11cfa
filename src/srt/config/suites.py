"""Suites: the data sets that one job samples together, and what their samples have otherwise than all others."""

from __future__ import annotations

from typing import Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from srt.config.base import Strict


class Suite(Strict):
    """A list of data sets, or these keys: `{datasets: [math500], temperature: 0.6}`."""

    datasets: list[str] = Field(description="Data sets that one job samples together.")
    temperature: float | None = Field(
        None, ge=0, description="Sampling temperature of this suite; null: the model's, else that of `sampling`."
    )
    n: int | None = Field(
        None,
        gt=0,
        description="Responses a problem; null: 1 at `temperature: 0`, where all are the same, else as usual.",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_its_data_sets(cls, data: Any) -> Any:
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
    def own(self) -> dict[str, Any]:
        """The keys of `sampling` that are this suite's own."""
        values = {"temperature": self.temperature, "n": 1 if self.n is None and self.temperature == 0 else self.n}
        return {key: value for key, value in values.items() if value is not None}


class Probe(Strict):
    """Suites on which a run's start and one checkpoint alone are sampled: other temperatures, an expensive test.

    Figures of kind `bars` and claims with estimator `suite_gain` read them; tables of all evaluations do not.
    """

    suites: list[str] = Field(min_length=1, description="Suites (or data sets) that `suites` of the run has not.")
    step: int | None = Field(None, gt=0, description="One of its checkpoints; null: its last.")
