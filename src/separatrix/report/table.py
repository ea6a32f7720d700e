"""The table of headline numbers: one row a quantity, one column a portrait."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from separatrix.analyze.portrait import Portrait
from separatrix.plot.check import differences
from separatrix.result import Status
from separatrix.wording import counted, measured, plain

STEP = "nats per step"


class Cell(NamedTuple):
    """A number and, smaller, what belongs to it."""

    value: str
    note: str = ""


class Row(NamedTuple):
    """A quantity, its unit, what it is, and its cells, one a portrait."""

    name: str
    unit: str
    note: str
    cells: list[Cell]


def headline_rows(portraits: Mapping[str, Portrait], extra: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of the table, the extra facts first."""
    labels = dict.fromkeys(label for facts in extra.values() for label in facts)
    rows = [Row(label, "", "", [Cell(str(extra.get(name, {}).get(label, "–"))) for name in portraits]) for label in labels]
    for name, unit, note, cell in QUANTITIES:
        rows.append(Row(name, unit, note, [cell(portrait) for portrait in portraits.values()]))
    return rows


def _leading(portrait: Portrait) -> Cell:
    runs = portrait.pooled.runs
    return Cell(
        measured(*portrait.lambda_1), f"mean of {counted(runs, 'run')}, ± standard error" if runs > 1 else "± standard error"
    )


def _check(portrait: Portrait) -> Cell:
    apart = differences(portrait.spectrum)
    note = f"off λ₁ by at most {plain(float(np.abs(apart).max()))} in any run" if len(apart) else ""
    return Cell(measured(*portrait.check), note)


def _finite_time(portrait: Portrait) -> Cell:
    values = portrait.finite_time
    if values is None:
        return Cell("–", "no sequences")
    mean, spread = float(values.mean()), float(values.std(correction=0))
    return Cell(
        measured(mean, spread), f"± spread over {counted(len(values), 'sequence')} of {counted(portrait.finite_time_steps, 'step')}"
    )


def _dimension(portrait: Portrait) -> Cell:
    return Cell(measured(*portrait.dimension), f"of {portrait.spectrum.dim} dimensions of state")


def _entropy(portrait: Portrait) -> Cell:
    return Cell(measured(*portrait.entropy))


def _responses(portrait: Portrait) -> Cell:
    noun = "attractor" if portrait.regime == "autonomous" else "response"
    told = counted(int(portrait.groups.max()) + 1, noun)
    states, steps = counted(len(portrait.groups), "initial state"), counted(portrait.response_steps, "step")
    return Cell(told if portrait.settled else "not told yet", f"from {states}, {steps} later")


def _erased(portrait: Portrait) -> Cell:
    exponents = portrait.pooled.exponents
    return Cell(f"{int((exponents == -np.inf).sum())} of {len(exponents)}")


def _runs(portrait: Portrait) -> Cell:
    codes = portrait.spectrum.codes
    counts = [(int((codes == status).sum()), status.name.lower().replace("_", " ")) for status in Status]
    return Cell(", ".join(f"{count} {word}" for count, word in counts if count or word == "ok"), why_not_converged(portrait))


def why_not_converged(portrait: Portrait) -> str:
    """What "not converged" means for the runs that are; empty where all are."""
    spectrum = portrait.spectrum
    errors, tol = spectrum.stderr[spectrum.codes == Status.NOT_CONVERGED], spectrum.settings.get("tol")
    if len(errors) == 0:
        return ""
    if bool(errors.isnan().any()):
        return "not converged: too few steps for an error bar"
    if tol is not None and bool((errors > tol).any()):
        return f"not converged: error bars above {plain(tol)}"
    return "not converged: the two halves of the run differ by more than chance"


QUANTITIES: tuple[tuple[str, str, str, Callable[[Portrait], Cell]], ...] = (
    ("Leading exponent λ₁", STEP, "decides the side", _leading),
    ("Two-trajectory check", STEP, "λ₁ without derivatives", _check),
    ("Finite-time exponent", STEP, "over the sequences’ own length; not λ₁", _finite_time),
    ("Kaplan–Yorke dimension", "", "conditional on the input, if there is one", _dimension),
    ("Entropy bound Σλ⁺", STEP, "Ruelle’s upper bound; conditional on the input", _entropy),
    ("Where initial states end", "", "1: where they began is forgotten", _responses),
    ("Exponents at −∞", "", "directions erased to rounding", _erased),
    ("Runs", "", "how each ended", _runs),
)
