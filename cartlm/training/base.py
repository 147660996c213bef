"""The 16-bit base model in hub layout: fetched, checked for all later stages, and made consistent (tokens, decoding)."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cartlm.engines import model_dir
from cartlm.engines.model_dir import HINT, load_tokenizer
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.quantization import tokenizer_check
from cartlm.training import llama_config, special_tokens

__all__ = ["BaseModel", "Later", "fetch", "load_tokenizer", "make"]

DOWNLOADED = (*model_dir.CONFIGS, *model_dir.DOWNLOADED, *model_dir.TOKENIZER, "adapter_config.json")


@dataclass(frozen=True)
class BaseModel:
    """What was made: where it came from (`revision`: the hub's commit), sizes, and its special tokens' ids.

    `files` are its weights, `left_out` those in its folder that are not the model's, `asked_llama_cpp` whether it read the tokenizer.
    """

    origin: str
    revision: str | None
    parameters: int
    bytes: int
    vocabulary: int
    tied: bool
    bos_id: int
    eos_id: int
    pad_id: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    asked_llama_cpp: bool


@dataclass(frozen=True)
class Later:
    """What later stages will do with the model, so that it is refused before anything is computed."""

    separator: str = "\n"
    max_tokens: int = 1
    merged: Literal["float16", "bfloat16"] = "float16"
    gptq_bits: Mapping[str, int] = field(default_factory=dict)  # by variant
    imatrix: bool = False
    languages: Sequence[str] = ("english", "croatian", "spanish")
    log: Path | None = None  # gets what llama.cpp's converter says; None: nowhere


def make(
    source: str, path: str, revision: str | None, pad_token: str | None, target: Path, later: Later = Later()
) -> BaseModel:
    """`target` from an embedded folder, a local folder in hub layout or a hub id; the weights stay byte for byte.

    Bos, eos and pad ids are written into both configs and decoding is made greedy. `target` is replaced at the
    end. Raises UserError for everything that is not a 16- or 32-bit Llama in safetensors with usable tokens, or
    that a later stage would refuse.
    """
    folder, commit = fetch(source, path, revision)
    found = model_dir.weights(folder)
    config = llama_config.check_config(folder)
    llama_config.check_weights(folder, config, found.tensors)
    _check_use(config, later, path)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{path} has no tokenizer.json or tokenizer.model", HINT)
    with replacing(target, folder=True) as temporary:
        model_dir.copy(folder, temporary, (*model_dir.CONFIGS, *model_dir.TOKENIZER))
        bos, eos, pad = special_tokens.set_tokens(temporary, config, pad_token, path)
        for name in found.files:
            shutil.copyfile(folder / name, temporary / name)
        if model_dir.INDEX in found.files:
            _mend_index(temporary / model_dir.INDEX, found)
        asked = tokenizer_check.check(
            temporary, later.separator, later.languages, later.imatrix, later.log, path
        )
        check_values(temporary, found, config, later.merged, path)
    return BaseModel(
        path, commit, sum(math.prod(tensor.shape) for tensor in found.tensors.values()),
        sum(tensor.bytes for tensor in found.tensors.values()), int(config["vocab_size"]),
        bool(config.get("tie_word_embeddings")), bos, eos, pad, found.files, found.left_out, asked,
    )  # fmt: skip


def _mend_index(path: Path, found: model_dir.Weights) -> None:
    """transformers wants `metadata` in an index, which not every tool writes."""
    index = model_dir.read_json(path)
    if not isinstance(index.get("metadata"), dict):
        index["metadata"] = {"total_size": sum(tensor.bytes for tensor in found.tensors.values())}
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_use(config: dict[str, Any], later: Later, path: str) -> None:
    """The params against the model's sizes. Raises UserError."""
    if (most := llama_config.positions(config)) < later.max_tokens:
        raise UserError(
            f"prompt.max_tokens={later.max_tokens}, but {path} has max_position_embeddings {most}",
            f"set prompt.max_tokens to {most} if all rows are that short, or base.path to a model with more",
        )
    sides = {size for shape in llama_config.shapes(config).values() if len(shape) == 2 for size in shape}
    sides -= {config["vocab_size"]}
    for name, bits in later.gptq_bits.items():
        if bits == 3 and (odd := sorted(size for size in sides if size % 32)):
            raise UserError(
                f"gptq.{name}.bits=3 packs 32 weights, and {path} has matrices with a side of {odd[0]}",
                f"set gptq.{name}.bits to 4 in params.yaml, or take the variant out",
            )


def check_values(
    folder: Path, found: model_dir.Weights, config: Mapping[str, Any], merged: str, path: str
) -> None:
    """Every weight is a number that `merged` can hold; a head beside a tied embedding repeats it. Raises UserError."""
    import torch
    from safetensors import safe_open

    def read(name: str) -> torch.Tensor:
        with safe_open(folder / found.tensors[name].file, framework="pt") as file:
            return file.get_tensor(name)

    most = torch.finfo(getattr(torch, merged)).max
    for name in found.tensors:
        largest = float(read(name).abs().max())
        if not math.isfinite(largest):
            raise UserError(f"{path}: {name} holds {largest}, no weight", HINT)
        if largest > most:
            raise UserError(
                f"{path}: {name} holds {largest:.6g}, more than merge.dtype={merged} can",
                "set merge.dtype to bfloat16",
            )
    head, tied = "lm_head.weight", config.get("tie_word_embeddings")
    if tied and head in found.tensors and not torch.equal(read(head), read("model.embed_tokens.weight")):
        raise UserError(
            f"{path}: tie_word_embeddings is true, but {head} is not the embedding",
            "set tie_word_embeddings to false in its config.json (of a hub model, in a local copy that base.path names)",
        )


def fetch(source: str, path: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of the base model and, from the hub, its commit. Raises UserError."""
    folder = Path(path)
    if source == "embedded" or folder.is_dir():
        if not folder.is_dir():
            raise UserError(f"base.path={path} is not a folder", "git checkout base/model, or set base.path")
        if source == "hub" and revision is not None:
            raise UserError(
                f"base.path={path} is a local folder, base.revision={revision} means nothing there",
                "set base.revision to null in params.yaml",
            )
        return folder, None
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise UserError(
            f"base.path={path} is neither a folder nor a hub id such as meta-llama/Llama-3.2-1B", HINT
        )
    return download(path, revision)


def download(name: str, revision: str | None) -> tuple[Path, str]:
    """A hub revision in the hub's own cache, without code and without pickles. Raises UserError."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    at = f"{name} at revision {revision}" if revision else name
    try:
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED)))
    except errors.GatedRepoError:
        raise UserError(
            f"{at} is gated", f"accept its licence on https://huggingface.co/{name}, then hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision}", "set base.revision in params.yaml") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the hub has no model {name} (or it is private)", "hf auth login, or set base.path"
        ) from None
    except Exception as error:  # the network fails in the way of the library that meets it first
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        raise UserError(
            f"{at} cannot be fetched from the hub ({type(error).__name__})",
            "check the network, or set base.path to a local folder, or make preset NAME=offline",
        ) from None
    return folder, folder.name
