"""Every class of system that the package defines, found by walking it, alone and in pairs: each is what it says that it is."""

import importlib
import inspect
import pkgutil
from itertools import product

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.compiled import Compiled
from separatrix.core.derived import Derived, Frozen, InUnit, Padded
from separatrix.core.evolve import begin
from separatrix.core.system import System
from separatrix.portrait.find_core import find_core
from separatrix.systems import SYSTEMS
from separatrix.testing import check_system

BASES = {  # classes that define no step: a subclass gives it
    "System",
    "Driven",
    "Block",
    "TimedFlow",
    "HalfAndHalf",
    "HamiltonianBlock",
    "SymplecticShear",
    "CoupledLattice",
}


def field(dim: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, dim)).double()


def swing(dt: float = 0.1) -> sx.Flow:
    """A forced oscillator, whose field depends on time."""
    return sx.Flow(
        lambda x, t: (
            torch.stack([x[..., 1], torch.cos(t) * torch.ones_like(x[..., 0]) - x[..., 0] - 0.1 * x[..., 1]], dim=-1)
            if isinstance(t, torch.Tensor)
            else torch.stack([x[..., 1], torch.cos(x.new_tensor(t)) - x[..., 0] - 0.1 * x[..., 1]], dim=-1)
        ),
        2,
        dt,
        time_dependent=True,
        start=(0.5, 0.1),
    )


def spiral(x: torch.Tensor) -> torch.Tensor:
    """Turns about the third axis once in 2π, towards the circle of radius 1, while the third number decays."""
    a, b, c = x.unbind(-1)
    pull = 1 - a**2 - b**2
    return torch.stack([b + 0.1 * a * pull, -a + 0.1 * b * pull, -0.3 * c + 0.05 * a], dim=-1)


def steady(dim: int = 4, dt: float = 0.1) -> sx.Flow:
    module = field(dim)
    return sx.Flow(module, dim, dt, start=(0.3, -0.2, 0.5, 0.1)[:dim])


def recurrent() -> sx.Recurrent:
    return sx.Recurrent(nn.GRU(2, 4, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64))


class Generator(nn.Module):
    """A network that feeds on its own output, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(2, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, seen = x.new_zeros(len(x), 4), []
        for _ in range(8):
            h = self.cell(x, h)
            x = self.out(h)
            seen.append(x)
        return torch.stack(seen)


def turn() -> System:
    model = Generator().double()
    return find_core(model, torch.randn(1, 2, dtype=torch.float64)).feedback.turn


def training() -> sx.Training:
    """Of a network with 6 parameters, by momentum."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1, bias=False)).double()
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    return sx.Training(
        model, lambda y, wanted: (y - wanted).square().mean(), (x, x.sin()), torch.optim.SGD(model.parameters(), 0.1, 0.9)
    )


NEEDS = {  # how a class is built where its defaults do not do, or would be slow
    "Map": lambda: sx.Map(lambda x: torch.tanh(x.roll(1, -1) * 1.5) + 0.1, 4),
    "Recurrent": recurrent,
    "ClosedLoop": lambda: sx.ClosedLoop(nn.GRU(2, 4, dtype=torch.float64), nn.Linear(4, 2, dtype=torch.float64)),
    "Turn": turn,
    "Derived": lambda: Derived(steady()),
    "Frozen": lambda: Frozen(swing(), 3),
    "InUnit": lambda: InUnit(steady(), 8.0),
    "Padded": lambda: Padded(sx.Layers(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))),
    "Iterate": lambda: sx.Iterate(steady(), 3),
    "Compiled": lambda: Compiled(sx.classic.lorenz63()),
    "Section": lambda: sx.Section(sx.Flow(spiral, 3, 0.4, start=(1.0, 0.1, 0.2)), axis=1, max_steps=100),
    "Stroboscopic": lambda: sx.Stroboscopic(swing(dt=1.0), period=2 * torch.pi),
    "Noisy": lambda: sx.Noisy(steady(), 0.1, seed=2),
    "Seeded": lambda: sx.Seeded(sx.Map(lambda x: torch.tanh(x.roll(1, -1) + 0.1 * torch.randn_like(x)), 4), seed=3),
    "Flow": swing,
    "ContinuousDepth": lambda: sx.nn.ContinuousDepth([field() for _ in range(3)], steps=6, method="heun", between="linear"),
    "NeuralODE": lambda: sx.nn.NeuralODE(field(), end=2.0),
    "ContinuousNormalizingFlow": lambda: sx.nn.ContinuousNormalizingFlow(field(), 4),
    "FlowLayer": lambda: sx.nn.NeuralODE(field(), dt=0.4).as_layer(),
    "Sequential": lambda: sx.nn.Sequential(sx.nn.Isometry(4), nn.Tanh(), sx.nn.NeuralODE(field(), dt=0.5)),
    "Weighted": lambda: sx.nn.parts.Weighted(sx.nn.MassPreserving(4), (1.0, 2.0, 0.5, 3.0)),
    "Plain": lambda: made("Plain")(4, 4),
    "MassPreservingLift": lambda: sx.nn.parts.MassPreservingLift(4, 4),
    "MassPreservingProjection": lambda: sx.nn.parts.MassPreservingProjection(4, 4),
    "Layers": lambda: sx.Layers([sx.nn.Residual(nn.Linear(4, 4)) for _ in range(5)]),
    "Training": training,
    "MackeyGlass": lambda: sx.classic.mackey_glass(),
}


