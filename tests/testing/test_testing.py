"""The conformance suite itself: sound systems pass, and each broken promise is caught by its own name."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.components import along_tangents, components
from separatrix.core.errors import SeparatrixError
from separatrix.core.evolve import begin
from separatrix.core.result import Result, Status
from separatrix.core.system import Map, System
from separatrix.flows.flow import Flow
from separatrix.flows.methods import SOLVERS
from separatrix.testing import check_analysis, check_module_untouched, check_system, systems

MIX = torch.tensor([[0.6, -0.7, 0.1], [0.2, 0.5, 0.4], [-0.3, 0.1, 0.8]], dtype=torch.float64)


class Sound(System):
    """x → gain · tanh(M x), with its tangents in closed form: the mother of all that is broken here."""

    def __init__(self, gain=1.5, horizon=None):
        super().__init__(dim=3, horizon=horizon, start=(0.3, -0.2, 0.5))
        self.hold(gain=gain)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return along_tangents(self.gain) * torch.tanh(x @ MIX.T.to(x))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        slope = along_tangents(self.gain) * (1 - torch.tanh(x @ MIX.T.to(x)) ** 2)
        return self.step(x, n), slope[..., None, :] * (v @ MIX.T.to(v))


class Automatic(Sound):
    """The same by forward AD."""

    pushforward = System.pushforward


class Remembering(Sound):
    def step(self, x, n=0):
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return super().step(x, n) + 1e-9 * self.calls


class Noisy(Sound):
    def step(self, x, n=0):
        torch.rand(1)
        return super().step(x, n)


class Overwriting(Sound):
    def step(self, x, n=0):
        after = super().step(x, n)
        x.mul_(0.999)
        return after


class ScalingTangents(Sound):
    def pushforward(self, x, v, n=0):
        after = super().pushforward(x, v.clone(), n)
        v.div_(v.norm())
        return after


class Averaging(Sound):
    """Items of a batch see each other."""

    def step(self, x, n=0):
        return super().step(x - 0.1 * x.mean(tuple(range(x.ndim - 1))), n) if x.ndim > 1 else super().step(x, n)


class Transposed(Sound):
    """Multiplies by Jᵀ in place of J."""

    def pushforward(self, x, v, n=0):
        slope = along_tangents(self.gain) * (1 - torch.tanh(x @ MIX.T.to(x)) ** 2)
        return self.step(x, n), (v * slope[..., None, :]) @ MIX.to(x)


class Unlinked(Sound):
    """Forgets the slope of the tanh."""

    def pushforward(self, x, v, n=0):
        return self.step(x, n), along_tangents(along_tangents(self.gain)) * (v @ MIX.T.to(v))


class WrongByAHair(Sound):
    """A derivative that is wrong by 3e-5, as a difference would be in float32."""

    def pushforward(self, x, v, n=0):
        value, pushed = super().pushforward(x, v, n)
        return value, pushed * (1 + 3e-5)


class StaleState(Sound):
    """Returns the state it was given."""

    def pushforward(self, x, v, n=0):
        return x, super().pushforward(x, v, n)[1]


class Normalising(Sound):
    def pushforward(self, x, v, n=0):
        value, pushed = super().pushforward(x, v, n)
        return value, pushed / (1e-300 + pushed.norm(dim=-1, keepdim=True))


class Affine(Sound):
    """Adds a constant to every tangent."""

    def pushforward(self, x, v, n=0):
        value, pushed = super().pushforward(x, v, n)
        return value, pushed + 0.01


class Ricker(System):
    """x → x exp(gain − x) in two uncoupled sites, whose tangents may broadcast wrongly."""

    def __init__(self, gain=1.2):
        super().__init__(dim=2, start=(0.4, 1.3))
        self.hold(gain=gain)

    def step(self, x, n=0):
        return x * (along_tangents(self.gain) - x).exp()

    def pushforward(self, x, v, n=0):
        p, q = x.unbind(-1)
        dp, dq = v.unbind(-1)
        gain = self.gain
        return self.step(x, n), components(
            self.beside((1 - p) * (gain - p).exp()) * dp, self.beside((1 - q) * (gain - q).exp()) * dq
        )

    def beside(self, slope):
        return slope[..., None]


class WrongBroadcast(Ricker):
    """(*batch) times (*batch, k): an error unless k is the batch, and then a wrong number."""

    def beside(self, slope):
        return slope


class UnequalBroadcast(WrongBroadcast):
    """The same, hidden wherever the number of tangents is not the batch."""

    def pushforward(self, x, v, n=0):
        same = x.ndim > 1 and x.shape[-2] == v.shape[-2]
        return super().pushforward(x, v, n) if same else Ricker(self.gain).pushforward(x, v, n)


class WrongGrid(Ricker):
    """A parameter of shape (*batch) times tangents of shape (*batch, k)."""

    def pushforward(self, x, v, n=0):
        return self.step(x, n), (1 - x)[..., None, :] * (-x).exp()[..., None, :] * v * torch.as_tensor(self.gain).exp()


class ScalarOnly(Ricker):
    """Cannot take a grid of its parameter."""

    def step(self, x, n=0):
        return x * (float(self.gain) - x).exp()


class Detached(Ricker):
    """Takes a grid, but no gradient reaches it."""

    def step(self, x, n=0):
        gain = self.gain.detach() if isinstance(self.gain, Tensor) else self.gain
        return x * (along_tangents(gain) - x).exp()


class AlwaysDouble(Sound):
    def step(self, x, n=0):
        return super().step(x, n).double()


class DoubleTangents(Sound):
    def pushforward(self, x, v, n=0):
        value, pushed = super().pushforward(x, v, n)
        return value, pushed.double()


class RandomStart(Sound):
    def initial_state(self, batch=(), seed=0):
        return torch.rand(*batch, 3, dtype=torch.float64)


class ShapelessStart(Sound):
    def initial_state(self, batch=(), seed=0):
        return torch.zeros(3, dtype=torch.float64)


class SingleStart(Sound):
    def initial_state(self, batch=(), seed=0):
        return torch.zeros(*batch, 3)


class ShortBreath(Sound):
    """Promises 50 steps and has 20."""

    def __init__(self):
        super().__init__(horizon=50)

    def step(self, x, n=0):
        return super().step(x, n) + torch.zeros(20)[n]


class StandingClock(Sound):
    def elapsed(self, x, n=0):
        return 0.0


class ClockPerNumber(Sound):
    def elapsed(self, x, n=0):
        return torch.ones_like(x)


class DoubledResidual(Sound):
    def residual(self, x, n=0):
        return 2 * super().residual(x, n)


class Calling(Sound):
    def forward(self, x, n=0):
        return self.step(self.step(x, n), n)


class Descent(System):
    """Gradient descent on x²/2, whose author writes the displacement down."""

    def __init__(self, displacement=-2.5):
        super().__init__(dim=2, start=(0.1, 0.2))
        self.displacement = displacement

    def step(self, x, n=0):
        return x - 2.5 * x

    def residual(self, x, n=0):
        return self.displacement * x


class Pull(System):
    """An author's own flow  ẋ = −x + sin t,  by Heun's method, that cannot shorten its step."""

    continuous = True

    def __init__(self, factor=1.0):
        super().__init__(dim=2, dt=0.05, start=(1.0, -2.0))
        self.factor = factor

    def field(self, x, t):
        return torch.sin(torch.as_tensor(t).to(x)) - x

    def step(self, x, n=0):
        before = self.field(x, n * self.dt)
        return x + self.dt / 2 * (before + self.field(x + self.dt * before, (n + 1) * self.dt))

    def residual(self, x, n=0):
        return self.factor * self.field(x, n * self.dt)


class Displaced(Pull):
    def residual(self, x, n=0):
        return self.step(x, n) - x


class Unsaid(Pull):
    continuous = False


class OffByAThousandth(Flow):
    def __init__(self):
        super().__init__(lambda x: torch.sin(x.roll(1, -1)), 3, 0.1, start=(0.3, 1.0, 2.0))

    def residual(self, x, n=0):
        return 1.001 * super().residual(x, n)


class ShortResidual(Sound):
    def residual(self, x, n=0):
        return (self.step(x, n) - x).norm(dim=-1)


class OtherWidth(Sound):
    def width(self, n):
        return 4


class InPlaceAt(Sound):
    def at(self, **parameters):
        copy = super().at(**parameters)
        self.hold(**{name: value for name, value in parameters.items() if not isinstance(value, Tensor)})
        return copy


class SwallowingAt(Sound):
    def at(self, **parameters):
        return super().at(**{name: value for name, value in parameters.items() if name == "gain"})


class Narrowing(System):
    def step(self, x, n=0):
        return x[..., :1]


class Exploding(System):
    def step(self, x, n=0):
        return (x.abs() + 10) ** 200


@pytest.mark.parametrize(
    "system",
    [
        Sound(),
        Automatic(),
        Sound(horizon=2),
        Sound(horizon=1),
        Ricker(),
        Sound(torch.tensor([0.7, 1.1], dtype=torch.float64)),
        Sound(torch.tensor(1.3, dtype=torch.float64)),
        Map(torch.sin, 1),
        Map(lambda x, n: (x + 0.1 * n).sin(), 3, time_dependent=True),
        Descent(),
        Pull(),
    ],
    ids=["closed form", "automatic", "2 steps", "1 step", "ricker", "batch", "scalar tensor", "map", "in time", "descent", "flow"],
)
def test_a_sound_system_passes(system):
    check_system(system)


def test_a_sound_system_passes_at_the_states_that_are_given():
    check_system(Sound(), torch.rand(2, 3))
    check_system(Sound(torch.tensor([0.7, 1.1], dtype=torch.float64)), torch.rand(4, 1, 3))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (Remembering, "the step keeps state besides x"),
        (Noisy, "the step draws random numbers from PyTorch's global generator"),
        (Overwriting, "changes its argument in place"),
        (ScalingTangents, "pushforward wrote to its tangents"),
        (Averaging, r"the step of a batch \(3,\) is not that of its items one by one"),
        (Transposed, "the pushforward is not the central difference of step"),
        (Unlinked, "the pushforward is not the central difference of step"),
        (WrongByAHair, "the pushforward is not the central difference of step"),
        (StaleState, "the pushforward's state of a batch .* is not that"),
        (Normalising, "the pushforward is not linear"),
        (Affine, "the pushforward is not linear"),
        (WrongBroadcast, "the check that is pure failed with RuntimeError: The size of tensor a"),
        (UnequalBroadcast, "the pushforward of 3 tangents of a batch .* is not that of its items one by one"),
        (WrongGrid, "the pushforward of 3 tangents over a grid of gain"),
        (ScalarOnly, "a step over a grid of gain failed with .*ValueError"),
        (Detached, "no gradient reaches gain"),
        (AlwaysDouble, "step takes torch.float32 to torch.float64"),
        (DoubleTangents, "pushforward takes torch.float32 to torch.float64"),
        (RandomStart, "initial_state of seed 0 differs between two calls"),
        (ShapelessStart, r"initial_state\(\(3,\)\) has shape \(3,\), not \(3, 3\)"),
        (SingleStart, "initial_state is torch.float32"),
        (ShortBreath, "horizon is 50, but the step n = 49 failed with IndexError"),
        (StandingClock, "elapsed is 0"),
        (ClockPerNumber, r"elapsed has shape \(3, 3\)"),
        (ShortResidual, "residual has shape"),
        (DoubledResidual, r"residual is not F\(x\) − x, .*: \S+ apart where \S+ is allowed"),
        (lambda: Descent(-2.4), r"residual is not F\(x\) − x"),
        (Unsaid, "the system does not say continuous = True"),
        (lambda: Pull(1.2), "residual is not the field that the step follows"),
        (Displaced, "residual is not the field that the step follows"),
        (OffByAThousandth, "residual is not the field that the step follows"),
        (Calling, "forward is not step"),
        (OtherWidth, r"width\(0\) is 4 but the state has 3 numbers"),
        (InPlaceAt, r"at\(gain=…\) changed the step of the original"),
        (SwallowingAt, "it must raise InputError"),
        (lambda: Narrowing(2), "the start of a run failed with ShapeError"),
        (lambda: Exploding(2), "left the finite numbers within 3 steps"),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else "",
)
def test_a_broken_promise_is_told_by_name(broken, told):
    system = broken()
    with pytest.raises(AssertionError, match=told) as caught:
        check_system(system)
    assert not isinstance(caught.value, SeparatrixError)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dt", [1e-3, 0.2])
@pytest.mark.parametrize("method", SOLVERS)
def test_a_flow_by_any_method_has_its_field_as_its_residual(method, dt):
    """Of a forced pendulum, which is separable, at small and at large steps."""

    def field(x, t):
        q, p = x.chunk(2, dim=-1)
        return torch.cat([p, torch.cos(torch.as_tensor(t).to(x)) - torch.sin(q)], dim=-1)

    check_system(Flow(field, 2, dt, method=method, time_dependent=True, start=(0.5, 1.0)))


def test_a_failing_check_says_both_numbers():
    with pytest.raises(AssertionError, match=r": -?\d\S+ against -?\d\S+, \S+ apart where \S+ is allowed"):
        check_system(Transposed())


def test_checking_a_system_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    check_system(Sound())
    assert torch.equal(before, torch.get_rng_state())


def test_an_untouched_module_gives_back_what_the_run_returned():
    module = nn.Linear(2, 2)
    assert check_module_untouched(module, lambda: module(torch.zeros(2))).shape == (2,)


def test_gradients_may_be_collected_in_an_untouched_module():
    module = nn.Linear(2, 2)
    check_module_untouched(module, lambda: begin(Map(module, 2), torch.ones(2)).advance(2).x.sum().backward())
    assert module.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m[0].weight.data.add_(1e-3), "0.weight has changed"),
        (lambda m: m[1].running_mean.add_(1), "1.running_mean has changed"),
        (lambda m: m.double(), "0.weight has changed: torch.float64 against torch.float32"),
        (lambda m: m[1].eval(), "training of the layer 1 was True and is False"),
        (lambda m: m.requires_grad_(False), "0.weight.requires_grad was True and is False"),
        (lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach())), "0.weight was replaced"),
        (lambda m: m.append(nn.Linear(1, 1)), "the module's tensors were"),
    ],
)
def test_a_touched_module_is_told_of(change, told):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    with pytest.raises(AssertionError, match=told):
        check_module_untouched(module, lambda: change(module))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Reach(Result):
    """How far each orbit goes."""

    reach: Tensor
    path: Tensor

    layout: ClassVar[dict[str, str]] = {"reach": "batch", "path": "time batch"}


@dataclass(kw_only=True, eq=False, repr=False)
class Loose:
    """Not frozen, not a Result."""

    codes: Tensor


def reach(system, x0=None, *, steps=100, seed=0):
    """The largest number along an orbit; an analysis as it should be."""
    front, sizes = begin(system, x0, seed=seed), []
    with torch.no_grad():
        for _ in range(steps):
            front = front.advance(1)
            sizes.append(front.x.abs().amax(-1))
    path = torch.stack(sizes)
    codes = torch.where(front.failed_at >= 0, Status.DIVERGED, Status.OK).to(torch.int8)
    return Reach(codes=codes, reach=path.amax(0), path=path)


def with_gradient(system, x0=None, *, steps=100):
    front = begin(system, x0).advance(3)
    return Reach(codes=torch.zeros(front.x.shape[:-1]).char(), reach=front.x.norm(dim=-1), path=torch.zeros(3))


def without_batch(system, x0=None, *, steps=100):
    found = reach(system, x0, steps=steps)
    return Reach(codes=found.codes, reach=found.reach.nan_to_num(0).sum(), path=found.path)


def pooled_status(system, x0=None, *, steps=100):
    found = reach(system, x0, steps=steps)
    return Reach(codes=found.codes.max(), reach=found.reach, path=found.path)


def disturbing(system, x0=None, *, steps=100):
    found = reach(system, x0, steps=steps)
    return Reach(codes=found.codes, reach=found.reach + found.reach.isnan().any(), path=found.path)


def hiding(system, x0=None, *, steps=100):
    found = reach(system, x0, steps=steps)
    return Reach(codes=torch.zeros_like(found.codes), reach=found.reach, path=found.path)


def random(system, x0=None, *, steps=100):
    found = reach(system, x0, steps=steps)
    draw = torch.from_numpy(np.random.default_rng().random(found.reach.shape))
    return Reach(codes=found.codes, reach=found.reach + 1e-14 * draw, path=found.path)


def drawing(system, x0=None, *, steps=100):
    torch.rand(1)
    return reach(system, x0, steps=steps)


def writing(system, x0=None, *, steps=100):
    x0.data.mul_(0.5)
    return reach(system, x0, steps=steps)


def loose(system, x0=None):
    return Loose(codes=torch.zeros(()))


def thawed(system, x0=None, *, steps=100):
    class Thawed(Reach):
        __setattr__ = object.__setattr__

    found = reach(system, x0, steps=steps)
    return Thawed(codes=found.codes, reach=found.reach, path=found.path)


def test_a_sound_analysis_passes():
    check_analysis(reach)


def test_a_sound_analysis_passes_on_a_system_of_ones_own():
    check_analysis(reach, Sound())
    check_analysis(reach, Sound(), torch.rand(3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("analysis", "told"),
    [
        (lambda system, x0, seed: None, "3 positional arguments"),
        (lambda: None, "0 positional arguments"),
        (lambda system, x0=None, *, k: None, "k has no default"),
        (lambda system, x0=None, **options: None, r"\*options swallows"),
        (loose, "returned a Loose, not a Result"),
        (thawed, "can be written to"),
        (with_gradient, "reach is not detached"),
        (without_batch, "reach has shape"),
        (pooled_status, "the run's batch is"),
        (disturbing, "item 0's reach depends on its neighbour"),
        (hiding, "the middle item's reach is NaN but its status is ok"),
        (random, "reach differs between two runs of one seed"),
        (drawing, "the analysis drew on the global random generator"),
        (writing, "the analysis wrote to x0"),
    ],
)
def test_a_broken_analysis_is_told_of(analysis, told):
    with pytest.raises(AssertionError, match=told):
        check_analysis(analysis)


def test_a_kink_beside_the_state_is_no_wrong_derivative_and_hides_none():
    """A sort of pairs whose two numbers are nearer than the difference's step; then with a derivative that is wrong by 1e-5."""
    x0 = torch.tensor([0.3, 0.3 + 1e-6], dtype=torch.float64)

    class Sorted(sx.System):
        slope = 1.0

        def step(self, x, n=0):
            return 0.9 * x.sort(-1).values

        def pushforward(self, x, v, n=0):
            order = x.argsort(-1)
            return self.step(x, n), 0.9 * self.slope * v.gather(-1, order[..., None, :].expand_as(v))

    system = Sorted(2)
    probe = systems._Probe(system, system, x0.expand(3, 2).clone(), 0, 0)
    systems._tangents_are_the_derivative(probe)
    system.slope = 1 + 1e-5
    with pytest.raises(AssertionError, match="not the central difference"):
        systems._tangents_are_the_derivative(probe)


def test_a_module_without_a_guarantee_is_refused():
    with pytest.raises(sx.errors.UnsupportedModuleError, match="got a Linear"):
        sx.testing.check_block(nn.Linear(2, 2))
