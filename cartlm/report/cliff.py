"""The cliff as a picture: exact match by type of the file, four ways: free or constrained, without or with importance matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from cartlm.report.models import Model
from cartlm.report.summary import read_optional

F16, F16_BITS = "f16", 16.0
WAYS = ("free", "constrained")
WIDTH, HEIGHT = 760, 472
LEFT, RIGHT, TOP, BOTTOM = 62, 744, 88, 384
TITLE = "Exact match by type of the file"
LEAST = 3  # types, F16 among them, that make a picture
STYLE = """
.paper { fill: #fff } .text { fill: #333; font: 12px system-ui, sans-serif } .name, .title { font-weight: 600 }
.grid { stroke: #e3e3e3 } .line { fill: none; stroke-width: 1.6 } .bar { stroke-width: 1.2 } .mark { stroke-width: 1.8 }
.plain { stroke-dasharray: 5 4 } .plain.mark { fill: #fff; stroke-dasharray: none }
.free { stroke: #b4460f } .constrained { stroke: #00695c } .free.matrix.mark { fill: #b4460f } .constrained.matrix.mark { fill: #00695c }
@media (prefers-color-scheme: dark) {
.paper { fill: #1e2129 } .text { fill: #d6d8de } .grid { stroke: #3a3f4b } .plain.mark { fill: #1e2129 }
.free { stroke: #ff9e66 } .constrained { stroke: #4fc7b5 } .free.matrix.mark { fill: #ff9e66 } .constrained.matrix.mark { fill: #4fc7b5 }
}"""
"""The picture has its own ground, so that it can be read on any page."""


@dataclass(frozen=True)
class Point:
    """A share with its 95 % interval, of one file asked in one way."""

    kind: str  # of the file
    bits: float  # a weight
    way: str
    imatrix: bool
    value: float
    low: float
    high: float


def points(model: Model) -> list[Point]:
    """What was measured of F16 and the GGUF variants, without those whose groups of tensors have types of their own."""
    files = [(F16, "F16", F16_BITS, False)]
    for variant, made in model.quantized.items():
        if "imatrix" in made and "tensor_types" not in made:  # no GPTQ
            files.append((variant, made["type"], made["bits_per_weight"], made["imatrix"]))
    found = []
    for variant, kind, bits, imatrix in files:
        measured = read_optional(model.metrics / "eval" / f"{variant}.json")
        for way in [each for each in WAYS if each in measured]:
            section = measured[way]
            limits = section["exact_match"], section["exact_match_low"], section["exact_match_high"]
            found.append(Point(kind, bits, way, imatrix, *limits))
    return found


def pictures(models: Sequence[Model], folder: Path) -> dict[Path, str]:
    """Path in `folder` -> SVG, of the models with enough types."""
    every = {folder / file_name(model): points(model) for model in models}
    titles = {folder / file_name(model): title(model) for model in models}
    return {path: svg(titles[path], found) for path, found in every.items() if _enough(found)}


def file_name(model: Model) -> str:
    """The picture's file."""
    return f"cliff-{model.name}.svg"


def markdown(model: Model) -> str:
    """The picture as a page in docs/ shows it; empty without one."""
    return f"![{title(model)}](assets/{file_name(model)})" if _enough(points(model)) else ""


def title(model: Model) -> str:
    """What the picture is of: the model, its parameters, and how many rows it was asked."""
    n = read_optional(model.metrics / "eval" / f"{F16}.json").get("free", {}).get("n")
    return f"{TITLE}: {model.label}" + (f", {n:,} test rows" if n else "")


def _enough(found: Sequence[Point]) -> bool:
    return len({point.kind for point in found}) >= LEAST


def svg(title: str, found: Sequence[Point]) -> str:
    """The picture; types from left to right by the bits of their files, marks of one type side by side."""
    bits: dict[str, float] = {}
    for point in sorted(found, key=lambda each: (-each.bits, each.imatrix)):
        bits.setdefault(point.kind, point.bits)
    kinds, step = list(bits), _step(found)
    first, last = (
        step * edge(value / step + 1e-9 * sign)
        for edge, value, sign in ((math.floor, min(each.low for each in found), 1), (math.ceil, max(each.high for each in found), -1))
    )  # fmt: skip
    series = list(dict.fromkeys((each.way, each.imatrix) for each in found))
    series.sort(key=lambda each: (WAYS.index(each[0]), each[1]))
    room = (RIGHT - LEFT) / len(kinds)
    dodge = min(13, 0.6 * room / len(series))  # between the marks of a type

    def across(kind: str, number: int) -> float:
        return LEFT + (kinds.index(kind) + 0.5) * room + dodge * (number - (len(series) - 1) / 2)

    def down(share: float) -> float:
        return BOTTOM - (share - first) / (last - first) * (BOTTOM - TOP)

    parts = [f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>']
    parts.append(_text(LEFT, 22, title, name="text title"))
    for number in range(round((last - first) / step) + 1):
        share = first + number * step
        parts.append(_line("grid", LEFT, down(share), RIGHT, down(share)))
        parts.append(_text(LEFT - 8, down(share) + 4, f"{100 * share:.0f} %", "end"))
    middle = (TOP + BOTTOM) / 2
    parts.append(
        f'<text class="text" text-anchor="middle" transform="translate(16 {middle:.1f}) rotate(-90)">'
        "exact match</text>"
    )
    for kind in kinds:
        x = LEFT + (kinds.index(kind) + 0.5) * room
        parts.append(_text(x, BOTTOM + 20, kind, "middle", "text name"))
        parts.append(_text(x, BOTTOM + 36, f"{bits[kind]:.3g}", "middle"))
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 56, "type of the file, bits per weight", "middle"))
    notes = ["Bars: 95 % interval of each file.", "Types are equally far apart, whatever their bits."]
    notes += [f"The axis begins at {100 * first:.0f} %."] if first > 0.001 else []
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 76, " ".join(notes), "middle"))
    for number, (way, imatrix) in enumerate(series):
        name = f"{way} {'matrix' if imatrix else 'plain'}"
        own = sorted((each for each in found if (each.way, each.imatrix) == (way, imatrix)), key=lambda each: kinds.index(each.kind))  # fmt: skip
        places = " ".join(f"{across(each.kind, number):.1f},{down(each.value):.1f}" for each in own)
        parts.append(f'<polyline class="line {name}" points="{places}"/>')
        for each in own:
            x = across(each.kind, number)
            parts.append(_line(f"bar {way}", x, down(each.low), x, down(each.high)))
            told = f"{each.kind}, {words(way, imatrix)}: {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"
            parts.append(f'<circle class="mark {name}" cx="{x:.1f}" cy="{down(each.value):.1f}" r="4"><title>{escape(told)}</title></circle>')  # fmt: skip
        x, y = LEFT + 190 * (number % 2) * 1.8, 44 + 20 * (number // 2)
        parts.append(_line(f"line {name}", x, y, x + 34, y))
        parts.append(f'<rect class="mark {name}" x="{x + 13:.1f}" y="{y - 4}" width="8" height="8" rx="4"/>')
        parts.append(_text(x + 42, y + 4, words(way, imatrix)))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">'
    return "\n".join(
        [
            head,
            f'<title id="title">{escape(title)}</title>',
            f"<style>{STYLE}\n</style>",
            *parts,
            "</svg>",
            "",
        ]
    )


def words(way: str, imatrix: bool) -> str:
    """What a line is called."""
    return f"{way}, {'with' if imatrix else 'without'} importance matrix"


def _step(found: Sequence[Point]) -> float:
    """Between two lines of the grid: at most eight of them."""
    height = max(each.high for each in found) - min(each.low for each in found)
    return next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if height <= 7 * step)


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", name: str = "text") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
