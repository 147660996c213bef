"""`cartlm compare` in real git and DVC repositories: what it finds, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from dvc.repo import Repo as DvcRepo

from cartlm import cli
from cartlm.errors import UserError
from cartlm.metrics import Outcome, write_metrics, write_outcomes
from cartlm.pipeline import repository, stale
from tests.fixtures import fixed_params

MACHINE = {"name": "a toy CPU x2", "hash": "abc"}


@dataclass(frozen=True)
class Repo:
    path: Path

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=self.path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str = "a state") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def compare(self, *arguments: str, cwd: Path | None = None) -> Result:
        with contextlib.chdir(cwd or self.path):
            return CliRunner().invoke(cli.main, ["compare", *arguments], prog_name="cartlm")

    def write(self, exact: int = 90, speed: float = 100.0, rows: str = "r1", **machine: str) -> None:
        """Metrics, outcomes and a dvc.lock as the graph leaves them, of one variant."""
        metrics = self.path / "metrics"
        share = exact / 100
        write_metrics(metrics / "eval/q8_0.json", {"free": {"n": 100, "exact_match": share}})
        outcomes = [Outcome(f"test-{i:05}", "exact" if i < exact else "wrong", "0" * 12) for i in range(100)]
        write_outcomes(metrics / "outcomes/q8_0.csv", outcomes)
        for name, each in (("q8_0", speed), ("reference", 100.0)):
            values = {"machine": MACHINE | machine, "cpu": {"decode_tokens_per_s": each}}
            write_metrics(metrics / f"bench/cpu/{name}.json", values)
        lines = ["round,variant,metric,value"]
        for i in range(5):
            lines += [
                f"{i},{name},cpu.decode_tokens_per_s,{each + i % 2}"
                for name, each in (("q8_0", speed), ("reference", 100))
            ]
        (metrics / "bench/cpu/rounds.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        stage = {
            "cmd": "true",
            "deps": [
                {
                    "path": "data/test.jsonl",
                    "hash": "md5",
                    "md5": hashlib.md5(rows.encode()).hexdigest(),
                    "size": 1,
                }
            ],
            "outs": [{"path": "metrics/outcomes/q8_0.csv", "hash": "md5", "md5": "0" * 32, "size": 1}],
        }
        lock = {"schema": "2.0", "stages": {"eval@q8_0": stage}}
        (self.path / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template")
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
    DvcRepo.init(str(path)).close()
    fixed_params.write(path)
    (path / "dvc.yaml").write_text("metrics: [metrics/eval, metrics/bench]\n", encoding="utf-8")
    repo = Repo(path)
    repo.commit("nothing measured")
    repo.write()
    repo.commit("measured")
    return path


@pytest.fixture(autouse=True)
def nothing_stale(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking DVC takes seconds: only the tests of that do."""
    if "real_dvc" not in request.fixturenames:
        monkeypatch.setattr(stale, "find_stale", lambda root: stale.Report(1, {}, {}, "dvc repro"))


@pytest.fixture
def real_dvc() -> None:
    """For tests that ask DVC what is stale."""


@pytest.fixture
def repo(template: Path, tmp_path: Path) -> Repo:
    shutil.copytree(template, tmp_path / "repo", symlinks=True)
    return Repo(tmp_path / "repo")


def found(done: Result) -> dict[str, Any]:
    assert done.exit_code in (0, 1), done.stderr
    return json.loads(done.stdout)


