"""GGUF: the official converter, llama-quantize, and what a file holds (bytes by tensor group, types)."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cartlm.engines.tensor_groups import bytes_by_group
from cartlm.errors import UserError
from cartlm.files import MIB, replacing
from cartlm.system import llama_cpp_build, processes

# The types whose rows come in blocks of 256 weights; Q8_0 has blocks of 32 (ggml-common.h, QK_K and QK8_0).
BLOCKS = {"Q8_0": 32, "Q6_K": 256, "Q5_K_M": 256, "Q4_K_M": 256, "Q3_K_M": 256, "Q2_K": 256}
QUANTIZE_FAILURE = r"failed to quantize: (.+)"
CONVERT_FAILURE = r"(?m)^(?:ERROR:.+|[\w.]*(?:Error|Exception): .+)$"


@dataclass(frozen=True)
class Contents:
    """What a GGUF file holds. Bytes; `bytes_by_group` and `padding_bytes` add up to all after the header."""

    size_bytes: int
    header_bytes: int  # metadata with the vocabulary, and the list of tensors
    padding_bytes: int
    parameters: int
    bytes_by_group: dict[str, int]  # groups that occur; output is absent where it is tied
    tensors_by_type: dict[str, int]
    row_sizes: dict[str, int]  # weights a row, of every matrix

    @property
    def bits_per_weight(self) -> float:
        """As llama-quantize counts: all tensors' bits over all their weights."""
        return 8 * sum(self.bytes_by_group.values()) / self.parameters

    def fallback_tensors(self, quantization: str) -> list[str]:
        """Matrices that cannot take the type's blocks, for which llama.cpp silently takes another type."""
        block = BLOCKS[quantization]
        return [name for name, row in self.row_sizes.items() if row % block]


def reader(path: Path) -> Any:
    """gguf-py's GGUFReader of the file at `path`. Raises UserError for what is none, FileNotFoundError for none.

    The library slices an np.memmap twice for each entry of a vocabulary, and each slice becomes a new np.memmap: a
    plain array over the same mapping reads Llama 3's 128,256 entries in a quarter of the time.
    """
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    try:
        return Reader(path)
    except FileNotFoundError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, OSError, MemoryError) as error:
        text = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is not a whole GGUF file ({text})", f"make it again: rm {path}, then dvc repro"
        ) from None


def contents(path: Path) -> Contents:
    """What the file at `path` holds, header and tensor table read, weights untouched.

    Raises UserError for a file that is truncated or no GGUF, FileNotFoundError for none.
    """
    found = reader(path)
    types: Counter[str] = Counter()
    rows = {}
    end = found.data_offset
    for tensor in found.tensors:
        types[tensor.tensor_type.name.lower()] += 1
        if len(tensor.shape) > 1:
            rows[tensor.name] = int(tensor.shape[0])
        end = max(end, int(tensor.data_offset) + int(tensor.n_bytes))
    groups = bytes_by_group((tensor.name, int(tensor.n_bytes)) for tensor in found.tensors)
    size = path.stat().st_size
    if not rows or end > size:
        raise UserError(
            f"{path} holds {len(found.tensors)} tensors up to byte {end}, but has {size} bytes",
            f"make it again: rm {path}, then dvc repro",
        )
    return Contents(
        size_bytes=size,
        header_bytes=int(found.data_offset),
        padding_bytes=size - int(found.data_offset) - sum(groups.values()),
        parameters=sum(math.prod(int(size) for size in tensor.shape) for tensor in found.tensors),
        bytes_by_group=groups,
        tensors_by_type=dict(sorted(types.items())),
        row_sizes=rows,
    )


def _whole(made: Path, source: Path, log: Path) -> Contents:
    """What a tool made of `source`: it may end with exit code 0 and have left out tensors, or bytes."""
    try:
        return contents(made)
    except UserError as error:
        text = error.message.replace(str(made), "it")
        raise UserError(f"{source} gave no whole GGUF file: {text}", f"check {source}, see {log}") from None


