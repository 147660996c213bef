"""Files and folders that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MIB = 2**20
TEMPORARY = re.compile(r"\.tmp-(\d+)-")
"""What `replacing` puts before a name until the file is whole: with the number of the process that writes it."""
REPLACED = ".replaced"
"""What a folder's temporary name ends with while its successor takes its place."""


@contextmanager
def replacing(path: Path, folder: bool = False) -> Iterator[Path]:
    """A temporary file name, or a new folder, beside `path` that takes its place at the end; removed on an error.

    A file keeps its suffix. What an earlier, killed run left behind is removed first; a folder that it was about to replace is
    put back.
    """
    temporary = _temporary(path)
    replaced = temporary.with_name(f"{temporary.name}{REPLACED}")
    if folder:
        temporary.mkdir()
    try:
        yield temporary
        if folder:
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o644)  # safetensors writes 0600, which another user's container cannot read
            _set_aside(path, replaced)
        else:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        _remove(temporary)
        _settle(replaced, path)


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """An empty folder for work on what will stand at `beside`; gone at the end, what a kill left with the next one."""
    temporary = _temporary(beside.with_name(f"{beside.name}.work"))
    temporary.mkdir()
    try:
        yield temporary
    finally:
        _remove(temporary)


def require_folders(*folders: Path) -> None:
    """Raises FileNotFoundError naming the first that is missing."""
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses; what dead processes left for `path` is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.iterdir():
        made = TEMPORARY.match(other.name)
        if made is None or _is_written(other, int(made[1])):
            continue
        if other.name[made.end() :] == path.name:
            _remove(other)
        elif other.name[made.end() :] == f"{path.name}{REPLACED}":
            _settle(other, path)
    return path.with_name(f".tmp-{os.getpid()}-{path.name}")


def _is_written(path: Path, process: int) -> bool:
    """Whether another process lives that may have made `path`: one that took over the number, as in a new container, has not."""
    if process == os.getpid():
        return False
    try:
        other = psutil.Process(process)
        return other.status() != psutil.STATUS_ZOMBIE and other.create_time() <= path.stat().st_mtime
    except (psutil.Error, OSError):
        return False


def _set_aside(path: Path, replaced: Path) -> None:
    """Free the name `path`: removing a folder takes seconds, in which a kill would lose it and its successor."""
    try:
        path.rename(replaced)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.EXDEV:  # a folder of an image's lower layer cannot be renamed
            raise
        _remove(path)


def _settle(replaced: Path, path: Path) -> None:
    """Remove what was at `path` before; put it back if nothing came there."""
    if not os.path.lexists(replaced):
        return
    if not os.path.lexists(path):
        replaced.rename(path)
        return
    half = replaced.with_name(
        replaced.name.removesuffix(REPLACED)
    )  # is not put back if a kill leaves it half removed
    _remove(half)
    replaced.rename(half)
    _remove(half)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `replacing`; folders are made. An OSError names the file."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:  # a failing write does not name its file
        raise OSError(error.errno, error.strerror, str(path)) from None
