"""The scripts of the workflows, run for real: against a stand-in of GitHub's API, and in git repositories made here.

The comment is posted through `gh`: the real one where it is installed, and a small one of ours that does the same requests.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import ROOT

SCRIPTS = ROOT / ".github/scripts"
MARKER = "<!-- cartlm: compare -->"
SHA = "c0ffee" + "0" * 34
BOT = {"login": "github-actions[bot]", "type": "Bot"}
SOMEBODY = {"login": "somebody", "type": "User"}
FAKE_GH = """#!{python}
import sys, urllib.request
command, path, *rest = sys.argv[1:]
assert command == "api"
method, fields, data = "GET", [], None
while rest:
    option = rest.pop(0)
    value = rest.pop(0)
    if option == "--method": method = value
    elif option == "-f": fields.append(tuple(value.split("=", 1)))
    elif option == "--input": data = sys.stdin.buffer.read()
    else: sys.exit(f"no such option {{option}}")
url = "{url}/" + path + ("?" + urllib.parse.urlencode(fields) if fields else "")
try:
    sys.stdout.buffer.write(urllib.request.urlopen(urllib.request.Request(url, data, method=method)).read())
except urllib.error.HTTPError as error:
    sys.exit(f"gh: {{error}}")
"""


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


class GitHub:
    """One repository, o/r, with a report's run 7 from a fork and its pull request 5; what was written is in `written`."""

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
        if path == "/repos/o/r/actions/runs/7":
            return self.run
        if path == "/repos/o/r/actions/runs/7/artifacts":
            return {"artifacts": [{"size_in_bytes": len(self.archive), **self.artifact}]}
        if path == "/repos/o/r/actions/artifacts/3/zip":
            return self.archive
        if path == "/repos/o/r/pulls" and query["state"] == "open":
            return self.pulls if query["head"] == "forker:topic" else []
        if path == "/repos/o/r/issues/5/comments":
            size, page = int(query["per_page"]), int(query["page"])
            return self.comments[size * (page - 1) : size * page]
        return None

    def write(self, method: str, path: str, body: str) -> Any:
        self.written.append((method, path, body))
        return {"html_url": "https://github.test/o/r/pull/5#comment"}


@pytest.fixture
def github() -> GitHub:
    return GitHub()


@pytest.fixture
def url(github: GitHub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked = urlsplit(self.path)  # of a proxy the whole address is asked
            query = {key: values[0] for key, values in parse_qs(asked.query).items()}
            if self.command == "GET":
                found = github.get(asked.path, query)
            else:
                found = github.write(self.command, asked.path, json.loads(self.sent())["body"])
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header(
                "Content-Type", "application/zip" if found is github.archive else "application/json"
            )
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def sent(self) -> bytes:
            """What was sent: of a known length, or (by gh, which reads a pipe) in chunks."""
            if length := self.headers["Content-Length"]:
                return self.rfile.read(int(length))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            return content

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Poster:
    """comment.py, with a gh that talks to the stand-in."""

    def __init__(self, url: str, folder: Path, real: bool) -> None:
        self.environ = {**os.environ, "GITHUB_REPOSITORY": "o/r", "RUN_ID": "7", "HOME": str(folder)}
        if real:
            # This host is the one that gh asks by HTTP, hence through a proxy
            token = dict.fromkeys(("GH_TOKEN", "GH_ENTERPRISE_TOKEN"), "t")
            self.environ |= {"GH_HOST": "github.localhost", "HTTP_PROXY": url, "http_proxy": url, **token}
            self.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "")
        else:
            gh = folder / "gh"
            gh.write_text(FAKE_GH.format(python=sys.executable, url=url))
            gh.chmod(0o755)
            self.environ["PATH"] = f"{folder}:{os.environ['PATH']}"

    def __call__(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPTS / "comment.py")]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60)


