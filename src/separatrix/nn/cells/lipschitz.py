"""The Lipschitz RNN: a linear part with a controlled symmetric part, and a Lipschitz nonlinearity."""

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_not_negative, check_number
from separatrix.nn.cells.bounds import around_one, between, change_of_step, norm, singular_range
from separatrix.nn.cells.cell import ExplicitCell, Parts, added, rows, tanh_and_slope
from separatrix.nn.cells.layer import OdeLayer, layers_of

SPREAD = 6.0  # times 1/hidden_size: standard deviation of the hidden matrices in the code of the paper


class LipschitzCell(ExplicitCell):
    r"""The Lipschitz recurrent cell, one step of  ḣ = A h + tanh(W h + V u + b)  with bounded symmetric parts of A and W.

        A, W = (1 − β)(M + Mᵀ) + β(M − Mᵀ) − γI,

    where A and W have separate matrices M and, optionally, separate β and γ.

    The largest eigenvalue λ of the symmetric part  (1 − β)(M + Mᵀ) − γI  of A is at most  2(1 − β)‖M‖ − γ;  for β = 1 that part is
    −γI for every M. Two orbits of the ODE separate no faster than  e^{(λ + ‖W‖)t}.  All orbits converge if λ < −‖W‖, but training
    does not enforce this. For the Euler step see `exponent_bounds`.

    Args:
        input_size, hidden_size: numbers in an input and in a state.
        bias: whether to add b.
        dt: step size, ε in the paper.
        beta: β of A, from 0 (symmetric) to 1 (antisymmetric).
        gamma: γ ≥ 0 of A.
        beta_w, gamma_w: β and γ of W. Default: those of A, as in the code of the paper.
        method: a Runge–Kutta method; "euler" or "midpoint" as in the paper.
        device, dtype: of the weights, as in PyTorch.

    Weights: `weight_ah` and `weight_hh` are the M of A and of W, (hidden_size, hidden_size); `weight_ih` is V, (hidden_size,
    input_size); `bias_ih` is b. Initialisation and default constants as in the code of the paper: M normal with standard deviation
    6/hidden_size, V Xavier normal, b zero.

    Raises:
        InputError: beta or beta_w is outside of [0, 1], gamma or gamma_w is negative, dt is not positive, or method is unknown.
        ShapeError: input_size or hidden_size is less than 1.
    Source: Erichson, Azencot, Queiruga, Hodgkinson & Mahoney 2021, ICLR, arXiv:2006.12070.

    Example:
        >>> cell = sx.nn.LipschitzCell(3, 8, dt=0.03)
        >>> h = cell(torch.randn(2, 3))  # from h = 0, a step of dt tanh(V u + b)
        >>> h.shape, bool(h.abs().max() < 0.03)
        (torch.Size([2, 8]), True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dt: float = 0.03,
        beta: float = 0.75,
        gamma: float = 0.001,
        beta_w: float | None = None,
        gamma_w: float | None = None,
        method: str = "euler",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        beta_w, gamma_w = beta if beta_w is None else beta_w, gamma if gamma_w is None else gamma_w
        for name, value in (("beta", beta), ("beta_w", beta_w)):
            check_number(name, value, 0, 1, "[]")
        check_not_negative("gamma", gamma)
        check_not_negative("gamma_w", gamma_w)
        super().__init__(input_size, hidden_size, bias, dt=dt, method=method, device=device, dtype=dtype)
        self.beta, self.gamma, self.beta_w, self.gamma_w = beta, gamma, beta_w, gamma_w
        self.weight_ah = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights, from the global random generator."""
        nn.init.normal_(self.weight_ah, std=SPREAD / self.hidden_size)
        nn.init.normal_(self.weight_hh, std=SPREAD / self.hidden_size)
        nn.init.xavier_normal_(self.weight_ih)
        if self.bias_ih is not None:
            nn.init.zeros_(self.bias_ih)

    def matrices(self) -> Parts:
        """((A; W),), stacked for one product, shape (2 hidden_size, hidden_size)."""
        a = shaped(self.weight_ah, self.beta, self.gamma)
        return (torch.cat([a, shaped(self.weight_hh, self.beta_w, self.gamma_w)], dim=-2),)

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """(ḣ,)."""
        linear, inner = (state[0] @ matrices[0].mT).chunk(2, dim=-1)
        return (linear + (inner + drive).tanh(),)

    def bent(self, drive: Tensor, bend: Tensor | None, h: Tensor, v: Tensor, matrices: Parts) -> tuple[Tensor, Tensor]:
        """ḣ and Dḣ v."""
        linear, inner = (h @ matrices[0].mT).chunk(2, dim=-1)
        pushed, pushed_inner = (v @ matrices[0].mT).chunk(2, dim=-1)
        value, slope = tanh_and_slope(inner + drive)
        return linear + value, pushed + rows(slope) * added(pushed_inner, bend)

    @torch.no_grad()
    def exponent_bounds(self) -> tuple[float, float]:
        """For Euler's method, logarithms of the singular values of I + dt A ∓ dt ‖W‖; for others, from dt (‖A‖ + ‖W‖)."""
        a, w = self.matrices()[0].double().chunk(2, dim=-2)
        if self.method != "euler":
            return around_one(change_of_step(self.solver, self.dt * (norm(a) + norm(w))))
        least, largest = singular_range(torch.eye(self.hidden_size, dtype=a.dtype, device=a.device) + self.dt * a)
        return between(least - self.dt * norm(w), largest + self.dt * norm(w))

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, beta={self.beta:g}, gamma={self.gamma:g}"


def shaped(m: Tensor, beta: float, gamma: float) -> Tensor:
    """(1 − β)(M + Mᵀ) + β(M − Mᵀ) − γI = M + (1 − 2β) Mᵀ − γI."""
    return m + (1 - 2 * beta) * m.mT - gamma * torch.eye(len(m), dtype=m.dtype, device=m.device)


class LipschitzRNN(OdeLayer):
    """Layers of `LipschitzCell`, with the signature of `nn.RNN`: (input, hx) → (output, h_n).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, device, dtype: as in `nn.RNN`.
        dt, beta, gamma, beta_w, gamma_w, method: options of each `LipschitzCell`.

    Example:
        >>> layer = sx.nn.LipschitzRNN(3, 8, num_layers=2)
        >>> output, h = layer(torch.randn(50, 2, 3))
        >>> output.shape, h.shape
        (torch.Size([50, 2, 8]), torch.Size([2, 2, 8]))
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
        dt: float = 0.03,
        beta: float = 0.75,
        gamma: float = 0.001,
        beta_w: float | None = None,
        gamma_w: float | None = None,
        method: str = "euler",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        def cell(inputs: int) -> LipschitzCell:
            own = {"dt": dt, "beta": beta, "gamma": gamma, "beta_w": beta_w, "gamma_w": gamma_w, "method": method}
            return LipschitzCell(inputs, hidden_size, bias, **own, device=device, dtype=dtype)

        super().__init__(layers_of(cell, input_size, hidden_size, num_layers), batch_first=batch_first, dropout=dropout)
