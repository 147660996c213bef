"""How much memory training takes: malloc kept steady, and a batch split so that a step stays inside a bound."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cartlm.errors import UserError
from cartlm.files import MIB

GIB = 2**30
LIBRARIES = {"cpu": 0.9, "cuda": 0.6}
"""GiB that torch, transformers and trl take before any model. cpu: resident memory of the offline run; cuda: assumed."""
HEAD = 200 * MIB
"""What the logits that are computed at a time take, with their gradients."""
ROW = 1.3
"""What a row takes at its peak, as a multiple of what autograd keeps of it: an estimate, on the safe side."""
MALLOPT = {"M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**28)}
"""glibc's numbers of these settings (malloc.h) and their values in bytes; 2**25 is the highest threshold it takes."""


def steady_malloc() -> None:
    """Have glibc give freed memory to the next layer instead of to the system, whose pages are filled with zeros first.

    Without glibc nothing is changed.
    """
    if (libc := _glibc()) is not None:
        for number, value in MALLOPT.values():
            libc.mallopt(number, value)


def trim() -> None:
    """Give free memory back to the system, where glibc can."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def peak_mib(device: str) -> float:
    """The most memory so far: on CUDA what torch reserved, else resident memory of this process."""
    if device == "cuda":
        return float(torch.cuda.max_memory_reserved() / MIB)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MIB


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Address -> bytes of the memory that the tensors lie in, each once."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def kept_for_backward(forward: Callable[[], Any], frozen: Iterable[int]) -> int:
    """Bytes that autograd keeps between `forward` and its backward pass, without the addresses in `frozen`.

    The random numbers that it draws are put back. The result depends on shapes and dtypes alone.
    """
    known, kept = set(frozen), {}

    def pack(tensor: Tensor) -> Tensor:
        kept.update(storages([tensor]))
        return tensor

    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(size for address, size in kept.items() if address not in known)


@dataclass(frozen=True)
class Cost:
    """Bytes of a training step: what any step takes, and what each row of the longest length adds.

    `held`: what keeping the frozen matrices in the compute dtype adds (0: nothing to keep).
    """

    fixed: int
    row: int
    held: int

    def gib(self, rows: int, held: bool) -> float:
        """GiB of a step with batches of `rows`."""
        return (self.fixed + rows * self.row + (self.held if held else 0)) / GIB


def split(cost: Cost, batch_size: int, most: int, bound_gib: float | None, tokens: int) -> tuple[int, bool]:
    """(rows of a micro batch, whether the frozen matrices are held): the most that stay inside `bound_gib`.

    The rows are a divisor of `batch_size`, at most `most` of them. Raises UserError if a single row of `tokens` tokens
    does not fit.
    """
    divisors = [rows for rows in range(min(most, batch_size), 0, -1) if batch_size % rows == 0]
    if bound_gib is None:
        return divisors[0], True
    for held in (True, False):
        for rows in divisors:
            if cost.gib(rows, held) <= bound_gib:
                return rows, held
    least = math.ceil(cost.gib(1, False) * 10) / 10
    raise UserError(
        f"finetune.device_memory_gib={bound_gib:g} is too little for one row of {tokens} tokens, about {least:g} GiB",
        f"set finetune.device_memory_gib to {least:g} or more in params.yaml (gradient_checkpointing: true lowers it), "
        "then dvc repro finetune",
    )
