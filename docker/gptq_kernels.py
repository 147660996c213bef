"""GPTQModel's kernels for CUDA cards, built ahead on a machine that has no card.

    python docker/gptq_kernels.py [NAME ...]            compile those that are missing, for TORCH_CUDA_ARCH_LIST
    python docker/gptq_kernels.py --check [NAME ...]    compile nothing; exit code 2 where a card would have to compile

They lie in GPTQMODEL_TORCH_EXTENSIONS_DIR, each in a folder named by a hash of its sources, of torch, of nvcc's version and
of the architectures: the image that uses them needs the same environment variables as the stage that built them.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it does not import on two cores otherwise

# Not here: Machete (Hopper) and Swordfish (Blackwell) fetch CUTLASS from GitHub; the rest is for other formats than GPTQ.
KERNELS = ("pack_block_cpu", "exllamav2", "marlin_fp16", "marlin_bf16")


def main() -> None:
    """Build or check."""
    import torch
    from gptqmodel import extension

    # GPTQModel compiles only where it sees a card; what it compiles for is TORCH_CUDA_ARCH_LIST.
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 0

    specs = {spec.name: spec for spec in extension._EXTENSION_SPECS}
    names = [name for name in sys.argv[1:] if name != "--check"] or KERNELS
    if "--check" in sys.argv[1:]:
        sys.exit(2 if missing(torch, [specs[name] for name in names]) else 0)
    for name in names:
        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):  # a progress bar, a line a second
            extension.load(name)
        for path in specs[name].resolve().build_root().iterdir():
            if path.suffix != ".so":
                path.unlink()
        print(f"gptq_kernels: {name} in {time.monotonic() - started:.0f} s", flush=True)


def missing(torch: Any, specs: list[Any]) -> bool:
    """Whether a card of any of the architectures would find a kernel missing; prints what each would find."""
    bad = False
    torch.cuda.device_count = lambda: 1
    for architecture in os.environ["TORCH_CUDA_ARCH_LIST"].split(";"):
        major, minor = map(int, architecture.split("."))
        torch.cuda.get_device_capability = lambda device=None, found=(major, minor): found
        for spec in specs:
            kernel = spec.resolve()
            there = [path for path in kernel._candidate_binary_paths(kernel.build_root()) if path.is_file()]
            for path in there:
                torch.ops.load_library(str(path))
            works = bool(there) and kernel._ops_available()
            bad |= not works
            print(f"gptq_kernels: {spec.name} on sm_{major}{minor}: {'built ahead' if works else 'MISSING'}")
    return bad


if __name__ == "__main__":
    main()
