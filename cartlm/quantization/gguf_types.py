"""The GGUF types that llama-quantize makes: the one table behind `gguf.*.type` and `architecture.types`.

Left out: Q2_0, which gguf-py 0.19 cannot read, and MXFP4_MOE, which is for mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, NamedTuple

from pydantic import AfterValidator


class GgufType(NamedTuple):
    """`number` is llama.h's llama_ftype. Rows whose size is no multiple of `block` silently get another type."""

    number: int
    block: int
    needs_imatrix: bool = False


GGUF_TYPES = {
    "BF16": GgufType(32, 1),
    "Q8_0": GgufType(7, 32),
    "Q6_K": GgufType(18, 256),
    "Q5_K_M": GgufType(17, 256),
    "Q5_K_S": GgufType(16, 256),
    "Q5_1": GgufType(9, 32),
    "Q5_0": GgufType(8, 32),
    "Q4_K_M": GgufType(15, 256),
    "Q4_K_S": GgufType(14, 256),
    "Q4_1": GgufType(3, 32),
    "Q4_0": GgufType(2, 32),
    "IQ4_NL": GgufType(25, 32),
    "IQ4_XS": GgufType(30, 256),
    "Q3_K_L": GgufType(13, 256),
    "Q3_K_M": GgufType(12, 256),
    "Q3_K_S": GgufType(11, 256),
    "IQ3_M": GgufType(27, 256),
    "IQ3_S": GgufType(26, 256),
    "IQ3_XS": GgufType(22, 256, needs_imatrix=True),
    "IQ3_XXS": GgufType(23, 256, needs_imatrix=True),
    "Q2_K": GgufType(10, 256),
    "Q2_K_S": GgufType(21, 256, needs_imatrix=True),
    "IQ2_M": GgufType(29, 256, needs_imatrix=True),
    "IQ2_S": GgufType(28, 256, needs_imatrix=True),
    "IQ2_XS": GgufType(20, 256, needs_imatrix=True),
    "IQ2_XXS": GgufType(19, 256, needs_imatrix=True),
    "TQ2_0": GgufType(37, 256),
    "TQ1_0": GgufType(36, 256),
    "IQ1_M": GgufType(31, 256, needs_imatrix=True),
    "IQ1_S": GgufType(24, 256, needs_imatrix=True),
    "Q1_0": GgufType(40, 128),
}


def _check(names: Collection[str], name: str) -> str:
    if name not in names:
        raise ValueError(f"not one of {', '.join(names)}")
    return name


_PLAIN = [name.lower() for name, kind in GGUF_TYPES.items() if not kind.needs_imatrix]
TypeName = Annotated[str, AfterValidator(partial(_check, GGUF_TYPES))]
PlainTypeName = Annotated[str, AfterValidator(partial(_check, _PLAIN))]
"""In lower case, a type that needs no importance matrix."""
