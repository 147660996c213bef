"""Params of the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cartlm.config import Count, Section, Share, Tokens


class Reference(Section):
    """An unquantized variant, evaluated before the parity gate."""

    engine: Literal["transformers", "llama.cpp"]


class References(Section):
    """The unquantized variants: the base and the merged model in transformers, GGUF F16 in llama.cpp."""

    base: Reference
    merged: Reference
    f16: Reference

    @model_validator(mode="after")
    def _engines(self) -> References:
        for name, engine in (("base", "transformers"), ("merged", "transformers"), ("f16", "llama.cpp")):
            if getattr(self, name).engine != engine:
                raise ValueError(
                    f"{name}.engine is {getattr(self, name).engine}, but {name} runs in {engine}"
                )
        return self


class Parity(Section):
    min_agreement: Share
    rows: Count


class Eval(Section):
    max_new_tokens: Tokens
    batch_size: Count  # of the base model and of the check of the merge; all others answer one row at a time
    flip_rows: Annotated[int, Field(ge=0)]  # rows on which the batched answers are compared with batch 1
    natural_rows: Annotated[
        int, Field(ge=0)
    ]  # at most so many messages that people wrote (cartlm/evaluation/multidogo.py)
