"""The GGUF types that llama-quantize makes: of files, behind `gguf.*.type` and `architecture.types`, and of single tensors.

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
TENSOR_BLOCKS = {
    **dict.fromkeys(("F16", "BF16"), 1),
    **dict.fromkeys(("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"), 32),
    "Q1_0": 128,
    **dict.fromkeys((
        "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M",
        "IQ1_S", "TQ2_0", "TQ1_0",
    ), 256),
}  # fmt: skip
"""The same of one tensor's type, which is no mixture. Its rows must be a multiple of it."""
TENSORS_NEED_IMATRIX = {"IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"}
NEED_MEASURED = {"IQ2_XS", "IQ2_XXS", "IQ1_S"}
"""Those that llama-quantize aborts on without the tensor's own entry in the matrix: embedding and head have none."""
NEED_IMATRIX = {"Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"}


def check_name(names: Collection[str], name: str) -> str:
    """`name`. Raises ValueError for one that is not among `names`, and lists them."""
    if name not in names:
        raise ValueError(f"not one of {', '.join(names)}")
    return name


_PLAIN = [name.lower() for name in BLOCKS if name not in NEED_IMATRIX]
TypeName = Annotated[str, AfterValidator(partial(check_name, BLOCKS))]
TensorTypeName = Annotated[str, AfterValidator(partial(check_name, TENSOR_BLOCKS))]
PlainTypeName = Annotated[str, AfterValidator(partial(check_name, _PLAIN))]
"""In lower case, a type that needs no importance matrix."""
