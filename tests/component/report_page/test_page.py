"""The whole page: in a real browser by mouse and keyboard, and as a command; nothing that somebody typed is run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cartlm import cli, cli_report, params
from cartlm.errors import UserError
from cartlm.metrics import read_metrics, write_metrics
from cartlm.pipeline.repository import Tree
from cartlm.report_page import page, trends
from cartlm.report_page.parts import Sources
from tests import ROOT
from tests.fixtures import fixed_params
from tests.fixtures.browser import PLANTED, Visit, browser, needs_chromium
from tests.unit.report.test_studies import RECORD
from tests.unit.report.test_studies import write as write_models
from tests.unit.report_page import toy_page

__all__ = ["browser"]
MOST_MB = 3
SERIOUS = ("serious", "critical")


def report(checkout: Path, path: Path) -> Path:
    """The page of a checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        done = CliRunner().invoke(cli.main, ["report", "--output", str(path)], standalone_mode=False)
    assert done.exception is None, done.output
    return path


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of this repository's numbers, whatever they are."""
    return report(ROOT, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a toy default model, and of a study without a benchmark."""
    folder = tmp_path_factory.mktemp("both")
    toy_page.write(folder)
    fixed_params.write(folder)
    write_study(folder)
    return report(folder, folder / "report.html")


def write_study(checkout: Path) -> None:
    """A study as `make study` leaves it."""
    folder = checkout / "results/other"
    write_models(
        folder / "metrics", 134_515_008, {"base": 1000, "f16": 79, "q8_0": 79, "q4_k_m": 83, "q3_k_m": 103}
    )
    shutil.rmtree(folder / "metrics/bench")
    fixed_params.write(folder)
    write_metrics(folder / "study.json", {**RECORD, "left_out": "bench-cpu"})


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with PLANTED wherever a user's or a model's words go."""
    folder = tmp_path_factory.mktemp("toy")
    sources = toy_page.write(folder)
    for path in (sources.metrics / "bench/cpu").glob("*.json"):
        write_metrics(path, {**read_metrics(path), "machine": {"name": PLANTED, "hash": "aa"}})
    path = folder / "report.html"
    path.write_text(page.html(sources), encoding="utf-8")
    return path


def shown(page: Any, section: str) -> dict[str, str]:
    """The options of the view that a section shows."""
    (choice,) = page.evaluate(
        "id => [...document.querySelectorAll(`#${id} .view`)].filter(v => !v.hidden).map(v => JSON.parse(v.dataset.choice))", section
    )  # fmt: skip
    return dict(choice)


def column(page: Any, section: str, number: int) -> list[str]:
    """What a column of the table shown has, from top to bottom."""
    return list(page.evaluate(
        "([id, n]) => [...document.querySelectorAll(`#${id} .view:not([hidden]) tbody tr`)].map(r => r.cells[n].dataset.by)", [section, number]
    ))  # fmt: skip


@pytest.mark.slow
@needs_chromium
def test_switches_deep_links_and_sorting_work_by_keyboard(browser: Any, both: Path) -> None:
    visit = Visit(browser, both.as_uri(), viewport={"width": 1280, "height": 900})
    page = visit.page
    assert shown(page, "trade-off")["against"] == "p95 latency, ms"
    page.locator("#trade-off select[name=against]").select_option("file, MiB")
    assert shown(page, "trade-off")["against"] == "file, MiB"
    page.locator("#trade-off select[name=model]").select_option("other")  # has no latency, and another target
    choice = shown(page, "trade-off")
    assert (choice["model"], choice["against"]) == ("other", "file, MiB")
    assert page.locator("#trade-off select[name=target]").input_value() == choice["target"]
    linked = Visit(browser, page.url)  # the address is a deep link
    assert shown(linked.page, "trade-off") == choice
    page.locator("#trade-off select[name=model]").select_option("offline")
    assert shown(page, "trade-off")["target"] == "cpu"  # what was chosen before comes back
    mark = linked.page.locator("#trade-off .view:not([hidden]) a.point").first
    mark.focus()
    linked.page.keyboard.press("Enter")
    linked.page.wait_for_selector("tr.target")  # the browser reports the new address later
    row = linked.page.locator("tr.target")
    assert row.locator("th").inner_text() == str(mark.get_attribute("aria-label")).partition(":")[0]
    hidden = linked.page.evaluate("document.querySelector('#trade-off .view[hidden] tr[id]').id")
    row_link = Visit(browser, f"{both.as_uri()}#{hidden}")
    row_link.page.wait_for_selector("tr.target")
    broken = Visit(browser, f"{both.as_uri()}#100%?x=%")
    assert shown(broken.page, "trade-off")["against"] == "p95 latency, ms"
    heading = page.locator("#paper thead th").nth(1).locator("button")
    heading.focus()
    page.keyboard.press("Enter")
    up = column(page, "paper", 1)
    page.keyboard.press("Enter")
    assert column(page, "paper", 1) != up
    assert page.locator("#paper thead th").nth(1).get_attribute("aria-sort") == "descending"
    page.locator("#slices thead th").nth(1).locator("button").click()
    numbers = [float(text) for text in column(page, "slices", 1)]
    assert numbers == sorted(numbers)
    for each in (visit, linked, row_link, broken):
        assert each.console == []
        assert {url.partition(":")[0] for url in each.asked} <= {"file", "data"}
        assert len([url for url in each.asked if url.startswith("file:")]) == 1


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}}),
        ("dark", {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}}),
        ("narrow", {"color_scheme": "light", "viewport": {"width": 390, "height": 844}}),
    ],
)
def test_the_page_is_small_accessible_and_fits(
    browser: Any, committed: Path, name: str, options: dict[str, Any]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make setup installs axe")
    visit = Visit(browser, committed.as_uri(), **options)
    assert committed.stat().st_size < MOST_MB * 1e6
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    visit.picture(f"report-{name}", whole=False)
    found = axe.Axe().run(visit.page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in SERIOUS] == []


@needs_chromium
def test_print_shows_numbers_and_hides_controls(browser: Any, both: Path) -> None:
    visit = Visit(browser, both.as_uri(), color_scheme="light")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    visit.page.emulate_media(media="print")
    assert visit.page.locator("#cliff table").first.is_visible()
    assert not visit.page.locator("nav").is_visible()
    assert not visit.page.locator("#trade-off .switches").is_visible()


@needs_chromium
def test_nothing_planted_is_run(browser: Any, toy: Path) -> None:
    visit = Visit(browser, toy.as_uri())
    page = visit.page
    assert page.locator("#failures .message").first.inner_text() == PLANTED
    assert page.locator("#failures mark").count() > 0
    page.locator("#trade-off .view:not([hidden]) summary").last.click()
    assert page.evaluate("window.planted") is None
    assert page.locator("main script, main img:not(.cliff)").count() == 0
    assert visit.console == []
    assert len([url for url in visit.asked if not url.startswith("data:")]) == 1


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return toy_page.write(tmp_path)


def test_the_page_has_no_markup_of_a_name_and_asks_for_nothing(sources: Sources) -> None:
    text = page.html(sources)
    assert PLANTED not in text
    assert "&lt;script&gt;window.planted" in text
    assert text.count("<script>") == 1
    assert "http://" not in text
    assert "https://" not in text


def test_markdown_has_the_sentence_and_the_table(sources: Sources) -> None:
    text = page.markdown(sources)
    assert "**cpu** (a toy CPU x2): Of the model files, ship q3_k_m" in text
    assert "| **q3_k_m** | 0.86 [0.81, 0.90] |" in text
    assert "\n\n\n" not in text


def test_without_an_evaluation_there_is_no_page(tmp_path: Path) -> None:
    sources = toy_page.write(tmp_path)
    for path in (sources.metrics / "eval").glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match="has no evaluation"):
        page.html(sources)


