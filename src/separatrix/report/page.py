"""report.html: one page that needs nothing else."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from separatrix.analyze.portrait import Portrait
from separatrix.report import figures
from separatrix.report.folder import RESULTS
from separatrix.report.table import headline_rows
from separatrix.result import versions

ARGUMENTS = ("module", "k", "copies", "steps", "settle", "tol", "seed")  # of `analyze`, as a portrait's settings name them
MARKS = {"chaotic": "▲", "ordered": "▼", "at the edge": "◆", "diverged": "✕"}

GLOSSARY = (
    (
        "Lyapunov exponent λ",
        "mean rate at which a small difference between two states grows (λ > 0) or fades (λ < 0); λ₁ is the largest.",
    ),
    ("nat", "unit of a natural logarithm: a growth of 1 nat is a growth by the factor e ≈ 2.72."),
    ("e-fold", "by the factor e; at λ₁ = 0.1 nats per step a difference grows e-fold every 10 steps."),
    ("chaotic, ordered, at the edge", "λ₁ above 0, below 0, or not to be told from 0 within 2 standard errors."),
    ("spectrum", "all exponents λ₁ ≥ λ₂ ≥ …, one for each dimension of the state."),
    ("−∞", "a direction that is erased to rounding in one step, as by a ReLU that is off or a tanh that is saturated."),
    (
        "standard error (±)",
        "typical error of an estimate because the run is finite; bars and bands of ± 2 hold the truth about 19 times in 20.",
    ),
    (
        "not converged",
        "a run whose two halves differ by more than chance, or whose error bars are unknown or above the tolerance asked for; it "
        "counts like the others, and more steps mend it.",
    ),
    ("finite-time exponent", "the same rate over a given number of steps only; it differs from sequence to sequence."),
    ("Kaplan–Yorke dimension", "how many dimensions the set of settled states fills, estimated from the spectrum."),
    (
        "entropy bound Σλ⁺",
        "sum of the positive exponents: an upper bound on the information a chaotic network produces in each step.",
    ),
    ("conditional on the input", "measured between copies of the network that read the same input."),
    ("response, attractor", "what initial states end up doing under one common input, or with none."),
    ("σ₁, ‖J‖/√dim", "growth of the largest and of a typical gradient: of the Jacobian J = ∂hₙ₊ₗ/∂hₙ over l steps."),
)


class Answer(NamedTuple):
    """One portrait's verdict, taken apart for large print."""

    name: str
    portrait: Portrait
    mark: str
    kind: str
    word: str
    rest: str


def render(
    portraits: Mapping[str, Portrait], title: str, extra: Mapping[str, Mapping[str, Any]], command: str | None = None
) -> str:
    """The whole page as HTML; every text in it is escaped."""
    loader = PackageLoader("separatrix.report", ".")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("template.html").render(
        title=title,
        answers=[_answer(name, portrait) for name, portrait in portraits.items()],
        border=figures.border(portraits),
        rows=headline_rows(portraits, extra),
        sections=figures.sections(portraits),
        settings=_compared([portrait.settings for portrait in portraits.values()]),
        versions=_compared([portrait.versions for portrait in portraits.values()]),
        command=command,
        again=_again(next(iter(portraits.values()))),
        version=versions()["separatrix"],
        results=RESULTS,
        glossary=GLOSSARY,
    )


def _answer(name: str, portrait: Portrait) -> Answer:
    kind = portrait.side
    word, _, rest = portrait.verdict.partition(": ")
    return Answer(name, portrait, MARKS[kind], kind.replace(" ", "-"), word, rest)


def _compared(records: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each key that any record has, and its value in each."""
    return [
        (key, [_shown(record.get(key)) for record in records]) for key in dict.fromkeys(key for each in records for key in each)
    ]


def _again(portrait: Portrait) -> str:
    """The lines that measure a portrait once more."""
    settings = portrait.settings
    if settings.get("tol") is not None:  # `steps` then says how many were taken in the end
        settings = {**settings, "steps": settings.get("least_steps", settings.get("steps"))}
    asked = {key: settings[key] for key in ARGUMENTS if settings.get(key) not in (None, "")}
    names = ["model"] if portrait.regime == "autonomous" else ["model", "inputs"]
    needed = [f"{name} = ...    # {'your ' + portrait.model if name == 'model' else 'what it reads'}" for name in names]
    call = f"sx.analyze({', '.join([*names, *(f'{key}={value!r}' for key, value in asked.items())])})"
    return "\n".join([*needed, call])


def _shown(value: Any) -> str:
    return "–" if value is None or value == "" else str(value)
