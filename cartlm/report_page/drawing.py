"""Pictures as SVG inside the page: they follow its light or dark scheme, and their marks can be links.

Every text and attribute is escaped by markupsafe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from cartlm.report import cells

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 736, 24, 336
CHARACTER, BOLD, LINE = 6.6, 7.6, 14  # widths and height of a label's letters, about
AROUND = ((0.5, -1.3), (0.5, 1.3), (-0.5, -1.3), (-0.5, 1.3), (1, 0), (-1, 0), (1, -0.6), (1, 0.6))
"""Where a label is tried around its mark: off the axes first, where the bars of its intervals are."""
SERIES = 8  # colours of the page's style


def tag(name: str, *inside: Markup | str, **attributes: object) -> Markup:
    """An element; `class_` and `stroke_width` are written as `class` and `stroke-width`."""
    written = (f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items())  # fmt: skip
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("".join(written)), Markup("").join(inside))


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def picture(title: str, *inside: Markup, height: float = HEIGHT) -> Markup:
    """An SVG named `title`, as wide as its place."""
    return tag("svg", *inside, viewBox=f"0 0 {WIDTH} {_short(float(height))}", role="group", aria_label=title)


def text(x: float, y: float, words: str, anchor: str = "start", class_: str = "text") -> Markup:
    return tag("text", words, x=float(x), y=float(y), text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def linear_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers that span the values, at most so many steps."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next((each for each in (1, 2, 5, 10) if span / (step * each) <= most), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around the values."""
    every = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]
    first = max((each for each in every if each <= low * (1 + 1e-9)), default=every[0])
    last = min((each for each in every if each >= high * (1 - 1e-9)), default=every[-1])
    return [each for each in every if first <= each <= max(last, first * 2.5)]


@dataclass(frozen=True)
class Scale:
    """Value -> place on the page, linear or logarithmic; `ticks` span it."""

    ticks: Sequence[float]
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = ((math.log(each) if self.log else each) for each in (self.ticks[0], self.ticks[-1], value))  # fmt: skip
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def across(values: Sequence[float], log: bool) -> Scale:
    """A scale from left to right over these values."""
    low, high = min(values), max(values)
    log = log and low > 0
    return Scale(log_ticks(low, high) if log else linear_ticks(min(low, 0) if low > 0 and low < high / 3 else low, high), LEFT, RIGHT, log)  # fmt: skip


def upwards(values: Sequence[float], log: bool = False) -> Scale:
    """A scale from bottom to top over these values."""
    low, high = min(values), max(values)
    log = log and low > 0
    return Scale(log_ticks(low, high) if log else linear_ticks(low, high), BOTTOM, TOP, log)


def axes(
    x: Scale | None, y: Scale, x_title: str, y_title: str, shown: Callable[[float], str] = str
) -> Markup:
    """Grid lines with their numbers, and both titles."""
    parts = []
    for value in y.ticks:
        parts.append(line(LEFT, y(value), RIGHT, y(value), "grid"))
        parts.append(text(LEFT - 8, y(value) + 4, shown(value), "end"))
    for value in x.ticks if x else ():
        parts.append(line(x(value), TOP, x(value), BOTTOM, "grid"))  # type: ignore[misc]
        parts.append(text(x(value), BOTTOM + 18, f"{value:,g}", "middle"))  # type: ignore[misc]
    middle = (TOP + BOTTOM) / 2
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 44, x_title, "middle", "text title"))
    parts.append(tag("text", y_title, class_="text title", text_anchor="middle", transform=f"translate(14 {middle:.1f}) rotate(-90)"))  # fmt: skip
    return Markup("").join(parts)


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass
class Labels:
    """Names of marks where no other name or mark is; one without room gets a thin line to where there is some."""

    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def keep_free(self, x: float, y: float, half: float = 6) -> None:
        self.taken.append((x - half, y - half, x + half, y + half))

    def place(self, x: float, y: float, words: str) -> Markup:
        """The name of the mark at a place."""
        width = CHARACTER * len(words)
        for distance in (11, 24, 40, 58, 78, 100):
            for right, down in AROUND:
                left = x + right * distance - (width if right < 0 else 0)
                middle = y + down * distance
                box = left - 2, middle - LINE / 2, left + width + 2, middle + LINE / 2
                inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 2 and box[3] <= BOTTOM
                if inside and not any(_meet(box, other) for other in self.taken):
                    self.taken.append(box)
                    end = left + (width if right < 0 else 0)
                    pointer = line(x, y, end, middle, "pointer") if distance > 11 else Markup()
                    return pointer + text(left, middle + 4, words, class_="text name")
        return Markup()


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@dataclass(frozen=True)
class Bar:
    """A row of `stacked`: a name, and a part for each of the legend."""

    name: str
    parts: Sequence[float]
    shown: str


def stacked(title: str, legend: Sequence[str], bars: Sequence[Bar], unit: str) -> Markup:
    """Horizontal bars of several parts, the legend above."""
    height = TOP + 26 + 26 * len(bars) + 44
    left = max(LEFT, 16 + BOLD * max(len(bar.name) for bar in bars))
    most = max(max(sum(bar.parts) for bar in bars), 1e-9)
    room = Scale(linear_ticks(0, most), left, RIGHT - CHARACTER * max(len(bar.shown) for bar in bars))
    bottom = TOP + 30 + 26 * len(bars)
    parts, at = list[Markup](), float(left)
    for number, name in enumerate(legend):
        parts.append(tag("rect", class_=f"fill s{number}", x=at, y=6, width=12, height=12, rx=2))
        parts.append(text(at + 17, 16, name))
        at += 34 + CHARACTER * len(name)
    for value in room.ticks:
        parts.append(line(room(value), TOP + 6, room(value), bottom, "grid"))
        parts.append(text(room(value), bottom + 16, f"{value:,g}", "middle"))
    parts.append(text((left + RIGHT) / 2, bottom + 36, unit, "middle", "text title"))
    for row, bar in enumerate(bars):
        y, start = TOP + 12 + 26 * row, 0.0
        parts.append(text(left - 8, y + 14, bar.name, "end", "text name"))
        for number, value in enumerate(bar.parts):
            told = tag("title", f"{bar.name}, {legend[number]}: {cells.number(value)} {unit}")
            width = room(start + value) - room(start)
            parts.append(tag("rect", told, class_=f"fill s{number}", x=room(start), y=y, width=max(width, 0.5), height=20))  # fmt: skip
            start += value
        parts.append(text(room(start) + 6, y + 14, bar.shown))
    return picture(title, *parts, height=height + 8)
