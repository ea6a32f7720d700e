"""Flows learned from trajectories: a field is trained so that its orbits follow the data over short segments."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_fraction, check_positive, check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.progress import watched_count
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.twin import twin
from separatrix.core.wording import counted, plain
from separatrix.flows.field import Field, as_field, field_of
from separatrix.flows.flow import Flow
from separatrix.flows.methods import SOLVERS
from separatrix.flows.steps.checks import check_apart, first_velocity
from separatrix.flows.steps.items import Items, Together
from separatrix.flows.steps.mesh import Mesh, equal_steps
from separatrix.nn.fit.trajectories import Trajectories

CHECKS = 50  # number of evaluations on held-out segments
LOOKED_AT = 2_000  # segments per evaluation
LAST = 0.01  # final fraction of the learning rate
LARGEST = 1.0  # maximum norm of a gradient, so that a single diverging segment cannot dominate
MEMORY = 50  # history size of L-BFGS
POLISHED = 4_000  # segments used by L-BFGS


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FlowFit(Result):
    r"""The record of a `fit_flow` run; the learned field is the module that was passed.

    Args:
        training: training loss at each check, shape (check,).
        held_out: held-out loss at each check, shape (check,).
        steps: number of training steps before each check, shape (check,).
        error: root-mean-square error of the best weights on held-out segments, 1, 2, … samples after their start, in standard
            deviations of the data, shape (sample,).
        lead: mean time since the start of the segment, shape (sample,).
        best: step of the weights that were kept, which have the smallest held-out loss.
        verdict: reason for the end: "all steps taken", "interrupted" or "diverged".
    """

    training: Tensor
    held_out: Tensor
    steps: Tensor
    error: Tensor
    lead: Tensor
    best: int
    verdict: str

    drawn_by: ClassVar[str] = "separatrix.plot.flow_fit:flow_fit_figure"
    layout: ClassVar[dict[str, str]] = {
        "training": "check",
        "held_out": "check",
        "steps": "check",
        "error": "sample",
        "lead": "sample",
    }
    units: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("training", "held_out"), "variances of the data"),
        "error": "deviations of the data",
        "lead": "units of time",
        "steps": "steps of training",
    }

    def summary(self) -> str:
        subject = f"flow learned from {counted(self.settings['items'], 'trajectory').replace('trajectorys', 'trajectories')}: "
        if math.isnan(float(self.error[-1])):
            return subject + f"no weights with a finite error were found; {self.verdict}"
        after = f"{counted(len(self.error), 'sample')} ({plain(float(self.lead[-1]))} units of time)"
        return subject + (
            f"error {plain(float(self.error[-1]))} deviations after {after}, held out; "
            f"best at step {self.best:,} of {int(self.steps[-1]):,}; {self.verdict}"
        )


def fit_flow(
    field: nn.Module | Flow,
    states: Tensor,
    times: Tensor | float,
    *,
    horizon: int = 4,
    method: str | None = None,
    dt: float | None = None,
    time_dependent: bool = False,
    steps: int = 2_000,
    batch: int = 512,
    lr: float = 5e-3,
    polish: int = 0,
    held_out: float = 0.1,
    seed: int = 0,
    progress: bool = False,
) -> FlowFit:
    r"""Train a field in place so that its flow follows sampled trajectories over segments of a few samples:

        L(θ) = ⟨ |(φ_{t_k − t_0}(x_0; θ) − x_k) / d|² ⟩,     k = 1 … horizon,

    averaged over segments x_0 … x_horizon that start at each sample of the data; d is the standard deviation of each entry of the
    state. Adam runs on random segments with a learning rate that decreases to a hundredth along a cosine, optionally followed by
    L-BFGS on up to 4,000 segments. The weights with the smallest held-out loss are kept, also after Ctrl-C.

    Args:
        field: the field to train: a module x ↦ ẋ on states of shape (*batch, dim), a `Field` with parameters such as
            `sx.nn.parts.Normalized`, or an `sx.Flow` or `sx.nn.NeuralODE` with such a field. It keeps its dtype, device and mode.
        states: trajectories, shape (time, *batch, dim); they need not lie on an attractor.
        times: time between two samples, or increasing times of shape (time,) or (time, *batch).
        horizon: number of samples in a segment after the first. In chaotic systems gradients grow like e^{λ₁ t}; keep the duration
            of a segment below 1/λ₁.
        method: a name in `SOLVERS`. Default: that of the flow, else "rk4".
        dt: maximum step size of the solver. Default: that of the flow, else one step per sample.
        time_dependent: call `field(x, t)`, for a bare module.
        steps: number of Adam steps.
        batch: number of segments per Adam step.
        lr: initial learning rate of Adam.
        polish: number of L-BFGS iterations after Adam. On noise-free data and small float64 networks, a hundred reach a much
            smaller loss than thousands of Adam steps.
        held_out: fraction of the data held out: whole trajectories if there are ten or more, else the end of each.
        seed: seed of drawn and held-out segments; the initial weights are those of the field.
        progress: show a progress bar.

    Returns:
        FlowFit: losses, and the held-out error as a function of lead time; status `not_converged` if interrupted, `diverged` if the
        loss became infinite or NaN.

    Raises:
        InputError: an option is out of range, states are not finite, times do not increase, or the field has no parameters.
        ShapeError: states or times have other shapes, there are too few samples for the horizon, or the field has another width.
        UnsupportedModuleError: field is not a module, flow or neural ODE.

    Limits: a small error over short times does not imply the right dynamics; compare them with `sx.compare_dynamics`. Noise in the
        first sample of a segment propagates along it, so noise that is not small biases the field.
    Source: Voss, Timmer & Kurths 2004, Int. J. Bifurcation Chaos 14, 1905 (short segments, as in multiple shooting).

    Example:
        >>> times = torch.arange(0, 3, 0.1).double()
        >>> _ = torch.manual_seed(0)
        >>> field = nn.Linear(1, 1).double()
        >>> fit = sx.nn.fit_flow(field, torch.exp(-times)[:, None], 0.1, steps=100, lr=0.1)
        >>> print(f"{field.weight.item():.1f} {fit.verdict}")  # the data satisfy ẋ = −x
        -1.0 all steps taken
    """
    network, method, dt = _trained(field, method, dt, time_dependent)
    random = torch_generator(check_seed(seed), "batches of a fit")
    _check_counts(horizon=horizon, batch=batch, steps=steps, polish=polish)
    _check_rates(lr, held_out)
    data = Trajectories.of(states, times)
    learned, rest = (
        _Shooting.of(network, part, data.scales()[1], horizon, method, dt) for part in data.split(held_out, horizon + 1, random)
    )
    learned.check_width()
    record = _Record(network, rest, rest.drawn(LOOKED_AT, random))
    finite = record.look(0, float(learned.loss(learned.drawn(LOOKED_AT, random)).detach()))
    verdict = "all steps taken"
    try:
        finite = finite and _adam(learned, record, steps, batch, lr, random, progress)
        if not (finite and _lbfgs(learned, record, polish, steps, random, progress)):
            verdict = "diverged"
    except KeyboardInterrupt:
        verdict = "interrupted"
    code = {"diverged": Status.DIVERGED, "interrupted": Status.NOT_CONVERGED}.get(verdict, Status.OK)
    return FlowFit(
        codes=torch.tensor(int(code), dtype=torch.int8),
        **record.kept(),
        verdict=verdict,
        settings={
            "horizon": horizon,
            "method": method,
            "dt": dt,
            "steps": steps,
            "batch": batch,
            "lr": lr,
            "polish": polish,
            "held_out": held_out,
            "items": data.states.shape[1],
            "samples": len(data.states),
            "seed": seed,
        },
    )


@dataclass(frozen=True)
class _Shooting:
    """Segments of trajectories, and the distance of a field's orbits from them.

    Args:
        field: the field.
        data: trajectories in its dtype and on its device.
        deviation: d, shape (dim,).
        horizon: number of samples in a segment after the first.
        method, dt: solver and maximum step size.
        mesh: the steps of a segment, if they are the same for all.
    """

    field: Field
    data: Trajectories
    deviation: Tensor
    horizon: int
    method: str
    dt: float
    mesh: Mesh | None

    @classmethod
    def of(cls, field: Field, data: Trajectories, deviation: Tensor, horizon: int, method: str, dt: float | None) -> "_Shooting":
        if len(data.states) <= horizon or not data.states.shape[1]:
            raise ShapeError(
                f"expected at least {horizon + 1} samples for a segment in each part of the data, got {len(data.states)}.\n"
                "Pass longer trajectories, a smaller horizon, or another held-out fraction."
            )
        like = next(iter(field.parameters()))
        longest = float(data.times.diff(dim=0).amax()) if dt is None else dt
        gap = None if getattr(field, "time_dependent", True) else data.gap
        mesh = None if gap is None else equal_steps(gap * torch.arange(horizon + 1, dtype=torch.float64), longest)
        cast = Trajectories(data.states.to(like), data.times.to(like.device))
        return cls(field, cast, deviation.to(like), horizon, method, longest, mesh)

    def drawn(self, count: int, random: torch.Generator) -> Tensor:
        """Indices of random segments, or of all segments if there are no more than `count`, shape (segments,)."""
        if count >= self.count:
            return torch.arange(self.count, device=self.deviation.device)
        return torch.randint(self.count, (count,), generator=random).to(self.deviation.device)

    @property
    def count(self) -> int:
        """Number of segments."""
        return (len(self.data.states) - self.horizon) * self.data.states.shape[1]

    def errors(self, segments: Tensor) -> Tensor:
        """(φ(x_0) − x_k) / d, shape (horizon, segments, dim)."""
        n, item = segments // self.data.states.shape[1], segments % self.data.states.shape[1]
        n = n + torch.arange(self.horizon + 1, device=n.device)[:, None]
        x = self.data.states[n, item]
        mesh = self.mesh or self._own_mesh(n, item, x)
        nodes = torch.stack(mesh.follow(SOLVERS[self.method], Items(self.field, None), x[0]))
        return (nodes[mesh.node][1:] - x[1:]) / self.deviation

    def _own_mesh(self, n: Tensor, item: Tensor, like: Tensor) -> Mesh:
        """Steps of each segment at its own times, computed in float64."""
        mesh = equal_steps(self.data.times[n, item], self.dt)
        return replace(mesh, steps=[(torch.as_tensor(t).to(like), torch.as_tensor(h).to(like)) for t, h in mesh.steps])

    def loss(self, segments: Tensor) -> Tensor:
        """L(θ)."""
        return self.errors(segments).square().mean()

    def lead(self) -> Tensor:
        """Mean time from the start of a segment to each of its samples, shape (horizon,)."""
        h = range(1, self.horizon + 1)
        return torch.stack([(self.data.times[k:] - self.data.times[:-k]).mean() for k in h]).cpu()

    def check_width(self) -> None:
        """Refuse a field that changes the width, and an unsuitable method."""
        SOLVERS[self.method].check_dim(self.data.states.shape[-1])
        states, times = self.data.states, self.data.times.expand(-1, self.data.states.shape[1])
        first_velocity(self.field, states[0], times.flatten()[:1] if self.mesh else times[:1], by_tolerance=self.mesh is None)
        if self.mesh is None and getattr(self.field, "time_dependent", True):
            check_apart(Together.probe(twin(self.field, detach=True), tuple(states.shape[1:-1]), states[0], times[[0, -1]]))


class _Record:
    """The losses so far, and the best weights.

    Args:
        field: field whose weights are recorded.
        rest: held-out data.
        segments: held-out segments to evaluate.
    """

    def __init__(self, field: Field, rest: _Shooting, segments: Tensor) -> None:
        self.field, self.rest, self.segments = field, rest, segments
        self.rows: list[tuple[int, float, float]] = []
        self.best, self.least, self.weights = 0, math.inf, self._copied()

    @torch.no_grad()
    def look(self, step: int, training: float) -> bool:
        """Record the losses at a step, and its weights if they are the best; returns whether the loss is finite."""
        held_out = float(self.rest.loss(self.segments))
        self.rows.append((step, training, held_out))
        if held_out < self.least:
            self.best, self.least, self.weights = step, held_out, self._copied()
        return math.isfinite(training)

    @torch.no_grad()
    def kept(self) -> dict[str, Any]:
        """Restore the best weights; returns the fields of a `FlowFit`."""
        self.field.load_state_dict(self.weights)
        steps, training, held_out = zip(*self.rows, strict=True)
        error = self.rest.errors(self.segments).double().square().mean((1, 2)).sqrt().cpu()
        numbers = {
            "training": torch.tensor(training, dtype=torch.float64),
            "held_out": torch.tensor(held_out, dtype=torch.float64),
            "steps": torch.tensor(steps),
        }
        return {**numbers, "error": error, "lead": self.rest.lead(), "best": self.best}

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.field.state_dict().items()}


def _adam(learned: _Shooting, record: _Record, steps: int, batch: int, lr: float, random: torch.Generator, progress: bool) -> bool:
    """Adam steps on random segments; returns whether the loss stayed finite."""
    weights = _weights(learned.field)
    optimizer = torch.optim.Adam(weights, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1), LAST * lr)
    every, losses = max(1, steps // CHECKS), []
    for tick in watched_count(steps, "Learning", progress):
        loss = learned.loss(learned.drawn(batch, random))
        if not loss.requires_grad:  # no segment is finite
            record.look(tick.index, math.nan)
            return False
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, LARGEST)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        done = tick.index + 1
        if done % every == 0 or done == steps:
            if not record.look(done, float(torch.stack(losses).mean())):
                return False
            losses = []
    return True


def _lbfgs(learned: _Shooting, record: _Record, polish: int, before: int, random: torch.Generator, progress: bool) -> bool:
    """L-BFGS iterations on fixed segments; returns whether the loss stayed finite."""
    segments = learned.drawn(POLISHED, random)
    every = max(1, polish // CHECKS)
    options = {"max_iter": every, "history_size": MEMORY, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer = torch.optim.LBFGS(_weights(learned.field), line_search_fn="strong_wolfe", **options)

    with torch.no_grad():
        unit = float(learned.loss(segments)) or 1.0  # L-BFGS drops pairs with yᵀs < 1e-10, which assumes losses of order 1

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = learned.loss(segments) / unit
        if loss.requires_grad:  # else no segment is finite
            loss.backward()
        return loss.detach()

    for tick in watched_count(polish // every, "Polishing", progress):
        loss = unit * float(optimizer.step(closure))
        if not record.look(before + (tick.index + 1) * every, loss):
            return False
    return True


def _weights(field: Field) -> list[nn.Parameter]:
    return [weight for weight in field.parameters() if weight.requires_grad]


def _trained(field: Any, method: str | None, dt: float | None, time_dependent: bool) -> tuple[Field, str, float | None]:
    """The trained object as a `Field`, the method and the step size."""
    name = type(field).__name__
    if isinstance(field, Flow):
        method, dt = method or field.method, field.dt if dt is None else dt
    field = field_of(field)
    if not isinstance(field, nn.Module):
        raise UnsupportedModuleError(f"expected an nn.Module, sx.Flow or sx.nn.NeuralODE to train, got a {name}.")
    own = as_field(field, time_dependent=time_dependent)
    if not _weights(own):
        raise InputError(f"this {name} has no parameters to train.\nPass the module itself, before it becomes an sx.Flow.")
    method = method or "rk4"
    check_choice("method", method, SOLVERS)
    return own, method, dt


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        check_whole(name, count, 0 if name in ("polish", "steps") else 1)


def _check_rates(lr: float, held_out: float) -> None:
    check_positive("lr", lr)
    check_fraction("held_out", held_out)
