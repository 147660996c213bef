"""The comment of a pull request: what stands in it, that a fork cannot break it, that it is never too long."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from cartlm.compare import report
from cartlm.compare.comparison import Change, Comparison
from cartlm.compare.load import ParamChange
from cartlm.compare.markdown import inert, mermaid_chart, table_cell
from cartlm.pipeline import stale
from tests.unit.compare import pull_request

HOSTILE = [
    "a | b",
    "`code` ``",
    "<img src=x onerror=alert(1)>",
    "</details></table>",
    "<!-- x",
    "@everyone",
    "see @org/team, (@user)",
    "x\n| a | b | c |\n\n# head\n/close",
    "\r\n- [ ] box",
    "[text](https://example.invalid)",
    "![x](https://example.invalid/x.png)",
    "https://example.invalid www.example.invalid",
    "fixes #12, GH-12, org/repo#3, !4, ~label, %milestone, &epic",
    "**bold** _it_ __x__ ~~y~~ $x^2$",
    "\\| \\` \\\\|",
    "&lt;b&gt; &#64;user",
    "\u202eright to left\u202c \x00 \u200b@user",
    "a]: x",
]
CALLS = re.compile(r"(?:^|[^A-Za-z0-9_])[@~&%!][A-Za-z]|#\d|!\d|GH-\d")
"""Names, issues and the like as GitHub and GitLab find them in the rendered text."""
OURS = re.compile(r"</?(details|summary|code)>")


def planted(**changed: Any) -> Comparison:
    return replace(pull_request.comparison(), **changed)


def rendered(text: str) -> tuple[str, str]:
    """HTML as a page has it, and its text outside of <code> and <pre>."""
    page = (
        MarkdownIt("commonmark", {"html": True, "linkify": False})
        .enable(["table", "strikethrough"])
        .render(text)
    )
    outside = re.sub(r"<(code|pre)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    return page, html.unescape(re.sub(r"<[^>]+>", "", outside))


def test_the_committed_example_is_what_the_script_makes() -> None:
    made = pull_request.TARGET.read_text(encoding="utf-8")
    assert made == pull_request.document(), "stale: python -m tests.unit.compare.pull_request"
    assert "planted, none is measured" in made.split("---")[0]


def test_the_example_shows_each_kind_of_change_on_each_target() -> None:
    text = report.format_comment(pull_request.comparison())
    assert text.startswith(report.MARKER + "\n")
    heads = re.findall(r"^### (.*)$", text, flags=re.MULTILINE)
    assert heads == [
        "Params", "Accuracy", "Hardware target cpu", "Hardware target t4", "Stale stages", "Plots",
    ]  # fmt: skip
    assert "| finetune.learning_rate | 0.0002 | 0.0004 |" in text
    assert re.search(r"\| q4_k_m \| free.exact_match .* worse \| 41 rows lost, 6 won", text)
    assert re.search(
        r"\| q2_k \| free.exact_match .* no change \| .*; not significant \(adjusted p 0\.", text
    )
    assert re.search(r"\| q4_k_m \| decode_tokens_per_s .* worse \|", text)
    assert re.search(r"\| int4-g128 \| kernel_marlin.decode_tokens_per_s .* better \|", text)
    assert "- bench-cpu: cartlm/bench/worker.py\n" in text
    assert "bench-gpu: measured at commit 0123abc (2026-01-02)" in text
    page, _ = rendered(text)
    assert page.count("<details>") == page.count("</details>") == 5
    assert page.count("<table>") == 8


def test_without_a_change_it_says_so() -> None:
    text = report.format_comment(Comparison("a", "b", []))
    assert "no change" in text.splitlines()[1]
    assert "### Params\n\nNo change." in text
    assert "Not asked: b is not checked out" in text
    assert "mermaid" not in text
    asked = stale.Report(3, {}, {}, "dvc repro")
    assert "No stage of dvc.yaml is stale (of 3)." in report.format_comment(
        Comparison("a", "b", [], stale=asked)
    )


@pytest.mark.parametrize("bad", HOSTILE)
def test_no_value_of_a_fork_breaks_the_page_or_calls_anybody(bad: str) -> None:
    """In every place that a fork's files reach."""
    change = Change(bad, bad, bad, "speed", 1.0, 2.0, 1.0, "worse", bad)
    asked = stale.Report(
        2, {bad: [bad]}, {f"gpu/dvc.yaml:{bad}": stale.Elsewhere(changed=[bad])}, "dvc repro"
    )
    found = Comparison(
        "a", "b", [change, change], [ParamChange(bad, bad, bad, [bad])], [bad, f"cpu: {bad}"], stale=asked
    )
    text = report.format_comment(found)
    page, seen = rendered(text)
    tags = re.findall(r"<!--.*?-->|</?[a-z][^>]*>", page)
    plain = re.compile(
        r'</?(h2|h3|p|ul|li|table|thead|tbody|tr|th|td|pre)( style="[a-z:-]*")?>|<code class="language-mermaid">'
    )
    assert [tag for tag in tags[1:] if not plain.fullmatch(tag) and not OURS.fullmatch(tag)] == []
    assert not CALLS.search(seen), CALLS.findall(seen)
    rows = [re.findall(r"<t[hd]", row) for row in re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)]
    assert [len(row) for row in rows] == [3, 3, 7, 7, 7]
    assert page.count("<h3>") == 4
    table = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert table == [4, 4, 4, 8, 8, 8, 8]
    assert set(re.findall(r"<[^&]{0,8}", OURS.sub("", text))) == {"<!-- cart"}
    assert not [line for line in text.splitlines() if line.startswith("/")]


