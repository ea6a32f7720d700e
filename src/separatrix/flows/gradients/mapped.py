"""Solutions under `torch.func.vmap`: its lanes become items of the batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack, temporarily_restore_interpreter_stack

from separatrix.core.errors import InputError
from separatrix.core.twin import twin
from separatrix.flows.field import Field, as_field
from separatrix.flows.methods.solver import Solver, Time
from separatrix.flows.solution import Solution
from separatrix.flows.steps.checks import as_times, first_time
from separatrix.flows.steps.items import Items
from separatrix.flows.steps.mesh import Run
from separatrix.flows.steps.reversed import Reversed

# Note [Lanes are items]
# vmap hides an axis and refuses every decision that depends on values: whether they are finite, how long the next step may be. So
# the hidden axes are exposed as batch axes, the steps are chosen with each lane as an item, and the field is evaluated with the
# axes hidden again. The steps, now known, are taken once more on the hidden axes if a gradient may be needed, by vmap or another
# transform; so all of `torch.func` works, in any order.


IN_A_BATCH = "Pass the lanes as batch axes of x0, (*batch, dim), and as batched parameters of an sx.Field."


def transformed() -> bool:
    """Whether a transform of `torch.func` is active."""
    return functorch.peek_interpreter_stack() is not None


def laid_open(x: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """The tensor with the axes hidden by vmap in front, and the level and length of each; other transforms are unwrapped."""
    levels: list[tuple[int, int]] = []
    with temporarily_clear_interpreter_stack():
        while functorch.is_functorch_wrapped_tensor(x):
            level, axis = functorch.maybe_get_level(x), functorch.maybe_get_bdim(x)
            is_lane = functorch.is_batchedtensor(x)
            x = functorch.get_unwrapped(x)
            if is_lane:
                levels.insert(0, (level, axis))
        moved = x
        for i, (_, axis) in enumerate(levels):
            moved = moved.movedim(i + axis, i)
        return moved, [(level, moved.shape[i]) for i, (level, _) in enumerate(levels)]


@contextmanager
def lanes_refused(what: str) -> Iterator[None]:
    """Replace the errors that vmap raises by one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not any(word in message for word in ("vmap", "functorch", "Batching rule")):
            raise
        message = message.partition(". ")[0].removeprefix("vmap: ")
        raise InputError(f"{what} does not pass through torch.func.vmap: {message}.\n{IN_A_BATCH}") from None


def lane_by_lane(f: Callable[[Tensor], list[Tensor]], g: Tensor) -> list[Tensor]:
    """The values of f for g; if vmap of either kind hides an axis of g, computed lane by lane."""
    if functorch.is_legacy_batchedtensor(g):  # of torch.autograd.grad with is_grads_batched
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        found = [lane_by_lane(f, lane) for lane in torch._C._VariableFunctions._remove_batch_dim(g, level, 1, 0)]
        return [torch._C._VariableFunctions._add_batch_dim(torch.stack(parts), 0, level) for parts in zip(*found, strict=True)]
    opened, levels = laid_open(g)
    if not levels:
        return f(g)
    lanes = Lanes(levels, ())
    with temporarily_clear_interpreter_stack():
        found = [f(lane) for lane in opened.flatten(0, len(levels) - 1)]
        stacked = [torch.stack(parts).unflatten(0, lanes.shape) for parts in zip(*found, strict=True)]
    return [lanes.hidden(part, 0) for part in stacked]


