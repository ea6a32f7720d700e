"""What drives the network, and hence which system is measured: a stream of sequences, one long sequence, or nothing."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from separatrix.core.system import System
from separatrix.core.wording import counted
from separatrix.portrait.core import Core
from separatrix.portrait.feedback import Turn
from separatrix.portrait.recognition import is_batch_first
from separatrix.systems.drives import First, Stream
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.seeded import Seeded

Kind = Literal["stream", "sequence", "sequences", "autonomous", "closed loop", "driven loop"]
MOST_SEQUENCES = 64  # whose spectra are measured one by one
LONG = 1_000  # steps from which a sequence gets a spectrum of its own

CLOSED = "the closed loop in which the model reads its own output"
UNCLOSED = {
    "choices": "its inputs are discrete choices made from its own outputs, through which small changes do not pass",
    "remembers": "its inputs depend on more of its past than its current state, so the loop cannot be closed; sx.ClosedLoop of "
    "the whole state closes it",
    "brief": "one forward pass feeds its output back too few times to tell how",
    "unknown": "whether its inputs depend on its outputs is unknown: the model fails when its core returns other values",
}


@dataclass(frozen=True)
class Regime:
    """The system measured, and the reason for choosing it.

    Args:
        kind: "stream" (many short sequences, endlessly and at random), "sequence" or "sequences" (along each), "autonomous",
            "closed loop" (the network reads its own output), "driven loop" (its own output and further inputs).
        system: the system whose spectrum is measured; one batch item per copy, sequence or initial state.
        common: one drive for many initial states, to see whether they converge to one response; it has no batch axis.
        frozen: the core with its input held at the mean of all inputs that reach it; without inputs, at zero.
        sequences: the captured inputs, (time, sequences, inputs), or None.
        words: what was done, as text.
        of: the system that the verdict is about, if that is not the network under its inputs; otherwise empty.
        start: initial states of the runs along given sequences, (sequences, dim); None for zeros.
        noise: seed of the step's own draws, if they are held fixed.
    """

    kind: Kind
    system: System
    common: System
    frozen: System
    sequences: Tensor | None
    words: str
    of: str = ""
    start: Tensor | None = None
    noise: int | None = None

    def held(self, seed: int) -> "Regime":
        """The same regime with the step's own draws held fixed."""
        systems = {name: Seeded(getattr(self, name), seed) for name in ("system", "common", "frozen")}
        return replace(self, **systems, noise=seed, words=f"{self.words}, with its own noise held fixed, the same for all runs")

    def same_noise(self, system: System) -> System:
        """A system under the noise that this regime holds fixed, if it holds any."""
        return system if self.noise is None else Seeded(system, self.noise)

    @property
    def is_autonomous(self) -> bool:
        """Whether nothing drives the system, so that runs differ only in their initial states."""
        return self.kind in ("autonomous", "closed loop")

    @property
    def has_given_runs(self) -> bool:
        """Whether there is one run for each sequence that is given."""
        return self.kind in ("sequence", "sequences", "driven loop")

    def initial_states(self, copies: int, seed: int) -> Tensor | None:
        """The initial states of the runs; None for the system's own."""
        return self.system.initial_state((copies,), seed) if self.is_autonomous else self.start


def regime_of(core: Core, copies: int, seed: int) -> Regime:
    """Choose the drive that matches the inputs that reach the core."""
    if core.feedback.turn is not None:
        return _loop(core, core.feedback.turn, copies)
    if core.inputs is None:
        system = Recurrent(core.module, state=core.state)
        if core.feedback.kind == "closed":
            words = f"{_who(core)}, reading its own output: a closed loop, from {counted(copies, 'initial state')}"
            return Regime("closed loop", system, system, system, None, words, of=CLOSED)
        words = f"{_who(core)}, without inputs (zeros): autonomous, from {counted(copies, 'initial state')}"
        return Regime("autonomous", system, system, system, None, words)
    regime = _driven(core, copies, seed)
    why = UNCLOSED.get(core.feedback.kind)
    return regime if why is None else replace(regime, of=f"the core under a recording of its own outputs ({why})")


def _loop(core: Core, turn: Turn, copies: int) -> Regime:
    """The model's own loop through its core."""
    if core.feedback.kind == "closed":
        states = counted(copies, "initial state")
        words = f"{_who(core)}, reading its own output: a closed loop, from {states} around the model's own"
        return Regime("closed loop", turn, turn, turn, None, words, of=CLOSED)
    words = f"{_who(core)}, reading its own output and the model's inputs: the loop as recorded, {turn.horizon:,} turns"
    of = "the loop in which the model reads its own output"
    alone = turn.of_first_item()
    common = turn if alone is None else alone
    return Regime("driven loop", turn, common, common, None, words, of=of)


def _driven(core: Core, copies: int, seed: int) -> Regime:
    length, count, _ = core.sequences.shape
    frozen = Recurrent(core.module, constant=_mean(core), state=core.state)
    if count > 1 and (length < LONG or core.lengths is not None):
        lengths = f"{length}" if core.lengths is None else f"{int(core.lengths.min())} to {length}"
        words = (
            f"{_who(core)}, driven by an endless random stream of its {count:,} sequences of {lengths} steps, "
            f"carrying the state over; {counted(copies, 'independent stream')}" + _start(core)
        )
        system = Recurrent(core.module, _stream(core, copies, seed), state=core.state)
        common = Recurrent(core.module, First(_stream(core, 1, seed)), state=core.state)
        return Regime("stream", system, common, frozen, core.sequences, words)
    system = along(core, core.sequences[:, :MOST_SEQUENCES])
    what = f"{count} sequences" if count > 1 else "one sequence"
    words = f"{_who(core)}, along {what} of {length:,} steps"
    words += f" (the first {MOST_SEQUENCES})" if count > MOST_SEQUENCES else ""
    words += "; each starts from the initial state that the model supplies" if core.is_started else ""
    kind = "sequences" if count > 1 else "sequence"
    start = None if core.start is None else core.start[:MOST_SEQUENCES].double()
    return Regime(kind, system, along(core, core.sequences[:, 0]), frozen, core.sequences, words, start=start)


def _stream(core: Core, copies: int, seed: int) -> Stream:
    data = core.sequences.transpose(0, 1)
    if core.lengths is None:
        return Stream(data, copies, seed)
    return Stream([one[:length] for one, length in zip(data, core.lengths.tolist(), strict=True)], copies, seed)


def _mean(core: Core) -> Tensor:
    """The mean of all inputs, without the padding of shorter sequences."""
    if core.lengths is None:
        return core.sequences.mean((0, 1))
    kept = torch.arange(len(core.sequences))[:, None] < core.lengths
    return core.sequences[kept.to(core.sequences.device)].mean(0)


def _who(core: Core) -> str:
    """The core and, if it was called several times, how its calls were read."""
    return core.label + (f" (called {core.calls} times in one forward pass, read {core.read})" if core.calls > 1 else "")


def _start(core: Core) -> str:
    """A note if the model supplies an initial state, which the stream does not use."""
    return "; the model's initial state is used for the finite-time exponents only" if core.is_started else ""


def along(core: Core, sequences: Tensor) -> Recurrent:
    """The core driven by sequences, (time, sequences, inputs), or by one, (time, inputs), in the order of axes that it takes."""
    if is_batch_first(core.module) and sequences.ndim == 3:
        sequences = sequences.transpose(0, 1)
    return Recurrent(core.module, sequences, state=core.state)
