"""YAML as DVC reads and writes it (ruamel.yaml, YAML 1.2), for the files that both of us read.

PyYAML follows YAML 1.1: the `2e-05` that DVC writes is text to it, and `on` is true.
"""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError


class NotYaml(ValueError):
    """What is wrong, with its line, in one line."""


def parse(given: bytes | str) -> Any:
    """The value of one document; None of an empty file. Raises NotYaml."""
    try:
        text = given.decode("utf-8") if isinstance(given, bytes) else given
        return YAML(typ="safe").load(text)  # as dvc.utils.serialize has it
    except UnicodeDecodeError as error:
        raise NotYaml(f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from None
    except RecursionError:
        raise NotYaml("nested too deeply") from None
    except DuplicateKeyError as error:
        key = str(error.problem).partition(" with value")[0].removeprefix("found ")
        raise NotYaml(f"{key}{_line(error)}") from None
    except MarkedYAMLError as error:
        said = ", ".join(" ".join(str(part).split()) for part in (error.context, error.problem) if part)
        raise NotYaml(f"{said}{_line(error)}") from None
    except (YAMLError, ValueError, LookupError) as error:  # a date such as 2026-13-01; `!!bool maybe`
        raise NotYaml(f"a value does not read: {' '.join(str(error).split())[:200]}") from None


def _line(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f", line {mark.line + 1}" if mark else ""
