"""Long expressive memory (LEM): two coupled states with learned, state-dependent time scales."""

import math

import torch
from torch import Tensor, nn

from separatrix.nn.cells.bounds import between, norm
from separatrix.nn.cells.cell import OdeCell, Parts, added, rows, sigmoid_and_slope, tanh_and_slope
from separatrix.nn.cells.layer import OdeLayer, layers_of

STEEPEST = 0.25  # maximum slope of the logistic function


class LEMCell(OdeCell):
    r"""The long expressive memory cell, two sets of leaky units whose time scales depend on the state and the input.

    The state is (y, z):

        ż = σ(W₁ y + V₁ u + b₁) ∘ (tanh(W_z y + V_z u + b_z) − z),
        ẏ = σ(W₂ y + V₂ u + b₂) ∘ (tanh(W_y z + V_y u + b_y) − y),

    One step moves z and then y towards their targets by the fractions a = dt σ(W₁ y + …) and c = dt σ(W₂ y + …):

        z' = (1 − a) ∘ z + a ∘ tanh(W_z y + V_z u + b_z),     y' = (1 − c) ∘ y + c ∘ tanh(W_y z' + V_y u + b_y).

    With dt ≤ 1 these are weighted means: after n steps from zero, no entry of the state exceeds 1 − (1 − dt)ⁿ in size. If dt is
    small, the state changes little per step and all exponents are of order dt; see `exponent_bounds`. With dt = 1, the default,
    the gates may open and close fully, as in a GRU, and only the size of the state is bounded.

    Args:
        input_size: numbers in an input.
        hidden_size: numbers in y and in z.
        bias: whether to add the biases.
        dt: largest step size.
        device, dtype: of the weights, as in PyTorch.

    Weights: `weight_hh` is (W₁; W₂; W_z), (3 hidden_size, hidden_size); `weight_zh` is W_y; `weight_ih` is (V₁; V₂; V_z; V_y),
    (4 hidden_size, input_size); `bias_ih` holds the biases in the same order. All are initially uniform in ±1/√hidden_size, as in
    the code of the paper (which has every bias twice).

    Raises:
        InputError: dt is not positive.
        ShapeError: input_size or hidden_size is less than 1.
    Source: Rusch, Mishra, Erichson & Mahoney 2022, ICLR, arXiv:2110.04744.

    Example:
        >>> cell = sx.nn.LEMCell(3, 8)
        >>> y, z = cell(100 * torch.randn(2, 3))  # from y = z = 0
        >>> bool(y.abs().max() <= 1), bool(z.abs().max() <= 1)
        (True, True)
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
        """Initialise the weights, from the global random generator."""
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
        """The update of z, then of y with the new z."""
        y, z = state
        to_a, to_c, to_z, drive_y = self._by_y(drive, y, matrices)
        z = z + self.dt * to_a.sigmoid() * (to_z.tanh() - z)
        y = y + self.dt * to_c.sigmoid() * ((z @ matrices[1].mT + drive_y).tanh() - y)
        return y, z

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """Both updates, and their derivatives in order."""
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
        """Preactivations of the two gates and of z from y and the input, and of y from the input alone."""
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
        """A bound on the entries of the state after a zero start: 1 for dt ≤ 1, dt/(2 − dt) for dt < 2, else inf."""
        return max(1.0, self.dt / (2 - self.dt)) if self.dt < 2 else math.inf

    @torch.no_grad()
    def exponent_bounds(self) -> tuple[float, float]:
        """The sum over both updates I + E of ln(1 ∓ ‖E‖), ‖E‖ ≤ dt (1 + ‖W‖ + ¼ (1 + r) ‖W_gate‖), r = `state_bound`."""
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
        input_size, hidden_size, num_layers, bias, batch_first, dropout, device, dtype: as in `nn.RNN`.
        dt: largest step size of each `LEMCell`.

    Example:
        >>> layer = sx.nn.LEM(3, 8, batch_first=True)
        >>> output, (y, z) = layer(torch.randn(2, 50, 3))
        >>> output.shape, bool(output.abs().max() <= 1)
        (torch.Size([2, 50, 8]), True)
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
