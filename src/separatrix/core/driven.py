"""Systems driven by an input."""

from torch import Tensor

from separatrix.core.derived import Frozen
from separatrix.core.system import System


class Driven(System):
    """A system driven by an input:  step(x, n) = advance(x, drive(n)).  A subclass defines `drive` and `advance`.

    Example:
        >>> class Leaky(sx.parts.Driven):
        ...     def drive(self, n):
        ...         return torch.tensor([1.0 + n])
        ...     def advance(self, x, u):
        ...         return 0.5 * x + u
        >>> leaky, x = Leaky(dim=1), torch.zeros(1)
        >>> leaky.step(x, 2), leaky.frozen(0).step(x, 2)
        (tensor([3.]), tensor([1.]))
    """

    def drive(self, n: int) -> Tensor:
        """The input of step n, shape (*batch, inputs)."""
        raise NotImplementedError(f"{type(self).__name__} does not define drive(n).")

    def advance(self, x: Tensor, u: Tensor) -> Tensor:
        """The next state under the input u."""
        raise NotImplementedError(f"{type(self).__name__} does not define advance(x, u).")

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self.advance(x, self.drive(n))

    def frozen(self, n: int) -> "Frozen":
        """The autonomous system with the input of step n held constant."""
        return Frozen(self, n)
