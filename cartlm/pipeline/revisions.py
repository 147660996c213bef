"""Hub revisions for params.yaml, digests of base images for the Dockerfiles: asked of hub and registry, never guessed."""

from __future__ import annotations

import datetime
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from cartlm import hub, yaml_files
from cartlm.data.config import Data
from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.system import processes
from cartlm.training.config import Base

COMMIT = re.compile("[0-9a-f]{40}")
BASE_IMAGE = re.compile(
    r"(?:# The registry's digest on .*\n)?ARG BASE_IMAGE=([^\s@]+)(@sha256:[0-9a-f]{64})?\n"
)
ASKED = re.compile(r"^# the hub's [^;]*;?")


@dataclass(frozen=True)
class Pin:
    """A value of params.yaml, `section`.`key`, that names the revision of a hub model or dataset `name`."""

    section: str
    key: str
    kind: Literal["model", "dataset"]
    name: str
    now: str | None

    @property
    def named(self) -> str | None:
        """The tag or branch given there; None for a commit or nothing: the default branch."""
        return None if self.now is None or COMMIT.fullmatch(self.now) else self.now


def list_pins(base: Base, data: Data) -> list[Pin]:
    """What can be pinned: every hub id of these params. A local folder has no revision."""
    found = []
    if base.source == "hub":
        found.append(Pin("base", "revision", "model", base.path, base.revision))
    if data.source == "hub" and data.path:
        found.append(Pin("data", "revision", "dataset", data.path, data.revision))
    if data.held_out:
        found.append(Pin("data", "held_out_revision", "dataset", data.held_out, data.held_out_revision))
    return [each for each in found if not Path(each.name).is_dir()]


def ask_hub(pin: Pin) -> str:
    """The commit of the pin's tag or branch, by default of the default branch. Raises UserError."""
    from huggingface_hub import HfApi

    where = f"{pin.section}.{'held_out' if pin.key == 'held_out_revision' else 'path'}"
    with hub.user_errors(pin.kind, pin.name, pin.named, where):
        info = HfApi().repo_info(pin.name, repo_type=pin.kind, revision=pin.named, timeout=30)
    if not info.sha:
        raise UserError(f"the hub names no revision of {pin.name}", f"set {pin.section}.{pin.key} by hand")
    return str(info.sha)


def write(path: Path, revisions: Mapping[Pin, str], asked: datetime.date) -> None:
    """Put the revisions into the params file, each with the day it was asked. Raises UserError where that fails."""
    document, values = yaml_files.parse_editable(path.read_bytes()), yaml_files.parse(path.read_bytes())
    for pin, revision in revisions.items():
        section = document[pin.section]
        token = section.ca.items.get(pin.key, [None] * 3)[2]
        kept = ASKED.sub("", token.value.strip()).lstrip("# ") if token else ""
        section[pin.key] = DoubleQuotedScalarString(revision)
        comment = f"the hub's {pin.named or 'default branch'} on {asked.isoformat()}"
        section.yaml_add_eol_comment(f"{comment}; {kept}" if kept else comment, pin.key, column=0)
        values[pin.section][pin.key] = revision
    text = yaml_files.dump(document)
    with suppress(UserError):
        if yaml_files.parse(text) == values:
            return yaml_files.write(path, text)
    by_hand = ", ".join(f"{pin.section}.{pin.key} to {revision}" for pin, revision in revisions.items())
    raise UserError(f"{path} keeps its comments only if it is edited by hand", f"set {by_hand}")


def ask_registry(image: str) -> str:
    """The digest, `sha256:...`, of an image's tag, by docker, which fetches the image. Raises UserError."""
    hint = f"check the network, then make pin (or by hand: docker pull {image})"
    try:
        pulled = subprocess.run(["docker", "pull", image], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"docker, which asks for {image}'s digest, is not installed", hint) from None
    if digest := re.search(r"^Digest: (sha256:[0-9a-f]{64})$", pulled.stdout, re.MULTILINE):
        return digest[1]
    lines = pulled.stderr.strip().splitlines() or [processes.describe_exit(pulled.returncode)]
    raise UserError(f"no registry answers for {image}: {lines[-1]}", hint)


def pin_image(dockerfile: Path, asked: datetime.date) -> str:
    """Put the registry's digest into a Dockerfile of ours; returns what it builds on.

    Raises UserError, and changes nothing, without an answer, and where no line names a base image.
    """
    text = dockerfile.read_text(encoding="utf-8")
    found = BASE_IMAGE.search(text)
    if not found:
        raise UserError(f"{dockerfile} has no line ARG BASE_IMAGE=NAME:TAG", f"git checkout {dockerfile}")
    digest = ask_registry(found[1])
    pinned = f"{found[1]}@{digest}"
    if found[2] == f"@{digest}":
        return f"{pinned}; unchanged"
    line = f"# The registry's digest on {asked.isoformat()}.\nARG BASE_IMAGE={pinned}\n"
    write_text(dockerfile, text[: found.start()] + line + text[found.end() :])
    return pinned
