"""The GGUF types that llama-quantize makes: the one table behind `gguf.*.type` and `architecture.types`.

Left out: Q2_0, which gguf-py 0.19 cannot read, and MXFP4_MOE, which is for mixtures of experts.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

BLOCKS = {
    "BF16": 1,
    **dict.fromkeys(("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"), 32),
    "Q1_0": 128,
    **dict.fromkeys((
        "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "Q2_K_S",
        "IQ4_XS", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
        "TQ2_0", "TQ1_0",
    ), 256),
}  # fmt: skip
"""Weights a block. Rows whose size is no multiple of it silently get another type."""
NEED_IMATRIX = {"Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"}


def _check(names: Collection[str], name: str) -> str:
    if name not in names:
        raise ValueError(f"not one of {', '.join(names)}")
    return name


_PLAIN = [name.lower() for name in BLOCKS if name not in NEED_IMATRIX]
TypeName = Annotated[str, AfterValidator(partial(_check, BLOCKS))]
PlainTypeName = Annotated[str, AfterValidator(partial(_check, _PLAIN))]
"""In lower case, a type that needs no importance matrix."""
