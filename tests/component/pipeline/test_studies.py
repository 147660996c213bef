"""`make study` on a DVC repository of shell commands: worktree, params, cache, what is published, and what changed since."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from cartlm import cli, command
from cartlm.errors import UserError
from cartlm.pipeline import presets, stale, studies, study_results, worktree
from cartlm.pipeline.studies import Order
from tests import ROOT
from tests.component.pipeline import small_repo
from tests.component.pipeline.small_repo import Repo

GRAPH = """
stages:
  data:
    cmd: mkdir -p data docs && grep ^data params.yaml > data/test.jsonl && cp data/test.jsonl docs/data.md
    params: [data.rows]
    outs:
      - data/test.jsonl
      - docs/data.md: {cache: false, persist: true}
  finetune:
    cmd: sh train.sh
    deps: [train.sh, data/test.jsonl]
    outs: [models/m]
  eval-reference:
    cmd: mkdir -p metrics/eval && cp models/m metrics/eval/f16.json
    deps: [models/m]
    params: [eval.rows]
    outs:
      - metrics/eval/f16.json: {cache: false, persist: true}
  bench-cpu:
    cmd: mkdir -p metrics/bench/cpu && cp models/m metrics/bench/cpu/f16.json && sh bench.sh
    deps: [models/m, bench.sh]
    outs:
      - metrics/bench/cpu: {cache: false, persist: true}
  summarize:
    cmd: cp metrics/eval/f16.json docs/results.md
    deps: [metrics/eval/f16.json, metrics/bench/cpu]
    outs:
      - docs/results.md: {cache: false, persist: true}
metrics:
  - metrics/eval
  - results
"""
TRAIN = """mkdir -p models runs
echo started >> runs/started
[ ! -e runs/broken ] || { rm runs/broken; exit 3; }
printf '{"free": {"exact_match": 0.%s}}' $(grep -o '[0-9]*' data/test.jsonl) > models/m
"""
BENCH = "printf 'round,variant,metric,value\\n1,f16,cpu.x,1\\n' > metrics/bench/cpu/rounds.csv\n"
FILES = {
    ".gitignore": "/data/\n/models/\n/runs/\n",
    ".dvcignore": (ROOT / ".dvcignore").read_text("utf-8"),
    "dvc.yaml": GRAPH,
    "params.yaml": "data: {rows: 3}\neval: {rows: 2}\nother: 1 # no stage reads it\n",
    "presets/small-0.6b.yaml": "data: {rows: 5}\n",
    "presets/odd name.yaml": "data: {rows: 6}\n",
    "results/README.md": "# Results\n",
    "train.sh": TRAIN,
    "bench.sh": BENCH,
}
NAME = "small-0.6b"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The main graph run and committed. Not to be changed."""
    repo = small_repo.make(tmp_path_factory.mktemp("studies") / "first", FILES)
    repo.repro()
    repo.commit("measured")
    return repo