def convert(folder: Path, target: Path, log: Path) -> Contents:
    """The F16 GGUF of a hub folder by llama.cpp's own convert_hf_to_gguf.py, unmodified, as `target`.

    Raises UserError with the converter's last line, OSError on a full disk; `target` is replaced at the end.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(2, "No such file", str(folder / "config.json"))
    with replacing(target) as temporary:
        hint = f"check {folder}, then dvc repro merge convert-gguf"
        _run_converter(folder, temporary, "--outtype", "f16", writes=target, log=log, hint=hint)
        return _whole(temporary, folder, log)


def convert_vocabulary(folder: Path, target: Path, log: Path, name: str) -> Path:
    """`target`, a GGUF file with the tokenizer of a hub folder alone. Raises UserError, which calls the model `name`."""
    hint = f"set base.path in params.yaml to a model whose tokenizer llama.cpp knows, unlike that of {name}"
    _run_converter(folder, target, "--vocab-only", writes=target, log=log, hint=hint)
    return target


def _run_converter(folder: Path, made: Path, *options: str, writes: Path, log: Path, hint: str) -> None:
    # The script puts the gguf-py beside it first on its path, unless NO_LOCAL_GGUF is set.
    environ = {
        name: value for name, value in os.environ.items() if name not in ("NO_LOCAL_GGUF", "PYTHONPATH")
    }
    environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes.run_logged(
        [sys.executable, llama_cpp_build.converter(), folder, "--outfile", made, *options],
        log=log, writes=writes, environ=environ, reason=CONVERT_FAILURE, hint=hint,
    )  # fmt: skip


def quantize(
    source: Path, target: Path, quantization: str, *, threads: int, log: Path, imatrix: Path | None = None
) -> Contents:
    """`target`, of the type `quantization`, from the F16 file `source` by llama-quantize.

    Raises UserError (missing tool, corrupt source, a result that is not whole), OSError on a full disk;
    `target` is replaced at the end and untouched by a failure.
    """
    if not source.is_file():
        raise FileNotFoundError(2, "No such file", str(source))
    tool = llama_cpp_build.tool("llama-quantize")
    options: list[str | Path] = ["--imatrix", imatrix] if imatrix is not None else []
    with replacing(target) as temporary:
        processes.run_logged(
            [tool, *options, source, temporary, quantization, str(threads)],
            log=log, writes=target, reason=QUANTIZE_FAILURE, hint=f"make the source again: rm {source}, then dvc repro",
        )  # fmt: skip
        made = _whole(temporary, source, log)
        if made.row_sizes.keys() != contents(source).row_sizes.keys():
            raise UserError(f"llama-quantize left out tensors of {source}", f"see {log}")
        return made


def sections(made: Contents, path: Path, quantization: str, imatrix: bool) -> dict[str, dict[str, Any]]:
    """The metrics of a quantized file: `quantize` (type, size, hash, tensors by type) and `bytes` by tensor group."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "quantize": {
            "type": quantization,
            "imatrix": imatrix,
            "sha256": digest,
            "size_mib": made.size_bytes / MIB,
            "bits_per_weight": made.bits_per_weight,
            "parameters": made.parameters,
            "fallback_tensors": len(made.fallback_tensors(quantization)),
            **{f"tensors_{name}": count for name, count in made.tensors_by_type.items()},
        },
        "bytes": {**made.bytes_by_group, "header": made.header_bytes, "padding": made.padding_bytes},
    }


def tool(name: str, threads: int) -> dict[str, str | int]:
    """The `engine` section of what a llama.cpp tool made."""
    build = llama_cpp_build.build_info()
    return {"name": name, "version": f"{build['source']} {build['version']}", "threads": threads}


def require_parity(parity: dict[str, Any], least: float) -> None:
    """Stop unless the F16 file was shown to answer as the merged model. Raises UserError.

    `parity` is metrics/parity.json, `least` the smallest agreement (share of answers) that passes.
    """
    agreement = parity.get("agreement")
    if not isinstance(agreement, int | float):
        raise UserError("metrics/parity.json has no agreement", "dvc repro parity")
    if agreement < least:
        raise UserError(
            f"parity.agreement is {agreement:.4g}, less than parity.min_agreement={least}: "
            "quantizing would hide that the conversion changed the answers",
            "see the divergences: dvc repro parity",
        )
