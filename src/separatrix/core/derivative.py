"""The derivatives of a system's functions: computed automatically, and compared with differences of the functions themselves."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.randomness import Draws
from separatrix.core.tangent import AS_A_BATCH, Function, alike, as_a_batch, climb

SHORT = 3 / 7  # shortest trial step as a power of the round-off: 2e-7 of the state in float64, 1e-3 in float32, well above rounding
LONGER = 4.0  # ratio of one trial step to the one before
LENGTHS = 3  # number of trial steps
DIFFERENT = 1e-3  # relative error from which on a derivative may be refused
SAME = 0.1  # relative scatter up to which differences are trusted; it may also be no more than a quarter of the error
FIELD = -1  # index of a continuous system's residual among the functions that are differentiated; its steps are 0, 1, …
TRIALS, ENOUGH = 6, 2  # states tried, and states at which a number must differ
ASIDE = 0.01  # distance between two tried states, relative to the state: far enough to leave a kink, close in all other respects
DIRECTIONS = 2  # directions in which a kink is looked for

# Note [Whose derivative]
# A network may have been given a derivative that is not its own: by a detach, a straight-through estimator, a reversed gradient.
# Automatic differentiation returns that derivative, and a spectrum computed from it is not the spectrum of the map. So when a run
# first needs a derivative, each of its numbers is compared with differences of the function itself. For a map, the comparison is
# relative to what the step adds to the state, since a short step is close to the identity whatever its derivative is. Differences
# are trusted if three steps of different length agree: rounding inside the function changes the shortest, a bend or a kink the
# longest, and chaos within a long step all of them. A kink exactly at the state (a ReLU of zeros) does not show at other states, so
# several states are tried, and the derivative is refused if a number differs at two of them and agrees at none. A trial at states
# that the function does not accept is ignored.


class Tangents:
    """Automatic derivatives of a system's functions, with a memory of the rung of the ladder and of past comparisons."""

    def __init__(self, what: str = "step") -> None:
        self._what = what
        self._rungs: dict[int, int] = {}
        self._tried: set[int] = set()
        self._as_a_batch: dict[tuple[Any, ...], bool] = {}

    def of_another_run(self) -> "Tangents":
        """A copy with nothing compared yet, for a run whose parameters may have other values."""
        other = Tangents(self._what)
        other._rungs.update(self._rungs)
        return other

    def __call__(self, f: Function, x: Tensor, v: Tensor, which: int = 0) -> tuple[Tensor, Tensor]:
        """`pushforward` of the function number `which`; the first result is compared with f. See Note [Whose derivative].

        Raises:
            UnsupportedModuleError: f cannot be differentiated, or its automatic derivative is not its own.
        """
        key = (which, x.shape, v.shape)
        if self._as_a_batch.get(key) and not torch.is_grad_enabled():
            pushed_batch = as_a_batch(f, x, v)
            if pushed_batch is not None:
                return pushed_batch
            self._as_a_batch[key] = False
        value, pushed, self._rungs[which] = climb(f, x, v, self._rungs.get(which, 0))
        if key not in self._as_a_batch and self._may_be_a_batch(x, v):
            again = as_a_batch(f, x, v) if self._rungs[which] == 0 else None
            self._as_a_batch[key] = again is not None and alike(again[1], pushed)
            if again is not None and self._as_a_batch[key]:
                value, pushed = again  # as from now on, to the bit
        if self.is_first(x, v, value, which=which):
            check_derivative(f, x, "field" if which == FIELD else self._what)
        return value, pushed

    def _may_be_a_batch(self, x: Tensor, v: Tensor) -> bool:
        """Whether the tangents are few enough for Note [Tangents as a batch] to matter, and numbers that can be read."""
        if torch.is_grad_enabled() or _is_transformed(x, v):
            return False
        return 0 < v.numel() <= AS_A_BATCH and bool(v.isfinite().all())

    def is_first(self, *tensors: Tensor, which: int = 0) -> bool:
        """Whether the function number `which` has not been compared yet and can be now; true at most once."""
        if which in self._tried or _is_transformed(*tensors) or not bool(tensors[0].isfinite().all(-1).any()):
            return False
        self._tried.add(which)
        return True


def check_derivative(f: Function, x: Tensor, what: str = "step") -> None:
    """Refuse an automatic derivative that is not the function's own. See Note [Whose derivative].

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states to try it at, shape (*batch, dim).
        what: name of the function, "step" or "field".
    """
    changed = changed_derivative(f, x, lambda at, v: climb(f, at, v, 0)[1])
    if changed is None:
        return
    owner = "sx.System" if what == "step" else "sx.Field"
    raise UnsupportedModuleError(
        f"the automatic derivative of the {what} is not its true derivative: along one direction, one component is "
        f"{changed[0]:.6g}, but the {what} itself changes by {changed[1]:.6g}. Either its gradient was replaced (detach, a "
        f"straight-through or surrogate gradient, a custom backward), or the {what} jumps, as it does in half precision.\n"
        f"Exponents and eigenvalues would describe another map. To use this derivative anyway, subclass {owner} and return it "
        "from pushforward."
    )


