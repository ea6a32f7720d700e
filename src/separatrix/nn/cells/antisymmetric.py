"""The antisymmetric RNN: a recurrence whose ODE has eigenvalues near the imaginary axis."""

import math

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_not_negative
from separatrix.nn.cells.bounds import around_one, change_of_step, norm
from separatrix.nn.cells.cell import (
    ExplicitCell,
    Parts,
    added,
    rows,
    sigmoid_and_slope,
    tanh_and_slope,
)
from separatrix.nn.cells.layer import OdeLayer, layers_of


class AntisymmetricCell(ExplicitCell):
    r"""The antisymmetric RNN cell, one step of  ḣ = tanh(A h + V u + b)  with  A = W − Wᵀ − γI.

    Euler's method gives  h' = h + dt tanh(A h + V u + b).  The gated cell has ḣ = σ(A h + V_z u + b_z) ∘ tanh(A h + V u + b).

    Without the gate the eigenvalues of Dḣ = diag(tanh') A have real parts in [−γ, 0] at every instant; for γ = 0 they lie on the
    imaginary axis. This holds for the ODE frozen at that instant. It does not hold with the gate: the diagonal σ tanh' + σ' tanh
    can have both signs, and eigenvalues may be real and positive.

    An Euler step maps iω − γ to 1 + dt(iω − γ), with absolute value √((1 − γdt)² + (ωdt)²). It therefore amplifies for γ = 0, and
    damps only if  ω² < (2γ − γ²dt)/dt.

    Args:
        input_size, hidden_size: numbers in an input and in a state.
        bias: whether to add b.
        dt: step size, ε in the paper.
        gamma: γ ≥ 0, the diffusion.
        gated: whether to use the gate of the paper, which shares A.
        method: a Runge–Kutta method; "euler" as in the paper.
        device, dtype: of the weights, as in PyTorch.

    Weights: `weight_hh` is W, (hidden_size, hidden_size); `weight_ih` is V, (hidden_size, input_size), preceded by V_z if gated;
    `bias_ih` is b. Initialisation as in the paper with σ_w = 1: W normal with variance 1/hidden_size, V normal with variance
    1/input_size, b zero.

    Raises:
        InputError: gamma is negative, dt is not positive, or method is unknown.
        ShapeError: input_size or hidden_size is less than 1.
    Source: Chang, Chen, Haber & Chi 2019, ICLR, arXiv:1902.09689.

    Example:
        >>> cell = sx.nn.AntisymmetricCell(3, 8, bias=False, dt=0.1, gamma=0.5).double()
        >>> step = lambda h: cell(torch.zeros(3).double(), h)
        >>> jacobian = torch.func.jacrev(step)(torch.zeros(8).double())
        >>> print(f"{torch.linalg.eigvals(jacobian).real.max():.4f}")  # 1 − dt γ
        0.9500
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dt: float = 0.1,
        gamma: float = 0.01,
        gated: bool = False,
        method: str = "euler",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_not_negative("gamma", gamma)
        drives = 2 if gated else 1
        super().__init__(input_size, hidden_size, bias, dt=dt, method=method, drives=drives, device=device, dtype=dtype)
        self.gamma, self.gated = gamma, gated
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights, from the global random generator."""
        nn.init.normal_(self.weight_hh, std=1 / math.sqrt(self.hidden_size))
        nn.init.normal_(self.weight_ih, std=1 / math.sqrt(self.input_size))
        if self.bias_ih is not None:
            nn.init.zeros_(self.bias_ih)

    def matrices(self) -> Parts:
        """(A,)."""
        w = self.weight_hh
        return (w - w.mT - self.gamma * torch.eye(self.hidden_size, dtype=w.dtype, device=w.device),)

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """(ḣ,)."""
        a = state[0] @ matrices[0].mT
        if not self.gated:
            return ((a + drive).tanh(),)
        to_gate, to_value = drive.chunk(2, dim=-1)
        return ((a + to_gate).sigmoid() * (a + to_value).tanh(),)

    def bent(self, drive: Tensor, bend: Tensor | None, h: Tensor, v: Tensor, matrices: Parts) -> tuple[Tensor, Tensor]:
        """ḣ and Dḣ v."""
        a, pushed = h @ matrices[0].mT, v @ matrices[0].mT
        if not self.gated:
            value, slope = tanh_and_slope(a + drive)
            return value, rows(slope) * added(pushed, bend)
        to_gate, to_value = drive.chunk(2, dim=-1)
        gate, opening = sigmoid_and_slope(a + to_gate)
        value, slope = tanh_and_slope(a + to_value)
        bend_gate, bend_value = (None, None) if bend is None else bend.chunk(2, dim=-1)
        return gate * value, rows(gate * slope) * added(pushed, bend_value) + rows(value * opening) * added(pushed, bend_gate)

    @torch.no_grad()
    def exponent_bounds(self) -> tuple[float, float]:
        """ln(1 ∓ dt ‖A‖) for Euler's method; it uses only ‖A‖, since diag(tanh') A differs from step to step."""
        return around_one(change_of_step(self.solver, self.dt * norm(self.matrices()[0])))

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, gamma={self.gamma:g}{', gated=True' if self.gated else ''}"


class AntisymmetricRNN(OdeLayer):
    """Layers of `AntisymmetricCell`, with the signature of `nn.RNN`: (input, hx) → (output, h_n).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, device, dtype: as in `nn.RNN`.
        dt, gamma, gated, method: options of each `AntisymmetricCell`.

    Example:
        >>> layer = sx.nn.AntisymmetricRNN(3, 8)
        >>> output, h = layer(torch.randn(50, 2, 3))
        >>> output.shape, torch.equal(output[-1], h[-1])
        (torch.Size([50, 2, 8]), True)
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
        dt: float = 0.1,
        gamma: float = 0.01,
        gated: bool = False,
        method: str = "euler",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        def cell(inputs: int) -> AntisymmetricCell:
            return AntisymmetricCell(
                inputs, hidden_size, bias, dt=dt, gamma=gamma, gated=gated, method=method, device=device, dtype=dtype
            )

        super().__init__(layers_of(cell, input_size, hidden_size, num_layers), batch_first=batch_first, dropout=dropout)
