"""What is searched: groups of tensors, the types that each may have, and the order in which mixes are tried."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from cartlm.errors import UserError
from cartlm.quantization.config import Gguf
from cartlm.quantization.gguf import GgufFile
from cartlm.quantization.gguf_types import BLOCKS, NEED_MEASURED, TENSOR_BLOCKS, TENSORS_NEED_IMATRIX
from cartlm.quantization.tensor_types import EMBEDDING, HEAD, OPTIONS, PATTERNS, WHOLE

WIDE = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
NARROW = ("Q8_0", "Q5_1", "Q5_0", "Q4_0")
"""The default types where rows are no multiple of 256, which K-quants need."""
SIXTEEN_BIT = ("f32", "f16", "bf16")

Mix = Mapping[str, str]
"""Group of tensors -> type."""


@dataclass(frozen=True)
class Group:
    """Tensors that have one type; `ladder` are the types to try, most bits first."""

    name: str
    weights: int
    ladder: tuple[str, ...]


@cache
def bits_per_weight(kind: str) -> float:
    """Of a type's blocks, with their scales."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return 8 * size / weights


def parse_types(text: str, imatrix: bool) -> list[str]:
    """The types of a list with commas, most bits first. Raises UserError for one that llama-quantize does not make."""
    kinds = list(dict.fromkeys(word.strip().upper() for word in text.split(",") if word.strip()))
    for kind in kinds:
        if kind not in TENSOR_BLOCKS:
            raise UserError(
                f"--types: {kind} is no type of a tensor", f"choose of: {', '.join(TENSOR_BLOCKS)}"
            )
        if kind in TENSORS_NEED_IMATRIX and not imatrix:
            raise UserError(f"--types: {kind} needs an importance matrix", "leave out --no-imatrix")
    if not kinds:
        raise UserError("--types names no type", f"for example --types {','.join(WIDE)}")
    return sorted(kinds, key=lambda kind: -bits_per_weight(kind))


def find_groups(source: GgufFile, kinds: Sequence[str]) -> list[Group]:
    """The groups of the model; of `kinds`, or of WIDE or NARROW where none is given, each has those that fit its rows.

    Raises UserError where none fits, and for a model that is quantized already.
    """
    if (made := {kind for kind, _ in source.matrices.values()}) - {*SIXTEEN_BIT}:
        what = f"the model is quantized already: it has {', '.join(sorted(made))}"
        raise UserError(what, "name an F16 file, such as models/f16/model.gguf")
    found = []
    for name in [each for each in PATTERNS if each not in WHOLE]:
        shapes = [shape for tensor, shape in source.shapes.items() if re.search(PATTERNS[name], tensor)]
        if not shapes:
            continue
        given = kinds or (WIDE if all(shape[0] % 256 == 0 for shape in shapes) else NARROW)
        ladder = tuple(
            kind for kind in given
            if all(shape[0] % TENSOR_BLOCKS[kind] == 0 for shape in shapes)
            and not (name in OPTIONS and kind in NEED_MEASURED)
        )  # fmt: skip
        if not ladder:
            what = f"none of {', '.join(given)} fits {name}, of {shapes[0][0]} weights a row"
            raise UserError(what, "add Q8_0 to --types")
        weights = sum(row * rows for row, rows in (shape[:2] for shape in shapes))
        found.append(Group(name, weights, ladder))
    return found


def walk(groups: Sequence[Group], loses_nothing: Callable[[dict[str, str]], bool]) -> dict[str, str] | None:
    """Greedily the smallest mix of which `loses_nothing` is true; None where it is of none.

    First all groups go down their ladders together, until something is lost. Then one group at a time goes a step
    further, always the one whose step saves most; a group whose step loses something stays where it is.
    """
    at: dict[str, int] = {}
    for step in range(max(len(group.ladder) for group in groups)):
        lower = {group.name: min(step, len(group.ladder) - 1) for group in groups}
        if not loses_nothing(_mix(groups, lower)):
            break
        at = lower
    if not at:
        return None
    moving = list(groups)
    while moving := [group for group in moving if at[group.name] + 1 < len(group.ladder)]:
        group = max(moving, key=lambda each: _saving(each, at[each.name]))
        lower = {**at, group.name: at[group.name] + 1}
        if loses_nothing(_mix(groups, lower)):
            at = lower
        else:
            moving.remove(group)
    return _mix(groups, at)


def _mix(groups: Sequence[Group], at: Mapping[str, int]) -> dict[str, str]:
    return {group.name: group.ladder[at[group.name]] for group in groups}


def _saving(group: Group, at: int) -> float:
    """Bits that the next step saves."""
    return group.weights * (bits_per_weight(group.ladder[at]) - bits_per_weight(group.ladder[at + 1]))


def variant(mix: Mix, groups: Sequence[Group], imatrix: bool) -> Gguf:
    """The variant of params.yaml that is this mix. `type`, which no group follows, is the nearest name of a file."""
    weights = Counter[str]()
    for group in groups:
        weights[mix[group.name]] += group.weights
    names = {kind: next((name for name in (kind, f"{kind}_M") if name in BLOCKS), "") for kind in weights}
    most = next((names[kind] for kind, _ in weights.most_common() if names[kind] not in ("", "BF16")), "Q8_0")
    return Gguf(
        type=most, imatrix=imatrix, token_embedding=mix.get(EMBEDDING), output=mix.get(HEAD),
        tensors={name: kind for name, kind in mix.items() if name not in OPTIONS},
    )  # fmt: skip


def params_lines(name: str, found: Gguf) -> str:
    """The variant as lines of params.yaml."""
    given = found.model_dump(exclude_none=True, exclude_defaults=True)
    tensors = given.pop("tensors", {})
    parts = [
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items()
    ]
    if tensors:
        parts.append(f"tensors: {{{', '.join(f'{group}: {kind}' for group, kind in tensors.items())}}}")
    return f"gguf:\n  {name}: {{{', '.join(parts)}}}"
