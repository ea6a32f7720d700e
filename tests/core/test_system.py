"""The noun System: parameters and batches, copies with other parameters, and the systems that are made of systems."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.analysis.lyapunov.divergence import divergence_rate
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.core.compiled import Compiled
from separatrix.core.components import along_tangents, components
from separatrix.core.derived import Frozen, Iterate
from separatrix.core.driven import Driven
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import begin, trajectory
from separatrix.core.system import Map, System
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow
from separatrix.testing import check_module_untouched


class Rotation(System):
    """x → radius · R(angle) x, of known powers."""

    def __init__(self, angle=0.3, radius=1.0):
        super().__init__(dim=2, dt=0.5, start=(1.0, 0.0))
        self.hold(angle=angle, radius=radius)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        angle = torch.as_tensor(self.angle, dtype=x.dtype)
        p, q = x.unbind(-1)
        return components(self.radius * (angle.cos() * p - angle.sin() * q), self.radius * (angle.sin() * p + angle.cos() * q))

    def elapsed(self, x: Tensor, n: int = 0) -> Tensor:
        return 0.5 + 0.25 * n + 0 * x[..., 0]


class Kicked(Driven):
    """x → x / 2 + u(n), u(n) = (n, n²)."""

    def __init__(self):
        super().__init__(dim=2, horizon=10)

    def drive(self, n: int) -> Tensor:
        return torch.tensor([n, n**2], dtype=torch.float64)

    def advance(self, x: Tensor, u: Tensor) -> Tensor:
        return x / 2 + u


class Decay(Field):
    """ẋ = −rate x."""

    def __init__(self, rate=1.0):
        super().__init__()
        self.hold(rate=rate)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return -along_tangents(self.rate) * x


def turned(angle: float, radius: float = 1.0) -> list[float]:
    return [radius * math.cos(angle), radius * math.sin(angle)]


def test_numbers_stay_exact_whatever_the_module_is_cast_to():
    assert Rotation(angle=0.1).float().double().angle == 0.1


def test_tensors_follow_to_and_keep_their_graph():
    angle = torch.tensor([0.1, 0.2], requires_grad=True)
    cast = Rotation(angle=angle).to(torch.float64)
    assert cast.angle.dtype == torch.float64
    cast.angle.sum().backward()
    assert angle.grad.tolist() == [1.0, 1.0]
    assert "angle" not in cast.state_dict()


def test_at_makes_a_copy_with_other_parameters_and_leaves_this_one_alone():
    system = Rotation(angle=0.3)
    other = system.at(angle=0.5, radius=2.0)
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert other.step(x).tolist() == pytest.approx(turned(0.5, 2.0))
    assert system.step(x).tolist() == pytest.approx(turned(0.3))
    assert (system.angle, system.radius, other.angle) == (0.3, 1.0, 0.5)


def test_at_turns_numbers_into_tensors_and_back():
    system = Rotation()
    grid = system.at(angle=torch.tensor([0.1, 0.2]).double())
    assert (system.batch_shape, grid.batch_shape, grid.at(angle=0.1).batch_shape) == ((), (2,), ())
    assert "angle" not in dict(system.named_buffers())


def test_a_gradient_through_at_is_the_derivative_by_the_parameter():
    """d/da (cos a, sin a) · (1, 1) = cos a − sin a."""
    angle = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    Rotation().at(angle=angle).step(torch.tensor([1.0, 0.0], dtype=torch.float64)).sum().backward()
    assert angle.grad.item() == pytest.approx(math.cos(0.7) - math.sin(0.7))


def test_at_reaches_the_parameters_of_the_systems_inside():
    flow = Flow(Decay(), 3, 0.1)
    assert flow.parameter_names == ("rate",)
    assert Iterate(flow, 2).at(rate=3.0).system.field.rate == 3.0
    assert flow.field.rate == 1.0


@pytest.mark.parametrize(("system", "known"), [(Rotation(), "angle, radius"), (Map(torch.sin, 2), "none")])
def test_an_unknown_parameter_is_refused_with_the_known_ones(system, known):
    with pytest.raises(InputError, match=f"no parameter 'angel'; .*: {known}"):
        system.at(angel=1.0)


def test_parameters_and_states_broadcast_to_the_batch_of_a_run():
    system = Rotation(angle=torch.rand(4, 1), radius=torch.rand(3))
    assert system.batch_shape == (4, 3)
    assert begin(system, torch.rand(2, 1, 1, 2, dtype=torch.float64)).x.shape == (2, 4, 3, 2)


def test_trailing_axes_of_a_matrix_parameter_are_no_batch():
    system = System(2)
    system.hold(rank=2, weight=torch.rand(5, 2, 2))
    assert system.batch_shape == (5,)
    assert system.at(weight=torch.rand(2, 2)).batch_shape == ()


def test_a_state_has_at_least_one_number():
    with pytest.raises(ShapeError, match="dim is 0"):
        System(0)


def test_initial_states_are_the_start_or_scattered_by_a_hundredth_about_it():
    system = Rotation()
    assert system.initial_state().tolist() == [1.0, 0.0]
    batch = system.initial_state((4000,), seed=3)
    assert batch.mean(0).tolist() == pytest.approx([1.0, 0.0], abs=5e-4)
    assert batch.std(0).tolist() == pytest.approx([0.005, 0.005], rel=0.1)
    assert torch.equal(batch, system.initial_state((4000,), seed=3))
    assert not torch.equal(batch, system.initial_state((4000,), seed=4))
    assert System(3).initial_state((2,)).tolist() == [[0.0] * 3] * 2


def test_initial_states_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    Rotation().initial_state((5,), seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_map_is_its_function_with_or_without_time():
    x = torch.rand(3, 2, dtype=torch.float64)
    assert torch.equal(Map(torch.sin, 2)(x), x.sin())
    assert torch.equal(Map(lambda x, n: n * x, 2, time_dependent=True).step(x, 4), 4 * x)
    assert torch.equal(Map(torch.sin, 2).residual(x), x.sin() - x)


def test_a_module_in_a_map_is_used_without_dropout_in_the_states_dtype_and_stays_as_it_was():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9), nn.Tanh()).train()
    x = torch.rand(5, 3, dtype=torch.float64)
    after = check_module_untouched(module, lambda: begin(Map(module, 3), x).advance(2).x)
    weight, bias = module[0].weight.double(), module[0].bias.double()
    once = torch.tanh(x @ weight.T + bias)
    assert torch.allclose(after, torch.tanh(once @ weight.T + bias), rtol=1e-14)


def test_a_driven_system_reads_the_input_of_its_step():
    x = torch.tensor([2.0, 4.0], dtype=torch.float64)
    assert Kicked().step(x, 3).tolist() == [4.0, 11.0]
    assert trajectory(Kicked(), x, 3)[-1].tolist() == [2 / 8 + 2.5, 4 / 8 + 4.5]


def test_a_frozen_system_keeps_the_input_of_one_instant():
    frozen = Kicked().frozen(3)
    x = torch.tensor([2.0, 4.0], dtype=torch.float64)
    for n in (0, 7, 99):
        assert frozen.step(x, n).tolist() == [4.0, 11.0]
    assert frozen.horizon is None
    rest = torch.tensor([6.0, 18.0], dtype=torch.float64)
    assert frozen.residual(rest).tolist() == [0.0, 0.0]
    assert frozen.pushforward(x, torch.eye(2).double())[1].tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_a_frozen_systems_clock_is_that_of_its_instant():
    assert Frozen(Rotation(), 4).elapsed(torch.zeros(2), n=0).item() == 1.5


def test_an_iterate_takes_p_steps_at_a_time():
    x, eye = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    thrice = Iterate(Rotation(0.3, 1.1), 3)
    value, pushed = thrice.pushforward(x, eye)
    assert thrice.step(x).tolist() == pytest.approx(turned(0.9, 1.1**3))
    assert torch.equal(value, thrice.step(x))
    wanted = 1.1**3 * torch.tensor([turned(0.9), [-math.sin(0.9), math.cos(0.9)]], dtype=torch.float64)
    assert torch.allclose(pushed, wanted, rtol=1e-14)
    assert thrice.elapsed(x, n=1).item() == 3 * 0.5 + 0.25 * (3 + 4 + 5)
    assert thrice.dt == 1.5


def test_an_iterate_of_a_driven_system_reads_each_input_once_and_ends_with_the_last_whole_step():
    x = torch.tensor([2.0, 4.0], dtype=torch.float64)
    iterate = Iterate(Kicked(), 3)
    assert iterate.horizon == 3
    assert torch.equal(trajectory(iterate, x, 3)[-1], trajectory(Kicked(), x, 9)[-1])


def test_an_iterate_of_no_steps_is_refused():
    with pytest.raises(InputError, match="p is 0"):
        Iterate(Rotation(), 0)


def test_a_compiled_system_is_the_same_system(monkeypatch):
    """With the back end that only traces, so that no C++ compiler is needed."""
    monkeypatch.setattr(torch, "compile", lambda f, options=None, compiled=torch.compile: compiled(f, backend="eager"))
    x, v = torch.rand(7, 2, dtype=torch.float64), torch.rand(7, 1, 2, dtype=torch.float64)
    field = Decay(torch.linspace(0.5, 1, 7).double())
    plain = Flow(field, 2, 0.1)
    plain.field.pushforward = lambda x, v, t: (field(x, t), -field.rate[:, None, None] * v)
    compiled = Compiled(plain)
    for got, wanted in zip(compiled.pushforward(x, v), plain.pushforward(x, v), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-15)
    assert torch.allclose(compiled.step(x), plain.step(x), rtol=1e-15)
    assert torch.equal(compiled.residual(x), plain.residual(x))
    assert (compiled.dt, compiled.elapsed(x)) == (0.1, 0.1)


def test_components_join_with_the_batch_innermost_in_memory():
    p, q = torch.rand(4, 5), torch.rand(5)
    x = components(p, q)
    assert torch.equal(x, torch.stack([p, q.expand(4, 5)], dim=-1))
    assert x.unbind(-1)[0].T.is_contiguous()
    v = components(torch.rand(4, 5, 2), torch.rand(4, 5, 2), torch.rand(4, 5, 2))
    assert v.shape == (4, 5, 2, 3)
    assert v.stride(0) == 1


def test_components_join_to_one_state_too():
    assert components(torch.tensor(1.0), torch.tensor(2.0)).tolist() == [1.0, 2.0]


def test_a_system_prints_its_size_and_numbers():
    assert repr(Rotation()) == "Rotation(dim=2, dt=0.5, angle=0.3, radius=1)"
    assert "method=rk4" in repr(Flow(Decay(), 1, 0.1))


def test_a_system_can_be_copied():
    system = Rotation(angle=torch.tensor([0.1, 0.2]))
    assert torch.equal(copy.deepcopy(system).angle, system.angle)


class OneBatchAxis(nn.Module):
    """Layers that know one batch axis only: an LSTM, batch norm, a Transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.attend = nn.TransformerEncoderLayer(2, 1, 8, batch_first=True)

    def forward(self, x: Tensor, when: float = 0.0) -> Tensor:
        x = self.norm(self.lstm(x[:, None])[0][:, 0]) + 0.1 * when
        return x + 0.1 * self.attend(x.reshape(-1, 2, 2)).reshape(-1, 4)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("kind", ["map", "flow"])
