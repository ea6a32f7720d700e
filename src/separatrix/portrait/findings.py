"""Further questions about a network's recurrent core. An entry in `QUESTIONS` is all that a section of the report needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from separatrix.analysis.attractor.correlation_dimension import correlation_dimension
from separatrix.analysis.attractor.power_spectrum import power_spectrum
from separatrix.analysis.basins.basins import basins_of_attraction
from separatrix.analysis.driven.echo_state import echo_state
from separatrix.analysis.driven.memory import memory_capacity
from separatrix.analysis.fixed.fixed_points import fixed_points
from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.analysis.gradients.transient import transient_growth
from separatrix.analysis.lyapunov.covariant import covariant_lyapunov_vectors
from separatrix.analysis.lyapunov.finite_time import grid
from separatrix.analysis.pictures.phase_portrait import phase_portrait
from separatrix.core.errors import InputError, SeparatrixError
from separatrix.core.evolve import trajectory
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result
from separatrix.systems.recurrent.recurrent import Recurrent

RELAXED = 500  # steps that visited states are given to fall towards what attracts them
LATTICE = 40  # initial states along each side of a basin's picture
FLAT = 1e-6  # deviation of visited states from a line, below which they span no plane
RUNS = 16  # orbits of a phase portrait, and initial states where there are no others
BEYOND = 1.5  # times as far as states reach: where initial states are taken from
GUESSED = 2**19  # numbers in the Jacobians of all guesses for rest points: a few seconds


@dataclass(frozen=True)
class Subject:
    """What a question is asked of.

    Args:
        system: the core under the drive that the question names.
        states: settled states of the run, (step, run, dim).
        seed: of everything random.
        progress: show progress bars.
    """

    system: Recurrent
    states: Tensor
    seed: int
    progress: bool

    @property
    def visited(self) -> Tensor:
        """The states that are finite, (state, dim); refuses none."""
        states = self.states.reshape(-1, self.system.dim)
        states = states[states.isfinite().all(-1)]
        if len(states) == 0:
            raise InputError("every run left the finite numbers, so there is no state to begin from.")
        return states

    def some(self, count: int) -> Tensor:
        """So many of them, drawn at random; fewer where there are no more."""
        generator = torch_generator(self.seed, "visited states")
        return self.visited[torch.randperm(len(self.visited), generator=generator)[:count]]

    def starts(self, count: int) -> Tensor:
        """So many of them; where they lie on a line, as those do that have come to rest, as many initial states instead."""
        away = self.visited - self.visited.mean(0)
        widths = torch.linalg.svdvals(away)[:2] / len(away) ** 0.5
        is_plane = len(widths) == min(2, self.system.dim) and float(widths[-1]) > FLAT
        return self.some(count) if is_plane else self.system.initial_state((count,), self.seed)

    def fallen(self, count: int) -> Tensor:
        """The states that so many of them fall to."""
        return trajectory(self.system, self.some(count), RELAXED, every=RELAXED)[-1]


@dataclass(frozen=True)
class Question:
    """A further question and its section of the report.

    Args:
        heading: of the section.
        caption: how to read its figure.
        drive: "frozen", the input kept at its mean for ever; "common", one drive for all initial states. Without inputs: none.
        ask: any analysis whose result says itself in words (`summary`) and has a picture (`separatrix.plot.PLOTS`).
        is_quick: whether it takes seconds, and so is asked unasked.
    """

    heading: str
    caption: str
    drive: Literal["frozen", "common"]
    ask: Callable[[Subject], Result]
    is_quick: Callable[[Recurrent], bool]


def chosen(also: str | Sequence[str], system: Recurrent) -> tuple[str, ...]:
    """The names of the questions to ask, in the table's order: "auto" stands for those that are quick, "none" for none.

    Raises:
        InputError: a name that is none of these.
    """
    names = (also,) if isinstance(also, str) else tuple(also)
    for name in names:
        if name not in (*QUESTIONS, "auto", "none"):
            raise InputError(f"there is no finding {name!r}.\nChoose among: auto, none, {', '.join(QUESTIONS)}.")
    quick = [name for name, question in QUESTIONS.items() if "auto" in names and question.is_quick(system)]
    return tuple(name for name in QUESTIONS if name in (*names, *quick))


def answer(names: Sequence[str], subjects: dict[str, Subject]) -> tuple[dict[str, Result], dict[str, str]]:
    """The results of the questions named, and of those that failed, why; none costs another.

    Args:
        names: of the questions.
        subjects: by drive, "frozen" and "common", what each is asked of.
    """
    findings, unanswered = {}, {}
    for name in names:
        try:
            findings[name] = QUESTIONS[name].ask(subjects[QUESTIONS[name].drive])
        except Exception as error:  # whatever it is: it becomes a line in the report, beside all that was measured
            unanswered[name] = _in_a_line(error)
    return findings, unanswered


def _in_a_line(error: Exception) -> str:
    """What went wrong; of an error that was not written for the user, its kind too."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return first if isinstance(error, SeparatrixError) else f"{type(error).__name__}: {first}"


def _rest_points(subject: Subject) -> Result:
    return fixed_points(subject.system, _guesses(subject), seed=subject.seed)


