"""Base models: from the hub, from a local folder, or tiny ones that the workflow trains itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from srt.config.base import Strict

BOXED_SUFFIX = " Let's think step by step and output the final answer within \\boxed{}."


class ModelBase(Strict):
    """What every model entry has."""

    prompt_suffix: str = Field(
        BOXED_SUFFIX,
        description="Text appended to the problem inside the user turn; the default is the authors' "
        "(examples/data_preprocess/dapo.py).",
    )
    parameters: float = Field(
        7e9, gt=0, description="Number of parameters; sets memory and run-time requests, never a result."
    )
    gpus_train: int = Field(8, ge=0, description="GPUs of a training job (0: CPU).")
    gpus_sample: int = Field(1, ge=0, description="GPUs of a sampling or evaluation job (0: CPU).")
    context: int = Field(4096, gt=0, description="Longest prompt plus response, in tokens.")


class HubModel(ModelBase):
    """A model of the Hugging Face hub at a pinned revision."""

    source: Literal["hub"]
    repo: str = Field(description="Repository, as owner/name.")
    revision: str = Field(
        pattern=r"^[0-9a-f]{40}$", description="Commit hash (40 hex digits): branches move, so they are refused."
    )


class LocalModel(ModelBase):
    """A folder in Hugging Face format."""

    source: Literal["local"]
    path: str = Field(description="Folder with config.json, model.safetensors and tokenizer files.")


class PretrainPart(Strict):
    """One family of problems in the tiny model's pretraining mix."""

    params: dict[str, Any] = Field(description="Parameters of Reasoning Gym's chain_sum.")
    weight: float = Field(1.0, gt=0, description="Share of this part in the mix.")


class TinyModel(ModelBase):
    """A Qwen2 model with its own tokenizer, trained from scratch on chain-of-thought traces of sums.

    `corruption` of the steps of a trace carry a wrong number that the rest of the trace goes on with. So single
    answers are often wrong while the majority of 32 is right more often: the gap between avg@32 and maj@32 that
    self-training feeds on.
    """

    source: Literal["tiny"]
    context: int = Field(160, gt=0, description="Longest prompt plus response, in tokens.")
    parameters: float = Field(4e5, gt=0, description="Number of parameters, for resource requests only.")
    gpus_train: int = Field(0, ge=0, description="GPUs of a training job (0: CPU).")
    gpus_sample: int = Field(0, ge=0, description="GPUs of a sampling or evaluation job (0: CPU).")
    hidden_size: int = Field(96, gt=0)
    layers: int = Field(3, gt=0)
    heads: int = Field(4, gt=0)
    kv_heads: int = Field(2, gt=0)
    intermediate_size: int = Field(256, gt=0)
    parts: list[PretrainPart] = Field(min_length=1, description="The pretraining mix.")
    steps: int = Field(1000, gt=0, description="Optimizer steps.")
    batch_size: int = Field(64, gt=0, description="Traces a step.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate (linear warm-up, cosine decay).")
    corruption: float = Field(0.15, ge=0, lt=1, description="Share of steps in a trace that carry a wrong number.")
    corrupt_from: float = Field(
        0.6, ge=0, le=1, description="Fraction of the training after which traces are corrupted."
    )
    seed: int = Field(0, ge=0)
    threads: int = Field(2, ge=1, description="CPU threads; part of the result, since sums depend on it.")

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyModel:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError("hidden_size must be a multiple of heads, and heads a multiple of kv_heads")
        return self


ModelConfig = Annotated[HubModel | LocalModel | TinyModel, Field(discriminator="source")]
