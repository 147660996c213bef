"""A checkout with the metrics of tests/unit/recommend/shop.py, rows and answers: what a page is made from, without git."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cartlm.metrics import Outcome, answer_hash, read_metrics, write_metrics, write_outcomes
from cartlm.report.models import Model
from cartlm.report_page.parts import Sources
from tests.fixtures.browser import PLANTED
from tests.unit.recommend import shop

RIGHT = {"action": "add", "product": "Green Tea (20 bags)", "quantity": 2}
WRONG = RIGHT | {"product": "Black Tea (20 bags)"}
VARIANTS = ["baseline", "merged", *(name for name in shop.VARIANTS if name != "baseline")]


def write(root: Path, show_rows: bool = True) -> Sources:
    """Every fourth row is answered wrongly by f16; each message has PLANTED in it."""
    metrics = shop.write(root / "metrics")
    for name in ("f16", "q4_k_m"):
        path = metrics / "eval" / f"{name}.json"
        bins = {f"bin_{bin}_{key}": value for bin, share in ((3, 0.25), (10, 0.97)) for key, value in (("n", 100), ("confidence", share), ("correct", share))}  # fmt: skip
        slices = {
            "language_english": 0.9,
            "language_english_n": 200,
            "noise_clean": 0.6,
            "noise_clean_n": 100,
        }
        write_metrics(path, {**read_metrics(path), "free_slices": slices, "constrained_slices": slices, "constrained_reliability": bins})  # fmt: skip
    (metrics / "finetune.csv").write_text(
        "step,epoch,loss,learning_rate,eval_loss\n10,0.1,1.5,0.001,\n20,0.2,0.5,0.001,0.7\n"
    )
    write_rows(root)
    return Sources(
        root, [Model("offline", metrics, VARIANTS, {"name": PLANTED})], "generated rows", show_rows
    )


def write_rows(root: Path) -> None:
    """data/test.jsonl as dvc.lock has it, and the answers of f16 with the hashes that metrics/outcomes has."""
    rows, answers, outcomes = [], [], []
    for number in range(shop.N):
        text = json.dumps(WRONG if number % 4 == 0 else RIGHT)
        row = f"test-{number:03}"
        tags = {"noise": "clean" if number % 2 else "typo"}
        rows.append({"id": row, "language": "english", "catalog": [RIGHT["product"], WRONG["product"]], "message": PLANTED, "completion": json.dumps(RIGHT), "tags": tags})  # fmt: skip
        answers.append({"id": row, "answer": {"text": text}})
        outcomes.append(Outcome(row, "exact", answer_hash(text)))
    data, raw = root / "data/test.jsonl", root / "runs/eval/f16.jsonl"
    for path, lines in ((data, rows), (raw, answers)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    write_outcomes(root / "metrics/outcomes/f16.csv", outcomes)
    md5 = hashlib.md5(data.read_bytes()).hexdigest()
    (root / "dvc.lock").write_text(
        json.dumps({"stages": {"data": {"outs": [{"path": "data/test.jsonl", "md5": md5}]}}})
    )
