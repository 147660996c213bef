"""The machine a number was measured on: what a process may use of it, and a fingerprint to compare two by.

Everything is read below `root`, which tests replace by a tree of plain files.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from cartlm.errors import UserError
from cartlm.system import llama_cpp_build, meters
from cartlm.system.cpu_limits import ROOT, affinity, cpu_quota, groups, read, threads

GIB = 2**30
IMAGE = "CARTLM_IMAGE"  # set by our Dockerfiles to the hardware target of the image
CONTAINER_MARKS = (".dockerenv", "run/.containerenv", "run/systemd/container")
# The instruction sets for which ggml-cpu has code of its own (ggml/src/ggml-cpu/CMakeLists.txt), by /proc/cpuinfo's
# names on x86 and Arm.
INSTRUCTIONS = (
    "sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni", "avx512f", "avx512vbmi", "avx512_vnni",
    "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
LIBRARIES = (
    "llama-cpp-python", "gguf", "numpy", "scipy", "rapidfuzz", "torch", "transformers", "gptqmodel", "bitsandbytes",
)  # fmt: skip


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the cgroups above this process allow it; None without a limit."""
    limits = []
    for version, folder in groups(root, "memory"):
        text = read(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")) or ""
        if text.isdigit() and int(text) < 2**60:  # v1 writes a number near 2**63 for no limit
            limits.append(int(text))
    return min(limits, default=None)


def throttling(root: Path = ROOT) -> dict[str, float]:
    """Counters of cpu.stat since the cgroup began, summed over the groups above this process; empty without them.

    `throttled_periods`: scheduling periods in which the quota ran out, `throttled_s`: time that threads were held back.
    """
    total: Counter[str] = Counter()
    for _, folder in groups(root, "cpu"):
        total.update(
            {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", read(folder / "cpu.stat") or "")}
        )
    if "nr_throttled" not in total:
        return {}
    seconds = total["throttled_usec"] / 1e6 + total["throttled_time"] / 1e9  # cgroup v2, v1
    return {"throttled_periods": total["nr_throttled"], "throttled_s": seconds}


def busy_seconds(cpus: Collection[int] | None = None, root: Path = ROOT) -> tuple[float, ...]:
    """CPU seconds since boot of all programs with those a hypervisor took away, the latter alone, and the host's first.

    Of all CPUs, or of those numbered in `cpus`, from /proc/stat, in steps of 0.01 s; empty where it lacks them.
    A container sees the /proc/stat of its host, so the sum of all includes CPUs outside its cpuset. (psutil has no
    numbers of CPUs.)
    """
    names = {"cpu"} if cpus is None else {f"cpu{number}" for number in cpus}
    lines = [line.split() for line in (read(root / "proc/stat") or "").splitlines() if line.startswith("cpu")]
    # user nice system idle iowait irq softirq steal
    ticks = {name: list(map(int, values[:8])) for name, *values in lines}
    if not names <= ticks.keys():
        return ()
    busy = {name: sum(values) - values[3] - values[4] for name, values in ticks.items()}
    found = sum(busy[name] for name in names), sum(ticks[name][7] for name in names), busy["cpu"]
    return tuple(count / os.sysconf("SC_CLK_TCK") for count in found)


class OtherPrograms:
    """CPUs that other programs kept busy since this object was made, and those that a hypervisor took away."""

    def __init__(self) -> None:
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # of a cpuset too
        self._before = self._read()

    def _read(self) -> tuple[float, ...]:
        """Seconds of the usable CPUs, of them stolen ones, of the host, our own, and the time.

        Our own are those of this process and its ended children. Empty where the kernel does not count them.
        """
        found = busy_seconds(self._cpus)
        return (*found, sum(os.times()[:4]), time.monotonic()) if found else ()

    def so_far(self) -> dict[str, float]:
        """Mean numbers: `other_cpus`, of those this process may use, of them `stolen_cpus`, and `other_cpus_host` of
        the whole machine; empty where the kernel does not count them.
        """
        now = self._read()
        if not now or not self._before:
            return {}
        usable, stolen, host, own, seconds = (b - a for a, b in zip(self._before, now, strict=True))
        return {
            "other_cpus": max(0.0, (usable - own) / seconds),
            "other_cpus_host": max(0.0, (host - own) / seconds),
            "stolen_cpus": stolen / seconds,
        }


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first value of each key in /proc/cpuinfo."""
    lines = [line.partition(":") for line in (read(root / "proc/cpuinfo") or "").splitlines()]
    return {name.strip(): value.strip() for name, _, value in reversed(lines)}


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name, or its Arm part number, or the architecture where the kernel names neither."""
    info = _cpuinfo(root)
    part = info.get("CPU part")
    told = info.get("model name") or info.get("Model") or (f"CPU part {part}" if part else "")
    return told or platform.processor() or platform.machine()


def instructions(root: Path = ROOT) -> list[str]:
    """Instruction sets of the processor for which llama.cpp has code, in the order of INSTRUCTIONS."""
    info = _cpuinfo(root)
    flags = (info.get("flags") or info.get("Features", "")).split()
    return [name for name in INSTRUCTIONS if name in flags]


def usable_memory(root: Path = ROOT) -> int:
    """Bytes that a process may use: the machine's RAM, or less by the limit of a cgroup above it."""
    return min(psutil.virtual_memory().total, memory_limit(root) or sys.maxsize)


def describe_memory(root: Path = ROOT) -> str:
    """`usable_memory`, and whether a cgroup limits it, in words."""
    return f"{usable_memory(root) / GIB:.1f} GiB{'' if memory_limit(root) is None else ', by a limit'}"


def runtime(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> str:
    """`image` in an image of ours, `container` in another one, else `native`.

    A mark such as /.dockerenv alone does not make a container: a virtual machine made from an image has it
    too, but its processes see the kernel's own (kthreadd is process 2).
    """
    if environ.get(IMAGE):
        return "image"
    marked = any((root / mark).exists() for mark in CONTAINER_MARKS)
    return "container" if marked and read(root / "proc/2/comm") != "kthreadd" else "native"


def require_target(target: str, hint: str = "", environ: Mapping[str, str] = os.environ) -> None:
    """Raises UserError in an image of another hardware target: its numbers would go under the wrong name.

    `hint` is the command that measures there, `make bench TARGET=...` by default.
    """
    image = environ.get(IMAGE)
    if image and image != target:
        raise UserError(
            f"this is the image for {image}, and a benchmark of {target} is not measured in it",
            hint or f"make bench TARGET={target}",
        )


def build() -> dict[str, str]:
    """How llama.cpp was built, `build` and `build_compiler`; empty where there is none (a training image).

    `build_without` names the CPU code that was left out because it died here, `build_reason` how.
    """
    try:
        info = llama_cpp_build.build_info()
    except UserError:
        return {}
    flags = [flag for flag in info["flags"] if flag.startswith("GGML_") and "CCACHE" not in flag]
    without = ",".join(info.get("without", []))
    kind = f"{info['kind']} without {without}" if without else info["kind"]
    values = {"build": f"{kind} {' '.join(flags)}", "build_compiler": info["compiler"]}
    return values | ({"build_without": without, "build_reason": info["reason"]} if without else {})


def card(number: int = 0) -> dict[str, Any]:
    """An NVIDIA card by NVML: `gpu`, `gpu_driver`, `gpu_memory_gib` and the `gpu_power_limit_w` set on it.

    Empty without the package nvidia-ml-py, driver or card; what a card does not report is absent.
    """
    values: dict[str, Any] = {}
    with suppress(UserError):
        pynvml = meters.nvml()
        with suppress(pynvml.NVMLError):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            queries = {
                "gpu": lambda: pynvml.nvmlDeviceGetName(handle),
                "gpu_driver": pynvml.nvmlSystemGetDriverVersion,
                "gpu_memory_gib": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIB,
                "gpu_power_limit_w": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            }
            for name, query in queries.items():
                with suppress(pynvml.NVMLError):
                    values[name] = query()
    return values


def fingerprint(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The `machine` section of every metrics file: `name` for people, `build`, and `hash` to compare by.

    Two runs compare if the hashes are equal: processor, instruction sets (a virtual machine may hide AMX), usable CPUs
    and memory (whole GiB), runtime, and llama.cpp's build with what was left out of it. Kernel and libraries are left
    out: they change without another machine.
    """
    quota = cpu_quota(root)
    count = f"x{affinity()}" if quota is None or quota >= affinity() else f"x{affinity()} (quota {quota:g})"
    name = f"{cpu_model(root)} {count}, {round(usable_memory(root) / GIB)} GiB, {runtime(root, environ)}"
    llama_cpp = build()
    code = [llama_cpp[key] for key in ("build", "build_compiler") if key in llama_cpp]
    content = "\n".join([name, *instructions(root), *code])
    values = {"name": name, "hash": hashlib.sha256(content.encode()).hexdigest()[:12]}
    return {**values, "build": llama_cpp["build"]} if llama_cpp else values


def details(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a reader of a benchmark may want to know of the machine; what is unknown is absent."""
    limit = memory_limit(root)
    values: dict[str, Any] = {
        "cpu": cpu_model(root),
        "instructions": " ".join(instructions(root)),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "affinity_cpus": affinity(),
        "quota_cpus": cpu_quota(root),
        "threads": threads(root),
        "ram_gib": psutil.virtual_memory().total / GIB,
        "memory_limit_gib": None if limit is None else limit / GIB,
        "runtime": runtime(root, environ),
        "image": environ.get(IMAGE) or None,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **build(),
        **card(),
        **libraries(),
    }
    return {key: value for key, value in values.items() if value is not None}


def libraries() -> dict[str, str]:
    """The versions of those of LIBRARIES that are installed."""
    versions = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name.replace("-", "_")] = metadata.version(name)
    return versions
