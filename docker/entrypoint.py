"""What a container starts with: a DVC lock that a killed container left is cleared, then the command takes this place.

    docker run ... cartlm:cpu dvc repro

DVC lists who works on what in .dvc/tmp/rwlock by the number of the process, and takes a number that runs for its owner.
In a new container numbers begin anew, so what a killed one left there blocks the repository. Entries of this image's own
DVC are removed, and only where no other container is in the repository: each holds a lock of the kernel (flock) while its
command runs, which ends with it, however that ends. Entries of DVC outside of containers are never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

WAIT_S = 5.0


def enter(root: Path) -> None:
    """Clear what a killed container left, and hold this container's lock until its command ends."""
    tmp = root / ".dvc/tmp"
    tmp.mkdir(exist_ok=True)
    # for reading: it may have been made by another user
    lock = os.open(tmp / "cartlm-containers", os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no other container is here, and none enters now
    except BlockingIOError:
        pass
    else:
        clear(tmp / "rwlock")
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.set_inheritable(lock, True)


def clear(path: Path) -> None:
    """Remove the entries that DVC of an image wrote, under the lock by which DVC itself edits the file."""
    if not path.exists() or '"pid"' not in path.read_text(encoding="utf-8", errors="replace"):
        return
    with path.with_name("rwlock.lock").open("a") as guard:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.05)
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            kept = {
                "write": {at: each for at, each in entries.get("write", {}).items() if not ours(each)},
                "read": {
                    at: [each for each in many if not ours(each)]
                    for at, many in entries.get("read", {}).items()
                },
            }
        except (ValueError, AttributeError, TypeError):
            return  # DVC says what is wrong with it
        kept["read"] = {at: many for at, many in kept["read"].items() if many}
        if kept != {"write": entries.get("write", {}), "read": entries.get("read", {})}:
            path.write_text(json.dumps(kept), encoding="utf-8")
            say(f"cleared {path}, which a killed container left")


def ours(entry: dict[str, Any]) -> bool:
    """Whether DVC of this image wrote it: its command line begins with the environment's folder."""
    return str(entry.get("cmd", "")).startswith(f"{sys.prefix}/")


def say(message: str) -> None:
    print(f"cartlm: {message}", file=sys.stderr, flush=True)


def start(command: list[str]) -> NoReturn:
    """Become the command; ends with 127 where it does not start."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        say(f"error: {command[0]} does not start: {error.strerror}; cartlm --help lists what is here")
        sys.exit(127)


def main() -> None:
    """Ends only where the command cannot be started, with 127."""
    root, command = Path.cwd(), sys.argv[1:] or ["cartlm", "doctor"]
    if (root / ".git").exists() and (root / ".dvc").is_dir():
        if not (os.access(root, os.W_OK) and os.access(root / ".dvc", os.W_OK)):
            owner = root.stat()
            if owner.st_uid == os.getuid():  # mounted read-only: enough for doctor, table, compare
                start(command)
            say(
                f"error: {root} belongs to user {owner.st_uid}, and this container runs as {os.getuid()}, who may not write there; "
                f"docker run --user {owner.st_uid}:{owner.st_gid} (make: CARTLM_UID={owner.st_uid} CARTLM_GID={owner.st_gid})"
            )
            sys.exit(2)
        try:
            enter(root)
        except (
            OSError
        ) as error:  # a file system without flock, say: DVC's own message then says what to remove
            say(f"locks in {root}/.dvc/tmp cannot be looked at: {error}")
    start(command)


if __name__ == "__main__":
    main()