def test_plain_values_stay_as_they_are() -> None:
    for value in (
        "q4_k_m",
        "eval@q8_0",
        "cartlm/pipeline/stale.py",
        "95 %",
        "a: b, c (d)",
        "['a', 'b']",
        "\\n",
        "2e-05",
    ):
        assert table_cell(value) == value
        assert inert(value) == value
    assert (table_cell(None), table_cell("x" * 99)) == ("", "x" * 57 + "...")
    assert table_cell("a|b") == "<code>a&#124;b</code>"


@pytest.mark.parametrize("many", ["params", "changes", "notes", "stages", "all"])
def test_it_is_never_too_long_and_stays_whole(many: str) -> None:
    base = pull_request.comparison()
    params = [ParamChange("params.yaml", f"key{i}", "|" * 70, "new" * 30) for i in range(500)]
    changes = [
        replace(base.changes[0], variant=f"v{i}", why="why " * 60, verdict="worse") for i in range(1000)
    ]
    notes = [f"note {i} " + "n" * 1000 for i in range(100)]
    asked = stale.Report(9, {f"s{i}": [f"p{i}" * 100] for i in range(100)}, {}, "dvc repro")
    parts: dict[str, dict[str, Any]] = {
        "params": {"params": params},
        "changes": {"changes": changes},
        "notes": {"notes": notes},
        "stages": {"stale": asked},
    }
    parts["all"] = {name: value for part in parts.values() for name, value in part.items()}
    text = report.format_comment(planted(**parts[many]))
    assert len(text) <= report.LIMIT
    assert text.count("```") % 2 == 0
    assert text.count("<details>") == text.count("</details>")
    end = "Cut at 65,000 characters; all of it: `cartlm compare 89abcdef --all`\n"
    assert text.endswith(end) == (many in ("params", "changes", "all"))
    if many in ("params", "changes"):
        assert len(text) > report.LIMIT / 4
        assert text.rstrip().splitlines()[-3] == "</details>"
    for head in ("### Params", "### Accuracy", "### Stale stages", "### Plots" if many != "changes" else ""):
        assert head in text


def test_a_comparison_of_two_commits_names_both_where_it_is_cut() -> None:
    params = [ParamChange("params.yaml", f"key{i}", "old" * 30, "new" * 30) for i in range(500)]
    text = report.format_comment(planted(params=params, new="01234567"))
    assert text.endswith("`cartlm compare 89abcdef 01234567 --all`\n")


def test_plots_show_what_both_sides_have_and_compares_in_the_order_of_params() -> None:
    def change(
        variant: str, old: float | None, new: float | None, verdict: str = "no change", **more: str
    ) -> Change:
        known = {"target": "cpu", "metric": "decode_tokens_per_s"} | more
        return Change(known["target"], variant, known["metric"], "speed", old, new, None, verdict, "")  # type: ignore[arg-type]

    found = Comparison("a", "b", [
        change("q2_k", 30000.0, 40000.0), change("f16", 10.0, 20.0), change("q8_0", None, 5.0, "added"),
        change("q6_k", 5.0, None, "removed"), change("q5_k_m", 1.0, 9.0, "not comparable"),
        change("f16", 7.0, 8.0, metric="batch_8.decode_tokens_per_s"),
        change("int8", 0.5, 0.75, target="t4", metric="kernel_marlin.decode_tokens_per_s"),
        change("int8", 0.25, 0.125, target="t4", metric="kernel_torch.decode_tokens_per_s"),
        change("merged", 7.0, 8.0, target="h200", metric="gpu.decode_tokens_per_s"),
    ], variants=["f16", "q2_k"])  # fmt: skip
    drawn = report.charts(found)
    assert len(drawn) == 3  # the legend, cpu and t4; one value is no chart
    assert '    x-axis ["f16", "q2_k"]\n' in drawn[1]
    assert "0 --> 44000\n    bar [20, 40000]\n    line [10, 30000]\n" in drawn[1]
    assert '    x-axis ["int8-marlin", "int8-torch"]\n' in drawn[2]
    assert "    bar [0.75, 0.125]\n    line [0.5, 0.25]\n" in drawn[2]


def test_a_chart_has_no_text_of_a_fork_and_no_number_that_mermaid_cannot_read() -> None:
    bad = 'a"]\n```\n<b>'
    text = mermaid_chart(
        bad, bad, [(bad, 1e-7, 2e8), ("b", float("nan"), 1.0), ("c", float("inf"), 1.0), ("d", 1.0, 1.0)]
    )
    assert text.count("```") == 2
    assert len(text.splitlines()) == 8
    assert not re.search(r"\de[+-]?\d|nan|inf|<", text)
    assert mermaid_chart("t", "y", [("a", 0.0, 0.0), ("b", 0.0, 0.0)]) == ""
