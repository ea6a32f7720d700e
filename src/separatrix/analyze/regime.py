"""What drives the network, and hence which system stands for it: a stream of sequences, one long sequence, or nothing."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from separatrix.analyze.core import Core
from separatrix.systems.drives import Stream
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
        common: one drive for many initial states, to see whether they forget where they began.
        sequences: the captured inputs, (time, sequences, inputs), or None.
        words: what was done, for the reader.
    """

    kind: Kind
    system: Recurrent
    common: Recurrent
    sequences: Tensor | None
    words: str


def regime_of(core: Core, copies: int, seed: int) -> Regime:
    """The drive that fits what reaches the core."""
    if core.inputs is None:
        system = Recurrent(core.module, state=core.state)
        words = f"{core.label}, no inputs (zeros): autonomous, from {copies} initial states"
        return Regime("autonomous", system, system, None, words)
    length, count, _ = core.inputs.shape
    if count > 1 and length < LONG:
        data = core.inputs.transpose(0, 1)
        words = (
            f"{core.label}, driven by an endless random stream of its {count:,} sequences of {length} steps, "
            f"the state carried over; {copies} independent streams"
        )
        system = Recurrent(core.module, Stream(data, copies, seed), state=core.state)
        return Regime("stream", system, Recurrent(core.module, Stream(data, 1, seed), state=core.state), core.inputs, words)
    system = along(core, core.inputs[:, :MOST_SEQUENCES])
    what = f"{count} sequences" if count > 1 else "one sequence"
    words = f"{core.label}, along {what} of {length:,} steps"
    words += f" (the first {MOST_SEQUENCES})" if count > MOST_SEQUENCES else ""
    return Regime("sequences" if count > 1 else "sequence", system, along(core, core.inputs[:, :1]), core.inputs, words)


def along(core: Core, sequences: Tensor) -> Recurrent:
    """The core reading the given sequences, (time, sequences, inputs), whatever order of axes it wants them in."""
    if getattr(core.module, "batch_first", False):
        sequences = sequences.transpose(0, 1)
    return Recurrent(core.module, sequences, state=core.state)