@dataclass(frozen=True)
class Lanes:
    """The axes hidden by vmap, exposed in front of a batch.

    Args:
        levels: vmap's level, and the length, of each axis.
        batch: the batch axes that the user's function sees.
    """

    levels: list[tuple[int, int]]
    batch: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The exposed axes."""
        return tuple(length for _, length in self.levels)

    def hidden(self, x: Tensor, axis: int) -> Tensor:
        """The tensor with the axes from `axis` on hidden."""
        x, _ = laid_open(x)
        for level, _ in self.levels:
            x = functorch._add_batch_dim(x, axis, level)
        return x

    def open(self, x: Tensor, axis: int) -> Tensor:
        """The tensor with the hidden axes exposed at `axis`; missing ones are expanded."""
        found, levels = laid_open(x)
        own, count = dict(levels), len(self.levels)
        with temporarily_clear_interpreter_stack():
            for i, (level, length) in enumerate(self.levels):
                if level not in own:
                    found = found.unsqueeze(i).expand(*found.shape[:i], length, *found.shape[i:])
            return found.movedim(tuple(range(count)), tuple(range(axis, axis + count)))


class Opened(Field):
    """A field under vmap, as a field of states with all axes exposed.

    Args:
        velocity: maps states (…, *lanes, *batch, dim) to velocities.
        batch: all batch axes of the run, of which it accepts whole rows.
    """

    def __init__(self, velocity: Callable[[Tensor, Time], Tensor], batch: tuple[int, ...], *, time_dependent: bool) -> None:
        super().__init__()
        self.velocity, self.batch, self.time_dependent = velocity, batch, time_dependent

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.batch

    def forward(self, x: Tensor, t: Time) -> Tensor:
        return self.velocity(x, t)


@dataclass(frozen=True)
class Mapped:
    """An initial value problem under vmap.

    Args:
        field, x0: as under vmap; for decreasing times, the field with time reversed.
        lanes: the hidden axes.
        requested: the times, increasing.
        sense: −1 if the given times decrease, else +1.
    """

    field: Field
    x0: Tensor
    lanes: Lanes
    requested: Tensor
    sense: int

    @classmethod
    def of(cls, field: Callable[..., Tensor], x0: Any, times: Any, time_dependent: bool, *, by_tolerance: bool) -> "Mapped | None":
        """The problem if vmap hides axes of it, else None."""
        if not transformed():
            return None
        if not isinstance(x0, Tensor) or not x0.ndim:
            return None
        if isinstance(times, Tensor) and laid_open(times)[1]:
            raise InputError(
                "times are mapped by torch.func.vmap, but steps end on them.\n"
                "Pass times of shape (times, *batch), and x0 with the batch."
            )
        requested = as_times(times, laid_open(x0)[0].device)
        if requested.requires_grad:
            raise InputError("times require a gradient, which does not pass through torch.func.vmap.\nPass times.detach().")
        sense = -1 if requested.ndim and len(requested) > 1 and bool((requested[1] < requested[0]).all()) else 1
        own = twin(as_field(field, time_dependent=time_dependent), dtype=x0.dtype, device=x0.device)
        own = own if sense > 0 else Reversed(own)
        x0 = x0.expand(*torch.broadcast_shapes(x0.shape[:-1], own.batch_shape), x0.shape[-1])
        levels = dict(laid_open(x0)[1])
        try:
            with torch.no_grad():
                first = own(x0, first_time(x0, sense * requested, by_tolerance=by_tolerance))
            levels |= dict(laid_open(first)[1])
        except Exception:  # errors of the field are reported when its first velocity is checked
            pass
        return cls(own, x0, Lanes(sorted(levels.items()), tuple(x0.shape[:-1])), sense * requested, sense) if levels else None

    @contextmanager
    def opened(self) -> Iterator[tuple[Field, Tensor]]:
        """The field and x0 with all axes exposed and no graph, while no transform is active."""
        lead = (*self.lanes.shape, *self.lanes.batch)
        x0 = self.lanes.open(self.x0, 0)
        with torch.no_grad(), temporarily_clear_interpreter_stack() as transforms:

            def velocity(x: Tensor, t: Time) -> Tensor:
                axis = x.ndim - 1 - len(lead)
                t = t.expand(*x.shape[:-1], *t.shape[x.ndim - 1 :]) if isinstance(t, Tensor) and t.ndim else t
                with temporarily_restore_interpreter_stack(transforms):
                    t = self.lanes.hidden(t, axis) if isinstance(t, Tensor) and t.ndim else t
                    with lanes_refused("the field"):
                        return self.lanes.open(self.field(self.lanes.hidden(x, axis), t), axis)

            yield Opened(velocity, lead, time_dependent=self.field.time_dependent), x0.detach()

    @property
    def open_times(self) -> Tensor:
        """The times, with all axes exposed."""
        times, count = self.requested, len(self.lanes.levels)
        return times if times.ndim < 2 else times[(slice(None), *[None] * count)].expand(-1, *self.lanes.shape, *times.shape[1:])

    def solution(self, found: Solution, run: Run | None, method: Solver) -> Solution:
        """The solution under vmap, from the one with exposed axes and its steps. See Note [Lanes are items]."""
        lead = (*self.lanes.shape, *self.lanes.batch)
        requested = self.sense * found.times.flatten(1)
        with lanes_refused(f'the field, or method="{method.name}",'):
            states = (
                self._states(run, method, requested, lead)
                if run is not None and torch.is_grad_enabled()
                else self.lanes.hidden(found.states, 1)
            )
        states = states.where(~self.lanes.hidden(found.states.isnan(), 1), torch.nan)
        parts = {part.name: getattr(found, part.name) for part in fields(found)}
        parts |= {"times": self.sense * found.times, "reached": self.sense * found.reached}
        axes = {"times": 1, "accepted": 0, "rejected": 0, "reached": 0, "codes": 0}
        return replace(found, states=states, **{name: self.lanes.hidden(parts[name], axis) for name, axis in axes.items()})

    def _states(self, run: Run, method: Solver, requested: Tensor, lead: tuple[int, ...]) -> Tensor:
        """The states at the requested times, recomputed by the known steps; finished items rest at their start."""

        def column(along: Tensor) -> Tensor:
            """Numbers of the items, (…, items), with the lanes hidden: (…, *batch, 1)."""
            return self.lanes.hidden(along.reshape(*along.shape[:-1], *lead, 1), along.ndim - 1)

        nodes, field = [self.x0], Items(self.field, None)
        for i, (t, h) in enumerate(run.mesh.steps):
            t, h = (column(step[..., 0]).to(self.x0) if isinstance(step, Tensor) else step for step in (t, h))
            if bool((run.accepted > i).all()):
                nodes.append(method.step(field, nodes[-1], t, h))
                continue
            goes = column(run.accepted > i)
            x = method.step(field, nodes[-1].where(goes, self.x0), t, h * goes.to(self.x0))
            nodes.append(x.where(goes, nodes[-1]))
        along = torch.stack(nodes)
        node = run.mesh.node[:, None].expand_as(requested) if run.mesh.node.ndim == 1 else run.mesh.node
        if run.mesh.share is None:
            return gathered_from(along, column(node))
        share = run.mesh.share
        states = list(gathered_from(along, column(node + (share >= 1))).unbind())
        begins, lengths = (torch.stack([column(step[i][..., 0]) for step in run.mesh.steps]).to(self.x0) for i in (0, 1))
        inside = (share > 0) & (share < 1)
        for k in inside.any(1).nonzero()[:, 0].tolist():
            x, t, h = (gathered_from(rows, column(node[k : k + 1]))[0] for rows in (along, begins, lengths))
            within = method.between(field, x, t, h, column(share[k]).to(x))
            states[k] = within.where(column(inside[k]), states[k])
        return torch.stack(states)


def gathered_from(along: Tensor, index: Tensor) -> Tensor:
    """Rows of `along`, (rows, *batch, numbers), by index, (times, *batch, 1)."""
    return along.gather(0, index.expand(*index.shape[:-1], along.shape[-1]))