def failed(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("cartlm: error: ")
    for word in words:
        assert word in done.stderr


def test_an_unchanged_workspace_is_no_change(repo: Repo, real_dvc: None) -> None:
    done = repo.compare("HEAD")
    assert done.exit_code == 0, done.stderr
    head = repo.git("rev-parse", "HEAD")[:8]
    assert done.stdout.startswith(f"# {head} → workspace: no change\n")


def test_a_loss_and_a_slow_down_in_the_workspace_end_with_1(repo: Repo) -> None:
    repo.write(exact=80, speed=70.0)
    done = repo.compare("HEAD", "--json")
    assert done.exit_code == 1
    values = found(done)
    assert {(each["target"], each["metric"], each["verdict"]) for each in values["changes"]} == {
        ("accuracy", "free.exact_match", "worse"),
        ("cpu", "decode_tokens_per_s", "worse"),
    }
    assert values["changes"][0]["paired"]["lost"] == 10
    assert values["new"] == "workspace"


def test_two_commits_compare_with_what_is_committed_and_no_more(repo: Repo) -> None:
    old = repo.git("rev-parse", "HEAD")
    params = repo.path / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("batch_size: 32", "batch_size: 8"), encoding="utf-8")
    repo.write(exact=99, speed=200.0)
    repo.commit("better")
    repo.write(exact=1, speed=1.0)  # not committed: must not matter
    done = repo.compare("HEAD~1", "HEAD", "--json")
    values = found(done)
    assert done.exit_code == 0
    assert (values["old"], values["better"], values["worse"]) == (old[:8], 2, 0)
    assert {"file": "params.yaml", "key": "eval.batch_size", "old": 32, "new": 8} in values["params"]
    assert found(repo.compare("HEAD", "HEAD~1", "--json"))["worse"] == 2


def tolerate(repo: Repo, old: str, new: str) -> None:
    params = repo.path / "params.yaml"
    text = params.read_text("utf-8")
    assert old in text
    params.write_text(text.replace(old, new), encoding="utf-8")


def test_tolerances_come_from_the_older_side(repo: Repo) -> None:
    """A pull request that widens its own tolerance is judged by the one before."""
    repo.write(speed=70.0)
    tolerate(repo, "  speed: 0.15", "  speed: 1.0")
    done = repo.compare("HEAD", "--json")
    assert done.exit_code == 1
    assert [note for note in found(done)["notes"] if "compare.speed was 0.15, is 1.0" in note]
    wide = repo.commit("a wide tolerance")
    assert repo.compare("HEAD~1", "HEAD").exit_code == 1
    repo.write(speed=40.0)
    assert repo.compare(wide).exit_code == 0  # once it is accepted, it counts


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        ("", "speed 0.15;"), ("  speed: 50\n", "speed 0.15 (not 50)"), ("  speed: .nan\n", "speed 0.15 (not nan)"),
        ("  speed: wide\n", "speed 0.15 (not 'wide')"),
    ],
)  # fmt: skip
def test_an_older_side_without_a_sound_tolerance_is_judged_by_the_standard(
    repo: Repo, speed: str, said: str
) -> None:
    sound = (repo.path / "params.yaml").read_text("utf-8")
    tolerate(repo, "  speed: 0.15\n", speed)
    old = repo.commit("no tolerance")
    (repo.path / "params.yaml").write_text(sound.replace("speed: 0.15", "speed: 1.0"), encoding="utf-8")
    repo.write(speed=70.0)
    done = repo.compare(old, "--json")
    assert done.exit_code == 1
    assert said.removesuffix(";") in found(done)["notes"][0]


@pytest.mark.parametrize("broken", ["base: [", "", "compare: {speed: fast}", None])
def test_two_commits_compare_whatever_params_lie_in_the_workspace(repo: Repo, broken: str | None) -> None:
    repo.write(exact=80)
    repo.commit("a loss")
    params = repo.path / "params.yaml"
    params.unlink() if broken is None else params.write_text(broken, encoding="utf-8")
    done = repo.compare("HEAD~1", "HEAD")
    assert done.exit_code == 1, done.stderr


def test_what_is_gone_is_told_and_no_success(repo: Repo) -> None:
    """Of a variant that left params.yaml it is wanted; of one that is still listed it may hide a loss."""
    (repo.path / "metrics/bench/cpu/q8_0.json").unlink()
    done = repo.compare("HEAD", "--json")
    values = found(done)
    assert (done.exit_code, values["lost"], values["worse"]) == (1, 1, 0)
    assert [note for note in values["notes"] if "cpu q8_0 (decode_tokens_per_s)" in note]
    tolerate(repo, "  q8_0: {type: Q8_0, imatrix: false}\n", "")
    done = repo.compare("HEAD", "--json")
    assert (done.exit_code, found(done)["lost"]) == (0, 0)
    assert "1 removed" in repo.compare("HEAD").stdout.splitlines()[0]