@torch.no_grad()
def _guesses(subject: Subject) -> Tensor:
    """States that the run visits, where they fall, and their surroundings."""
    count = min(max(GUESSED // subject.system.dim**2, 16), 256)
    visited = subject.some(count // 4)
    fallen = subject.fallen(count // 4)
    return torch.cat([visited, fallen, default_guesses(subject.system, count - 2 * len(visited), subject.seed)])


def _phase_portrait(subject: Subject) -> Result:
    guesses = _guesses(subject)
    return phase_portrait(subject.system, subject.starts(RUNS), guesses=guesses, seed=subject.seed, progress=subject.progress)


def _basins(subject: Subject) -> Result:
    lattice = _lattice(torch.cat([subject.visited, subject.starts(RUNS)]))
    return basins_of_attraction(subject.system, lattice, seed=subject.seed, progress=subject.progress)


def _lattice(visited: Tensor) -> Tensor:
    """Initial states in the principal plane of those visited, to half as far again as they reach and 1 at least."""
    center = visited.mean(0)
    axes = torch.linalg.svd(visited - center, full_matrices=False).Vh[:2]
    reach = (BEYOND * ((visited - center) @ axes.mT).abs().amax(0)).clamp(min=1).tolist()
    return center + grid([-r for r in reach], reach, [LATTICE] * len(reach)) @ axes


def _power_spectrum(subject: Subject) -> Result:
    return power_spectrum(subject.system, subject.some(1)[0], seed=subject.seed, progress=subject.progress)


def _echo_state(subject: Subject) -> Result:
    middle, reach = torch.zeros_like(subject.visited[0]), float(BEYOND * subject.visited.abs().max())
    return echo_state(subject.system, middle, spread=max(reach, 1.0), seed=subject.seed, progress=subject.progress)


def _transient_growth(subject: Subject) -> Result:
    return transient_growth(subject.system, subject.fallen(1)[0], seed=subject.seed)


def _memory_capacity(subject: Subject) -> Result:
    return memory_capacity(subject.system, seed=subject.seed, progress=subject.progress)


def _correlation_dimension(subject: Subject) -> Result:
    return correlation_dimension(subject.system, seed=subject.seed, progress=subject.progress)


def _covariant_vectors(subject: Subject) -> Result:
    return covariant_lyapunov_vectors(subject.system, seed=subject.seed, progress=subject.progress)


QUESTIONS: dict[str, Question] = {
    "fixed_points": Question(
        heading="Rest points",
        caption="Where the state would stay for ever if the input stayed at its mean, in the two directions in which these points "
        "differ most, and their multipliers. A direction whose multiplier lies inside the circle attracts, one outside repels. "
        "Stable points are memories; saddles stand on the borders between what is remembered.",
        drive="frozen",
        ask=_rest_points,
        is_quick=lambda system: system.dim <= 128,
    ),
    "phase_portrait": Question(
        heading="Flow in the principal plane",
        caption="Where the next step takes the state if the input stays at its mean: arrows, and lines on which one of the two "
        "components stands still. Orbits begin where the run has been, or at random once it rests. Manifolds leave the "
        "saddles; stable ones are separatrices, the borders between what is remembered. Where the plane is dark, most of the step "
        "leads out of it, and is not seen.",
        drive="frozen",
        ask=_phase_portrait,
        is_quick=lambda system: 2 <= system.dim <= 64,
    ),
    "basins_of_attraction": Question(
        heading="Attractors and basins",
        caption="What the network ends up doing if the input stays at its mean, by where it begins: initial states in the "
        "principal plane of those that the run visits, and the share of them that reaches each attractor. With more than one it "
        "can remember.",
        drive="frozen",
        ask=_basins,
        is_quick=lambda system: system.dim <= 32,
    ),
    "power_spectrum": Question(
        heading="Power spectrum",
        caption="How the state goes on if the input stays at its mean, from one that the run visits, by frequency. Nothing: it "
        "comes to rest; lines at multiples of one frequency: it is periodic; other lines: quasi-periodic; a broad band: chaotic.",
        drive="frozen",
        ask=_power_spectrum,
        is_quick=lambda system: system.dim <= 128,
    ),
    "echo_state": Question(
        heading="Echo states",
        caption="The distance between states that begin apart, up to half as far out again as the run goes and 1 at least, and "
        "read the same input. Where all of them meet, what the network does is a function of its input alone; where they stay "
        "apart although λ₁ is negative, it also depends on where it began.",
        drive="common",
        ask=_echo_state,
        is_quick=lambda system: system.dim <= 128,
    ),
    "transient_growth": Question(
        heading="Transient growth",
        caption="The largest factor by which a small change near where the state falls to, if the input stays at its mean, has "
        "grown after some steps. Above 1 on its way to 0, where the state rests: the Jacobian is not normal, and amplifies before "
        "it forgets. Along a cycle or chaos it does not go to 0, and the eigenvalues, of the first step alone, do not say its end.",
        drive="frozen",
        ask=_transient_growth,
        is_quick=lambda system: system.dim <= 64,
    ),
    "memory_capacity": Question(
        heading="Linear memory",
        caption="White noise is added to the input at its mean: how well a linear readout can tell from the state what was added "
        "some steps ago, from 0 to 1. The sum over all lags is the capacity, at most the size of the state.",
        drive="frozen",
        ask=_memory_capacity,
        is_quick=lambda system: False,
    ),
    "covariant_lyapunov_vectors": Question(
        heading="Covariant vectors",
        caption="The smallest angle between the directions that grow and those that fade, along the run. Angles that stay away "
        "from 0 keep the two apart everywhere, as in a hyperbolic system, whose statistics are robust; near 0 they all but touch.",
        drive="common",
        ask=_covariant_vectors,
        is_quick=lambda system: system.dim <= 32,
    ),
    "correlation_dimension": Question(
        heading="Correlation dimension",
        caption="The share of pairs of settled states that are nearer than a distance; its slope in double logarithmic scale is "
        "the dimension of what they fill, where the slope is the same over a range of distances.",
        drive="common",
        ask=_correlation_dimension,
        is_quick=lambda system: False,
    ),
}
