"""The page: all sections in one HTML file without a single request, and the short Markdown of its first screen."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cartlm.compare.markdown import inert
from cartlm.errors import UserError
from cartlm.pipeline.repository import run_git
from cartlm.report import cells
from cartlm.report.models import Model
from cartlm.report_page import accuracy, claims, failures, making, recommendation, speed, tradeoff, trends
from cartlm.report_page.parts import Section, Sources
from cartlm.report_page.recommendation import Advice

T = TypeVar("T")
HERE = Path(__file__).parent
INTERVAL = re.compile(r"\[(\S+), (\S+)\]")
"""Is kept on one line."""
SHORT = ("variant", "exact_match", "latency_ms_p95", "peak_rss_mib", "size_mib")


def sections(sources: Sources) -> list[Section]:
    """All parts of the page below its first screen's sentence. Raises UserError for metrics of another form than is written now."""
    makers = (
        tradeoff.section, accuracy.cliff_section, accuracy.heat_section, accuracy.worth_section, speed.section,
        speed.energy_section, making.training_section, making.bytes_section, accuracy.reliability_section, claims.section,
        failures.section, trends.section,
    )  # fmt: skip
    return [
        _made(f"{make.__module__}.{make.__name__}".removeprefix("cartlm."), make, sources) for make in makers
    ]


def _made(name: str, make: Callable[[Sources], T], sources: Sources) -> T:
    try:
        return make(sources)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{name}: a file of metrics/ or results/ has another form than this version writes: {type(error).__name__}: {error}"
        raise UserError(
            what,
            "make repro, or take the files of a commit that this version made: git log -- metrics results",
        ) from error


def preferring(variant: str, section: Section) -> Section:
    """The same that begins with this variant, where its views are of one each."""
    views = sorted(section.views, key=lambda view: view.choice.get("variant", variant) != variant)
    return replace(section, views=views)


def check(sources: Sources) -> None:
    """Raises UserError where nothing was evaluated."""
    if not any((sources.metrics / "eval" / f"{name}.json").exists() for name in sources.variants):
        raise UserError(f"{sources.metrics}/eval has no evaluation of a variant in params.yaml", "make repro")


def html(sources: Sources) -> str:
    """The whole page. Raises UserError for files that no stage writes, and where there are none."""
    check(sources)
    script, style = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    advice = _made("the recommendation", advise, sources)
    ship = next((each.ship for each in advice if each.ship), "")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return _render(
        "page.html.jinja",
        advice=advice,
        sections=[preferring(ship, each) for each in sections(sources)],
        models=sources.models,
        studies={each.name: measured_at(each) for each in sources.models if each.record},
        sure=recommendation.SURE,
        commit=commit(sources.root),
        script=script,
        style=style,
        digest=digest,
    )


def markdown(sources: Sources) -> str:
    """The recommendation for each target and the table behind it, for a pull request."""
    check(sources)
    advice = _made("the recommendation", advise, sources)
    tables = {each.target: short_table(sources, each) for each in advice if each.ship}
    text = _render(
        "page.md.jinja", advice=advice, tables=tables, sure=recommendation.SURE, commit=commit(sources.root)
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def advise(sources: Sources) -> list[Advice]:
    return recommendation.every(sources.metrics, sources.variants)


def short_table(sources: Sources, advice: Advice) -> str:
    """What competed on a target, in Markdown."""
    from cartlm.recommend import measured

    found = measured.read(sources.metrics, sources.variants, advice.target, None, "test")
    rows = [
        {**each.row, "variant": f"**{each.name}**" if each.name == advice.ship else each.name}
        for each in found.candidates
    ]
    return cells.markdown(SHORT, rows)


def commit(root: Path) -> str:
    """Hash and date of HEAD, for the heading; empty outside of git."""
    done = run_git(root, "log", "-1", "--format=%h of %cs")
    if done.returncode:
        return ""
    changed = run_git(root, "status", "--porcelain", "--", "metrics", "results").stdout.strip()
    return done.stdout.strip() + (" and numbers that are not committed yet" if changed else "")


def measured_at(model: Model) -> str:
    """Preset, commit and date of a study."""
    about = {key: str(model.record.get(key, "unknown")) for key in ("preset", "commit", "date")}
    return f"{about['preset']} at commit {about['commit'][:8]}, {about['date']}"


def _render(name: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    for key in ("script", "style"):  # our own files; what a user's rows and names bring is escaped
        if key in values:
            values[key] = Markup(values[key])
    loaded = Environment(loader=FileSystemLoader(HERE), autoescape=name.endswith(".html.jinja"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    loaded.filters["inert"] = inert
    loaded.filters["whole"] = lambda text: INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", text)
    return loaded.get_template(name).render(**values)
