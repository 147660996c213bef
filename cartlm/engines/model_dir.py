"""Folders of models: the one set of weights in it, its tokenizer, and replacing one as a whole."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.errors import UserError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DOWNLOADED = (WHOLE, "model-*.safetensors", INDEX)
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
CONFIGS = ("config.json", "generation_config.json")
TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip
"""Names of the files that are read; a folder's other files (code, pickles, cards) are never copied."""
HINT = "set base.path in params.yaml to a Llama model in hub layout with safetensors"


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Weights:
    """The one set of weights of a folder: its files, the index among them, and all their tensors by name.

    `left_out` names the other weights beside it.
    """

    files: tuple[str, ...]
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def weights(folder: Path) -> Weights:
    """The weights of `folder`, as they are checked, copied and loaded. Raises UserError unless they are one whole set.

    An index comes first, then model.safetensors. transformers takes model.safetensors even beside an index and
    llama.cpp's converter the index, so a folder of ours holds one of the two.
    """
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which transformers loads in the model's place",
            "set base.path to the model without it; merge the adapter first if it is meant to count",
        )
    every = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if (folder / INDEX).exists():
        placed = _index(folder)
        files = sorted(set(placed.values()))
        found = _headers(folder, files)
        for name in sorted(placed.keys() | found.keys()):
            told, real = placed.get(name), found[name].file if name in found else None
            if told != real:
                raise UserError(
                    f"{folder}: {INDEX} has {name} in {told}, the headers in {real}",
                    "fetch the model's files again, all of one save",
                )
        taken = (*files, INDEX) if files != [WHOLE] else (WHOLE,)
    elif shards := [name for name in every if SHARD.fullmatch(name)]:
        raise UserError(
            f"{folder} holds shards such as {shards[0]} without {INDEX}",
            f"fetch the index too, or remove the shards if {WHOLE} is the model",
        )
    elif WHOLE in every:
        found, taken = _headers(folder, [WHOLE]), (WHOLE,)
    else:
        raise UserError(f"{folder} holds no {WHOLE}{_instead(folder, every)}", HINT)
    pickled = [path.name for pattern in PICKLED for path in folder.glob(pattern)]
    return Weights(taken, found, tuple(sorted({*every, *pickled} - set(taken))))


def _instead(folder: Path, every: list[str]) -> str:
    """What stands in a folder that has no weights under the usual name."""
    if every:
        return f", only {every[0]}"
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    return f", only pickled weights ({pickled[0]}), which may run code" if pickled else ""


def _index(folder: Path) -> dict[str, str]:
    """Tensor -> file, from the index. Raises UserError for a file that is not there, or not in this folder."""
    placed = read_json(folder / INDEX).get("weight_map")
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(file, str) for file in placed.values())
    ):
        raise UserError(f"{folder / INDEX} has no weight_map of tensors to files", HINT)
    for file in sorted(set(placed.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX} names {file!r}, which is no safetensors file beside it", HINT)
        if not (folder / file).is_file():
            raise UserError(f"{folder / file} is missing, though {INDEX} names it", HINT)
    if WHOLE in placed.values() and len(set(placed.values())) > 1:
        raise UserError(
            f"{folder}: {INDEX} names {WHOLE} as one of several files, which transformers would take for the whole",
            "save the model again, or rename that file there and in the index",
        )
    return placed


def _headers(folder: Path, files: list[str]) -> dict[str, Tensor]:
    """Name -> entry of the files' tensors, none of them twice. Raises UserError for a broken file."""
    from safetensors import SafetensorError, safe_open

    widths = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="numpy") as header:
                for name in header.keys():  # noqa: SIM118 - not a mapping
                    if name in found:
                        raise UserError(f"{folder}: {name} is both in {found[name].file} and in {file}", HINT)
                    part = header.get_slice(name)
                    shape, dtype = tuple(part.get_shape()), part.get_dtype()
                    found[name] = Tensor(file, dtype, shape, _count(shape) * widths.get(dtype, 1))
        except SafetensorError as error:
            raise UserError(f"{folder / file} is not a whole safetensors file ({error})", HINT) from None
    return found


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError for a file that is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", HINT) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}", HINT) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object", HINT)
    return value


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; nothing is downloaded and no code of the folder runs. Raises UserError."""
    from transformers import AutoTokenizer
    from transformers import logging as hf_logging

    hf_logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # sentencepiece, tokenizers and transformers each fail in their own way
        text = " ".join(str(error).split())[:160]
        raise UserError(f"the tokenizer in {folder} does not load: {text}", HINT) from None


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> list[str]:
    """Copy the files of `source` that match, in name order; returns their names."""
    names = sorted({path.name for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names
