"""Params of the base model, fine-tuning and the merge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cartlm.config import Count, Positive, Section, Seed, Share


class Base(Section):
    """Where the 16-bit base model comes from: the embedded folder, or a hub revision."""

    source: Literal["embedded", "hub"]
    path: str  # embedded: a folder of the repository; hub: an id such as meta-llama/Llama-3.2-1B, or a local folder
    revision: str | None  # hub only; `make pin` writes it, null means the newest


class Finetune(Section):
    """QLoRA (arXiv 2305.14314) with trl and peft; names follow transformers and peft."""

    seed: Seed
    quantization: Literal["nf4", "none"]
    compute_dtype: Literal["bfloat16", "float16", "float32"]
    lora_rank: Count
    lora_alpha: Count
    lora_dropout: Share
    learning_rate: Positive
    lr_scheduler: Literal["linear", "cosine", "constant"]
    warmup_ratio: Share
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    epochs: Positive
    max_steps: Literal[-1] | Count  # -1: as many as the epochs give
    batch_size: Count
    gradient_accumulation: Count
    gradient_checkpointing: bool
    save_steps: Count


class Merge(Section):
    dtype: Literal["float16", "bfloat16"]
    onto: Literal["16-bit", "nf4"]  # nf4 merges onto the dequantized base: measured, not advised
    check_rows: Count  # validation rows on which adapter and merged model are compared
    # answers alike; merging in 16 bits after NF4 moves some, one that lost the training most
    min_agreement: Share