def test_a_module_sees_one_batch_axis_whatever_the_runs_batch(kind, timed):
    module = OneBatchAxis()
    make = Map if kind == "map" else lambda f, dim, **kw: Flow(f, dim, 0.1, **kw)
    system = make(module, 4, time_dependent=timed)
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.eye(4, dtype=torch.float64).expand(2, 3, 4, 4)
    front = begin(system, x).with_tangents(v).advance(2)
    for i in range(2):
        for j in range(3):
            one = begin(system, x[i, j]).with_tangents(v[i, j]).advance(2)
            assert torch.allclose(front.x[i, j], one.x, rtol=1e-12, atol=1e-13)
            assert torch.allclose(front.v[i, j], one.v, rtol=1e-11, atol=1e-12)
    if kind == "map":
        assert torch.allclose(system.double().step(x[0], 3), copy.deepcopy(module).double().eval()(x[0], 3.0 * timed), rtol=1e-12)


def test_a_system_in_a_map_keeps_its_own_batch():
    angles = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    x = torch.rand(2, 3, 2, dtype=torch.float64)
    assert torch.equal(Map(Rotation(angles), 2).step(x), Rotation(angles).step(x))


@pytest.mark.parametrize("double", [lambda x: x.mul_(2), lambda x: x[..., 0].mul_(2) is not None and x, nn.ReLU(inplace=True)])
def test_a_step_that_changes_its_argument_is_refused_and_the_state_kept(double):
    x0 = torch.tensor([1.0, 2.0])
    with pytest.raises(InputError, match=r"changes its argument in place.*\nReturn a new tensor"):
        begin(Map(double, 2), x0)
    assert x0.tolist() == [1.0, 2.0]


