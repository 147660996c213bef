"""What the page is made of: sections with views, each a picture, a table and where its numbers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from cartlm.report import cells, hardware
from cartlm.report.models import Model
from cartlm.report.summary import read_optional

Row = Mapping[str, Any]


class Cell(NamedTuple):
    """A table's cell: what is read, what it is sorted by, and the shade of a heat map from 0 to 9."""

    text: str
    by: float | str
    shade: int | None = None


@dataclass(frozen=True)
class Table:
    """A sortable table; the first column names the row."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    ids: Sequence[str] = ()
    """Of the rows, where something links to them."""


@dataclass(frozen=True)
class View:
    """One choice of a section's switches: what is shown then, and what it rests on."""

    choice: Mapping[str, str]  # switch -> option
    machines: Sequence[str]
    files: Sequence[str]
    picture: Markup | str = ""
    table: Table | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and a deep link."""

    id: str
    title: str
    lead: str
    method: str
    command: str
    views: Sequence[View] = ()
    empty: str = "Nothing was measured yet."
    """What is said without a view."""

    @property
    def switches(self) -> dict[str, list[str]]:
        """Switch -> its options, in the order of the views; only switches with a choice."""
        found: dict[str, dict[str, None]] = {}
        for view in self.views:
            for key, option in view.choice.items():
                found.setdefault(key, {})[option] = None
        return {key: list(options) for key, options in found.items() if len(options) > 1}


@dataclass(frozen=True)
class Sources:
    """All that the page is made from."""

    root: Path
    models: Sequence[Model]  # the default one, then the studies
    dataset: str  # of the default model: hub name, or GENERATED
    show_rows: bool = False  # whether failed rows may be printed
    commits: int = 20  # of the trend

    @property
    def metrics(self) -> Path:
        return self.models[0].metrics

    @property
    def variants(self) -> list[str]:
        return self.models[0].variants


def table(caption: str, keys: Sequence[str], rows: Sequence[Row], ids: Sequence[str] = ()) -> Table:
    """Cells as `cartlm.report.cells` writes them, sorted by their values."""
    headings, *lines = cells.table(keys, rows)
    made = [
        [_cell(row.get(key), text) for key, text in zip(keys, line, strict=True)]
        for row, line in zip(rows, lines, strict=True)
    ]
    return Table(caption, headings, made, ids)


def _cell(value: Any, text: str) -> Cell:
    if isinstance(value, int):  # counted: all digits
        return Cell(f"{value:,}", value)
    return Cell(text, value if isinstance(value, float) else text.lower())


def evaluations(model: Model) -> dict[str, Mapping[str, Any]]:
    """Variant -> its file of metrics/eval, where there is one."""
    found = {name: read_optional(model.metrics / "eval" / f"{name}.json") for name in model.variants}
    return {name: values for name, values in found.items() if values}


def benches(model: Model) -> dict[str, dict[str, dict[str, Any]]]:
    """Target -> variant -> its file, with the section of its speeds as `speed`; variants in the order of params.yaml."""
    found = {}
    for folder in sorted((model.metrics / "bench").glob("*")):
        for part in ("cpu", "gpu"):
            if folder.is_dir() and (files := hardware.measurements(folder, part)):
                names = [
                    *(name for name in model.variants if name in files),
                    *(name for name in files if name not in model.variants),
                ]
                found[folder.name] = {name: {**files[name], "speed": files[name][part]} for name in names}
    return found


def machines(files: Iterable[Mapping[str, Any]]) -> list[str]:
    """Machine, engine and kernel of metrics files, each once."""
    found = dict[str, None]()
    for file in files:
        machine, engine = file.get("machine", {}), file.get("engine", {})
        about = [machine.get("name"), machine.get("build"), engine.get("name"), engine.get("version")]
        kernel = engine.get("kernel")
        about += [f"kernel {kernel}" if kernel else None]
        about += [f"{engine['threads']} threads" if "threads" in engine else None]
        if any(about):
            found["; ".join(dict.fromkeys(str(each) for each in about if each))] = None
    return list(found)


def shown_path(root: Path, path: Path) -> str:
    """A path as the repository names it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
