"""What a later stage would refuse or drop without a word, the base stage refuses: one line, exit code 2, nothing left."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from stages import base as stage
from tests.fixtures import llama3

ROOT = Path(__file__).resolve().parents[2]
Damage = Callable[[Path], Any]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(toy_model: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(toy_model, tmp_path / "source"))


def run(source: Path, capsys: pytest.CaptureFixture[str], **sections: dict[str, Any]) -> tuple[int, str]:
    """The stage in a folder of its own: exit code and the last line it wrote to stderr."""
    folder = source.parent
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["base"]["path"] = str(source)
    for name, changes in sections.items():
        values[name] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    capsys.readouterr()
    with contextlib.chdir(folder), pytest.raises(SystemExit) as ended:
        stage.main([])
    said = capsys.readouterr().err.strip().splitlines()
    return int(ended.value.code or 0), said[-1] if said else ""


def refused(
    source: Path, capsys: pytest.CaptureFixture[str], said: tuple[str, ...], **sections: dict[str, Any]
) -> None:
    code, line = run(source, capsys, **sections)
    assert code == 2, line
    assert line.startswith("cartlm: error: ")
    assert [word for word in said if word not in line] == [], line
    assert "; " in line, "no hint"
    models = source.parent / "models"
    assert not models.exists() or not list(models.iterdir())


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
        ("gelu", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("relu2", {"hidden_act": "relu2"}, "hidden_act is 'relu2'"),
        ("another type", {"model_type": "mistral"}, "model_type is 'mistral'"),
        ("dynamic", {"rope_parameters": ..., "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type is 'dynamic'"),
        ("longrope", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_parameters.rope_type", "longrope"),
        ("yarn betas", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
                                         "beta_fast": 16}}, "rope_parameters.beta_fast is 16"),
        ("yarn attention", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
                                             "attention_factor": 1.5}}, "rope_parameters.attention_factor is 1.5"),
        ("llama3 without a factor", {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters.factor is None"),
        ("two scalings", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is", "rope_parameters {"),
        ("two types", {"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 2.0}}, "'default'", "'linear'"),
        ("no factor above 0", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "rope_parameters.factor is 0"),
        ("partial rotary", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("partial rotary inside", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "0.5"),
        ("theta", {"rope_theta": "10000"}, "rope_theta is '10000'"),
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
        ("heads", {"num_attention_heads": 3}, "hidden_size 64", "num_attention_heads 3"),
        ("fewer heads", {"num_attention_heads": 8, "head_dim": 16}, "o_proj is (64, 64), config.json says (64, 128)"),
        ("key heads", {"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ("other key heads", {"num_key_value_heads": 4}, "k_proj is (32, 64), config.json says (64, 64)"),
        ("odd heads", {"head_dim": 15}, "head_dim is 15"),
        ("inner size", {"intermediate_size": 256}, "down_proj is (64, 128), config.json says (64, 256)"),
        ("layers", {"num_hidden_layers": 1}, "model.layers.1."),
        ("more layers", {"num_hidden_layers": 3}, "lacks 9 weights", "model.layers.2."),
        ("bias promised", {"attention_bias": True}, "self_attn.q_proj.bias"),
        ("bias as a word", {"mlp_bias": "no"}, "mlp_bias is 'no'"),
        ("vocabulary", {"vocab_size": 16}, "embed_tokens is"),
        ("a dtype of 8 bits", {"torch_dtype": "float8_e4m3fn"}, "torch_dtype is 'float8_e4m3fn'"),
        ("eps", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ("true for a size", {"num_hidden_layers": True}, "num_hidden_layers is True"),
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
        ("in eights", lambda w: w.update({NORM: w[NORM].astype(np.int8)}), f"{NORM} is I8"),
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
    "bos is eos": (edit("tokenizer_config.json", bos_token="</s>"), ("bos and eos", "'</s>'")),
    "no bos": (
        both(edit("tokenizer_config.json", bos_token=None, tokenizer_class="PreTrainedTokenizerFast"),
             lambda f: (f / "tokenizer.model").unlink()),
        ("no bos token",),
    ),
    "no eos": (
        both(edit("tokenizer_config.json", eos_token=None, tokenizer_class="PreTrainedTokenizerFast"),
             lambda f: (f / "tokenizer.model").unlink()),
        ("no eos token",),
    ),
    "eos of the map": (
        edit("special_tokens_map.json", eos_token="<pad>"),
        ("eos_token", "'</s>' in tokenizer_config.json", "'<pad>' in special_tokens_map.json"),
    ),
    "eos of the map as an object": (
        edit("special_tokens_map.json", eos_token=EOS_DICT),
        ("eos_token", "'</s>' in tokenizer_config.json", "'<pad>' in special_tokens_map.json"),
    ),
    "bos of the map": (edit("special_tokens_map.json", bos_token="<unk>"), ("bos_token", "'<s>'", "'<unk>'")),
    "pad of the map": (edit("special_tokens_map.json", pad_token="<unk>"), ("pad_token", "'<pad>'", "'<unk>'")),
    "eos of the config": (config(eos_token_id=7), ("'</s>' (2) in tokenizer_config.json", "eos_token_id 7 in config.json")),
    "eos of the generation config": (
        edit("generation_config.json", eos_token_id=7),
        ("'</s>' (2) in tokenizer_config.json", "eos_token_id 7 in generation_config.json"),
    ),
    "several ends without the tokenizer's": (
        edit("generation_config.json", eos_token_id=[7, 8]), ("(2)", "eos_token_id [7, 8] in generation_config.json"),
    ),
    "bos of the config": (config(bos_token_id=0), ("'<s>' (1)", "bos_token_id 0 in config.json")),
    "bos of the generation config": (edit("generation_config.json", bos_token_id=0), ("(1)", "generation_config.json")),
    "pad of the config": (config(pad_token_id=0), ("'<pad>' (3)", "pad_token_id 0 in config.json")),
    "an id that is a word": (config(eos_token_id="</s>"), ("eos_token_id is '</s>'", "config.json")),
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


@pytest.mark.parametrize("name", CASES)
def test_one_line_names_what_is_wrong(name: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, said = CASES[name]
    damage(source)
    refused(source, capsys, said)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"prompt": {"max_tokens": 4000}}, ("prompt.max_tokens=4000", "max_position_embeddings 1024")),
        ({"prompt": {"separator": "</s>"}}, ("prompt.separator='</s>'", "special token </s>")),
        ({"prompt": {"pad_token": "a"}}, ("pad_token 'a'", "plain text", "prompt.pad_token")),
    ],
)
def test_params_that_do_not_fit_the_model(
    sections: dict[str, Any], said: tuple[str, ...], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("tokenizer_config.json", pad_token=None)(source) if "pad_token" in sections["prompt"] else None
    refused(source, capsys, said, **sections)


def test_three_bits_want_sides_of_32(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(intermediate_size=100)(source)

    def cut(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if ".mlp." in name]:
            part = tensors[name]
            tensors[name] = part[:, :100].copy() if "down" in name else part[:100].copy()

    weights(cut)(source)
    three = {"bits": 3, "group_size": 128, "symmetric": True, "act_order": False, "damp": 0.05}
    refused(source, capsys, ("gptq.int3.bits=3", "100"), gptq={"int3": three})
    assert run(source, capsys, gptq={"int3": three | {"bits": 4}})[0] == 0, "the advice works"


def test_a_bfloat16_merge_takes_what_float16_cannot(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(lambda w: w.update({NORM: w[NORM].astype(np.float32) + 1e5}))(source)
    refused(source, capsys, (NORM, "set merge.dtype to bfloat16"))
    assert run(source, capsys, merge={"dtype": "bfloat16"})[0] == 0


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder.parent / "models/base").glob("*.*") if "safetensors" in path.name}


def test_the_index_s_shards_are_checked_copied_and_loaded(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older whole file beside them is neither; transformers, left to itself, would load that one."""
    import torch
    from transformers import AutoModelForCausalLM

    wanted = load_file(source / "model.safetensors")
    old = {name: tensor * 0 for name, tensor in wanted.items()}
    split(source)
    save_file(old, source / "model.safetensors", metadata={"format": "pt"})
    save_file(old, source / "model-00003-of-00003.safetensors")
    (source / "pytorch_model.bin").write_bytes(b"x")
    code, line = run(source, capsys)  # this index has no metadata, without which transformers loads none
    assert code == 0, line
    assert "left out model-00003-of-00003.safetensors, model.safetensors, pytorch_model.bin" in line
    assert files(source) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX}
    model = AutoModelForCausalLM.from_pretrained(source.parent / "models/base", dtype="float16")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(wanted.get(name, wanted[EMBEDDING]))), name


