"""The special tokens of a base model: whether its files agree on them, and one bos, eos and pad for all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import HINT, load_tokenizer, read_json, write_json
from cartlm.errors import UserError
from cartlm.training.llama_config import generation_keys

TOKENIZER_CONFIG, TOKEN_MAP = "tokenizer_config.json", "special_tokens_map.json"
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
    for name, token_id in (("bos", bos), ("eos", eos)):
        if token_id is None:
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
    generation = folder / "generation_config.json"
    configs = {
        "config.json": config, generation.name: read_json(generation) if generation.exists() else {}
    }  # fmt: skip
    ends = check_agreement(folder, tokenizer, configs, path)
    pad_token, pad = _choose_pad(tokenizer, ends, pad_token, path)
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    _write_tokens(folder, config, ids, pad_token)
    again = load_tokenizer(folder)
    if (again.bos_token_id, again.eos_token_id, again.pad_token_id) != (bos, eos, pad):
        raise UserError(f"the tokenizer of {path} does not keep its pad token {pad_token!r}", HINT)
    return bos, eos, pad


def check_ids(folder: Path, path: str) -> None:
    """One id for a token and one token for an id in all files that list added tokens. Raises UserError."""
    ids: dict[str, tuple[int, str]] = {}
    tokens: dict[int, tuple[str, str]] = {}
    main, config, more = (
        read_json(folder / name) if (folder / name).exists() else {}
        for name in ("tokenizer.json", TOKENIZER_CONFIG, "added_tokens.json")
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
    for file, token, number in added:
        other, where = ids.setdefault(token, (number, file))
        if other != number:
            raise UserError(f"{path}: {token!r} is {other} in {where} and {number} in {file}", AGREE)
        name, where = tokens.setdefault(number, (token, file))
        if name != token:
            raise UserError(f"{path}: {number} is {name!r} in {where} and {token!r} in {file}", AGREE)


def check_agreement(folder: Path, tokenizer: Any, configs: dict[str, dict[str, Any]], path: str) -> set[int]:
    """The ids of all end tokens, after comparing each file's bos, eos and pad. Raises UserError.

    Several end tokens are several ways to end, as in Llama 3's generation_config.json: the tokenizer's must be one.
    """
    files = {
        name: read_json(folder / name) for name in (TOKENIZER_CONFIG, TOKEN_MAP) if (folder / name).exists()
    }
    end_lists = [
        _ids(config.get("eos_token_id"), f"{path}: {name} has eos_token_id")
        for name, config in configs.items()
    ]
    ends: set[int] = {tokenizer.eos_token_id}.union(*end_lists)
    for kind in ("bos", "eos", "pad"):
        named = {name: token for name in files if (token := _content(files[name].get(f"{kind}_token")))}
        if len(set(named.values())) > 1:
            each = " and ".join(f"{token!r} in {name}" for name, token in named.items())
            raise UserError(f"{path}: {kind}_token is {each}", AGREE)
        own_id, own = getattr(tokenizer, f"{kind}_token_id"), getattr(tokenizer, f"{kind}_token")
        if kind == "pad" and (own_id is None or own_id in ends):
            continue  # prompt.pad_token takes its place
        where = next(iter(named), "the tokenizer")
        for name, config in configs.items():
            value = config.get(f"{kind}_token_id")
            ids = _ids(value, f"{path}: {name} has {kind}_token_id")
            one_of_several = kind == "eos" and any({own_id, *ids} <= set(listed) for listed in end_lists)
            if ids and ids != [own_id] and not one_of_several:
                raise UserError(
                    f"{path}: {kind}_token is {own!r} ({own_id}) in {where}, {kind}_token_id {value} in {name}",
                    AGREE,
                )
    return ends


def _content(token: Any) -> str | None:
    """A special token as a text or as {"content": text}."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _ids(value: Any, what: str) -> list[int]:
    """Token ids of a config's entry: null, below 0 (none), one id or several. Raises UserError."""
    ids = value if isinstance(value, list) else [value]
    if not all(one is None or type(one) is int for one in ids):
        raise UserError(f"{what} {value!r}, no id", HINT)
    return [one for one in ids if one is not None and one >= 0]


def _choose_pad(tokenizer: Any, ends: set[int], pad_token: str | None, path: str) -> tuple[str, int]:
    """The pad token and its id. Raises UserError naming what to set."""
    token = tokenizer.pad_token
    if token is None or tokenizer.pad_token_id in ends:
        if pad_token is None:
            problem = "has no pad token" if token is None else f"pads with its end token {token}"
            raise UserError(
                f"the tokenizer of {path} {problem}",
                'set prompt.pad_token in params.yaml to a spare special token (Llama 3: "<|finetune_right_pad_id|>")',
            )
        token = pad_token
    pad = tokenizer.get_vocab().get(token)
    if pad is None:
        raise UserError(
            f"prompt.pad_token={token!r} is not in the vocabulary of {path}",
            "set prompt.pad_token in params.yaml to a special token it has",
        )
    if pad in ends or pad == tokenizer.bos_token_id:
        raise UserError(
            f"prompt.pad_token={token!r} is the {'end' if pad in ends else 'bos'} token of {path}",
            "set prompt.pad_token in params.yaml to another special token",
        )
    return token, int(pad)


def _write_tokens(folder: Path, config: dict[str, Any], ids: dict[str, int], pad_token: str) -> None:
    """Minimal edits: all else in the tokenizer's files stays as published, as the GGUF converter expects it."""
    dropped = {"_name_or_path", *generation_keys()} - ids.keys()
    kept = {key: value for key, value in config.items() if key not in dropped}
    write_json(folder / "config.json", {**kept, **ids})
    write_json(folder / "generation_config.json", {**ids, "do_sample": False})
    for path in (folder / TOKENIZER_CONFIG, folder / TOKEN_MAP):
        if path.exists() or path.name == TOKENIZER_CONFIG:
            write_json(path, {**(read_json(path) if path.exists() else {}), "pad_token": pad_token})