def test_a_step_that_changes_its_argument_is_refused_in_inference_mode_too():
    with torch.inference_mode(), pytest.raises(InputError, match="in place"):
        begin(Map(lambda x: x.mul_(2), 2), torch.ones(2))


def test_a_step_that_returns_no_tensor_is_refused():
    with pytest.raises(InputError, match="got a tuple"):
        begin(Map(nn.LSTM(2, 2), 2), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_half_precision_are_refused_with_the_way_out(dtype):
    with pytest.raises(InputError, match=rf"float32 or float64, not {str(dtype)[6:]}.\nPass x0.float\(\)"):
        begin(Map(torch.sin, 2), torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("measure", [begin, trajectory, lyapunov_spectrum, divergence_rate])
@pytest.mark.parametrize(
    ("given", "what"), [(nn.GRU(3, 5), "a GRU"), (lambda x: x, "a function"), (Rotation, "the class Rotation")]
)
def test_what_is_no_system_is_refused_with_the_ways_to_wrap_it(measure, given, what):
    with pytest.raises(UnsupportedModuleError, match=rf"got {what}.\nWrap it: sx.Recurrent\(.*sx.Map\("):
        measure(given)


def test_a_step_of_a_stack_is_frozen_at_its_own_width():
    """The middle block of 3 → 5 → 5 → 2 is a map of 5 numbers; the first is no map of one width."""
    torch.manual_seed(0)
    stack = sx.Layers(torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.Linear(5, 5), torch.nn.Linear(5, 2)]))
    assert Frozen(stack, 1).dim == 5 and trajectory(Frozen(stack, 1), torch.ones(5), 2).shape == (3, 5)
    with pytest.raises(ShapeError, match=r"shape .*\(3,\)"):
        trajectory(Frozen(stack, 0), torch.ones(3), 2)
