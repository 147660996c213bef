"""comment.py, which has the bot's token: what it posts, where, and what it refuses. `gh` is a stand-in here."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tests import ROOT

MARKER = "<!-- cartlm: compare -->"
SHA = "c0ffee" + "0" * 34
BOT = {"login": "github-actions[bot]", "type": "Bot"}
SOMEBODY = {"login": "somebody", "type": "User"}
Post = Callable[[], str]


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


class GitHub:
    """The repository o/r with a report's run 7 from a fork and its pull request 5; `written` is what was posted."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = {
            "id": 7,
            "event": "pull_request",
            "path": ".github/workflows/pr-report.yml",
            "head_sha": SHA,
            "head_branch": "topic",
            "html_url": "https://github.test/o/r/actions/runs/7",
            "head_repository": {"id": 99, "owner": {"login": "forker"}},
        }
        self.pulls: list[dict[str, Any]] = [
            {"number": 4, "head": {"sha": "1" * 40, "repo": {"id": 99}}},
            {"number": 5, "head": {"sha": SHA, "repo": {"id": 99}}},
            {"number": 6, "head": {"sha": SHA, "repo": None}},
        ]
        self.archive = zipped({"comment.md": f"{MARKER}\n# worse\n".encode()})
        self.artifact: dict[str, Any] = {"id": 3, "name": "pr-comment", "expired": False}
        self.comments: list[dict[str, Any]] = []
        self.written: list[tuple[str, str, str]] = []

    def get(self, path: str, query: dict[str, str]) -> Any:
        if path == "repos/o/r/actions/runs/7":
            return self.run
        if path == "repos/o/r/actions/runs/7/artifacts":
            return {"artifacts": [{"size_in_bytes": len(self.archive), **self.artifact}]}
        if path == "repos/o/r/actions/artifacts/3/zip":
            return self.archive
        if path == "repos/o/r/pulls" and query["state"] == "open":
            return self.pulls if query["head"] == "forker:topic" else []
        if path == "repos/o/r/issues/5/comments":
            size, page = int(query["per_page"]), int(query["page"])
            return self.comments[size * (page - 1) : size * page]
        return None

    def gh(self, command: list[str], input: bytes, **_: Any) -> subprocess.CompletedProcess[bytes]:
        """`gh api PATH [--method METHOD] [-f KEY=VALUE]... [--input -]`."""
        assert command[:2] == ["gh", "api"]
        path, *rest = command[2:]
        options = list(zip(rest[::2], rest[1::2], strict=True))
        assert {name for name, _ in options} <= {"--method", "-f", "--input"}
        method = dict(options).get("--method", "GET")
        if method == "GET":
            answer = self.get(path, dict(value.split("=", 1) for name, value in options if name == "-f"))
        else:
            assert ("--input", "-") in options
            self.written.append((method, path, json.loads(input)["body"]))
            answer = {"html_url": "https://github.test/o/r/pull/5#comment"}
        if answer is None:
            return subprocess.CompletedProcess(command, 1, b"", b"gh: Not Found (HTTP 404)\nmore")
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return subprocess.CompletedProcess(command, 0, content, b"")


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> GitHub:
    github = GitHub()
    monkeypatch.setattr(subprocess, "run", github.gh)
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("RUN_ID", "7")
    return github


