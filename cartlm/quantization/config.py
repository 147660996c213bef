"""Params of the quantized variants."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cartlm.config import Section
from cartlm.quantization.gguf_types import (
    NEED_IMATRIX,
    NEED_MEASURED,
    TENSORS_NEED_IMATRIX,
    TensorTypeName,
    TypeName,
    check_name,
)
from cartlm.quantization.tensor_types import EMBEDDING, HEAD, LAYERED, WHOLE

TensorGroup = Annotated[str, AfterValidator(partial(check_name, (*LAYERED, *WHOLE)))]


class Gguf(Section):
    """A GGUF variant of the merged model (cartlm/quantization/gguf.py)."""

    type: TypeName
    imatrix: bool  # with an importance matrix from the calibration rows
    token_embedding: TensorTypeName | None = None  # of a model with tied weights the head too
    output: TensorTypeName | None = None  # the head, where it is a tensor of its own
    tensors: dict[TensorGroup, TensorTypeName] = Field(
        default_factory=dict
    )  # of all layers; attn_q before attention

    @property
    def tensor_types(self) -> dict[str, str]:
        """Group of tensors -> its type, of those that do not follow `type` (cartlm/quantization/tensor_types.py)."""
        given = {EMBEDDING: self.token_embedding, HEAD: self.output, **self.tensors}
        return {name: kind for name, kind in given.items() if kind is not None}

    @model_validator(mode="after")
    def _check_imatrix(self) -> Gguf:
        if self.type in NEED_IMATRIX and not self.imatrix:
            raise ValueError(f"{self.type} needs imatrix: true")
        for name, kind in self.tensors.items():
            if kind in TENSORS_NEED_IMATRIX and not self.imatrix:
                raise ValueError(f"tensors.{name} {kind} needs imatrix: true")
        for name, given in (("token_embedding", self.token_embedding), ("output", self.output)):
            if given in NEED_MEASURED:
                what = f"{name} {given} needs an importance matrix, and llama-imatrix measures none of it"
                raise ValueError(f"{what}: IQ3_XXS and Q2_K do without")
        if self.tensors and self.type == "BF16":
            raise ValueError("llama-quantize ignores tensors where type is BF16")
        return self


class Gptq(Section):
    """A GPTQ variant of the merged model (cartlm/quantization/gptq.py)."""

    bits: Literal[2, 3, 4, 8]
    group_size: Literal[-1, 16, 32, 64, 128, 256]  # weights a scale; -1: a scale a row
    symmetric: bool
    act_order: bool  # columns in the order of their activations (desc_act): finer, slower to run
    damp: Annotated[float, Field(gt=0, lt=1)]  # share of the mean diagonal added to the Hessian
