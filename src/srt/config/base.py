"""The base of every config model: unknown keys are refused, as are true/false for numbers and the reverse."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from srt.common import own_code
from srt.common.errors import SrtError

# Sections of entries by id; each may be in separate files.
SECTIONS = ("models", "datasets", "suites", "runs", "figures", "claims")
Seed = Annotated[int, Field(ge=0, lt=2**31)]
# Values that several sections allow.
RolloutEngineName = Literal["transformers", "vllm"]
Dtype = Literal["bfloat16", "float32"]
VotePreset = Literal["clean", "authors"]
# A user's own function, `module:function` (docs/own_code.md); in specs with the hash of its file.
OwnFunction = Annotated[str, Field(pattern=own_code.PATTERN)]
LARGEST = 2**31 - 1  # limit of whole numbers: larger ones are typing errors and would overflow 32-bit integers


class ConfigError(SrtError):
    """A mistake in the configuration: the path of keys, and the sentence."""

    def __init__(self, path: Sequence[str], message: str) -> None:
        self.path, self.message = list(path), message
        super().__init__(": ".join([*path, message]))


class Strict(BaseModel):
    """A config section. It cannot be changed, and an unknown key is an error that names the nearest known one.

    A number in quotes is accepted as a number: YAML 1.1 reads `1e-6` (no point) as text, and Snakemake passes the
    values of `--config 'sampling={n: 8}'` as text. `.inf`, `.nan` and whole numbers above `LARGEST` are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # one validator per model, not per field: pydantic allows no validator on a union's discriminator field
        values, errors = {}, []
        for key, value in data.items():
            known = cls.model_fields.get(key) if isinstance(key, str) else None
            try:
                values[key] = _plain(known.annotation, value) if known else value
            except ValueError as error:
                fault = PydanticCustomError("value_error", "{text}", {"text": str(error)})
                errors.append(InitErrorDetails(type=fault, loc=(key,), input=value))
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return values


def unwrap(annotation: Any) -> list[Any]:
    """The types in a type hint: `Annotated` and unions are taken apart, None is left out."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return unwrap(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [m for a in typing.get_args(annotation) if a is not type(None) for m in unwrap(a)]
    return [annotation]


def literals(annotation: Any) -> list[Any]:
    """The values of a `Literal` type hint; empty for other types."""
    return [v for m in unwrap(annotation) if typing.get_origin(m) is Literal for v in typing.get_args(m)]


def _plain(annotation: Any, value: Any) -> Any:
    """The value for a field of this type: true and false are refused as numbers, numbers as true or false."""
    members = unwrap(annotation)
    of_values = [typing.get_args(m)[1] for m in members if typing.get_origin(m) is dict]
    if isinstance(value, dict) and of_values:
        if of_values == [Any]:
            _refuse_no_json(value)
        return {key: _plain(of_values[0], v) for key, v in value.items()}
    if isinstance(value, list):
        items = [typing.get_args(m)[0] for m in members if typing.get_origin(m) in (list, tuple) and typing.get_args(m)]
        return [_plain(items[0], v) for v in value] if items else value
    values = literals(annotation)
    kinds = {type(v) for v in values} | {m for m in members if m in (bool, int, float, str)}
    numbers = kinds & {int, float}
    if isinstance(value, bool) and numbers and bool not in kinds:
        what = "a number" if float in kinds else "a whole number"
        raise ValueError(f"must be {what}, not {str(value).lower()}")
    if int in kinds and float not in kinds and _number(value) > LARGEST:
        raise ValueError(f"must be at most {LARGEST}, not {_number(value):g}")
    if kinds == {bool} and not isinstance(value, bool) and value is not None:
        if value in ("true", "false"):  # from Snakemake's --config
            return value == "true"
        raise ValueError(f"must be true or false, not {value!r}")
    if values and numbers and isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


def _number(value: Any) -> float:
    """The number in a value, text included; 0 if there is none."""
    try:
        return abs(float(value)) if isinstance(value, int | float | str) else 0.0
    except OverflowError:
        return math.inf
    except ValueError:
        return 0.0


def _refuse_no_json(value: Any) -> None:
    """Raise a ValueError for what a spec, which is JSON, cannot hold: infinite numbers, dates, sets."""
    if isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _refuse_no_json(part)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number: correct it")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{value} is a {type(value).__name__}: write a number, text, a list or `key: value` lines")


def _pinned(value: str, info: ValidationInfo) -> str:
    if not info.data.get("unpinned") and not re.fullmatch(r"[0-9a-f]{40}", value):
        raise ValueError(
            f"'{value}' is not a commit hash of 40 hex digits: pin one (a branch or tag moves), or give the reason "
            "under `unpinned`"
        )
    return value


# A revision on the hub. A class must declare `unpinned` before it: pydantic validates fields in that order.
Revision = Annotated[str, AfterValidator(_pinned)]
REVISION: Any = Field(
    description="Commit hash of 40 hex digits. A branch or tag moves, so it is refused unless `unpinned` is set.",
    min_length=1,
)
# The same rule in the JSON schema, for editors.
REVISION_SCHEMA: Any = {
    "if": {"not": {"required": ["unpinned"]}},
    "then": {"properties": {"revision": {"pattern": "^[0-9a-f]{40}$"}}},
}
UNPINNED: Any = Field(
    None,
    min_length=1,
    description="Reason why `revision` is a branch or tag rather than a commit. While it is set, every start logs a "
    "warning. The fetched commit is recorded in a model's provenance or a data set's manifest.",
)
