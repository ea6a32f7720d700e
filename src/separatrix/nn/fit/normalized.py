"""A network as a vector field, normalised to the units of its data."""

from typing import Self

from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.core.system import in_one_batch
from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Time
from separatrix.nn.chain import is_chain, pushed_through
from separatrix.nn.fit.trajectories import Trajectories


class Normalized(Field):
    r"""A normalised vector field,  f(x) = s ∘ g((x − m) / d),  whose network g has inputs and outputs of order 1.

    The scales m, d and s are buffers: they are saved with the weights, follow `.to()` and are not trained.

    Args:
        module: g, (*batch, dim) → (*batch, dim). The scales take its dtype and device.
        mean: m, shape (dim,).
        deviation: d, shape (dim,), positive.
        speed: s, shape (dim,), positive, in units of the state per unit time.

    Raises:
        InputError: an entry of deviation or speed is not positive.

    Example:
        >>> times = torch.arange(0, 3, 0.1)
        >>> states = torch.stack([100 * times.cos(), 0.01 * times.sin()], dim=-1)
        >>> field = sx.nn.parts.Normalized.of(nn.Linear(2, 2), states, times)  # for sx.nn.fit_flow
        >>> scaled = (states - field.mean) / field.deviation
        >>> torch.allclose(scaled.std(0, correction=0), torch.ones(2), atol=1e-4)
        True
    """

    time_dependent = False

    mean: Tensor
    deviation: Tensor
    speed: Tensor

    def __init__(self, module: nn.Module, mean: Tensor, deviation: Tensor, speed: Tensor) -> None:
        super().__init__()
        if not (bool((deviation > 0).all()) and bool((speed > 0).all())):
            raise InputError("expected positive entries in deviation and speed.\nPass 1 where the state never changes.")
        self.module = module
        like = next(module.parameters(), mean)
        for name, value in (("mean", mean), ("deviation", deviation), ("speed", speed)):
            self.register_buffer(name, value.detach().to(like.device, like.dtype, copy=True))

    @classmethod
    def of(cls, module: nn.Module, states: Tensor, times: Tensor | float) -> Self:
        """A normalised field with scales from data: mean and deviation of states, and root mean square of their velocities.

        Args:
            module: g.
            states: trajectories, shape (time, *batch, dim).
            times: time between two samples, or increasing times of shape (time,) or (time, *batch).
        """
        return cls(module, *Trajectories.of(states, times).scales())

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, shape (*batch, dim)."""
        return self.speed * in_one_batch(self.module, (x - self.mean) / self.deviation)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity and its derivative along v, in closed form if the network is a chain of layers that have one."""
        if not is_chain(self.module):
            return super().pushforward(x, v, t)
        value, pushed = pushed_through(self.module, (x - self.mean) / self.deviation, v / self.deviation)
        return self.speed * value, self.speed * pushed
