"""Base models with one thing wrong each, and the words that the refusal must have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Damage = Callable[[Path], Any]
INDEX = "model.safetensors.index.json"


def edit(name: str, **changes: Any) -> Damage:
    """Set keys of a JSON file of the folder; ... removes one."""

    def change(folder: Path) -> None:
        path = folder / name
        value = {**(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}), **changes}
        value = {key: one for key, one in value.items() if one is not ...}
        path.write_text(json.dumps(value), encoding="utf-8")

    return change


def config(**changes: Any) -> Damage:
    return edit("config.json", **changes)


def weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Damage:
    """Change the tensors of model.safetensors."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def split(folder: Path) -> dict[str, str]:
    """model.safetensors as two shards and an index; returns the index's map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index(placed)(folder)
    return placed


def index(placed: Any) -> Damage:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": placed}))


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def sharded(change: Callable[[Path, dict[str, str]], Any]) -> Damage:
    return lambda folder: change(folder, split(folder))


def rename(before: str, after: str) -> Damage:
    return lambda folder: (folder / before).rename(folder / after)


def in_two_shards(folder: Path, placed: dict[str, str]) -> None:
    first, last = sorted(set(placed.values()))
    tensors = load_file(folder / last)
    tensors["model.embed_tokens.weight"] = load_file(folder / first)["model.embed_tokens.weight"]
    save_file(tensors, folder / last)


def shard_as_whole(folder: Path, placed: dict[str, str]) -> None:
    (folder / INDEX).unlink()
    first, last = sorted(set(placed.values()))
    (folder / first).rename(folder / "model.safetensors")
    (folder / last).unlink()


FILES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "shards without an index": (sharded(lambda folder, _: (folder / INDEX).unlink()), ("model-00001-of-00002", INDEX)),
    "shards without an index beside a whole file": (
        lambda folder: (
            shutil.copy(folder / "model.safetensors", folder / "kept"), split(folder), (folder / INDEX).unlink(),
            (folder / "kept").rename(folder / "model.safetensors"),
        ),
        ("model-00001-of-00002", INDEX),
    ),
    "a missing shard": (
        sharded(lambda folder, _: (folder / "model-00002-of-00002.safetensors").unlink()),
        ("model-00002-of-00002.safetensors is missing",),
    ),
    "a tensor in two shards": (sharded(in_two_shards), ("model.embed_tokens.weight", "00001", "00002")),
    "an index that places a tensor wrongly": (
        sharded(lambda f, placed: index({**placed, "model.norm.weight": "model-00001-of-00002.safetensors"})(f)),
        ("model.norm.weight", "00001", "00002"),
    ),
    "an index that names a tensor that is nowhere": (
        sharded(lambda f, placed: index({**placed, "model.more.weight": "model-00001-of-00002.safetensors"})(f)),
        ("model.more.weight", INDEX),
    ),
    "an index that leaves a tensor out": (
        sharded(lambda f, placed: index({k: v for k, v in placed.items() if k != "model.norm.weight"})(f)),
        ("model.norm.weight", INDEX),
    ),
    "an index to outside": (
        both(lambda f: shutil.copy(f / "model.safetensors", f.parent / "out.safetensors"),
             sharded(lambda f, placed: index({**placed, "model.norm.weight": "../out.safetensors"})(f))),
        ("../out.safetensors", INDEX),
    ),
    "an absolute path in the index": (
        sharded(lambda f, placed: index({**placed, "model.norm.weight": "/etc/x.safetensors"})(f)), ("/etc/x",)
    ),
    "a pickle in the index": (
        sharded(lambda f, placed: index({**placed, "model.norm.weight": "pytorch_model.bin"})(f)), ("pytorch_model.bin",)
    ),
    "an empty index": (sharded(lambda f, _: index({})(f)), ("weight_map",)),
    "an index that is a list": (sharded(lambda f, _: index([1])(f)), ("weight_map",)),
    "the whole file's name for one shard": (
        sharded(lambda f, placed: (
            (f / "model-00001-of-00002.safetensors").rename(f / "model.safetensors"),
            index({k: v.replace("model-00001-of-00002", "model") for k, v in placed.items()})(f),
        )),
        ("model.safetensors", "one of several"),
    ),
    "a shard under the whole file's name": (sharded(shard_as_whole), ("lacks", "weights such as")),
    "an adapter beside the model": (edit("adapter_config.json", r=8), ("adapter_config.json",)),
    "only a variant": (rename("model.safetensors", "model.fp16.safetensors"), ("only model.fp16.safetensors",)),
    "only Mistral's layout": (rename("model.safetensors", "consolidated.safetensors"), ("only consolidated.safetensors",)),
}  # fmt: skip

CONFIG: dict[str, tuple[Damage, tuple[str, ...]]] = {
    name: (config(**changes), tuple(said))
    for name, changes, *said in [
        ("gelu", {"hidden_act": "gelu"}, "hidden_act", "gelu"),
        ("relu2", {"hidden_act": "relu2"}, "hidden_act", "relu2"),
        ("another type", {"model_type": "mistral"}, "model_type", "mistral"),
        ("dynamic", {"rope_parameters": ..., "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: its rope_type is 'dynamic'"),
        ("longrope", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_parameters: its rope_type is 'longrope'"),
        ("yarn betas", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
                                         "beta_fast": 16}}, "rope_parameters: beta_fast = 16"),
        ("yarn attention", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
                                             "attention_factor": 1.5}}, "rope_parameters: attention_factor = 1.5"),
        ("llama3 without a factor", {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters: factor: missing key"),
        ("two scalings", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling and rope_parameters differ"),
        ("two types", {"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 2.0}}, "'default'", "'linear'"),
        ("a list of types", {"rope_parameters": {"rope_type": ["linear"], "rope_theta": 1e4}}, "rope_type is ['linear']"),
        ("two thetas", {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta is 10000.0"),
        ("positions beyond 32 bits", {"max_position_embeddings": 10**12}, "max_position_embeddings = 1000000000000"),
        ("no factor above 0", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "rope_parameters: factor = 0"),
        ("partial rotary", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("partial rotary inside", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "0.5"),
        ("theta", {"rope_theta": "10000"}, "rope_theta = '10000'"),
        ("sliding window", {"sliding_window": 256}, "sliding_window is 256"),
        ("layer types", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types is"),
        ("logit scaling", {"logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ("soft cap", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("attention multiplier", {"attention_multiplier": 0.5}, "attention_multiplier is 0.5"),
        ("embedding multiplier", {"embedding_multiplier": 12}, "embedding_multiplier is 12"),
        ("query norm", {"use_qk_norm": True}, "use_qk_norm is True"),
        ("experts", {"num_local_experts": 4}, "num_local_experts is 4"),
        ("not causal", {"is_causal": False}, "is_causal is False"),
        ("other weights", {"transformers_weights": "other.safetensors"}, "transformers_weights is 'other.safetensors'"),
        ("the converter's own name", {"n_layers": 1}, "n_layers is 1"),
        ("parts", {"text_config": {"hidden_size": 64}}, "text_config is"),
        ("chunks", {"chunk_size_feed_forward": 4}, "chunk_size_feed_forward is 4"),
        ("tuples", {"return_dict": False}, "return_dict is False"),
        ("frequencies in the wrong order", {"rope_parameters": {
            "rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 128, "low_freq_factor": 4.0,
            "high_freq_factor": 4.0}}, "rope_parameters: high_freq_factor 4.0"),
        ("heads", {"num_attention_heads": 3, "num_key_value_heads": 3}, "hidden size (64)", "heads (3)"),
        ("fewer heads", {"num_attention_heads": 8, "head_dim": 16}, "o_proj.weight is (64, 64)", "(64, 128)"),
        ("key heads", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("other key heads", {"num_key_value_heads": 4}, "k_proj.weight is (32, 64)", "(64, 64)"),
        ("odd heads", {"head_dim": 15}, "`head_dim`=15"),
        ("inner size", {"intermediate_size": 256}, "down_proj.weight is (64, 128)", "(64, 256)"),
        ("layers", {"num_hidden_layers": 1}, "model.layers.1."),
        ("more layers", {"num_hidden_layers": 3}, "lacks 9 weights", "model.layers.2."),
        ("bias promised", {"attention_bias": True}, "self_attn.q_proj.bias"),
        ("bias as a word", {"mlp_bias": "no"}, "mlp_bias = 'no'"),
        ("vocabulary", {"vocab_size": 16}, "embed_tokens.weight is"),
        ("a dtype of 8 bits", {"torch_dtype": "float8_e4m3fn"}, "torch_dtype = 'float8_e4m3fn'"),
        ("eps", {"rms_norm_eps": 0}, "rms_norm_eps = 0"),
        ("true for a size", {"num_hidden_layers": True}, "num_hidden_layers = True"),
    ]
}  # fmt: skip

NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
WEIGHTS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    name: (weights(change), tuple(said))
    for name, change, *said in [
        ("bias", lambda w: w.update({BIAS: np.ones(64, np.float16)}), BIAS, "attention_bias False"),
        ("another tensor", lambda w: w.update({"model.layers.0.self_attn.q_norm.weight": np.ones(16, np.float16)}), "q_norm"),
        ("a layer too many", lambda w: w.update({"model.layers.2.mlp.up_proj.weight": np.ones((128, 64), np.float16)}), "layers.2"),
        ("not a number", lambda w: w[NORM].__setitem__(3, np.nan), NORM, "nan"),
        ("infinite", lambda w: w[NORM].__setitem__(3, np.inf), NORM, "inf"),
        ("too large for float16", lambda w: w.update({NORM: w[NORM].astype(np.float32) + 1e5}), NORM, "merge.dtype=float16"),
        ("another head", lambda w: w.update({HEAD: w[EMBEDDING] * 2}), "tie_word_embeddings", HEAD),
        ("in eights", lambda w: w.update({NORM: w[NORM].astype(np.int8)}), f"{NORM} is (64,) in I8"),
    ]
}  # fmt: skip


def prefixed(folder: Path) -> None:
    """As published by many: without it, the GGUF puts a space in front of every text."""
    edit("tokenizer_config.json", add_prefix_space=..., tokenizer_class="PreTrainedTokenizerFast")(folder)


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change tokenizer.json."""

    def rewrite(folder: Path) -> None:
        path = folder / "tokenizer.json"
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return rewrite


