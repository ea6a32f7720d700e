"""Fields with time reversed."""

from torch import Tensor

from separatrix.flows.field import Field, WrappedField
from separatrix.flows.methods.solver import Time


class Reversed(WrappedField):
    """A field with time reversed about T:  dy/ds = −f(y, T − s).

    Args:
        field: f.
        time: T.
    """

    def __init__(self, field: Field, time: float = 0.0) -> None:
        super().__init__(field)
        self.time = time

    def inward(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """The same states, at time T − s."""
        return x, self.time - t

    def outward(self, value: Tensor, like: Tensor) -> Tensor:
        """The negative."""
        return -value

    def drift(self, x: Tensor, t: Time) -> Tensor | None:
        """The inner field's: the sign changes twice."""
        return self.field.drift(x, self.time - t)
