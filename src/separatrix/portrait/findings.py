"""Further analyses of a network's recurrent core. An entry in `QUESTIONS` is all that a section of the report needs."""

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
from separatrix.core.ending import Ended, Ending, check_time
from separatrix.core.errors import InputError, SeparatrixError
from separatrix.core.evolve import trajectory
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result
from separatrix.systems.recurrent.recurrent import Recurrent

RELAXED = 500  # steps in which visited states approach their attractor
LATTICE = 40  # initial states along each side of the picture of the basins
FLAT = 1e-6  # deviation of visited states from a line, below which they span no plane
RUNS = 16  # orbits of a phase portrait, and initial states if there are no others
BEYOND = 1.5  # initial states extend this many times as far as the visited states
GUESSED = 2**19  # numbers in the Jacobians of all guesses for fixed points: a few seconds


@dataclass(frozen=True)
class Subject:
    """The system and states that a question is about.

    Args:
        system: the core under the drive that the question names.
        states: settled states of the run, (step, run, dim).
        seed: seed of all random draws.
        progress: show progress bars.
    """

    system: Recurrent
    states: Tensor
    seed: int
    progress: bool

    @property
    def visited(self) -> Tensor:
        """The finite states, (state, dim); raises InputError if there are none."""
        states = self.states.reshape(-1, self.system.dim)
        states = states[states.isfinite().all(-1)]
        if len(states) == 0:
            raise InputError("every run became infinite or NaN, so there is no state to start from.")
        return states

    def some(self, count: int) -> Tensor:
        """`count` visited states, drawn at random, or all of them if there are fewer."""
        generator = torch_generator(self.seed, "visited states")
        return self.visited[torch.randperm(len(self.visited), generator=generator)[:count]]

    def starts(self, count: int) -> Tensor:
        """`count` visited states; if they lie on a line, as settled ones do, `count` random initial states instead."""
        away = self.visited - self.visited.mean(0)
        widths = torch.linalg.svdvals(away)[:2] / len(away) ** 0.5
        is_plane = len(widths) == min(2, self.system.dim) and float(widths[-1]) > FLAT
        return self.some(count) if is_plane else self.system.initial_state((count,), self.seed)

    def fallen(self, count: int) -> Tensor:
        """The states that `count` visited states converge to."""
        return trajectory(self.system, self.some(count), RELAXED, every=RELAXED)[-1]


@dataclass(frozen=True)
class Question:
    """A further question and its section of the report.

    Args:
        heading: heading of the section.
        caption: how to read its figure.
        drive: "frozen", the input held at its mean; "common", one drive for all initial states. Without inputs, both are none.
        ask: any analysis whose result has a text (`summary`) and a figure (`separatrix.plot.PLOTS`).
        is_quick: whether it takes seconds, so that "auto" includes it.
    """

    heading: str
    caption: str
    drive: Literal["frozen", "common"]
    ask: Callable[[Subject], Result]
    is_quick: Callable[[Recurrent], bool]


def chosen(also: str | Sequence[str], system: Recurrent) -> tuple[str, ...]:
    """The names of the questions to ask, in the order of the table: "auto" stands for those that are quick, "none" for none.

    Raises:
        InputError: a name is unknown.
    """
    names = (also,) if isinstance(also, str) else tuple(also)
    for name in names:
        if name not in (*QUESTIONS, "auto", "none"):
            raise InputError(f"also names an unknown analysis, {name!r}.\nChoose from: auto, none, {', '.join(QUESTIONS)}.")
    quick = [name for name, question in QUESTIONS.items() if "auto" in names and question.is_quick(system)]
    return tuple(name for name in QUESTIONS if name in (*names, *quick))


def answer(names: Sequence[str], subjects: dict[str, Subject], end: Ending) -> tuple[dict[str, Result], dict[str, str]]:
    """The results of the questions named, and the reasons for those that failed; a failure does not affect the others.

    An early end leaves the remaining questions out of both.

    Args:
        names: names of the questions.
        subjects: the subject for each drive, "frozen" and "common".
        end: the time at which the remaining questions are left out.
    """
    findings, unanswered = {}, {}
    for name in names:
        try:
            check_time()
            findings[name] = QUESTIONS[name].ask(subjects[QUESTIONS[name].drive])
        except Ended:
            continue
        except KeyboardInterrupt:
            end.stop()
        except Exception as error:  # of any kind: it becomes a line in the report, beside the results
            unanswered[name] = _in_a_line(error)
    return findings, unanswered


