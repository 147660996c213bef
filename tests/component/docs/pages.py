"""The pages of the documentation, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests import ROOT

GENERATED = {
    "docs/data.md",
    "docs/paper.md",
    "docs/results.md",
    "docs/studies.md",
    "docs/decoding.md",
    "docs/pull-request.md",
}
_FENCE = re.compile(r"^( *)``` *([^\n]*)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A page people wrote; `name` is its path in the repository."""

    name: str
    text: str

    def blocks(self, *languages: str) -> Iterator[str]:
        """The fenced blocks of these languages ("" has none), without their indentation."""
        for indent, language, code in _FENCE.findall(self.text):
            if language in languages:
                yield "\n".join(line.removeprefix(indent) for line in code.splitlines())

    def code(self) -> list[str]:
        """All inline code."""
        return re.findall(r"`([^`\n]+)`", _FENCE.sub("", self.text))

    def commands(self) -> list[str]:
        """Each command of the shell blocks and of inline code, without comment, prompt and redirection."""
        lines = [
            line for block in self.blocks("bash", "") for line in block.replace("\\\n", " ").splitlines()
        ]
        lines = [part for line in [*lines, *self.code()] for part in re.split(r"&&|;", line)]
        return [re.sub(r"\s+#.*|^\$ | < .*", "", line.strip()).strip() for line in lines]


def pages() -> list[Page]:
    """README and the pages below docs/, but those that commands write and the records of what was."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return [
        Page(name, (ROOT / name).read_text(encoding="utf-8"))
        for name in names
        if name not in GENERATED and not name.startswith("docs/decisions/")
    ]
