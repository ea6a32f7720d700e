"""Feedback laws u = k(x) that swing up and hold a pendulum and a pole on a cart, trained through the solver, judged as flows.

Run it:  python examples/controller_design.py [--quick] [--first SEED] [--out DIR]
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.linalg import solve_continuous_are
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.wording import measured
from separatrix.plot.style import BAR, FAINT, INK, NOTE, QUIET, SERIES, TICKS, canvas, styled

G, LENGTH = 9.81, 1.0  # m/s², m
HIDDEN = 32
DT, FINE = 0.1, 0.05  # steps in seconds: to train with, and to judge with
FIRST = 1.0  # seconds, the horizon of the first round; it grows until half of the training is done
BATCH = 128  # states a round and seed, half of them near the top
CLIP = 1.0  # the longest gradient
EVERY = 10  # rounds between two validations
WORSE = 1.3  # times the least validation cost, above which training goes back to the law that had it
LONG = 8.0  # seconds of a validation
UPRIGHT = 0.01  # rad, m and their rates: an attractor this near to the top is the top
FEWER = 300  # states that are followed with another mass


class Law(nn.Module):
    r"""A bounded, odd feedback law  k(x) = u_max tanh(W₃ tanh(W₂ tanh(W₁ z))),  z = (y, cos θ · y), y odd in x.

    Without biases k(−x) = −k(x), which is the machines' own symmetry: the top is at rest under every such law.

    Args:
        weights: W₁, W₂, W₃ transposed, each (*seeds, 1, in, out) or (in, out).
        bound: u_max.
    """

    def __init__(self, weights: list[Tensor], bound: float) -> None:
        super().__init__()
        self.weights, self.bound = nn.ParameterList(weights), bound

    @classmethod
    def drawn(cls, inputs: int, bound: float, seeds: Sequence[int]) -> "Law":
        """One law for each seed, all in one batch."""
        shapes = ((2 * inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1))
        drawn = []
        for seed in seeds:
            random = torch.Generator().manual_seed(seed)
            drawn.append([(2 * torch.rand(shape, generator=random) - 1) / math.sqrt(shape[0]) for shape in shapes])
        return cls([torch.stack(layer) for layer in zip(*drawn, strict=True)], bound)

    def forward(self, odd: Tensor, cosine: Tensor) -> Tensor:
        """The force or torque, of the shape of the batch."""
        z = torch.cat([odd, cosine[..., None] * odd], dim=-1)
        for weight in self.weights:
            z = torch.tanh(z @ weight)
        return self.bound * z[..., 0]

    def of(self, row: int) -> "Law":
        """One of the laws, in float64."""
        return Law([weight[row].detach().double() for weight in self.weights], self.bound)


class Linear(nn.Module):
    """The saturated linear law  u = clamp(−K x, ±u_max)  with K of the linear-quadratic regulator, the angle taken within ±π.

    Args:
        gain: K, shape (dim).
        bound: u_max.
        angle: which number of the state is the angle.
    """

    def __init__(self, gain: Tensor, bound: float, angle: int) -> None:
        super().__init__()
        self.gain, self.bound, self.angle = gain, bound, angle

    def forward(self, x: Tensor) -> Tensor:
        """The force or torque, of the shape of the batch."""
        return (-(within_a_turn(x, self.angle) @ self.gain)).clamp(-self.bound, self.bound)


def within_a_turn(x: Tensor, angle: int) -> Tensor:
    """The same states with the angle, one of their numbers, within ±π."""
    parts = list(x.unbind(-1))
    parts[angle] = torch.atan2(parts[angle].sin(), parts[angle].cos())
    return torch.stack(parts, dim=-1)


class Machine(sx.Field):
    """A machine under a feedback law:  ẋ = f(x, k(x)).  The angle θ is 0 at the top.

    Args:
        law: of `features`, or a `Linear` one of the state.
        mass: of the pendulum or the pole, kg.
    """

    name: ClassVar[str]
    angle: ClassVar[int]  # its place in the state
    names: ClassVar[tuple[str, ...]]
    bound: ClassVar[float]  # N m, or N
    wide: ClassVar[tuple[float, ...]]  # half widths of the box of initial states
    near: ClassVar[tuple[float, ...]]  # … of the one near the top
    weights: ClassVar[tuple[float, ...]]  # of the squares in the regulator's cost, with 1 for (u / u_max)²
    default_mass: ClassVar[float]

    def __init__(self, law: nn.Module, mass: float | None = None) -> None:
        super().__init__()
        self.law = law
        self.hold(mass=self.default_mass if mass is None else mass)

    def forward(self, x: Tensor, t: Any) -> Tensor:
        """The velocity under the law."""
        return self.motion(x, self.action(x))

    def action(self, x: Tensor) -> Tensor:
        """u = k(x)."""
        return self.law(x) if isinstance(self.law, Linear) else self.law(*self.features(x))

    def motion(self, x: Tensor, u: Tensor) -> Tensor:
        """The velocity under a given force or torque."""
        raise NotImplementedError

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a learned law sees: numbers that are odd in x and of order 1, and cos θ."""
        raise NotImplementedError

    def cost(self, x: Tensor) -> Tensor:
        """What a second in this state costs."""
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], random: torch.Generator, *, part: float = 1.0) -> Tensor:
        """States drawn evenly from a part of the wide box, and from no less than the near one."""
        half = torch.maximum(torch.tensor(self.near), part * torch.tensor(self.wide))
        return (2 * torch.rand(*shape, len(half), generator=random) - 1) * half

    def flow(self) -> sx.Flow:
        """The closed loop in steps to judge it with."""
        return sx.Flow(self, len(self.names), FINE)