@pytest.fixture
def repo(first: Repo, tmp_path: Path) -> Repo:
    shutil.copytree(first.path, tmp_path / "repo", symlinks=True)
    return Repo(tmp_path / "repo")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a study runs of cartlm in its worktree; of these only the preset matters here."""
    called: list[str] = []

    def cartlm(folder: Path, *words: str, name: str) -> None:
        called.append(" ".join(words))
        if words[0] == "preset":
            text, _ = presets.lay_over(folder / "params.yaml", folder / f"presets/{words[1]}.yaml")
            (folder / "params.yaml").write_text(text, "utf-8")

    monkeypatch.setattr(studies, "cartlm", cartlm)
    monkeypatch.setattr(studies.machine, "fingerprint", lambda: {"name": "a toy", "hash": "abc"})
    return called


def study(repo: Repo, **order: Any) -> str:
    """Run the study; what it printed."""
    lines: list[str] = []
    with contextlib.chdir(repo.path), command.alone("make study") as lock:
        studies.run(Path("."), Order(**{"name": NAME, **order}), lock, lines.append)
    return "\n".join(lines)


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def tree(repo: Repo) -> Path:
    return repo.path / worktree.WORKTREES / NAME


def record(repo: Repo) -> dict[str, Any]:
    return json.loads((repo.path / "results" / NAME / "study.json").read_text("utf-8"))


def measured(repo: Repo, folder: str = f"results/{NAME}") -> float:
    values = json.loads((repo.path / folder / "metrics/eval/f16.json").read_text("utf-8"))
    return float(values["free"]["exact_match"])


def late(repo: Repo) -> dict[str, list[str]]:
    return study_results.find_stale(repo.path, study_results.read_all(repo.path))[NAME]


def test_a_study_leaves_its_numbers_in_results_and_the_default_as_it_was(
    repo: Repo, commands: list[str]
) -> None:
    output = study(repo)
    assert ran(output) == ["data", "finetune", "eval-reference", "bench-cpu", "summarize"]
    assert commands == [
        f"preset {NAME}",
        "params check",
        "prune",
        "fetch-paid",
        "refresh-data",
        "check-models",
    ]
    files = {
        path.relative_to(repo.path / "results" / NAME).as_posix()
        for path in (repo.path / "results" / NAME).rglob("*.*")
    }
    assert files == {
        "params.yaml", "dvc.lock", "study.json", "docs/data.md", "docs/results.md", "metrics/eval/f16.json",
        "metrics/bench/cpu/f16.json", "metrics/bench/cpu/rounds.csv",
    }  # fmt: skip
    for words in commands:  # here they are called by name alone
        found: click.Command = cli.main
        for word in words.split():
            found = found.commands[word] if isinstance(found, click.Group) else found
        assert not isinstance(found, click.Group)
    assert (measured(repo), measured(repo, ".")) == (0.5, 0.3)
    assert "rows: 5" in (repo.path / "results" / NAME / "params.yaml").read_text("utf-8")
    about = record(repo)
    assert about["commit"] == repo.git("rev-parse", "HEAD")
    assert (about["preset"], about["dirty"], about["left_out"]) == (f"presets/{NAME}.yaml", False, "")
    assert about["machine"] == {"name": "a toy", "hash": "abc"}
    assert about["seconds"].keys() == {"data", "finetune", "eval-reference", "bench-cpu", "summarize"}
    assert repo.git("status", "--porcelain") == f"?? results/{NAME}/"
    assert not (tree(repo) / ".dvc/cache").exists(), "the cache is the checkout's"
    assert late(repo) == {}


def test_a_second_call_runs_nothing(repo: Repo) -> None:
    study(repo)
    before = (repo.path / "results" / NAME / "study.json").read_bytes()
    repo.commit("a study")
    output = study(repo)
    assert ran(output) == []
    assert f"results/{NAME} has these numbers already" in output
    assert (repo.path / "results" / NAME / "study.json").read_bytes() == before
    (repo.path / "results" / NAME / "metrics/eval/f16.json").write_text(
        '{"free": {"exact_match": 0.9}}', "utf-8"
    )
    assert late(repo) == {
        "eval-reference": ["metrics/eval/f16.json (not as in dvc.lock)"],
        "summarize": ["metrics/eval/f16.json"],
    }
    assert "is new" in study(repo)
    assert measured(repo) == 0.5


def test_a_later_commit_runs_what_changed_and_an_older_one_can_be_named(repo: Repo) -> None:
    study(repo)
    old = repo.commit("a study")
    repo.edit("bench.sh", "1,f16", "2,f16")
    (repo.path / "new.txt").write_text("x", "utf-8")
    new = repo.commit("other code")
    assert late(repo) == {"bench-cpu": ["bench.sh"]}
    assert ran(study(repo, commit=old)) == []
    assert not (tree(repo) / "new.txt").exists()
    output = study(repo)
    assert ran(output)[0] == "bench-cpu"
    assert "finetune" not in ran(output)
    assert record(repo)["commit"].startswith(new)
    assert (tree(repo) / "new.txt").exists()
    assert late(repo) == {}
    repo.commit("again")
    repo.git("rm", "-q", "new.txt")
    repo.commit("without")
    study(repo)
    assert not (tree(repo) / "new.txt").exists(), "what left git leaves the worktree"


def refused(repo: Repo, *words: str, **order: Any) -> None:
    with pytest.raises(UserError) as caught:
        study(repo, **order)
    for word in words:
        assert word in str(caught.value)
    assert not (repo.path / "results" / NAME).exists()


def test_uncommitted_code_is_refused_and_documents_are_not(repo: Repo) -> None:
    repo.edit("params.yaml", "rows: 3", "rows: 4")
    refused(repo, "params.yaml", "git checkout params.yaml", "--commit HEAD")
    assert not tree(repo).exists()
    assert ran(study(repo, commit="HEAD"))
    repo.git("checkout", "-q", "params.yaml")
    shutil.rmtree(repo.path / "results" / NAME)
    (repo.path / "cartlm").mkdir()
    (repo.path / "cartlm/new.py").write_text("", "utf-8")
    refused(repo, "cartlm/new.py")
    shutil.rmtree(repo.path / "cartlm")
    repo.edit("docs/data.md", "rows", "Rows")
    repo.edit("results/README.md", "Results", "Numbers")
    (repo.path / "notes.txt").write_text("", "utf-8")
    assert ran(study(repo)) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("large", [f"no preset large here; there are: {NAME};"]),
        ("odd name", ["'odd name' cannot be"]),
        ("../first", ["cannot be"]),
        ("README", ["cannot be"]),
        ("", ["cannot be"]),
    ],
)
def test_a_name_that_is_no_preset(repo: Repo, name: str, words: list[str]) -> None:
    refused(repo, *words, name=name)
    assert not (repo.path / "runs/studies").exists()


def test_a_preset_that_only_a_later_commit_has(repo: Repo) -> None:
    (repo.path / "presets/later.yaml").write_text("data: {rows: 7}\n", "utf-8")
    refused(repo, "presets/later.yaml", name="later")
    repo.commit("later")
    refused(repo, "no preset later in", name="later", commit="HEAD~1")
    refused(repo, "no commit 'nowhere'", commit="nowhere")


def test_a_worktree_that_was_deleted_by_hand_comes_back_from_the_cache(repo: Repo) -> None:
    study(repo)
    shutil.rmtree(tree(repo))
    output = study(repo)
    assert "finetune" not in ran(output)
    assert not (tree(repo) / "runs/started").exists()
    assert measured(repo) == 0.5
    assert "has these numbers already" in output


def test_a_checkout_that_moved_takes_its_worktree_along(repo: Repo) -> None:
    study(repo)
    moved = Repo(repo.path.rename(repo.path.with_name("moved")))
    assert ran(study(moved)) == []
    assert moved.git("-C", str(tree(moved)), "rev-parse", "--show-toplevel") == str(tree(moved).resolve())


def test_a_folder_that_is_no_worktree_is_left_alone(repo: Repo) -> None:
    tree(repo).mkdir(parents=True)
    (tree(repo) / "mine.txt").write_text("mine", "utf-8")
    refused(repo, "no worktree", str(worktree.WORKTREES / NAME))
    assert (tree(repo) / "mine.txt").read_text("utf-8") == "mine"


def test_a_kill_before_the_preset_was_laid_is_made_good(repo: Repo) -> None:
    study(repo)
    shutil.rmtree(repo.path / "results" / NAME)
    folder = tree(repo)
    state = worktree.read_state(folder)
    state.commit = ""
    state.write(folder)
    shutil.copy(repo.path / "params.yaml", folder)
    (folder / "train.sh").write_text("half", "utf-8")
    index = repo.git("-C", str(folder), "rev-parse", "--git-path", "index.lock")
    (folder / index).write_text("", "utf-8")
    assert ran(study(repo)) == []
    assert measured(repo) == 0.5
    (folder / worktree.STATE).write_text("{half", "utf-8")
    study(repo)
    assert measured(repo) == 0.5


def test_params_edited_in_the_worktree_are_the_presets_again(repo: Repo) -> None:
    study(repo)
    (tree(repo) / "params.yaml").write_text("data: {rows: 9}\neval: {rows: 2}\n", "utf-8")
    study(repo)
    assert measured(repo) == 0.5


def test_a_stage_that_fails_publishes_nothing_and_its_time_counts(repo: Repo) -> None:
    study(repo, stages=("data",))
    (tree(repo) / "runs/broken").touch()
    refused(repo, f"study {NAME} stopped in dvc repro", f"make study NAME={NAME}")
    assert "finetune" in worktree.read_state(tree(repo)).cut
    output = study(repo)
    assert ran(output)[0] == "finetune"
    assert worktree.read_state(tree(repo)).cut == {}
    assert record(repo)["seconds"].keys() >= {"data", "finetune"}


def test_a_part_is_published_once_only_the_benchmark_is_missing(repo: Repo) -> None:
    output = study(repo, stages=("finetune",))
    assert ran(output) == ["data", "finetune"]
    assert "left to run: eval-reference, bench-cpu, summarize" in output
    assert not (repo.path / "results" / NAME).exists()
    study(repo, stages=("eval-reference",))
    assert measured(repo) == 0.5
    assert record(repo)["left_out"].split() == ["bench-cpu", "summarize"]
    assert not (repo.path / "results" / NAME / "metrics/bench").exists()
    assert late(repo) == {}, "what was left out is not stale"
    study(repo)
    assert (repo.path / "results" / NAME / "metrics/bench/cpu/f16.json").exists()
    # speeds of a model that is gone are not published beside the accuracy of the new one
    repo.edit("train.sh", "0.%s", "0.1%s")
    repo.commit("another model")
    study(repo, stages=("eval-reference",))
    assert measured(repo) == 0.15
    assert not (repo.path / "results" / NAME / "metrics/bench").exists()
    assert "bench-cpu" not in (repo.path / "results" / NAME / "dvc.lock").read_text("utf-8")


def test_quantized_variants_follow_when_they_are_measured(repo: Repo) -> None:
    variant = """  eval:
    cmd: cp models/m metrics/eval/q8_0.json
    deps: [models/m]
    outs:
      - metrics/eval/q8_0.json: {cache: false, persist: true}
