"""Systems under noise, additive or scaled by the state: one realisation, shared by all copies, which can be replayed."""

from collections.abc import Callable

import torch
from torch import Tensor

from separatrix.core.checks import check_seed
from separatrix.core.components import along_tangents
from separatrix.core.derived import Derived
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import check_system_type
from separatrix.core.parametric import Number
from separatrix.core.randomness import normal_at
from separatrix.core.system import System
from separatrix.core.tangent import pushforward


class Noisy(Derived):
    r"""A system kicked after every step:  x_{n+1} = F(x_n, n) + scale √dt ξ_n,  ξ_n standard normal in every component.

    The noise of step n is a function of n and the seed, and the same for all items of a batch: exponents are those of the random
    dynamical system under one realisation, and initial states that forget where they began meet exactly. Another seed is another
    realisation. With √dt, `scale` means the same whatever a flow's step (Euler–Maruyama); a map's dt is 1. A noisy flow's
    `residual` is the field alone, the drift; a noisy map's is that of the kicked step of n, F(x, n) + kick − x.

    Args:
        system: any system.
        scale: standard deviation per √(unit time); a number, or a tensor that broadcasts against the batch. Or a function of the
            state before the step, x ↦ scale of shape (*batch, dim): multiplicative noise, in Itô's sense for a flow. Tangents
            follow it.
        seed: of the realisation.

    Raises:
        InputError: the scale is negative, or no number.
        ShapeError: the function gives a scale of another shape than the state.
    Source: Arnold 1998, Random Dynamical Systems; the step is that of Maruyama 1955, Rend. Circ. Mat. Palermo 4, 48.
    """

    def __init__(self, system: System, scale: Number | Callable[[Tensor], Tensor], seed: int = 0) -> None:
        check_system_type(system)
        super().__init__(system, horizon=system.horizon)
        self.profile = None if isinstance(scale, Tensor) or not callable(scale) else scale
        if self.profile is None:
            if not isinstance(scale, int | float | Tensor):
                raise InputError(
                    f"the noise's scale is a {type(scale).__name__}.\n"
                    "Pass a number, a tensor (one scale for each item of the batch), or a function of the state."
                )
            if not bool(torch.as_tensor(scale).ge(0).all()):
                raise InputError(f"the noise's scale is {scale}; a standard deviation is 0 or more.")
            self.hold(scale=scale)
        self.seed = check_seed(seed)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's step, kicked."""
        return self.system.step(x, n) + self.kick(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Tangents are the inner system's, and the kick's where that depends on the state."""
        if self.profile is None:
            after, v = self.system.pushforward(x, v, n)
            return after + self.kick(x, n), v
        kick, kicked = pushforward(lambda y: self.kick(y, n), x, v)
        after, v = self.system.pushforward(x, v, n)
        return after + kick, v + kicked

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The kick, and what the inner system's step adds at random itself."""
        return self.system.noise_of_step(x, n) + self.kick(x, n)

    def kick(self, x: Tensor, n: int) -> Tensor:
        """Scale √dt ξ_n, shape (dim) or (*batch, dim)."""
        noise = self.dt**0.5 * normal_at(self.seed, "noise", n, self.dim).to(x)
        return (along_tangents(self.scale) if self.profile is None else _scale_at(x, self.profile)) * noise


def _scale_at(x: Tensor, profile: Callable[[Tensor], Tensor]) -> Tensor:
    scale = profile(x)
    shape = tuple(getattr(scale, "shape", ()))
    if len(shape) > x.ndim or any(size not in (1, whole) for size, whole in zip(shape[::-1], x.shape[::-1], strict=False)):
        raise ShapeError(f"the noise's scale takes states of shape {tuple(x.shape)} to {shape}; it gives one for each number.")
    return scale
