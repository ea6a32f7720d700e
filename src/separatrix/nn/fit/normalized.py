"""A network as a vector field in the units of its data."""

from typing import Self

from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.core.system import in_one_batch
from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Time
from separatrix.nn.chain import is_chain, pushed_through
from separatrix.nn.fit.trajectories import Trajectories


class Normalized(Field):
    r"""The field  f(x) = s ∘ g((x − m) / d)  of a network g that sees and gives numbers of order 1.

    m, d and s are buffers: they are saved with the weights, follow `.to()`, and are not trained.

    Args:
        module: g, (*batch, dim) → (*batch, dim).
        mean: m, shape (dim).
        deviation: d, shape (dim), positive.
        speed: s, shape (dim), positive; in units of the state per unit time.

    Raises:
        InputError: a scale that is not positive.

    Example: `field = sx.nn.Normalized.of(network, states, times)`, then `sx.nn.fit_flow(field, states, times)`.
    """

    time_dependent = False

    mean: Tensor
    deviation: Tensor
    speed: Tensor

    def __init__(self, module: nn.Module, mean: Tensor, deviation: Tensor, speed: Tensor) -> None:
        super().__init__()
        if not (bool((deviation > 0).all()) and bool((speed > 0).all())):
            raise InputError("a deviation or a speed is not above 0, and so no scale.\nGive 1 to a number that never changes.")
        self.module = module
        dtype = next((p.dtype for p in module.parameters()), mean.dtype)
        for name, value in (("mean", mean), ("deviation", deviation), ("speed", speed)):
            self.register_buffer(name, value.detach().to(dtype, copy=True))

    @classmethod
    def of(cls, module: nn.Module, states: Tensor, times: Tensor | float) -> Self:
        """With the mean and deviation of states, shape (time, *batch, dim), and the root mean square of their velocities.

        Args:
            module: g.
            states: as `sx.nn.fit_flow` takes them.
            times: likewise.
        """
        return cls(module, *Trajectories.of(states, times).scales())

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, shape (*batch, dim)."""
        return self.speed * in_one_batch(self.module, (x - self.mean) / self.deviation)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity and its derivative along v; in closed form where the network is a chain of layers that have one."""
        if not is_chain(self.module):
            return super().pushforward(x, v, t)
        value, pushed = pushed_through(self.module, (x - self.mean) / self.deviation, v / self.deviation)
        return self.speed * value, self.speed * pushed
