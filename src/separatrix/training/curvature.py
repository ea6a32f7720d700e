"""Curvature of the loss as an optimiser meets it, beside the largest with which its steps are stable."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.core.checks import check_positive, check_seed, check_whole
from separatrix.core.errors import HorizonError, UnsupportedModuleError
from separatrix.core.evolve import begin
from separatrix.core.memory import check_memory
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain
from separatrix.training.ends import Ends, ends
from separatrix.training.hessian import Metric, Part, hessian, metric_of, parts_of_data
from separatrix.training.optimizers.rule import free_decay
from separatrix.training.training import Training

AT_ITS_EDGE = 0.1  # distance of λ_max / threshold from 1 that is called "at its edge": it oscillates by about this much there
MINI_BATCHES = 8  # measured by default if a step takes a part of the data
SHOWN = 3  # parameters named in the summary
OF_SCALE = {"lr", "initial_lr", "eps", "weight_decay"}  # options that only scale the map or its Hessian

VERDICTS = ("below its edge of stability", "at its edge of stability", "beyond its edge of stability", "not measured")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Curvature(Result):
    r"""Both ends of the spectrum of  P^{-1/2} H P^{-1/2},  and the threshold of the optimiser.

    H is the Hessian of the loss that the optimiser descends, coupled weight decay included, and P what its update is divided by
    (√v̂ + ε for Adam, 1 for SGD).

    Args:
        largest: (*batch, k), the largest eigenvalues, descending.
        smallest: (*batch, k), the smallest eigenvalues, ascending.
        residuals: (*batch, end, k), ‖A v − λ v‖ of each; an eigenvalue lies within it.
        threshold: (*batch), the eigenvalue beyond which the optimiser's step at frozen P is unstable; ∞ for a rate of 0.
        ratio: (*batch), largest eigenvalue over threshold.
        ratio_error: (*batch), bound of its error from the residual.
        batch_largest: (*batch, minibatch), the largest eigenvalue on each of some mini-batches.
        shares: (*batch, parameter), share of each parameter in the squared norm of the leading direction; they add up to 1.
        in_epsilon: (*batch), share of the leading direction on weights whose divisor is at least half ε; 0 without an ε.
        parameters: names of the parameters, in the order of `shares`.
        epsilon: ε of the optimiser; NaN if it has none.
        products: number of products with the Hessian of all data, of all items together.
        notes: remarks.
    """

    largest: Tensor
    smallest: Tensor
    residuals: Tensor
    threshold: Tensor
    ratio: Tensor
    ratio_error: Tensor
    batch_largest: Tensor
    shares: Tensor
    in_epsilon: Tensor
    parameters: tuple[str, ...]
    epsilon: float
    products: int
    notes: tuple[str, ...] = ()

    drawn_by: ClassVar[str] = "separatrix.plot.curvature:curvature_figure"
    layout: ClassVar[dict[str, str]] = {
        "largest": "batch k",
        "smallest": "batch k",
        "residuals": "batch end k",
        "threshold": "batch",
        "ratio": "batch",
        "ratio_error": "batch",
        "batch_largest": "batch minibatch",
        "shares": "batch parameter",
        "in_epsilon": "batch",
    }

    @property
    def verdict(self) -> Any:
        """On which side of its edge of stability each item is, as text; "at" within 10 % of it."""
        ratio = self.ratio.detach().cpu()
        code = 1 + (ratio > 1 + AT_ITS_EDGE).long() - (ratio < 1 - AT_ITS_EDGE).long()
        words = np.array(VERDICTS)[torch.where(ratio.isnan(), 3, code).numpy()]
        return str(words) if words.ndim == 0 else words

    def leading(self) -> list[tuple[str, float]]:
        """The parameters that carry the leading direction, by descending share, with their shares; of the first item of a batch."""
        shares = self.shares.reshape(-1, self.shares.shape[-1])[0].tolist()
        return sorted(zip(self.parameters, shares, strict=True), key=lambda pair: -pair[1])

    def summary(self) -> str:
        """The answer in words."""
        if self.batch:
            counts = {word: int((self.verdict == word).sum()) for word in VERDICTS}
            said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
            return f"Curvature of {counted(self.codes.numel(), 'state')}: {said}."
        if int(self.codes) == Status.DIVERGED:
            return "Curvature: the loss or its derivatives are not finite here."
        return "\n".join(
            [*self._spectrum_in_words(), *self._directions_in_words(), *(f"{note[0].upper()}{note[1:]}." for note in self.notes)]
        )

    def _remedy(self, status: Status) -> str:
        if status == Status.NOT_CONVERGED:
            return "Pass a larger max_steps or tol: the residuals are above tol times the largest modulus."
        return super()._remedy(status)

    def _spectrum_in_words(self) -> list[str]:
        name = "the Hessian" if math.isnan(self.epsilon) else "the preconditioned Hessian"
        largest, smallest = (
            measured(float(end[0]), float(self.residuals[i, 0])) for i, end in enumerate((self.largest, self.smallest))
        )
        ratio = measured(float(self.ratio), float(self.ratio_error))
        lines = [
            f"{self.settings['optimizer']} at step {self.settings['t']} is {self.verdict}, at {ratio} of its threshold.",
            f"Eigenvalues of {name} from {smallest} to {largest}; threshold {plain(float(self.threshold))}.",
        ]
        if int(self.codes) == Status.NOT_CONVERGED:
            lines.append("The residuals are above the tolerance: pass a larger max_steps.")
        if self.batch_largest.shape[-1]:
            low, mean, high = (
                plain(float(v)) for v in (self.batch_largest.min(), self.batch_largest.mean(), self.batch_largest.max())
            )
            count = self.batch_largest.shape[-1]
            lines.append(f"On {count} mini-batches the largest eigenvalue is {mean} on average, from {low} to {high}.")
        return lines

    def _directions_in_words(self) -> list[str]:
        carried = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.leading()[:SHOWN] if share >= 0.005)
        lines = [f"The leading direction lies in {carried}."]
        if not math.isnan(self.epsilon):
            share = f"{100 * float(self.in_epsilon):.0f} % of the leading direction"
            lines.append(f"ε = {plain(self.epsilon)} stands outside the root; {share} lies on weights whose root is below ε.")
        return lines


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
