"""A GGUF file in hub layout: dequantized to 16 bits by transformers, and converted back as the proof.

What transformers' reader leaves out (Llama 3's rotary factors, a scaling, a tensor of another modality) shows in the
way back: llama.cpp's own converter must make the same tensors and the same hyperparameters of the folder.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cartlm.errors import UserError
from cartlm.quantization import gguf
from cartlm.system import llama_cpp_build
from cartlm.training import gguf_tokenizer
from cartlm.training.model_config import HEAD

PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
OTHER = "set base.path to another file of the model, or take it from the hub (base.source: hub)"
JOIN = "join them with llama-gguf-split --merge, which comes with llama.cpp's releases (not with make setup)"
ALIASES = {"rope.global.freq_base": "rope.freq_base", "rope.local.freq_base": "rope.freq_base_swa"}
"""Ollama's own names."""
DERIVED = {
    "vocab_size",
    "rope.dimension_count",
    "attention.key_length",
    "attention.value_length",
    "tensor_data_layout",
}
"""Hyperparameters that a file may leave out or state: the tensors' shapes have them."""
TOLERANCE = 2.0**-7  # of a tensor's largest weight: rounding to bfloat16 takes half of it


@dataclass(frozen=True)
class Header:
    """Metadata and tensor table of a GGUF file."""

    values: dict[str, Any]
    tensors: dict[str, Any]  # gguf-py's ReaderTensor

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])

    @property
    def types(self) -> Counter[str]:
        """Weights of each type in matrices."""
        found: Counter[str] = Counter()
        for tensor in self.tensors.values():
            if len(tensor.shape) > 1:
                found[tensor.tensor_type.name] += int(tensor.n_elements)
        return found

    @property
    def quantization(self) -> str | None:
        """What the file calls its type, such as Q4_K_M; None where all matrices have 16 or 32 bits."""
        from gguf import LlamaFileType

        quantized = [name for name, _ in self.types.most_common() if name not in PLAIN]
        if not quantized:
            return None
        try:
            name = LlamaFileType(self.values.get("general.file_type", -1)).name.removeprefix("MOSTLY_")
        except ValueError:
            name = ""
        return quantized[0] if name in ("", "GUESSED", "ALL_F32", *PLAIN) else name


def read_header(path: Path, name: str) -> Header:
    """The header of the file at `path`, which errors call `name`. Raises UserError for what is no whole GGUF file."""
    try:
        file = gguf.open_gguf(path)
        header = Header(
            {key: field.contents() for key, field in file.fields.items()},
            {each.name: each for each in file.tensors},
        )
        size = path.stat().st_size
        end = max((int(each.data_offset + each.n_bytes) for each in file.tensors), default=0)
    except UserError as error:
        raise UserError(error.message.replace(str(path), name), OTHER) from None
    if (parts := header.values.get("split.count", 1)) > 1:  # only the first part says what model it is
        raise UserError(f"{name} is one of {parts} parts", JOIN)
    if "general.architecture" not in header.values:
        raise UserError(f"{name} is a GGUF file without a model (no general.architecture)", OTHER)
    if end > size:
        raise UserError(f"{name} is cut: its tensors end at byte {end:,}, the file at {size:,}", OTHER)
    return header


def to_hub_layout(path: Path, folder: Path, log: Path, name: str) -> str | None:
    """Write config.json, model.safetensors and the tokenizer of the GGUF file at `path` to `folder`.

    Returns what it was dequantized from, such as Q4_K_M; None for a file of 16 or 32 bits. A quantized file becomes
    float16, which keeps more of it than bfloat16 does; Gemma, whose activations exceed float16's range, bfloat16. `log`
    gets the converter's output; errors call the file `name`. Raises UserError, OSError on a full disk.
    """
    llama_cpp_build.converter()  # raises UserError where it is not installed, before minutes of work
    header = read_header(path, name)
    if not header.tensors:
        raise UserError(f"{name} holds a vocabulary without weights", OTHER)
    _check_architecture(header.architecture, name)
    try:
        vocabulary = gguf_tokenizer.read(header.values, path)
    except KeyError as error:
        raise UserError(f"{name} has no {error.args[0]}", OTHER) from None
    largest = header.types.most_common(1)[0][0]
    dtype = PLAIN.get(largest, "float16")
    if header.architecture.startswith("gemma") and dtype == "float16":
        dtype = "bfloat16"
    gguf_tokenizer.write(vocabulary, folder, name)  # first: it refuses what is not rebuilt here
    _write_model(path, header, folder, dtype, name)
    gguf_tokenizer.check_ids(folder, path, name)
    _check_way_back(header, folder, log, name)
    return header.quantization


