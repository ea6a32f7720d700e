"""Why an item failed, in words that say what to do."""

import torch
from torch import Tensor

from separatrix.core.result import Status
from separatrix.core.tangent import pushforward
from separatrix.flows.methods import SOLVERS
from separatrix.flows.methods.splitting import Splitting
from separatrix.flows.solve.problem import Problem, Steps
from separatrix.flows.steps.items import Items
from separatrix.flows.steps.mesh import Run
from separatrix.flows.steps.tolerance import Tolerance

DENSE = 64  # state length up to which the fastest rate is an exact eigenvalue; above, it is estimated by power iteration
POWERS = 30
FEW = 10  # last steps, whose median is the step size at the end
BOUND = 0.5  # fraction of the longest stable step that adaptive steps reach where stability limits them
SLIGHT = 1e-6  # growth per step that counts as rounding
ROUGH = 0.1  # rounding of the time, relative to the last steps, from which it limits them
LONGEST = 20.0  # largest product of step size and rate at which stability is searched

# Note [Stiff]
# A field is stiff where stability limits the steps and not the accuracy of the solution. The fastest rate ρ, the spectral
# radius of the Jacobian, times the step size h is then near the end s of the method's stability interval, |R(−s)| = 1 (3.3 for
# both pairs). The controller oscillates about that end, so half of it is the criterion.


@torch.no_grad()
def reasons(run: Run, field: Items, problem: Problem, steps: Steps) -> tuple[str, ...]:
    """One sentence for each kind of failure, about the first item that failed in that way."""
    begun, batch = problem.begun.flatten(), problem.batch
    sentences = [f"{_name(item, batch)} was not followed: its initial condition is not finite." for item in _first(~begun)]
    for status in (Status.DIVERGED, Status.NOT_CONVERGED):
        for item in _first((run.codes == status) & begun):
            end = _End(run, field, problem.requested, item, steps.method, problem.sense)
            words = end.of_equal_steps(steps.dt) if steps.dt is not None else end.by_tolerance(status, steps.tolerance)
            sentences.append(f"{_name(item, batch)} {words}")
    return tuple(sentences)


def _first(which: Tensor) -> list[int]:
    """The first index at which the mask is set, if any."""
    return which.nonzero()[:1, 0].tolist()


class _End:
    """Where an item ended, in the user's times."""

    def __init__(self, run: Run, field: Items, requested: Tensor, item: int, method: str, sense: int) -> None:
        self.run, self.field, self.item, self.method, self.sense = run, field, item, method, sense
        self.begin, self.t, self.last = (sense * float(time[item]) for time in (requested[0], run.reached, requested[-1]))
        self.steps = int(run.accepted[item])
        self.size = float(run.nodes[self.steps, item].abs().amax())

    def by_tolerance(self, status: Status, tolerance: Tolerance) -> str:
        """The reason, for adaptive steps."""
        if status == Status.DIVERGED and self.steps == 0:
            return f"diverged: the velocity at the start, t = {self.t:g}, is not finite."
        if status == Status.DIVERGED:
            return f"diverged to infinity at t = {self.t:.6g}, where its largest number is {self.size:.2g}."
        trials = self.steps + int(self.run.rejected[self.item])
        if trials < tolerance.max_steps:
            vanish = f"did not converge: the step size vanished at t = {self.t:.6g}, where its largest number is {self.size:.2g}. "
            grain = torch.finfo(self.run.nodes.dtype).eps * abs(self.t)
            if self.field.time_dependent and grain > ROUGH * self._step():
                return f"{vanish}In float32 that time is only known to {grain:.2g}: pass x0.double()."
            return (
                f"{vanish}Either the field is discontinuous or undefined there, or it is not a function of state and time, or the "
                "tolerance is below rounding."
            )
        used = f"did not converge: max_steps = {tolerance.max_steps} trial steps reached t = {self.t:.4g} of {self.last:g}"
        more = f"about {self._more(trials):.2g} more are needed at this pace"
        rate, h, limit = self.rate(self.steps), self._step(), _limit(self.method)
        if limit is None or rate * h < BOUND * limit:
            return f"{used}; {more}: raise max_steps, or rtol and atol."
        return (
            f"{used}; {more}. The field is stiff there: its fastest rate, {rate:.2g} per unit time, limits the step size to "
            f'{h:.2g}, whatever the tolerance. Pass method="rodas5p", whose steps follow the slow motion; or raise max_steps.'
        )

    def of_equal_steps(self, dt: float) -> str:
        """The reason, for equal steps."""
        rate, limit = self.rate(0), _limit(self.method)
        ended = f"diverged: the state is not finite after t = {self.t:.6g}, where its largest number was {self.size:.2g}"
        if limit is None or rate * dt <= limit:
            return f"{ended}. Pass dt < {dt:g}, or leave dt out: adaptive steps distinguish a true divergence from too long a step."
        return (
            f"{ended}. The step size dt = {dt:g} is too large: the fastest rate at the start is {rate:.2g} per unit time, and "
            f'{self.method} is stable up to dt = {limit / rate:.2g}. Pass a smaller dt; or method="rodas5p" without dt.'
        )

    def rate(self, node: int) -> float:
        """The spectral radius of the Jacobian at a state of the item."""
        states = self.run.nodes[min(node, self.steps)].clone()
        states = states.where(torch.isfinite(states), 0.0)
        t = states.new_full((len(states), 1), self.sense * (self.t if node else self.begin))
        dim = states.shape[-1]
        if dim <= DENSE:
            rows = torch.eye(dim).to(states).expand(len(states), -1, -1)
            matrix = pushforward(lambda x: self.field(x, t), states, rows)[1][self.item]
            return float(torch.linalg.eigvals(matrix).abs().amax()) if torch.isfinite(matrix).all() else float("nan")
        v = torch.ones(len(states), 1, dim).to(states) / dim**0.5
        for _ in range(POWERS):
            v = pushforward(lambda x: self.field(x, t), states, v)[1]
            growth = v.norm(dim=-1, keepdim=True)
            v = v / growth
        return float(growth[self.item, 0, 0])

    def _step(self) -> float:
        """The median length of the last steps."""
        last = self.run.mesh.steps[max(0, self.steps - FEW) : self.steps]
        return float(torch.stack([h.reshape(-1)[self.item] for _, h in last]).median()) if last else 0.0

    def _more(self, trials: int) -> float:
        h = self._step() * self.steps / trials
        return abs(self.last - self.t) / h if h else float("inf")


def _limit(method: str) -> float | None:
    """The longest stable step on  q̈ = −q  for splitting methods, on  ẋ = −x  for others; None without a limit."""
    h = torch.arange(0.01, LONGEST, 0.01, dtype=torch.float64)[:, None]
    field = (lambda x, t: x.flip(-1) * x.new_tensor([1.0, -1.0])) if isinstance(SOLVERS[method], Splitting) else (lambda x, t: -x)
    unit = torch.eye(2, dtype=torch.float64)
    columns = [SOLVERS[method].step(field, e.expand(len(h), 2), 0.0, h) for e in unit]
    growth = torch.linalg.eigvals(torch.stack(columns, dim=-1)).abs().amax(-1)
    beyond = (growth > 1 + SLIGHT).nonzero()
    return float(h[beyond[0, 0], 0]) if len(beyond) else None


def _name(item: int, batch: tuple[int, ...]) -> str:
    if not batch:
        return "The solution"
    index = torch.unravel_index(torch.tensor(item), batch)
    return f"Item {', '.join(str(int(i)) for i in index)}"
