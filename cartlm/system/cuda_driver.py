"""Whether a CUDA program can start here, by the driver itself: without torch, in milliseconds."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import runpy
from collections.abc import Callable, Mapping
from typing import Any

from cartlm.errors import UserError

LIBRARY = "libcuda.so.1"
NO_DEVICE, INSUFFICIENT_DRIVER = 100, 35  # CUresult of cuInit, cuda.h
CARDS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def built_for() -> tuple[str, str | None]:
    """Version and CUDA (None: none) of the installed torch, without importing it. Raises UserError."""
    try:
        torch = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("torch is not installed", "make setup") from None
    return torch.version, runpy.run_path(str(torch.locate_file("torch/version.py")))["cuda"]


def check(
    torch: str,
    cuda: str | None,
    image: str | None = None,
    environ: Mapping[str, str] = os.environ,
    load: Callable[[str], Any] = ctypes.CDLL,
) -> str:
    """One line about the cards and the driver that torch, built for `cuda`, can use; `image`: the target of our image.

    Raises UserError where torch has no CUDA, where driver or card are missing, and where the driver is too old.
    """
    if cuda is None:
        raise UserError(f"torch {torch} is built without CUDA", "pip install -r docker/gpu.txt")
    try:
        driver = load(LIBRARY)
    except OSError:
        hint = f"docker run --gpus all cartlm:{image}" if image else "nvidia-smi"
        where = "in this container" if image else "on this machine"
        raise UserError(f"no NVIDIA driver {where}: {LIBRARY} is missing", hint) from None
    version, cards = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    status = driver.cuInit(0)
    # Within a major version of CUDA, any driver of it will do.
    if status == INSUFFICIENT_DRIVER or version.value // 1000 < int(cuda.split(".")[0]):
        raise UserError(
            f"the NVIDIA driver is too old: it runs CUDA {newest}, torch {torch} needs {cuda}",
            "install a newer driver on the host, then nvidia-smi",
        )
    driver.cuDeviceGetCount(ctypes.byref(cards))  # stays 0 where cuInit failed
    if cards.value:
        return f"{cards.value} CUDA card(s), driver for CUDA {newest}, torch {torch} for CUDA {cuda}"
    hidden = "".join(f"; set here: {name}={environ[name]}" for name in CARDS if name in environ)
    why = "" if status in (0, NO_DEVICE) else f" (cuInit: error {status})"
    raise UserError(f"the NVIDIA driver shows no card{why}{hidden}", "nvidia-smi -L")
