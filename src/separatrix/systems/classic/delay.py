"""Delay equations: the state is the most recent segment of the solution, on a grid."""

import torch
from torch import Tensor

from separatrix.core.components import along_tangents
from separatrix.core.errors import InputError
from separatrix.core.parametric import Number
from separatrix.core.system import System


class MackeyGlass(System):
    r"""The Mackey–Glass equation  ẋ(t) = β x(t − τ) / (1 + x(t − τ)^p) − γ x(t),  solved by Heun's method.

    The state is (x(t − τ), x(t − τ + dt), …, x(t)), oldest first: one step appends a value and drops the oldest, so that no
    delayed value is interpolated. dt is adjusted to divide τ.

    Args:
        beta, gamma, power: production, decay and the power p; numbers, or tensors that broadcast against the batch.
        tau: the delay; a number, because it sets the length of the state.
        dt: requested step; the nearest τ/m is used, and the state has m + 1 components.

    Raises:
        InputError: the delay or the step is not positive, or the delay is shorter than half a step.
    Source: Mackey & Glass 1977, Science 197, 287, eq. (4b). Classic chaos at β = 0.2, γ = 0.1, p = 10, τ = 17 (Farmer 1982).

    Example:
        >>> delayed = sx.classic.mackey_glass(tau=17.0, dt=0.1)
        >>> x = torch.ones(delayed.dim).double()
        >>> delayed.dim, torch.allclose(delayed.step(x), x)  # an equilibrium
        (171, True)
    """

    def __init__(
        self, beta: Number = 0.2, gamma: Number = 0.1, power: Number = 10.0, *, tau: float = 17.0, dt: float = 0.1
    ) -> None:
        if not (tau > 0 and dt > 0 and round(tau / dt) >= 1):
            raise InputError(f"a delay of {tau} cannot be divided into steps of {dt}.\nBoth must be positive, with dt at most tau.")
        samples = round(tau / dt)
        super().__init__(dim=samples + 1, dt=tau / samples, start=(1.2,) * (samples + 1))
        self.hold(beta=beta, gamma=gamma, power=power)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        now, (first, second) = x[..., -1], self._production(x)
        return torch.cat([x[..., 1:], self._heun(now, first, second, self.gamma)[..., None]], dim=-1)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        first, second = (slope[..., None] * v[..., i] for i, slope in enumerate(self._production_slope(x)))
        after = self._heun(v[..., -1], first, second, along_tangents(self.gamma))
        return self.step(x, n), torch.cat([v[..., 1:], after[..., None]], dim=-1)

    def _heun(self, now: Tensor, first: Tensor, second: Tensor, gamma: Number) -> Tensor:
        """ẋ = g(t) − γ x over one step, with g from `first` to `second`; linear in all three, so it also applies to tangents."""
        slope = first - gamma * now
        return now + self.dt / 2 * (slope + second - gamma * (now + self.dt * slope))

    def _production(self, x: Tensor) -> tuple[Tensor, Tensor]:
        old, next_old = x[..., 0], x[..., 1]
        return self.beta * old / (1 + old**self.power), self.beta * next_old / (1 + next_old**self.power)

    def _production_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        high = [x[..., i] ** self.power for i in (0, 1)]
        first, second = (self.beta * (1 + (1 - self.power) * h) / (1 + h) ** 2 for h in high)
        return first, second


mackey_glass = MackeyGlass
