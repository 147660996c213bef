"""Write docker/{data,train,cpu,serve,ray,dev,gpu}.txt: what pyproject.toml asks for, with every package that brings.

    python docker/lock.py            after changing a version in the virtual environment
    python docker/lock.py --gpu      then, on x86-64 Linux: gpu.txt
    python docker/lock.py --hashes   then: hashes.txt, which the images install with

Each file is complete by itself for its target. All but gpu.txt agree since they come from one environment. A local version
(the `+cpu` of a torch build) is left out: it would name a package index.

CUDA's torch asks for packages that no CPU environment has, so pip resolves gpu.txt against the package index, without
installing anything: every version that another lock names is kept, and every other version that gpu.txt names already
(remove the file to take the newest). The same locks and the same gpu.txt give the same file.

hashes.txt has the SHA-256 of every file of every pinned version, as the package index tells them: beside the locks and not in
them, since DVC's stages depend on the locks and a hash changes no result. uv refuses a file with another one, and lets packages
without any pass: torch, whose CPU builds stand in an index of their own. (pip would ask for one for each package.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
TARGETS = {
    "data.txt": (["data"], "make rows"),
    "train.txt": (["train"], "fine-tune and merge"),
    "cpu.txt": (["cpu"], "convert, quantize, evaluate and measure on a CPU"),
    "serve.txt": (["cpu", "serve"], "answer over HTTP on a CPU"),
    "ray.txt": (["cpu", "serve", "ray"], "read and answer on a Ray cluster of CPUs"),
    "dev.txt": (["train", "cpu", "serve", "ray", "dev"], "tests, lint and everything that they import"),
}
GPU = (
    ["train", "cpu", "gpu", "data"],
    "a CUDA card: everything, from rows to GPTQ and measuring on the card",
)
WITHOUT_HASHES = {"torch"}
BUILT_ONCE = {"llama-cpp-python": "comes from docker/llama_cpp.sh, with the one build of llama.cpp"}


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Name -> installed version of these requirements and of all that they need here. A missing one ends the run."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(requirement, extra) for requirement in wanted for extra in {"", *requirement.extras}]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            sys.exit(
                f"lock.py: {name} is not installed; install it and run this again: pip install {requirement}"
            )
        found[name] = package.version.split("+")[0]
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                queue += [(needed, each) for each in {"", *needed.extras}]
    return dict(sorted(found.items()))


def pins(file: Path) -> dict[str, str]:
    """Name -> version of a lock; empty where there is none, or where it refers to another file."""
    lines = file.read_text().splitlines() if file.exists() else []
    parts = [line.partition("==") for line in lines if not line.startswith("#")]
    return {name: version for name, sign, version in parts if sign}


def resolved(wanted: list[Requirement]) -> dict[str, str]:
    """Name -> version that pip would install for these on a machine with a CUDA card."""
    own = pins(HERE / "gpu.txt")
    shared = {name: version for file in TARGETS for name, version in pins(HERE / file).items()}
    built = {name: distribution(name) for name in BUILT_ONCE}
    lines = [str(each) for each in wanted if canonicalize_name(each.name) not in built]
    lines += [line for package in built.values() for line in package.requires or [] if "extra ==" not in line]
    with tempfile.TemporaryDirectory() as folder:
        asked, kept, report = (Path(folder) / name for name in ("asked.txt", "kept.txt", "report.json"))
        asked.write_text("\n".join(lines))
        # `===` compares letters: the CPU build of torch, which pip may find on this machine, is another version
        kept.write_text("".join(f"{name}==={version}\n" for name, version in (own | shared).items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        options = ["--report", str(report), "--constraint", str(kept), "--requirement", str(asked)]
        if subprocess.run(pip + options).returncode:
            sys.exit("lock.py: these versions do not go together; change one, or: rm docker/gpu.txt")
        found = json.loads(report.read_text())["install"]
    versions = {canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"] for each in found}
    return dict(sorted((versions | {name: package.version for name, package in built.items()}).items()))


def hashes() -> str:
    """Lines `name==version --hash=...` for all locks; uv asks the index for the hashes alone."""
    locked = {name: version for file in (*TARGETS, "gpu.txt") for name, version in pins(HERE / file).items()}
    lines = [f"{name}=={version}\n" for name, version in sorted(locked.items()) if name not in WITHOUT_HASHES]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--generate-hashes"]
    options = ["--no-header", "--no-annotate", "--system-certs", "--no-config", "-"]
    done = subprocess.run(command + options, input="".join(lines), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(
            "lock.py: uv could not tell the hashes; is a package index reachable, and uv installed? pip install uv"
        )
    return done.stdout


def write(file: str, purpose: str, command: str, versions: dict[str, str]) -> None:
    """One lock."""
    text = f"# {purpose}; written by `{command}`\n"
    for name, version in versions.items():
        text += f"# {name}=={version} {BUILT_ONCE[name]}\n" if name in BUILT_ONCE else f"{name}=={version}\n"
    (HERE / file).write_text(text)
    print(f"{file}: {text.count('==')} packages")


def main() -> None:
    """Write the locks."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

    def lines(extras: list[str]) -> list[Requirement]:
        asked = [each for extra in extras for each in project["optional-dependencies"][extra]]
        return [Requirement(line) for line in project["dependencies"] + asked]

    if sys.argv[1:] == ["--gpu"]:
        write("gpu.txt", GPU[1], "python docker/lock.py --gpu", resolved(lines(GPU[0])))
        return
    if sys.argv[1:] == ["--hashes"]:
        text = hashes()
        (HERE / "hashes.txt").write_text(
            "# The files of every pinned package; written by `python docker/lock.py --hashes`\n" + text
        )
        print(f"hashes.txt: {text.count('==')} packages, {text.count('--hash=')} files")
        return
    for file, (extras, purpose) in TARGETS.items():
        write(file, purpose, "python docker/lock.py", closure(lines(extras)))


if __name__ == "__main__":
    main()
