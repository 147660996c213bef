"""Params of the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cartlm.config import Count, Section, Seed, Share, Tokens


class RulesReference(Section):
    """The baseline, which needs no model (cartlm.baseline)."""

    engine: Literal["rules"]


class TransformersReference(Section):
    """An unquantized variant, evaluated before the parity gate."""

    engine: Literal["transformers"]


class LlamaCppReference(Section):
    engine: Literal["llama.cpp"]


class References(Section):
    """The baseline, and the unquantized variants: the base and the merged model in transformers, GGUF F16 in llama.cpp."""

    baseline: RulesReference
    base: TransformersReference
    merged: TransformersReference
    f16: LlamaCppReference


class Parity(Section):
    min_agreement: Share
    rows: Count


class Shots(Section):
    """How the base model is asked before fine-tuning (cartlm/evaluation/shots.py)."""

    count: Count  # training rows in front of a few-shot prompt
    seed: Seed  # of which rows
    rows: Annotated[int, Field(ge=0)]  # at most so many test rows; 0: not asked


class Eval(Section):
    max_new_tokens: Tokens
    batch_size: Count  # of the base model and of the check of the merge; all others answer one row at a time
    flip_rows: Annotated[int, Field(ge=0)]  # rows on which batched answers are compared with batch 1
    # at most so many messages that people wrote (cartlm/evaluation/multidogo.py)
    natural_rows: Annotated[int, Field(ge=0)]
    shots: Shots
