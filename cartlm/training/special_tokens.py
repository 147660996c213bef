"""The special tokens of a base model: whether its files agree on them, and one bos, eos and pad for all stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import HINT, IN_COPY, load_tokenizer, read_json, write_json
from cartlm.errors import UserError
from cartlm.task.prompt import end_ids
from cartlm.training.model_config import generation_keys

TOKENIZER_CONFIG, TOKEN_MAP = "tokenizer_config.json", "special_tokens_map.json"
AGREE = f"make its files agree (of a hub model, {IN_COPY})"
IMAGE_TOKEN = "<image_soft_token>"
"""Beyond the embedding of Gemma 3's models of text alone; no text is read as this token."""
SPARE = ("pad", "reserved", "unused", "unk")  # parts of names; such a token is better than another


def set_tokens(
    folder: Path, config: dict[str, Any], pad_token: str | None, path: str
) -> tuple[int | None, int, int]:
    """Bos, eos and pad ids, written to both configs of `folder` and to its tokenizer files.

    Bos is None where the tokenizer has none (Qwen), and may be eos (SmolLM2). The pad token is the tokenizer's own, else
    `pad_token`; it must be in the vocabulary and no end token. generation_config.json lists all end tokens
    (cartlm.task.prompt.END_TOKENS), eos first. `path` is how errors name the model. Raises UserError naming what
    disagrees, or what to set.
    """
    check_ids(folder, path)
    tokenizer = load_tokenizer(folder, HINT)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if eos is None:
        raise UserError(
            f"the tokenizer of {path} has no eos token, which ends every row",
            "set base.path to a model with one, or eos_token in its tokenizer_config.json",
        )
    vocabulary = tokenizer.get_vocab()
    vocabulary.pop(IMAGE_TOKEN, None)
    last = max(vocabulary.values())
    if last >= config["vocab_size"]:
        raise UserError(
            f"the tokenizer of {path} has ids up to {last}, config.json a vocab_size of {config['vocab_size']}",
            HINT,
        )
    files = {name: _read(folder / name) for name in (TOKENIZER_CONFIG, TOKEN_MAP, "generation_config.json")}
    listed = check_agreement(tokenizer, {**files, "config.json": config}, path)
    ends = end_ids(eos, tokenizer.backend_tokenizer.token_to_id)
    pad_token, pad = _choose_pad(tokenizer, listed | ends, pad_token, config["vocab_size"], path)
    _write_tokens(folder, config, bos, [eos, *sorted(ends - {eos})], pad, pad_token)
    again = load_tokenizer(folder, HINT)
    if (again.bos_token_id, again.eos_token_id, again.pad_token_id) != (bos, eos, pad):
        raise UserError(f"the tokenizer of {path} does not keep its pad token {pad_token!r}", HINT)
    return bos, eos, pad


def check_ids(folder: Path, path: str) -> None:
    """One id for a token and one token for an id in all files that list added tokens. Raises UserError."""
    main, config, more = (
        _read(folder / name) for name in ("tokenizer.json", TOKENIZER_CONFIG, "added_tokens.json")
    )
    decoder = config.get("added_tokens_decoder") or {}
    try:
        added = [
            *[("tokenizer.json", entry["content"], entry["id"]) for entry in main.get("added_tokens") or []],
            *[(TOKENIZER_CONFIG, entry["content"], int(number)) for number, entry in decoder.items()],
            *[("added_tokens.json", token, number) for token, number in more.items()],
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"the added tokens of {folder} are not {{token, id}}", HINT) from None
    seen: dict[str | int, tuple[str | int, str]] = {}
    for file, token, number in added:
        for one, other in ((token, number), (number, token)):
            first, where = seen.setdefault(one, (other, file))
            if other != first:
                raise UserError(f"{path}: {one!r} is {first!r} in {where} and {other!r} in {file}", AGREE)


