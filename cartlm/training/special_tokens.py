"""The special tokens of a base model: what its files say of them, and whether they agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import HINT, load_tokenizer, read_json
from cartlm.errors import UserError
from cartlm.training.llama_config import generation_keys

KINDS = ("bos", "eos", "pad")
TEXTS, IDS = ("tokenizer_config.json", "special_tokens_map.json"), ("config.json", "generation_config.json")
AGREE = "make its files agree (of a hub model, in a local copy that base.path names)"


def set_tokens(
    folder: Path, config: dict[str, Any], pad_token: str | None, path: str
) -> tuple[int, int, int]:
    """Bos, eos and pad ids, written to both configs of `folder` and to its tokenizer files.

    The pad token is the tokenizer's own, else `pad_token`; it must be in the vocabulary and no end token.
    `path` is how errors name the model. Raises UserError naming what disagrees, or what to set.
    """
    check_ids(folder, path)
    tokenizer = load_tokenizer(folder)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for name, given in (("bos", bos), ("eos", eos)):
        if given is None:
            raise UserError(
                f"the tokenizer of {path} has no {name} token, which every row needs",
                f"set base.path to a model with one, or {name}_token in its tokenizer_config.json",
            )
    if bos == eos:
        raise UserError(
            f"bos and eos of {path} are one token, {tokenizer.eos_token!r}: a row's end would look like its start",
            "set base.path to a Llama model with two",
        )
    if (last := max(tokenizer.get_vocab().values())) >= config["vocab_size"]:
        raise UserError(
            f"the tokenizer of {path} has ids up to {last}, config.json a vocab_size of {config['vocab_size']}",
            HINT,
        )
    generation = read_json(folder / IDS[1]) if (folder / IDS[1]).exists() else {}
    ends = check_agreement(
        folder, tokenizer, {"config.json": config, "generation_config.json": generation}, path
    )
    chosen, pad = _pad(tokenizer, ends, pad_token, path)
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    _write_tokens(folder, config, ids, chosen)
    again = load_tokenizer(folder)
    if (again.bos_token_id, again.eos_token_id, again.pad_token_id) != (bos, eos, pad):
        raise UserError(f"the tokenizer of {path} does not keep its pad token {chosen!r}", HINT)
    return bos, eos, pad


def check_ids(folder: Path, path: str) -> None:
    """One id for a token and one token for an id in all files that list added tokens. Raises UserError."""
    ids: dict[str, tuple[int, str]] = {}
    contents: dict[int, tuple[str, str]] = {}
    for file, token, number in _added(folder):
        other, where = ids.setdefault(token, (number, file))
        if other != number:
            raise UserError(f"{path}: {token!r} is {other} in {where} and {number} in {file}", AGREE)
        name, where = contents.setdefault(number, (token, file))
        if name != token:
            raise UserError(f"{path}: {number} is {name!r} in {where} and {token!r} in {file}", AGREE)


def _added(folder: Path) -> Iterator[tuple[str, str, int]]:
    """(file, token, id) of all added tokens, and of the same tokens in the vocabulary of tokenizer.json."""
    found = []
    try:
        if (folder / "tokenizer.json").exists():
            given = read_json(folder / "tokenizer.json")
            found += [
                ("tokenizer.json", one["content"], one["id"]) for one in given.get("added_tokens") or []
            ]
        if (folder / TEXTS[0]).exists():
            decoder = read_json(folder / TEXTS[0]).get("added_tokens_decoder") or {}
            found += [(TEXTS[0], one["content"], int(number)) for number, one in decoder.items()]
        if (folder / "added_tokens.json").exists():
            found += [("added_tokens.json", *one) for one in read_json(folder / "added_tokens.json").items()]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"the added tokens of {folder} are not {{token, id}}", HINT) from None
    yield from found


def check_agreement(folder: Path, tokenizer: Any, configs: dict[str, dict[str, Any]], path: str) -> set[int]:
    """The ids of all end tokens, after comparing what each file says of bos, eos and pad. Raises UserError.

    Several end tokens are several ways to end, as in Llama 3's generation_config.json: the tokenizer's must be one.
    """
    read = {name: read_json(folder / name) for name in TEXTS if (folder / name).exists()}
    ends: set[int] = {tokenizer.eos_token_id}
    for name, config in configs.items():
        ends |= set(_ids(config.get("eos_token_id"), f"{path}: {name} has eos_token_id"))
    lists = [
        config["eos_token_id"] for config in configs.values() if isinstance(config.get("eos_token_id"), list)
    ]
    for kind in KINDS:
        texts = {name: text for name in read if (text := _text(read[name].get(f"{kind}_token"))) is not None}
        if len(set(texts.values())) > 1:
            told = " and ".join(f"{text!r} in {name}" for name, text in texts.items())
            raise UserError(f"{path}: {kind}_token is {told}", AGREE)
        own, text = getattr(tokenizer, f"{kind}_token_id"), getattr(tokenizer, f"{kind}_token")
        if kind == "pad" and (own is None or own in ends):
            continue  # prompt.pad_token takes its place
        where = next(iter(texts), "the tokenizer")
        for name, config in configs.items():
            value = config.get(f"{kind}_token_id")
            given = _ids(value, f"{path}: {name} has {kind}_token_id")
            several = kind == "eos" and any({own, *given} <= set(listed) for listed in lists)
            if given and not several and given != [own]:
                raise UserError(
                    f"{path}: {kind}_token is {text!r} ({own}) in {where}, {kind}_token_id {value} in {name}",
                    AGREE,
                )
    return ends


def _text(value: Any) -> str | None:
    """A special token as a text or as {"content": text}."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _ids(value: Any, what: str) -> list[int]:
    """Token ids of a config's entry, which may be null, below 0 (none), one id or several. Raises UserError."""
    given = value if isinstance(value, list) else [value]
    if not all(one is None or (isinstance(one, int) and not isinstance(one, bool)) for one in given):
        raise UserError(f"{what} {value!r}, no id", HINT)
    return [one for one in given if one is not None and one >= 0]


def _pad(tokenizer: Any, ends: set[int], pad_token: str | None, path: str) -> tuple[str, int]:
    """The pad token and its id. Raises UserError naming what to set."""
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
    if pad in ends or pad == tokenizer.bos_token_id:
        raise UserError(
            f"prompt.pad_token={chosen!r} is the {'end' if pad in ends else 'bos'} token of {path}",
            "set prompt.pad_token in params.yaml to another special token",
        )
    return chosen, int(pad)


def _write_tokens(folder: Path, config: dict[str, Any], ids: dict[str, int], pad_token: str) -> None:
    """Minimal edits: all else in the tokenizer's files stays as published, as the GGUF converter expects it."""
    left_out = {"_name_or_path", *generation_keys()} - ids.keys()
    _write(folder / "config.json", {**{k: v for k, v in config.items() if k not in left_out}, **ids})
    _write(folder / "generation_config.json", {**ids, "do_sample": False})
    for name in TEXTS:
        path = folder / name
        if path.exists():
            _write(path, {**read_json(path), "pad_token": pad_token})
        elif name == TEXTS[0]:
            _write(path, {"pad_token": pad_token})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
