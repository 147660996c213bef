"""Params of the quantized variants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cartlm.config import Section

GgufType = Literal["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]


class Gguf(Section):
    type: GgufType
    imatrix: bool  # with an importance matrix from the calibration rows


class Gptq(Section):
    """A GPTQ variant of the merged model (cartlm/quantization/gptq.py)."""

    bits: Literal[2, 3, 4, 8]
    group_size: Literal[-1, 16, 32, 64, 128, 256]  # weights a scale; -1: a scale a row
    symmetric: bool
    act_order: bool
    damp: Annotated[float, Field(gt=0, lt=1)]
