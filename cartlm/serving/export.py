"""`cartlm export`: a variant's files with a model card of what was measured, checksums, and the commands of other servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.evaluation import paired
from cartlm.files import replacing, sha256
from cartlm.params import Params
from cartlm.pipeline import dvc_lock
from cartlm.pipeline.repository import Tree, run_git
from cartlm.report import cells
from cartlm.report.summary import read_base, read_optional
from cartlm.serving.models import Model, Settings, find_model, find_root, params_of
from cartlm.task.prompt import render_prompt
from cartlm.text import LANGUAGE_CODES

CARD, SUMS, MODELFILE = "README.md", "SHA256SUMS", "Modelfile"
NAME = "cartlm-"
"""Begins the model's name in each card."""
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
SETS = {"": "test rows", "natural": "messages typed by people", "published": "published rows"}
SPEED = (
    "variant",
    "latency_ms_p50",
    "latency_ms_p95",
    "queries_per_s",
    "decode_tokens_per_s",
    "peak_rss_mib",
)
WAYS = {"": "free", "constrained": "constrained"}
SLOTS = 4  # of llama-server
BENCH = "bench-cpu"
"""The stage that measures speed and memory."""


def export(variant: str, target: Path, here: Path = Path(), anew: bool = False) -> list[str]:
    """Write the folder `target`, whole or not at all; the names of its files.

    Raises UserError for what is no variant of the params.yaml of `here`, for one whose evaluation is missing or of another model
    than the one there now, and for a folder that exists already, unless it shall be made `anew` and is an export and nothing else.
    """
    root = find_root(here)
    names = params_of(root).variants.names if root else []
    if root is None or variant not in names:
        what = f"{variant!r} is no variant of a params.yaml here" + (f": {', '.join(names)}" if names else "")
        raise UserError(what, "name a variant; another model has no measurements to export")
    if variant == "base":
        raise UserError("base is the model before fine-tuning", "export f16, merged or a quantized variant")
    model = find_model(variant, root)
    if model.engine == "rules":
        where = model.path.relative_to(root) if model.path.is_relative_to(root) else model.path
        raise UserError(f"{variant} is one file and no language model", f"copy {where}: cartlm serve FILE")
    if target.resolve() == Path.cwd():  # its shell would be left in a folder that is gone
        raise UserError(
            f"{target} is the folder you are in", f"cd .. and cartlm export {variant} {Path.cwd().name}"
        )
    if target.exists() and not _is_free(target):
        _check_export(target, anew)
    texts = {CARD: card(root, variant, model, _evaluation(root, variant, model))}
    if model.engine == "llama.cpp":
        texts[MODELFILE] = modelfile(model)
    with replacing(target, folder=True) as folder:
        return _fill(folder, model, texts)


def _is_free(folder: Path) -> bool:
    """Whether it is empty and can be replaced: a mount cannot, and behind a link is the disk that was meant."""
    return folder.is_dir() and not folder.is_symlink() and not folder.is_mount() and not any(folder.iterdir())


def _check_export(target: Path, anew: bool) -> None:
    """Raise UserError for what exists, unless it shall be made `anew`, has our model card, and nothing but what its checksums
    name: folders of something else may have checksums too.
    """
    made = [target / SUMS, target / CARD]
    is_export = all(each.is_file() for each in made) and NAME in made[1].read_text("utf-8", errors="replace")
    if not (anew and is_export):
        what = "exists already" if is_export or not target.is_dir() else "is a folder of something else"
        way = "name another folder" + is_export * ", or add --anew to replace it"
        raise UserError(f"{target} {what}", way)
    sums = (target / SUMS).read_text("utf-8", errors="replace").splitlines()
    exported = {SUMS, *(line.partition("  ")[2] for line in sums)}
    if foreign := sorted(path.name for path in target.iterdir() if path.name not in exported):
        what = f"{target} holds {foreign[0]}, which is not in its {SUMS}"
        raise UserError(what, f"move {foreign[0]} elsewhere, or name another folder")


