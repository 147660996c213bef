"""An architecture by name, with random weights: what a model of that shape costs on a machine, nothing downloaded.

Speed, memory and energy depend on shapes and bits, not on what the weights say. The tokenizer is rebuilt from the
vocabulary file that comes with llama.cpp.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.system import llama_cpp_build

PAD = "<|finetune_right_pad_id|>"
PAD_ID = 128004  # its id since Llama 3.1; Llama 3.0, whose vocabulary the file holds, calls it reserved
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
BYTES_EOS_ID = 257  # in the tokenizer of bytes
# The pre-tokenizer of Llama 3's tokenizer.json, as in llama.cpp's src/llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_LLAMA3).
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Shape:
    """A Llama of Meta's 3.2 release, input and output embeddings tied; the names are those of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int = 128256


SHAPES = {
    "llama-3.2-1b": Shape(2048, 8192, 16, 32, 8, 64),
    "llama-3.2-3b": Shape(3072, 8192, 28, 24, 8, 128),
    "toy": Shape(256, 512, 2, 4, 2, 64),  # for tests: made and measured in seconds
}
"""The config.json of meta-llama/Llama-3.2-1B and -3B."""


def config(shape: Shape) -> Any:
    """The transformers configuration, with Llama 3.2's rotary scaling."""
    from transformers import LlamaConfig

    return LlamaConfig(
        **vars(shape), max_position_embeddings=131072, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=shape.vocab_size - 256, eos_token_id=shape.vocab_size - 255,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip


def write_gptq(folder: Path, shape: Shape, bits: int, group_size: int, seed: int) -> int:
    """A GPTQ checkpoint of random integers, scaled so that its weights spread as those of `write`; returns the bytes.

    Speed and memory depend on shapes and bits only, so nothing is calibrated. The layout is that of gptqmodel's
    format `gptq`: qweight [inputs * bits / 32, outputs], zeros stored less 1. Raises OSError on a full disk.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    made = config(shape)
    with torch.device("meta"):
        empty = LlamaForCausalLM(made)
    random = torch.Generator().manual_seed(seed)
    middle, width = 2 ** (bits - 1), 32 // bits
    zeros = sum((middle - 1) << (bits * place) for place in range(width))
    zeros -= 2**32 if zeros >= 2**31 else 0
    weights = {}
    for name, tensor in empty.named_parameters():
        if "_proj" not in name:
            drawn = torch.ones(tensor.shape) if tensor.ndim == 1 else torch.empty(tensor.shape)
            weights[name] = (drawn if tensor.ndim == 1 else drawn.normal_(0.0, 0.02, generator=random)).half()
            continue
        outputs, inputs = tensor.shape
        part, groups = name.removesuffix("weight"), inputs // group_size
        shape_ = (inputs // width, outputs)
        weights[f"{part}qweight"] = torch.randint(
            -(2**31), 2**31, shape_, generator=random, dtype=torch.int32
        )
        weights[f"{part}qzeros"] = torch.full((groups, outputs // width), zeros, dtype=torch.int32)
        deviation = (2**bits) / 12**0.5  # of integers drawn evenly
        weights[f"{part}scales"] = torch.full((groups, outputs), 0.02 / deviation, dtype=torch.float16)
        weights[f"{part}g_idx"] = (torch.arange(inputs) // group_size).to(torch.int32)
    how = {
        "bits": bits, "group_size": group_size, "desc_act": False, "sym": True, "lm_head": False, "quant_method": "gptq",
        "checkpoint_format": "gptq", "format": "gptq", "method": "gptq", "pack_dtype": "int32", "meta": {},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    made.architectures, made.dtype = ["LlamaForCausalLM"], torch.float16
    made.quantization_config = how
    made.save_pretrained(folder)
    (folder / "quantize_config.json").write_text(json.dumps(how, indent=2), encoding="utf-8")
    return sum(tensor.nbytes for tensor in weights.values())


def write(folder: Path, shape: Shape, seed: int, never: int | None = None) -> int:
    """A model folder in hub layout with random float16 weights (normal, deviation 0.02; norms 1); returns the number
    of parameters. The token `never` has a logit of 0, so it is never the answer. Raises OSError on a full disk.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    made = config(shape)
    with torch.device("meta"):
        empty = LlamaForCausalLM(made)
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in empty.named_parameters():  # the tied output is named once
        if tensor.ndim == 1:
            weights[name] = torch.ones(tensor.shape, dtype=torch.float16)
        else:
            drawn = torch.empty(tensor.shape).normal_(0.0, 0.02, generator=random)
            weights[name] = drawn.to(torch.float16)
        if "embed_tokens" in name and never is not None:
            weights[name][never] = 0
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    made.architectures, made.dtype = ["LlamaForCausalLM"], torch.float16
    made.save_pretrained(folder)
    return sum(tensor.numel() for tensor in weights.values())


def write_bytes_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes, for prompts that are given as ids: an engine wants one, with BOS and EOS."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {letter: byte for byte, letter in bytes_to_unicode().items()}
    added = [
        {"id": 256 + place, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for place, token in enumerate((BOS, EOS))
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = {"bos_token": BOS, "eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json of Llama 3.2, without a pad token, as published."""
    from cartlm.quantization import gguf  # not on a machine that has torch alone

    fields = gguf.reader(llama_cpp_build.llama3_vocabulary()).fields

    def texts(name: str) -> list[str]:
        field = fields[f"tokenizer.ggml.{name}"]
        return [bytes(field.parts[place]).decode("utf-8") for place in field.data]

    tokens, types = texts("tokens"), fields["tokenizer.ggml.token_type"].contents()
    tokens[PAD_ID] = PAD
    added = [
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == 3
    ]  # fmt: skip
    specials = {token["id"] for token in added}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [tokens.index(BOS)], "tokens": [BOS]}},
    }
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "Sequence", "processors": [byte_level, template]},
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": {token: number for number, token in enumerate(tokens) if number not in specials},
            "merges": texts("merges"),
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    config = {
        "bos_token": BOS, "eos_token": EOS, "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
