"""Make the embedded base model from nothing: python -m base.pretrain (from the repository root).

Goes on from base/build/work/checkpoint.pt after a kill; uses CUDA where there is any.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from transformers import LlamaTokenizer

from cartlm import params
from cartlm.measure import machine
from cartlm.pretraining import card, corpus, probe, tokenizer, trainer

ROOT = Path("base/build")


def main() -> None:
    """Tokenizer, training, then the accepted form: float16 safetensors beside the tokenizer."""
    settings = params.load(Path("params.yaml"))
    recipe = trainer.Recipe(**yaml.safe_load(Path("base/params.yaml").read_text())["pretraining"])
    folder = ROOT / "tokenizer"
    if recipe.start != trainer.FROM_NOTHING:
        shutil.copytree(
            recipe.start, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model*", "*.md")
        )
    elif not (folder / "tokenizer_config.json").exists():
        lines = (line for text in corpus.texts(settings.data, 4000, recipe.seed) for line in text.split("\n"))
        tokenizer.train(lines, folder, recipe.vocabulary, recipe.longest_piece)
    loaded = LlamaTokenizer.from_pretrained(folder)
    rows = probe.probe_rows(settings.data, recipe.probe_rows, recipe.seed)

    def measure(model: object) -> dict[str, float]:
        return probe.measure(model, loaded, rows, settings.prompt.separator)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    model = trainer.run(recipe, settings.data, loaded, ROOT / "work", measure, say)
    model.generation_config.update(do_sample=False, pad_token_id=loaded.pad_token_id)
    temporary = ROOT / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.to(torch.float16).save_pretrained(temporary, safe_serialization=True)
    loaded.save_pretrained(temporary)
    shutil.copy(folder / "tokenizer.model", temporary)
    log = [json.loads(line) for line in (ROOT / "work" / "log.jsonl").read_text().splitlines()]
    count = sum(parameter.numel() for parameter in model.parameters())
    where = machine.fingerprint()["name"]
    (temporary / "README.md").write_text(card.card(asdict(recipe), log, count, str(where)), encoding="utf-8")
    shutil.copy(ROOT / "work" / "log.jsonl", temporary / "training_log.jsonl")
    shutil.rmtree(ROOT / "model", ignore_errors=True)
    temporary.rename(ROOT / "model")
    print(json.dumps({"parameters": count, **log[-1]}))


if __name__ == "__main__":
    main()
