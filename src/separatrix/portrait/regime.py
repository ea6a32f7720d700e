"""What drives the network, and hence which system stands for it: a stream of sequences, one long sequence, or nothing."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from separatrix.core.system import System
from separatrix.portrait.core import Core
from separatrix.portrait.feedback import Turn
from separatrix.portrait.recognition import is_batch_first
from separatrix.systems.drives import First, Stream
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.seeded import Seeded

Kind = Literal["stream", "sequence", "sequences", "autonomous", "closed loop", "driven loop"]
MOST_SEQUENCES = 64  # followed each along itself
LONG = 1_000  # steps from which on a sequence has a spectrum of its own

CLOSED = "of the closed loop in which the model feeds on its own output"
UNCLOSED = {
    "choices": "its inputs are choices that the model makes of its own outputs, past which no small change comes",
    "remembers": "its inputs depend on more of its own past than its state, so the loop cannot be closed (sx.ClosedLoop of the "
    "whole state can)",
    "brief": "it is fed with its own output too few times in one forward pass to tell how",
    "unknown": "whether its inputs depend on them is not known: the model fails when its core answers otherwise",
}


@dataclass(frozen=True)
class Regime:
    """The system measured, and why that one.

    Args:
        kind: "stream" (many short sequences, endlessly and at random), "sequence" or "sequences" (along each), "autonomous",
            "closed loop" (fed with its own output), "driven loop" (likewise, with inputs besides).
        system: what the spectrum is taken of, one batch item a copy, sequence or initial state.
        common: one drive for many initial states, to see whether they forget where they began; it has no batch axis.
        frozen: the core when its input stays at the mean of all that reaches it; without inputs, at zero.
        sequences: the captured inputs, (time, sequences, inputs), or None.
        words: what was done, for the reader.
        of: what the verdict is of, where that is not the network under its inputs; else empty.
        start: where the runs along given sequences begin, (sequences, dim); None for zeros.
        noise: the seed of the step's own draws, where they are held fixed.
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
        """The same with the step's own draws held fixed."""
        systems = {name: Seeded(getattr(self, name), seed) for name in ("system", "common", "frozen")}
        return replace(self, **systems, noise=seed, words=f"{self.words}; its own noise held fixed, the same for all runs")

    def same_noise(self, system: System) -> System:
        """A system under the noise that this regime holds fixed, if it does."""
        return system if self.noise is None else Seeded(system, self.noise)

    @property
    def is_autonomous(self) -> bool:
        """Whether nothing drives the system, so that runs differ by their initial states alone."""
        return self.kind in ("autonomous", "closed loop")

    def initial_states(self, copies: int, seed: int) -> Tensor | None:
        """Where the runs begin; None for the system's own start."""
        return self.system.initial_state((copies,), seed) if self.is_autonomous else self.start


def regime_of(core: Core, copies: int, seed: int) -> Regime:
    """The drive that fits what reaches the core."""
    if core.feedback.turn is not None:
        return _loop(core, core.feedback.turn, copies)
    if core.inputs is None:
        system = Recurrent(core.module, state=core.state)
        if core.feedback.kind == "closed":
            words = f"{_who(core)}, fed with its own output: a closed loop, from {copies} initial states"
            return Regime("closed loop", system, system, system, None, words, of=CLOSED)
        words = f"{_who(core)}, no inputs (zeros): autonomous, from {copies} initial states"
        return Regime("autonomous", system, system, system, None, words)
    regime = _driven(core, copies, seed)
    why = UNCLOSED.get(core.feedback.kind)
    return regime if why is None else replace(regime, of=f"of the core under a recording of its own outputs ({why})")


def _loop(core: Core, turn: Turn, copies: int) -> Regime:
    """The model's own loop through its core."""
    if core.feedback.kind == "closed":
        words = f"{_who(core)}, fed with its own output: a closed loop, from {copies} initial states about its own"
        return Regime("closed loop", turn, turn, turn, None, words, of=CLOSED)
    words = f"{_who(core)}, fed with its own output and the model's inputs: the loop as it ran, {turn.horizon:,} turns"
    of = "of the loop in which the model feeds on its own output"
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
            f"the state carried over; {copies} independent streams" + _start(core, "streams carry the state over")
        )
        system = Recurrent(core.module, _stream(core, copies, seed), state=core.state)
        common = Recurrent(core.module, First(_stream(core, 1, seed)), state=core.state)
        return Regime("stream", system, common, frozen, core.sequences, words)
    system = along(core, core.sequences[:, :MOST_SEQUENCES])
    what = f"{count} sequences" if count > 1 else "one sequence"
    words = f"{_who(core)}, along {what} of {length:,} steps"
    words += f" (the first {MOST_SEQUENCES})" if count > MOST_SEQUENCES else ""
    words += "; each begins at the initial state that the model gives it" if core.is_started else ""
    kind = "sequences" if count > 1 else "sequence"
    start = None if core.start is None else core.start[:MOST_SEQUENCES].double()
    return Regime(kind, system, along(core, core.sequences[:, 0]), frozen, core.sequences, words, start=start)


def _stream(core: Core, copies: int, seed: int) -> Stream:
    data = core.sequences.transpose(0, 1)
    if core.lengths is None:
        return Stream(data, copies, seed)
    return Stream([one[:length] for one, length in zip(data, core.lengths.tolist(), strict=True)], copies, seed)


def _mean(core: Core) -> Tensor:
    """The mean of all inputs; what only fills up shorter sequences does not count."""
    if core.lengths is None:
        return core.sequences.mean((0, 1))
    kept = torch.arange(len(core.sequences))[:, None] < core.lengths
    return core.sequences[kept.to(core.sequences.device)].mean(0)


def _who(core: Core) -> str:
    """The core, and how its calls were read where there were several."""
    return core.label + (f" (called {core.calls} times in one forward pass, read {core.read})" if core.calls > 1 else "")


def _start(core: Core, instead: str) -> str:
    """That the initial state, if the model gives its core one, is left out of the stream."""
    return f"; its initial state begins the finite-time exponents alone: {instead}" if core.is_started else ""


def along(core: Core, sequences: Tensor) -> Recurrent:
    """The core reading sequences, (time, sequences, inputs), or one, (time, inputs), whatever order of axes it wants them in."""
    if is_batch_first(core.module) and sequences.ndim == 3:
        sequences = sequences.transpose(0, 1)
    return Recurrent(core.module, sequences, state=core.state)