def ends_in(token: str, number: int) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        part = {"SpecialToken": {"id": token, "type_id": 0}}
        value["post_processor"]["single"].append(part)
        value["post_processor"]["special_tokens"] = {token: {"id": token, "ids": [number], "tokens": [token]}}

    return change


def swap(value: dict[str, Any]) -> None:
    """Two pieces of the vocabulary change places, as in a tokenizer.json of another model."""
    vocabulary = value["model"]["vocab"]
    vocabulary["a"], vocabulary["o"] = vocabulary["o"], vocabulary["a"]


EOS_DICT = {
    "__type": "AddedToken",
    "content": "<pad>",
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
}
TOKENS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "bos is eos to the tokenizer alone": (
        edit("tokenizer_config.json", bos_token="</s>"), ("bos_token is '</s>' (2) to the tokenizer", "bos_token_id 1 in"),
    ),
    "no eos": (
        both(edit("tokenizer_config.json", eos_token=None, tokenizer_class="PreTrainedTokenizerFast"),
             lambda f: (f / "tokenizer.model").unlink()),
        ("has no eos token",),
    ),
    "eos of the map": (
        edit("special_tokens_map.json", eos_token="<pad>"),
        ("eos_token is '<pad>' (3) to the tokenizer", "'</s>' in tokenizer_config.json"),
    ),
    "eos of the map as an object": (
        edit("special_tokens_map.json", eos_token=EOS_DICT),
        ("eos_token is '<pad>' (3) to the tokenizer", "'</s>' in tokenizer_config.json"),
    ),
    "bos of the map": (edit("special_tokens_map.json", bos_token="<unk>"), ("bos_token", "'<s>'", "'<unk>'")),
    "pad of the map": (edit("special_tokens_map.json", pad_token="<unk>"), ("pad_token", "'<pad>'", "'<unk>'")),
    "eos of the config": (config(eos_token_id=7), ("'</s>' (2) to the tokenizer", "eos_token_id 7 in config.json")),
    "eos of the generation config": (
        edit("generation_config.json", eos_token_id=7),
        ("'</s>' (2) to the tokenizer", "eos_token_id 7 in generation_config.json"),
    ),
    "several ends without the tokenizer's": (
        edit("generation_config.json", eos_token_id=[7, 8]), ("(2)", "eos_token_id [7, 8] in generation_config.json"),
    ),
    "bos of the config": (config(bos_token_id=0), ("'<s>' (1)", "bos_token_id 0 in config.json")),
    "bos of the generation config": (edit("generation_config.json", bos_token_id=0), ("(1)", "generation_config.json")),
    "pad of the config": (config(pad_token_id=0), ("'<pad>' (3)", "pad_token_id 0 in config.json")),
    "an id that is a word": (config(eos_token_id="</s>"), ("eos_token_id", "</s>", "config.json")),
    "another id for eos": (
        edit("tokenizer_config.json", added_tokens_decoder={"9": EOS_DICT | {"content": "</s>"}}),
        ("'</s>'", "2 in tokenizer.json", "9 in tokenizer_config.json"),
    ),
    "another token for an id": (
        edit("tokenizer_config.json", added_tokens_decoder={"2": EOS_DICT | {"content": "<end>"}}),
        ("2 is '</s>' in tokenizer.json", "'<end>' in tokenizer_config.json"),
    ),
    "another id among the added": (
        edit("added_tokens.json", **{"</s>": 5}), ("'</s>'", "2 in tokenizer.json", "5 in added_tokens.json")
    ),
    "tokens beyond the embedding": (
        tokenizer(lambda v: v["added_tokens"].append({**v["added_tokens"][0], "id": 9000, "content": "<more>"})),
        ("ids up to", "vocab_size of 420"),
    ),
    "another vocabulary": (tokenizer(swap), ("tokenizer.model", "tokenizer.json")),
    "no SentencePiece": (lambda f: (f / "tokenizer.model").write_bytes(b"{}"), ("tokenizer.model",)),
    "lower case": (
        both(tokenizer(lambda v: v.update(normalizer={"type": "Lowercase"})), edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")),
        ("gives", "catalog:", "back for", "Catalog:"),
    ),
}  # fmt: skip
GGUF: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "a space in front of every text in the GGUF": (prefixed, ("row probe-english", "GGUF")),
    "a text that ends in another token": (tokenizer(ends_in("<pad>", 3)), ("bos, eos 1, 2", "GGUF 1, 3")),
    "BPE that llama.cpp does not know": (lambda f: byte_level(f), ("BPE pre-tokenizer was not recognized", "base.path")),
}  # fmt: skip


def byte_level(folder: Path) -> None:
    """A byte-level BPE of 420 tokens that no one has published."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    specials = [
        AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>", "<pad>")
    ]
    made.train_from_iterator(
        ["Catalog: User: add remove quantity product"] * 9,
        trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer.model").unlink()
    edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", extra_special_tokens=...)(folder)


CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("files", FILES), ("config", CONFIG), ("weights", WEIGHTS), ("tokens", TOKENS))
    for name, case in cases.items()
}