metrics:
"""
    repo.edit("dvc.yaml", "metrics:\n", variant)
    repo.edit("params.yaml", "other: 1", "reference: {f16: 1}\ngguf: {q8_0: 1}\nother: 1")
    repo.commit("a variant")
    output = study(repo, stages=("eval-reference",))
    assert "left to run: " in output
    assert "eval" in record(repo)["left_out"].split()
    (found,) = study_results.read_all(repo.path)
    assert found.variants == ["f16"]
    assert late(repo) == {}
    study(repo)
    (found,) = study_results.read_all(repo.path)
    assert found.variants == ["f16", "q8_0"]
    assert record(repo)["left_out"] == ""


def test_two_at_once_are_refused_while_dvc_runs(repo: Repo) -> None:
    """The lock goes on with DVC where `cartlm study` alone was killed."""
    with contextlib.chdir(repo.path), command.alone("make study") as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fileno(),))
    try:
        done = repo.cartlm("study", NAME)
        assert done.returncode == 2
        assert "make study is already running here" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    finally:
        child.kill()
        child.wait()
    assert not tree(repo).exists()


def test_dvc_holds_the_lock_and_its_process_is_named(repo: Repo) -> None:
    held: list[bool] = []

    def look(line: str) -> None:
        if line.startswith("Running stage"):
            path = (repo.path / "runs/locks/make-study").resolve()
            open_files = set()
            for each in Path(f"/proc/{path.read_text()}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since
                    open_files.add(os.readlink(each))
            held.append(str(path) in open_files)

    with contextlib.chdir(repo.path), command.alone("make study") as lock:
        studies.run(Path("."), Order(NAME, stages=("data",)), lock, look)
    assert held == [True]


def test_a_remote_beside_the_checkout_serves_the_worktree_and_another_clone(
    repo: Repo, tmp_path: Path
) -> None:
    repo.dvc("remote", "add", "-d", "shared", "../remote")
    repo.dvc("remote", "modify", "--local", "shared", "verify", "true")
    study(repo)  # a remote need not be committed
    Repo(tree(repo)).dvc("push", "-q")
    repo.commit("a study")
    assert (tmp_path / "remote").is_dir()
    assert "verify = true" in (tree(repo) / ".dvc/config.local").read_text("utf-8")
    repo.git("clone", "-q", f"file://{repo.path}", str(tmp_path / "clone"))
    clone = Repo(tmp_path / "clone")
    assert late(clone) == {}
    assert ran(study(clone)) == []
    assert (tree(clone) / "models/m").exists()


CHANGES: dict[str, tuple[Callable[[Repo], object], dict[str, list[str]]]] = {
    "nothing": (lambda it: None, {}),
    "a param of its own": (lambda it: it.edit(f"presets/{NAME}.yaml", "5", "6"), {"data": ["param data.rows"]}),
    "a param of both": (lambda it: it.edit("params.yaml", "rows: 2", "rows: 1"), {"eval-reference": ["param eval.rows"]}),
    "a param that the preset sets": (lambda it: it.edit("params.yaml", "rows: 3", "rows: 1"), {}),
    "a param of no stage": (lambda it: it.edit("params.yaml", "other: 1", "other: 2"), {}),
    "code": (lambda it: it.edit("train.sh", "started", "begun"), {"finetune": ["train.sh"]}),
    "a command": (lambda it: it.edit("dvc.yaml", "sh train.sh", "bash train.sh"), {"finetune": ["the command"]}),
    "a new stage": (
        lambda it: it.edit("dvc.yaml", "metrics:\n", "  new: {cmd: 'true', deps: [models/m]}\nmetrics:\n"),
        {"new": ["never run"]},
    ),
    "the preset is gone": (
        lambda it: (it.path / f"presets/{NAME}.yaml").unlink(), {"all stages": [f"presets/{NAME}.yaml is gone"]},
    ),
    "numbers of the default": (lambda it: it.edit("metrics/eval/f16.json", "0.3", "0.4"), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(first: Repo, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repository with a committed study."""
    folder = tmp_path_factory.mktemp("finished") / "repo"
    shutil.copytree(first.path, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "cartlm", lambda folder, *words, name: words[0] == "preset" and lay(folder))
        study(Repo(folder))
    Repo(folder).commit("a study")
    return Repo(folder)