def _in_a_line(error: Exception) -> str:
    """What went wrong, in one line; with the class of an error that was not written for the user."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return first if isinstance(error, SeparatrixError) else f"{type(error).__name__}: {first}"


def _fixed_points(subject: Subject) -> Result:
    return fixed_points(subject.system, _guesses(subject), seed=subject.seed)


@torch.no_grad()
def _guesses(subject: Subject) -> Tensor:
    """States that the run visits, the states they converge to, and points around them."""
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
    """Initial states in the principal plane of those visited, extending 1.5 times as far, and at least to ± 1."""
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
        heading="Fixed points",
        caption="States that do not change while the input is held at its mean, shown in the two directions in which they differ "
        "most, and their multipliers. A direction whose multiplier lies inside the unit circle attracts; one outside repels. "
        "Stable points are memories; saddles lie on the borders between the basins of the memories.",
        drive="frozen",
        ask=_fixed_points,
        is_quick=lambda system: system.dim <= 128,
    ),
    "phase_portrait": Question(
        heading="Flow in the principal plane",
        caption="The next step of the state while the input is held at its mean: arrows, and nullclines on which one of the two "
        "components does not change. Orbits start from states that the run visits, or from random ones if it has settled to a "
        "point. Manifolds leave the saddles; the stable ones are separatrices, the borders between basins. Where the plane is "
        "dark, most of the step leads out of the plane and is not visible.",
        drive="frozen",
        ask=_phase_portrait,
        is_quick=lambda system: 2 <= system.dim <= 64,
    ),
    "basins_of_attraction": Question(
        heading="Attractors and basins",
        caption="The attractor that each initial state reaches while the input is held at its mean, and the share of initial "
        "states that reach it. The initial states lie in the principal plane of the states that the run visits. With more than "
        "one attractor, the network can remember.",
        drive="frozen",
        ask=_basins,
        is_quick=lambda system: system.dim <= 32,
    ),
    "power_spectrum": Question(
        heading="Power spectrum",
        caption="Power by frequency of an orbit that starts from a state the run visits, while the input is held at its mean. No "
        "power: the state settles to a point; lines at multiples of one frequency: periodic; other lines: quasi-periodic; a broad "
        "band: chaotic.",
        drive="frozen",
        ask=_power_spectrum,
        is_quick=lambda system: system.dim <= 128,
    ),
    "echo_state": Question(
        heading="Echo states",
        caption="The distance between states that start apart and receive the same input; they extend 1.5 times as far as the run, "
        "and at least to ± 1. If all of them converge, the network's response is a function of its input alone; if they stay apart "
        "although λ₁ is negative, it also depends on the initial state.",
        drive="common",
        ask=_echo_state,
        is_quick=lambda system: system.dim <= 128,
    ),
    "transient_growth": Question(
        heading="Transient growth",
        caption="The largest factor by which a small change of the settled state has grown after a number of steps, while the "
        "input is held at its mean. If the factor exceeds 1 before it decays to 0, the Jacobian at the fixed point is non-normal "
        "and amplifies before it forgets. Along a cycle or a chaotic orbit the factor does not decay to 0, and the eigenvalues, "
        "which belong to the first step only, do not predict its limit.",
        drive="frozen",
        ask=_transient_growth,
        is_quick=lambda system: system.dim <= 64,
    ),
    "memory_capacity": Question(
        heading="Linear memory",
        caption="How well a linear readout of the state reconstructs white noise that was added to the mean input a number of "
        "steps ago, from 0 to 1. The sum over all lags is the memory capacity, at most the dimension of the state.",
        drive="frozen",
        ask=_memory_capacity,
        is_quick=lambda system: False,
    ),
    "covariant_lyapunov_vectors": Question(
        heading="Covariant vectors",
        caption="The smallest angle between the growing and the decaying directions, along the run. If it stays away from 0, the "
        "two are separated everywhere, as in a hyperbolic system, whose statistics are robust; near 0 they are almost tangent.",
        drive="common",
        ask=_covariant_vectors,
        is_quick=lambda system: system.dim <= 32,
    ),
    "correlation_dimension": Question(
        heading="Correlation dimension",
        caption="The share of pairs of settled states that are closer than a given distance. On logarithmic axes, its slope is the "
        "dimension of the set that they fill, provided the slope is constant over a range of distances.",
        drive="common",
        ask=_correlation_dimension,
        is_quick=lambda system: False,
    ),
}