def test_less_strict_params_are_noted(repo: Repo) -> None:
    tolerate(repo, "  rounds: 10", "  rounds: 2")
    tolerate(repo, "  min_agreement: 0.995", "  min_agreement: 0.5")
    tolerate(repo, "  test: 1000", "  test: 50")
    (note,) = [each for each in found(repo.compare("HEAD", "--json"))["notes"] if "less strict" in each]
    for said in (
        "bench_cpu.rounds was 10, is 2",
        "parity.min_agreement was 0.995",
        "data.test was 1000, is 50",
    ):
        assert said in note


def test_a_change_of_the_judge_is_told(repo: Repo) -> None:
    path = repo.path / "cartlm/compare/rules.py"
    path.parent.mkdir(parents=True)
    path.write_text("RULES = ()\n", encoding="utf-8")
    repo.commit("no rules")
    for arguments in (("HEAD~1", "HEAD"), ("HEAD~1",)):
        notes = found(repo.compare(*arguments, "--json"))["notes"]
        assert [note for note in notes if "cartlm/compare/rules.py" in note]


def test_size_and_loss_of_a_gptq_variant_compare_without_a_card(repo: Repo) -> None:
    path = repo.path / "metrics/gptq/int8.json"
    pipeline = "metrics: [metrics/eval, metrics/bench, metrics/gptq]\n"
    (repo.path / "dvc.yaml").write_text(pipeline, encoding="utf-8")
    write_metrics(path, {"quantize": {"size_mib": 4.0, "loss_mean": 1e-7, "loss_max": 1e-6}})
    old = repo.commit("quantized")
    write_metrics(path, {"quantize": {"size_mib": 5.0, "loss_mean": 3e-7, "loss_max": 2e-6}})
    done = repo.compare(old, "--json")
    assert done.exit_code == 1
    judged = {
        (each["target"], each["variant"], each["metric"]): each["verdict"] for each in found(done)["changes"]
    }
    for name in ("size_mib", "loss_mean", "loss_max"):
        assert judged["models", "int8", f"quantize.{name}"] == "worse"


def test_other_test_rows_under_the_same_ids_are_not_paired(repo: Repo) -> None:
    repo.write(exact=50, rows="r2")
    done = repo.compare("HEAD")
    assert done.exit_code == 0, done.stdout
    assert "the test rows differ (data/test.jsonl in dvc.lock): nothing is paired: q8_0" in done.stdout