def test_without_a_benchmark_the_page_says_what_measures(tmp_path: Path) -> None:
    sources = toy_page.write(tmp_path)
    for path in (sources.metrics / "bench/cpu").glob("*.json"):
        path.unlink()
    assert "no measurement of a variant" in page.html(sources)
    (sources.metrics / "bench/cpu").rmdir()
    assert "make bench" in page.html(sources)


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """`cartlm report` in a folder."""
    monkeypatch.chdir(folder)
    return CliRunner().invoke(cli.main, ["report", *arguments])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with params and toy metrics."""
    toy_page.write(tmp_path)
    fixed_params.write(tmp_path)
    return tmp_path


def test_the_command_writes_the_page_and_prints_markdown(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = in_folder(checkout, monkeypatch)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "build/report.html is ready" in done.stdout
    assert "ship q3_k_m" in (checkout / "build/report.html").read_text("utf-8")
    assert in_folder(checkout, monkeypatch, "--markdown").stdout.startswith("### Which file to ship")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("metrics/eval/f16.json", "{", "metrics/eval/f16.json is not JSON"),
        ("metrics/eval/f16.json", "[]", "metrics/eval/f16.json is not a JSON object"),
        ("metrics/eval/f16.json", '{"free": {"exact_match": "much"}}', "free.exact_match is 'much'"),
        ("metrics/bench/cpu/f16.json", '{"cpu": {"latency_ms_p95": NaN}}', "cpu.latency_ms_p95 is nan"),
        (
            "metrics/eval/f16.json",
            '{"free": {"exact_match": 0.5}}',
            "has another form than this version writes",
        ),
        ("metrics/eval/f16.json", '{"free": 7}', "has another form than this version writes"),
        ("results/other/metrics/eval/f16.json", '{"free": {"exact_match": NaN}}', "free.exact_match is nan"),
        ("metrics/exact/f16.csv", "a,b\n", "metrics/exact/f16.csv has not the columns"),
        ("metrics/finetune.csv", "step,loss\n1,much\n", "metrics/finetune.csv does not have numbers"),
        ("dvc.lock", "stages: 1", "dvc.lock is no lock file"),
        ("params.yaml", "gguf: [", "params.yaml"),
    ],
)
def test_a_broken_file_is_named_in_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, says: str
) -> None:
    write_study(checkout)
    (checkout / file).write_text(text, encoding="utf-8")
    done = in_folder(checkout, monkeypatch)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (checkout / "build").exists()


def test_without_metrics_or_params_it_is_one_line(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(checkout / "metrics")
    done = in_folder(checkout, monkeypatch)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "metrics/eval has no evaluation of a variant in params.yaml; make repro" in done.stderr
    (checkout / "params.yaml").unlink()
    done = in_folder(checkout, monkeypatch)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "params.yaml" in done.stderr


def test_a_page_that_cannot_be_written_is_one_line(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "file").touch()
    (checkout / "folder").mkdir()
    for output in ("file/report.html", "folder", "/dev/null/x.html"):
        done = in_folder(checkout, monkeypatch, "--output", output)
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1
        assert output in done.stderr
        assert "--output" in done.stderr


def test_private_rows_stay_private_when_params_change_after_them(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose rows they are is what dvc.lock says of them."""
    assert cli_report.sources(params.load(checkout / "params.yaml"), checkout).show_rows
    lock = json.loads((checkout / "dvc.lock").read_text())
    lock["stages"]["data"]["params"] = {"params.yaml": {"data": {"source": "file"}}}
    (checkout / "dvc.lock").write_text(json.dumps(lock))
    assert not cli_report.sources(params.load(checkout / "params.yaml"), checkout).show_rows


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_trends_follow_the_commits_and_mark_another_machine(tmp_path: Path) -> None:
    sources = toy_page.write(tmp_path)
    path = sources.metrics / "bench/cpu/f16.json"
    git(tmp_path, "init", "-q")
    for number, (p95, machine) in enumerate([(100.0, "aa"), (90.0, "aa"), (80.0, "aa"), (40.0, "bb")]):
        values = read_metrics(path)
        write_metrics(path, {**values, "machine": {"name": f"CPU {machine}", "hash": machine}, "cpu": {**values["cpu"], "latency_ms_p95": p95}})  # fmt: skip
        for other in ("baseline", "q8_0", "q4_k_m", "q3_k_m", "q2_k"):
            file = path.with_name(f"{other}.json")
            write_metrics(
                file, {**read_metrics(file), "machine": {"name": f"CPU {machine}", "hash": machine}}
            )
        git(tmp_path, "add", "metrics")
        git(tmp_path, "commit", "-qm", f"<b>commit {number}</b>")
    (tmp_path / "other").touch()
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "no number changed")
    (view,) = [
        each
        for each in trends.section(sources).views
        if each.choice == {"target": "cpu", "metric": "p95 latency, ms"}
    ]
    assert view.table
    f16 = view.table.headings.index("f16")
    assert [row[f16].by for row in view.table.rows] == [40.0, 80.0, 90.0, 100.0]
    assert view.picture.count('class="machine"') == 1
    for odd in ("high", [1], float("nan")):
        path.write_text(json.dumps({**read_metrics(path), "cpu": {"latency_ms_p95": odd}}))
        git(tmp_path, "commit", "-qam", "odd")
    (view,) = [each for each in trends.section(sources).views if each.choice == {"target": "cpu", "metric": "p95 latency, ms"}]  # fmt: skip
    assert view.table
    assert [row[f16].by for row in view.table.rows][3:] == [40.0, 80.0, 90.0, 100.0]
    assert "nan" not in view.picture
    git(tmp_path, "reset", "--hard", "-q", "HEAD~3")
    assert "<b>" not in view.picture
    write_metrics(path, {**read_metrics(path), "cpu": {"latency_ms_p95": 30.0}})
    assert trends.history(tmp_path, 20)[-1].name == "workspace"
    assert [each.subject for each in trends.history(tmp_path, 2)][:2] == [
        "<b>commit 2</b>",
        "<b>commit 3</b>",
    ]


