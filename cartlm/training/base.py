"""The 16-bit base model in hub layout: fetched, checked, and made consistent (special tokens, greedy decoding)."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.training import folders

ARCHITECTURE = "LlamaForCausalLM"
DTYPES = ("F16", "BF16", "F32")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
LAYER = (
    "input_layernorm", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "post_attention_layernorm",
    "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj",
)  # fmt: skip
DOWNLOADED = (*folders.CONFIGS, *folders.WEIGHTS, *folders.TOKENIZER)
HINT = "set base.path in params.yaml to a Llama model in hub layout with safetensors"


@dataclass(frozen=True)
class BaseModel:
    """What was made: where it came from (`revision`: the hub's commit), sizes, and its special tokens' ids."""

    origin: str
    revision: str | None
    parameters: int
    bytes: int
    vocabulary: int
    tied: bool
    bos_id: int
    eos_id: int
    pad_id: int


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def make(source: str, path: str, revision: str | None, pad_token: str | None, target: Path) -> BaseModel:
    """`target` from an embedded folder, a local folder in hub layout or a hub id; the weights stay byte for byte.

    Bos, eos and pad ids are written into both configs and decoding is made greedy. `target` is replaced at the
    end. Raises UserError for everything that is not a 16- or 32-bit Llama in safetensors with usable tokens.
    """
    folder, commit = fetch(source, path, revision)
    config = check_config(folder)
    found = check_weights(folder, config)
    with folders.replacing(target) as temporary:
        copied = folders.copy(folder, temporary, (*folders.WEIGHTS, *folders.CONFIGS, *folders.TOKENIZER))
        if not {"tokenizer.json", "tokenizer.model"} & set(copied):
            raise UserError(f"{path} has no tokenizer.json or tokenizer.model", HINT)
        bos, eos, pad = set_tokens(temporary, config, pad_token, path)
    return BaseModel(
        path, commit, sum(_count(tensor.shape) for tensor in found.values()),
        sum(tensor.bytes for tensor in found.values()), int(config["vocab_size"]),
        "lm_head.weight" not in found, bos, eos, pad,
    )  # fmt: skip


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


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing", HINT) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}", HINT) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object", HINT)
    return value


def check_config(folder: Path) -> dict[str, Any]:
    """config.json of a plain, unquantized Llama. Raises UserError naming what is not."""
    config = _json(folder / "config.json")
    if config.get("architectures") != [ARCHITECTURE]:
        raise UserError(f"{folder} is a {config.get('architectures')}, not a {ARCHITECTURE}", HINT)
    if config.get("auto_map"):
        raise UserError(f"{folder} wants to run code of its own (auto_map in config.json)", HINT)
    if config.get("quantization_config"):
        raise UserError(
            f"{folder} is quantized already", "set base.path to the 16-bit model it was made from"
        )
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise UserError(f"{folder}/config.json: {key} is {config.get(key)!r}", HINT)
    return config


def tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> entry of all tensors in the folder's safetensors, read from their headers. Raises UserError."""
    index = folder / "model.safetensors.index.json"
    names = sorted(path.name for path in folder.glob("model*.safetensors"))
    if index.exists():
        weight_map = _json(index).get("weight_map", {})
        names = sorted(set(weight_map.values()))
    if not names:
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        if pickled:
            raise UserError(f"{folder} has only pickled weights ({pickled[0]}), which may run code", HINT)
        raise UserError(f"{folder} holds no model.safetensors", HINT)
    found: dict[str, Tensor] = {}
    for name in names:
        found |= _header(folder / name)
    return found


def _header(path: Path) -> dict[str, Tensor]:
    """The header of one file: 8 bytes of length, then JSON (https://github.com/huggingface/safetensors)."""
    if not path.is_file():
        raise UserError(f"{path} is missing, though the index names it", HINT)
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        size = os.fstat(file.fileno()).st_size
        if len(start) < 8 or length > size - 8:
            raise UserError(f"{path} is not a whole safetensors file ({size} bytes)", HINT)
        try:
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            found = {
                name: Tensor(
                    path.name, entry["dtype"], tuple(entry["shape"]),
                    entry["data_offsets"][1] - entry["data_offsets"][0],
                )
                for name, entry in entries.items()
            }  # fmt: skip
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"{path} is not a safetensors file", HINT) from None
    if 8 + length + end != size:
        raise UserError(f"{path} has {size} bytes, its header promises {8 + length + end}", HINT)
    return found


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def check_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """The folder's tensors: all that the config promises, in 16 or 32 bits. Raises UserError."""
    found = tensors(folder)
    needed = ["model.embed_tokens.weight", "model.norm.weight"]
    needed += [
        f"model.layers.{i}.{part}.weight" for i in range(config["num_hidden_layers"]) for part in LAYER
    ]
    if not config.get("tie_word_embeddings", False):
        needed.append("lm_head.weight")
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} weights such as {missing[0]}", HINT)
    for name, tensor in found.items():
        if tensor.dtype not in DTYPES:
            raise UserError(f"{folder}: {name} is {tensor.dtype}, not one of {', '.join(DTYPES)}", HINT)
    shape = (config["vocab_size"], config["hidden_size"])
    if found["model.embed_tokens.weight"].shape != shape:
        raise UserError(
            f"{folder}: embed_tokens is {found['model.embed_tokens.weight'].shape}, config.json says {shape}",
            HINT,
        )
    return found


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


