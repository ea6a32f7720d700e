"""Every time loop: how runs begin, step, fail and end."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from separatrix.core.errors import HorizonError, InputError, ShapeError
from separatrix.core.evolve import begin, check_steps, trajectory
from separatrix.core.system import Map, System
from separatrix.flows.flow import Flow
from separatrix.systems.noisy import Noisy

AFFINE = torch.tensor([[0.9, -0.4], [0.3, 0.8]], dtype=torch.float64)


class Power(System):
    """x → x^p, each number on its own: it overflows from |x| > 1 and dies to 0 from |x| < 1."""

    def __init__(self, p=2.0, horizon=None):
        super().__init__(dim=1, horizon=horizon, start=(0.5,))
        self.hold(p=p)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return x ** (self.p[..., None] if isinstance(self.p, Tensor) else self.p)


class Counter(System):
    """x → x + n: says which step it was asked for."""

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return x + n

    def elapsed(self, x: Tensor, n: int = 0) -> Tensor:
        return x[..., 0]


def linear() -> Map:
    return Map(lambda x: x @ AFFINE.T.to(x), 2)


def doubles(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_trajectory_is_the_powers_of_a_linear_map():
    x0 = doubles([1, 2], [-1, 0.5], [3, 0])
    orbit = trajectory(linear(), x0, 30)
    assert orbit.shape == (31, 3, 2)
    for n in (0, 1, 17, 30):
        assert torch.allclose(orbit[n], x0 @ torch.linalg.matrix_power(AFFINE, n).T, rtol=1e-12)


def test_a_trajectory_asks_for_its_steps_in_order():
    assert trajectory(Counter(1), doubles(0), 6)[:, 0].tolist() == [0, 0, 1, 3, 6, 10, 15]


def test_settling_discards_the_first_steps_and_every_keeps_one_in_so_many():
    x0 = doubles(0)
    whole = trajectory(Counter(1), x0, 20)
    assert torch.equal(trajectory(Counter(1), x0, 12, settle=8), whole[8:])
    assert torch.equal(trajectory(Counter(1), x0, 12, settle=8, every=3), whole[8::3])


def test_a_trajectory_of_no_steps_is_its_start():
    assert trajectory(linear(), doubles(1, 2), 0).tolist() == [[1, 2]]


def test_a_trajectory_starts_by_itself_at_the_natural_start():
    assert trajectory(Power(), None, 2)[:, 0].tolist() == [0.5, 0.25, 0.0625]


def test_a_trajectory_without_x0_has_one_start_for_each_set_of_parameters():
    orbit = trajectory(Power(doubles(1, 2, 3)), None, 1, seed=5)
    assert torch.equal(orbit[0], Power().initial_state((3,), seed=5))
    assert torch.allclose(orbit[1, :, 0], orbit[0, :, 0] ** doubles(1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_keeps_the_dtype_of_x0(dtype):
    assert trajectory(Power(torch.tensor(2.0)), torch.full((4, 1), 0.5, dtype=dtype), 3).dtype == dtype


def test_numpy_states_are_taken():
    assert trajectory(linear(), np.array([1.0, 2.0]), 1)[1].tolist() == pytest.approx([0.1, 1.9])


def test_a_trajectory_can_be_differentiated_by_its_start_and_parameters():
    """x₃ = x₀^(p³): d/dx₀ = p³ x₀^(p³−1), d/dp = 3 p² ln x₀ x₀^(p³)."""
    p, x0 = doubles(1.3).squeeze().requires_grad_(), doubles(0.7).requires_grad_()
    trajectory(Power(p), x0, 3)[-1].sum().backward()
    cube = 1.3**3
    assert x0.grad.item() == pytest.approx(cube * 0.7 ** (cube - 1))
    assert p.grad.item() == pytest.approx(3 * 1.3**2 * math.log(0.7) * 0.7**cube)


def test_a_sample_that_overflows_is_nan_from_that_step_on():
    """10^(2ⁿ) leaves float64 at n = 9: 10^512."""
    orbit = trajectory(Power(), doubles([10.0], [0.5]), 12)[..., 0]
    assert orbit[8, 0].item() == pytest.approx(1e256)
    assert orbit[9:, 0].isnan().all()
    assert torch.equal(orbit[:, 1], trajectory(Power(), doubles(0.5), 12)[:, 0])


def test_a_front_says_at_which_step_each_sample_failed():
    front = begin(Power(), doubles([10.0], [0.5], [1e200])).advance(12)
    assert front.failed_at.tolist() == [8, -1, 0]
    assert front.lived.tolist() == [8, 12, 0]


def test_the_failing_of_one_leaves_the_bits_of_its_neighbours():
    x0 = doubles([1.1], [0.3], [0.7])
    calm = trajectory(Power(), x0, 20)
    mixed = trajectory(Power(), torch.cat([x0[:2], doubles([1e9]), x0[2:]]), 20)
    assert torch.equal(mixed[:, [1, 3]], calm[:, [1, 2]])


def test_what_is_nan_once_stays_nan_even_if_the_step_would_revive_it():
    """A step may turn NaN into a number, as `where(x > 1, …)` and clamps do."""
    reviving = Map(lambda x: torch.where(x.isnan(), 0.5, x * 1e200), 1)
    front = begin(reviving, doubles(1.0)).advance(8)
    assert front.x.isnan().all()
    assert front.failed_at.item() == 1


def test_tangents_of_what_has_left_the_finite_numbers_are_no_numbers():
    """Beyond 10 the step is a constant NaN, whose automatic derivative is 0: a number, but of no state."""
    ending = Map(lambda x: torch.where(x > 10, math.nan, 2 * x), 1)
    front = begin(ending, doubles([4.0], [0.5])).with_tangents(torch.ones(2, 1, 1, dtype=torch.float64)).advance(4)
    assert front.failed_at.tolist() == [2, -1]
    assert front.v[0].isnan().all() and front.v[1].item() == 16


def test_one_number_that_fails_fails_the_whole_state():
    lopsided = Map(lambda x: x * doubles(1e200, 0.5), 2)
    assert trajectory(lopsided, doubles(1, 1), 2)[-1].isnan().all()


def test_a_front_counts_its_steps_and_its_time():
    """Elapsed times are the states before each step: 5, 5, 6, 8."""
    front = begin(Counter(1), doubles([5.0], [0.0])).advance(1).advance(3)
    assert front.n == 4
    assert front.time.tolist() == [5 + 5 + 6 + 8, 0 + 0 + 1 + 3]


def test_a_front_carries_its_tangents():
    front = begin(linear(), doubles(1, 2)).with_tangents(torch.eye(2).double()).advance(5)
    assert torch.allclose(front.v, torch.linalg.matrix_power(AFFINE, 5).T, rtol=1e-13)
    assert torch.equal(front.x, trajectory(linear(), doubles(1, 2), 5)[-1])
    assert front.with_tangents(None).advance(1).v is None


def test_a_run_never_writes_to_its_start():
    x0 = doubles([10.0], [0.5])
    trajectory(Power(), x0, 12)
    assert x0.tolist() == [[10.0], [0.5]]


@pytest.mark.parametrize(
    ("x0", "error", "told"),
    [
        (torch.zeros(5, 3), ShapeError, "the state has 3 numbers but this Map has 2"),
        (torch.tensor(1.0), ShapeError, "the state has 1 numbers but this Map has 2"),
        (torch.zeros(2, dtype=torch.int64), InputError, "x0 is torch.int64, but states are real numbers"),
        (torch.zeros(2, dtype=torch.complex128), InputError, "x0 is complex128"),
        (doubles(math.nan, 1.0), InputError, "1 of 2 numbers of x0"),
        (doubles([math.inf, 1.0], [-math.inf, 0]), InputError, "2 of 4 numbers of x0"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_with_both_numbers(x0, error, told):
    with pytest.raises(error, match=told):
        trajectory(linear(), x0, 1)


def test_a_batch_that_does_not_broadcast_is_refused_with_both_shapes():
    with pytest.raises(ShapeError, match=r"x0 has batch axes \(4,\) but the parameters and inputs have \(3,\)"):
        begin(Power(doubles(1, 2, 3)), torch.ones(4, 1))


@pytest.mark.parametrize("wrong", [lambda x: x[..., :1], lambda x: x.sum(-1), lambda x: x[:1]], ids=["1", "none", "batch"])
def test_a_step_that_changes_the_shape_is_refused(wrong):
    with pytest.raises(ShapeError, match=r"states of shape \(3, 2\) to"):
        begin(Map(wrong, 2), torch.ones(3, 2))


def test_a_function_that_holds_tensors_of_another_dtype_is_told_of():
    weight = torch.eye(2, dtype=torch.float32)
    with pytest.raises(InputError, match=r"the state is torch.float64 but .* another dtype"):
        begin(Map(lambda x: x @ weight, 2), doubles(1, 2))


def test_more_steps_than_the_horizon_are_refused_with_both_numbers():
    with pytest.raises(HorizonError, match=r"settle 4 \+ steps 8 = 12 .* 10\b"):
        trajectory(Power(horizon=10), None, 8, settle=4)
    assert len(trajectory(Power(horizon=10), None, 6, settle=4)) == 7


def test_a_system_without_a_step_is_refused():
    with pytest.raises(HorizonError, match="horizon is 0"):
        begin(Power(horizon=0))


@pytest.mark.parametrize(
    ("counts", "told"),
    [({"steps": -1}, "steps is -1"), ({"settle": -2}, "settle is -2"), ({"every": 0}, "every is 0")],
)
def test_counts_out_of_range_are_refused(counts, told):
    with pytest.raises(InputError, match=told):
        trajectory(Power(), None, **{"steps": 3, **counts})


def test_check_steps_names_what_was_asked():
    with pytest.raises(HorizonError, match="warm-up 3 \\+ steps 9 = 12") as caught:
        check_steps(Power(horizon=5), **{"warm-up": 3, "steps": 9})
    assert "at most 5 steps" in str(caught.value)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: x - 0.1 * x.mean(0),
        lambda x: torch.softmax(x, 0),
        lambda x: (x - x.mean(0)) / (x.std(0) + 1e-5),
        lambda x: x.cumsum(0),
        lambda x: 0.5 * x.roll(1, 0),
    ],
    ids=["mean", "softmax", "norm", "cumsum", "roll"],
)
def test_items_that_depend_on_each_other_are_refused(mixing):
    x0 = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    with pytest.raises(InputError, match="items of a batch depend on each other"):
        trajectory(Map(mixing, 3), x0, 2)
    with pytest.raises(InputError, match="items of a batch depend on each other"):
        trajectory(Map(mixing, 3), x0[:1].expand(4, 3), 2)  # even where all are alike


def other_width(x):
    return x @ torch.eye(3, dtype=x.dtype)


@pytest.mark.parametrize(
    ("system", "told"),
    [
        (lambda: Map(lambda x, n: x, 2), r"TypeError: .*'n'\.\nIt is called as f\(x\); as f\(x, n\) with time_dependent=True"),
        (lambda: Map(lambda n, x: x.to(n.dtype), 2, time_dependent=True), r"AttributeError(?s:.*)f\(x, n\).* state first"),
        (lambda: Map(other_width, 2), r"RuntimeError: .*3x3\)\.\n.*states of 2 numbers"),
        (lambda: Map(nn.BatchNorm1d(2, track_running_stats=False), 2), "ValueError: Expected more than 1 value per channel"),
        (lambda: Flow(lambda x, t: x, 2, 0.1), r"as f\(x\); as f\(x, t\) with time_dependent=True"),
        (lambda: Flow(lambda a, b: b[..., 0] * a, 2, 0.1, time_dependent=True), r"f\(x, t\).* state first"),
        (lambda: Noisy(Map(lambda x, n: x, 2), 0.1), r"as f\(x, n\) with time_dependent=True"),
    ],
    ids=["time", "order", "width", "norm", "time of a flow", "order of a flow", "within another"],
)
def test_a_function_that_fails_at_once_is_named_with_its_error_and_how_it_is_called(system, told):
    with pytest.raises(InputError, match=r"the step failed on states of shape \((16, )?2,?\): " + f"(?s:.*){told}") as caught:
        begin(system())
    assert not isinstance(caught.value.__cause__, InputError) and caught.value.__cause__ is not None


def test_what_a_function_raises_later_is_its_own():
    def broken(x: Tensor, n: int) -> Tensor:
        return x if n < 5 else {}["mine"]

    with pytest.raises(KeyError, match="mine"):
        trajectory(Map(broken, 2, time_dependent=True), None, 10)
