"""GGUF files: llama.cpp's converter, llama-quantize, and a file's bytes by tensor group and types."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cartlm.engines.tensor_groups import GROUPS, bytes_by_group, tensor_group
from cartlm.errors import UserError
from cartlm.files import MIB, replacing, sha256
from cartlm.quantization.config import Gguf
from cartlm.quantization.gguf_types import BLOCKS
from cartlm.quantization.tensor_types import check_fit, resolve
from cartlm.quantization.tensor_types import options as tensor_options
from cartlm.system import llama_cpp_build, processes

QUANTIZE_FAILURE = r"failed to quantize: (.+)"
CONVERT_FAILURE = r"(?m)^(?:ERROR:.+|[\w.]*(?:Error|Exception): .+)$"


@dataclass(frozen=True)
class GgufFile:
    """Sizes and types of a GGUF file. In bytes: `bytes_by_group` and `padding_bytes` add up to all after the header."""

    size_bytes: int
    header_bytes: int  # metadata with the vocabulary, and the list of tensors
    padding_bytes: int
    parameters: int
    bytes_by_group: dict[str, int]  # groups that occur; output is absent where it is tied
    tensors_by_type: dict[str, int]
    matrices: dict[str, tuple[str, int]]  # the type of every matrix, and how many weights its blocks have
    shapes: dict[str, tuple[int, ...]]  # of every matrix: weights a row, rows

    @property
    def bits_per_weight(self) -> float:
        """As llama-quantize counts: all tensors' bits over all their weights."""
        return 8 * sum(self.bytes_by_group.values()) / self.parameters

    @property
    def widths(self) -> dict[str, int]:
        """Matrix -> weights a row."""
        return {name: shape[0] for name, shape in self.shapes.items()}

    def fallback_tensors(self, quantization: str, types: Mapping[str, str] | None = None) -> list[str]:
        """Matrices of a type that the name does not imply: llama.cpp takes it where rows are no multiple of the blocks.

        The types of a mixture have blocks as long as the name's, or longer; Q8_0 is implied by its own name alone.
        Matrices that `types` (`quantize`) gives a type of their own are none of these.
        """
        own = resolve(types or {}, self.matrices)
        return [
            name for name, (kind, block) in self.matrices.items()
            if name not in own and (block < BLOCKS[quantization] or (kind == "q8_0" and quantization != "Q8_0"))
        ]  # fmt: skip

    def fallback_shares(self, quantization: str, types: Mapping[str, str] | None = None) -> dict[str, float]:
        """The share of `fallback_tensors` among the matrices of each group that has some."""
        total = Counter(map(tensor_group, self.matrices))
        fallen = Counter(map(tensor_group, self.fallback_tensors(quantization, types)))
        return {group: fallen[group] / total[group] for group in GROUPS if fallen[group]}


def open_gguf(path: Path) -> Any:
    """gguf-py's GGUFReader of the file at `path`. Raises UserError for what is none, FileNotFoundError for none.

    The library slices an np.memmap twice for each entry of a vocabulary, and each slice becomes a new np.memmap: a
    plain array over the same mapping reads Llama 3's 128,256 entries in a quarter of the time.
    """
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    path.stat()  # raises FileNotFoundError
    try:
        return Reader(path)
    except Exception as error:  # a cut file fails in many ways
        hint = f"make it again: rm {path}, then dvc repro"
        raise UserError(f"{path} is not a whole GGUF file ({error!s:.120})", hint) from None


def inspect_gguf(path: Path) -> GgufFile:
    """Sizes and types of the file at `path`, from its header and tensor table.

    Raises UserError for a file that is truncated or no GGUF, FileNotFoundError for none.
    """
    from gguf import GGML_QUANT_SIZES

    file = open_gguf(path)
    matrices = {
        tensor.name: (tensor.tensor_type.name.lower(), GGML_QUANT_SIZES[tensor.tensor_type][0])
        for tensor in file.tensors if len(tensor.shape) > 1
    }  # fmt: skip
    end = max((int(tensor.data_offset + tensor.n_bytes) for tensor in file.tensors), default=file.data_offset)
    types = Counter(tensor.tensor_type.name.lower() for tensor in file.tensors)
    groups = bytes_by_group((tensor.name, int(tensor.n_bytes)) for tensor in file.tensors)
    size = path.stat().st_size
    if not matrices or end > size:
        what = f"{path} holds {len(file.tensors)} tensors up to byte {end}, but has {size} bytes"
        raise UserError(what, f"make it again: rm {path}, then dvc repro")
    return GgufFile(
        size_bytes=size,
        header_bytes=int(file.data_offset),
        padding_bytes=size - int(file.data_offset) - sum(groups.values()),
        parameters=sum(int(tensor.n_elements) for tensor in file.tensors),
        bytes_by_group=groups,
        tensors_by_type=dict(sorted(types.items())),
        matrices=matrices,
        shapes={each.name: tuple(map(int, each.shape)) for each in file.tensors if each.name in matrices},
    )


