"""LEM, long expressive memory: two layers of time scales that the network sets itself."""

import math

import torch
from torch import Tensor, nn

from separatrix.nn.cells.bounds import between, norm
from separatrix.nn.cells.cell import OdeCell, Parts, added, rows, sigmoid_and_slope, tanh_and_slope
from separatrix.nn.cells.layer import OdeLayer, layers_of

STEEPEST = 0.25  # slope of the logistic function


class LEMCell(OdeCell):
    r"""The long expressive memory cell, two layers of leaky units whose time scales the state and the input set.

    The state is (y, z):

        ż = σ(W₁ y + V₁ u + b₁) ∘ (tanh(W_z y + V_z u + b_z) − z),
        ẏ = σ(W₂ y + V₂ u + b₂) ∘ (tanh(W_y z + V_y u + b_y) − y),

    and a step goes the fractions a = dt σ(W₁ y + …) and c = dt σ(W₂ y + …) of the way, first z, then y by the new z:

        z' = (1 − a) ∘ z + a ∘ tanh(W_z y + V_z u + b_z),     y' = (1 − c) ∘ y + c ∘ tanh(W_y z' + V_y u + b_y).

    With dt ≤ 1 these are weighted means: from zero, no number of the state ever exceeds 1 − (1 − dt)ⁿ after n steps. Where dt is
    small nothing can change much in a step, so that all exponents are of the order of dt, see `exponent_bounds`; with dt = 1, the
    default, gates may close or open at will, as a GRU's do, and nothing is promised but the size of the state.

    Args:
        input_size, hidden_size: numbers in an input, and in each of y and z.
        bias: whether there are b's.
        dt: the largest step.

    `weight_hh` is (W₁; W₂; W_z), (3 hidden, hidden); `weight_zh` W_y; `weight_ih` (V₁; V₂; V_z; V_y), (4 hidden, inputs);
    `bias_ih` the b's, in that order. All start uniform within ±1/√hidden, as in the paper's code (which has each b twice).
    Source: Rusch, Mishra, Erichson & Mahoney 2022, ICLR, arXiv:2110.04744.
    """

    parts = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dt: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dt=dt, drives=4, device=device, dtype=dtype)
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size, device=device, dtype=dtype))
        self.weight_zh = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, from the global random generator."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def matrices(self) -> Parts:
        """((W₁; W₂; W_z), W_y)."""
        return self.weight_hh, self.weight_zh

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """(ẏ, ż)."""
        y, z = state
        to_a, to_c, to_z, drive_y = self._by_y(drive, y, matrices)
        return to_c.sigmoid() * ((z @ matrices[1].mT + drive_y).tanh() - y), to_a.sigmoid() * (to_z.tanh() - z)

    def step(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """First z, then y by the new z."""
        y, z = state
        to_a, to_c, to_z, drive_y = self._by_y(drive, y, matrices)
        z = z + self.dt * to_a.sigmoid() * (to_z.tanh() - z)
        y = y + self.dt * to_c.sigmoid() * ((z @ matrices[1].mT + drive_y).tanh() - y)
        return y, z

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """The derivative of each of the two updates, one after the other."""
        (y, z), (dy, dz) = state, tangents
        to_a, to_c, to_z, drive_y = self._by_y(drive, y, matrices)
        bends = (dy @ matrices[0].mT).chunk(3, dim=-1)
        from_drive = (None,) * 4 if bend is None else bend.chunk(4, dim=-1)
        to_bend = [added(own, other) for own, other in zip(bends, from_drive, strict=False)]
        z, dz = self._approached(z, dz, to_a, to_bend[0], to_z, to_bend[2])
        bend_y = added(dz @ matrices[1].mT, from_drive[3])
        y, dy = self._approached(y, dy, to_c, to_bend[1], z @ matrices[1].mT + drive_y, bend_y)
        return (y, z), (dy, dz)

    def _by_y(self, drive: Tensor, y: Tensor, matrices: Parts) -> Parts:
        """What y and the input give to the two gates, to z, and to y (there the input alone)."""
        first, last = drive.split((3 * self.hidden_size, self.hidden_size), dim=-1)
        return *(y @ matrices[0].mT + first).chunk(3, dim=-1), last

    def _approached(
        self, x: Tensor, v: Tensor, to_gate: Tensor, bend_gate: Tensor, to_aim: Tensor, bend_aim: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new x + dt σ(gate) ∘ (tanh(aim) − x) and its tangents."""
        gate, opening = sigmoid_and_slope(to_gate)
        aim, slope = tanh_and_slope(to_aim)
        part, gap = self.dt * gate, aim - x
        pushed = rows(1 - part) * v + rows(part * slope) * bend_aim + rows(self.dt * opening * gap) * bend_gate
        return x + part * gap, pushed

    @property
    def state_bound(self) -> float:
        """What no number of the state exceeds after a start from zero: 1 with dt ≤ 1, dt/(2 − dt) below 2, then inf."""
        return max(1.0, self.dt / (2 - self.dt)) if self.dt < 2 else math.inf

    @torch.no_grad()
    def exponent_bounds(self) -> tuple[float, float]:
        """Σ over the two updates of ln(1 ∓ …): each I + E with ‖E‖ ≤ dt (1 + ‖W‖ + ¼ (1 + r) ‖W_gate‖), r the state's bound."""
        gate_z, gate_y, to_z = self.weight_hh.chunk(3, dim=-2)
        steep = STEEPEST * (1 + self.state_bound)
        keep = max(1.0, self.dt - 1)  # |1 − a| for a in [0, dt]
        low = high = 0.0
        mix_z, mix_y = (norm(to_z), steep * norm(gate_z)), (norm(self.weight_zh), steep * norm(gate_y))
        for mix in (mix_z, mix_y):
            change = self.dt * sum(mix)
            least, largest = between(1 - self.dt - change, keep + change)
            low, high = low + least, high + largest
        return low, high


class LEM(OdeLayer):
    """Layers of `LEMCell`, with the signature of `nn.RNN`: (input, (y0, z0)) → (output, (y_n, z_n)); the output is y.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout: as of `nn.RNN`.
        dt: of every cell.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        dt: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        def cell(inputs: int) -> LEMCell:
            return LEMCell(inputs, hidden_size, bias, dt=dt, device=device, dtype=dtype)

        super().__init__(layers_of(cell, input_size, hidden_size, num_layers), batch_first=batch_first, dropout=dropout)
