"""base: the 16-bit base model, from base/model or from the hub.

python -m stages.base
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cartlm import stage
from cartlm.training import base

TARGET = Path("models/base")


@stage.command
def main() -> None:
    """Write models/base: weights as they are, tokenizer and configs with one pad, bos and eos."""
    settings = stage.params()
    given = settings.base
    made = base.make(given.source, given.path, given.revision, settings.prompt.pad_token, TARGET)
    stage.done(asdict(made))


if __name__ == "__main__":
    main()
