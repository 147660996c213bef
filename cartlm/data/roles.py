"""Whether a file or split is for training, validation or test: its name decides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cartlm.errors import UserError
from cartlm.text import few

TRAIN, VALIDATION, TEST = ("train", "validation", "test")
WORDS = {
    TRAIN: "train training",
    VALIDATION: "val valid validate validation validations dev devel development",
    TEST: "test tests testing tst eval evals evaluate evaluation evaluations heldout holdout unseen",
}
_ROLE = {
    word + end: role
    for role, words in WORDS.items()
    for word in words.split()
    for end in ("", "set", "data", "split", "file", "rows")
}
_ONE_WORD = re.compile(r"(?<![a-z])(held|hold)[\W_]*out(?![a-z])")
_LIKE = re.compile(r"(?i)(?<!la)(?<!con)(?<!fas)t[eé]st|valid|(?<![a-z])eval|held.?out|hold.?out|prueba")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # myTest, QATest


def roles_in_name(name: str) -> set[str]:
    """The roles that a name has as whole words in any case: `shop_val_2024` validation, `latest` none."""
    name = unicodedata.normalize("NFKC", name)
    words: set[str] = set()
    for spelling in (name, _HUMP.sub(" ", name)):
        words.update(re.findall(r"[^\W\d_]+", _ONE_WORD.sub(r" \1out ", spelling.lower())))
    return {_ROLE[word] for word in words if word in _ROLE}


def two_roles(name: str, roles: Iterable[str]) -> str:
    """The problem of a name with several roles."""
    return f"{name} is named for {' and '.join(sorted(roles))}; rename it for one of them"


def role_of_split(name: str, dataset: str) -> str:
    """The role of a dataset's split, training where its name has none. Raises UserError where it has two."""
    roles = roles_in_name(name)
    if len(roles) > 1:
        raise UserError(f"{dataset}: the split {two_roles(name, roles)}", "set data.path to a renamed copy")
    return next(iter(roles), TRAIN)


@dataclass(frozen=True)
class File:
    """A file of rows; `name` is its path below the folder, `named` whether that name has the role."""

    path: Path
    name: str
    role: str
    named: bool


@dataclass(frozen=True)
class Folder:
    """The files of rows in name order, problems of names, and the names of what is left out."""

    files: list[File] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A line on each file's role, on doubtful names, and on what is left out."""
        lines = [f"{file.name}: {file.role}" + ("" if file.named else ", by default") for file in self.files]
        if doubtful := [file.name for file in self.files if not file.named and _LIKE.search(file.name)]:
            advice = "if that is wrong, put test or validation into the name as a word of its own"
            lines.append(f"warning: {few(doubtful, 8)} is trained on; {advice}")
        return [*lines, *([f"left out: {few(self.left_out, 8)}"] if self.left_out else [])]


def survey(folder: Path, suffixes: Sequence[str]) -> Folder:
    """Files of rows in a folder and its sub-folders that are named for a role; hidden files are ignored.

    A file without a role in its name is for training.
    """
    found = Folder()
    for path in _visible(folder):
        outer = roles_in_name(path.name) if path.is_dir() else set()
        for inner in _visible(path) if outer else [path]:
            name, roles = inner.relative_to(folder).as_posix(), outer | roles_in_name(inner.stem)
            if inner.is_dir() or inner.suffix.lower() not in suffixes:
                found.left_out.append(f"{name}/" if inner.is_dir() else name)
            elif len(roles) > 1:
                found.problems.append(two_roles(name, roles))
            else:
                found.files.append(File(inner, name, next(iter(roles), TRAIN), bool(roles)))
    return found


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "~$"))]