def lay(folder: Path) -> None:
    text, _ = presets.lay_over(folder / "params.yaml", folder / f"presets/{NAME}.yaml")
    (folder / "params.yaml").write_text(text, "utf-8")


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_since_is_known_without_models_and_data(
    finished: Repo, tmp_path: Path, what: str
) -> None:
    finished.git("clone", "-q", f"file://{finished.path}", str(tmp_path / "clone"))
    clone = Repo(tmp_path / "clone")
    change, expected = CHANGES[what]
    change(clone)
    assert late(clone) == expected


def test_stale_lists_studies_and_does_not_fail_for_them(finished: Repo, tmp_path: Path) -> None:
    finished.git("clone", "-q", f"file://{finished.path}", str(tmp_path / "clone"))
    clone = Repo(tmp_path / "clone")
    clone.edit(f"presets/{NAME}.yaml", "5", "6")
    done = clone.cartlm("stale")
    assert done.returncode == 0, done.stderr
    assert f"{NAME}: older than param data.rows; next: make study NAME={NAME}" in done.stdout
    values = json.loads(clone.cartlm("stale", "--json").stdout)
    assert values["studies"] == {NAME: {"data": ["param data.rows"]}}
    assert stale.find_stale(clone.path).stale == {}, "a study is no output of the main graph"


