"""The trusted half of the report: what a run of pr-report.yml made becomes the one comment of its pull request.

    GH_TOKEN=... GITHUB_REPOSITORY=owner/name RUN_ID=123 python3 .github/scripts/comment.py

That run executed the code of anybody, so its artifact is data: one file, of a limited size, with our marker first. Which
pull request it belongs to is asked of the API, by the repository, branch and commit of the run, never of the artifact.
Needs python3 and gh, nothing else. Exit code 0 also where there is nothing to post; 1 where something is wrong.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from typing import Any

MARKER = "<!-- cartlm: compare -->"
WORKFLOW = ".github/workflows/pr-report.yml"
ARTIFACT, FILE = "pr-comment", "comment.md"
MAX_CHARACTERS = 65_000  # of 65,536 that a comment may have; the rest is for our own lines
MAX_BYTES = 4 * MAX_CHARACTERS
REFERENCE = re.compile(r"&(?:#0*(\d{1,7})|#x0*([0-9a-f]{1,6})|commat|num);", re.IGNORECASE)
BOT = "github-actions[bot]"  # whose token a workflow has


def api(path: str, *options: str, send: Any = None) -> bytes:
    """The answer of GitHub's API, by gh, which also knows the token."""
    command = ["gh", "api", path, *options, *(["--input", "-"] if send is not None else [])]
    done = subprocess.run(command, input=json.dumps(send or {}).encode(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        sys.exit(f"comment.py: gh api {path}: {said[0] if said else 'no answer'}")
    return done.stdout


def get(path: str, **query: str | int) -> Any:
    fields = [part for key, value in query.items() for part in ("-f", f"{key}={value}")]
    return json.loads(api(path, "--method", "GET", *fields))


def pull_request(repository: str, run: dict[str, Any]) -> int | str:
    """The number of the open pull request whose head is the very commit of the run; else why there is none."""
    if run["event"] not in ("pull_request", "workflow_dispatch") or run["path"].split("@")[0] != WORKFLOW:
        return f"run {run['id']} is no report"
    head = run.get("head_repository")
    if not head:
        return "the repository of the run is gone"
    at = f"{head['owner']['login']}:{run['head_branch']}"
    found = [
        pull["number"]
        for pull in get(f"repos/{repository}/pulls", state="open", head=at, per_page=100)
        if pull["head"]["sha"] == run["head_sha"] and (pull["head"]["repo"] or {}).get("id") == head["id"]
    ]
    if len(found) == 1:
        return found[0]
    return f"{len(found)} open pull requests from {at} at {run['head_sha'][:8]}"


def artifact(repository: str, run: dict[str, Any]) -> str | None:
    """The report that the run left; None if it left none. Ends the program where it is not what it should be."""
    listed = get(f"repos/{repository}/actions/runs/{run['id']}/artifacts", name=ARTIFACT)["artifacts"]
    listed = [each for each in listed if each["name"] == ARTIFACT and not each["expired"]]
    if not listed:
        return None
    newest = max(listed, key=lambda each: each["id"])  # a run that was started again has one of each attempt
    if newest["size_in_bytes"] > MAX_BYTES:
        sys.exit(f"comment.py: the artifact has {newest['size_in_bytes']:,} bytes, more than {MAX_BYTES:,}")
    try:
        archive = zipfile.ZipFile(io.BytesIO(api(f"repos/{repository}/actions/artifacts/{newest['id']}/zip")))
        if archive.namelist() != [FILE]:
            sys.exit(f"comment.py: the artifact is not {FILE} alone")
        with archive.open(FILE) as file:
            content = file.read(MAX_BYTES + 1)  # what the archive says of its size may be a lie
        text = content.decode("utf-8")
    except Exception as error:  # of zipfile, zlib or the codec: whatever hostile bytes lead to
        sys.exit(f"comment.py: the artifact cannot be read: {error}")
    if len(text) > MAX_CHARACTERS or len(content) > MAX_BYTES:
        sys.exit(f"comment.py: the report is longer than {MAX_CHARACTERS:,} characters")
    if text.splitlines()[:1] != [MARKER]:
        sys.exit(f"comment.py: the report does not begin with {MARKER}")
    return text


def plain(reference: re.Match[str]) -> str:
    """A reference to a sign that calls, or to a letter or digit behind one, as that sign; any other as it is."""
    decimal, hexadecimal = reference.groups()  # without leading zeros, of which there may be any number
    short = f"&#{decimal};" if decimal else f"&#x{hexadecimal};" if hexadecimal else reference.group()
    sign = html.unescape(short)
    return sign if re.fullmatch(r"[@#A-Za-z0-9]", sign) else reference.group()


def body(text: str, run: dict[str, Any]) -> str:
    """The comment. Our line stands above the text, where nothing in the text can hide it.

    The bot's name shall not serve a stranger: nobody is called by name, no tag but those that fold, no link, no picture,
    no issue or pull request mentioned in its thread.
    """
    quiet = text.removeprefix(MARKER).lstrip("\r\n")
    before = ""
    while quiet != before:  # a reference may make another one
        before, quiet = quiet, REFERENCE.sub(plain, quiet)
    quiet = re.sub(r"<(?!/?(?:code|details|summary)>)", "&lt;", quiet)
    for sign in ("@", "](", "][", "]:", "://", "www."):
        quiet = quiet.replace(sign, sign[0] + "\N{ZERO WIDTH SPACE}" + sign[1:])
    quiet = re.sub(r"(?<!&)#(?=\d)|\bGH(?=-\d)", "\\g<0>\N{ZERO WIDTH SPACE}", quiet, flags=re.IGNORECASE)
    origin = f"[Run]({run['html_url']}) of {run['head_sha'][:8]}, plots in its artifact `pr-plots`."
    return f"{MARKER}\n<sub>{origin} The code of this pull request wrote what follows.</sub>\n\n{quiet}"


def post(repository: str, number: int, text: str) -> str:
    """Change our comment, or make it; returns its address. Only one that the bot itself wrote is ever changed."""
    page = 1
    while True:
        comments = get(f"repos/{repository}/issues/{number}/comments", per_page=100, page=page)
        for comment in comments:
            user = comment["user"] or {}
            if user.get("login") == BOT and user.get("type") == "Bot" and comment["body"].startswith(MARKER):
                path = f"repos/{repository}/issues/comments/{comment['id']}"
                return json.loads(api(path, "--method", "PATCH", send={"body": text}))["html_url"]
        if len(comments) < 100:
            break
        page += 1
    path = f"repos/{repository}/issues/{number}/comments"
    return json.loads(api(path, "--method", "POST", send={"body": text}))["html_url"]


def main() -> None:
    """Post, or say why not."""
    repository, number = os.environ["GITHUB_REPOSITORY"], os.environ["RUN_ID"]
    run = get(f"repos/{repository}/actions/runs/{int(number)}")
    found = pull_request(repository, run)
    if isinstance(found, str):
        print(f"::notice::nothing posted: {found}")
        return
    text = artifact(repository, run)
    if text is None:
        print(f"::notice::nothing posted: the run left no {ARTIFACT}")
        return
    print(post(repository, found, body(text, run)))


if __name__ == "__main__":
    main()
