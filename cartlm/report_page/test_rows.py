"""The test rows and the answers to them, where this checkout has those that the numbers are of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.metrics import answer_hash, read_exact, read_outcomes
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree

ROWS, ANSWERS = dvc_lock.TEST_ROWS, "runs/eval"
MAKE = "make repro brings them"


def read(root: Path) -> list[dict[str, Any]]:
    """The rows of data/test.jsonl; none where the file is not there, or another than dvc.lock has."""
    tree = Tree(root)
    md5 = {
        path: md5 for stage in dvc_lock.read_stages(tree).values() for path, md5 in stage.out_hashes.items()
    }
    if not (root / ROWS).is_file() or tree.md5(ROWS) != md5.get(ROWS):
        return []
    return list(_lines(root / ROWS))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                yield dict(json.loads(text))
            except ValueError:
                raise UserError(
                    f"{path}, line {number} is not a JSON object", f"rm {path}, then make repro"
                ) from None


def tags(root: Path) -> dict[str, tuple[str, str]]:
    """Row -> language, and `clean` or `noisy`."""
    found = {}
    for row in read(root):
        noise = row.get("tags", {}).get("noise")
        if noise is not None:
            found[str(row["id"])] = (str(row["language"]), "clean" if noise == "clean" else "noisy")
    return found


def exact(metrics: Path, variant: str, decoding: str) -> dict[str, bool]:
    """Test row -> whether its answer by this decoding was exact; empty where not all rows were asked so."""
    path = metrics / "exact" / f"{variant}.csv"
    rows = [each for each in read_exact(path) if each.set == "test"] if path.exists() else []
    marks = {each.id: getattr(each, decoding) for each in rows}
    return {row: mark == "1" for row, mark in marks.items()} if all(marks.values()) else {}


def answers(root: Path, metrics: Path, variant: str) -> dict[str, str]:
    """Test row -> the text of its free answer: of those in runs/eval the ones that metrics/outcomes has the hash of."""
    outcomes, raw = metrics / "outcomes" / f"{variant}.csv", root / ANSWERS / f"{variant}.jsonl"
    if not outcomes.exists() or not raw.is_file():
        return {}
    hashes = {each.id: each.answer_hash for each in read_outcomes(outcomes)}
    texts = {str(line.get("id")): str((line.get("answer") or {}).get("text", "")) for line in _lines(raw)}
    return {row: text for row, text in texts.items() if answer_hash(text) == hashes.get(row)}
