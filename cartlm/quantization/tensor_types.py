"""Types of single groups of tensors in a GGUF file: llama-quantize's options for them, and what it would pass over.

The tool ignores a name that no tensor has, takes another type where rows are no multiple of the blocks (or aborts, for
the embedding), and gives the embedding the type of a head that the model has not. Each of these is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cartlm.errors import UserError
from cartlm.quantization.gguf_types import TENSOR_BLOCKS

EMBEDDING, HEAD = "token_embd", "output"
OPTIONS = {EMBEDDING: "--token-embedding-type", HEAD: "--output-tensor-type"}
LAYERED = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""llama.cpp's names of the matrices of a layer."""
WHOLE = {"attention": r"\.attn_\w+\.weight", "ffn": r"\.ffn_\w+\.weight"}
"""Groups of cartlm.engines.tensor_groups that hold several of LAYERED, which come before them."""
PATTERNS = {
    EMBEDDING: r"^token_embd\.weight",
    HEAD: r"^output\.weight",
    **{name: rf"\.{name}\.weight" for name in LAYERED},
    **WHOLE,
}
"""Group -> what matches the names of its tensors; the first group that is given a type and matches decides."""
GIVEN = "edit gguf in params.yaml, then cartlm params check"


def options(types: Mapping[str, str]) -> list[str]:
    """llama-quantize's options for group -> type."""
    words: list[str] = []
    for group in [name for name in PATTERNS if name in types]:
        if group in OPTIONS:
            words += [OPTIONS[group], types[group]]
        else:
            words += ["--tensor-type", f"{PATTERNS[group]}={types[group]}"]
    return words


def resolve(types: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Tensor -> type of those `names` that a group matches. Raises UserError for a group without any tensor."""
    names = list(names)
    ordered = [group for group in PATTERNS if group in types]
    for group in ordered:
        if not any(re.search(PATTERNS[group], name) for name in names):
            if group == HEAD:
                what = f"output = {types[group]}: the model has no head of its own, its embedding is the head"
                raise UserError(what, "set token_embedding in its place")
            known = [name for name in PATTERNS if any(re.search(PATTERNS[name], each) for each in names)]
            what = f"{group} = {types[group]}: the model has no such tensors; it has {', '.join(known)}"
            raise UserError(what, GIVEN)
    found = {
        name: next((types[group] for group in ordered if re.search(PATTERNS[group], name)), "")
        for name in names
    }
    return {name: kind for name, kind in found.items() if kind}


def check_fit(types: Mapping[str, str], widths: Mapping[str, int]) -> dict[str, str]:
    """`resolve` over matrix -> weights a row. Raises UserError where a type's blocks do not fit the rows too."""
    found = resolve(types, widths)
    for name, kind in found.items():
        if widths[name] % TENSOR_BLOCKS[kind]:
            fit = ", ".join(fitting(widths[name]))
            what = (
                f"{name} has {widths[name]} weights a row, no multiple of the {TENSOR_BLOCKS[kind]} of {kind}"
            )
            raise UserError(f"{what}; these fit: {fit}", GIVEN)
    return found


def fitting(width: int) -> list[str]:
    """The types whose blocks fit rows of `width` weights."""
    return [kind for kind, block in TENSOR_BLOCKS.items() if width % block == 0]