@pytest.fixture
def post(github: GitHub, capsys: pytest.CaptureFixture[str]) -> Post:
    def run() -> str:
        runpy.run_path(str(ROOT / ".github/scripts/comment.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def error(post: Post) -> str:
    """The line with which it ends; `sys.exit` of a text is exit code 1."""
    with pytest.raises(SystemExit) as ended:
        post()
    assert isinstance(ended.value.code, str)
    assert "\n" not in ended.value.code
    return ended.value.code


def test_the_first_report_is_a_new_comment(github: GitHub, post: Post) -> None:
    post()
    ((method, path, body),) = github.written
    assert (method, path) == ("POST", "repos/o/r/issues/5/comments")
    assert body.startswith(f"{MARKER}\n<sub>[Run](https://github.test/o/r/actions/runs/7) of c0ffee00")
    assert body.endswith("# worse\n")


def test_the_next_report_replaces_what_the_bot_wrote_and_nothing_else(github: GitHub, post: Post) -> None:
    github.comments = [
        {"id": 1, "user": SOMEBODY, "body": f"{MARKER}\nmine"},
        {"id": 2, "user": None, "body": f"{MARKER}\nof one who left"},
        {"id": 4, "user": {"login": "another[bot]", "type": "Bot"}, "body": f"{MARKER}\ntheirs"},
        {"id": 3, "user": BOT, "body": f"another workflow's\n{MARKER}"},
        *({"id": n, "user": SOMEBODY, "body": "talk"} for n in range(10, 130)),
        {"id": 200, "user": BOT, "body": f"{MARKER}\nold"},
    ]
    post()
    assert [(method, path) for method, path, _ in github.written] == [
        ("PATCH", "repos/o/r/issues/comments/200")
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_sha": "2" * 40}, "0 open pull requests from forker:topic"),
        ({"head_branch": "other"}, "0 open pull requests from forker:other"),
        ({"head_repository": {"id": 98, "owner": {"login": "forker"}}}, "0 open pull requests"),
        ({"head_repository": None}, "repository"),
        ({"path": ".github/workflows/mine.yml"}, "run 7"),
        ({"event": "push"}, "run 7"),
    ],
)
def test_a_run_that_is_no_pull_request_s_head_posts_nothing(
    github: GitHub, post: Post, change: dict[str, Any], reason: str
) -> None:
    github.run |= change
    assert reason in post()
    assert github.written == []


def test_two_pull_requests_of_one_head_are_refused(github: GitHub, post: Post) -> None:
    github.pulls.append({"number": 8, "head": {"sha": SHA, "repo": {"id": 99}}})
    assert "2 open pull requests" in post()
    assert github.written == []


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (zipped({"comment.md": b"# no marker\n"}), "begin with"),
        (zipped({"comment.md": f" {MARKER}\n".encode()}), "begin with"),
        (zipped({"comment.md": f"{MARKER} and more\n".encode()}), "begin with"),
        (zipped({"comment.md": f"{MARKER}\n{'x' * 65_000}".encode()}), "longer than 65,000"),
        (zipped({"comment.md": f"{MARKER}\n".encode() + b"0" * 50_000_000}), "longer than 65,000"),
        (zipped({"comment.md": MARKER.encode() + b"\n\xff"}), "cannot be read"),
        (zipped({"../comment.md": MARKER.encode()}), "not comment.md alone"),
        (zipped({"comment.md": MARKER.encode(), "number": b"1"}), "not comment.md alone"),
        (b"no archive", "cannot be read"),
        (zipped({"comment.md": MARKER.encode()})[:-30], "cannot be read"),
        (os.urandom(300_000), "more than 260,000"),
    ],
    ids=range(11),
)
def test_an_artifact_that_is_no_report_is_refused(
    github: GitHub, post: Post, archive: bytes, reason: str
) -> None:
    github.archive = archive
    assert reason in error(post)
    assert github.written == []


def test_a_run_without_a_report_posts_nothing(github: GitHub, post: Post) -> None:
    github.artifact["expired"] = True
    assert "pr-comment" in post()
    assert github.written == []


def test_a_report_mentions_nobody_and_links_nowhere(github: GitHub, post: Post) -> None:
    hostile = "@all _@o_ `@o` &#64;o &#x0040;o &commat;o\n<a href=x> <img src=x> [a](b) ![a](b) [a][b] http://x www.x [a]: //x\n"
    hostile += "o/r#1 #2 &#35;3 &num;4 GH-5 gh-6 &&#35;64;o &&num;64;o &&#35;35;1 #&#49;2 &#&#x36;4;o &#0000000064;o &#x000000040;o\n"
    kept = "<details><summary>eval</summary> <code>a&#42;b</code> &lt;\n"
    github.archive = zipped({"comment.md": f"{MARKER}\n{hostile}{kept}".encode()})
    post()
    lines = github.written[0][2].splitlines(keepends=True)
    assert "".join(lines[-2:]).endswith(kept)
    text = "".join(lines[-4:-1])
    assert text.count("@\N{ZERO WIDTH SPACE}") == text.count("@") == 11
    assert not re.search(r"&#|&commat|<|\]\(|\]\[|\]:|://|www\.|#\d|GH-\d", text, re.IGNORECASE)


def test_an_error_of_the_api_is_one_line(github: GitHub, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ID", "8")
    line = error(post)
    assert line.startswith("comment.py: gh api repos/o/r/actions/runs/8: ")
    assert "404" in line