class Pendulum(Machine):
    r"""m l² θ̈ = m g l sin θ − b θ̇ + u,  with |u| ≤ 4 N m, 0.41 of m g l: it cannot lift the arm at once."""

    name, names, angle = "pendulum", ("θ (rad)", "ω (rad/s)"), 0
    bound, default_mass, damping = 4.0, 1.0, 0.1  # N m, kg, N m s
    wide, near, weights = (math.pi, 8.0), (0.4, 1.0), (1.0, 0.1)

    def motion(self, x: Tensor, u: Tensor) -> Tensor:
        """(ω, ω̇)."""
        angle, rate = x.unbind(-1)
        torque = self.mass * G * LENGTH * angle.sin() - self.damping * rate + u
        return torch.stack([rate, torque / (self.mass * LENGTH**2)], dim=-1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(sin θ, ω / 5) and cos θ."""
        angle, rate = x.unbind(-1)
        return torch.stack([angle.sin(), rate / 5], dim=-1), angle.cos()

    def cost(self, x: Tensor) -> Tensor:
        """1 − cos θ + ω² / 50."""
        angle, rate = x.unbind(-1)
        return 1 - angle.cos() + 0.02 * rate**2


class CartPole(Machine):
    r"""A point mass m on a rod of length l on a cart of mass M, which a force |u| ≤ 10 N pushes along x.

    (M + m sin² θ) v̇ = u − b v + m sin θ (l ω² − g cos θ) + m c l ω cos θ,     l ω̇ = g sin θ − v̇ cos θ − c l ω
    """

    name, names, angle = "cart–pole", ("x (m)", "v (m/s)", "θ (rad)", "ω (rad/s)"), 2
    bound, default_mass, cart, damping, friction = 10.0, 0.25, 1.0, 0.1, 0.05  # N, kg, kg, N s/m, 1/s
    wide, near, weights = (1.0, 1.0, math.pi, 4.0), (1.0, 1.0, 0.4, 0.5), (1.0, 0.1, 1.0, 0.1)

    def motion(self, x: Tensor, u: Tensor) -> Tensor:
        """(v, v̇, ω, ω̇)."""
        _, speed, angle, rate = x.unbind(-1)
        sine, cosine = angle.sin(), angle.cos()
        drag = self.friction * LENGTH * rate
        rod = self.mass * (sine * (LENGTH * rate**2 - G * cosine) + drag * cosine)  # its pull on the cart
        push = (u - self.damping * speed + rod) / (self.cart + self.mass * sine**2)
        return torch.stack([speed, push, rate, (G * sine - push * cosine - drag) / LENGTH], dim=-1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x / 2, v / 2, sin θ, ω / 4) and cos θ."""
        place, speed, angle, rate = x.unbind(-1)
        return torch.stack([place / 2, speed / 2, angle.sin(), rate / 4], dim=-1), angle.cos()

    def cost(self, x: Tensor) -> Tensor:
        """1 − cos θ + (ω² + v²) / 50 + the square of the place / 10, which counts less far away."""
        place, speed, angle, rate = x.unbind(-1)
        return 1 - angle.cos() + 0.02 * (rate**2 + speed**2) + 0.1 * place**2 / (1 + place**2 / 4)


class Trained(NamedTuple):
    """Laws of all seeds, as drawn and as kept; validation costs, (validation, seed), and lengths of gradients, (round, seed)."""

    drawn: Law
    kept: Law
    costs: Tensor
    gradients: Tensor


class Plan(NamedTuple):
    """How a machine's laws are trained: rounds, Adam's rate, and the longest horizon, in seconds."""

    kind: type[Machine]
    rounds: int
    rate: float
    horizon: float


class Extent(NamedTuple):
    """How much is done: plans, seeds, states and steps to judge with, other masses, spans of tangents, SciPy's states and time."""

    plans: tuple[Plan, ...]
    seeds: int
    states: int
    patience: int
    changes: tuple[float, ...]
    spans: tuple[float, ...]
    checked: int
    followed: float


FULL = Extent(
    (Plan(Pendulum, 60, 1e-2, 4.0), Plan(CartPole, 300, 1e-2, 4.0)), 5, 1000, 1200, (0.8, 1.2), (1.0, 2.0, 4.0, 8.0), 10, 60.0
)
QUICK = Extent((Plan(Pendulum, 40, 1e-2, 2.5), Plan(CartPole, 48, 1e-2, 1.5)), 1, 60, 300, (), (0.2, 0.5), 1, 20.0)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, judge, draw and save `controller_design.png`; per machine the laws, their judgement and the regulator's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and a short training, in seconds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    extent, found = QUICK if asked.quick else FULL, {}
    seeds = range(asked.first, asked.first + extent.seeds)
    for plan in extent.plans:
        kind, begun = plan.kind, (time.perf_counter(), time.process_time())
        trained = train(plan, seeds=seeds)
        spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
        machines = [kind(trained.kept.of(row)) for row in range(len(seeds))]
        found[kind.name] = {
            "trained": trained,
            "machines": machines,
            "judged": [judge(machine, extent) for machine in machines],
            "regulator": judge(regulated(kind), extent),
            "growth": {"drawn": growth(kind(trained.drawn.of(0)), extent.spans), "kept": growth(machines[0], extent.spans)},
        }
        tell(kind.name, found[kind.name], extent, asked.first, spent)
    figure(found, extent.spans, count=11 if asked.quick else 81, patience=min(extent.patience, 600)).savefig(
        asked.out / "controller_design.png", dpi=120
    )
    return found


def train(plan: Plan, *, seeds: Sequence[int]) -> Trained:
    """Laws of all seeds at once, by Adam through the solution; of each the one with the least validation cost is kept."""
    (kind, rounds, rate, horizon), random = plan, torch.Generator().manual_seed(0)
    inputs = len(kind.near)  # the features are as many as the numbers of the state
    machine = kind(Law.drawn(inputs, kind.bound, seeds))
    weights = list(machine.law.parameters())
    optimizer = torch.optim.Adam(weights, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    held = machine.draw((1, BATCH), torch.Generator().manual_seed(1)).expand(len(seeds), -1, -1)  # for validation
    drawn = [weight.detach().clone() for weight in weights]
    kept, costs, gradients = drawn, [validation(machine, held)], []
    for number in range(rounds):
        grown = min(1.0, 2 * number / rounds)
        near, far = (machine.draw((len(seeds), BATCH // 2), random, part=part) for part in (0.0, 0.15 + 0.85 * grown))
        spent = along(machine, torch.cat([near, far], dim=1), FIRST + (horizon - FIRST) * grown)
        optimizer.zero_grad()
        (spent.mean((0, 2)) + spent[-1].mean(-1)).sum().backward()  # what it costs, and where it ends
        gradients.append(clip(weights))
        optimizer.step()
        schedule.step()
        if (number + 1) % EVERY == 0:
            costs.append(validation(machine, held))
            better = costs[-1] < torch.stack(costs[:-1]).amin(0)
            kept = [torch.where(better[:, None, None], new.detach(), old) for new, old in zip(weights, kept, strict=True)]
            turn_back(weights, kept, costs[-1] > WORSE * torch.stack(costs).amin(0))
    return Trained(Law(drawn, kind.bound), Law(kept, kind.bound), torch.stack(costs), torch.stack(gradients))


@torch.no_grad()
def turn_back(weights: list[Tensor], kept: list[Tensor], lost: Tensor) -> None:
    """Give the seeds that an exploded gradient has thrown off their best law again."""
    for new, old in zip(weights, kept, strict=True):
        new.copy_(torch.where(lost[:, None, None], old, new))


def along(machine: Machine, start: Tensor, horizon: float) -> Tensor:
    """The cost at equal times, (times, seeds, states); a state that left the finite numbers is NaN."""
    steps = round(horizon / DT)
    times = torch.linspace(0, steps * DT, steps + 1)
    return machine.cost(sx.solve(machine, start, times, method="rk4", dt=DT).states)


@torch.no_grad()
def validation(machine: Machine, start: Tensor) -> Tensor:
    """The mean cost of each seed's law over a long horizon."""
    return along(machine, start, LONG).mean((0, 2))


def clip(weights: list[Tensor]) -> Tensor:
    """Shorten each seed's gradient to at most `CLIP`; its length before that."""
    length = torch.stack([weight.grad.square().sum((1, 2)) for weight in weights]).sum(0).sqrt()
    for weight in weights:
        weight.grad *= (CLIP / length).clamp(max=1)[:, None, None]
    return length


def regulated(kind: type[Machine]) -> Machine:
    """The machine under the saturated linear-quadratic regulator of its top:  K = R⁻¹ Bᵀ P,  Aᵀ P + P A − P B R⁻¹ Bᵀ P + Q = 0."""
    dim = len(kind.near)
    free, zero = kind(nn.Identity()), torch.zeros(dim, dtype=torch.float64)
    a, b = torch.func.jacrev(free.motion, argnums=(0, 1))(zero, zero[0])
    q, r = torch.tensor(kind.weights, dtype=torch.float64).diag(), torch.full((1, 1), kind.bound**-2, dtype=torch.float64)
    p = torch.as_tensor(solve_continuous_are(a.numpy(), b[:, None].numpy(), q.numpy(), r.numpy()))
    return kind(Linear(b @ p / r[0, 0], kind.bound, kind.angle))


def judge(machine: Machine, extent: Extent) -> dict[str, Any]:
    """The equilibria, the rates of the top, and the share of random states that reach it, also with another mass."""
    start = machine.draw((extent.states,), torch.Generator().manual_seed(2)).double()
    rest = sx.fixed_points(machine.flow(), torch.cat([torch.zeros_like(start[:1]), start[:100]]))
    top = int(rest.points.norm(dim=-1).argmin())
    up, basins = reaches(machine, start, extent.patience)
    share = float(up.double().mean())
    other = {times: reaches(machine.at(mass=times * machine.mass), start[:FEWER], extent.patience)[0] for times in extent.changes}
    return {
        "kinds": kinds(machine, rest),
        "top": rest.points[top],
        "rates": rest.rates[top],
        "basins": basins,
        "share": share,
        "stderr": math.sqrt(share * (1 - share) / len(up)),
        "changed": {times: float(up.double().mean()) for times, up in other.items()},
        "agrees": agrees(machine, start[: extent.checked], up[: extent.checked], extent.followed),
    }


def kinds(machine: Machine, rest: sx.results.FixedPoints) -> dict[str, int]:
    """How many equilibria of each kind there are on one turn."""
    places = (within_a_turn(rest.points, machine.angle) * 1e6).round()
    places[:, machine.angle] = places[:, machine.angle].where(
        places[:, machine.angle] > -round(math.pi * 1e6), round(math.pi * 1e6)
    )
    first = {tuple(place): kind for place, kind in zip((places + 0.0).tolist(), rest.kind, strict=True)}
    return dict(Counter(first.values()))


def reaches(machine: Machine, start: Tensor, patience: int) -> tuple[Tensor, sx.results.Basins]:
    """Which states end at the top: basins of the step on a cylinder, where a turn leads back and whirling is an attractor."""
    flow = machine.flow()
    turning = sx.Map(lambda x: within_a_turn(flow.step(x), machine.angle), flow.dim)
    basins = sx.basins_of_attraction(turning, start, steps=min(200, patience // 3), max_steps=patience)
    ends = zip(basins.kind, basins.attractors.norm(dim=-1).tolist(), strict=True)
    top = [kind == "fixed point" and away < UPRIGHT for kind, away in ends]
    return torch.tensor([*top, False])[basins.labels], basins  # the label −1 is the last


@torch.no_grad()
def agrees(machine: Machine, start: Tensor, up: Tensor, seconds: float) -> int:
    """Of how many states SciPy's DOP853 at a tolerance of 1e-8, followed for so many seconds, says the same."""

    def velocity(_: float, x: Any) -> Any:
        return machine(torch.as_tensor(x)[None], 0.0)[0].numpy()

    ends = [solve_ivp(velocity, (0, seconds), x.numpy(), method="DOP853", rtol=1e-8, atol=1e-8).y[:, -1] for x in start]
    theirs = within_a_turn(torch.stack([torch.as_tensor(end) for end in ends]), machine.angle).norm(dim=-1) < UPRIGHT
    return int((theirs == up).sum())


def growth(machine: Machine, spans: Sequence[float], states: int = 200) -> Tensor:
    """The logarithm of σ₁ of  ∂x(T) / ∂x(0)  for each horizon T, (spans, states)."""
    start = machine.draw((states,), torch.Generator().manual_seed(3)).double()
    fields = [sx.finite_time_lyapunov(machine.flow(), start, steps=round(span / FINE)) for span in spans]
    return torch.stack([span * field.exponents[:, 0] for span, field in zip(spans, fields, strict=True)])


def tell(name: str, part: dict[str, Any], extent: Extent, first: int, spent: tuple[float, float]) -> None:
    """Each seed's judgement, the mean over seeds, and the regulator's."""
    print(f"{name}: trained in {spent[0]:.0f} s, {spent[1]:.0f} s of them on the processor")
    lines = {f"seed {seed}": told for seed, told in enumerate(part["judged"], first)} | {"regulator": part["regulator"]}
    for who, told in lines.items():
        rates = ", ".join(f"{value:.2f}" for value in told["rates"].tolist())
        changed = ", ".join(f"{share:.3f} at {times} m" for times, share in told["changed"].items())
        print(f"  {who}: share {measured(told['share'], told['stderr'])} ({changed}); rates at the top {rates} 1/s")
        basins = told["basins"]
        lost = f"diverged {basins.diverged:.3f}, undecided {basins.undecided:.3f}"
        print(f"    {lost}; SciPy says the same of {told['agrees']} in {extent.checked} states")
        print("    reached: " + "; ".join(f"{basins.share(i)} {basins.describe(i)}" for i in range(len(basins.kind))))
        print(f"    equilibria on one turn: {', '.join(f'{count} {kind}' for kind, count in told['kinds'].items())}")
    for what, values in across(part["judged"]).items():
        print(f"  {what}: {measured(*values)} (mean of the seeds ± standard error)")
    for which, nats in part["growth"].items():
        middle, worst = (", ".join(f"{x:.3g}" for x in nats.quantile(share, dim=1).exp().tolist()) for share in (0.5, 1.0))
        print(f"  tangents, {which} law, after {extent.spans} s: median {middle}; largest {worst}")
    trained = part["trained"]
    each = {
        "longest gradient": trained.gradients.amax(0),
        "last cost": trained.costs[-1],
        "cost of the law kept": trained.costs.amin(0),
    }
    for what, values in each.items():
        print(f"  {what}, by seed: {', '.join(f'{value:.3g}' for value in values.tolist())}")


def across(judged: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error over the seeds."""
    columns = {"share": [told["share"] for told in judged], "slowest rate (1/s)": [float(told["rates"].max()) for told in judged]}
    columns |= {f"share at {times} m": [told["changed"][times] for told in judged] for times in judged[0]["changed"]}
    values = {what: torch.tensor(column, dtype=torch.float64) for what, column in columns.items()}
    few = len(judged) == 1
    return {what: (float(v.mean()), math.nan if few else float(v.std() / len(v) ** 0.5)) for what, v in values.items()}


@styled
def figure(found: dict[str, Any], spans: Sequence[float], *, count: int, patience: int) -> Figure:
    """The pendulum's plane under both laws, the training, the cart's swing-up, the shares, and how tangents grow."""
    picture, panels = canvas(2, 3, width=4.2, height=3.5)
    pendulum, cart = found["pendulum"], found["cart–pole"]
    draw_plane(panels[0, 0], pendulum["machines"][0], count, patience, "Pendulum, learned law")
    draw_plane(panels[0, 1], regulated(Pendulum), count, patience, "Pendulum, saturated LQR")
    draw_training(panels[0, 2], found)
    draw_swing(panels[1, 0], cart["machines"][0])
    draw_shares(panels[1, 1], found)
    draw_growth(panels[1, 2], found, spans)
    for axes in panels.flat:
        axes.tick_params(which="both", **TICKS)
    return picture


@torch.no_grad()
def draw_plane(axes: Axes, machine: Machine, count: int, patience: int, title: str) -> None:
    """States that do not reach the top in grey, orbits, and the equilibria by kind."""
    turn, fast = machine.wide
    places = sx.grid((-turn, -fast), (turn, fast), (count, count))
    up, _ = reaches(machine, places, patience)
    axes.contourf(places[:, 0, 0], places[0, :, 1], (~up).double().mT, levels=[0.5, 1.5], colors=[FAINT], alpha=0.6)
    starts = torch.tensor([(math.pi - 0.05, 0.0), (-2.0, 0.0), (1.2, 1.0), (-3.0, 7.0), (0.6, -6.0)], dtype=torch.float64)
    orbits = sx.trajectory(machine.flow().refined(2), starts, 480)
    wrapped = torch.atan2(orbits[..., 0].sin(), orbits[..., 0].cos())
    jumps = torch.cat([torch.zeros_like(wrapped[:1], dtype=torch.bool), wrapped.diff(dim=0).abs() > math.pi])
    axes.plot(wrapped.where(~jumps, torch.nan), orbits[..., 1], color=SERIES[0].color, linewidth=1.1)
    axes.plot(*starts.T, linestyle="", marker=".", color=SERIES[0].color, markersize=6)
    rest = sx.fixed_points(machine.flow(), places[:: max(count // 20, 1), :: max(count // 20, 1)].reshape(-1, 2))
    inside = rest.points[:, 0].abs() < turn + 1e-6
    for word, marker, face in (("stable", "o", INK), ("saddle", "X", "white"), ("unstable", "o", "white")):
        rows = torch.tensor([kind.startswith(word) for kind in rest.kind]) & inside
        look = {"linestyle": "", "marker": marker, "color": INK, "markerfacecolor": face, "markersize": 7, "zorder": 4}
        axes.plot(*rest.points[rows].T, label=word, **look)
    axes.set(title=title, xlabel="angle from the top θ (rad)", ylabel="angular velocity ω (rad/s)", xlim=(-turn, turn))
    axes.set_ylim(-1.25 * fast, 1.45 * fast)
    axes.legend(loc="upper center", ncols=3, handletextpad=0.1, columnspacing=0.8)
    axes.text(0.02, 0.02, "grey: does not come to the top", transform=axes.transAxes, **NOTE)


def draw_training(axes: Axes, found: dict[str, Any]) -> None:
    """Validation costs of each seed over the rounds."""
    for look, (name, part) in zip(SERIES, found.items(), strict=False):
        costs = part["trained"].costs
        for seed in range(costs.shape[1]):
            label = f"{name}, each seed" if seed == 0 else None
            axes.plot(
                EVERY * torch.arange(len(costs)), costs[:, seed], color=look.color, linestyle=look.line, linewidth=1.1, label=label
            )
    axes.set(title="Training", xlabel="rounds", ylabel=f"mean cost over {LONG:g} s, validation", yscale="log")
    axes.legend(loc="upper right")


@torch.no_grad()
def draw_swing(axes: Axes, machine: Machine, seconds: float = 10.0) -> None:
    """The cart's and the pole's way from hanging to the top, and the force as a part of its bound."""
    start = torch.tensor([[0.0, 0.0, math.pi - 0.05, 0.0]], dtype=torch.float64)
    flow = machine.flow().refined(2)
    orbit = torch.cat([start[None], sx.trajectory(flow, start, round(seconds / flow.dt))])[:, 0]
    times = flow.dt * torch.arange(len(orbit))
    curves = {"angle θ (rad)": orbit[:, 2], "place x (m)": orbit[:, 0], "force u / u_max": machine.action(orbit) / machine.bound}
    for look, (name, values) in zip(SERIES, curves.items(), strict=False):
        axes.plot(times, values, color=look.color, linestyle=look.line, label=name)
    top = 2 * math.pi * round(float(orbit[-1, 2]) / (2 * math.pi))
    axes.axhline(top, color=QUIET, linewidth=0.8, label=f"top, θ = {top:.3g}", zorder=1)
    axes.set(
        title="Cart–pole from hanging, first seed", xlabel="time (s)", ylabel="angle, place, force (units: legend)", ylim=(-2.5, 9)
    )
    axes.legend(loc="upper right", ncols=2)


def draw_shares(axes: Axes, found: dict[str, Any]) -> None:
    """The share of random states that reach the top, by law and machine."""
    for i, part in enumerate(found.values()):
        for j, told in enumerate([part["regulator"], *part["judged"]]):
            look = SERIES[0 if j else 1]
            label = (("LQR, saturated", "learned, each seed")[j] if j < 2 else None) if i == 0 else None
            axes.errorbar(i + 0.12 * (j - 2.5), told["share"], yerr=BAR * told["stderr"], linestyle="", label=label, **look.marks)
    axes.set_xticks(range(len(found)), list(found))
    axes.set(title="States that come to the top", ylabel="share of random states", ylim=(0, 1.08), xlim=(-0.6, len(found) - 0.4))
    axes.text(0.98, 0.03, f"bars: {BAR} binomial standard errors", transform=axes.transAxes, ha="right", **NOTE)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.06))


def draw_growth(axes: Axes, found: dict[str, Any], spans: Sequence[float]) -> None:
    """The largest factor by which a small change of the initial state grows, median and worst of all states, by horizon."""
    part = found["cart–pole"]["growth"]
    for look, (which, name) in zip(SERIES, (("drawn", "before training"), ("kept", "after it")), strict=False):
        middle, worst = (part[which].quantile(share, dim=1).exp() for share in (0.5, 1.0))
        axes.plot(spans, worst, linestyle=look.line, label=f"{name}, worst state", **look.marks)
        axes.plot(
            spans,
            middle,
            linestyle=look.line,
            linewidth=0.8,
            label=f"{name}, median",
            **(look.marks | {"markersize": 2.5}),
        )
    axes.set(title="Cart–pole: growth of tangents", xlabel="horizon T (s)", ylabel="σ₁ of ∂x(T) / ∂x(0)", yscale="log")
    axes.set_ylim(top=1e3 * axes.get_ylim()[1])
    axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
