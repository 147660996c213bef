"""The entrypoint of our images: clear the DVC lock of a killed container, then become the command.

    docker run ... cartlm:cpu dvc repro

DVC lists in .dvc/tmp/rwlock which process id works on what, and believes an id that exists. In a new container ids start
again, so the entries of a killed one block the repository. Entries of this image's own DVC are removed, and only while no
other container runs in the repository: each holds a kernel lock (flock) until its command ends, however it ends. Entries
of DVC outside of containers are never touched.
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
    """Clear the lock of a killed container, and hold this container's own until its command ends."""
    tmp = root / ".dvc/tmp"
    tmp.mkdir(exist_ok=True)
    # read only: another user may have made it
    lock = os.open(tmp / "cartlm-containers", os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no other container is here, and none enters now
    except BlockingIOError:
        pass
    else:
        clear_lock(tmp / "rwlock")
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.set_inheritable(lock, True)


def clear_lock(path: Path) -> None:
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
                "write": {at: each for at, each in entries.get("write", {}).items() if not is_ours(each)},
                "read": {
                    at: [each for each in many if not is_ours(each)]
                    for at, many in entries.get("read", {}).items()
                },
            }
        except (ValueError, AttributeError, TypeError):
            return  # DVC reports what is wrong with it
        kept["read"] = {at: many for at, many in kept["read"].items() if many}
        if kept != {"write": entries.get("write", {}), "read": entries.get("read", {})}:
            path.write_text(json.dumps(kept), encoding="utf-8")
            warn(f"cleared {path}, which a killed container left")


def is_ours(entry: dict[str, Any]) -> bool:
    """Whether DVC of this image wrote it: its command line begins with the environment's folder."""
    return str(entry.get("cmd", "")).startswith(f"{sys.prefix}/")


def warn(message: str) -> None:
    print(f"cartlm: {message}", file=sys.stderr, flush=True)


def replace_process(command: list[str]) -> NoReturn:
    """Become the command; exit code 127 if it does not start."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        warn(f"error: {command[0]} does not start: {error.strerror}; cartlm --help lists what is here")
        sys.exit(127)


def main() -> None:
    """Enter the repository, if this is one, and become the command."""
    root, command = Path.cwd(), sys.argv[1:] or ["cartlm", "doctor"]
    if (root / ".git").exists() and (root / ".dvc").is_dir():
        if not (os.access(root, os.W_OK) and os.access(root / ".dvc", os.W_OK)):
            owner = root.stat()
            if owner.st_uid == os.getuid():  # mounted read-only: enough for doctor, table, compare
                replace_process(command)
            warn(
                f"error: {root} belongs to user {owner.st_uid}, and this container runs as {os.getuid()}, who may not write there; "
                f"docker run --user {owner.st_uid}:{owner.st_gid} (make: CARTLM_UID={owner.st_uid} CARTLM_GID={owner.st_gid})"
            )
            sys.exit(2)
        try:
            enter(root)
        except OSError as error:
            # Such as a file system without flock: DVC's own message names what to remove.
            warn(f"the locks in {root}/.dvc/tmp cannot be read: {error}")
    replace_process(command)


if __name__ == "__main__":
    main()