def changed_derivative(f: Function, x: Tensor, push: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float] | None:
    """A number of a derivative and of the function's difference that differ beyond doubt; None if there is none.

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states to try it at, shape (*batch, dim).
        push: the derivative, (states, tangents as rows) → pushed tangents.
    """
    draws = _directions()
    counts: Tensor | None = None  # how often each number differed; −∞ once it agreed
    shown = (0.0, 0.0)
    with torch.no_grad():
        x = x.detach()
        size = _sizes(x)
        for attempt in range(TRIALS):
            along, aside = (draws.normal(*x.shape).to(x) * size for _ in range(2))
            trial = _tried(f, x + ASIDE * attempt * aside, along, push)
            if trial is None:
                continue
            derivative, difference, same, differs = trial
            counts = torch.zeros_like(derivative) if counts is None else counts
            counts = torch.where(same, -torch.inf, counts + differs)
            if bool((same | (counts < 0)).all()):
                return None
            if bool((counts >= ENOUGH).any()):
                place = int(counts.flatten().argmax())
                shown = float(derivative.flatten()[place]), float(difference.flatten()[place])
    return shown if counts is not None and bool((counts >= ENOUGH).any()) else None


def first_direction(x: Tensor) -> Tensor:
    """The tangent at x that `changed_derivative` pushes first, for a caller that pushes others anyway; shape (*batch, dim)."""
    return _directions().normal(*x.shape).to(x) * _sizes(x)


def _directions() -> Draws:
    return Draws(0, "directions in which a derivative is tried")


def _sizes(x: Tensor) -> Tensor:
    """The size of each number of a state: at least its mean over the batch and a thousandth of the largest; 1 if all are zero."""
    own = x.abs().nan_to_num(0.0, posinf=0.0)
    own = own.maximum(own.flatten(0, -2).mean(0)) if own.ndim > 1 else own
    own = own.maximum(own.amax(-1, keepdim=True) / 1000)
    return own.where(own > 0, 1.0)


def _tried(
    f: Function, x: Tensor, along: Tensor, push: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """For each number: the derivative along a direction, the difference, and whether they surely agree or surely differ."""
    eps = torch.finfo(x.dtype).eps
    lengths = [eps**SHORT * LONGER**i for i in range(LENGTHS)]
    try:
        pushed = push(x, along[..., None, :])[..., 0, :]
        ahead = f(x + lengths[0] * along)
        slopes = [(ahead if i == 0 else f(x + h * along)) - f(x - h * along) for i, h in enumerate(lengths)]
    except Exception:  # the user's code does not accept these states
        return None
    slopes = torch.stack([slope / (2 * h) for slope, h in zip(slopes, lengths, strict=True)])
    size = pushed.abs() + slopes.abs()
    if pushed.shape == along.shape:  # for a map, what the step adds
        size = size.minimum((pushed - along).abs() + (slopes - along).abs())
    rounding = 10 * eps / lengths[0] * torch.maximum(ahead.abs(), x.abs() if ahead.shape == x.shape else ahead.abs())
    apart = (pushed - slopes).abs()
    gap, doubt = apart.amin(0), slopes.amax(0) - slopes.amin(0)
    known = pushed.isfinite() & slopes.isfinite().all(0)
    same = (apart <= DIFFERENT * size + rounding).any(0) | ~known
    differs = known & ~same & (doubt <= torch.minimum(gap / 4, SAME * slopes[-1].abs() + rounding))
    return pushed, slopes[-1], same & known, differs


def on_a_kink(f: Function, x: Tensor, size: float) -> Tensor:
    """Where a function has different slopes ahead and behind, and so no derivative, shape (*batch).

    At a kink the difference of the two slopes does not depend on the length of the step. At a bend it shrinks with the step, and
    if it comes from rounding within the function it changes at random.

    Args:
        f: maps (*batch, dim) to (*batch, width), in float64: float32 needs steps so long that they cross kinks nearby.
        x: states, shape (*batch, dim).
        size: lower bound on the size of the states.
    """
    draws = Draws(0, "directions in which a kink is looked for")
    eps = torch.finfo(x.dtype).eps
    short = eps**SHORT
    found = torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)
    with torch.no_grad():
        try:
            value, scale = f(x), x.abs().amax(-1, keepdim=True).clamp(min=size)
            for _ in range(DIRECTIONS):
                along = draws.normal(*x.shape).to(x) * scale
                far, near = (_slopes(f, x, value, along, h) for h in (short, short / LONGER))
                rounding = 10 * eps / short * LONGER * torch.linalg.vector_norm(value, dim=-1)
                steep = sum(torch.linalg.vector_norm(_added(slope, along), dim=-1) for slope in near)
                jump, further = near[0] - near[1], far[0] - far[1]
                gap, apart = (torch.linalg.vector_norm(part, dim=-1) for part in (jump, jump - further))
                found |= (gap > DIFFERENT * steep + rounding) & (apart < gap / 4)
        except Exception:  # the user's code does not accept states beside these
            return torch.zeros_like(found)
    return found


def _added(slope: Tensor, along: Tensor) -> Tensor:
    """The slope of what the step adds, for a map; else the slope."""
    return slope - along if slope.shape == along.shape else slope


def _slopes(f: Function, x: Tensor, value: Tensor, along: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """Slopes ahead and behind."""
    return (f(x + h * along) - value) / h, (value - f(x - h * along)) / h


def _is_transformed(*tensors: Tensor) -> bool:
    """Whether the numbers cannot be read: under a function transform, in a trace, or on the meta device."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or any(t.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)
        or _get_current_dispatch_mode() is not None
    )
