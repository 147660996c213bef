"""Scales span their values with round ticks, labels meet nothing, and text stays text."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartlm.report_page import drawing
from cartlm.report_page.drawing import Bar, Labels, Scale

VALUE = st.floats(1e-4, 1e6)


@given(VALUE, VALUE)
def test_ticks_span_the_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for ticks in (drawing.linear_ticks(low, high), drawing.log_ticks(low, high)):
        assert 2 <= len(ticks) <= 32
        assert ticks[0] <= low * (1 + 1e-6) + 1e-9
        assert ticks[-1] >= high * (1 - 1e-6)
        assert all(left < right for left, right in itertools.pairwise(ticks))


def test_a_scale_places_its_ends_and_its_middle() -> None:
    linear, log = Scale([0, 50, 100], 10, 110), Scale([1, 10, 100], 10, 110, log=True)
    assert [linear(value) for value in (0, 50, 100)] == [10, 60, 110]
    assert [round(log(value), 6) for value in (1, 10, 100)] == [10, 60, 110]


@given(st.lists(st.tuples(st.floats(100, 700), st.floats(40, 320)), min_size=1, max_size=12))
def test_labels_meet_neither_each_other_nor_a_mark(places: list[tuple[float, float]]) -> None:
    labels = Labels()
    for x, y in places:
        labels.keep_free(x, y)
    for number, (x, y) in enumerate(places):
        labels.place(x, y, f"variant-{number}")
    marks, names = labels.taken[: len(places)], labels.taken[len(places) :]
    for one, other in [*itertools.combinations(names, 2), *itertools.product(names, marks)]:
        assert not drawing._meet(one, other)


def test_markup_in_a_name_is_text() -> None:
    drawn = drawing.stacked("<b>title</b>", ["<script>"], [Bar('"><script>', [1.0], "<i>")], "ms")
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == "<b>title</b>"
    assert {element.tag for element in root.iter()} == {"svg", "rect", "text", "line", "title"}


def test_bars_are_as_long_as_their_values() -> None:
    drawn = drawing.stacked(
        "bars", ["one", "two"], [Bar("a", [2.0, 4.0], "6"), Bar("b", [1.0, 0.0], "1")], "ms"
    )
    parts = re.findall(
        r'<rect class="fill s(\d)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="20"', drawn
    )
    (first, start, width), (second, then, twice), (_, _, half), *_ = [
        (a, float(b), float(c)) for a, b, c in parts
    ]
    assert (first, second) == ("0", "1")
    assert twice == pytest.approx(2 * width, abs=0.2)
    assert half == pytest.approx(width / 2, abs=0.2)
    assert then == pytest.approx(start + width, abs=0.2)
