"""Recurrent networks that read their own output: free-running generators and closed-loop reservoirs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.checks import as_inputs, check_positive
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System, in_one_batch
from separatrix.core.tangent import pushforward
from separatrix.core.twin import twin
from separatrix.core.wrappers import bare
from separatrix.systems.drives import Drive, Sequential
from separatrix.systems.recurrent.custom_cell import flatten
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.recurrent.standard_network import StandardNetwork


class ClosedLoop(System):
    r"""Closed loop of a recurrent network whose next input is a function of its output:  x_{n+1} = F(x_n, g(y_n)),  y_n = y(x_n).

    `sx.Recurrent` measures the core under a given sequence of inputs. A network that was trained to predict its next input and
    then runs on its own predictions is this loop, and its exponents differ: perturbations of the state affect its inputs, which
    given inputs do not allow.

    The output y is the hidden state of the top layer, shape (*batch, hidden); for a custom cell it is its state, as the cell
    returns it.

    Args:
        core: a recurrent module, as for `sx.Recurrent`; or an `sx.Recurrent`, whose inputs are ignored.
        readout: g, a module or function from the output to the next input, (*batch, hidden) → (*batch, inputs).
        inputs: further inputs u_n that drive the loop, as for `sx.Recurrent`; g is then called as g(y_n, u_n).
        dt: duration of one step. Default: that of the core if it is an `sx.Recurrent`, otherwise 1.
        state: as for `sx.Recurrent`.

    Raises:
        ShapeError: the output of the readout is not an input of the core.
        UnsupportedModuleError: the core is not a recurrent module, or is an ensemble.

    Source: Jaeger & Haas 2004, Science 304, 78 (an echo-state network with its output fed back).

    Example:
        >>> core = nn.RNNCell(1, 1, bias=False)
        >>> _ = nn.init.constant_(core.weight_hh, 0.5), nn.init.constant_(core.weight_ih, 1.5)
        >>> loop = sx.ClosedLoop(core, lambda h: h)  # h ← tanh(0.5 h + 1.5 h)
        >>> sx.lyapunov_spectrum(loop, torch.zeros(1).double(), steps=20).exponents  # ln 2
        tensor([0.6931], dtype=torch.float64)
    """

    def __init__(
        self,
        core: nn.Module,
        readout: Callable[..., Any],
        inputs: Any = None,
        *,
        dt: float | None = None,
        state: Any = None,
    ) -> None:
        if not callable(readout):
            raise InputError(
                f"expected a readout (a module or function from output to next input), got a {type(readout).__name__}."
            )
        recurrent = core if isinstance(core, Recurrent) else Recurrent(core, state=state)
        network = recurrent.network
        if network.is_ensemble:
            raise UnsupportedModuleError(
                "expected one network as the core, got an ensemble.\nClose the loop of each network separately."
            )
        drive = None if inputs is None else _drive_of(inputs)
        super().__init__(
            network.dim,
            dt=recurrent.dt if dt is None else check_positive("dt", dt),
            horizon=None if drive is None else drive.horizon,
        )
        self.network = network
        readout = bare(readout)
        self.readout = twin(readout) if isinstance(readout, nn.Module) else readout
        self.source = drive
        self._check_readout()

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after the network reads the readout of its own output."""
        return self.network.step(x, self.feedback(x, n))

    def feedback(self, x: Tensor, n: int = 0) -> Tensor:
        """The next input, g(y(x)), shape (*batch, inputs)."""
        return self._fed(self.output(x), n)

    def output(self, x: Tensor) -> Any:
        """The network's output in state x: the hidden state of its top layer, or the state of a custom cell."""
        if not isinstance(self.network, StandardNetwork):
            return self.network.unpack(x)
        return x.split(self.network.widths, dim=-1)[self.network.layers - 1]

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The next state and its tangents: through the readout, and then in closed form through the standard cells."""
        if not isinstance(self.network, StandardNetwork):
            return self._tangents(lambda y: self.step(y, n), x, v)
        y, dy = self.output(x), self.output(v)
        u, du = pushforward(lambda y: self._fed(y, n), y, dy)
        return self.network.pushforward(x, v, u, du)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """States uniform in ±1, because zero may be a fixed point."""
        return 2 * torch.rand(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state")) - 1

    def pack(self, *state: Tensor) -> Tensor:
        """The state vector, (*batch, dim), of a state in the core's own form."""
        parts = state[0] if len(state) == 1 and isinstance(state[0], tuple | list) else state
        return self.network.pack(*parts)

    def unpack(self, x: Tensor) -> Any:
        """The state in the core's own form."""
        return self.network.unpack(x)

    def extra_repr(self) -> str:
        """The text between the parentheses of `repr`."""
        return f"{super().extra_repr()}, {self.network.label} reading its own output"

    def _fed(self, y: Any, n: int) -> Tensor:
        extra = () if self.source is None else (self.source(n),)
        if not isinstance(y, Tensor):
            return self.readout(y, *extra)
        extra = tuple(u.to(y).expand(*y.shape[:-1], u.shape[-1]) for u in extra)
        return in_one_batch(self.readout, y, *extra) if not extra else self.readout(y, *extra)

    @torch.no_grad()
    def _check_readout(self) -> None:
        like = next((t for t in (*self.network.buffers(), *self.network.parameters()) if t.is_floating_point()), torch.zeros(()))
        batch = self.batch_shape or (2,)
        x = like.new_zeros(*batch, self.dim)
        try:
            u = self.feedback(x)
        except Exception as error:  # user code may raise anything; the message repeats it
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            shapes = ", ".join(str(tuple(part.shape)) for part in flatten(self.output(x)))
            raise ShapeError(
                f"the readout failed on the core's output, shape {shapes}: {type(error).__name__}: {reason}\n"
                f"It must map the output of the {self.network.label} to its next input, of {self.network.inputs} numbers."
            ) from error
        wanted = self.network.inputs
        if not isinstance(u, Tensor) or u.shape[:-1] != batch or (wanted is not None and u.shape[-1] != wanted):
            got = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
            raise ShapeError(
                f"the readout returns {got}, but this {self.network.label} takes inputs of shape {(*batch, wanted)}.\n"
                "Pass a readout from the core's output to its next input."
            )


def _drive_of(inputs: Any) -> Any:
    """The further inputs of a loop as a drive: a drive, or a sequence with time first."""
    return inputs if isinstance(inputs, Drive) else Sequential(as_inputs("the inputs", inputs))