def test_numbers_of_other_or_older_code_are_named(repo: Repo, real_dvc: None) -> None:
    """DVC tells of what is checked out; of another commit the hashes in its dvc.lock do."""
    lock = yaml.safe_load((repo.path / "dvc.lock").read_text())
    outs = [{"metrics/eval/q8_0.json": {"cache": False}}]
    do = {"cmd": "true", "deps": ["data/test.jsonl", "stages/evaluate.py"], "outs": outs}
    pipeline = {
        "stages": {"eval": {"foreach": ["q8_0"], "do": do}},
        "metrics": ["metrics/eval", "metrics/bench"],
    }
    (repo.path / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (repo.path / ".gitignore").write_text("/data/\n")
    code = repo.path / "stages/evaluate.py"
    code.parent.mkdir()
    code.write_text("first\n")

    def run_with(text: str) -> None:
        stage = lock["stages"]["eval@q8_0"]
        rows = next(dep for dep in stage["deps"] if dep["path"] == "data/test.jsonl")
        measured = (repo.path / "metrics/eval/q8_0.json").read_bytes()
        stage["deps"] = [rows, entry("stages/evaluate.py", text.encode())]
        stage["outs"] = [entry("metrics/eval/q8_0.json", measured)]
        (repo.path / "dvc.lock").write_text(yaml.safe_dump(lock))

    run_with("first\n")
    first = repo.commit()
    code.write_text("second\n")
    stale = {"eval@q8_0": ["stages/evaluate.py"]}
    values = found(repo.compare(first, "--json"))
    assert (values["notes"], values["stale"]["stale"]) == ([], stale)
    second = repo.commit("other code")
    (repo.path / "report.md").write_text(
        "not git's\n"
    )  # HEAD is checked out, and nothing that git has changed
    assert found(repo.compare(first, "HEAD", "--json"))["stale"]["stale"] == stale
    repo.git("add", "report.md")
    values = found(repo.compare(first, "HEAD", "--json"))
    assert values["stale"] is None
    assert values["notes"] == [f"in {second[:8]}, not run again since stages/evaluate.py changed: eval@q8_0."]
    run_with("second\n")
    assert found(repo.compare(first, repo.commit(), "--json"))["notes"] == [
        "Measured by other code (stages/evaluate.py): eval@q8_0."
    ]


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in a dvc.lock."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return {"path": path, "hash": "md5", "md5": md5, "size": len(content)}


def test_a_comment_of_a_fork_ends_with_1_and_calls_nobody(repo: Repo) -> None:
    params = repo.path / "params.yaml"
    values = yaml.safe_load(params.read_text("utf-8"))
    values["data"]["path"] = "x | @everyone <img src=x> `\n/close\n| a | b |"
    params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    repo.write(exact=80, name="@everyone <b>", hash="def")
    done = repo.compare("HEAD", "--comment")
    assert done.exit_code == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "<!-- cartlm: compare -->"
    assert not [line for line in lines if line.startswith("/close")]
    for bad in ("@everyone", "<img", "<b>"):
        assert bad not in done.stdout
    (row,) = [line for line in lines if line.startswith("| data.path |")]
    assert row.count("|") == 4
    assert "then &#64;&#8203;everyone &#60;b&#62; (def): q8_0" in done.stdout
    failed(repo.compare("HEAD", "--comment", "--json"), "--comment goes with neither --json nor --all")


def test_another_machine_is_not_comparable(repo: Repo) -> None:
    repo.write(speed=10.0, hash="def", name="another")
    done = repo.compare("HEAD")
    assert done.exit_code == 0, done.stdout
    assert (
        "not comparable, measured on another machine: a toy CPU x2 (abc), then another (def): q8_0"
        in done.stdout
    )
    assert "1 not comparable" in done.stdout.splitlines()[0]


def test_a_git_clone_is_enough(repo: Repo, tmp_path: Path) -> None:
    repo.write(exact=80)
    repo.commit()
    repo.git("clone", "-q", f"file://{repo.path}", str(tmp_path / "clone"))
    assert repo.compare("HEAD~1", cwd=tmp_path / "clone").exit_code == 1


def test_a_partial_clone_is_enough(repo: Repo, tmp_path: Path) -> None:
    """git fetches what it lacks; libgit2 waits for it forever."""
    repo.write(exact=80)
    repo.commit()
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.git("clone", "-q", "--filter=blob:none", f"file://{repo.path}", str(tmp_path / "clone"))
    assert repo.compare("HEAD~1", "HEAD", cwd=tmp_path / "clone").exit_code == 1


@pytest.mark.parametrize("revision", ["nope", "HEAD~50", "", "--", "a b"])
def test_an_unknown_revision(repo: Repo, revision: str) -> None:
    with pytest.raises(UserError, match=f"there is no commit '{revision}'; git log --oneline"):
        repository.resolve_commit(repo.path, revision)


def test_an_unknown_revision_is_one_line(repo: Repo) -> None:
    failed(repo.compare("nope"), "there is no commit 'nope'; git log --oneline")
    failed(repo.compare("HEAD", "nope"), "there is no commit 'nope'")
    failed(repo.compare(), "Missing argument", "compare --help")


def test_a_shallow_clone_says_how_to_deepen_it(repo: Repo, tmp_path: Path) -> None:
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.path}", str(tmp_path / "shallow"))
    failed(
        repo.compare("HEAD~1", cwd=tmp_path / "shallow"),
        "'HEAD~1' is not in this shallow clone; git fetch --unshallow",
    )