def walked() -> dict[str, type[System]]:
    """The classes of systems that the package defines, but for those to build upon."""
    for module in pkgutil.walk_packages(sx.__path__, "separatrix."):
        if not module.name.endswith("__main__"):  # which runs the command line
            importlib.import_module(module.name)
    found, todo = {}, [System]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__.startswith("separatrix.") and kind.__name__ not in BASES:
            found[kind.__name__] = kind
    return dict(sorted(found.items()))


CLASSES = walked()


def made(name: str) -> type[System]:
    return CLASSES[name]


@pytest.fixture(autouse=True)
def without_the_compiler(monkeypatch):
    """What is held here is what `Compiled` delegates; that the compiler computes the same is held where it is tested."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


def built(name: str) -> System:
    """One of that class, with weights of its own seed, in float64 where it has any."""
    kind = CLASSES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in NEEDS:
            return NEEDS[name]().double()
        parameters = inspect.signature(kind).parameters.values()
        needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        assert len(needed) <= 1, (
            f"{kind.__module__}.{name} needs {', '.join(p.name for p in needed)}: say in NEEDS how it is built."
        )
        return kind(*[4] * len(needed)).double()


LISTED = {type(make()).__name__ for make in SYSTEMS.values()} - {"Flow", "Recurrent", "Layers"}


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in LISTED])  # the others: in test_conformance
def test_a_class_of_systems_conforms(name):
    system = built(name)
    assert type(system) is CLASSES[name]
    check_system(system)


def test_what_is_to_build_upon_is_tried_as_what_is_built_upon_it():
    bases = {base.__name__ for kind in CLASSES.values() for base in kind.__mro__[1:]}
    assert bases >= BASES


FLOWS = {"Flow", "NeuralODE", "ContinuousNormalizingFlow", "ContinuousDepth", "Derived", "Frozen", "InUnit", "Noisy", "Compiled"}


@pytest.mark.parametrize("name", CLASSES)
def test_only_flows_and_what_follows_them_step_by_step_are_continuous(name):
    assert built(name).continuous == (name in FLOWS)


def weighted(system: System) -> System:
    return sx.nn.parts.Weighted(system, torch.linspace(0.5, 2.0, system.dim).tolist())


def before_a_block(system: System) -> System:
    return sx.nn.Sequential(system, sx.nn.Isometry(system.dim))


def behind_a_block(system: System) -> System:
    return sx.nn.Sequential(sx.nn.Isometry(system.dim), system)


PAIRS = {
    "iterate": lambda system: sx.Iterate(system, 2),
    "noisy": lambda system: sx.Noisy(system, 0.01, seed=5),
    "frozen": lambda system: Frozen(system, 1),
    "compiled": Compiled,
    "weighted": weighted,
    "before a block": before_a_block,
    "behind a block": behind_a_block,
}
SLOW = {("Section", pair) for pair in PAIRS if pair != "noisy"}  # a return is many steps of its flow


@pytest.mark.parametrize(("name", "pair"), [both for both in product(CLASSES, PAIRS) if both not in SLOW])
def test_a_pair_conforms(name, pair):
    """Calling it is its step; its tangents are central differences; what is zero at rest is what it says."""
    inner = built(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        system = PAIRS[pair](inner).double()
    start = inner.initial_state(tuple(inner.batch_shape), 1)
    start = start + 0.1 * torch.linspace(-1, 1, start.numel()).reshape(start.shape)
    system, x = (front := begin(system, start)).system, front.x
    n, v = 0 if system.horizon == 1 else 1, torch.linspace(-1, 1, 2 * x.numel(), dtype=torch.float64).reshape(2, *x.shape)
    v = v.movedim(0, -2)
    with torch.no_grad():
        after = system.step(x, n)
        assert torch.equal(system(x, n), after)
        assert torch.equal(system.step(x, n), after)
        value, pushed = system.pushforward(x, v, n)
        assert (value - after).abs().max() <= 1e-12 * after.abs().max().clamp(min=1)
        h = 6e-6 * float(x.abs().max())
        near = torch.stack([(system.step(x + h * w, n) - system.step(x - h * w, n)) / (2 * h) for w in v.unbind(-2)], dim=-2)
        assert (pushed - near).abs().max() <= 1e-6 * pushed.abs().max().clamp(min=1)
        residual = system.residual(x, n)
        if system.continuous:  # of the inner system's field
            w = torch.linspace(0.5, 2.0, inner.dim, dtype=torch.float64) if pair == "weighted" else 1.0
            field = inner.residual(w * x, n) / w
            assert (residual - field).abs().max() <= 1e-12 * field.abs().max()
        else:
            assert (residual - (after - x)).abs().max() <= 1e-12 * after.abs().max().clamp(min=1)
    whole = {"iterate", "before a block", "behind a block"} | ({"weighted"} if inner.as_layer() is not inner else set())
    assert system.continuous == (inner.continuous and pair not in whole)
