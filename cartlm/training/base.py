"""The 16-bit base model in hub layout: fetched, checked for all later stages, and made consistent (tokens, decoding)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.engines import model_dir
from cartlm.engines.model_dir import HINT, IN_COPY
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.quantization import tokenizer_check
from cartlm.quantization.config import Gguf, Gptq
from cartlm.task.config import Prompt
from cartlm.training import model_config, sources, special_tokens
from cartlm.training.config import Base, Merge
from cartlm.training.origin import write as write_origin


@dataclass(frozen=True)
class BaseModel:
    """The base model as written: origin (`revision` as in Origin), sizes, special tokens' ids.

    `files` are its weights, `left_out` other weights in its folder; `llama_cpp_checked`: llama.cpp read the tokenizer too.
    """

    origin: str
    revision: str | None
    dequantized_from: str | None
    parameters: int
    bytes: int
    vocabulary: int
    tied: bool
    bos_id: int | None
    eos_id: int
    pad_id: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    llama_cpp_checked: bool


def make(
    origin: Base, prompt: Prompt, merge: Merge, gguf: Mapping[str, Gguf], gptq: Mapping[str, Gptq],
    languages: Sequence[str], target: Path, log: Path, say: Callable[[str], None] = lambda _: None,
) -> BaseModel:  # fmt: skip
    """`target` from wherever `origin` names it (cartlm/training/sources.py); weights in hub layout stay byte for byte.

    Bos, eos and pad ids are written into both configs and decoding is made greedy. `target` is replaced at the
    end; `log` gets the output of llama.cpp's converter, `say` what takes time. Raises UserError for everything that is
    not a 16- or 32-bit model of a supported family (model_config.FAMILIES) in safetensors with usable tokens, or that a
    later stage would refuse.
    """
    with sources.fetched(origin, target, log, say) as source:
        return _make(origin.path, source, prompt, merge, gguf, gptq, languages, target, log)


def _make(
    path: str, source: sources.Source, prompt: Prompt, merge: Merge, gguf: Mapping[str, Gguf], gptq: Mapping[str, Gptq],
    languages: Sequence[str], target: Path, log: Path,
) -> BaseModel:  # fmt: skip
    folder = source.folder
    weights = model_dir.weights(folder, given=True)
    config = model_config.check_config(folder)
    model_config.check_weights(folder, config, weights.tensors)
    _check_params(config, prompt, gptq, path)
    _drop_window(config, prompt, path)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{path} has no tokenizer.json or tokenizer.model", HINT)
    sizes = [tensor.bytes for tensor in weights.tensors.values()]
    with replacing(target, folder=True) as temporary:
        model_dir.copy(folder, temporary, (*model_dir.CONFIGS, *model_dir.TOKENIZER))
        bos, eos, pad = special_tokens.set_tokens(temporary, config, prompt.pad_token, path)
        for name in weights.files:
            shutil.copyfile(folder / name, temporary / name)
        if model_dir.INDEX in weights.files:
            _complete_index(temporary / model_dir.INDEX, sum(sizes))
        imatrix = any(variant.imatrix for variant in gguf.values())
        checked = tokenizer_check.check(temporary, prompt.separator, languages, imatrix, log, path)
        check_values(temporary, weights, config, merge.dtype, path)
        write_origin(temporary, source.origin)
    return BaseModel(
        path, source.origin.revision, source.origin.dequantized_from,
        sum(tensor.parameters for tensor in weights.tensors.values()), sum(sizes), config["vocab_size"],
        model_config.tied(config), bos, eos, pad, weights.files, weights.left_out, checked,
    )  # fmt: skip


def _complete_index(path: Path, total_size: int) -> None:
    """transformers needs `metadata` in an index, which not every tool writes."""
    index = model_dir.read_json(path, HINT)
    if not isinstance(index.get("metadata"), dict):
        model_dir.write_json(path, index | {"metadata": {"total_size": total_size}}, sort_keys=True)


def _check_params(config: dict[str, Any], prompt: Prompt, gptq: Mapping[str, Gptq], path: str) -> None:
    """The params against the model's sizes. Raises UserError."""
    most = model_config.make(config).max_position_embeddings
    if most < prompt.max_tokens:
        raise UserError(
            f"prompt.max_tokens={prompt.max_tokens}, but {path} has max_position_embeddings {most}",
            f"set prompt.max_tokens to {most} if all rows are that short, or base.path to a model with more",
        )
    shapes = model_config.expected_shapes(config).values()
    sides = {size for shape in shapes if len(shape) == 2 for size in shape} - {config["vocab_size"]}
    for name, variant in gptq.items():
        if variant.bits == 3 and (odd := sorted(size for size in sides if size % 32)):
            raise UserError(
                f"gptq.{name}.bits=3 packs 32 weights, and {path} has matrices with a side of {odd[0]}",
                f"set gptq.{name}.bits to 4 in params.yaml, or remove the variant",
            )


def _drop_window(config: dict[str, Any], prompt: Prompt, path: str) -> None:
    """Switch a Mistral's window off, which llama.cpp does not know and no row fills. Raises UserError for a shorter one."""
    if model_config.family(config) is not model_config.Mistral:
        return
    window = model_config.make(config).sliding_window
    if window is not None and window < prompt.max_tokens:
        raise UserError(
            f"{path} has sliding_window {window}, llama.cpp computes a Mistral without, and "
            f"prompt.max_tokens={prompt.max_tokens}",
            f"set prompt.max_tokens to {window} if all rows are that short, or base.path to a model without a window",
        )
    config["sliding_window"] = None


def check_values(
    folder: Path, weights: model_dir.Weights, config: Mapping[str, Any], merge_dtype: str, path: str
) -> None:
    """Every weight is a number that `merge_dtype` can hold; a head beside a tied embedding repeats it. Raises UserError."""
    import torch
    from safetensors import safe_open

    def load(name: str) -> torch.Tensor:
        with safe_open(folder / weights.tensors[name].file, framework="pt") as file:
            return file.get_tensor(name)

    for name, tensor in weights.tensors.items():
        # matrices are float16 in the GGUF file F16, vectors float32
        dtype = "float16" if len(tensor.shape) > 1 else merge_dtype
        most, largest = torch.finfo(getattr(torch, dtype)).max, float(load(name).abs().max())
        if not largest <= most:  # or NaN
            holder, hint = (
                f"merge.dtype={merge_dtype}",
                "set merge.dtype to bfloat16, or base.path to a model",
            )
            if len(tensor.shape) > 1:
                holder, hint = "float16, the type of matrices in GGUF F16,", "set base.path to a model"
            raise UserError(
                f"{path}: {name} holds {largest:.6g}, {holder} no more than {most:.6g}",
                f"{hint} whose weights are numbers in that range",
            )
    head = model_config.HEAD
    repeats = head in weights.tensors and model_config.tied(config)
    if repeats and not torch.equal(load(head), load(model_config.EMBEDDING)):
        raise UserError(
            f"{path}: tie_word_embeddings is true, but {head} is not the embedding",
            f"set tie_word_embeddings to false in its config.json (of a hub model, {IN_COPY})",
        )