def test_other_weights_beside_the_whole_file_are_left_out(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.fp16.safetensors", "consolidated.safetensors"):
        shutil.copy(source / "model.safetensors", source / name)
    code, line = run(source, capsys)
    assert code == 0, line
    assert files(source) == {"model.safetensors"}
    assert "left out consolidated.safetensors, model.fp16.safetensors" in line


ACCEPTED: dict[str, Damage] = {
    "several ends, the tokenizer's among them": both(
        config(eos_token_id=7), edit("generation_config.json", eos_token_id=[2, 7])
    ),
    "no generation config": lambda f: (f / "generation_config.json").unlink(),
    "ids below 0": config(pad_token_id=-1),
    "keys that are off": config(sliding_window=None, use_qk_norm=False, quantization_config=None, layer_types=None),
    "keys that count for nothing": config(unsloth_fixed=True, is_llama_config=True, rope_interleaved=False),
    "settings of generation": config(temperature=0.6, do_sample=True, max_length=4096, top_p=0.9),
    "a head that repeats the tied embedding": weights(lambda w: w.update({HEAD: w[EMBEDDING].copy()})),
    "frequencies of an old checkpoint": weights(
        lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    ),
    "swish": config(hidden_act="swish"),
    "linear": config(rope_parameters=..., rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.0}),
    "an index to the whole file": lambda f: index(dict.fromkeys(load_file(f / "model.safetensors"), "model.safetensors"))(f),
    "eos as an object": edit("tokenizer_config.json", eos_token=EOS_DICT | {"content": "</s>"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_all_stages_take_is_taken(name: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ACCEPTED[name](source)
    code, line = run(source, capsys)
    assert code == 0, line
    made = json.loads((source.parent / "models/base/config.json").read_text(encoding="utf-8"))
    assert (made["bos_token_id"], made["eos_token_id"], made["pad_token_id"]) == (1, 2, 3)
    assert not made.keys() & {"temperature", "do_sample", "max_length", "top_p"}, (
        "transformers saves no such model"
    )


def test_llama_3_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = llama3.make_toy_llama3(tmp_path / "source")
    code, line = run(
        source, capsys, prompt={"pad_token": llama3.PAD}, gguf={"q4": {"type": "Q4_K_M", "imatrix": True}}
    )
    assert code == 0, line
