"""A network's constant input, and the numbers of any array, as parameters; and dt as the unit of time of a network or map."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx


def one_unit(w: float, inputs: int = 1) -> nn.RNN:
    """An RNN of one unit, h' = tanh(w h + Σ u)."""
    rnn = nn.RNN(inputs, 1, bias=False).double()
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(w)
        rnn.weight_ih_l0.fill_(1.0)
    return rnn


class TanhCell(nn.Module):
    """The same as a cell of one's own."""

    input_size = hidden_size = 1

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.w * h + u)


def fold_of(w: float) -> float:
    """|u*| at which h = tanh(w h + u) has a double root: w (1 − h²) = 1, u = artanh h − w h."""
    h = math.sqrt(1 - 1 / w)
    return w * h - math.atanh(h)


@pytest.mark.parametrize("build", [one_unit, TanhCell])
@pytest.mark.parametrize("w", [1.2, 1.5, 3.0])
def test_the_folds_in_a_constant_input_lie_where_the_closed_form_has_them(build, w):
    system = sx.Recurrent(build(w), constant=[-2.0])
    branch = sx.continuation(system, "constant[0]", -2.0, 2.0, torch.tensor([-0.9], dtype=torch.float64), step_size=0.04)
    assert branch.kind == ("fold", "fold")
    assert branch.bifurcation_parameters.tolist() == pytest.approx([fold_of(w), -fold_of(w)], abs=1e-9)


def test_an_input_is_turned_along_a_direction_which_is_its_gain():
    """tanh(w h + Σ g u_i): the folds lie at g = ± u* / Σ u."""
    u = torch.tensor([0.5, -0.1, 0.2], dtype=torch.float64)
    system = sx.Recurrent(one_unit(1.5, inputs=3), constant=torch.zeros(3))
    low = torch.tensor([-0.9], dtype=torch.float64)
    branch = sx.continuation(system, "constant", -1.0, 1.0, low, direction=u, step_size=0.04)
    expected = fold_of(1.5) / float(u.sum())
    assert branch.bifurcation_parameters.tolist() == pytest.approx([expected, -expected], abs=1e-9)
    moved = sx.Recurrent(one_unit(1.5, inputs=3), constant=0.25 * u)
    again = sx.continuation(moved, "constant", -1.5, 1.5, low, direction=u, step_size=0.04)
    assert again.bifurcation_parameters.tolist() == pytest.approx([expected - 0.25, -expected - 0.25], abs=1e-9)


def test_one_weight_of_a_network_is_a_parameter_too():
    """The map h' = tanh(w h) has its pitchfork at w = 1."""
    branch = sx.continuation(sx.Recurrent(one_unit(0.5)), "weight_hh_l0[0,0]", 0.5, 1.5, torch.zeros(1, dtype=torch.float64))
    assert [b.kind for b in branch.bifurcations] == ["pitchfork"]
    assert branch.bifurcations[0].parameter == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM, nn.GRUCell, nn.LSTMCell, "custom"])
def test_many_values_of_an_input_are_one_run_equal_to_each_by_itself(kind):
    torch.manual_seed(0)

    class Custom(nn.GRUCell):
        def forward(self, u: Tensor, h: Tensor) -> Tensor:
            return super().forward(u, h) * 0.9

    cell = (Custom if kind == "custom" else kind)(2, 3)
    u = torch.tensor([0.3, -0.2], dtype=torch.float64)
    system, values = sx.Recurrent(cell, constant=u), torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    x0 = system.initial_state(seed=1)
    together = sx.orbit_diagram(system, "constant[1]", values, x0, settle=10, steps=4)
    spectrum = sx.lyapunov_spectrum(system.at(**{"constant[1]": values}), x0, steps=100, settle=10)
    for i, value in enumerate(values.tolist()):
        alone = sx.Recurrent(cell, constant=torch.tensor([0.3, value], dtype=torch.float64))
        states = sx.trajectory(alone, x0, 14)[10:14]
        assert torch.allclose(together.states[:, i], states, rtol=0, atol=1e-12)
        assert torch.allclose(
            spectrum.exponents[i], sx.lyapunov_spectrum(alone, x0, steps=100, settle=10).exponents, rtol=1e-9, atol=1e-9
        )
    turned = sx.orbit_diagram(system, "constant", values, x0, direction=[1.0, 0.0], settle=10, steps=4)
    expected = sx.trajectory(sx.Recurrent(cell, constant=torch.tensor([2.3, -0.2], dtype=torch.float64)), x0, 14)[10:14]
    assert torch.allclose(turned.states[:, 2], expected, rtol=0, atol=1e-12)


