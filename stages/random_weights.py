"""architecture, weights: a model folder of the architecture in params.yaml, with random weights.

python -m stages.random_weights
"""

from __future__ import annotations

from pathlib import Path

from cartlm import command
from cartlm.bench import random_weights
from cartlm.files import replacing


@command.command
def main() -> None:
    """Write models/architecture/NAME/weights."""
    settings = command.params()
    wanted = settings.architecture
    target = Path("models/architecture") / wanted.name / "weights"
    with replacing(target, folder=True) as new:
        model = random_weights.config_of(wanted.name)
        count = random_weights.write(new, model, wanted.seed)
        random_weights.write_tokenizer(new, model.vocab_size)
    command.done({"architecture": wanted.name, "parameters": count})


if __name__ == "__main__":
    main()
