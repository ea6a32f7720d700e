"""Poincaré sections: the map of a plane that takes a crossing of a flow to the next."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers, check_whole, refused
from separatrix.core.components import along_tangents
from separatrix.core.derived import Derived
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.parametric import Number, Parametric
from separatrix.core.system import System
from separatrix.core.twin import twin
from separatrix.flows.events.crossing import Crossing, Plane, check_autonomous, check_flow, next_crossing, shown
from separatrix.flows.flow import Flow

DIRECTIONS = {1: "upwards", -1: "downwards", 0: "either way"}


class Section(Derived):
    r"""Poincaré section: the map that takes a crossing of the plane n·x = c to the flow's next crossing, and the time between.

        x_{n+1} = Φ_τ(x_n),    τ = min {t > 0 : n·Φ_t(x_n) = c, crossed in `direction`},    DF = P (v − f (n·v) / (n·f))

    Its state is one component shorter than the flow's: coordinates in an orthonormal basis of the plane or, with `axis=i`, the
    remaining components in their order. `embed` and `project` convert between the two. A crossing is located to rounding error on
    a partial step of the solver, so that the map is exactly that of the solver's orbit; it differs from the map of the true flow
    at the solver's order in dt. `elapsed` is the return time, so exponents are per unit of the flow's time: they are those of
    the flow without its zero exponent. Each item of a batch has its own return time, and finished items cost nothing more.

    Args:
        system: an autonomous `Flow`.
        axis: index of the component that is constant on the plane, instead of `normal`.
        normal: n, shape (dim), of any length.
        offset: c: a number, or a tensor that broadcasts against the batch; a parameter of the section.
        direction: +1 for crossings along n, −1 for crossings against it, 0 for both. A state on the plane is followed to its next
            crossing, whichever way it leaves the plane.
        max_steps: maximum number of steps of the flow per return; an item that has not returned by then is NaN.

    Raises:
        InputError: neither or both of `axis` and `normal` are given; an axis, direction, offset or normal is out of range; in a
            run, the field depends on time, or no state returns (the message has the range of n·x).
        UnsupportedModuleError: the system is not a Flow.

    Limits: a direction that contracts in one return by more than the solver's error is measured at that error; for strongly
    contracting flows, use k=1 or a smaller dt. Two crossings within one step dt are missed. Where the flow is tangent to the
    plane, the map has no derivative and is discontinuous nearby.
    Source: Poincaré 1899, Les méthodes nouvelles III, ch. 27; tangents as Parker & Chua 1989, Practical Numerical Algorithms for
        Chaotic Systems, ch. 2–3.

    Example:
        >>> turn = sx.Flow(lambda x: torch.stack([x[..., 1], -x[..., 0]], -1), dim=2, dt=0.1)
        >>> section = sx.Section(turn, axis=0)  # x = 0, crossed upwards
        >>> print(f"{section.elapsed(torch.ones(1).double()).item():.3f}")  # 2π
        6.283
    """

    basis: Tensor

    def __init__(
        self,
        system: Flow,
        axis: int | None = None,
        *,
        normal: Tensor | Sequence[float] | None = None,
        offset: Number = 0.0,
        direction: int = 1,
        max_steps: int = 10_000,
    ) -> None:
        check_flow(system, "a section")
        normal = _normal(system, axis, normal)
        _check_section(offset, direction, max_steps)
        super().__init__(system, dt=1.0)
        self.dim, self.start = system.dim - 1, None
        self.plane = Plane(normal, offset)
        self.register_buffer("basis", orthonormal_basis(self.plane.normal), persistent=False)
        self.direction, self.max_steps = direction, max_steps

    def embed(self, u: Tensor) -> Tensor:
        """Convert points on the plane to states of the flow, shape (*batch, dim) → (*batch, dim + 1)."""
        return u @ self.basis + along_tangents(self.plane.distance) * self.plane.normal

    def project(self, x: Tensor) -> Tensor:
        """Project states of the flow along n to points on the plane, shape (*batch, dim + 1) → (*batch, dim)."""
        return x @ self.basis.mT

    def pack(self, *state: Any) -> Tensor:
        """Project a state in the flow's own form to a point on the plane."""
        return self.project(self.system.pack(*state))

    def unpack(self, x: Tensor) -> Any:
        """Convert a point on the plane to a state in the flow's own form."""
        return self.system.unpack(self.embed(x))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The next crossing; NaN if there is none within `max_steps`."""
        return self._return(x).x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The next crossing, and the tangents of the map."""
        back = self._followed(self.embed(x), v @ self.basis, leaving=True)
        found = Crossing(self.project(back.x), self.project(back.v), back.time)
        self._keep(x, found)
        return found.x, found.v

    def elapsed(self, x: Tensor, n: int = 0) -> Tensor:
        """The return time, shape (*batch)."""
        return self._return(x).time

    # a section is a map: the zeros of its residual are the flow's cycles
    continuous = False  # pyright: ignore[reportAssignmentType]
    noise_of_step = System.noise_of_step
    width = System.width  # its own, not the flow's

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The first crossing of the orbit from the flow's initial state."""
        ready = twin(self, dtype=torch.float64, device=torch.device("cpu"))
        start = self.system.initial_state(batch, seed)
        found = ready._followed(start, None, leaving=False)
        ready._check_found(start, ~torch.isfinite(found.time).all(), "the flow's start")
        return ready.project(found.x)

    def check_start(self, x: Tensor) -> None:
        """Raise an error if the field depends on time, if the flow's method cannot solve it, or if no state returns."""
        self.system.check_start(self.embed(x))
        with torch.no_grad():
            check_autonomous(self.system, self.embed(x), "a section's next point depends on the point alone")
            self._check_found(self.embed(x), ~torch.isfinite(self._return(x).time).any(), "x0")

    def extra_repr(self) -> str:
        """The text between the parentheses of `repr`."""
        return f"dim={self.dim}, direction={self.direction}"

    def _return(self, x: Tensor) -> Crossing:
        """The next crossing, in coordinates of the plane; reused if the last call had the same state."""
        known: _Known | None = self.__dict__.get("_known")
        if known is not None and known.still_holds(self, x):
            return known.crossing
        back = self._followed(self.embed(x), None, leaving=True)
        return self._keep(x, Crossing(self.project(back.x), self.project(back.v), back.time))

    def _keep(self, x: Tensor, found: Crossing) -> Crossing:
        self.__dict__["_known"] = _Known.of(self, x, found)
        return found

    def _followed(self, x: Tensor, v: Tensor | None, *, leaving: bool) -> Crossing:
        return next_crossing(self.system, self.plane, x, v, direction=self.direction, max_steps=self.max_steps, leaving=leaving)

    def _check_found(self, start: Tensor, failed: Tensor, source: str) -> None:
        """Refuse a start from which the plane is not crossed; the message has the range of n·x along the orbit."""
        if not bool(failed):
            return
        low, high = self._range(start)
        raise InputError(
            f"the section n·x = {shown(self.plane.offset)} was not crossed {DIRECTIONS[self.direction]}: from {source}, "
            f"n·x stayed within {low:.6g} … {high:.6g} over {self.max_steps:,} steps of the flow.\n"
            "Move the offset into that range, start elsewhere, or increase max_steps."
        )

    def _range(self, x: Tensor) -> tuple[float, float]:
        """The smallest and largest n·x along a run from x, over all items."""
        low, high = math.inf, -math.inf
        for _ in range(self.max_steps):
            x = self.system.step(x)
            seen = x @ self.plane.normal * self.plane.length
            seen = seen[torch.isfinite(seen)]
            if not seen.numel():
                break
            low, high = min(low, float(seen.min())), max(high, float(seen.max()))
        return low, high


