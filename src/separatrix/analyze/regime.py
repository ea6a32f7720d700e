"""What drives the network, and hence which system stands for it: a stream of sequences, one long sequence, or nothing."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from separatrix.analyze.core import Core, is_batch_first
from separatrix.systems.drives import First, Stream
from separatrix.systems.recurrent import Recurrent

Kind = Literal["stream", "sequence", "sequences", "autonomous"]
MOST_SEQUENCES = 64  # followed each along itself
LONG = 1_000  # steps from which on a sequence has a spectrum of its own


@dataclass(frozen=True)
class Regime:
    """The system measured, and why that one.

    Args:
        kind: "stream" (many short sequences, endlessly and at random), "sequence" or "sequences" (along each), "autonomous".
        system: what the spectrum is taken of, one batch item a copy, sequence or initial state.
        common: one drive for many initial states, to see whether they forget where they began; it has no batch axis.
        frozen: the core when its input stays at the mean of all that reaches it; without inputs, at zero.
        sequences: the captured inputs, (time, sequences, inputs), or None.
        words: what was done, for the reader.
    """

    kind: Kind
    system: Recurrent
    common: Recurrent
    frozen: Recurrent
    sequences: Tensor | None
    words: str


def regime_of(core: Core, copies: int, seed: int) -> Regime:
    """The drive that fits what reaches the core."""
    if core.inputs is None:
        system = Recurrent(core.module, state=core.state)
        words = f"{_who(core)}, no inputs (zeros): autonomous, from {copies} initial states"
        return Regime("autonomous", system, system, system, None, words)
    frozen = Recurrent(core.module, constant=core.inputs.mean((0, 1)), state=core.state)
    length, count, _ = core.inputs.shape
    if count > 1 and length < LONG:
        data = core.inputs.transpose(0, 1)
        words = (
            f"{_who(core)}, driven by an endless random stream of its {count:,} sequences of {length} steps, "
            f"the state carried over; {copies} independent streams" + _start(core, "streams carry the state over")
        )
        system = Recurrent(core.module, Stream(data, copies, seed), state=core.state)
        common = Recurrent(core.module, First(Stream(data, 1, seed)), state=core.state)
        return Regime("stream", system, common, frozen, core.inputs, words)
    system = along(core, core.inputs[:, :MOST_SEQUENCES])
    what = f"{count} sequences" if count > 1 else "one sequence"
    words = f"{_who(core)}, along {what} of {length:,} steps"
    words += f" (the first {MOST_SEQUENCES})" if count > MOST_SEQUENCES else ""
    words += _start(core, "each sequence begins at zero" if count > 1 else "the sequence begins at zero")
    kind = "sequences" if count > 1 else "sequence"
    return Regime(kind, system, along(core, core.inputs[:, 0]), frozen, core.inputs, words)


def _who(core: Core) -> str:
    """The core, and how its calls were read where there were several."""
    return core.label + (f" (called {core.calls} times in one forward pass, read {core.read})" if core.calls > 1 else "")


def _start(core: Core, instead: str) -> str:
    """That the initial state, if the model gives its core one, is left out."""
    return f"; its initial state is not used: {instead}" if core.is_started else ""


def along(core: Core, sequences: Tensor) -> Recurrent:
    """The core reading sequences, (time, sequences, inputs), or one, (time, inputs), whatever order of axes it wants them in."""
    if is_batch_first(core.module) and sequences.ndim == 3:
        sequences = sequences.transpose(0, 1)
    return Recurrent(core.module, sequences, state=core.state)