def _check_architecture(architecture: str, name: str) -> None:
    """Raises UserError where transformers reads no GGUF of it, or has no language model of it."""
    from transformers.integrations.gguf import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if architecture not in GGUF_SUPPORTED_ARCHITECTURES and not is_gguf_arch_supported(architecture):
        raise UserError(
            f"{name} is of the architecture {architecture}, which transformers does not dequantize", OTHER
        )


def _write_model(path: Path, header: Header, folder: Path, dtype: str, name: str) -> None:
    """config.json and model.safetensors."""
    import torch
    import transformers as hf
    from safetensors.torch import save_file

    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary) / "model.gguf"  # transformers goes by the suffix, which Ollama's blobs lack
        link.symlink_to(path.resolve())
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a bar for each tensor
                model, info = hf.AutoModelForCausalLM.from_pretrained(
                    temporary, gguf_file=link.name, dtype=getattr(torch, dtype), output_loading_info=True,
                    local_files_only=True, use_safetensors=True, trust_remote_code=False,
                )  # fmt: skip
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            if "allocate memory" in str(error):
                raise  # nothing is wrong with the file
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"transformers does not dequantize {name}: {reason}", OTHER) from None
    tied = {HEAD} if model.config.tie_word_embeddings else set()
    if lacking := sorted(set(info["missing_keys"]) - tied):
        raise UserError(f"{name} lacks {len(lacking)} weights such as {lacking[0]}", OTHER)
    tensors = {key: value.to(getattr(torch, dtype)).contiguous() for key, value in model.state_dict().items()}
    save_file(
        {key: tensors[key] for key in tensors.keys() - tied}, folder / "model.safetensors", {"format": "pt"}
    )
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for key in ("_model_name_or_path", "unk_token_id"):  # of the file, and nothing that a model needs
        config.__dict__.pop(key, None)
    if hasattr(config, "rms_norm_eps"):  # 1e-06 and not 9.999999974752427e-07
        config.rms_norm_eps = float(str(np.float32(config.rms_norm_eps)))
    config.architectures, config.dtype = [type(model).__name__], getattr(torch, dtype)
    if scaling := _rope_scaling(header):
        # Gemma has two kinds of layers, and scales one
        config.rope_parameters.get("full_attention", config.rope_parameters).update(scaling)
    config.save_pretrained(folder)


def _rope_scaling(header: Header) -> dict[str, Any]:
    """The scaling that transformers' reader leaves out; whether it is the right one, the way back shows."""
    prefix = f"{header.architecture}.rope.scaling."
    scaling = {
        key.removeprefix(prefix): value for key, value in header.values.items() if key.startswith(prefix)
    }
    if scaling.get("type") in ("linear", "yarn") and "factor" in scaling:
        more = (
            {"original_max_position_embeddings": scaling["original_context_length"]}
            if scaling["type"] == "yarn"
            else {}
        )
        return {"rope_type": scaling["type"], "factor": float(scaling["factor"]), **more}
    if "rope_freqs.weight" in header.tensors:  # Llama 3.1 and 3.2 differ in the factor alone
        factor = float(np.max(header.tensors["rope_freqs.weight"].data))
        return {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip
    return {}


def _check_way_back(source: Header, folder: Path, log: Path, name: str) -> None:
    """Raises UserError unless the converter makes the source's hyperparameters and weights of `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / "model.gguf"
        try:
            gguf.convert(folder, made, log)
        except UserError as error:
            raise UserError(f"{name}: {error.message}", OTHER) from None
        back = read_header(made, "its way back")
        found = hyperparameters(back)
        for key, given in hyperparameters(source).items():
            if not _equal(given, found.get(key)) and not (key in DERIVED and key not in found):
                what = f"{name} has {key} {given}, and what was made of it {found.get(key, 'none')}"
                raise UserError(what, OTHER)
        for key in sorted(source.tensors.keys() | back.tensors.keys()):
            if key not in source.tensors or key not in back.tensors:
                where = "in it alone" if key in source.tensors else "only in what was made of it"
                raise UserError(f"{name}: the weights {key} are {where}", OTHER)
            if not _same_weights(source.tensors[key], back.tensors[key]):
                raise UserError(f"{name}: the weights {key} differ from what was made of them", OTHER)


def hyperparameters(header: Header) -> dict[str, Any]:
    """The metadata of the architecture, without its name."""
    prefix = f"{header.architecture}."
    found = {
        key.removeprefix(prefix): value for key, value in header.values.items() if key.startswith(prefix)
    }
    return {ALIASES.get(key, key): value for key, value in found.items()}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return bool(np.isclose(one, other, rtol=1e-5))
    return bool(one == other)


def _same_weights(one: Any, other: Any) -> bool:
    from gguf.quants import dequantize

    first, second = (dequantize(each.data, each.tensor_type) for each in (one, other))
    if first.shape != second.shape:
        return False
    return bool(np.max(np.abs(first - second)) <= TOLERANCE * np.max(np.abs(first)))
