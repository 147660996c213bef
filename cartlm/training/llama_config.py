"""Which Llamas are accepted: the config.json that all engines compute alike, and the tensors that it promises.

transformers, gptqmodel, llama.cpp's converter and its engine each know a part of what a config can ask for. What one of
them ignores is refused here; tests/component/training/test_llama_config.py asks both engines about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cartlm.config import Positive, first_wrong
from cartlm.engines.model_dir import HINT, Tensor, read_json
from cartlm.errors import UserError

ARCHITECTURE = "LlamaForCausalLM"
DTYPES = ("F16", "BF16", "F32")
IGNORED_KEYS = frozenset({
    "_attn_implementation_autoset", "_name_or_path", "architectures", "attention_dropout", "auto_map", "bos_token_id",
    "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "max_sequence_length", "model_max_length", "num_labels", "pad_token_id",
    "pretraining_tp", "problem_type", "quantization_config", "task_specific_params",
    "tokenizer_class", "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
})  # fmt: skip
"""Keys of config.json that change no answer, or that are checked elsewhere."""
UNUSED = "rotary_emb.inv_freq"  # in checkpoints of 2023; transformers computes it anew
MEND = f"mend it in a local copy that base.path names, or {HINT}"

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]  # GGUF stores sizes in 32 bits
Dtype = Literal["float16", "bfloat16", "float32"] | None


class Rope(BaseModel):
    """Rotary embeddings that transformers and llama.cpp compute alike. Bounds of one value: the two differ elsewhere."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rope_theta: Positive | None = None
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


ROPE_TYPES: dict[str, type[Rope]] = {"default": Rope, "linear": Linear, "llama3": Llama3, "yarn": Yarn}


def _rope(value: Any) -> Rope | None:
    """The embeddings of rope_scaling, or of rope_parameters, its new name; None for an empty one. Raises ValueError."""
    if not value:
        return None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    given = {key: one for key, one in value.items() if one is not None}
    types = [given.pop(key) for key in ("rope_type", "type") if key in given] or ["default"]
    if types[0] != types[-1] or str(types[0]) not in ROPE_TYPES:
        found = " and ".join(map(repr, types))
        raise ValueError(f"its rope_type is {found}, not one of {', '.join(ROPE_TYPES)}")
    try:
        rope = ROPE_TYPES[types[0]].model_validate(given)
    except ValidationError as error:
        raise ValueError(f"{first_wrong(error)} ({types[0]})") from None
    if isinstance(rope, Llama3) and rope.high_freq_factor <= rope.low_freq_factor:
        raise ValueError(f"high_freq_factor {rope.high_freq_factor} is not above low_freq_factor")
    return rope


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
    rope_theta: Positive | None = None
    rope_scaling: Annotated[Rope | None, BeforeValidator(_rope)] = None
    rope_parameters: Annotated[Rope | None, BeforeValidator(_rope)] = None

    @model_validator(mode="after")
    def _consistent(self) -> Llama:
        ropes = [rope for rope in (self.rope_scaling, self.rope_parameters) if rope]
        thetas = {theta for theta in (self.rope_theta, *(rope.rope_theta for rope in ropes)) if theta}
        if ropes and ropes[0] != ropes[-1]:
            raise ValueError("rope_scaling and rope_parameters differ")
        if len(thetas) > 1:
            raise ValueError(f"rope_theta is {self.rope_theta}, in the scaling {ropes[0].rope_theta}")
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            heads = f"num_attention_heads {self.num_attention_heads} is not a multiple of"
            raise ValueError(f"{heads} num_key_value_heads {self.num_key_value_heads}")
        return self


def check_config(folder: Path) -> dict[str, Any]:
    """config.json of an unquantized Llama that every stage computes alike. Raises UserError naming key and value."""
    from transformers import LlamaConfig

    config, file = read_json(folder / "config.json"), f"{folder}/config.json"
    if config.get("architectures") != [ARCHITECTURE]:
        raise UserError(f"{folder} is a {config.get('architectures')}, not a {ARCHITECTURE}", HINT)
    for key, why in (("auto_map", "needs code of its own"), ("quantization_config", "is quantized already")):
        if config.get(key):
            raise UserError(f"{folder} {why} ({key} in config.json)", HINT)
    try:
        Llama.model_validate(config)
    except ValidationError as error:
        raise UserError(f"{file}: {first_wrong(error)}", MEND) from None
    _check_other_keys(config, file)
    try:
        LlamaConfig.from_dict(dict(config))
    except Exception as error:  # each of transformers' validators fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: transformers refuses it: {reason}", HINT) from None
    return config


def _check_other_keys(config: Mapping[str, Any], file: str) -> None:
    """A key beyond those of a Llama must be null, false, empty or transformers' default. Raises UserError."""
    from transformers import LlamaConfig

    known = IGNORED_KEYS | Llama.model_fields.keys() | generation_keys()
    defaults = {**LlamaConfig().to_dict(), "is_causal": True, "partial_rotary_factor": 1}
    for key, value in config.items():
        off = value is None or value in ("", [], {}) or (value is False and key not in defaults)
        if key not in known and not off and (key not in defaults or value != defaults[key]):
            raise UserError(f"{file}: {key} is {value!r:.80}, which a Llama in llama.cpp does not know", MEND)


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
        if tensor.dtype not in DTYPES or tensor.shape != expected[name]:
            right = f"by config.json it should be {expected[name]} in {', '.join(DTYPES)}"
            raise UserError(f"{folder}: {name} is {tensor.shape} in {tensor.dtype}, {right}", HINT)
