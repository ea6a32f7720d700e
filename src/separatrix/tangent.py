"""Derivatives of a callable along tangents and cotangents, whatever the callable is made of.

Tangents are rows: `v` has shape (*batch, k, dim), one state's k tangents under each other.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from traceback import walk_tb

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from separatrix.errors import UnsupportedModuleError
from separatrix.randomness import Draws

Function = Callable[[Tensor], Tensor]

SHORT = 3 / 7  # power of the round-off: a trial step of 2e-7 of the state in float64, 1e-3 in float32, well above rounding
LONGER = 4.0  # times as long as that is the other one
DIFFERENT = 1e-3  # of a derivative's length, by which it differs at least from a difference of the function
SAME = 0.1  # of their length, and a quarter of what they have to tell, by which two differences differ at most
TRIALS = 6
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
# against differences of the function itself, when it is first asked for. They are trusted where they are safe from both of their
# errors: two steps of different length must agree. Rounding inside the function moves the shorter, a bend or a kink the longer,
# and chaos within a long step both. A kink at the very state (a ReLU of zeros) shows at no other state: so a derivative that
# differs is tried at two further ones, and is refused where it differs at all three.


class Tangents:
    """How a system's functions are differentiated: automatically, and what was found out about it on the way."""

    def __init__(self) -> None:
        self._rungs: dict[int, int] = {}
        self._tried: set[int] = set()

    def __call__(self, f: Function, x: Tensor, v: Tensor, which: int = 0) -> tuple[Tensor, Tensor]:
        """`pushforward`, for the function of that number; when first asked, held against the function. See Note [Whose derivative].

        Raises:
            UnsupportedModuleError: no derivative goes through f, or the one that does is not f's own.
        """
        value, pushed, self._rungs[which] = climb(f, x, v, self._rungs.get(which, 0))
        if which not in self._tried and v.shape[-2] and not _is_transformed(x, v, value):
            check_derivative(f, x)
            self._tried.add(which)
        return value, pushed


def check_derivative(f: Function, x: Tensor) -> None:
    """Refuse an automatic derivative that is not the function's own. See Note [Whose derivative].

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states to try it at, shape (*batch, dim).
    """
    changed = changed_derivative(f, x, lambda at, v: climb(f, at, v, 0)[1])
    if changed is None:
        return
    raise UnsupportedModuleError(
        "the derivative that automatic differentiation gives is not that of the step: along one direction it is "
        f"{changed.derivative:.6g}, while the step itself changes by {changed.difference:.6g}. Its author changed it (detach, a "
        "straight-through or surrogate gradient, a backward of its own), or the step jumps, as one in half precision does.\n"
        "Exponents and eigenvalues would be of another map. To measure with that derivative all the same, subclass sx.System and "
        "give it as pushforward."
    )


def changed_derivative(f: Function, x: Tensor, push: Callable[[Tensor, Tensor], Tensor]) -> "Trial | None":
    """How a derivative differs from the function's own, beyond doubt; None where it does not.

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states to try it at, shape (*batch, dim).
        push: (state, tangents as rows) → pushed tangents, of the derivative.
    """
    draws, found = Draws(0, "directions in which a derivative is tried"), []
    with torch.no_grad():
        x = x.detach()
        size = x.abs().amax(-1, keepdim=True)
        size = size.where(size > 0, f(x).abs().amax().nan_to_num(0.0, posinf=0.0))
        size = size.where(size > 0, 1.0)
        for attempt in range(TRIALS):
            along, aside = (draws.normal(*x.shape).to(x) * size for _ in range(2))
            trial = _tried(f, x + 0.01 * attempt * aside, along, push)
            if trial.is_same:
                return None
            found += [trial] if trial.is_known else []
    return found[0] if len(found) > 1 else None


@dataclass(frozen=True)
class Trial:
    """The lengths of a derivative along a direction and of a difference of the function; how far apart, how well known."""

    derivative: float
    difference: float
    gap: float
    doubt: float
    rounding: float

    @property
    def is_same(self) -> bool:
        """Whether the two are one."""
        return self.gap <= DIFFERENT * (self.derivative + self.difference) + self.rounding

    @property
    def is_known(self) -> bool:
        """Whether two differences agree, so that what they say can be trusted."""
        return self.doubt <= min(self.gap / 4, SAME * self.difference + self.rounding)