def test_dvc_lists_the_metrics_of_studies_and_nothing_else_of_them(finished: Repo) -> None:
    shown = json.loads(finished.dvc("metrics", "show", "--json"))[""]["data"]
    assert shown == {
        "metrics/eval/f16.json": {"data": {"free": {"exact_match": 0.3}}},
        f"results/{NAME}/metrics/eval/f16.json": {"data": {"free": {"exact_match": 0.5}}},
        f"results/{NAME}/metrics/bench/cpu/f16.json": {"data": {"free": {"exact_match": 0.5}}},
    }


def test_compare_judges_a_study_of_two_commits(finished: Repo, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "repo", symlinks=True, ignore=shutil.ignore_patterns("runs"))
    repo = Repo(tmp_path / "repo")
    assert repo.cartlm("compare", "HEAD~1", "HEAD").returncode == 0
    assert f"studies only now in results/: {NAME}." in repo.cartlm("compare", "HEAD~1", "HEAD").stdout.lower()
    repo.edit("train.sh", "0.%s", "0.1%s")
    repo.commit("a worse model")
    study(repo)
    repo.commit("measured again")
    done = repo.cartlm("compare", "HEAD~2", "HEAD")
    assert done.returncode == 1, done.stderr
    assert f"study {NAME}: 2 worse" not in done.stdout.splitlines()[1:]
    values = json.loads(repo.cartlm("compare", "HEAD~2", "HEAD", "--json").stdout)
    assert values["worse"] == 0
    (change,) = [each for each in values["studies"][NAME]["changes"] if each["target"] == "accuracy"]
    assert (change["old"], change["new"], change["verdict"]) == (0.5, 0.15, "worse")


