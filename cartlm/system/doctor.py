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
    "datasets": ("no rows of published datasets", ()),
    "openai": ("no rows that a model words, no servers to compare with", ()),
}
"""Distribution -> what does not work without it, and who needs it: "" (everybody), or the image of a target."""
KEYS = {
    "OPENAI_API_KEY": "data.source openai and make remote, where their server wants a key",
    "HF_TOKEN": "models and datasets of the hub that ask for a licence, such as Llama's",
}
NO_JOULES = "no joules in the results; bench_cpu.idle_w and load_w give an estimate"
DISK_GIB, MEMORY_GIB = 5, 4


class Broken(UserError):
    """It is there and does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing looked for: `found`, or what its absence costs and the `command` that helps."""

    name: str
    found: str = ""
    cost: str = ""
    command: str = ""
    needed: bool = False  # by everything, or by the hardware target of this image
    state: str = "missing"  # or broken


NO_GIT = Finding("git", "", "no repository, no comparison", "apt-get install git", needed=True)


def look(name: str, finder: Callable[..., str], *arguments: object, needed: bool = False) -> Finding:
    """What a finder tells, or the cost and the command of the UserError that it raises."""
    try:
        return Finding(name, finder(*arguments), needed=needed)
    except UserError as error:
        state = "broken" if isinstance(error, Broken) else "missing"
        return Finding(name, "", error.message, error.hint, needed, state)


def examine(root: Path, environ: Mapping[str, str] = os.environ, system: Path = ROOT) -> list[Finding]:
    """All findings for the repository at `root`; /proc and /sys are read below `system`."""
    target = environ.get(machine.IMAGE, "")
    # an image is not repaired from inside
    setup = f"make image TARGET={target}, outside of this container" if target else "make setup"
    return [
        Finding("hardware target", f"the image for {target}" if target else "native, no image of ours"),
        Finding("CPU", processor(system)),
        look("memory", memory, system),
        look("disk", disk, root),
        look("llama.cpp", llama_cpp, setup, bool(target), needed=True),
        *(
            look(name, package, name, cost, setup, needed=target in needing)
            for name, (cost, needing) in PACKAGES.items()
        ),
        look("CUDA card", card, target, needed=target == "gpu"),
        look("energy, CPU", energy, partial(meters.rapl_counters, system), NO_JOULES),
        look("energy, card", energy, partial(meters.nvml_counters, 0), "no joules of a card"),
        look("memory cgroup", memory_cgroup, system),
        look("repository", repository, root),
        look("DVC remote", remote, root) if shutil.which("git") else NO_GIT,
        *(
            Finding(name, "set" if environ.get(name) else "", "" if environ.get(name) else cost)
            for name, cost in KEYS.items()
        ),
    ]


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


def llama_cpp(setup: str, image: bool = False) -> str:
    """The build, proven on this CPU: it loads, asks and measures a model of each type."""
    cost = "no GGUF: neither made, evaluated nor measured"
    try:
        info, prefix = llama_cpp_build.build_info(), llama_cpp_build.prefix()
    except UserError as error:
        raise UserError(f"{error.message}: {cost}", setup) from None
    without = "".join(f", without {sets}" for sets in info.get("without", []))
    build = f"{info['kind']} build of llama-cpp-python {info['version']}{without}"
    verdict = llama_cpp_check.check(prefix)
    if not verdict.reason:
        return f"{build}, proven on this CPU ({verdict.variant or 'its'} code)"
    # built again on this machine it leaves out what dies here, unless docker takes the layers it has
    again = setup.replace(",", " ARGS=--no-cache,") + " and on this machine" if image else setup
    raise Broken(f"{build} does not work on this CPU: {verdict.reason}: {cost}", again)


def package(name: str, cost: str, setup: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(cost, setup) from None


def card(target: str) -> str:
    cost = "fine-tuning and GPTQ run on the CPU, make bench TARGET=gpu stops"
    try:
        return cuda_driver.check(*cuda_driver.built_for(), image=target)
    except UserError as error:
        cost = "this image measures nothing without one" if target == "gpu" else cost
        raise UserError(f"{error.message}: {cost}", error.hint) from None


def energy(counters: Callable[[], list[meters.Counter]], cost: str) -> str:
    try:
        return meters.describe(counters())
    except UserError as error:
        raise UserError(f"{error}: {cost}") from None


def memory_cgroup(system: Path) -> str:
    if why := cgroup.why_none(system):
        raise UserError(f"{why}: no peak with page cache, RSS alone")
    return "one for each measured process"


def repository(root: Path) -> str:
    if not ((root / ".git").exists() and (root / ".dvc").is_dir()):
        raise UserError("no git and DVC repository here: no stage runs", "mount a checkout at /repo")
    if not os.access(root, os.W_OK):
        raise UserError(f"{root} is read-only: no stage runs", f"ls -ld {root}")
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
