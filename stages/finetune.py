"""finetune: QLoRA on the training rows, resumed from its last whole checkpoint.

python -m stages.finetune
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cartlm import command
from cartlm.files import write_text
from cartlm.system import cpu_limits

BASE, ADAPTER, RUNS = Path("models/base"), Path("models/adapter"), Path("runs/finetune")
TRAIN, VALIDATION, CURVE = (
    Path("data/train.jsonl"),
    Path("data/validation.jsonl"),
    Path("metrics/finetune.csv"),
)
# Not dependencies of the stage: they are only checked, so that a row that a later stage cannot read is found here.
OTHERS = tuple(Path(f"data/{name}.jsonl") for name in ("calibration", "test", "none", "published"))


@command.command
def main() -> None:
    """Write models/adapter and metrics/finetune.csv."""
    settings = command.params()
    if not BASE.is_dir():
        raise FileNotFoundError(2, "No such file or directory", str(BASE))
    import torch

    from cartlm.training import qlora
    from cartlm.training.trainer import format_curve

    command.imported()
    torch.set_num_threads(cpu_limits.threads())
    job = qlora.Job(BASE, BASE.as_posix(), TRAIN, VALIDATION, settings.finetune, settings.prompt, OTHERS)
    result = qlora.finetune(job, RUNS, ADAPTER)
    if result is None:
        return
    write_text(CURVE, format_curve(result.history))
    command.done({name: value for name, value in asdict(result).items() if name != "history"})


if __name__ == "__main__":
    main()
