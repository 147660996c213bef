"""`kill -9` during finetune, quantize and eval, then `dvc repro`: the accuracy of an undisturbed run."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.pipeline.conftest import Step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_accuracy_is_that_of_an_undisturbed_run(first: Step, rebuilt: Step) -> None:
    assert rebuilt.accuracy.keys() == first.accuracy.keys()
    for name, found in first.accuracy.items():
        assert rebuilt.accuracy[name] == found, name


def test_the_models_are_the_same_bytes(first: Step, rebuilt: Step) -> None:
    """Fine-tuning went on from its checkpoint, in the same order of rows and with the same optimizer state."""

    def outs(state: Step) -> dict[str, str]:
        stages = yaml.safe_load(state.lock)["stages"].values()
        found = {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}
        return {path: digest for path, digest in found.items() if path.startswith(("models/", "data/"))}

    assert outs(rebuilt) == outs(first)


def test_nothing_half_written_is_left(rebuilt: Step) -> None:
    left = [
        path
        for folder in ("models", "metrics", "data")
        for path in (rebuilt.repo.path / folder).rglob("*tmp*")
    ]
    assert left == []


def test_finetuning_went_on_from_its_checkpoint(rebuilt: Step) -> None:
    """The loss curve is whole, though the second half was trained by another process that did not begin anew."""
    said = re.findall(r'"resumed_at": (\d+)', rebuilt.before)
    assert len(said) == 1
    assert 1 <= int(said[0]) <= 4  # the second checkpoint may have been cut by the kill
    lines = (rebuilt.repo.path / "metrics/finetune.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