@pytest.fixture(params=["ours", "real"])
def comment(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Poster:
    if request.param == "real" and not shutil.which("gh"):
        pytest.skip("gh is not installed: apt-get install gh")
    return Poster(url, tmp_path, request.param == "real")


def test_the_first_report_is_a_new_comment(github: GitHub, comment: Poster) -> None:
    done = comment()
    assert done.returncode == 0, done.stderr
    ((method, path, body),) = github.written
    assert (method, path) == ("POST", "/repos/o/r/issues/5/comments")
    assert body.startswith(f"{MARKER}\n<sub>[Run](https://github.test/o/r/actions/runs/7) of c0ffee00")
    assert body.endswith("# worse\n")


def test_the_next_report_replaces_what_the_bot_wrote_and_nothing_else(
    github: GitHub, comment: Poster
) -> None:
    github.comments = [
        {"id": 1, "user": SOMEBODY, "body": f"{MARKER}\nmine"},
        {"id": 2, "user": None, "body": f"{MARKER}\nof one who left"},
        {"id": 4, "user": {"login": "another[bot]", "type": "Bot"}, "body": f"{MARKER}\ntheirs"},
        {"id": 3, "user": BOT, "body": f"another workflow's\n{MARKER}"},
        *({"id": n, "user": SOMEBODY, "body": "talk"} for n in range(10, 130)),
        {"id": 200, "user": BOT, "body": f"{MARKER}\nold"},
    ]
    assert comment().returncode == 0
    assert [(method, path) for method, path, _ in github.written] == [
        ("PATCH", "/repos/o/r/issues/comments/200")
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"head_sha": "2" * 40}, "0 open pull requests from forker:topic"),
        ({"head_branch": "other"}, "0 open pull requests from forker:other"),
        ({"head_repository": {"id": 98, "owner": {"login": "forker"}}}, "0 open pull requests"),
        ({"head_repository": None}, "the repository of the run is gone"),
        ({"path": ".github/workflows/mine.yml"}, "run 7 is no report"),
        ({"event": "push"}, "run 7 is no report"),
    ],
)
def test_a_run_that_is_no_pull_request_s_head_posts_nothing(
    github: GitHub, url: str, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    github.run |= change
    done = Poster(url, tmp_path, real=False)()
    assert (done.returncode, github.written) == (0, [])
    assert why in done.stdout


def test_two_pull_requests_of_one_head_are_not_guessed_between(
    github: GitHub, url: str, tmp_path: Path
) -> None:
    github.pulls.append({"number": 8, "head": {"sha": SHA, "repo": {"id": 99}}})
    done = Poster(url, tmp_path, real=False)()
    assert (done.returncode, github.written) == (0, [])
    assert "2 open pull requests" in done.stdout


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (zipped({"comment.md": b"# no marker\n"}), "does not begin with"),
        (zipped({"comment.md": f" {MARKER}\n".encode()}), "does not begin with"),
        (zipped({"comment.md": f"{MARKER} and more\n".encode()}), "does not begin with"),
        (zipped({"comment.md": f"{MARKER}\n{'x' * 65_000}".encode()}), "longer than 65,000"),
        (zipped({"comment.md": f"{MARKER}\n".encode() + b"0" * 50_000_000}), "longer than 65,000"),
        (zipped({"comment.md": MARKER.encode() + b"\n\xff"}), "cannot be read"),
        (zipped({"../comment.md": MARKER.encode()}), "is not comment.md alone"),
        (zipped({"comment.md": MARKER.encode(), "number": b"1"}), "is not comment.md alone"),
        (b"no archive", "cannot be read"),
        (zipped({"comment.md": MARKER.encode()})[:-30], "cannot be read"),
        (os.urandom(300_000), "more than 260,000"),
    ],
)
def test_an_artifact_that_is_no_report_is_refused(
    github: GitHub, url: str, tmp_path: Path, archive: bytes, why: str
) -> None:
    github.archive = archive
    done = Poster(url, tmp_path, real=False)()
    assert (done.returncode, github.written) == (1, [])
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_without_a_report_posts_nothing(github: GitHub, url: str, tmp_path: Path) -> None:
    github.artifact["expired"] = True
    done = Poster(url, tmp_path, real=False)()
    assert (done.returncode, github.written) == (0, [])
    assert "left no pr-comment" in done.stdout


def test_a_report_calls_nobody_and_leads_nowhere(github: GitHub, url: str, tmp_path: Path) -> None:
    told = "@all _@o_ `@o` &#64;o &#x0040;o &commat;o\n<a href=x> <img src=x> [a](b) ![a](b) [a][b] http://x www.x [a]: //x\n"
    told += "o/r#1 #2 &#35;3 &num;4 GH-5 gh-6 &&#35;64;o &&num;64;o &&#35;35;1 #&#49;2 &#&#x36;4;o &#0000000064;o &#x000000040;o\n"
    kept = "<details><summary>eval</summary> <code>a&#42;b</code> &lt;\n"
    github.archive = zipped({"comment.md": f"{MARKER}\n{told}{kept}".encode()})
    Poster(url, tmp_path, real=False)()
    lines = github.written[0][2].splitlines(keepends=True)
    assert "".join(lines[-2:]).endswith(kept)
    said = "".join(lines[-4:-1])
    assert said.count("@\N{ZERO WIDTH SPACE}") == said.count("@") == 11
    assert not re.search(r"&#|&commat|<|\]\(|\]\[|\]:|://|www\.|#\d|GH-\d", said, re.IGNORECASE)


def test_an_error_of_the_api_is_one_line(url: str, tmp_path: Path) -> None:
    poster = Poster(url, tmp_path, real=False)
    poster.environ["RUN_ID"] = "8"
    done = poster()
    assert done.returncode == 1
    assert done.stderr.startswith("comment.py: gh api repos/o/r/actions/runs/8: ")
    assert done.stderr.count("\n") == 1


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@t.test", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


