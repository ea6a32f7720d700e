"""The Lipschitz RNN: a linear part with a chosen symmetric part, and a Lipschitz nonlinearity."""

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.nn.cells.bounds import around_one, between, change_of_step, norm, singular_range
from separatrix.nn.cells.cell import ExplicitCell, Parts, added, check_not_negative, rows, tanh_and_slope
from separatrix.nn.cells.layer import OdeLayer, layers_of

SPREAD = 6.0  # times 1/hidden: the standard deviation of the hidden matrices in the paper's code


class LipschitzCell(ExplicitCell):
    r"""The Lipschitz recurrent unit, a step of  ḣ = A h + tanh(W h + V u + b)  with the symmetric parts of A and W bounded.

        A, W = (1 − β)(M + Mᵀ) + β(M − Mᵀ) − γI,

    each with an M of its own (and β and γ, if asked), by Euler's method or another.

    The symmetric part of A is  (1 − β)(M + Mᵀ) − γI,  no eigenvalue of which exceeds  2(1 − β)‖M‖ − γ;  with β = 1 it is −γI
    whatever M is. Two orbits of the ODE part no faster than  e^{(λ + ‖W‖)t},  λ its largest eigenvalue: so all of them meet where
    λ < −‖W‖, which nothing in training enforces. Of the steps of Euler's method see `exponent_bounds`.

    Args:
        input_size, hidden_size: numbers in an input and in a state.
        bias: whether there is a b.
        dt: the step, the paper's ε.
        beta: β in [0, 1] of A; 0 is symmetric, 1 antisymmetric.
        gamma: γ ≥ 0 of A.
        beta_w, gamma_w: those of W. Default: A's, as in the paper's code.
        method: of Runge and Kutta: "euler" or "midpoint" as the paper's.

    `weight_ah` and `weight_hh` are the M of A and of W, (hidden, hidden); `weight_ih` is V, (hidden, inputs); `bias_ih` b. Both M
    start normal of standard deviation 6/hidden, V Xavier normal, b zero; as in the paper's code, with its β, γ and ε.
    Source: Erichson, Azencot, Queiruga, Hodgkinson & Mahoney 2021, ICLR, arXiv:2006.12070.
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
            if not 0 <= value <= 1:
                raise InputError(f"{name} is a number in [0, 1], not {value}.")
        check_not_negative("gamma", gamma)
        check_not_negative("gamma_w", gamma_w)
        super().__init__(input_size, hidden_size, bias, dt=dt, method=method, device=device, dtype=dtype)
        self.beta, self.gamma, self.beta_w, self.gamma_w = beta, gamma, beta_w, gamma_w
        self.weight_ah = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, from the global random generator."""
        nn.init.normal_(self.weight_ah, std=SPREAD / self.hidden_size)
        nn.init.normal_(self.weight_hh, std=SPREAD / self.hidden_size)
        nn.init.xavier_normal_(self.weight_ih)
        if self.bias_ih is not None:
            nn.init.zeros_(self.bias_ih)

    def matrices(self) -> Parts:
        """(A, W) under each other, shape (2 hidden, hidden), for one product."""
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
        """Euler: the logarithms of the singular values of I + dt A, widened by dt ‖W‖; other methods by dt (‖A‖ + ‖W‖)."""
        a, w = self.matrices()[0].double().chunk(2, dim=-2)
        if self.method != "euler":
            return around_one(change_of_step(self.solver, self.dt * (norm(a) + norm(w))))
        least, largest = singular_range(torch.eye(self.hidden_size, dtype=a.dtype, device=a.device) + self.dt * a)
        return between(least - self.dt * norm(w), largest + self.dt * norm(w))

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, beta={self.beta:g}, gamma={self.gamma:g}"


def shaped(m: Tensor, beta: float, gamma: float) -> Tensor:
    """(1 − β)(M + Mᵀ) + β(M − Mᵀ) − γI = M + (1 − 2β) Mᵀ − γI."""
    return m + (1 - 2 * beta) * m.mT - gamma * torch.eye(len(m), dtype=m.dtype, device=m.device)


class LipschitzRNN(OdeLayer):
    """Layers of `LipschitzCell`, with the signature of `nn.RNN`: (input, hx) → (output, h_n).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout: as of `nn.RNN`.
        dt, beta, gamma, beta_w, gamma_w, method: of every cell.
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
