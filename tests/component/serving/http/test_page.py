"""The page at / in a real browser: two variants side by side, by keyboard, with nothing run that somebody typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cartlm.serving.http.limits import Limits
from cartlm.serving.reader import Reader, load
from tests.component.serving.http.conftest import Server
from tests.fixtures.baseline import write_baseline
from tests.fixtures.browser import PICTURES, PLANTED, Visit, browser, needs_chromium
from tests.fixtures.http_service import running, served

pytestmark = needs_chromium
__all__ = ["browser"]


class Page(Visit):
    """The page of the service, once it has its variants."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        super().__init__(browser, url, **options)
        self.page.wait_for_selector("#first option", state="attached")

    def read(self, message: str, count: int) -> list[str]:
        """Type a message where the focus is; the texts of the answers, once there are so many intents or failures."""
        self.page.keyboard.type(message)
        self.page.keyboard.press("Enter")
        self.page.wait_for_function(
            "count => document.querySelectorAll('.intent, .failed').length === count", arg=count
        )
        return list(self.page.locator(".answer").all_inner_texts())


def tabbed(page: Any, key: str) -> str:
    """The id of what has the focus after this key, or else its tag."""
    page.keyboard.press(key)
    return str(page.evaluate("document.activeElement.id || document.activeElement.tagName"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("narrow", {"color_scheme": "light", "viewport": {"width": 320, "height": 640}}),
    ],
)
def test_two_variants_answer_side_by_side_by_keyboard(
    server: Server, browser: Any, name: str, options: dict[str, Any]
) -> None:
    visit = Page(browser, server.url, **options)
    page = visit.page
    page.fill("#catalog", "Tea\n\n  Oat Milk 1 l \nGreen Tea <b>20</b>\n")
    assert page.inner_text("#count") == "3 products"
    page.focus("#message")
    toy, baseline = visit.read("add two tea", 2)
    assert toy.startswith("toy")
    assert "%\N{NO-BREAK SPACE}sure" in toy
    assert "\N{NO-BREAK SPACE}ms" in baseline
    assert "add 2 × Tea" in baseline
    assert "%\N{NO-BREAK SPACE}sure" not in baseline  # the baseline has no confidence
    answers = visit.read(PLANTED, 4)
    assert len(answers) == 4
    assert page.inner_text("li:first-child .message") == PLANTED
    visit.read(" ", 6)
    assert page.locator("li:first-child .failed").all_inner_texts() == ["the message is blank"] * 2
    assert page.evaluate("document.activeElement.id") == "message"
    forth, back = ([tabbed(page, key) for _ in range(count)] for key, count in (("Tab", 3), ("Shift+Tab", 5)))
    assert forth == ["BUTTON", "first", "second"]
    assert back == ["first", "BUTTON", "message", "catalog", "A"]
    visit.picture(name)
    assert page.evaluate("window.planted") is None
    assert page.locator("li script, li img, li b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert {url.split("/")[2] for url in visit.asked if not url.startswith("data:")} == {
        server.url.split("/")[2]
    }
    # the browser itself reports the answers 422 that a test like this asks for
    assert [line for line in visit.console if "422" not in line] == []


def test_the_page_asks_for_the_key_and_keeps_it_in_memory(browser: Any, tmp_path: Path) -> None:
    write_baseline(tmp_path / "baseline/model.json")

    def opened(source: str) -> Reader:
        return load(source, threads=1)

    limits = Limits(queue=8, timeout_s=60)
    with (
        served(tmp_path, [str(tmp_path / "baseline")], limits, ["right-key"], load=opened) as made,
        running(made.app) as url,
    ):
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#key-form:visible")
        page.keyboard.type("wrong-key\n")
        page.wait_for_selector("#status:has-text('no key')")
        page.keyboard.type("right-key\n")
        page.wait_for_selector("#key-form", state="hidden")
        page.keyboard.type("add two green tea\n")
        assert "add 2 × Green tea (20 bags)" in page.inner_text(".intent")
        assert page.locator("#other").is_hidden()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        page.goto(f"{url}/docs")
        page.wait_for_selector("text=POST /v1/intents/batch")


def test_the_description_of_the_api_is_readable_without_another_host(server: Server, browser: Any) -> None:
    page, said = browser.new_page(color_scheme="dark"), []
    page.on("console", lambda line: said.append(line.text))
    page.goto(f"{server.url}/docs")
    page.wait_for_selector("text=PUT /v1/catalogs/{id}")
    assert said == []
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / "docs.png"))
