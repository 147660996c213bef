"""What of cartlm works on this machine, and what each missing thing costs; nothing heavy is imported."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
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


def examine(root: Path, environ: Mapping[str, str] = os.environ, system: Path = ROOT) -> list[Finding]:
    """All findings for the repository at `root`; /proc and /sys are read below `system`."""
    target = environ.get(machine.IMAGE)
    # an image is not repaired from inside
    setup = f"make image TARGET={target}, outside of this container" if target else "make setup"
    return [
        Finding("hardware target", f"the image for {target}" if target else "native, no image of ours"),
        processor(system),
        memory(system),
        disk(root),
        llama_cpp(setup, bool(target)),
        *(
            package(name, cost, setup, (target or "") in needing)
            for name, (cost, needing) in PACKAGES.items()
        ),
        card(target),
        *energy_meters(system),
        memory_cgroup(system),
        repository(root),
        remote(root),
        *(
            Finding(name, "set") if environ.get(name) else Finding(name, cost=cost)
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


def as_json(findings: Iterable[Finding]) -> list[dict[str, object]]:
    return [asdict(finding) for finding in findings]


def processor(system: Path) -> Finding:
    quota = cpu_quota(system)
    limit = "" if quota is None else f", quota {quota:g}"
    sets = " ".join(machine.instructions(system))
    cpus = f"{affinity()} usable{limit}: {threads(system)} threads"
    return Finding("CPU", f"{machine.cpu_model(system)}, {cpus}; {sets}")


def memory(system: Path) -> Finding:
    usable = machine.usable_memory(system) / machine.GIB
    size = f"{usable:.1f} GiB{'' if machine.memory_limit(system) is None else ', by a limit'}"
    if usable < MEMORY_GIB:
        return Finding("memory", cost=f"{size}, less than {MEMORY_GIB}: stages may be killed")
    return Finding("memory", size)


def disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / machine.GIB
    if free < DISK_GIB:
        cost = f"{free:.1f} GiB free, less than {DISK_GIB}: models, checkpoints and DVC's cache may not fit"
        return Finding("disk", cost=cost, command="dvc gc --all-commits")
    return Finding("disk", f"{free:,.0f} GiB free")


def llama_cpp(setup: str, image: bool = False) -> Finding:
    """The build, proven on this CPU: it loads, asks and measures a model of each type."""
    name, cost = "llama.cpp", "no GGUF: neither made, evaluated nor measured"
    try:
        info, prefix = llama_cpp_build.build_info(), llama_cpp_build.prefix()
    except UserError as error:
        return Finding(name, cost=f"{error.message}: {cost}", command=setup, needed=True)
    without = "".join(f", without {sets}" for sets in info.get("without", []))
    build = f"{info['kind']} build of llama-cpp-python {info['version']}{without}"
    verdict = llama_cpp_check.check(prefix)
    if not verdict.reason:
        llama_cpp_check.remember(prefix)
        return Finding(name, f"{build}, proven on this CPU ({verdict.variant or 'its'} code)", needed=True)
    llama_cpp_check.forget(prefix)
    # built again on this machine it leaves out what dies here, unless docker takes the layers it has
    again = setup.replace(",", " ARGS=--no-cache,") + " and on this machine" if image else setup
    cost = f"{build} does not work on this CPU: {verdict.reason}: {cost}"
    return Finding(name, cost=cost, command=again, needed=True, state="broken")


def package(name: str, cost: str, setup: str, needed: bool) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), needed=needed)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, cost=cost, command=setup, needed=needed)


def card(target: str | None) -> Finding:
    name, needed = "CUDA card", target == "gpu"
    cost = "fine-tuning and GPTQ run on the CPU, make bench TARGET=gpu stops"
    if needed:
        cost = "this image measures nothing without one"
    try:
        return Finding(name, cuda_driver.check(*cuda_driver.built_for(), image=target), needed=needed)
    except ModuleNotFoundError:
        return Finding(name, cost=f"torch is not installed: {cost}", command="make setup", needed=needed)
    except UserError as error:
        return Finding(name, cost=f"{error.message}: {cost}", command=error.hint, needed=needed)


def energy_meters(system: Path) -> list[Finding]:
    costs = {
        "cpu": "no joules in the results; bench_cpu.idle_w and load_w give an estimate",
        "gpu": "no joules of a card",
    }
    sources, findings = meters.available(system), []
    for key, name in (("cpu", "energy, CPU"), ("gpu", "energy, card")):
        if source := sources.get(f"energy_{key}"):
            findings.append(Finding(name, source))
        else:
            findings.append(Finding(name, cost=f"{sources[f'energy_{key}_absent']}: {costs[key]}"))
    return findings


def memory_cgroup(system: Path) -> Finding:
    if why := cgroup.why_none(system):
        return Finding("memory cgroup", cost=f"{why}: no peak with page cache, RSS alone")
    return Finding("memory cgroup", "one for each measured process")


def repository(root: Path) -> Finding:
    if not ((root / ".git").exists() and (root / ".dvc").is_dir()):
        cost = "no git and DVC repository here: no stage runs"
        return Finding("repository", cost=cost, command="mount a checkout at /repo")
    if not os.access(root, os.W_OK):
        return Finding("repository", cost=f"{root} is read-only: no stage runs", command=f"ls -ld {root}")
    return Finding("repository", "here")


def remote(root: Path) -> Finding:
    if shutil.which("git") is None:
        return Finding("git", cost="no repository, no comparison", command="apt-get install git", needed=True)
    name = "DVC remote"
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    except configparser.Error as error:
        cost = f"{error}: no stage runs".replace("\n", " ")
        return Finding(name, cost=cost, command="dvc config --list")
    if default := config.get("core", "remote", fallback=""):
        return Finding(name, default)
    cost = "each clone makes all models itself; see docs/guide/machines.md"
    return Finding(name, cost=cost, command="dvc remote add -d NAME URL")
