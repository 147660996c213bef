"""finetune: QLoRA on the training rows, resumed from its last whole checkpoint.

python -m stages.finetune
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from cartlm import command
from cartlm.files import write_text
from cartlm.metrics import DIGITS
from cartlm.system import cpu_limits

BASE, ADAPTER, RUNS = Path("models/base"), Path("models/adapter"), Path("runs/finetune")
TRAIN, VALIDATION, CURVE = (
    Path("data/train.jsonl"),
    Path("data/validation.jsonl"),
    Path("metrics/finetune.csv"),
)
# No dependencies: nothing of them is learned, a row in them that a later stage cannot read only stops it here.
OTHERS = (Path("data/calibration.jsonl"), Path("data/test.jsonl"), Path("data/published.jsonl"))
COLUMNS = ("step", "epoch", "loss", "learning_rate", "eval_loss")


def curve(history: list[dict[str, float]]) -> str:
    """CSV with one line a logged step, for dvc plots; what was not measured at a step is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in history:
        known = {name: f"{value:.{DIGITS}g}" for name, value in entry.items()} | {"step": int(entry["step"])}
        writer.writerow(known.get(name, "") for name in COLUMNS)
    return text.getvalue()


@command.command
def main() -> None:
    """Write models/adapter and metrics/finetune.csv."""
    settings = command.params()
    if not BASE.is_dir():
        raise FileNotFoundError(2, "No such file or directory", str(BASE))
    import torch

    from cartlm.training import qlora

    command.imported()
    torch.set_num_threads(cpu_limits.threads())
    job = qlora.Job(BASE, BASE.as_posix(), TRAIN, VALIDATION, settings.finetune, settings.prompt, OTHERS)
    made = qlora.finetune(job, RUNS, ADAPTER)
    if made is None:
        return
    write_text(CURVE, curve(made.history))
    command.done(qlora.as_plain(made))


if __name__ == "__main__":
    main()
