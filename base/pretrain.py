"""Make the embedded base model from nothing: python -m base.pretrain (from the repository root).

With --after N, the phases after the first N start from base/model, which those made.
Resumes from its last checkpoint under base/build/work after a kill; uses CUDA where there is any.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from base import pretraining as pretraining_package
from base.pretraining import card, corpus, probe, recipe, tokenizer, trainer
from cartlm import command
from cartlm import data as data_package
from cartlm.data.config import Data
from cartlm.engines import model_dir
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.system import cpu_limits, machine
from cartlm.task import prompt
from cartlm.training import checkpoints

ROOT, RECIPE, ACCEPTED = Path("base/build"), Path("base/params.yaml"), Path("base/model")
LOG = "training_log.jsonl"
TOKENIZER_TEXTS = 4000  # documents that the tokenizer is trained on
PACKAGES = (data_package, pretraining_package)


def code() -> list[Path]:
    """The files that decide the text and the training: with others, a checkpoint is not resumed."""
    folders = [Path(str(package.__file__)).parent for package in PACKAGES]
    files = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".tsv")
    ]
    return [*sorted(files), Path(prompt.__file__)]


def make_tokenizer(first: recipe.Recipe, data: Data, folder: Path) -> Any:
    """The LlamaTokenizer in `folder`, trained unless it is there."""
    from transformers import LlamaTokenizer

    if not folder.exists():
        texts = corpus.texts(data, TOKENIZER_TEXTS, first.seed)
        with replacing(folder, folder=True) as new:
            lines = (line for text in texts for line in text.split("\n"))
            tokenizer.train(lines, new, first.vocabulary, first.longest_piece)
    return LlamaTokenizer.from_pretrained(folder)


def read_log(folder: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def accepted(after: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Weights and log of base/model. Raises UserError if it was not made by `after` phases."""
    from safetensors.torch import load_file

    log = read_log(ACCEPTED, LOG)
    if (phases := log[-1]["phase"]) != after:
        raise UserError(
            f"--after {after}: {ACCEPTED} was made by {phases} phases",
            f"python -m base.pretrain --after {phases}",
        )
    weights = load_file(ACCEPTED / "model.safetensors")
    return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, log


@command.command
@click.option(
    "--after", type=click.IntRange(0), default=0, help="Start from base/model, made by the first N phases."
)
def main(after: int) -> None:
    """Tokenizer, phases of training, then the accepted form: float16 safetensors beside the tokenizer."""
    settings, phases = command.params(), recipe.load(RECIPE)
    if after >= len(phases):
        raise UserError(f"--after {after}: {RECIPE} has {len(phases)} phases", f"add one to {RECIPE}")
    import torch  # seconds, which a wrong recipe need not wait for

    data, separator, threads = settings.data, settings.prompt.separator, cpu_limits.threads()
    torch.set_num_threads(threads)
    text = {
        name: data.model_dump()[name] for name in ("languages", "catalog", "wording", "everyday", "noise")
    }
    files = [*code(), *([ACCEPTED / "model.safetensors"] if after else [])]
    # Of the files as they are now: a change during a run does not count for the phases that are left.
    key = checkpoints.run_key({"text": text, "separator": separator, "first": phases[0].model_dump()}, files)
    folder = ROOT / "work" / f"tokenizer-{key}"
    used = [folder]
    log: list[dict[str, Any]] = []
    model, start = None, None
    if after:
        start, log = accepted(after)
        with replacing(folder, folder=True) as new:
            model_dir.copy(ACCEPTED, new, model_dir.TOKENIZER)
    loaded = make_tokenizer(phases[0], data, folder)
    command.imported()
    rows = {kind: probe.probe_rows(data, phases[0].probe_rows, phases[0].seed, kind) for kind in probe.KINDS}
    for number, phase in list(enumerate(phases))[after:]:
        key = checkpoints.run_key({"before": key, "phase": phase.model_dump()}, [])
        work = ROOT / "work" / f"{number + 1}-{key}"
        model = trainer.train(
            phase, data, loaded, work, lambda trained: probe.measure_all(trained, loaded, rows, separator),
            command.progress, number, start, threads,
        )  # fmt: skip
        log += read_log(work)
        start = model.state_dict()
        used.append(work)
    assert model is not None
    model.generation_config.update(do_sample=False, pad_token_id=loaded.pad_token_id)
    count = sum(parameter.numel() for parameter in model.parameters())
    with replacing(ROOT / "model", folder=True) as new:
        model.to(torch.float16).save_pretrained(new, safe_serialization=True)
        loaded.save_pretrained(new)
        shutil.copy(folder / "tokenizer.model", new)
        (new / LOG).write_text("".join(json.dumps(line) + "\n" for line in log))
        page = card.card([phase.model_dump() for phase in phases], log, count, machine.fingerprint()["name"])
        (new / "README.md").write_text(page, encoding="utf-8")
    for work in used:
        shutil.rmtree(work)
    command.done({"parameters": count, **log[-1]})


if __name__ == "__main__":
    main()
