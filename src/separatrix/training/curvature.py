"""Curvature of the loss as an optimiser meets it, beside the largest with which its steps are stable."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import check_positive, check_seed, check_whole
from separatrix.core.errors import HorizonError, UnsupportedModuleError
from separatrix.core.evolve import begin
from separatrix.core.memory import check_memory
from separatrix.core.progress import watched_count
from separatrix.core.result import Status
from separatrix.core.wording import counted
from separatrix.training.ends import Ends, ends
from separatrix.training.hessian import Metric, Part, hessian, metric_of, parts_of_data
from separatrix.training.optimizers.rule import free_decay
from separatrix.training.result import Curvature
from separatrix.training.training import Training

MINI_BATCHES = 8  # measured by default if a step takes a part of the data
OF_SCALE = {"lr", "initial_lr", "eps", "weight_decay"}  # options that only scale the map or its Hessian


@torch.no_grad()
def curvature(
    training: Training,
    x0: Tensor | None = None,
    *,
    n: int = 0,
    k: int = 1,
    batches: int | None = None,
    chunk: int | None = None,
    tol: float = 1e-3,
    max_steps: int = 128,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> Curvature:
    r"""Both ends of the Hessian's spectrum as the optimiser meets it, and its threshold of stability at this step.

        λ_i of P^{-1/2} H P^{-1/2},   threshold = sup {h : the step on ½ h p², at frozen P, is stable},   ratio = λ_1 / threshold

    P is what the update of each parameter is divided by at step n. The threshold is found numerically from the optimiser's own map:
    2 (1 + μ) / ((1 − τ) η) for SGD, 2 (1 + β₁)(1 − β₁ᵗ) / ((1 − β₁) η) for Adam. Eigenvalues come from Lanczos' iteration with full
    reorthogonalisation on Hessian-vector products over all data.

    Args:
        training: the training.
        x0: states, shape (*batch, dim). Default: where the model and the optimiser were when `training` was built.
        n: step of x0, which gives the bias corrections, the rate and the mini-batch whose gradient enters P.
        k: number of eigenvalues at each end.
        batches: number of mini-batches, those of steps n, n + 1, …, on which the largest eigenvalue is also measured, because it
            is larger there and differs from one to the next. Default: 8 if a step takes a part of the data, else 0.
        chunk: number of items whose Hessian is computed at once. Default: as many as a step takes.
        tol: residual at which an eigenvalue has converged, relative to the largest modulus. The error of an eigenvalue that is
            apart from the others is smaller, about the square of that.
        max_steps: most iterations, each with one Hessian-vector product.
        seed: seed of the start vector.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        Curvature. `largest`, `smallest` (*batch, k), `residuals`, `threshold`, `ratio`, and a verdict.

    Raises:
        UnsupportedModuleError: the system is not a Training.
        InputError: k, a count or the tolerance is out of range, or the vectors do not fit into the memory.

    Limits: P changes with the training, within 1 / (1 − β₂) steps, so that frozen stability is not that of the map: exponents of
        `training` include ∂√v̂. An eigenvalue that is multiple may be found once. Groups that differ in more than their rates have
        no common threshold; each is then measured by its own. The kinks of a ReLU network are no part of its Hessian. float32
        limits residuals to about 1e-4 of the largest eigenvalue.
    Source: Cohen et al. 2021, arXiv 2103.00065, and 2022, arXiv 2207.14484; Golub & Van Loan 2013, Matrix Computations, §10.1.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> data = torch.full((4, 1), 2.0), torch.zeros(4, 1)  # mean of ½ (2 w)²: curvature 4
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> training = sx.Training(model, lambda y, t: (y - t).square().mean() / 2, data, optimizer)
        >>> found = sx.curvature(training)
        >>> found.largest, round(float(found.threshold), 6), found.verdict
        (tensor([4.], dtype=torch.float64), 20.0, 'below its edge of stability')
    """
    if not isinstance(training, Training):
        raise UnsupportedModuleError(
            f"expected a Training, got a {type(training).__name__}.\nBuild it: sx.Training(model, loss, …)."
        )
    n, seed = check_whole("n", n, 0), check_seed(seed)
    k = check_whole("k", k, 1, training.layout.size)
    max_steps, tol = check_whole("max_steps", max_steps, k), check_positive("tol", tol)
    chunk = None if chunk is None else check_whole("chunk", chunk, 1)
    if training.horizon is not None and n >= training.horizon:
        raise HorizonError(f"n is {n}, but the schedule ends after {counted(training.horizon, 'step')}.")
    count = (MINI_BATCHES if training.batches.per_epoch > 1 else 0) if batches is None else check_whole("batches", batches, 0)
    front = begin(training, x0, seed=seed)
    if batches is None and training.horizon is not None:
        count = min(count, training.horizon - n)
    steps = min(max_steps, training.layout.size)
    check_memory(f"{steps} vectors", float(steps) * training.layout.size, front.x, "Pass a smaller max_steps.")
    look = functools.partial(ends, tol=tol, max_steps=max_steps, seed=seed)
    states = front.x.reshape(-1, training.dim)
    items = []
    for tick in watched_count(len(states), "curvature", progress):
        ready = _of_item(front.system, front.x.shape[:-1], tick.index)
        items.append(_measured(ready, states[tick.index], n, look, k, count, chunk))
    settings = {
        "n": n,
        "t": training.settings(n)[0].t,
        "optimizer": training.optimizer_name,
        "k": k,
        "batches": count,
        "chunk": chunk,
        "tol": tol,
        "max_steps": max_steps,
        "seed": seed,
        "dtype": str(front.x.dtype),
    }
    return _result(training, items, front.x, settings).or_raise(throw)


@dataclass(frozen=True)
class _Item:
    """What was measured at one state."""

    metric: Metric
    whole: Ends
    batch_largest: list[float]
    note: str


def _measured(training: Training, x: Tensor, n: int, look: Callable[..., Ends], k: int, batches: int, chunk: int | None) -> _Item:
    """The ends on all data, and the largest eigenvalue on some mini-batches."""
    metric = metric_of(training, x, n)
    parts, note = parts_of_data(training, x, n, chunk)

    def ends_on(parts: list[Part], n: int, k: int) -> Ends:
        return look(hessian(training, x, n, metric.root, parts), metric.root, k)

    largest = [float(ends_on([(training.batches(n + i), 1.0)], n + i, 1).values[0, 0]) for i in range(batches)]
    return _Item(metric, ends_on(parts, n, k), largest, note)


def _of_item(system: Training, batch: torch.Size, index: int) -> Training:
    """The training of one item of a batch, over which its rates may vary."""
    if not system.batch_shape:
        return system
    rates = {name: torch.as_tensor(getattr(system, name)).expand(batch).flatten()[index] for name in system.rates}
    return system.at(**{name: float(rate) for name, rate in rates.items()})


def _result(training: Training, items: list[_Item], x: Tensor, settings: dict[str, Any]) -> Curvature:
    batch = x.shape[:-1]

    def of_items(values: list[Any], *own: int) -> Tensor:
        return torch.stack([torch.as_tensor(value, dtype=torch.float64).cpu() for value in values]).reshape((*batch, *own))

    epsilon = float(getattr(training.settings(0)[0], "eps", math.nan))
    values = of_items([item.whole.values for item in items], 2, -1)
    residuals = of_items([item.whole.residuals for item in items], 2, -1)
    threshold = of_items([item.metric.threshold for item in items])
    shares = [[item.whole.vector[p.start : p.stop].square().sum() for p in training.layout.parameters] for item in items]
    finite = values.isfinite().all(-1).all(-1)
    converged = torch.tensor([item.whole.converged for item in items]).reshape(batch)
    codes = torch.where(converged, Status.OK, Status.NOT_CONVERGED).where(finite, torch.tensor(Status.DIVERGED))
    return Curvature(
        codes=codes.to(torch.int8),
        largest=values[..., 0, :],
        smallest=values[..., 1, :],
        residuals=residuals,
        threshold=threshold,
        ratio=values[..., 0, 0] / threshold,
        ratio_error=residuals[..., 0, 0] / threshold,
        batch_largest=of_items([item.batch_largest for item in items], -1)
        if settings["batches"]
        else threshold.new_zeros(*batch, 0),
        shares=of_items(shares, -1),
        in_epsilon=of_items([_in_epsilon(item, epsilon) for item in items]),
        parameters=tuple(p.name for p in training.layout.parameters),
        epsilon=epsilon,
        products=sum(item.whole.products for item in items),
        settings=settings,
        notes=_notes(training, items, x),
    )


def _in_epsilon(item: _Item, epsilon: float) -> float:
    """Share of the leading direction on weights whose root is below ε, outside of which it stands."""
    if item.metric.divisor is None or math.isnan(epsilon):
        return 0.0
    return float(item.whole.vector.square()[item.metric.divisor < 2 * epsilon].sum())


def _notes(training: Training, items: list[_Item], x: Tensor) -> tuple[str, ...]:
    notes = list(dict.fromkeys(item.note for item in items if item.note))
    if _groups_differ(training):
        notes.append("the parameter groups differ in more than their rates: each is measured by its own threshold")
    if training.objective.draws:
        notes.append("the model draws random numbers: the masks are those of this step")
    if x.dtype != torch.float64:
        notes.append("in float32, eigenvalues below about 1e-4 of the largest are rounding; pass x0 in float64")
    return tuple(notes)


def _groups_differ(training: Training) -> bool:
    """Whether groups differ in an option on which the shape of the map depends, not only its scale."""
    shapes = []
    for o in training.settings(0):
        shapes.append({name: value for name, value in vars(o).items() if name not in OF_SCALE} | {"free": o.lr * free_decay(o)})
    return any(shape != shapes[0] for shape in shapes)
