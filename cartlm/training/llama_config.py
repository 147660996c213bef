"""Which Llamas are accepted: the config.json that all engines compute alike, and the tensors that it promises.

transformers, gptqmodel, llama.cpp's converter and its engine each know a part of what a config can ask for. What one of
them ignores is refused here; tests/component/training/test_llama_config.py asks both engines about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cartlm.config import Positive, first_wrong
from cartlm.engines.model_dir import HINT, Tensor, read_json
from cartlm.errors import UserError

ARCHITECTURE = "LlamaForCausalLM"
DTYPES = ("F16", "BF16", "F32")
IGNORED_KEYS = frozenset({
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout", "auto_map", "bos_token_id",
    "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "max_sequence_length", "model_max_length", "num_labels", "pad_token_id",
    "pretraining_tp", "problem_type", "quantization_config", "rope_parameters", "rope_scaling", "task_specific_params",
    "tokenizer_class", "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
})  # fmt: skip
"""Keys of config.json that change no answer, or that are checked elsewhere."""
UNUSED = "rotary_emb.inv_freq"  # in checkpoints of 2023; transformers computes it anew
KEEP_ONE = "keep the one that is meant"

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]  # GGUF stores sizes in 32 bits
Dtype = Literal["float16", "bfloat16", "float32"] | None


class Llama(BaseModel):
    """The values of config.json that change what a Llama computes."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model_type: Literal["llama"] = "llama"
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    intermediate_size: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Size | None = None
    hidden_act: Literal["silu", "swish"] = "silu"  # one function; llama.cpp computes a Llama with no other
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    dtype: Dtype = None
    torch_dtype: Dtype = None
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 10000.0


class Rope(BaseModel):
    """Rotary embeddings that transformers and llama.cpp compute alike. Bounds of one value: the two differ elsewhere."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rope_type: Any = None
    type: Any = None
    rope_theta: Positive = 10000.0
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] = 1
    beta_fast: Annotated[float, Field(ge=32, le=32)] = 32
    beta_slow: Annotated[float, Field(ge=1, le=1)] = 1


class Linear(Rope):
    factor: Positive


class Yarn(Linear):
    original_max_position_embeddings: Size


class Llama3(Yarn):
    low_freq_factor: Positive
    high_freq_factor: Positive


ROPE_TYPES: dict[Any, type[Rope]] = {"default": Rope, "linear": Linear, "llama3": Llama3, "yarn": Yarn}


def check_config(folder: Path) -> dict[str, Any]:
    """config.json of an unquantized Llama that every stage computes alike. Raises UserError naming key and value."""
    from transformers import LlamaConfig

    config = read_json(folder / "config.json")
    if config.get("architectures") != [ARCHITECTURE]:
        raise UserError(f"{folder} is a {config.get('architectures')}, not a {ARCHITECTURE}", HINT)
    if config.get("auto_map"):
        raise UserError(f"{folder} needs code of its own (auto_map in config.json)", HINT)
    if config.get("quantization_config"):
        raise UserError(
            f"{folder} is quantized already", "set base.path to the 16-bit model it was made from"
        )
    file = f"{folder}/config.json"
    try:
        llama = Llama.model_validate(config)
        _check_rope(config, file)
        _check_other_keys(config, file)
        LlamaConfig.from_dict(dict(config))
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"{file}: {first_wrong(error)}", HINT) from None
    except Exception as error:  # each of transformers' validators fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: transformers refuses it: {reason}", HINT) from None
    if llama.num_attention_heads % (llama.num_key_value_heads or 1):
        raise UserError(
            f"{file}: num_attention_heads {llama.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {llama.num_key_value_heads}",
            HINT,
        )
    return config


def _check_rope(config: Mapping[str, Any], file: str) -> None:
    """rope_scaling and its newer name, rope_parameters. Raises UserError."""
    names = [name for name in ("rope_scaling", "rope_parameters") if config.get(name)]
    if not names:
        return
    name = names[0]
    rope = config[name]
    if not isinstance(rope, dict):
        raise UserError(f"{file}: {name} is {rope!r}", HINT)
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta")
    if rope != config[names[-1]]:
        raise UserError(f"{file}: rope_scaling is {rope!r}, rope_parameters {config[names[-1]]!r}", KEEP_ONE)
    if rope.get("type", kind) != kind:
        raise UserError(f"{file}: {name} has rope_type {kind!r} and type {rope['type']!r}", KEEP_ONE)
    if theta is not None and config.get("rope_theta", theta) != theta:
        raise UserError(
            f"{file}: rope_theta is {config['rope_theta']!r}, {name}.rope_theta {theta!r}", KEEP_ONE
        )
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise UserError(f"{file}: {name}.rope_type is {kind!r}, not one of {', '.join(ROPE_TYPES)}", HINT)
    try:
        parsed = ROPE_TYPES[kind].model_validate({k: v for k, v in rope.items() if v is not None})
    except ValidationError as error:
        raise UserError(f"{file}: {name}.{first_wrong(error)} (rope_type {kind})", HINT) from None
    if isinstance(parsed, Llama3) and parsed.high_freq_factor <= parsed.low_freq_factor:
        raise UserError(
            f"{file}: {name}.high_freq_factor {parsed.high_freq_factor} is not above low_freq_factor", HINT
        )


def _check_other_keys(config: Mapping[str, Any], file: str) -> None:
    """A key beyond those of a Llama must be null, false, empty or transformers' default. Raises UserError."""
    from transformers import LlamaConfig

    known = IGNORED_KEYS | Llama.model_fields.keys() | generation_keys()
    defaults = {**LlamaConfig().to_dict(), "is_causal": True, "partial_rotary_factor": 1}
    for key, value in config.items():
        off = value is None or value in ("", [], {}) or (value is False and key not in defaults)
        if key not in known and not off and (key not in defaults or value != defaults[key]):
            raise UserError(
                f"{file}: {key} is {value!r:.80}, which a Llama in llama.cpp does not know",
                "remove that key if the model was trained without it (of a hub model, in a local copy), or set base.path",
            )


def generation_keys() -> frozenset[str]:
    """Settings of generation that old config.json files hold; transformers saves no model that has one set."""
    from transformers import GenerationConfig, LlamaConfig

    return frozenset(GenerationConfig().to_dict()) - frozenset(LlamaConfig().to_dict())


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of transformers' model of this config; a tied head is none of them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_dict(dict(config)))
    shapes = {name: tuple(weights.shape) for name, weights in model.named_parameters()}
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)
    return shapes


def check_weights(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The tensors of `folder` are those that its config promises, in 16 or 32 bits. Raises UserError."""
    expected = expected_shapes(config)
    if missing := [name for name in expected if name not in tensors]:
        raise UserError(f"{folder} lacks {len(missing)} weights such as {missing[0]}", HINT)
    for name, tensor in tensors.items():
        if name.endswith(UNUSED) or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        if name not in expected:
            flag = "attention_bias" if "attn" in name else "mlp_bias"
            reason = f"{flag} {config.get(flag, False)}" if name.endswith(".bias") else f"a {ARCHITECTURE}"
            raise UserError(f"{folder} holds {name}, which config.json ({reason}) has no place for", HINT)
        if tensor.dtype not in DTYPES:
            raise UserError(f"{folder}: {name} is {tensor.dtype}, not one of {', '.join(DTYPES)}", HINT)
        if tensor.shape != expected[name]:
            raise UserError(
                f"{folder}: {name} is {tensor.shape}, by config.json it should be {expected[name]}", HINT
            )
