"""Systems with additive or state-dependent noise: one realisation, shared by all copies, which can be replayed."""

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
    r"""System with a random kick after every step:  x_{n+1} = F(x_n, n) + scale √dt ξ_n,  ξ_n standard normal.

    The noise of step n is a function of n and the seed and is the same for all items of a batch. Exponents are therefore those of
    the random dynamical system under one realisation, and initial states that are forgotten converge exactly. Another seed gives
    another realisation. The factor √dt makes `scale` independent of a flow's step (Euler–Maruyama); a map's dt is 1. The
    `residual` of a noisy flow is the field alone, the drift; that of a noisy map is F(x, n) + kick − x.

    Args:
        system: any system.
        scale: standard deviation per √(unit time): a number, or a tensor that broadcasts against the batch. Or a function of the
            state before the step, x ↦ scale of shape (*batch, dim), for multiplicative noise (Itô, if the system is a flow).
            Tangents include its derivative.
        seed: seed of the realisation.

    Raises:
        InputError: the scale is negative or not a number.
        ShapeError: the function returns a scale whose shape does not match the state.
    Source: Arnold 1998, Random Dynamical Systems; the step is that of Maruyama 1955, Rend. Circ. Mat. Palermo 4, 48.

    Example:
        >>> noisy = sx.Noisy(sx.Map(lambda x: 0.5 * x, dim=1), scale=0.1)
        >>> ends = sx.trajectory(noisy, torch.tensor([[-1.0], [1.0]]).double(), 60)[-1]
        >>> torch.allclose(ends[0], ends[1])  # the noise is the same, and the initial state is forgotten
        True
    """

    def __init__(self, system: System, scale: Number | Callable[[Tensor], Tensor], seed: int = 0) -> None:
        check_system_type(system)
        super().__init__(system, horizon=system.horizon)
        self.profile = None if isinstance(scale, Tensor) or not callable(scale) else scale
        if self.profile is None:
            if not isinstance(scale, int | float | Tensor):
                raise InputError(
                    f"the scale of the noise is a {type(scale).__name__}.\n"
                    "Pass a number, a tensor (one scale per item of the batch), or a function of the state."
                )
            if not bool(torch.as_tensor(scale).ge(0).all()):
                raise InputError(f"the scale of the noise is {scale}; a standard deviation must be at least 0.")
            self.hold(scale=scale)
        self.seed = check_seed(seed)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's step, followed by the kick."""
        return self.system.step(x, n) + self.kick(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The step and its tangents: those of the inner system, and of the kick if it depends on the state."""
        if self.profile is None:
            after, v = self.system.pushforward(x, v, n)
            return after + self.kick(x, n), v
        kick, kicked = pushforward(lambda y: self.kick(y, n), x, v)
        after, v = self.system.pushforward(x, v, n)
        return after + kick, v + kicked

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The kick, plus the noise that the inner system's own step adds."""
        return self.system.noise_of_step(x, n) + self.kick(x, n)

    def kick(self, x: Tensor, n: int) -> Tensor:
        """The noise of step n, `scale` √dt ξ_n, shape (dim) or (*batch, dim)."""
        noise = self.dt**0.5 * normal_at(self.seed, "noise", n, self.dim).to(x)
        return (along_tangents(self.scale) if self.profile is None else _scale_at(x, self.profile)) * noise


def _scale_at(x: Tensor, profile: Callable[[Tensor], Tensor]) -> Tensor:
    scale = profile(x)
    shape = tuple(getattr(scale, "shape", ()))
    if len(shape) > x.ndim or any(size not in (1, wanted) for size, wanted in zip(shape[::-1], x.shape[::-1], strict=False)):
        raise ShapeError(f"the scale of the noise maps states of shape {tuple(x.shape)} to shape {shape}; expected the same shape.")
    return scale
