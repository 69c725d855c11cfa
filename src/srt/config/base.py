"""The base of every config model: unknown keys are refused, values are frozen."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A config section. Extra keys are an error; `srt.config.loading` names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