def check_agreement(tokenizer: Any, files: Mapping[str, dict[str, Any]], path: str) -> set[int]:
    """The ids of all end tokens, after comparing each file's bos, eos and pad with the tokenizer's. Raises UserError.

    Several end tokens are several ways to end, as in Llama 3's generation_config.json: the tokenizer's must be one. A bos
    that only the configs name (Qwen) is what transformers starts from without a prompt; it is dropped.
    """
    listed = [_ids(tokenizer, file, "eos_token_id", path, name) for name, file in files.items()]
    ends: set[int] = {tokenizer.eos_token_id}.union(*listed)
    for kind in ("bos", "eos", "pad"):
        own = getattr(tokenizer, f"{kind}_token_id")
        if (kind == "bos" and own is None) or (kind == "pad" and (own is None or own in ends)):
            continue  # prompt.pad_token takes the pad's place
        for name, file in files.items():
            for key in (f"{kind}_token", f"{kind}_token_id"):
                ids = _ids(tokenizer, file, key, path, name)
                one_of_several = kind == "eos" and any({own, *ids} <= set(several) for several in listed)
                if ids and ids != [own] and not one_of_several:
                    token = getattr(tokenizer, f"{kind}_token")
                    what = (
                        f"{kind}_token is {token!r} ({own}) to the tokenizer, {key} {file[key]!r} in {name}"
                    )
                    raise UserError(f"{path}: {what}", AGREE)
    return ends


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, HINT) if path.exists() else {}


def _ids(tokenizer: Any, file: Mapping[str, Any], key: str, path: str, name: str) -> list[int]:
    """Token ids of an entry: a token as text or {"content": text}; or null, an id (below 0: none) or several. Raises UserError."""
    value = file.get(key)
    if not key.endswith("_id"):
        token = value.get("content") if isinstance(value, dict) else value
        return [tokenizer.convert_tokens_to_ids(token)] if isinstance(token, str) else []
    ids = value if isinstance(value, list) else [value]
    if not all(one is None or type(one) is int for one in ids):
        raise UserError(f"{path}: {name} has {key} {value!r}, no id", HINT)
    return [one for one in ids if one is not None and one >= 0]


def _choose_pad(
    tokenizer: Any, ends: set[int], pad_token: str | None, vocabulary: int, path: str
) -> tuple[str, int]:
    """The pad token and its id. Raises UserError naming what to set."""
    token = tokenizer.pad_token
    if token is None or tokenizer.pad_token_id in ends:
        if pad_token is None:
            problem = "has no pad token" if token is None else f"pads with its end token {token}"
            spare = _spare(tokenizer, ends, vocabulary)
            which = f" ({spare} of this model)" if spare else ""
            raise UserError(
                f"the tokenizer of {path} {problem}",
                f"set prompt.pad_token in params.yaml to a special token that no row needs{which}",
            )
        token = pad_token
    pad = tokenizer.get_vocab().get(token)
    if pad is None or pad in ends or pad == tokenizer.bos_token_id or pad >= vocabulary:
        what = "the end token" if pad in ends else "the bos token"
        if pad is None or pad >= vocabulary:
            what = "not in the vocabulary"
        raise UserError(
            f"prompt.pad_token={token!r} is {what} of {path}",
            "set prompt.pad_token in params.yaml to another special token",
        )
    return token, int(pad)


def _spare(tokenizer: Any, ends: set[int], vocabulary: int) -> str:
    """Up to three special tokens that could pad, as text; those that are named so come first."""
    taken = {*ends, tokenizer.bos_token_id}
    names = [
        str(token.content) for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and number not in taken and number < vocabulary
    ]  # fmt: skip
    names.sort(key=lambda name: next((at for at, part in enumerate(SPARE) if part in name), len(SPARE)))
    return " or ".join(f'"{name}"' for name in names[:3])


def _write_tokens(
    folder: Path, config: dict[str, Any], bos: int | None, ends: list[int], pad: int, pad_token: str
) -> None:
    """Minimal edits: all else in the tokenizer's files stays as published, as the GGUF converter expects it."""
    ids = {"bos_token_id": bos, "eos_token_id": ends[0], "pad_token_id": pad}
    dropped = {"_name_or_path", *generation_keys()} - ids.keys()
    kept = {key: value for key, value in config.items() if key not in dropped}
    write_json(folder / "config.json", {**kept, **ids})
    every = ids | {"eos_token_id": ends if len(ends) > 1 else ends[0]}
    written = {key: value for key, value in every.items() if value is not None}
    write_json(folder / "generation_config.json", {**written, "do_sample": False})
    for path in (folder / TOKENIZER_CONFIG, folder / TOKEN_MAP):
        if path.exists() or path.name == TOKENIZER_CONFIG:
            write_json(path, {**_read(path), "pad_token": pad_token})