class Branch:
    """A repository with a branch, `measured` (a clone of its first commit) and `other`, somebody else's clone."""

    def __init__(self, folder: Path) -> None:
        self.origin, self.measured, self.other = (folder / name for name in ("origin", "measured", "other"))
        git(folder, "init", "--quiet", "--bare", str(self.origin))
        git(folder, "clone", "--quiet", str(self.origin), str(self.other))
        self.commit(
            {"metrics/a.json": "1\n", "README.md": "table 1\n", "dvc.lock": "x: 1\n", "code.py": "1\n"}
        )
        git(folder, "clone", "--quiet", str(self.origin), str(self.measured))
        git(self.measured, "checkout", "--quiet", "--detach")
        self.patch = folder / "results.patch"

    def commit(self, files: dict[str, str]) -> None:
        self.write(self.other, files)
        git(self.other, "add", "--all")
        git(self.other, "commit", "--quiet", "--message", "more")
        git(self.other, "push", "--quiet", "origin", "HEAD:main")

    @staticmethod
    def write(folder: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def push(self, files: dict[str, str], branch: str = "main") -> subprocess.CompletedProcess[str]:
        """What bench.yml does: the patch on the machine that measures, the commit elsewhere."""
        self.write(self.measured, files)
        git(self.measured, "add", "--all")
        self.patch.write_text(git(self.measured, "diff", "--cached", "--binary"))
        git(self.measured, "reset", "--quiet", "--hard")
        script = [str(SCRIPTS / "push_results.sh"), branch, str(self.patch), "Measure"]
        return subprocess.run(script, cwd=self.measured, capture_output=True, text=True)

    def log(self) -> list[str]:
        return git(self.origin, "log", "--format=%an: %s", "main").splitlines()

    def show(self, path: str) -> str:
        return git(self.origin, "show", f"main:{path}")


@pytest.fixture
def branch(tmp_path: Path) -> Branch:
    return Branch(tmp_path)


RESULTS = {
    "metrics/a.json": "2\n",
    "metrics/bench/new.json": "3\n",
    "README.md": "table 2\n",
    "gpu/dvc.lock": "y\n",
}


def test_results_are_one_commit_on_the_branch(branch: Branch) -> None:
    done = branch.push(RESULTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pushed"
    assert branch.log() == ["github-actions[bot]: Measure", "t: more"]
    assert {name: branch.show(name) for name in RESULTS} == RESULTS


def test_nothing_changed_is_no_commit(branch: Branch) -> None:
    done = branch.push({})
    assert (done.returncode, done.stdout) == (0, "nothing changed\n")
    assert branch.log() == ["t: more"]


def test_a_branch_that_moved_is_rebased_on(branch: Branch) -> None:
    branch.commit({"code.py": "2\n"})
    done = branch.push(RESULTS)
    assert done.stdout.splitlines()[-1] == "pushed", done.stderr
    assert branch.log() == ["github-actions[bot]: Measure", "t: more", "t: more"]
    assert (branch.show("code.py"), branch.show("README.md")) == ("2\n", "table 2\n")


def test_other_results_on_the_branch_are_not_overwritten(branch: Branch) -> None:
    branch.commit({"README.md": "table 3\n"})
    done = branch.push(RESULTS)
    assert done.returncode == 2
    assert "main got other results meanwhile; start the benchmark again" in done.stderr
    assert branch.show("README.md") == "table 3\n"


@pytest.mark.parametrize("path", ["code.py", ".github/workflows/ci.yml", "docker/cpu.txt"])
def test_what_is_no_result_is_not_committed(branch: Branch, path: str) -> None:
    done = branch.push({**RESULTS, path: "evil\n"})
    assert done.returncode == 2
    assert f"these are no results: {path}" in done.stderr
    assert branch.log() == ["t: more"]


def test_what_is_no_name_of_a_branch_is_refused(branch: Branch) -> None:
    done = branch.push(RESULTS, branch="-f ../x")
    assert done.returncode == 2
    assert branch.log() == ["t: more"]


STUB = """#!/usr/bin/env bash
[ "$2 $3" = "cartlm.cli compare" ] && {{ echo "$*"; exit {code}; }}
[ "$2" = dvc ] && {{ mkdir -p "$6"; echo page >"$6/index.html"; exit {plots}; }}
"""


@pytest.mark.parametrize(("code", "plots"), [(0, 0), (1, 0), (2, 0), (1, 1)])
def test_a_report_keeps_the_verdict_and_is_whole(tmp_path: Path, code: int, plots: int) -> None:
    """Of what the branch did since it left the base, not of what the base did since."""
    branch = Branch(tmp_path)
    left = git(branch.measured, "rev-parse", "HEAD").strip()
    branch.commit({"code.py": "2\n"})
    git(branch.measured, "commit", "--quiet", "--allow-empty", "--message", "work")
    git(branch.measured, "fetch", "--quiet")
    head = git(branch.measured, "rev-parse", "HEAD").strip()
    python = tmp_path / "python"
    python.write_text(STUB.format(code=code, plots=plots))
    python.chmod(0o755)
    command = [str(SCRIPTS / "report.sh"), "origin/main", head, "report"]
    environ = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(command, cwd=branch.measured, env=environ, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    report = branch.measured / "report"
    assert f"compare --comment {left} {head}" in (report / "comment/comment.md").read_text()
    assert (report / "plots/index.html").exists() == (code < 2)
