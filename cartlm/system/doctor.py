"""What of cartlm works on this machine, and what each missing thing costs; nothing heavy is imported."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cartlm.errors import UserError
from cartlm.system import cgroup, cuda_driver, llama_cpp_build, llama_cpp_check, machine, meters
from cartlm.system.cpu_limits import ROOT, affinity, cpu_quota, threads

PACKAGES = {
    "dvc": ("no stage runs", ("", "cpu", "gpu")),
    "torch": ("no fine-tuning, merge, GPTQ, and accuracy of what transformers runs", ("cpu", "gpu")),
    "transformers": ("the same as without torch", ("cpu", "gpu")),
    "bitsandbytes": ("no fine-tuning in NF4 (QLoRA)", ("cpu", "gpu")),
    "trl": ("no fine-tuning on a card", ("gpu",)),
    "gptqmodel": ("no GPTQ variant is made", ("cpu", "gpu")),
    "scikit-learn": ("no baseline is fitted", ("cpu", "gpu")),
    "datasets": ("no rows of published datasets", ()),
    "openai": ("no rows that a model words, no servers to compare with", ()),
}
"""Distribution -> what does not work without it, and who needs it: "" (everybody), or the image of a target."""
KEYS = {
    "OPENAI_API_KEY": "data.source openai and make remote, where their server wants a key",
    "HF_TOKEN": "models and datasets of the hub that ask for a licence, such as Llama's",
}
DISK_GIB, MEMORY_GIB = 5, 4


@dataclass(frozen=True)
class Finding:
    """One thing looked for: `found`, or what its absence costs and the `command` that helps."""

    name: str
    found: str = ""
    cost: str = ""
    command: str = ""
    needed: bool = False  # by everything, or by the hardware target of this image
    state: str = "missing"  # or broken


def look(
    name: str, finder: Callable[[], str], cost: str = "", command: str = "", needed: bool = False
) -> Finding:
    """What a finder tells; or why it finds nothing, the `cost` of that, and `command` or the one that the finder names."""
    try:
        return Finding(name, finder(), needed=needed)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "", cost, command, needed)
    except UserError as error:
        why = f"{error.message}: {cost}" if cost else error.message
        return Finding(name, "", why, command or error.hint, needed)


def examine(root: Path, environ: Mapping[str, str] = os.environ, system: Path = ROOT) -> list[Finding]:
    """All findings for the repository at `root`; /proc and /sys are read below `system`."""
    target = environ.get(machine.IMAGE, "")
    # an image is not repaired from inside
    setup = f"make image TARGET={target}, outside of this container" if target else "make setup"
    no_card = "fine-tuning and GPTQ run on the CPU, make bench TARGET=gpu stops"
    no_joules = "no joules in the results; bench_cpu.idle_w and load_w give an estimate"
    return [
        Finding("hardware target", f"the image for {target}" if target else "native, no image of ours"),
        Finding("CPU", processor(system)),
        look("memory", partial(memory, system)),
        look("disk", partial(disk, root)),
        llama_cpp(setup, bool(target)),
        *(
            look(name, partial(importlib.metadata.version, name), cost, setup, target in needing)
            for name, (cost, needing) in PACKAGES.items()
        ),
        look(
            "CUDA card", lambda: cuda_driver.check(*cuda_driver.built_for(), image=target),
            "this image measures nothing without one" if target == "gpu" else no_card, needed=target == "gpu",
        ),
        look("energy, CPU", lambda: meters.describe(meters.rapl_counters(system)), no_joules),
        look("energy, card", lambda: meters.describe(meters.nvml_counters(0)), "no joules of a card"),
        look("memory cgroup", partial(memory_cgroup, system), "no peak with page cache, RSS alone"),
        look("repository", partial(repository, root), "no stage runs"),
        look("DVC remote", partial(remote, root))
        if shutil.which("git")
        else Finding("git", "", "no repository, no comparison", "apt-get install git", needed=True),
        *(Finding(name, "set" if environ.get(name) else "", cost) for name, cost in KEYS.items()),
    ]  # fmt: skip


def broken(findings: Iterable[Finding]) -> list[Finding]:
    """What is needed and missing."""
    return [finding for finding in findings if finding.needed and not finding.found]


def text(findings: Iterable[Finding]) -> str:
    """A line for each, the missing ones with what they cost."""
    lines = []
    for each in findings:
        state = each.found or f"{each.state}: {each.cost}" + (f" -> {each.command}" if each.command else "")
        lines.append(f"{'ok' if each.found else 'NO' if each.needed else '--'}  {each.name:<16} {state}")
    return "\n".join(lines)


def processor(system: Path) -> str:
    quota = cpu_quota(system)
    limit = "" if quota is None else f", quota {quota:g}"
    cpus = f"{affinity()} usable{limit}: {threads(system)} threads"
    return f"{machine.cpu_model(system)}, {cpus}; {' '.join(machine.instructions(system))}"


def memory(system: Path) -> str:
    size = machine.describe_memory(system)
    if machine.usable_memory(system) < MEMORY_GIB * machine.GIB:
        raise UserError(f"{size}, less than {MEMORY_GIB}: stages may be killed")
    return size


def disk(root: Path) -> str:
    free = shutil.disk_usage(root).free / machine.GIB
    if free < DISK_GIB:
        cost = f"{free:.1f} GiB free, less than {DISK_GIB}: models, checkpoints and DVC's cache may not fit"
        raise UserError(cost, "dvc gc --all-commits")
    return f"{free:,.0f} GiB free"


def llama_cpp(setup: str, image: bool = False) -> Finding:
    """The build, proven on this CPU: it loads, asks and measures a model of each type."""
    name, cost = "llama.cpp", "no GGUF: neither made, evaluated nor measured"
    try:
        info, prefix = llama_cpp_build.build_info(), llama_cpp_build.prefix()
    except UserError as error:
        return Finding(name, "", f"{error.message}: {cost}", setup, needed=True)
    without = "".join(f", without {sets}" for sets in info.get("without", []))
    build = f"{info['kind']} build of llama-cpp-python {info['version']}{without}"
    verdict = llama_cpp_check.check(prefix)
    if not verdict.reason:
        return Finding(name, f"{build}, proven on this CPU ({verdict.variant or 'its'} code)", needed=True)
    # built again on this machine it leaves out what dies here, unless docker takes the layers it has
    again = setup.replace(",", " ARGS=--no-cache,") + " and on this machine" if image else setup
    why = f"{build} does not work on this CPU: {verdict.reason}: {cost}"
    return Finding(name, "", why, again, needed=True, state="broken")


def memory_cgroup(system: Path) -> str:
    if why := cgroup.why_none(system):
        raise UserError(why)
    return "one for each measured process"


def repository(root: Path) -> str:
    if not ((root / ".git").exists() and (root / ".dvc").is_dir()):
        raise UserError("no git and DVC repository here", "mount a checkout at /repo")
    if not os.access(root, os.W_OK):
        raise UserError(f"{root} is read-only", f"ls -ld {root}")
    return "here"


def remote(root: Path) -> str:
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    except configparser.Error as error:
        raise UserError(f"{error}: no stage runs", "dvc config --list") from None
    if default := config.get("core", "remote", fallback=""):
        return default
    cost = "each clone makes all models itself; see docs/guide/machines.md"
    raise UserError(cost, "dvc remote add -d NAME URL")
