"""The model card of the embedded base model, written from its recipe and its training log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cartlm.pretraining.formats import TARGET_HEADER


def card(
    phases: Sequence[Mapping[str, Any]], log: Sequence[Mapping[str, Any]], parameters: int, machine: str
) -> str:
    """Markdown: what the model is, how it was made (recipe, seed, hours, machine), how far it got, its limits."""
    last = [max((p for p in log if p["phase"] == n + 1), key=lambda p: p["step"]) for n in range(len(phases))]
    before = [sum(p["tokens"] for p in last[:n]) for n in range(len(phases))]
    trained = "\n".join(
        f"  {n + 1}. {end['tokens']:,} tokens in {end['step']:,} steps, {end['minutes'] / 60:.2f} hours; learning rate "
        f"{phase['learning_rate']}, guided attention {phase['guidance'] or 'not used'}, "
        f"passing on {phase['passing_on'] or 'not used'}."
        for n, (phase, end) in enumerate(zip(phases, last, strict=True))
    )
    rows = "\n".join(
        f"| {p['phase']} | {p['step']} | {(before[p['phase'] - 1] + p['tokens']) / 1e6:.1f} | {p['answer_loss']} "
        f"| {p['exact']} | {p['exact_novel']} |"
        for p in log
        if "exact" in p
    )
    recipe = json.dumps([dict(phase) for phase in phases], indent=2)
    return f"""# cartlm base model

A Llama-architecture language model of {parameters:,} parameters, made from nothing by `make base` (`base/dvc.yaml`)
on text that this project generates. It stands in for Llama 3.2 1B where no model hub is reachable: it knows shop
messages in English, Croatian and Spanish, copies catalog lines, and answers in the format that a header line asks for.
Without a header it answers in some format, not in the task's: that is left to fine-tuning. Licence: that of the project.

## How it was made

- Text: catalogs with short questions (name the item meant, answer a message in a random JSON, key=value or line
  format, repeat or look up lines) and messages alone, worded in more ways than the task's own grammar knows; most
  products partly invented. The products and phrase templates of the `novel` test slice never occur. The target JSON
  occurs in at most a tenth of the documents, each time behind the header `{TARGET_HEADER.strip()}`.
- Training, seed {phases[0]["seed"]}, on this machine: {machine}. Muon for the matrices, AdamW for the rest, bfloat16
  autocast; weights stored as float16. Where attention is guided, four heads have a second loss that tells them where
  to look: the first token of a catalog line, the line that is meant, the words that mean it, the token to copy. Where
  passing on is used, two layers are read early for the token with which that line begins.
{trained}
- `training_log.jsonl` is the log (other work ran on the machine at the same time).

Recipe, a block a phase:

```json
{recipe}
```

## How far it got

Exact match on {phases[-1]["probe_rows"]} fresh rows of the task with the header in front, half of them with held-out products and templates;
`answer_loss` is the mean cross-entropy of answer tokens over the last 20 steps, in nats.

| phase | step | million tokens | answer loss | exact match | of the novel half |
|---:|---:|---:|---:|---:|---:|
{rows}

## Limits

Made for this one task on generated text: it knows no world, answers nothing else, and its accuracy says nothing about
larger models. Messages that real people write differ from the generated ones.
"""
