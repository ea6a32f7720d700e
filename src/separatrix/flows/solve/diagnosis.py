"""Why an item ended before its time, in words that say what to do."""

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

DENSE = 64  # numbers in a state up to which the fastest rate is an eigenvalue; above, an estimate by powers
POWERS = 30
FEW = 10  # of the last steps, whose median is the step there
BOUND = 0.5  # of the longest stable step: what steps by tolerance keep to where stability holds them back
SLIGHT = 1e-6  # growth in a step that is rounding
ROUGH = 0.1  # of the last steps, from which on the rounding of the time holds them back
LONGEST = 20.0  # step times rate, up to which stability is looked for

# Note [Stiff]
# A field is stiff where steps are short as longer ones would be unstable, not as the solution changes: the fastest rate ρ,
# the spectral radius of the Jacobian, times the step h is then near the end s of the method's interval of stability, |R(−s)| = 1
# (3.3 for both pairs). The controller swings about that end, so half of it is asked for.


@torch.no_grad()
def reasons(run: Run, field: Items, problem: Problem, steps: Steps) -> tuple[str, ...]:
    """A sentence for each kind of failure, about the first item that failed so."""
    begun, batch = problem.begun.flatten(), problem.batch
    said = [f"{_name(item, batch)} is not followed: it does not begin at finite numbers." for item in _first(~begun)]
    for status in (Status.DIVERGED, Status.NOT_CONVERGED):
        for item in _first((run.codes == status) & begun):
            end = _End(run, field, problem.asked, item, steps.method, problem.sense)
            words = end.of_equal_steps(steps.dt) if steps.dt is not None else end.by_tolerance(status, steps.tolerance)
            said.append(f"{_name(item, batch)} {words}")
    return tuple(said)


def _first(which: Tensor) -> list[int]:
    """The first item that is so, if any is."""
    return which.nonzero()[:1, 0].tolist()


class _End:
    """Where an item ended, in times as the user has them."""

    def __init__(self, run: Run, field: Items, asked: Tensor, item: int, method: str, sense: int) -> None:
        self.run, self.field, self.item, self.method, self.sense = run, field, item, method, sense
        self.begin, self.t, self.last = (sense * float(time[item]) for time in (asked[0], run.reached, asked[-1]))
        self.steps = int(run.accepted[item])
        self.size = float(run.nodes[self.steps, item].abs().amax())

    def by_tolerance(self, status: Status, tolerance: Tolerance) -> str:
        """Of an item that chose its steps."""
        if status == Status.DIVERGED and self.steps == 0:
            return f"diverged: its velocity at the start, t = {self.t:g}, is not finite."
        if status == Status.DIVERGED:
            return f"diverged: it leaves for infinity at t = {self.t:.6g}, where its largest number is {self.size:.2g}."
        trials = self.steps + int(self.run.rejected[self.item])
        if trials < tolerance.max_steps:
            vanish = f"did not converge: its steps vanish at t = {self.t:.6g}, where its largest number is {self.size:.2g}. "
            grain = torch.finfo(self.run.nodes.dtype).eps * abs(self.t)
            if self.field.time_dependent and grain > ROUGH * self._step():
                return f"{vanish}The state is float32, in which that time is known to {grain:.2g} only: pass x0.double()."
            return (
                f"{vanish}The field jumps or ends there, or it is no function of state and time, or the tolerance "
                "is below its rounding."
            )
        used = f"did not converge: max_steps = {tolerance.max_steps} trials of a step took it to t = {self.t:.4g} of {self.last:g}"
        more = f"about {self._more(trials):.2g} more at this pace"
        rate, h, limit = self.rate(self.steps), self._step(), _limit(self.method)
        if limit is None or rate * h < BOUND * limit:
            return f"{used}; {more}: raise max_steps, or rtol and atol."
        return (
            f"{used}; {more}. The field is stiff there: its fastest rate, {rate:.2g} in a unit of time, holds the steps to "
            f'{h:.2g}, whatever the tolerance. Pass method="rodas5p", whose steps follow the slow motion; or raise max_steps.'
        )

    def of_equal_steps(self, dt: float) -> str:
        """Of an item whose steps were given."""
        rate, limit = self.rate(0), _limit(self.method)
        gone = f"diverged: its state is not finite after t = {self.t:.6g}, where its largest number was {self.size:.2g}"
        if limit is None or rate * dt <= limit:
            return (
                f"{gone}. Pass a smaller dt than {dt:g}, or leave dt out: steps by tolerance tell an infinity from a step too long."
            )
        return (
            f"{gone}. Steps of dt = {dt:g} are too long: its fastest rate at the start is {rate:.2g} in a unit of time, and "
            f'{self.method} is stable up to dt = {limit / rate:.2g}. Pass a smaller dt; or method="rodas5p" without dt.'
        )

    def rate(self, node: int) -> float:
        """The spectral radius of the Jacobian at one of the item's states."""
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
        """The length of the last steps."""
        last = self.run.mesh.steps[max(0, self.steps - FEW) : self.steps]
        return float(torch.stack([h.reshape(-1)[self.item] for _, h in last]).median()) if last else 0.0

    def _more(self, trials: int) -> float:
        h = self._step() * self.steps / trials
        return abs(self.last - self.t) / h if h else float("inf")


def _limit(method: str) -> float | None:
    """The longest stable step of  q̈ = −q  for a method of halves, of  ẋ = −x  for others; None where there is no end."""
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
