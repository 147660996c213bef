"""The tokenizer of a GGUF file in hub layout, so that transformers and llama.cpp's converter read it as llama.cpp does.

A GGUF file holds tokens, merges or scores, and the name of the pre-tokenizer. transformers' own reader drops some of
that (SmolLM2's split into single digits, Llama 3's whole words), so the tokenizer is put together here, and then asked
beside llama.cpp's own (`check_ids`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import load_tokenizer, read_json, write_json
from cartlm.errors import UserError
from cartlm.quantization.tokenizer_check import LINES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens, the same numbers in GGUF and in SentencePiece."""
SPACE = "\u2581"
KINDS = ("bos", "eos", "unk", "pad")
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
PRE_TOKENIZERS: dict[str, tuple[str, bool, bool]] = {
    "gpt-2": ("", False, False),
    "smollm": ("", True, False),
    "qwen2": (QWEN2, False, False),
    "llama-bpe": (LLAMA3, False, True),
}
"""Name -> pattern (empty: GPT-2's own), digits one by one, whole words first: as in llama.cpp's llama-vocab.cpp."""
ODD = (
    "", " ", "  a   b    c ", "\n\n\t x\r\n\r\n y \u00a0\u2009z", "a\u200db \u200b\ufeff c", "1234567890 12.5x3 ½ Ⅷ ٣٤ 3²",
    "I'LL don't WE'VE l'été 'tis", "e\u0301a\u030c n\u0303 ﬁ ǆ İ ẞ", "<s> </s> <pad> <|im_end|> [INST] <0x0A>",
    "👩‍🍳🏽🇭🇷 😀😀 ☕️ ™ € №", "東京タワー 한국어 ไทย नमस्ते שלום مرحبا Привет Ωμέγα", "....----____####====  ////\\\\", SPACE * 3 + " x",
)  # fmt: skip
SIGNS = "abcxyzčćžšđñáéíóúü¿¡ÄÖß  \n\t0123456789.,;:!?'\"()-–—/×€½😀☕️日本語かな한글йцуконα"
TEXTS = 3000


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer. `ids`: of bos, eos, unk and pad, where it has them."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    ids: dict[str, int]
    space_prefix: bool
    adds_bos: bool

    def added(self) -> list[tuple[int, str, bool]]:
        """(id, text, special) of the tokens that are matched whole before any splitting."""
        kinds = (CONTROL, USER_DEFINED)
        return [
            (number, token, kind == CONTROL)
            for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in kinds
        ]


def read(values: dict[str, Any], path: Path) -> Vocabulary:
    """The vocabulary in the metadata of the GGUF file at `path`. Raises KeyError for one that lacks a part.

    llama.cpp takes some tokens for special ones by their names, whatever the file says: it is asked.
    """
    from cartlm.engines import llama_cpp

    key = "tokenizer.ggml."
    names = dict(zip(KINDS, ("bos", "eos", "unknown", "padding"), strict=True))
    tokens = values[f"{key}tokens"]
    types = list(values.get(f"{key}token_type", [NORMAL] * len(tokens)))
    model = values[f"{key}model"]
    with llama_cpp.load_vocabulary(path) as vocabulary:
        types = [CONTROL if vocabulary.is_control(number) else kind for number, kind in enumerate(types)]
    return Vocabulary(
        model, values.get(f"{key}pre", "default"), tokens, types, values.get(f"{key}scores", []),
        values.get(f"{key}merges", []),
        {kind: values[f"{key}{name}_token_id"] for kind, name in names.items() if f"{key}{name}_token_id" in values},
        model == "llama" and values.get(f"{key}add_space_prefix", True),
        values.get(f"{key}add_bos_token", values.get(f"{key}pre") == "llama-bpe"),
    )  # fmt: skip


def write(vocabulary: Vocabulary, folder: Path, path: str) -> None:
    """Write tokenizer.json, tokenizer_config.json and, of a SentencePiece vocabulary, tokenizer.model.

    `path` is how errors name the file. Raises UserError for a tokenizer that is not rebuilt here.
    """
    from transformers import PreTrainedTokenizerFast

    if len(set(vocabulary.tokens)) != len(vocabulary.tokens):
        raise UserError(f"{path} lists a token twice", _OTHER)
    if vocabulary.model == "llama" and len(vocabulary.scores) == len(vocabulary.tokens):
        tokenizer = _sentencepiece(vocabulary, folder / "tokenizer.model")
    elif vocabulary.model == "gpt2" and vocabulary.pre in PRE_TOKENIZERS:
        tokenizer = _byte_level(vocabulary)
    else:
        known = ", ".join(("llama (SentencePiece)", *(f"gpt2 {name}" for name in PRE_TOKENIZERS)))
        what = f"{path} has the tokenizer {vocabulary.model} {vocabulary.pre}; rebuilt here are {known}"
        raise UserError(what, _OTHER)
    _add_tokens(tokenizer, vocabulary)
    names = {f"{kind}_token": vocabulary.tokens[number] for kind, number in vocabulary.ids.items()}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, add_prefix_space=vocabulary.space_prefix, **names
    ).save_pretrained(folder)  # fmt: skip
    if vocabulary.model == "llama":  # where the converter looks for tokens that are matched whole
        decoder = {
            str(number): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                          "single_word": False, "special": special}
            for number, text, special in vocabulary.added()
        }  # fmt: skip
        place = folder / "tokenizer_config.json"
        write_json(place, {**read_json(place), "added_tokens_decoder": decoder})


