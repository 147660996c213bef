"""Memory of this process by the kernel's own account (/proc/self/status), and of a CUDA card, in MiB.

Resident memory counts the touched pages of the mapped model file, so several processes each count a file they share,
and a model grows into it with use (llama.cpp issue 864). Hence the parts: `RssAnon` belongs to this process alone,
`RssFile` is mapped from files. (psutil has neither them nor the peak.)

A card has three accounts that differ (optimum-benchmark issue 31). `allocated`: tensors, by torch. `reserved`: what
torch took from the driver, its free blocks included. `used`: by how much the card's free memory fell since this process
had its CUDA context: code of kernels and libraries and other programs included, the context itself (some hundred MiB)
excluded.
"""

from __future__ import annotations

import gc
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.files import MIB
from cartlm.system.meters import nvml

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
FIELDS = ("VmRSS", "VmHWM", "RssAnon", "RssFile")


def now(status: Path = STATUS) -> dict[str, float]:
    """MiB of this process now, by the kernel's FIELDS; VmHWM is the peak since it began, or since `reset_peak`.

    Raises UserError without a Linux /proc. (Not getrusage's ru_maxrss, which is inherited over exec from the process
    that started this one.)
    """
    try:
        kib = dict(re.findall(r"(\w+):\s*(\d+) kB", status.read_text(encoding="utf-8")))
        return {name: int(kib[name]) / 1024 for name in FIELDS}
    except (OSError, KeyError) as error:
        raise UserError(f"{status} ({error}): memory is measured on Linux 4.5 and newer only") from None


def reset_peak(clear: Path = CLEAR) -> bool:
    """Start the peak anew, so that load and run have one each; False where the kernel refuses (filesystems/proc,
    clear_refs 5).
    """
    with suppress(OSError):
        clear.write_text("5", encoding="ascii")
        return True
    return False


def card_index() -> int:
    """NVML's number of the card that CUDA calls 0, which CUDA_VISIBLE_DEVICES changes.

    Raises UserError without NVML, or where it does not list the card (a part of one under MIG).
    """
    pynvml = nvml()
    import torch

    try:
        ours = str(torch.cuda.get_device_properties(0).uuid)
        for number in range(pynvml.nvmlDeviceGetCount()):
            if ours in str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(number))):
                return number
    except pynvml.NVMLError as error:
        raise UserError(f"NVML does not answer: {error}") from None
    raise UserError(f"NVML does not list the card {ours}")


class Vram:
    """The card's memory since before the load of a model; without a card everything is empty."""

    def __init__(self, device: str) -> None:
        self.cuda: Any = None
        if device.startswith("cuda"):
            import torch

            self.cuda = torch.cuda
            self.free_before = self.cuda.mem_get_info()[0]
            self.reset_peak()

    def reset_peak(self) -> None:
        """Let torch's peaks begin at what is allocated now."""
        if self.cuda:
            self.cuda.synchronize()
            self.cuda.reset_peak_memory_stats()

    def now(self, when: str) -> dict[str, float]:
        """vram_<when>_allocated_mib, _reserved_mib (peaks since `reset_peak`) and _used_mib."""
        if not self.cuda:
            return {}
        self.cuda.synchronize()
        peaks = {
            f"vram_{when}_allocated_mib": self.cuda.max_memory_allocated() / MIB,
            f"vram_{when}_reserved_mib": self.cuda.max_memory_reserved() / MIB,
        }
        if when == "load":  # what repacking and quantizing at load left free is no part of the run
            gc.collect()
            self.cuda.empty_cache()
        used = max(0, self.free_before - self.cuda.mem_get_info()[0])
        return {**peaks, f"vram_{when}_used_mib": used / MIB}