class _Known(NamedTuple):
    """A crossing and everything that it was computed from: valid while these tensors and numbers are unchanged."""

    crossing: Crossing
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    numbers: tuple[float, ...]
    graph: bool

    @classmethod
    def of(cls, section: Section, x: Tensor, crossing: Crossing) -> "_Known | None":
        """None if PyTorch does not count in-place changes, or if a graph is attached, which serves one backward pass only."""
        tensors = (x, *crossing, *section.parameters(), *section.buffers())
        if any(tensor.is_inference() for tensor in tensors) or any(part.requires_grad for part in crossing):
            return None
        versions = tuple(tensor._version for tensor in tensors)
        return cls(crossing, tensors, versions, _held_numbers(section), torch.is_grad_enabled())

    def still_holds(self, section: Section, x: Tensor) -> bool:
        """Whether computing it now would give the same crossing."""
        now = (x, *self.crossing, *section.parameters(), *section.buffers())
        return (
            len(now) == len(self.tensors)
            and all(one is other for one, other in zip(now, self.tensors, strict=True))
            and tuple(tensor._version for tensor in now) == self.versions
            and self.numbers == _held_numbers(section)
            and self.graph == torch.is_grad_enabled()
        )


def _held_numbers(section: Section) -> tuple[float, ...]:
    parts = [part for part in section.modules() if isinstance(part, Parametric)]
    return tuple(value for part in parts for name in part._ranks if not isinstance(value := getattr(part, name), Tensor))


def orthonormal_basis(unit: Tensor) -> Tensor:
    """Orthonormal rows perpendicular to a unit vector, shape (dim − 1, dim), from the reflection that takes it to its main axis.

    For an axis, they are the other axes in their order.
    """
    main = int(unit.abs().argmax())
    w = unit.clone()
    w[main] += 1 if float(unit[main]) >= 0 else -1
    reflection = torch.eye(len(unit), dtype=unit.dtype) - 2 * torch.outer(w, w) / (w @ w)
    return reflection[[i for i in range(len(unit)) if i != main]]


def _normal(system: Flow, axis: int | None, normal: Tensor | Sequence[float] | None) -> Tensor:
    """The plane's normal in float64, shape (dim)."""
    dim = system.dim
    if dim < 2:
        raise ShapeError(f"a section needs a flow with at least 2 components; this one has {dim}.")
    if (axis is None) == (normal is None):
        raise InputError(f"expected either axis or normal, got {'neither' if axis is None else 'both'}.")
    if axis is not None:
        check_whole("axis", axis, 0, dim - 1)
        return torch.eye(dim, dtype=torch.float64)[axis]
    normal = as_numbers("normal", normal)
    if normal.shape != (dim,):
        raise ShapeError(f"the normal has shape {tuple(normal.shape)}, but the flow's state has {dim} numbers.")
    if not bool(torch.isfinite(normal).all()) or not bool(normal.any()):
        raise InputError(f"the normal is {normal.tolist()}; it must be finite and nonzero.")
    return normal


def _check_section(offset: Number, direction: int, max_steps: int) -> None:
    if not bool(torch.isfinite(as_numbers("offset", offset)).all()):
        raise InputError(f"offset is {shown(offset)}; expected a finite number.")
    if check_whole("direction", direction) not in DIRECTIONS:
        raise refused("direction", direction, "1 (crossings along the normal), -1 (against it) or 0 (both)")
    check_whole("max_steps", max_steps, 1)