def test_a_gradient_reaches_the_number_that_was_put_in():
    system, x = sx.Recurrent(nn.GRU(2, 3), constant=[0.1, 0.2]), torch.zeros(3, dtype=torch.float64)
    value = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    system.at(**{"constant[0]": value}).step(x).sum().backward()
    eps = 1e-6
    ends = [float(system.at(**{"constant[0]": 0.7 + sign * eps}).step(x).sum().detach()) for sign in (1, -1)]
    assert float(value.grad) == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"parameter": "constant"}, r"array of shape \(2,\).*constant\[0\]"),
        ({"parameter": "constant[2]"}, r"'constant'.*\[2\]"),
        ({"parameter": "constant[0,0]"}, r"'constant'.*\[0,0\]"),
        ({"parameter": "input[0]"}, "no parameter 'input'"),
        ({"parameter": "constant", "direction": [1.0]}, r"\(2,\).*\(1,\)"),
        ({"parameter": "constant", "direction": [0.0, 0.0]}, r"direction.*zeros"),
        ({"parameter": "constant[0]", "direction": [1.0, 0.0]}, r"direction"),
    ],
)
def test_what_is_no_number_of_the_system_is_refused_by_name(options, told):
    system = sx.Recurrent(nn.GRU(2, 3), constant=[0.1, 0.2])
    with pytest.raises(sx.SeparatrixError, match=f"(?s){told}"):
        sx.continuation(system, start=0.0, stop=1.0, **options)
    with pytest.raises(sx.SeparatrixError, match=f"(?s){told}"):
        sx.orbit_diagram(system, values=[0.0, 1.0], **options)


def test_an_array_is_replaced_by_one_of_its_own_shape_only():
    system = sx.Recurrent(nn.GRU(2, 3), constant=[0.1, 0.2])
    for wrong in (torch.zeros(1), torch.zeros(3), 0.5):
        with pytest.raises(sx.errors.ShapeError, match="'constant' is an array of shape"):
            system.at(constant=wrong)
    with pytest.raises(sx.SeparatrixError, match="'a' is a number"):
        sx.classic.henon().at(**{"a[0]": 1.0})


DT = 0.02


def leaky(x: Tensor) -> Tensor:
    """A small chaotic map: three rates, discretised with Δt/τ."""
    w = torch.tensor([[0.0, 9.0, -7.0], [-8.0, 4.0, 3.0], [6.0, -9.0, 5.0]], dtype=x.dtype)
    return x + DT / 0.1 * (-x + torch.tanh(x) @ w.T)


def both() -> list[tuple[sx.System, sx.System]]:
    """Systems that count steps, and the same that count time."""
    torch.manual_seed(1)
    rnn, u = nn.GRU(2, 3), torch.randn(60, 2)
    return [
        (sx.Recurrent(rnn, u), sx.Recurrent(rnn, u, dt=DT)),
        (sx.Map(leaky, 3), sx.Map(leaky, 3, dt=DT)),
    ]


@pytest.mark.parametrize("at", [0, 1])
def test_rates_are_per_unit_of_time_whatever_measures_them(at):
    counting, timed = both()[at]
    x0 = torch.full((3,), 0.1, dtype=torch.float64)
    asked = {"steps": 40, "settle": 10}

    def told(system: sx.System) -> list[Tensor]:
        points = sx.fixed_points(system, starts=8)
        return [
            sx.lyapunov_spectrum(system, x0, **asked).exponents,
            sx.finite_time_lyapunov(system, x0, steps=30).exponents,
            points.rates,
            points.frequencies,
            sx.gradient_propagation(system, x0, lags=(5, 10, 20)).rates,
            sx.divergence_rate(system, x0, **asked).rate,
        ]

    for slow, fast in zip(told(counting), told(timed), strict=True):
        assert torch.allclose(fast.nan_to_num(), slow.nan_to_num() / DT, rtol=1e-6, atol=1e-6)


def test_a_discretised_rate_equation_has_the_exponents_of_its_flow():
    """Euler's steps of x' = −x/τ, with Δt/τ: λ = ln(1 − Δt/τ)/Δt → −1/τ, per unit of time."""
    tau = 0.5
    system = sx.Map(lambda x: x - DT / tau * x, 2, dt=DT)
    found = sx.lyapunov_spectrum(system, torch.ones(2, dtype=torch.float64), steps=50, settle=0)
    assert found.exponents.tolist() == pytest.approx([math.log(1 - DT / tau) / DT] * 2, rel=1e-12)


@pytest.mark.parametrize("dt", [0.0, -0.1, math.nan, math.inf, "0.02", None, True])
def test_a_step_that_takes_no_positive_time_is_refused(dt):
    for build in (
        lambda: sx.Map(leaky, 3, dt=dt),
        lambda: sx.Recurrent(nn.GRU(2, 3), dt=dt),
    ):
        with pytest.raises(sx.errors.InputError, match="dt is"):
            build()


def test_a_loop_counts_time_as_its_core_does():
    core = sx.Recurrent(nn.GRU(2, 3), dt=DT)
    assert sx.ClosedLoop(core, nn.Linear(3, 2)).dt == DT
    assert sx.ClosedLoop(core, nn.Linear(3, 2), dt=0.1).dt == 0.1
    with pytest.raises(sx.errors.InputError, match="dt is 0"):
        sx.ClosedLoop(core, nn.Linear(3, 2), dt=0)
