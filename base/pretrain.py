"""Make the embedded base model from nothing: python -m base.pretrain (from the repository root).

With --after N, base/model is taken as what the first N phases gave, and the others go on from it.
Goes on from its last checkpoint under base/build/work after a kill; uses CUDA where there is any.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from cartlm import command
from cartlm import data as data_package
from cartlm import pretraining as pretraining_package
from cartlm.data.config import Data
from cartlm.engines import model_dir
from cartlm.errors import UserError
from cartlm.files import replacing
from cartlm.pretraining import card, corpus, probe, recipe, tokenizer, trainer
from cartlm.system import cpu_limits, machine
from cartlm.task import prompt
from cartlm.training import checkpoints

ROOT, RECIPE, ACCEPTED = Path("base/build"), Path("base/params.yaml"), Path("base/model")
TOKENIZER_TEXTS = 4000  # documents that the tokenizer is trained on
PACKAGES = (data_package, pretraining_package)


def code() -> list[Path]:
    """The files that decide the text and the training: with others, a checkpoint is not resumed."""
    places = [Path(str(package.__file__)).parent for package in PACKAGES]
    found = [path for place in places for path in place.rglob("*") if path.suffix in (".py", ".yaml", ".tsv")]
    return [*sorted(found), Path(prompt.__file__)]


def make_tokenizer(wanted: recipe.Recipe, data: Data, folder: Path) -> Any:
    """The LlamaTokenizer in `folder`, trained unless it is there."""
    from transformers import LlamaTokenizer

    if not folder.exists():
        lines = (
            line for text in corpus.texts(data, TOKENIZER_TEXTS, wanted.seed) for line in text.split("\n")
        )
        with replacing(folder, folder=True) as new:
            tokenizer.train(lines, new, wanted.vocabulary, wanted.longest_piece)
    return LlamaTokenizer.from_pretrained(folder)


def accepted(after: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Weights and log of base/model. Raises UserError if it was not made by `after` phases."""
    log = [json.loads(line) for line in (ACCEPTED / "training_log.jsonl").read_text().splitlines()]
    if log[-1]["phase"] != after:
        raise UserError(
            f"--after {after}: {ACCEPTED} was made by {log[-1]['phase']} phases",
            f"python -m base.pretrain --after {log[-1]['phase']}",
        )
    from safetensors.torch import load_file

    weights = load_file(ACCEPTED / "model.safetensors")
    return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, log


@command.command
@click.option("--after", type=click.IntRange(0), default=0, help="Take base/model for the first N phases.")
def main(after: int) -> None:
    """Tokenizer, phases of training, then the accepted form: float16 safetensors beside the tokenizer."""
    settings, phases = command.params(), recipe.load(RECIPE)
    if after >= len(phases):
        raise UserError(f"--after {after}: {RECIPE} has {len(phases)} phases", f"add one to {RECIPE}")
    import torch  # seconds, which a wrong recipe need not wait for

    data, separator, threads = settings.data, settings.prompt.separator, cpu_limits.threads()
    torch.set_num_threads(threads)
    text = {name: data.model_dump()[name] for name in ("languages", "catalog", "wording", "noise")}
    files = [*code(), *([ACCEPTED / "model.safetensors"] if after else [])]
    # the files as they are now: an edit in the middle of a run is not taken for what its phases began with
    made_from: dict[str, Any] = {
        "files": checkpoints.run_key({}, files),
        "text": text,
        "separator": separator,
    }
    made_from["first"] = phases[0].model_dump()
    folder = ROOT / "work" / f"tokenizer-{checkpoints.run_key(made_from, [])}"
    used: list[Path] = [folder]
    log: list[dict[str, Any]] = []
    model, start = None, None
    if after:
        start, log = accepted(after)
        with replacing(folder, folder=True) as new:
            model_dir.copy(ACCEPTED, new, model_dir.TOKENIZER)
    loaded = make_tokenizer(phases[0], data, folder)
    command.imported()
    rows = probe.probe_rows(data, phases[0].probe_rows, phases[0].seed)
    for number, wanted in list(enumerate(phases))[after:]:
        made_from = {"before": made_from, "phase": wanted.model_dump()}
        work = ROOT / "work" / f"{number + 1}-{checkpoints.run_key(made_from, [])}"
        model = trainer.train(
            wanted, data, loaded, work, lambda trained: probe.measure(trained, loaded, rows, separator),
            command.progress, number, start, threads,
        )  # fmt: skip
        log += [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
        start = model.state_dict()
        used.append(work)
    assert model is not None
    model.generation_config.update(do_sample=False, pad_token_id=loaded.pad_token_id)
    count = sum(parameter.numel() for parameter in model.parameters())
    with replacing(ROOT / "model", folder=True) as new:
        model.to(torch.float16).save_pretrained(new, safe_serialization=True)
        loaded.save_pretrained(new)
        shutil.copy(folder / "tokenizer.model", new)
        (new / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        text = card.card([phase.model_dump() for phase in phases], log, count, machine.fingerprint()["name"])
        (new / "README.md").write_text(text, encoding="utf-8")
    for made in used:
        shutil.rmtree(made)
    command.done({"parameters": count, **log[-1]})


if __name__ == "__main__":
    main()
