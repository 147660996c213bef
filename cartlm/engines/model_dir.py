"""Model folders in hub layout: their one set of weights, their tokenizer, and which files are copied."""

from __future__ import annotations

import json
import math
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
HINT = "set base.path in params.yaml to a model of a supported family in hub layout with safetensors"
IN_COPY = "in a local copy that base.path names"
"""Where a user mends a file of a hub model; it ends some hints."""
AGAIN = "delete it, then dvc repro"
"""The hint for a folder that a stage made; HINT is for what a user gave as the base model."""
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.parameters * WIDTHS.get(self.dtype, 1)


@dataclass(frozen=True)
class Weights:
    """The one set of weights of a folder: its files with the index, its tensors by name, and the other weight files."""

    files: tuple[str, ...]
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]


def weights(folder: Path, given: bool = False) -> Weights:
    """The weights of `folder`, as they are checked, copied and loaded. Raises UserError unless they are one whole set.

    `given`: a user gave the folder as the base model, which decides what errors advise. An index comes before model.safetensors. transformers prefers model.safetensors and llama.cpp's converter the
    index, so a folder of ours has only one of the two.
    """
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which transformers loads in place of the model",
            "set base.path to the model without it; merge the adapter first if it is needed"
            if given
            else AGAIN,
        )
    hint = HINT if given else AGAIN
    every = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if (folder / INDEX).exists():
        placed = _index(folder, given)
        files = sorted(set(placed.values()))
        tensors = read_headers(folder, files, hint)
        actual = {name: tensor.file for name, tensor in tensors.items()}
        if differing := sorted(placed.items() ^ actual.items()):
            name = differing[0][0]
            raise UserError(
                f"{folder}: {name} is in {placed.get(name)} by {INDEX}, in {actual.get(name)} by the headers",
                "fetch the model's files again, all of one save" if given else AGAIN,
            )
        if files != [WHOLE]:
            files.append(INDEX)
    elif shards := [name for name in every if SHARD.fullmatch(name)]:
        raise UserError(
            f"{folder} holds shards such as {shards[0]} without {INDEX}",
            f"fetch the index too, or remove the shards if {WHOLE} is the model" if given else AGAIN,
        )
    elif WHOLE in every:
        files, tensors = [WHOLE], read_headers(folder, [WHOLE], hint)
    else:
        found = every or [f"pickled weights ({name}), which may run code" for name in pickled]
        raise UserError(f"{folder} holds no {WHOLE}{f', only {found[0]}' if found else ''}", hint)
    return Weights(tuple(files), tensors, tuple(sorted({*every, *pickled} - set(files))))


def _index(folder: Path, given: bool) -> dict[str, str]:
    """Tensor -> file, from the index. Raises UserError for a file that is missing or outside this folder."""
    hint = HINT if given else AGAIN
    placed = read_json(folder / INDEX, hint).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(f, str) for f in placed.values()):
        raise UserError(f"{folder / INDEX} has no weight_map of tensors to files", hint)
    files = sorted(set(placed.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors") or not (folder / file).is_file():
            raise UserError(
                f"{folder / file} is missing or no safetensors file beside {INDEX}, which names it", hint
            )
    if WHOLE in files and len(files) > 1:
        raise UserError(
            f"{folder}: {INDEX} names {WHOLE} as one of several files, which transformers would load alone",
            "save the model again, or rename that file there and in the index" if given else AGAIN,
        )
    return placed


def read_headers(folder: Path, files: list[str], hint: str = AGAIN) -> dict[str, Tensor]:
    """The files' tensors by name. Raises UserError for a broken file and for a name in two files."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="numpy") as header:
                for name in header.keys():  # noqa: SIM118 - not a mapping
                    if name in tensors:
                        raise UserError(
                            f"{folder}: {name} is both in {tensors[name].file} and in {file}", hint
                        )
                    part = header.get_slice(name)
                    tensors[name] = Tensor(file, part.get_dtype(), tuple(part.get_shape()))
        except SafetensorError as error:
            raise UserError(f"{folder / file} is not a whole safetensors file ({error})", hint) from None
    return tensors


def read_json(path: Path, hint: str = AGAIN) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError for a file that is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", hint) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", hint) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object", hint)
    return value


def write_json(path: Path, value: dict[str, Any], sort_keys: bool = False) -> None:
    """Write a JSON object as transformers does, with a newline at its end."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys)
    path.write_text(text + "\n", encoding="utf-8")


def load_tokenizer(folder: Path, hint: str = AGAIN) -> Any:
    """The folder's tokenizer; nothing is downloaded and no code of the folder runs. Raises UserError."""
    import transformers as hf

    hf.logging.set_verbosity_error()
    try:
        return hf.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # sentencepiece, tokenizers and transformers each fail in their own way
        raise UserError(f"the tokenizer in {folder} does not load: {error!s:.160}", hint) from None


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files of `source` that match."""
    for path in {path for pattern in patterns for path in source.glob(pattern) if path.is_file()}:
        shutil.copyfile(path, target / path.name)
