"""report.html: one self-contained page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from separatrix.core.result import versions
from separatrix.portrait.portrait import Portrait
from separatrix.report.drawing import drawn, findings
from separatrix.report.folder import RESULTS
from separatrix.report.table import headline_rows
from separatrix.report.view import Mark, Section
from separatrix.report.views import by_view, view_of

THINGS = {"model": "your {}", "inputs": "its inputs", "targets": "its targets", "loss": "your loss"}


class Answer(NamedTuple):
    """A portrait's verdict, split for display in large print."""

    name: str
    portrait: Portrait
    mark: Mark
    word: str
    rest: str


class Overview(NamedTuple):
    """One figure of all portraits of a kind, and how to read it."""

    question: str
    drawing: Markup
    note: str


def render(
    portraits: Mapping[str, Portrait], title: str, extra: Mapping[str, Mapping[str, Any]], command: str | None = None
) -> str:
    """The whole page as HTML; every text in it is escaped."""
    loader = PackageLoader("separatrix.report", ".")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    first = next(iter(portraits.values()))
    return pages.get_template("template.html").render(
        title=title,
        answers=[_answer(name, portrait) for name, portrait in portraits.items()],
        overviews=_overviews(portraits),
        rows=headline_rows(portraits, extra),
        sections=_sections(portraits),
        settings=_compared([portrait.settings for portrait in portraits.values()]),
        versions=_compared([portrait.versions for portrait in portraits.values()]),
        command=command,
        again=_again(first),
        record=view_of(first).record,
        version=versions()["separatrix"],
        results=RESULTS,
        glossary=dict(entry for view, _ in by_view(portraits) for entry in view.glossary).items(),
    )


def _answer(name: str, portrait: Portrait) -> Answer:
    word, _, rest = portrait.verdict.partition(": ")
    return Answer(name, portrait, view_of(portrait).marks[portrait.side], word, rest)


def _overviews(portraits: Mapping[str, Portrait]) -> list[Overview]:
    kinds = enumerate(by_view(portraits))
    return [Overview(view.question, drawn(view.overview(its), f"overview{i}"), view.overview_note) for i, (view, its) in kinds]


def _sections(portraits: Mapping[str, Portrait]) -> list[Section]:
    """The figures of each kind, then the results of the further analyses."""
    return [*(section for view, its in by_view(portraits) for section in view.sections(its)), *findings(portraits)]


def _compared(records: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each key of any record, with its value in every record."""
    return [
        (key, [_shown(record.get(key)) for record in records]) for key in dict.fromkeys(key for each in records for key in each)
    ]


def _again(portrait: Portrait) -> str:
    """Python code that repeats the measurement of a portrait."""
    settings = portrait.settings
    if settings.get("error") is not None:  # `steps` then says how many were taken in the end
        settings = {**settings, "steps": settings.get("least_steps", settings.get("steps"))}
    asked = {key: settings[key] for key in view_of(portrait).arguments if settings.get(key) not in (None, "", "auto")}
    needed = [f"{name} = ...    # {THINGS[name].format(portrait.model)}" for name in portrait.takes]
    given = [name if name in ("model", "inputs") else f"{name}={name}" for name in portrait.takes]
    call = f"sx.analyze({', '.join([*given, *(f'{key}={value!r}' for key, value in asked.items())])})"
    return "\n".join([*needed, call])


def _shown(value: Any) -> str:
    return "–" if value is None or value == "" else str(value)
