"""Params of the base model, fine-tuning and the merge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cartlm.config import Count, Positive, Section, Seed, Share


class Part(Section):
    """A file in a wheel: the requirement is `name==version`, the file's path as `unzip -l` shows it."""

    requirement: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+$")]
    file: str


class Package(Section):
    """A GGUF file out of Python packages, which pip fetches from whatever index it is configured for."""

    parts: Annotated[list[Part], Field(min_length=1)]  # joined in this order
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of the joined file


class Base(Section):
    """Where the 16-bit base model comes from. A GGUF file is dequantized; docs/guide/models.md has an example of each."""

    source: Literal["embedded", "hub", "package", "gguf"]
    # embedded: a folder of the repository; hub: an id such as meta-llama/Llama-3.2-1B, or a local folder;
    # package: the model's name; gguf: a file, or ollama:NAME[:TAG] for a model of the local Ollama
    path: str
    revision: str | None  # hub only; `make pin` writes it, null means the newest
    license: str | None  # `make preset` shows licence and size before anything is fetched
    download_mb: Positive | None
    package: Package | None  # of source: package

    @model_validator(mode="after")
    def _has_package(self) -> Base:
        if self.source == "package" and self.package is None:
            raise ValueError("source is package, but base.package is null")
        return self


class Finetune(Section):
    """QLoRA (arXiv 2305.14314) with trl and peft; names follow transformers and peft."""

    seed: Seed
    quantization: Literal["nf4", "none"]
    compute_dtype: Literal["bfloat16", "float16", "float32"]
    lora_rank: Count
    lora_alpha: Count
    lora_dropout: Share
    # all linear layers but the head, as in peft; or their names, such as [q_proj, v_proj]
    lora_targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)]
    learning_rate: Positive
    lr_scheduler: Literal["linear", "cosine", "constant"]
    warmup_ratio: Share
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    epochs: Positive
    max_steps: Literal[-1] | Count  # -1: as many as the epochs give
    batch_size: Count
    gradient_accumulation: Count
    gradient_checkpointing: bool
    device_memory_gib: Positive | None  # of the process on a CPU, of a card; null: as much as there is
    save_steps: Count


class Merge(Section):
    dtype: Literal["float16", "bfloat16"]
    onto: Literal["16-bit", "nf4"]  # nf4 merges onto the dequantized base: measured, not advised
    check_rows: Count  # validation rows on which adapter and merged model are compared
    # answers alike; merging in 16 bits after NF4 moves some, one that lost the training most
    min_agreement: Share
