"""A field run backwards in time."""

from torch import Tensor

from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Time


class Reversed(Field):
    """The field run backwards from the time T:  dy/ds = −f(y, T − s).

    Args:
        field: f.
        time: T.
    """

    def __init__(self, field: Field, time: float = 0.0) -> None:
        super().__init__()
        self.field, self.time = field, time
        self.time_dependent = field.time_dependent

    @property
    def has_own_tangents(self) -> bool:
        """Whether the field's tangents are of its own making."""
        return self.field.has_own_tangents

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, shape (*batch, dim)."""
        return -self.field(x, self.time - t)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The field's own."""
        velocity, pushed = self.field.pushforward(x, v, self.time - t)
        return -velocity, -pushed

    def drift(self, x: Tensor, t: Time) -> Tensor | None:
        """The field's own."""
        return self.field.drift(x, self.time - t)
