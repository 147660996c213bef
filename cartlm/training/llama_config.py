"""A Llama as all stages compute it: what its config.json may say, and the tensors and shapes that follow.

transformers, gptqmodel, llama.cpp's converter and its engine each know a part of what a config can say. What one of
them drops without a word is refused here; tests/training/test_llama.py asks both engines about what is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartlm.engines.model_dir import HINT, Tensor, read_json
from cartlm.errors import UserError

ARCHITECTURE = "LlamaForCausalLM"
DTYPES = ("F16", "BF16", "F32")
CONFIG_DTYPES = (None, "float16", "bfloat16", "float32")
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
ACTIVATIONS = ("silu", "swish")  # one function by two names; llama.cpp computes no other in a Llama
FLAGS = ("attention_bias", "mlp_bias", "tie_word_embeddings")
NOTES = frozenset({
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout", "bos_token_id",
    "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "max_sequence_length", "model_max_length", "num_labels", "pad_token_id",
    "pretraining_tp", "problem_type", "task_specific_params", "tokenizer_class", "transformers.js_config",
    "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
})  # fmt: skip
"""Keys of config.json that no answer depends on, whatever they say."""
CHECKED = frozenset({
    *SIZES, *FLAGS, "auto_map", "dtype", "head_dim", "hidden_act", "max_position_embeddings", "model_type",
    "num_key_value_heads", "quantization_config", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "torch_dtype",
})  # fmt: skip
ROPE = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset(
        {"factor", "high_freq_factor", "low_freq_factor", "original_max_position_embeddings"}
    ),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
}
"""Rotary embeddings that transformers and llama.cpp compute alike, and the numbers that each needs."""
DEFAULTS = {"partial_rotary_factor": 1, "beta_fast": 32, "beta_slow": 1}
"""What else may stand there: with other values of these the two differ, or llama.cpp drops them."""
UNUSED = "rotary_emb.inv_freq"  # in checkpoints of 2023; transformers computes it anew


def check_config(folder: Path) -> dict[str, Any]:
    """config.json of an unquantized Llama that every stage computes alike. Raises UserError naming key and value."""
    config = read_json(folder / "config.json")
    if config.get("architectures") != [ARCHITECTURE]:
        raise UserError(f"{folder} is a {config.get('architectures')}, not a {ARCHITECTURE}", HINT)
    if config.get("auto_map"):
        raise UserError(f"{folder} wants to run code of its own (auto_map in config.json)", HINT)
    if config.get("quantization_config"):
        raise UserError(
            f"{folder} is quantized already", "set base.path to the 16-bit model it was made from"
        )
    fault = _sizes(config) or _values(config) or _rope(config) or _unknown(config) or _invalid(config)
    if fault:
        raise UserError(f"{folder}/config.json: {fault[0]}", fault[1])
    return config


Fault = tuple[str, str] | None
MOST = 2**31 - 1  # GGUF keeps sizes in 32 bits


def _sizes(config: Mapping[str, Any]) -> Fault:
    def whole(key: str) -> bool:
        return type(config.get(key)) is int and 1 <= config[key] <= MOST

    for key in SIZES:
        if not whole(key):
            return f"{key} is {config.get(key)!r}", HINT
    for key in ("num_key_value_heads", "head_dim", "max_position_embeddings"):
        if config.get(key) is not None and not whole(key):
            return f"{key} is {config[key]!r}", HINT
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    if hidden % heads:
        return f"hidden_size {hidden} is no multiple of num_attention_heads {heads}", HINT
    if heads % key_value_heads(config):
        return (
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {key_value_heads(config)}",
            HINT,
        )
    if head_dim(config) % 2:
        return f"head_dim is {head_dim(config)}; rotary embeddings want an even one", HINT
    return None


def _values(config: Mapping[str, Any]) -> Fault:
    if config.get("model_type", "llama") != "llama":
        return f"model_type is {config['model_type']!r}, not 'llama'", HINT
    if (found := config.get("hidden_act", "silu")) not in ACTIVATIONS:
        return f"hidden_act is {found!r}, llama.cpp computes a Llama with 'silu' alone", HINT
    for key in FLAGS:
        if not isinstance(config.get(key, False), bool):
            return f"{key} is {config[key]!r}, neither true nor false", HINT
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in CONFIG_DTYPES:
            return f"{key} is {config[key]!r}, not float16, bfloat16 or float32", HINT
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = config.get(key)
        if not all(
            one is None or type(one) is int for one in (value if isinstance(value, list) else [value])
        ):
            return f"{key} is {value!r}, no id", HINT
    for key in ("rms_norm_eps", "rope_theta"):
        if key in config and not _positive(config[key]):
            return f"{key} is {config[key]!r}, not a number above 0", HINT
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _rope(config: Mapping[str, Any]) -> Fault:
    given = [key for key in ("rope_scaling", "rope_parameters") if config.get(key)]
    if not given:
        return None
    name = given[0]
    rope = config[name]
    if len(given) == 2 and rope != config["rope_parameters"]:
        return (
            f"rope_scaling is {rope!r}, rope_parameters {config['rope_parameters']!r}",
            "keep the one that holds",
        )
    if not isinstance(rope, dict):
        return f"{name} is {rope!r}", HINT
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("type", kind) != kind:
        return f"{name} has rope_type {kind!r} and type {rope['type']!r}", "keep the one that holds"
    if not isinstance(kind, str) or kind not in ROPE:
        return (
            f"{name}.rope_type is {kind!r}, not one of {', '.join(ROPE)}, which all engines compute alike",
            HINT,
        )
    for key in sorted(ROPE[kind]):
        if not _positive(rope.get(key)):
            return f"{name}.{key} is {rope.get(key)!r}, {kind} needs a number above 0", HINT
    for key, value in rope.items():
        taken = key in ROPE[kind] or key in ("rope_type", "type") or value is None
        taken = (
            taken
            or (key in DEFAULTS and value == DEFAULTS[key])
            or (key == "rope_theta" and _positive(value))
        )
        if not taken:
            return f"{name}.{key} is {value!r}, which llama.cpp does not compute with {kind}", HINT
    theta = config.get("rope_theta", rope.get("rope_theta"))
    if theta != rope.get("rope_theta", theta):
        return f"rope_theta is {theta!r}, {name}.rope_theta {rope['rope_theta']!r}", "keep the one that holds"
    original = rope.get("original_max_position_embeddings", 1)
    if original is not None and not (type(original) is int and 1 <= original <= MOST):
        return f"{name}.original_max_position_embeddings is {original!r}", HINT
    if kind == "llama3" and rope["high_freq_factor"] <= rope["low_freq_factor"]:
        return f"{name}.high_freq_factor {rope['high_freq_factor']} is not above low_freq_factor", HINT
    return None


def _unknown(config: Mapping[str, Any]) -> Fault:
    """A key beyond those of a Llama that may change what it computes: neither null, false, empty nor the default."""
    from transformers import LlamaConfig

    known = NOTES | CHECKED | generation_keys()
    defaults = LlamaConfig().to_dict()
    for key, value in config.items():
        off = (
            value is None or value in ("", [], {}) or (value is False and key not in {"is_causal", *defaults})
        )
        if key in known or off or (key in defaults and value == defaults[key]):
            continue
        if (key, value) in (("is_causal", True), ("partial_rotary_factor", 1)):
            continue  # what a Llama does anyway
        return (
            f"{key} is {value!r:.80}, which a Llama in llama.cpp does not know",
            "take that key out if the model was trained without it (of a hub model, in a local copy), or set base.path",
        )
    return None


def _invalid(config: Mapping[str, Any]) -> Fault:
    """What transformers' own validation says."""
    from transformers import LlamaConfig

    try:
        LlamaConfig.from_dict(dict(config))
    except Exception as error:  # each validator fails in its own way
        return f"transformers does not take it: {' '.join(str(error).split())[:200]}", HINT
    return None


