"""What this machine can do of what cartlm does, and what each missing thing costs; nothing heavy is imported."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cartlm.errors import UserError
from cartlm.system import cgroup as group
from cartlm.system import cuda_driver, llama_cpp_build, llama_cpp_check, machine
from cartlm.system import meters as energy_meters
from cartlm.system.cpu_limits import ROOT, affinity, cpu_quota, threads

PACKAGES = {
    "dvc": ("no stage runs", ("", "cpu", "gpu")),
    "torch": (
        "no fine-tuning, merge, GPTQ, and accuracy of what transformers runs",
        ("cpu", "gpu"),
    ),
    "transformers": ("the same as without torch", ("cpu", "gpu")),
    "bitsandbytes": ("no fine-tuning in NF4 (QLoRA)", ("cpu", "gpu")),
    "trl": ("no fine-tuning on a card", ("gpu",)),
    "gptqmodel": ("no GPTQ variant is made", ("cpu", "gpu")),
    "datasets": ("no rows of published datasets", ()),
    "openai": ("no rows that a model words, no servers to compare with", ()),
}
"""Distribution -> what does not work without it, and for whom that is all: "" (everybody), or the image of a target."""
KEYS = {
    "OPENAI_API_KEY": "data.source openai and make remote, where their server wants a key",
    "HF_TOKEN": "models and datasets of the hub that ask for a licence, such as Llama's",
}
DISK_GIB, MEMORY_GIB = 5, 4


@dataclass(frozen=True)
class Finding:
    """One thing looked for. What is there has `found` alone; what is not, `cost` and the `command` that helps."""

    name: str
    found: str = ""
    cost: str = ""
    command: str = ""
    needed: bool = False  # by everything, or by the hardware target of this image
    state: str = "missing"  # or broken


def examine(root: Path, environ: Mapping[str, str] = os.environ, system: Path = ROOT) -> list[Finding]:
    """All findings for the repository at `root`; /proc and /sys are read below `system`."""
    target = environ.get(machine.IMAGE)
    # an image is not mended from inside
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
        *meters(system),
        cgroup(system),
        repository(root),
        remote(root),
        *(
            Finding(name, "set") if environ.get(name) else Finding(name, cost=cost)
            for name, cost in KEYS.items()
        ),
    ]


def broken(findings: Iterable[Finding]) -> list[Finding]:
    """What must be there and is not."""
    return [finding for finding in findings if finding.needed and not finding.found]


def text(findings: Iterable[Finding]) -> str:
    """A line for each, the missing ones with what they cost."""
    lines = []
    for each in findings:
        said = each.found or f"{each.state}: {each.cost}" + (f" -> {each.command}" if each.command else "")
        lines.append(f"{'ok' if each.found else 'NO' if each.needed else '--'}  {each.name:<16} {said}")
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> list[dict[str, object]]:
    return [asdict(finding) for finding in findings]


def attempt(name: str, ask: Callable[[], str], cost: str, command: str = "", needed: bool = False) -> Finding:
    """A finding from a question that raises UserError where the answer is no."""
    try:
        return Finding(name, ask(), needed=needed)
    except UserError as error:
        return Finding(name, cost=f"{error.message}: {cost}", command=command or error.hint, needed=needed)


def processor(system: Path) -> Finding:
    quota = cpu_quota(system)
    limit = "" if quota is None else f", quota {quota:g}"
    sets = " ".join(machine.instructions(system))
    found = f"{machine.cpu_model(system)}, {affinity()} usable{limit}: {threads(system)} threads; {sets}"
    return Finding("CPU", found)


def memory(system: Path) -> Finding:
    usable = machine.usable_memory(system) / machine.GIB
    said = f"{usable:.1f} GiB{'' if machine.memory_limit(system) is None else ', by a limit'}"
    if usable < MEMORY_GIB:
        return Finding("memory", cost=f"{said}, less than {MEMORY_GIB}: stages may be killed")
    return Finding("memory", said)


def disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / machine.GIB
    if free < DISK_GIB:
        cost = f"{free:.1f} GiB free, less than {DISK_GIB}: models, checkpoints and DVC's cache may not fit"
        return Finding("disk", cost=cost, command="dvc gc --all-commits")
    return Finding("disk", f"{free:,.0f} GiB free")


def llama_cpp(setup: str, image: bool = False) -> Finding:
    """The build, proven on this CPU: a model of each type is loaded, asked and measured by it."""
    cost = "no GGUF: neither made, evaluated nor measured"
    try:
        info, prefix = llama_cpp_build.build_info(), llama_cpp_build.prefix()
    except UserError as error:
        return Finding("llama.cpp", cost=f"{error.message}: {cost}", command=setup, needed=True)
    without = "".join(f", without {name}" for name in info.get("without", []))
    build = f"{info['kind']} build of llama-cpp-python {info['version']}{without}"
    verdict = llama_cpp_check.check(prefix)
    if verdict.reason:
        llama_cpp_check.forget(prefix)
        # made anew on this machine it leaves out what dies here, unless docker takes the layers it has
        again = setup.replace(",", " ARGS=--no-cache,") + " and on this machine" if image else setup
        said = f"{build} does not work on this CPU: {verdict.reason}"
        return Finding("llama.cpp", cost=f"{said}: {cost}", command=again, needed=True, state="broken")
    llama_cpp_check.remember(prefix)
    return Finding("llama.cpp", f"{build}, proven on this CPU ({verdict.variant or 'its'} code)", needed=True)


def package(name: str, cost: str, setup: str, needed: bool) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), needed=needed)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, cost=cost, command=setup, needed=needed)


def card(target: str | None) -> Finding:
    def ask() -> str:
        try:
            return cuda_driver.check(*cuda_driver.built_for(), image=target)
        except ModuleNotFoundError:
            raise UserError("torch is not installed", "make setup") from None

    if target == "gpu":
        return attempt("CUDA card", ask, "this image measures nothing without one", needed=True)
    return attempt("CUDA card", ask, "fine-tuning and GPTQ run on the CPU, make bench TARGET=gpu stops")


def meters(system: Path) -> list[Finding]:
    found = energy_meters.available(system)
    cost = "no joules in the results; bench_cpu.idle_w and load_w give an estimate"
    cpu = (
        Finding("energy, CPU", found.cpu)
        if found.cpu
        else Finding("energy, CPU", cost=f"{found.cpu_reason}: {cost}")
    )
    if found.gpu:
        return [cpu, Finding("energy, card", found.gpu)]
    return [cpu, Finding("energy, card", cost=f"{found.gpu_reason}: no joules of a card")]


def cgroup(system: Path) -> Finding:
    if why := group.why_none(system):
        return Finding("memory cgroup", cost=f"{why}: no peak with page cache, RSS alone")
    return Finding("memory cgroup", "one for each measured process")


def repository(root: Path) -> Finding:
    if (root / ".git").exists() and (root / ".dvc").is_dir():
        if os.access(root, os.W_OK):
            return Finding("repository", "here")
        return Finding("repository", cost=f"{root} is read-only: no stage runs", command=f"ls -ld {root}")
    return Finding(
        "repository",
        cost="no git and DVC repository here: no stage runs",
        command="mount a checkout at /repo",
    )


def remote(root: Path) -> Finding:
    cost = "each clone makes all models itself; see docs/guide/machines.md"
    if shutil.which("git") is None:
        return Finding("git", cost="no repository, no comparison", command="apt-get install git", needed=True)
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    except configparser.Error as error:
        return Finding(
            "DVC remote", cost=f"{error}: no stage runs".replace("\n", " "), command="dvc config --list"
        )
    if name := config.get("core", "remote", fallback=""):
        return Finding("DVC remote", name)
    return Finding("DVC remote", cost=cost, command="dvc remote add -d NAME URL")
