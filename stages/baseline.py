"""baseline: a reader that needs no language model, fitted on the training rows.

python -m stages.baseline
"""

from __future__ import annotations

from pathlib import Path

from cartlm import command
from cartlm.baseline import fit, reader
from cartlm.task import rows

TRAIN, VALIDATION = Path("data/train.jsonl"), Path("data/validation.jsonl")
MODEL = Path("models/baseline/model.json")


@command.command
def main() -> None:
    """Write models/baseline/model.json; the last line has the shares of validation rows that it reads right."""
    fitted = fit.fit(rows.read(TRAIN), rows.read(VALIDATION))
    reader.write(MODEL, fitted.weights)
    command.done({name: round(share, 4) for name, share in fitted.shares.items()})


if __name__ == "__main__":
    main()
