"""Params of the quantized variants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cartlm.config import Section
from cartlm.quantization.gguf_types import NEED_IMATRIX, TypeName


class Gguf(Section):
    """A GGUF variant of the merged model (cartlm/quantization/gguf.py)."""

    type: TypeName
    imatrix: bool  # with an importance matrix from the calibration rows

    @model_validator(mode="after")
    def _check_imatrix(self) -> Gguf:
        if self.type in NEED_IMATRIX and not self.imatrix:
            raise ValueError(f"{self.type} needs imatrix: true")
        return self


class Gptq(Section):
    """A GPTQ variant of the merged model (cartlm/quantization/gptq.py)."""

    bits: Literal[2, 3, 4, 8]
    group_size: Literal[-1, 16, 32, 64, 128, 256]  # weights a scale; -1: a scale a row
    symmetric: bool
    act_order: bool  # columns in the order of their activations (desc_act): finer, slower to run
    damp: Annotated[float, Field(gt=0, lt=1)]  # share of the mean diagonal added to the Hessian
