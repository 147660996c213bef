"""Which file or split is for training, which for validation, which for the test: told by its name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cartlm.errors import UserError
from cartlm.text import few

TRAIN, VALIDATION, TEST = ROLES = ("train", "validation", "test")
WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validate", "validation", "validations", "dev", "devel", "development"),
    TEST: (
        "test",
        "tests",
        "testing",
        "tst",
        "eval",
        "evals",
        "evaluate",
        "evaluation",
        "evaluations",
        "heldout",
        "holdout",
        "unseen",
    ),
}
_ROLE = {
    word + end: role
    for role, words in WORDS.items()
    for word in words
    for end in ("", "set", "data", "split", "file", "rows")
}
_ONE_WORD = re.compile(r"(?<![a-z])(held|hold)[\W_]*out(?![a-z])")
_LIKE = re.compile(r"(?i)(?<!la)(?<!con)(?<!fas)t[eé]st|valid|(?<![a-z])eval|held.?out|hold.?out|prueba")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # myTest, QATest


def found(name: str) -> set[str]:
    """The roles that a name gives as whole words in any case: `shop_val_2024` validation, `latest` none."""
    words = set()
    name = unicodedata.normalize("NFKC", name)
    for text in (name, _HUMP.sub(" ", name)):
        words |= set(re.findall(r"[^\W\d_]+", _ONE_WORD.sub(r" \1out ", text.lower())))
    return {_ROLE[word] for word in words if word in _ROLE}


def ambiguous(name: str, roles: Iterable[str]) -> str:
    """What is wrong with a name of several roles."""
    return f"{name} is named for {' and '.join(sorted(roles))}; rename it for one of them"


@dataclass(frozen=True)
class File:
    """A file of rows; `name` is its path below the folder that was named, `said` whether its name gives the role."""

    path: Path
    name: str
    role: str
    said: bool


@dataclass(frozen=True)
class Folder:
    """The files of rows in name order, what is wrong with some names, and the names of what was left out."""

    files: list[File] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A line on what each file became, and one on what was left out."""
        told = [f"{file.name}: {file.role}" + ("" if file.said else ", by default") for file in self.files]
        doubtful = [file.name for file in self.files if not file.said and _LIKE.search(file.name)]
        if doubtful:
            told.append(
                f"warning: {few(doubtful, 8)} is trained on; name it test or validation, as a word of its own, if that is wrong"
            )
        return [*told, *([f"left out: {few(self.left_out, 8)}"] if self.left_out else [])]


def survey(folder: Path, suffixes: Sequence[str]) -> Folder:
    """What a folder holds: files of rows, and those in sub-folders named for a role; dot-files are passed over.

    A file without a role in its name is for training.
    """
    made = Folder()
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "~$")):
            continue
        if not path.is_dir():
            _add(made, path, path.name, found(path.stem), suffixes)
        elif roles := found(path.name):
            for inner in sorted(path.iterdir()):
                if not inner.name.startswith((".", "~$")):
                    _add(made, inner, f"{path.name}/{inner.name}", roles | found(inner.stem), suffixes)
        else:
            made.left_out.append(f"{path.name}/")
    return made


def _add(made: Folder, path: Path, name: str, roles: set[str], suffixes: Sequence[str]) -> None:
    if path.is_dir() or path.suffix.lower() not in suffixes:
        made.left_out.append(f"{name}/" if path.is_dir() else name)
    elif len(roles) > 1:
        made.problems.append(ambiguous(name, roles))
    else:
        made.files.append(File(path, name, next(iter(roles), TRAIN), bool(roles)))


def of_split(name: str, where: str) -> str:
    """The role of a dataset's split; one that names none is for training. Raises UserError where it names two."""
    roles = found(name)
    if len(roles) > 1:
        raise UserError(
            f"{where}: the split {ambiguous(name, roles)}", "set data.path to a copy with other names"
        )
    return next(iter(roles), TRAIN)
