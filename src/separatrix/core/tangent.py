"""Derivatives of a callable along tangents and cotangents, whatever the callable is made of.

Tangents are rows: `v` has shape (*batch, k, dim), one state's k tangents under each other.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from traceback import walk_tb

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _get_current_dispatch_mode

from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.randomness import Draws

Function = Callable[[Tensor], Tensor]

SHORT = 3 / 7  # power of the round-off: a trial step of 2e-7 of the state in float64, 1e-3 in float32, well above rounding
LONGER = 4.0  # from one of the trial steps to the next
LENGTHS = 3  # trial steps of other lengths
DIFFERENT = 1e-3  # of its own size, by which a derivative differs at least from every difference of the function
SAME = 0.1  # of their size, and a quarter of what they have to tell, by which the differences differ at most
FIELD = -1  # number of a continuous system's residual among the functions that are differentiated; its steps are 0, 1, …
TRIALS, ENOUGH = 6, 2  # states and directions that are tried, and those that must tell
ASIDE = 0.01  # of the state's size, by which each of them is further from it: far from a kink that it sits on, near all else
DIRECTIONS = 2  # in which a kink is looked for

# Note [Ladder of tangents]
# Forward AD is what we want: k tangents for the price of about k forward passes, no graph. Three things stand in the way:
# vmap refuses modules that write to buffers or draw on data (so: one tangent after the other); fused kernels (mkldnn and
# cuDNN recurrent layers, flash and memory-efficient attention) have no forward derivative (so: the plain kernels); and a few
# operators have none at all (so: the derivative of the vector-Jacobian product, which needs only reverse mode, twice).
# Never a finite difference: it would be wrong by 1e-8 and nobody would know.

# Note [Whose derivative]
# The author of a network may have given it a derivative that is not its own: a detach, a straight-through estimator, a gradient
# that is reversed. Automatic differentiation gives that one, and a spectrum of it is not the map's. So a derivative is held
# against differences of the function itself, when a run first asks for it, number by number. Of a map it is compared by what the
# step adds to the state, since a short step is nearly the identity whatever its derivative is. Differences are trusted where
# three steps of different length agree: rounding inside the function moves the shortest, a bend or a kink the longest, and chaos
# within a long step all. A kink at the very state (a ReLU of zeros) shows at no other: so a number is tried at further states, and
# the derivative is refused where it differs at two of them and is the function's at none. A trial that the function does not
# take tells nothing.


class Tangents:
    """How a system's functions are differentiated: automatically, and what was found out about it on the way."""

    def __init__(self, what: str = "step") -> None:
        self._what = what
        self._rungs: dict[int, int] = {}
        self._tried: set[int] = set()

    def of_another_run(self) -> "Tangents":
        """The same with nothing held against the function yet, whose parameters may be others."""
        other = Tangents(self._what)
        other._rungs.update(self._rungs)
        return other

    def __call__(self, f: Function, x: Tensor, v: Tensor, which: int = 0) -> tuple[Tensor, Tensor]:
        """`pushforward`, for the function of that number; when first asked, held against the function. See Note [Whose derivative].

        Raises:
            UnsupportedModuleError: no derivative goes through f, or the one that does is not f's own.
        """
        value, pushed, self._rungs[which] = climb(f, x, v, self._rungs.get(which, 0))
        if self.is_first(x, v, value, which=which):
            check_derivative(f, x, "field" if which == FIELD else self._what)
        return value, pushed

    def is_first(self, *tensors: Tensor, which: int = 0) -> bool:
        """Whether nothing was held against the function of that number yet, and its numbers can be looked at; asked once."""
        if which in self._tried or _is_transformed(*tensors) or not bool(tensors[0].isfinite().all(-1).any()):
            return False
        self._tried.add(which)
        return True


def check_derivative(f: Function, x: Tensor, what: str = "step") -> None:
    """Refuse an automatic derivative that is not the function's own. See Note [Whose derivative].

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states to try it at, shape (*batch, dim).
        what: f is, in words: the step or the field.
    """
    changed = changed_derivative(f, x, lambda at, v: climb(f, at, v, 0)[1])
    if changed is None:
        return
    owner = "sx.System" if what == "step" else "sx.Field"
    raise UnsupportedModuleError(
        f"the derivative that automatic differentiation gives is not that of the {what}: along one direction one number of it is "
        f"{changed[0]:.6g}, while the {what} itself changes by {changed[1]:.6g}. Its author changed it (detach, a straight-through "
        f"or surrogate gradient, a backward of its own), or the {what} jumps, as one in half precision does.\n"
        f"Exponents and eigenvalues would be of another map. To measure with that derivative all the same, subclass {owner} and "
        "give it as pushforward."
    )