def _fill(folder: Path, model: Model, texts: Mapping[str, str]) -> list[str]:
    """Write the model, the texts and all checksums; the names of the files."""
    files = [model.path] if model.path.is_file() else [p for p in model.path.iterdir() if p.is_file()]
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    written = sorted(path.name for path in folder.iterdir())
    sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in written)
    (folder / SUMS).write_text(sums, "utf-8")
    return [*written, SUMS]


def _evaluation(root: Path, variant: str, model: Model) -> Mapping[str, Any]:
    """What metrics/eval says of the model that is there now. Raises UserError if it says nothing of that."""
    path = root / "metrics/eval" / f"{variant}.json"
    found = read_optional(path)
    if found.get("inputs", {}).get("model") != model.digest:
        what = f"metrics/eval/{variant}.json is of another model than models/{variant}"
        raise UserError(what if found else f"{variant} has no evaluation", "dvc repro, then export again")
    return found


def modelfile(model: Model) -> str:
    """For Ollama, which otherwise takes a model for a chat."""
    settings = model.settings
    lines = [
        f"FROM ./{model.path.name}", f'TEMPLATE """{{{{ .Prompt }}}}{settings.separator}"""', "PARAMETER temperature 0",
        f"PARAMETER num_predict {settings.max_new_tokens}", f"PARAMETER num_ctx {settings.max_tokens}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def card(root: Path, variant: str, model: Model, evaluation: Mapping[str, Any]) -> str:
    """The model card, in the Hugging Face hub's layout. Figures are those of metrics/ as they are."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    params, metrics, settings = params_of(root), root / "metrics", model.settings
    base, data = read_base(metrics), read_optional(metrics / "data.json")
    bench = read_optional(metrics / "bench/cpu" / f"{variant}.json")
    is_timed = "cpu" in bench
    if is_timed and not _was_timed(root, variant, model):
        bench = {}
    name = f"{NAME}{variant}"
    scores = [
        {**section, "rows": f"{rows} ({section['n']:,})", "decoding": way_name, "set": prefix or "test"}
        for prefix, rows in SETS.items()
        for way, way_name in WAYS.items()
        if (section := evaluation.get("_".join(filter(None, (prefix, way))) or "free"))
    ]
    results = [
        EvalResult(
            task_type="text-generation", dataset_type="cartlm", dataset_name=row["rows"], dataset_config=row["decoding"], dataset_split=row["set"], metric_type="exact_match", metric_value=row["exact_match"],
        )
        for row in scores
    ]  # fmt: skip
    languages = [LANGUAGE_CODES[each] for each in params.data.train_languages or params.data.languages]
    licence = base.get("license")
    meta = ModelCardData(
        language=languages, license="other" if licence else None, license_name=licence,
        base_model=base["name"] if base.get("source") == "hub" else None, model_name=name, eval_results=results,
        pipeline_tag="text-generation",
    )  # fmt: skip
    body = {
        "prompt": render_prompt(["Milk 1 l", "Milk 2 l"], "2 of the 2L milk") + settings.separator,
        "max_tokens": settings.max_new_tokens,
        "temperature": 0,
    }
    usual = Settings()
    changed = {key: value for key, value in asdict(settings).items() if value != getattr(usual, key)}
    described = run_git(root, "describe", "--always", "--dirty", "--abbrev=12")
    return str(
        ModelCard.from_template(
            meta, template_str=TEMPLATE.read_text("utf-8"), name=name, base=base.get("name"), licence=licence,
            dequantized_from=base.get("dequantized_from"), rows=data.get("train", {}).get("n", params.data.train),
            languages=[each.capitalize() for each in params.data.train_languages or params.data.languages],
            source=params.data.source, made=_made(root, params, variant),
            accuracy=cells.markdown(("rows", "decoding", "exact_match"), scores), gap=_difference(root, params, variant),
            knows_none=settings.none, none_found=_none(evaluation), is_timed=is_timed, bench=BENCH,
            speed=cells.markdown(SPEED, [{"variant": variant, **bench["cpu"]}]) if "cpu" in bench else "",
            machine=bench.get("machine", {}).get("name"), separator=_words(settings.separator),
            file=model.path.name if model.engine == "llama.cpp" else None, slots=SLOTS, context=settings.max_tokens,
            options="".join(f", {key}={value!r}" for key, value in changed.items()),
            body=json.dumps(body, ensure_ascii=False), commit=described.stdout.strip(),
        )
    )  # fmt: skip


def _made(root: Path, params: Params, variant: str) -> str:
    """What the weights are."""
    if (gptq := params.gptq.get(variant)) is not None:
        return f"GPTQ of {gptq.bits} bits in groups of {gptq.group_size}"
    if (gguf := params.gguf.get(variant)) is not None:
        made = read_optional(root / "metrics/quantize" / f"{variant}.json").get("quantize", {})
        bits = f", {made['bits_per_weight']:.3g} bits per weight" if made else ""
        return f"GGUF {gguf.type}{bits}" + (", with an importance matrix" if gguf.imatrix else "")
    return "weights of 16 bits"


def _was_timed(root: Path, variant: str, model: Model) -> bool:
    """Whether the benchmark read the model that is there now: the F16 file itself, another by its hash in metrics/quantize."""
    tree = Tree(root)
    stage = dvc_lock.read_stages(tree).get(BENCH)
    source = "models/f16" if variant == paired.F16 else "metrics/quantize"
    if stage is None or stage.hashes.get(source) != tree.md5(source):
        return False
    made = read_optional(root / "metrics/quantize" / f"{variant}.json").get("quantize", {})
    return variant == paired.F16 or made.get("sha256", "").startswith(model.digest)


def _difference(root: Path, params: Params, variant: str) -> str:
    """A sentence on what a quantized variant loses; empty for another."""
    metrics = root / "metrics"
    every = paired.against_f16(paired.read_outcomes_of(metrics, params.variants.names))
    for one in every:
        if one.variant == variant:
            try:
                digest = find_model(paired.F16, root).digest
            except FileNotFoundError:
                return "The difference to F16 is left out: F16 is not here."
            if not _is_of_this_f16(root, variant, digest):
                return "The difference to F16 is left out: F16 was trained or evaluated at another time than this model."
            p = f"p = {paired.format_p(one.p_adjusted)}".replace("= <", "< ")
            return f"Against F16 on the same test rows, freely: {paired.format_points(one)} points ({p}, McNemar, Holm)."
    return ""


def _is_of_this_f16(root: Path, variant: str, digest: str) -> bool:
    """Whether F16 was evaluated as it is now, and the variant was not made before its source was made anew."""
    found = read_optional(root / f"metrics/eval/{paired.F16}.json")
    if found.get("inputs", {}).get("model") != digest:
        return False
    stages = dvc_lock.read_stages(Tree(root))
    older = dvc_lock.remade_inputs(stages)
    makers = {name for name, stage in stages.items() if f"models/{variant}" in stage.outs}
    return not any(each.startswith("models/") for name in makers for each in older.get(name, []))


def _none(evaluation: Mapping[str, Any]) -> str:
    """A sentence on messages that are no order; empty where they were not evaluated."""
    section = evaluation.get("none_constrained") or evaluation.get("none") or {}
    shares = [[f"{key}{end}" for end in ("", "_low", "_high")] for key in ("recall", "false_none")]
    if not {"n", "orders", *chain(*shares)} <= section.keys():
        return ""
    way = "constrained" if "none_constrained" in evaluation else "free"
    recall, lost = (cells.with_interval(*(100 * section[name] for name in names)) for names in shares)
    return (
        f"Of {section['n']:,} messages that are no order, {recall} % are answered so ({way} decoding); of the {section['orders']:,} "
        f"orders of the test {lost} % are lost to that answer."
    )


def _words(separator: str) -> str:
    return {"\n": "a line break", "": "nothing"}.get(separator, f"`{separator!r}`")
