"""States as users write them (tuples, dictionaries, images, complex numbers), packed into vectors and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.structure import Nested, as_pairs, children, from_pairs, leaves, refilled
from separatrix.flows.field import Field, FunctionField
from separatrix.flows.methods.solver import Time

REAL = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Form:
    """The layout of a state: its tensors one after another, each flattened; complex numbers as pairs of real ones.

    Args:
        like: a state of the run, which defines the containers, shapes and dtypes.
        batch_axes: number of leading batch axes of each tensor.
    """

    like: Nested
    batch_axes: int

    @classmethod
    def of(cls, x0: Nested, batch_axes: int | None) -> "Form | None":
        """The form of a structured state; None for a vector.

        Raises:
            InputError: it holds no tensor, or a tensor that is neither real nor complex floating-point.
            ShapeError: its tensors do not share the batch axes.
        """
        if isinstance(x0, Tensor):
            if not x0.is_complex() and (batch_axes is None or batch_axes == x0.ndim - 1):
                return None
            batch_axes = x0.ndim - 1 if batch_axes is None else batch_axes
        elif isinstance(x0, Mapping) and not leaves(x0):
            raise InputError("expected a dictionary of tensors for x0, but it holds no tensor.\nPass its numbers as tensors.")
        elif children(x0) is None or not leaves(x0):
            return None  # not a state: whoever reads it reports that
        form = cls(x0, 0 if batch_axes is None else check_whole("batch_axes", batch_axes, 0))
        form._check()
        return form

    @classmethod
    def of_shapes(cls, shapes: Any) -> "Form":
        """The form of states without a batch: from the shape of one tensor, or a tuple, list or dictionary of shapes."""
        return cls(_of_shapes(shapes), 0)

    @property
    def dim(self) -> int:
        """Length of the packed vector."""
        return sum(self._sizes())

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes."""
        return tuple(leaves(self.like)[0].shape[: self.batch_axes])

    def pack(self, state: Nested) -> Tensor:
        """Pack states, whose tensors may have any leading axes, into vectors (*lead, dim)."""
        parts = []
        for part, like in zip(leaves(state), leaves(self.like), strict=True):
            own = like.ndim - self.batch_axes
            if part.ndim < own or part.shape[part.ndim - own :] != like.shape[self.batch_axes :]:
                wanted, found = tuple(like.shape[self.batch_axes :]), tuple(part.shape)
                raise ShapeError(f"a part of the state has shape {found}; expected one that ends in {wanted}, the shape in x0.")
            part = part.to(like.dtype) if like.is_complex() else part
            flat = part.reshape((*part.shape[: part.ndim - own], -1))
            parts.append(as_pairs(flat) if like.is_complex() else flat)
        return torch.cat(parts, dim=-1)

    def unpack(self, x: Tensor) -> Nested:
        """Unpack vectors (*lead, dim) into states."""
        parts = []
        for part, like in zip(x.split(self._sizes(), dim=-1), leaves(self.like), strict=True):
            value = from_pairs(part) if like.is_complex() else part
            parts.append(value.reshape((*x.shape[:-1], *like.shape[self.batch_axes :])))
        return refilled(self.like, iter(parts))

    def _sizes(self) -> list[int]:
        shapes = [(part.shape[self.batch_axes :].numel(), part.is_complex()) for part in leaves(self.like)]
        return [2 * size if is_complex else size for size, is_complex in shapes]

    def _check(self) -> None:
        parts = leaves(self.like)
        for part in parts:
            if (part.real.dtype if part.is_complex() else part.dtype) not in REAL:
                kind = str(part.dtype).removeprefix("torch.")
                raise InputError(
                    f"expected float32, float64 or complex states, but a part of x0 is {kind}.\nPass .double() or .float()."
                )
            if part.ndim < self.batch_axes or part.shape[: self.batch_axes] != parts[0].shape[: self.batch_axes]:
                shapes = ", ".join(str(tuple(one.shape)) for one in parts)
                raise ShapeError(
                    f"expected parts of x0 that share {self.batch_axes} batch axes, got shapes {shapes}.\n"
                    "Set batch_axes to the number of leading axes that all parts share, or to 0 if x0 is a single state."
                )


def _of_shapes(shapes: Any) -> Nested:
    if isinstance(shapes, torch.Size | tuple | list) and all(isinstance(size, int) for size in shapes):
        return torch.empty(tuple(shapes))
    if isinstance(shapes, dict) and shapes:
        return {key: _of_shapes(shape) for key, shape in shapes.items()}
    if isinstance(shapes, tuple | list) and shapes:
        return type(shapes)(_of_shapes(shape) for shape in shapes)
    raise InputError(
        f"shape is {shapes!r}; expected the shape of a state without its batch, (3, 32, 32), or a tuple or dictionary of such: "
        '((2,), (1,)), {"q": (2,)}.'
    )


class Structured(Field):
    """A field on vectors, from a field on structured states.

    Args:
        field: takes and returns states in their own form.
        form: how they become vectors.
        in_one_batch: call a module with one batch axis, whatever the batch axes of the vectors.
    """

    def __init__(self, field: Callable[..., Any], form: Form, *, time_dependent: bool, in_one_batch: bool) -> None:
        super().__init__()
        self.inner = _Plain(field, time_dependent=time_dependent)
        self.form, self.time_dependent = form, time_dependent
        self.in_one_batch = in_one_batch and isinstance(self.inner.function, nn.Module)

    def forward(self, x: Tensor, t: Time) -> Tensor:
        lead = x.shape[:-1]
        if self.in_one_batch and len(lead) != 1:
            x, t = x.reshape(-1, x.shape[-1]), t.expand(lead).reshape(-1) if isinstance(t, Tensor) and t.ndim else t
        velocity = self.inner(self.form.unpack(x), t)
        self._check(velocity)
        return self.form.pack(velocity).reshape(*lead, -1)

    def _check(self, velocity: Nested) -> None:
        found, like = leaves(velocity), leaves(self.form.like)
        own = [tuple(part.shape[self.form.batch_axes :]) for part in like]
        fits = len(found) == len(like) and all(
            shape == (tuple(part.shape[part.ndim - len(shape) :]) if shape else ()) for part, shape in zip(found, own, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"expected velocities of the same parts as the states, {', '.join(map(str, own))}, got parts "
                f"{', '.join(str(tuple(part.shape)) for part in found) or 'none'}.\n"
                "Return one velocity for each number of the state, in the same containers."
            )


class _Plain(FunctionField):
    """A user's function, with its value unchanged."""

    def forward(self, x: Any, t: Time) -> Any:
        like = leaves(x)[0]
        when = (t if isinstance(t, Tensor) else torch.tensor(t, dtype=like.real.dtype, device=like.device),)
        return self.function(x, *(when if self.time_dependent else ()))