def _inspect_result(made: Path, source: Path, log: Path) -> GgufFile:
    """`inspect_gguf` of what a tool made of `source`: exit code 0 does not mean that the file is whole."""
    try:
        return inspect_gguf(made)
    except UserError as error:
        text = error.message.replace(str(made), "it")
        raise UserError(f"{source} gave no whole GGUF file: {text}", f"check {source}, see {log}") from None


def convert(folder: Path, target: Path, log: Path) -> GgufFile:
    """The F16 GGUF of a hub folder by llama.cpp's own convert_hf_to_gguf.py, unmodified, as `target`.

    Raises UserError with the converter's last line, OSError on a full disk; `target` is replaced at the end.
    """
    (folder / "config.json").stat()  # raises FileNotFoundError
    with replacing(target) as temporary:
        hint = f"check {folder}, then dvc repro merge convert-gguf"
        _run_converter(folder, temporary, "--outtype", "f16", writes=target, log=log, hint=hint)
        return _inspect_result(temporary, folder, log)


def convert_vocabulary(folder: Path, target: Path, log: Path, name: str) -> None:
    """A GGUF file with the tokenizer of a hub folder alone. Raises UserError, which calls the model `name`."""
    hint = f"set base.path in params.yaml to a model whose tokenizer llama.cpp knows, unlike that of {name}"
    _run_converter(folder, target, "--vocab-only", writes=target, log=log, hint=hint)


def _run_converter(folder: Path, made: Path, *options: str, writes: Path, log: Path, hint: str) -> None:
    # The script puts the gguf-py beside it first on its path, unless NO_LOCAL_GGUF is set.
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environ.pop("NO_LOCAL_GGUF", None)
    environ.pop("PYTHONPATH", None)
    processes.run_logged(
        [sys.executable, llama_cpp_build.converter(), folder, "--outfile", made, *options],
        log=log, writes=writes, environ=environ, reason=CONVERT_FAILURE, hint=hint,
    )  # fmt: skip


def quantize(
    source: Path, target: Path, quantization: str, *, threads: int, log: Path, imatrix: Path | None = None,
    types: Mapping[str, str] | None = None,
) -> GgufFile:  # fmt: skip
    """`target`, of the type `quantization`, from the F16 file `source` by llama-quantize.

    `types`: group of tensors -> a type of its own (cartlm.quantization.tensor_types). Raises UserError (missing tool,
    corrupt source, types that do not fit it, a result that is not whole), OSError on a full disk; `target` is replaced
    at the end and untouched by a failure.
    """
    source.stat()  # raises FileNotFoundError
    tool, own = llama_cpp_build.tool("llama-quantize"), types or {}
    wanted = check_fit(own, inspect_gguf(source).widths) if own else {}
    options: list[str | Path] = ["--imatrix", imatrix] if imatrix is not None else []
    with replacing(target) as temporary:
        processes.run_logged(
            [tool, *options, *tensor_options(own), source, temporary, quantization, str(threads)],
            log=log, writes=target, reason=QUANTIZE_FAILURE, hint=f"make the source again: rm {source}, then dvc repro",
        )  # fmt: skip
        made = _inspect_result(temporary, source, log)
        if made.matrices.keys() != inspect_gguf(source).matrices.keys():
            raise UserError(f"llama-quantize left out tensors of {source}", f"see {log}")
        for name, kind in wanted.items():
            if (got := made.matrices[name][0]) != kind.lower():
                raise UserError(f"llama-quantize made {got.upper()} of {name}, not {kind}", f"see {log}")
        return made


def metrics_sections(made: GgufFile, path: Path, wanted: Gguf) -> dict[str, dict[str, Any]]:
    """The metrics of a quantized file: `quantize` (type, size, hash, tensors by type) and `bytes` by tensor group.

    `tensor_types` has the groups with a type of their own; absent without one. `fallback_GROUP` is the share of a group's
    matrices that got another type than asked for; absent where none did.
    """
    types = wanted.tensor_types
    fallen = made.fallback_tensors(wanted.type, types)
    shares = made.fallback_shares(wanted.type, types)
    own = {"tensor_types": " ".join(f"{name}={kind}" for name, kind in types.items())} if types else {}
    return {
        "quantize": {
            "type": wanted.type,
            "imatrix": wanted.imatrix,
            **own,
            "sha256": sha256(path),
            "size_mib": made.size_bytes / MIB,
            "bits_per_weight": made.bits_per_weight,
            "parameters": made.parameters,
            "fallback_tensors": len(fallen),
            **{f"fallback_{group}": share for group, share in shares.items()},
            **{f"tensors_{name}": count for name, count in made.tensors_by_type.items()},
        },
        "bytes": {**made.bytes_by_group, "header": made.header_bytes, "padding": made.padding_bytes},
    }


def engine_section(tool: str, threads: int) -> dict[str, str | int]:
    """The `engine` section of what a llama.cpp tool made."""
    build = llama_cpp_build.build_info()
    return {"name": tool, "version": f"{build['source']} {build['version']}", "threads": threads}