def generation_keys() -> frozenset[str]:
    """Settings of generation that old config.json files hold; transformers saves no model that has one set."""
    from transformers import GenerationConfig, LlamaConfig

    return frozenset(GenerationConfig().to_dict()) - frozenset(LlamaConfig().to_dict())


def key_value_heads(config: Mapping[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def positions(config: Mapping[str, Any]) -> int:
    """Tokens that the model was trained to see at most; transformers' default where config.json is silent."""
    return int(config.get("max_position_embeddings") or 2048)


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the config promises."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries, keys = (
        count * head_dim(config) for count in (config["num_attention_heads"], key_value_heads(config))
    )
    matrices = {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)
    }  # fmt: skip
    for layer in (f"model.layers.{number}" for number in range(config["num_hidden_layers"])):
        for name, shape in matrices.items():
            found[f"{layer}.{name}.weight"] = shape
            if config.get("attention_bias" if "attn" in name else "mlp_bias"):
                found[f"{layer}.{name}.bias"] = shape[:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{name}.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def check_weights(folder: Path, config: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """The tensors of `folder` are those that its config promises, in 16 or 32 bits. Raises UserError."""
    wanted = shapes(config)
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{folder} lacks {len(missing)} weights such as {missing[0]}", HINT)
    for name, tensor in found.items():
        if name.endswith(UNUSED) or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        if name not in wanted:
            flag = "attention_bias" if "attn" in name else "mlp_bias"
            why = f"{flag} {config.get(flag, False)}" if name.endswith(".bias") else f"a {ARCHITECTURE}"
            raise UserError(f"{folder} holds {name}, which config.json ({why}) has no place for", HINT)
        if tensor.dtype not in DTYPES:
            raise UserError(f"{folder}: {name} is {tensor.dtype}, not one of {', '.join(DTYPES)}", HINT)
        if tensor.shape != wanted[name]:
            part = name.removesuffix(".weight").rpartition(".")[2]
            raise UserError(
                f"{folder}: {part} is {tensor.shape}, config.json says {wanted[name]} ({name})", HINT
            )