def test_a_study_asks_for_a_licence_once_and_again_for_another_model(repo: Repo, commands: list[str]) -> None:
    """A commit in between asks for nothing that somebody agreed to."""
    asked, preset = [], f"presets/{NAME}.yaml"
    changes = (
        (preset, ""), (preset, ""), (preset, "base: {path: some/other}\n"), (preset, ""),
        ("params.yaml", "base: {path: mine, license: another}\n"), (preset, ""),
    )  # fmt: skip
    for path, change in changes:
        (repo.path / "new.txt").write_text(str(len(asked)), "utf-8")
        with (repo.path / path).open("a", encoding="utf-8") as file:
            file.write(change)
        repo.commit("another commit")
        commands.clear()
        study(repo)
        asked.append(commands[0] == f"preset {NAME}")
        assert commands[0] in (f"preset {NAME}", f"preset {NAME} --yes")
    assert asked == [True, False, True, False, True, False]


def test_only_what_a_stage_reads_is_compared(finished: Repo, tmp_path: Path) -> None:
    """A model that lies in the checkout, untracked, is not copied for each study."""
    finished.git("clone", "-q", f"file://{finished.path}", str(tmp_path / "clone"))
    clone = Repo(tmp_path / "clone")
    for name in ("model.gguf", "stages/new.py"):
        (clone.path / name).parent.mkdir(exist_ok=True)
        (clone.path / name).write_text("untracked", "utf-8")
    paths = study_results.code_files(clone.path)
    assert "model.gguf" not in paths
    assert {"dvc.yaml", "params.yaml", ".dvcignore", "train.sh", "stages/new.py"} <= {*paths}
    assert not [
        path for path in paths if path.startswith(("metrics/", "results/")) and path.endswith(".json")
    ]


def test_without_git_no_study_is_called_as_today(finished: Repo, tmp_path: Path) -> None:
    """As in a git worktree that is mounted in an image: its .git names a folder outside."""
    shutil.copytree(finished.path, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns(".git"))
    (tmp_path / "copy/.git").write_text("gitdir: /nowhere\n", "utf-8")
    found = study_results.read_all(tmp_path / "copy")
    with pytest.raises(UserError, match="git lists no files here") as error:
        study_results.find_stale(tmp_path / "copy", found)
    assert error.value.hint == "git status"
    assert study_results.find_stale(tmp_path / "copy", []) == {}
