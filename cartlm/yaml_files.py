"""YAML as DVC reads and writes it (ruamel.yaml, YAML 1.2), for the files that both of us read.

PyYAML follows YAML 1.1: it reads the `2e-05` that DVC writes as text, and `on` as true.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from cartlm.errors import UserError
from cartlm.files import write_text


class _Representer(RoundTripRepresenter):
    """Ours alone: DVC, in the same process, writes an empty value as nothing."""


_Representer.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
)


def parse(given: bytes | str, name: str = "the text", hint: str = "") -> Any:
    """The value of one document; None for an empty file. Raises UserError: `name` is not YAML, and the line."""
    return _load(YAML(typ="safe"), given, name, hint)  # as dvc.utils.serialize has it


def parse_editable(given: bytes, name: str = "the text", hint: str = "") -> Any:
    """The same with comments, quotes and order, for `dump` and `write`."""
    return _load(_editor(), given.replace(b"\r\n", b"\n"), name, hint)


def dump(document: Any) -> str:
    """The text of an edited document."""
    text = io.StringIO()
    _editor().dump(document, text)
    return text.getvalue()


def write(path: Path, text: str) -> None:
    """Write a text to a YAML file, with the line ends that it has."""
    crlf = path.exists() and b"\r\n" in path.read_bytes()
    write_text(path, text.replace("\n", "\r\n") if crlf else text)


def overlay(document: CommentedMap, changes: CommentedMap, replaced: tuple[str, ...] = ()) -> None:
    """Put `changes`, with the comments at the ends of their lines, into a document, section by section.

    A section whose key is in `replaced` takes the place of the whole old one.
    """
    for key, value in changes.items():
        old = document.get(key)
        if key not in replaced and isinstance(value, CommentedMap) and isinstance(old, CommentedMap):
            overlay(old, value)
        else:
            document[key] = value
        if key in changes.ca.items:
            document.ca.items[key] = changes.ca.items[key]


def _editor() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.Representer = _Representer
    yaml.width = 4096  # no line is broken that was not
    return yaml


def _load(yaml: YAML, given: bytes | str, name: str, hint: str) -> Any:
    try:
        return yaml.load(given.decode("utf-8") if isinstance(given, bytes) else given)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # ruamel shows the value of a key that is there twice, which may be a secret
        problem = str(error.problem or "").partition(" with value")[0]
        parts = (error.context, problem, f"line {mark.line + 1}" if mark else "")
        what = ", ".join(str(part) for part in parts if part)
    # not UTF-8; 2026-13-01; `!!bool maybe`; a document in itself
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        what = f"it does not read: {str(error)[:200]}"
    raise UserError(f"{name} is not YAML: {what}", hint or f"git diff {name}")