def _ids(value: Any) -> set[int]:
    """Token ids of a config's entry, which may be null, one id or several."""
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {value}


def set_tokens(
    folder: Path, config: dict[str, Any], pad_token: str | None, path: str
) -> tuple[int, int, int]:
    """Bos, eos and pad ids, written to both configs of `folder` and to its tokenizer files.

    The pad token is the tokenizer's own, else `pad_token`; it must be in the vocabulary and no end token.
    `path` is how errors name the model. Raises UserError naming what to set.
    """
    tokenizer = load_tokenizer(folder)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for name, given in (("bos", bos), ("eos", eos)):
        if given is None:
            raise UserError(
                f"the tokenizer of {path} has no {name} token",
                f"set {name}_token in its tokenizer_config.json",
            )
    if len(tokenizer) > config["vocab_size"]:
        raise UserError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens, the model only {config['vocab_size']}",
            HINT,
        )
    generation = (
        _json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {}
    )
    ends = {eos} | _ids(config.get("eos_token_id")) | _ids(generation.get("eos_token_id"))
    chosen = tokenizer.pad_token
    if chosen is None or tokenizer.pad_token_id in ends:
        if pad_token is None:
            what = "has no pad token" if chosen is None else f"pads with its end token {chosen}"
            raise UserError(
                f"the tokenizer of {path} {what}",
                'set prompt.pad_token in params.yaml to a spare special token (Llama 3: "<|finetune_right_pad_id|>")',
            )
        chosen = pad_token
    pad = tokenizer.get_vocab().get(chosen)
    if pad is None:
        raise UserError(
            f"prompt.pad_token={chosen!r} is not in the vocabulary of {path}",
            "set prompt.pad_token in params.yaml to a special token it has",
        )
    if pad in ends or pad == bos:
        raise UserError(
            f"prompt.pad_token={chosen!r} is the {'bos' if pad == bos else 'end'} token of {path}",
            "set prompt.pad_token in params.yaml to another special token",
        )
    _write_tokens(folder, config, {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}, chosen)
    again = load_tokenizer(folder)
    if (again.bos_token_id, again.eos_token_id, again.pad_token_id) != (bos, eos, pad):
        raise UserError(f"the tokenizer of {path} does not keep its pad token {chosen!r}", HINT)
    return bos, eos, pad


def _write_tokens(folder: Path, config: dict[str, Any], ids: dict[str, int], pad_token: str) -> None:
    """Minimal edits: all else in the tokenizer's files stays as published, as the GGUF converter expects it."""
    _write(folder / "config.json", {**{k: v for k, v in config.items() if k != "_name_or_path"}, **ids})
    _write(folder / "generation_config.json", {**ids, "do_sample": False})
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            _write(path, {**_json(path), "pad_token": pad_token})
        elif name == "tokenizer_config.json":
            _write(path, {"pad_token": pad_token})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
