"""The report's view of the portrait of a recurrent network."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from separatrix import plot
from separatrix.core.result import Status
from separatrix.core.wording import counted, measured, plain
from separatrix.plot.check import differences
from separatrix.plot.plane import FOLLOWED
from separatrix.plot.portrait import attractors_shown
from separatrix.portrait.portrait import RecurrentPortrait
from separatrix.portrait.verdict import why_not_converged
from separatrix.report.drawing import drawn
from separatrix.report.view import WIDE, Cell, Drawing, Mark, Quantity, Section, View

STEP = "nats per step"
MARKS = {
    "chaotic": Mark("▲", "up"),
    "ordered": Mark("▼", "down"),
    "at the edge": Mark("◆", "edge"),
    "undecided": Mark("?", "edge"),
    "diverged": Mark("✕", "broken"),
}

CAPTIONS = {
    "spectrum": (
        "Lyapunov spectrum",
        "Each point is the mean rate at which perturbations along one direction of the state grow (above 0) or decay (below 0). "
        "Only the first, λ₁, decides the side. Bars show ± 2 standard errors, bands the spread over runs.",
    ),
    "convergence": (
        "Convergence",
        "Estimates of the three leading exponents as the run proceeds; grey: λ₁ of each run. They should become flat inside their "
        "shaded bands (the final value ± 2 standard errors). A slope at the right edge means that more steps are needed.",
    ),
    "check": (
        "Two-trajectory check",
        "λ₁ measured a second time, without derivatives: the rate at which two copies of the state that start a tiny distance "
        "apart separate. Each point is a run; on the diagonal, the two methods agree. Bars: ± 2 standard errors.",
    ),
    "propagation": (
        "Gradient propagation",
        "Growth or decay of a gradient (or a perturbation) over a number of steps; the right-hand scale gives the factor. At long "
        "lags it follows the dashed line, whose slope is λ₁. Lines: median over the runs; bands: their full range.",
    ),
    "finite_time": (
        "Finite-time exponents",
        "The mean rate at which the largest perturbation grows from the first step of a sequence to its last. It is not λ₁, which "
        "describes an infinite run, and tends to lie above it: in an ordered network (λ₁ below 0) all perturbations decay in the "
        "long run, but over the few steps of a sequence the worst direction may still grow (a non-normal transient). This rate "
        "governs the gradients within a sequence.",
    ),
    "plane": (
        "Phase portrait",
        "Settled states of up to 16 runs in the two directions in which they vary most, on equal scales; older states are "
        f"fainter. The dark line follows one run for its last {FOLLOWED - 1} steps, from ○ to ●.",
    ),
}


def _overview(portraits: Mapping[str, RecurrentPortrait]) -> Figure:
    return plot.border_figure({name: portrait.lambda_1 for name, portrait in portraits.items()}, width=WIDE)


def _sections(portraits: Mapping[str, RecurrentPortrait]) -> list[Section]:
    """One figure that compares the spectra, and the other figures portrait by portrait."""
    spectra = plot.compare_spectra({name: portrait.pooled for name, portrait in portraits.items()}, unit=STEP, width=WIDE)
    drawings: dict[str, list[Drawing]] = {key: [] for key in CAPTIONS}
    drawings["spectrum"].append(Drawing(drawn(spectra, "spectrum")))
    for number, (name, portrait) in enumerate(portraits.items()):
        for key, figure in plot.panel_figures(portrait, name).items():
            drawings[key].append(Drawing(drawn(figure, f"{key}{number}")))
    captions = {key: list(words) for key, words in CAPTIONS.items()}
    if any(attractors_shown(portrait) is not None for portrait in portraits.values()):
        captions["plane"][1] += " Markers distinguish the attractors that the initial states reached."
    return [Section(key, *captions[key], shown, is_wide=key == "spectrum") for key, shown in drawings.items() if shown]


def _leading(portrait: RecurrentPortrait) -> Cell:
    runs = portrait.pooled.runs
    return Cell(
        measured(*portrait.lambda_1), f"mean of {counted(runs, 'run')}, ± standard error" if runs > 1 else "± standard error"
    )


def _check(portrait: RecurrentPortrait) -> Cell:
    apart = differences(portrait.spectrum)
    note = f"differs from λ₁ by at most {plain(float(np.abs(apart).max()))} in any run" if len(apart) else ""
    return Cell(measured(*portrait.check), note)


def _finite_time(portrait: RecurrentPortrait) -> Cell:
    values = portrait.finite_time
    if values is None:
        return Cell("–", "no sequences")
    mean, spread = float(values.mean()), float(values.std(correction=0))
    return Cell(
        measured(mean, spread), f"± spread over {counted(len(values), 'sequence')} of {counted(portrait.finite_time_steps, 'step')}"
    )


def _dimension(portrait: RecurrentPortrait) -> Cell:
    return Cell(f"{measured(*portrait.dimension)} of {portrait.spectrum.dim}", "dimensions of the state")


def _entropy(portrait: RecurrentPortrait) -> Cell:
    return Cell(measured(*portrait.entropy))


def _responses(portrait: RecurrentPortrait) -> Cell:
    if portrait.groups is None:
        return Cell("–", "not measured")
    noun = "attractor" if portrait.regime in ("autonomous", "closed loop") else "response"
    found = counted(int(portrait.groups.max()) + 1, noun)
    states, steps = counted(len(portrait.groups), "initial state"), counted(portrait.response_steps, "step")
    return Cell(found if portrait.settled else "undecided", f"from {states} after {steps}")


def _erased(portrait: RecurrentPortrait) -> Cell:
    exponents = portrait.pooled.exponents
    return Cell(f"{int((exponents == -np.inf).sum())} of {len(exponents)}")


def _runs(portrait: RecurrentPortrait) -> Cell:
    codes = portrait.spectrum.codes
    counts = [(int((codes == status).sum()), status.words) for status in Status]
    ended = ", ".join(f"{count} {word}" for count, word in counts if count or word == "ok")
    return Cell(ended, why_not_converged(portrait.spectrum))


QUANTITIES = (
    Quantity("Leading exponent λ₁", STEP, "decides the side", _leading, is_key=True),
    Quantity("Two-trajectory check", STEP, "λ₁ without derivatives", _check),
    Quantity("Finite-time exponent", STEP, "over the length of the sequences; not λ₁", _finite_time),
    Quantity("Kaplan–Yorke dimension", "", "conditional on the input, if there is one", _dimension),
    Quantity("Entropy bound Σλ⁺", STEP, "Ruelle’s upper bound; conditional on the input", _entropy),
    Quantity("Responses of the initial states", "", "1: the initial state is forgotten", _responses),
    Quantity("Exponents at −∞", "", "directions erased to rounding error", _erased),
    Quantity("Runs", "", "number by outcome", _runs),
)

GLOSSARY = (
    (
        "Lyapunov exponent λ",
        "mean rate at which a small difference between two states grows (λ > 0) or decays (λ < 0); λ₁ is the largest.",
    ),
    ("nat", "unit of a natural logarithm: a growth of 1 nat is a growth by the factor e ≈ 2.72."),
    ("e-fold", "by the factor e; at λ₁ = 0.1 nats per step a difference grows e-fold every 10 steps."),
    ("chaotic, ordered, at the edge", "λ₁ above 0, below 0, or not distinguishable from 0 within 2 standard errors."),
    ("spectrum", "all exponents λ₁ ≥ λ₂ ≥ …, one for each dimension of the state."),
    ("−∞", "a direction that is erased to rounding error in one step, as by a ReLU that is off or a saturated tanh."),
    (
        "standard error (±)",
        "typical error of an estimate from a finite run; ± 2 standard errors contain the true value about 19 times in 20.",
    ),
    (
        "not converged",
        "a run whose two halves differ by more than chance, or whose error bars are unknown or above the requested tolerance. It "
        "is averaged like the others; more steps make it converge.",
    ),
    ("finite-time exponent", "the same rate over a given number of steps only; it differs from sequence to sequence."),
    ("Kaplan–Yorke dimension", "dimension of the set of settled states, estimated from the spectrum."),
    (
        "entropy bound Σλ⁺",
        "sum of the positive exponents: an upper bound on the information a chaotic network produces in each step.",
    ),
    ("conditional on the input", "measured between copies of the network that read the same input."),
    ("response, attractor", "the long-term behaviour that initial states converge to, under one common input or without any."),
    ("σ₁, ‖J‖/√dim", "growth of the largest and of a typical gradient, from the Jacobian J = ∂hₙ₊ₗ/∂hₙ over l steps."),
)

RECURRENT = View(
    question="On which side of the border between order and chaos is the network, how far away, and how reliable is the answer?",
    marks=MARKS,
    overview=_overview,
    overview_note="λ₁ is the mean rate at which a tiny difference between two states of the network decays (left) or grows "
    "(right). Bars: ± 2 standard errors, where they are wider than the marker.",
    quantities=QUANTITIES,
    sections=_sections,
    arguments=("module", "k", "copies", "steps", "settle", "error", "also", "seed"),
    record="spectrum",
    glossary=GLOSSARY,
)