def changed_derivative(f: Function, x: Tensor, push: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float] | None:
    """A number of a derivative and of the function's difference, where they differ beyond doubt; None where they do not.

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states to try it at, shape (*batch, dim).
        push: (state, tangents as rows) → pushed tangents, of the derivative.
    """
    draws = Draws(0, "directions in which a derivative is tried")
    told: Tensor | None = None  # how often each number differed; −∞ once it was the same
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
            told = torch.zeros_like(derivative) if told is None else told
            told = torch.where(same, -torch.inf, told + differs)
            if bool((same | (told < 0)).all()):
                return None
            if bool((told >= ENOUGH).any()):
                place = int(told.flatten().argmax())
                shown = float(derivative.flatten()[place]), float(difference.flatten()[place])
    return shown if told is not None and bool((told >= ENOUGH).any()) else None


def _sizes(x: Tensor) -> Tensor:
    """How large each number of a state is: as in the batch, and no less than a thousandth of the largest; 1 where all are zero."""
    own = x.abs().nan_to_num(0.0, posinf=0.0)
    own = own.maximum(own.flatten(0, -2).mean(0)) if own.ndim > 1 else own
    own = own.maximum(own.amax(-1, keepdim=True) / 1000)
    return own.where(own > 0, 1.0)


def _tried(
    f: Function, x: Tensor, along: Tensor, push: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Of each number: the derivative along a direction, the difference, and whether they are surely the same, or surely not."""
    eps = torch.finfo(x.dtype).eps
    lengths = [eps**SHORT * LONGER**i for i in range(LENGTHS)]
    try:
        pushed = push(x, along[..., None, :])[..., 0, :]
        ahead = f(x + lengths[0] * along)
        slopes = [(ahead if i == 0 else f(x + h * along)) - f(x - h * along) for i, h in enumerate(lengths)]
    except Exception:  # the user's code: it does not take these states
        return None
    slopes = torch.stack([slope / (2 * h) for slope, h in zip(slopes, lengths, strict=True)])
    size = pushed.abs() + slopes.abs()
    if pushed.shape == along.shape:  # of a map, what the step adds
        size = size.minimum((pushed - along).abs() + (slopes - along).abs())
    rounding = 10 * eps / lengths[0] * torch.maximum(ahead.abs(), x.abs() if ahead.shape == x.shape else ahead.abs())
    apart = (pushed - slopes).abs()
    gap, doubt = apart.amin(0), slopes.amax(0) - slopes.amin(0)
    known = pushed.isfinite() & slopes.isfinite().all(0)
    same = (apart <= DIFFERENT * size + rounding).any(0) | ~known
    differs = known & ~same & (doubt <= torch.minimum(gap / 4, SAME * slopes[-1].abs() + rounding))
    return pushed, slopes[-1], same & known, differs


def on_a_kink(f: Function, x: Tensor, size: float) -> Tensor:
    """Where a function has two slopes, ahead and behind, so that it has no derivative there, shape (*batch).

    At a kink the difference of the slopes is the same whatever the length of the step; at a bend it shrinks with it, and of
    rounding within the function it is another each time.

    Args:
        f: maps (*batch, dim) to (*batch, width), in float64: shorter numbers need steps that cross kinks nearby.
        x: states, shape (*batch, dim).
        size: of the states among which they are, where they are smaller themselves.
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
        except Exception:  # the user's code: it does not take states beside these
            return torch.zeros_like(found)
    return found


def _added(slope: Tensor, along: Tensor) -> Tensor:
    """Of a map, how what the step adds changes."""
    return slope - along if slope.shape == along.shape else slope


def _slopes(f: Function, x: Tensor, value: Tensor, along: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """Differences ahead and behind."""
    return (f(x + h * along) - value) / h, (value - f(x - h * along)) / h


def _is_transformed(*tensors: Tensor) -> bool:
    """Whether numbers cannot be looked at here: under a transform of functions, in a trace, or where there are none."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or any(t.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)
        or _get_current_dispatch_mode() is not None
    )


def pushforward(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""f(x) and the tangents carried along,  v ↦ Df(x) v.

    Args:
        f: maps (*batch, dim) to (*batch, width), each batch item on its own.
        x: states, shape (*batch, dim).
        v: tangents as rows, shape (*batch, k, dim).

    Returns:
        f(x), shape (*batch, width), and the pushed tangents, shape (*batch, k, width).

    Raises:
        UnsupportedModuleError: neither forward nor twice-reverse differentiation goes through f.
    """
    value, pushed, _ = climb(f, x, v, 0)
    return value, pushed


def climb(f: Function, x: Tensor, v: Tensor, rung: int) -> tuple[Tensor, Tensor, int]:
    """`pushforward` from a given rung of the ladder, with the rung that held. See Note [Ladder of tangents]."""
    if v.shape[-2] == 0:
        value = f(x)
        return value, value.new_zeros(*value.shape[:-1], 0, value.shape[-1]), rung
    failures: list[Exception] = []
    for height in range(rung, len(LADDER)):
        try:
            value, pushed = LADDER[height](f, x, v)
            return value, pushed, height
        except (RuntimeError, NotImplementedError, ValueError) as failure:
            if height == rung:
                f(x)  # an error of f's own is f's to tell, not the ladder's
            failures.append(failure)
    raise no_derivative(_layer(failures), failures[-1], f" (forward mode: {_first_line(failures[0])})")


def no_derivative(where: str, failure: Exception, more: str = "") -> UnsupportedModuleError:
    """That automatic differentiation fails, where, and what to do."""
    if "use_reentrant" in str(failure):
        return UnsupportedModuleError(
            f"no derivative goes through {where}: torch.utils.checkpoint with use_reentrant=True is not differentiable here.\n"
            "Pass use_reentrant=False to checkpoint, which computes the same."
        )
    return UnsupportedModuleError(
        f"no derivative goes through {where}: {_first_line(failure)}{more}.\n"
        "Replace the operator named here by one that can be differentiated, or give the system its own pushforward."
    )


def jacobian(f: Function, x: Tensor) -> Tensor:
    """The dense Jacobian ∂f_i/∂x_j, shape (*batch, width, dim), of f at states x of shape (*batch, dim)."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
    return pushforward(f, x, identity)[1].mT


def pullback(f: Function, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and the cotangents carried back, w ↦ Df(x)ᵀ w; `w` as rows, shape (*batch, k, width) → (*batch, k, dim)."""
    value, back = torch.func.vjp(f, x)[:2]
    rows = [back(row)[0] for row in w.unbind(-2)]
    return value, torch.stack(rows, dim=-2)


def _all_at_once(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return vmap(lambda tangent: _along(f, x, tangent), in_dims=-2, out_dims=(None, -2), randomness="same")(v)


def _along(f: Function, x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """One tangent. A step that ignores x would give it back without vmap's axis, which crashes torch 2.13: hence the zero."""
    value, pushed = jvp(f, (x,), (tangent,))[:2]
    return value, pushed + torch.zeros_like(tangent).sum()


def _all_at_once_in_plain_kernels(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    with plain_kernels():
        return _all_at_once(f, x, v)


def _one_by_one(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    with plain_kernels():
        pairs = [_along(f, x, tangent) for tangent in v.unbind(-2)]
        return pairs[0][0], torch.stack([pushed for _, pushed in pairs], dim=-2)


def twice_reverse(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`pushforward` without forward AD: J v as the derivative of w ↦ Jᵀ w, linear in w, so that w = 0 is as good as any."""
    keep = torch.is_grad_enabled() and (v.requires_grad or x.requires_grad or f(x).requires_grad)
    with plain_kernels(), torch.inference_mode(False), torch.enable_grad():
        state = x if x.requires_grad else x.detach().clone().requires_grad_()
        value = f(state)
        w = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, state, w, create_graph=True)
        rows = [torch.autograd.grad(back, w, row.clone(), create_graph=keep, retain_graph=True)[0] for row in v.unbind(-2)]
    pushed = torch.stack(rows, dim=-2)
    return (value, pushed) if keep else (value.detach(), pushed.detach())


RUNGS = (_all_at_once, _all_at_once_in_plain_kernels, _one_by_one, twice_reverse)
LADDER = RUNGS


def leave_uncompiled() -> None:
    """Have `torch.compile` run the ladder as it is: forward AD under vmap does not pass through symbolic shapes (torch 2.13)."""
    global LADDER
    LADDER = tuple(torch.compiler.disable(rung) for rung in RUNGS)


def plain_kernels() -> ExitStack:
    """A context without the fused kernels that have no forward derivative."""
    stack = ExitStack()
    stack.enter_context(_without_mkldnn())
    stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
    return stack


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    """`torch.backends.mkldnn.flags(enabled=False)` would set TF32 too, and warn about Intel GPUs."""
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def _layer(failures: list[Exception]) -> str:
    """The innermost module on the last traceback that passes through one (that of a backward pass does not)."""
    for failure in reversed(failures):
        frames = [frame for frame, _ in walk_tb(failure.__traceback__)]
        owners = [frame.f_locals.get("self") for frame in frames]
        layers = [type(owner).__name__ for owner in owners if isinstance(owner, torch.nn.Module)]
        if layers:
            return f"the layer {layers[-1]}"
    return "the step"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200]
