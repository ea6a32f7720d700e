"""Whether the residual of a continuous system is the field that its step follows."""

import torch
from torch import Tensor

from separatrix.core.system import System
from separatrix.testing.statements import ROUNDING, require

SHORT = 1024  # factor by which the step of a flow is shortened to estimate its field
FIELD = 1e-5  # error allowed in this estimate, relative to its largest number

# Note [A field and its step]
# A step of length h from x goes to x + h f(x) + O(h²), whatever the method. The difference quotients d(h) = (F_h(x) − x)/h of two
# short steps give 2 d(h/2) − d(h) = f(x) + O(h²), and what remains is the rounding of x divided by h. A system that cannot shorten
# its step has only d(h), a mean of f along the step, which differs from f(x) by at most the change of f along the step. The value
# of f at the far end estimates this change; a field that turns back within the step is allowed for by a factor of 2.


def check_field(system: System, x: Tensor, n: int, field: Tensor) -> None:
    """Compare the residual of a continuous system with its step; see Note [A field and its step]."""
    compare = _with_short_steps if hasattr(system, "refined") else _with_the_step
    off, allowed, told = compare(system, x, n, field)
    what = f"residual is not the field that the step follows, (F(x) − x) / dt: by {told}"
    require(off <= allowed, f"{what} {off:.3g} apart where {allowed:.3g} is allowed.")


def _with_short_steps(system: System, x: Tensor, n: int, field: Tensor) -> tuple[float, float, str]:
    """The error of a field, the error allowed, and what it was compared with: the limit of short steps."""
    short, half = (_rate(system.refined(factor), x, factor * n) for factor in (SHORT, 2 * SHORT))
    rounding = torch.finfo(x.dtype).eps * largest(x) * 2 * SHORT / system.dt
    allowed = FIELD * max(largest(field), largest(short)) + 16 * rounding
    return largest(2 * half - short - field), allowed, f"steps of dt / {SHORT} and dt / {2 * SHORT}"


def _with_the_step(system: System, x: Tensor, n: int, field: Tensor) -> tuple[float, float, str]:
    """The error of a field, the error allowed, and what it was compared with: the step as it is."""
    rate = _rate(system, x, n)
    elapsed = torch.as_tensor(system.elapsed(x, n)).to(x)[..., None]
    ahead = n + 1 if system.horizon is None or n + 1 < system.horizon else n
    change = system.residual(x + elapsed * rate, ahead) - field
    allowed = 2 * largest(change) + ROUNDING * max(largest(rate), largest(x / elapsed))
    return largest(rate - field), allowed, "the step, by twice the change of residual along it"


def _rate(system: System, x: Tensor, n: int) -> Tensor:
    """(F(x, n) − x) / dt, without the random part of the step."""
    elapsed = torch.as_tensor(system.elapsed(x, n)).to(x)
    return (system.step(x, n) - x - system.noise_of_step(x, n)) / elapsed[..., None]


def largest(x: Tensor) -> float:
    """The largest absolute value; infinite if a number is not finite."""
    return float(x.abs().nan_to_num(torch.inf, torch.inf).amax())