def test_a_commit_with_broken_metrics_is_no_obstacle(tmp_path: Path) -> None:
    sources = toy_page.write(tmp_path)
    git(tmp_path, "init", "-q")
    (sources.metrics / "eval/f16.json").write_text("{", encoding="utf-8")
    git(tmp_path, "add", "metrics")
    git(tmp_path, "commit", "-qm", "broken")
    (found,) = trends.history(tmp_path, 20)
    assert "eval/f16.json" not in found.files
    assert "eval/q8_0.json" in found.files


def test_commits_without_metrics_or_with_odd_subjects_are_no_obstacle(tmp_path: Path) -> None:
    sources = toy_page.write(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "metrics")
    git(tmp_path, "commit", "-qm", "two\u2028lines")
    git(tmp_path, "rm", "-rq", "metrics")
    git(tmp_path, "commit", "-qm", "start over")
    toy_page.write(tmp_path)
    git(tmp_path, "add", "metrics")
    git(tmp_path, "commit", "-qm", "again")
    git(tmp_path, "config", "log.showSignature", "true")  # puts lines of its own into `git log`
    assert [each.subject for each in trends.history(sources.root, 20)] == ["two\u2028lines", "again"]
    assert Tree(tmp_path, "HEAD~1", "metrics").find("eval") == []
    with pytest.raises(UserError, match="git archive"):
        Tree(tmp_path, "0" * 40, "metrics").find("eval")