_OTHER = "take the model from the hub (base.source: hub), or another file of it"


def _byte_level(vocabulary: Vocabulary) -> Any:
    """A byte-level BPE with the pre-tokenizer that the file names."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    pattern, digits, whole_words = PRE_TOKENIZERS[vocabulary.pre]
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    pairs = (merge.partition(" ") for merge in vocabulary.merges)
    merges = [(first, second) for first, _, second in pairs]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=whole_words))
    first: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    first += [pre_tokenizers.Split(Regex(pattern), behavior="isolated")] if pattern else []
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level]) if first else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    if vocabulary.adds_bos and "bos" in vocabulary.ids:  # the converter knows a tokenizer by the ids with it
        bos = vocabulary.tokens[vocabulary.ids["bos"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, vocabulary.ids["bos"])]
        )
    return tokenizer


def _sentencepiece(vocabulary: Vocabulary, model: Path) -> Any:
    """A SentencePiece BPE: written as a protobuf to `model`, which the converter reads, and as a tokenizer."""
    import sentencepiece.sentencepiece_model_pb2
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers.tokenization_utils_base import generate_merges

    protobuf: Any = sentencepiece.sentencepiece_model_pb2  # its classes are made at run time
    proto = protobuf.ModelProto()
    for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True):
        text = token.replace(" ", SPACE) if kind == USER_DEFINED else token
        proto.pieces.add(piece=text, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.vocab_size = protobuf.TrainerSpec.BPE, len(vocabulary.tokens)
    trainer.byte_fallback = BYTE in vocabulary.types
    for name in KINDS:
        setattr(trainer, f"{name}_id", vocabulary.ids.get(name, -1))
    normalizer.name, normalizer.add_dummy_prefix = "identity", vocabulary.space_prefix
    normalizer.remove_extra_whitespaces = False
    model.write_bytes(proto.SerializeToString())

    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    merges = generate_merges(ids, dict(zip(vocabulary.tokens, vocabulary.scores, strict=True)))
    unknown = vocabulary.tokens[vocabulary.ids["unk"]] if "unk" in vocabulary.ids else None
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback
        )
    )
    spaces: list[Any] = [normalizers.Prepend(SPACE)] if vocabulary.space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", SPACE)])
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    back += [decoders.Strip(" ", 1, 0)] if vocabulary.space_prefix else []
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def _add_tokens(tokenizer: Any, vocabulary: Vocabulary) -> None:
    from tokenizers import AddedToken

    for _, text, special in vocabulary.added():
        token = AddedToken(text, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])


def check_ids(folder: Path, source: Path, path: str, more: Sequence[str] = ()) -> int:
    """How many texts the folder's tokenizer and llama.cpp's, of the GGUF file itself, read alike.

    They are `more`, lines of the three languages, odd Unicode, and chains of the vocabulary's own tokens and of signs.
    Raises UserError naming the first text that they read otherwise.
    """
    from cartlm.engines import llama_cpp

    tokenizer = load_tokenizer(folder)
    texts = [*LINES.values(), *ODD, *_chains(tokenizer), *more]
    ours = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    with llama_cpp.load_vocabulary(source) as vocabulary:
        for text, ids in zip(texts, ours, strict=True):
            if (theirs := vocabulary.tokenize(text)) != ids:
                raise UserError(
                    f"the tokenizer rebuilt from {path} reads {text[:40]!r} as {ids[:8]}, llama.cpp as {theirs[:8]}",
                    _OTHER,
                )
    return len(texts)


def _chains(tokenizer: Any) -> list[str]:
    """Seeded texts: chains of whole tokens, and of letters, digits and signs."""
    source = random.Random(7)
    special = set(tokenizer.all_special_ids)
    found: list[str] = []
    while len(found) < TEXTS:
        if len(found) % 2:
            found.append("".join(source.choices(SIGNS, k=source.randint(1, 60))))
            continue
        numbers = [source.randrange(len(tokenizer)) for _ in range(source.randint(2, 24))]
        pieces = [tokenizer.decode([number]) for number in numbers if number not in special]
        found.append("".join(piece for piece in pieces if "\ufffd" not in piece))
    return found