def test_no_repository_or_not_its_top(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    failed(repo.compare("HEAD", cwd=tmp_path / "plain"), "is no git repository")
    failed(
        repo.compare("HEAD", cwd=repo.path / "metrics"), "is not the top of a repository", f"cd {repo.path}"
    )
    shutil.rmtree(repo.path / ".dvc")
    failed(repo.compare("HEAD"), "is not the top of a repository with a dvc.yaml")


def test_git_is_missing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repo.path))
    with pytest.raises(UserError, match="git is not installed"):
        repository.check_repository(repo.path)


def test_a_commit_or_workspace_without_metrics(repo: Repo) -> None:
    failed(repo.compare("HEAD~1"), "HEAD~1 (", "has no metrics; git log --oneline -- metrics")
    shutil.rmtree(repo.path / "metrics")
    failed(repo.compare("HEAD"), "the workspace has no metrics; make repro")


def test_a_half_written_file_is_named_and_not_passed_over(repo: Repo) -> None:
    """DVC leaves it out and ends with 0: its numbers would count as removed."""
    (repo.path / "metrics/eval/q8_0.json").write_text('{"free": {', encoding="utf-8")
    failed(
        repo.compare("HEAD"),
        "metrics/eval/q8_0.json is not JSON",
        "git checkout metrics/eval/q8_0.json",
    )
    shutil.copy(repo.path / "params.yaml", repo.path / "metrics/outcomes/q8_0.csv")
    repo.write()
    (repo.path / "metrics/outcomes/q8_0.csv").write_text("id\n", encoding="utf-8")
    failed(repo.compare("HEAD"), "metrics/outcomes/q8_0.csv has not the columns")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ('"0.2"', "free.exact_match is '0.2'"), ("NaN", "free.exact_match is nan"),
        ("7", "free.exact_match is 7"), ("Infinity", "free.exact_match is inf"),
    ],
)  # fmt: skip
def test_a_value_that_no_stage_writes_is_named(repo: Repo, share: str, said: str) -> None:
    path = repo.path / "metrics/eval/q8_0.json"
    path.write_text(f'{{"free": {{"n": 100, "exact_match": {share}}}}}', encoding="utf-8")
    done = repo.compare("HEAD", "--json")
    failed(done, f"metrics/eval/q8_0.json: {said}", "; git checkout metrics/eval/q8_0.json")
    broken = repo.commit()[:8]
    failed(repo.compare("HEAD~1", "HEAD"), said, f"; git show {broken}:metrics/eval/q8_0.json")


def test_a_metrics_file_that_is_not_an_object_is_named(repo: Repo) -> None:
    (repo.path / "metrics/eval/q8_0.json").write_text("[1]", encoding="utf-8")
    failed(repo.compare("HEAD"), "metrics/eval/q8_0.json is not a JSON object")


@pytest.mark.parametrize("file", ["params.yaml", "dvc.lock"])
def test_a_conflict_in_a_file_of_the_pipeline_is_one_line_with_its_place(repo: Repo, file: str) -> None:
    path = repo.path / file
    path.write_text("<<<<<<< HEAD\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    broken = repo.commit()[:8]
    repo.git("checkout", "-q", "HEAD~1", "--", file)
    failed(repo.compare("HEAD"), f"{file} of {broken} is not YAML", "line", f"; git show {broken}:{file}")


def test_a_wrong_params_file_is_one_line(repo: Repo) -> None:
    params = repo.path / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("  speed: 0.15", "  speed: fast"), encoding="utf-8")
    failed(repo.compare("HEAD"), "compare.speed = 'fast'")
