"""Write docker/{data,train,cpu,dev}.txt: what pyproject.toml asks for, with every package that brings, as installed here.

    python docker/lock.py            after changing a version in the virtual environment

Each file is complete by itself for its target; all of them agree, since they come from one environment. A local version
(the `+cpu` of a torch build) is left out: it would name a package index. gpu.txt is not written here, it stands on
train.txt.
"""

from __future__ import annotations

import sys
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
    "dev.txt": (["train", "cpu", "dev"], "tests, lint and everything that they import"),
}
BUILT_ONCE = {"llama-cpp-python": "comes from docker/llama_cpp.sh, with the one build of llama.cpp"}


def closure(wanted: list[Requirement], found: dict[str, str] | None = None) -> dict[str, str]:
    """Name -> installed version of these requirements and of all that they need here. A missing one ends the run."""
    found = {} if found is None else found
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


def main() -> None:
    """Write the locks."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    for file, (extras, purpose) in TARGETS.items():
        lines = project["dependencies"] + [
            each for extra in extras for each in project["optional-dependencies"][extra]
        ]
        text = f"# {purpose}; written by `python docker/lock.py`\n"
        for name, version in closure([Requirement(line) for line in lines]).items():
            text += (
                f"# {name}=={version} {BUILT_ONCE[name]}\n" if name in BUILT_ONCE else f"{name}=={version}\n"
            )
        (HERE / file).write_text(text)
        print(f"{file}: {text.count('==')} packages")


if __name__ == "__main__":
    main()