def _tried(f: Function, x: Tensor, along: Tensor, push: Callable[[Tensor, Tensor], Tensor]) -> Trial:
    pushed = push(x, along[..., None, :])[..., 0, :]
    eps = torch.finfo(x.dtype).eps
    short = eps**SHORT
    ahead = f(x + short * along)
    near = (ahead - f(x - short * along)) / (2 * short)
    far = (f(x + LONGER * short * along) - f(x - LONGER * short * along)) / (2 * LONGER * short)
    known = (pushed.isfinite() & near.isfinite() & far.isfinite()).all(-1)
    pushed, near, far, ahead = pushed[known], near[known], far[known], ahead[known]
    return Trial(*(float(part.norm()) for part in (pushed, near, pushed - near, near - far, 10 * eps / short * ahead)))


def on_a_kink(f: Function, x: Tensor, size: float) -> Tensor:
    """Where a function has two slopes, ahead and behind, so that it has no derivative there, shape (*batch).

    At a kink the difference of the slopes is the same whatever the length of the step; at a bend it shrinks with it, and of
    rounding within the function it is another each time.

    Args:
        f: maps (*batch, dim) to (*batch, width).
        x: states, shape (*batch, dim).
        size: of the states among which they are, where they are smaller themselves.
    """
    draws = Draws(0, "directions in which a kink is looked for")
    eps = torch.finfo(x.dtype).eps
    short = eps**SHORT
    found = torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)
    with torch.no_grad():
        value, scale = f(x), x.abs().amax(-1, keepdim=True).clamp(min=size)
        for _ in range(DIRECTIONS):
            along = draws.normal(*x.shape).to(x) * scale
            far, near = (_slopes(f, x, value, along, h) for h in (short, short / LONGER))
            rounding = 10 * eps / short * LONGER * torch.linalg.vector_norm(value, dim=-1)
            steep = torch.linalg.vector_norm(near[0], dim=-1) + torch.linalg.vector_norm(near[1], dim=-1)
            jump, further = near[0] - near[1], far[0] - far[1]
            gap, apart = (torch.linalg.vector_norm(part, dim=-1) for part in (jump, jump - further))
            found |= (gap > DIFFERENT * steep + rounding) & (apart < gap / 4)
    return found


def _slopes(f: Function, x: Tensor, value: Tensor, along: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """Differences ahead and behind."""
    return (f(x + h * along) - value) / h, (value - f(x - h * along)) / h


def _is_transformed(*tensors: Tensor) -> bool:
    """Whether numbers cannot be looked at here: under a transform of functions, or in a compiler."""
    return torch.compiler.is_compiling() or any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


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


def stack_batch_last(parts: Sequence[Tensor], dim: int) -> Tensor:
    """`torch.stack` at a negative `dim`, with the batch axes innermost in memory.

    A batch of small states is then a structure of arrays: each component's slice is contiguous, and elementwise work on it runs
    at the speed of the vector unit.
    """
    turned = torch.broadcast_tensors(*parts)
    if turned[0].ndim > 1:
        turned = [part.permute(tuple(reversed(range(part.ndim)))) for part in turned]
    stacked = torch.stack(turned, dim=-1 - dim)
    return stacked.permute(tuple(reversed(range(stacked.ndim))))


def batch_innermost(x: Tensor) -> Tensor:
    """The same numbers with the batch axes innermost in memory; no copy where they already are."""
    turned = tuple(reversed(range(x.ndim)))
    return x.permute(turned).contiguous().permute(turned)


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


def _twice_reverse(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """J v as the derivative of w ↦ Jᵀ w, which is linear in w, so that the point w = 0 is as good as any."""
    keep = torch.is_grad_enabled() and (v.requires_grad or x.requires_grad or f(x).requires_grad)
    with plain_kernels(), torch.inference_mode(False), torch.enable_grad():
        state = x if x.requires_grad else x.detach().clone().requires_grad_()
        value = f(state)
        w = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, state, w, create_graph=True)
        rows = [torch.autograd.grad(back, w, row.clone(), create_graph=keep, retain_graph=True)[0] for row in v.unbind(-2)]
    pushed = torch.stack(rows, dim=-2)
    return (value, pushed) if keep else (value.detach(), pushed.detach())


RUNGS = (_all_at_once, _all_at_once_in_plain_kernels, _one_by_one, _twice_reverse)
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
