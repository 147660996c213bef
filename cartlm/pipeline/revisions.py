"""Hub revisions for params.yaml, digests of images for the Dockerfiles and docker/compose.yaml: asked, never guessed."""

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
IMAGE = re.compile(
    r"(?:^ *# The registry's digest on .*\n)?"
    r"^(?P<indent> *)(?P<key>ARG BASE_IMAGE=|image: \"\$\{\w+:-(?=[^:]*/))"
    r"(?P<name>[^\s@}]+)(?P<digest>@sha256:[0-9a-f]{64})?(?P<end>(?:\}\")?\n)",
    re.MULTILINE,
)
"""What a Dockerfile of ours builds on, or an image of others in docker/compose.yaml: its name has a slash."""
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


def pin_images(file: Path, asked: datetime.date) -> list[str]:
    """Put the registry's digests into a Dockerfile of ours or docker/compose.yaml; returns what it names now.

    Raises UserError, and changes nothing, without an answer, and where no line names an image.
    """
    text = file.read_text(encoding="utf-8")
    found = list(IMAGE.finditer(text))
    if not found:
        raise UserError(f"{file} names no image as NAME:TAG", f"git checkout {file}")
    digests = {each: f"@{ask_registry(each['name'])}" for each in found}
    for each, digest in reversed(digests.items()):
        if each["digest"] != digest:
            note = f"{each['indent']}# The registry's digest on {asked.isoformat()}.\n"
            line = f"{each['indent']}{each['key']}{each['name']}{digest}{each['end']}"
            text = text[: each.start()] + note + line + text[each.end() :]
    write_text(file, text)
    return [
        f"{each['name']}{digest}{'; unchanged' if each['digest'] == digest else ''}"
        for each, digest in digests.items()
    ]
