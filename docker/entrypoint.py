"""What a container starts with: a DVC lock that a killed container left is cleared, then the command takes this place.

    docker run ... cartlm:cpu dvc repro

DVC lists who works on what in .dvc/tmp/rwlock by the number of the process, and takes a number that runs for its owner.
In a new container numbers begin anew, so what a killed one left there blocks the repository. It is cleared only where
nobody works there: every container holds a lock of the kernel (flock) while its command runs, DVC another, and each stage
one of its own, also outside of containers. A kernel's lock ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path


def held(root: Path) -> Path | None:
    """The lock file by which DVC or a stage works in the repository now; None if none does."""
    for path in (root / ".dvc/tmp/lock", *sorted((root / "runs/locks").glob("*"))):
        if path.exists():
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return path
    return None


def enter(root: Path) -> None:
    """Clear what a killed container left, and hold this container's lock until its command ends."""
    tmp = root / ".dvc/tmp"
    tmp.mkdir(exist_ok=True)
    lock = os.open(tmp / "cartlm-containers", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no other container is here, and none enters now
    except BlockingIOError:
        pass
    else:
        clear(root, tmp / "rwlock")
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.set_inheritable(lock, True)


def clear(root: Path, left: Path) -> None:
    if not left.exists() or '"pid"' not in left.read_text(encoding="utf-8", errors="replace"):
        return
    if holder := held(root):
        say(f"{left} stays: {holder} is held, so somebody works here")
    else:
        left.unlink()
        say(f"removed {left}, which a killed run left")


def say(message: str) -> None:
    print(f"cartlm: {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Ends only where the command cannot be started, with 127."""
    root, command = Path.cwd(), sys.argv[1:] or ["cartlm", "doctor"]
    if os.access(root / ".dvc", os.W_OK) and (root / ".git").exists():
        try:
            enter(root)
        except (
            OSError
        ) as error:  # a file system without flock, say: DVC's own message then says what to remove
            say(f"locks in {root}/.dvc/tmp cannot be looked at: {error}")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        say(f"error: {command[0]} does not start: {error.strerror}; cartlm --help lists what is here")
        sys.exit(127)


if __name__ == "__main__":
    main()
