"""Solutions against SciPy's, events against bracketing on a dense solution, gradients against differences, in any unit."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor

import separatrix as sx
from properties.strategies import SEEDS, fewer, normal

PAIRS = ("dopri5", "tsit5", "rodas5p")
TIGHT = 1e-9


def field(dim: int, seed: int, gain: float, forced: bool):
    """A smooth dissipative field, ẋ = W tanh(V x + a sin(ω t)) − x, and SciPy's form of it."""
    w, v = gain / math.sqrt(dim) * normal(seed, dim, dim), normal(seed + 1, dim, dim)
    push = normal(seed + 2, dim) if forced else torch.zeros(dim, dtype=torch.float64)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ v.mT + push * torch.sin(2 * t)[..., None]) @ w.mT - x

    w_, v_, push_ = w.numpy(), v.numpy(), push.numpy()
    return velocity, lambda t, y: w_ @ np.tanh(v_ @ y + push_ * math.sin(2 * t)) - y


@fewer(2)
@given(st.integers(1, 5), SEEDS, st.sampled_from((0.5, 2.0, 5.0)), st.booleans(), st.sampled_from(PAIRS), st.integers(1, 3))
def test_solutions_are_scipy_s(dim, seed, gain, forced, method, items):
    """Both at a step's tolerance of 1e-9; an error grows by at most e^(L T), L T ≤ 8 here, of which chaos would take all."""
    ours, theirs = field(dim, seed, gain, forced)
    x0 = normal(seed + 3, items, dim)
    found = sx.solve(ours, x0, [0.0, 0.7, 2.0], method=method, rtol=TIGHT, time_dependent=True)
    assert bool((found.codes == 0).all())
    for i in range(items):
        exact = solve_ivp(theirs, (0, 2), x0[i].numpy(), method="DOP853", rtol=1e-11, atol=1e-13, t_eval=[0, 0.7, 2.0]).y.T
        assert np.abs(found.states[:, i].numpy() - exact).max() < 1e-5 * max(1.0, np.abs(exact).max())


@fewer(2)
@given(st.integers(1, 4), SEEDS, st.booleans(), st.sampled_from((*PAIRS, "rk4")), st.sampled_from((-1, 0, 1)))
def test_events_are_the_first_bracket_of_a_dense_solution(dim, seed, forced, method, direction):
    """Of g = n·x + c cos 3t + d: the first change of sign at 4,000 points of SciPy's polynomial, then Brent's method."""
    ours, theirs = field(dim, seed, 3.0, forced)
    n, (c, d) = normal(seed + 5, dim), (0.4 * normal(seed + 6, 2)).tolist()
    x0, end = normal(seed + 3, dim), 6.0
    dense = solve_ivp(theirs, (0, end), x0.numpy(), method="DOP853", rtol=1e-11, atol=1e-13, dense_output=True).sol
    g = lambda t: float(n.numpy() @ dense(t) + c * math.cos(3 * t) + d)  # noqa: E731
    grid = np.linspace(0, end, 4001)
    values = n.numpy() @ dense(grid) + c * np.cos(3 * grid) + d
    sides = np.sign(values)
    crosses = [k for k in range(4000) if sides[k] * sides[k + 1] < 0 and (direction == 0 or sides[k + 1] == direction)]
    ways = {"dt": 0.005} if method == "rk4" else {"rtol": 1e-10}
    found = sx.solve_until(
        ours,
        x0,
        lambda x, t: x @ n + c * torch.cos(3 * t) + d,
        direction=direction,
        end=end,
        method=method,
        time_dependent=True,
        **ways,
    )
    lows = np.flatnonzero((np.abs(values[1:-1]) <= np.abs(values[:-2])) & (np.abs(values[1:-1]) <= np.abs(values[2:]))) + 1
    if any(abs(values[k]) < 1e-3 for k in lows if not any(abs(k - j) <= 1 for j in crosses)):
        return  # the orbit nearly touches the surface: whether it meets it is for no tolerance to say
    assert bool(found.found) == bool(crosses)
    if crosses:
        root = brentq(g, grid[crosses[0]], grid[crosses[0] + 1], xtol=1e-13)
        speed = abs(g(root + 1e-6) - g(root - 1e-6)) / 2e-6
        assert abs(float(found.times) - root) < 1e-6 / min(1.0, speed) + 1e-7


GRADIENTS = ("checkpoint", "backpropagation")


@fewer(8)
@given(st.integers(1, 3), SEEDS, st.booleans(), st.sampled_from((*PAIRS, "rk4")), st.sampled_from(GRADIENTS))
def test_gradients_are_differences(dim, seed, forced, method, gradient):
    """Of a weighted sum by x0, a weight and the times: central differences, h = 1e-5; steps that change put 1e-5 on them."""
    w = torch.nn.Parameter(normal(seed, dim, dim))

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = w

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(x @ self.w.mT + (torch.sin(2 * t)[..., None] if forced else 0.0)) - 0.5 * x

    inner = Field()
    ways = {"dt": 0.02} if method == "rk4" else {"rtol": 1e-10}
    weights = normal(seed + 4, 3, 2, dim)

    def value(x0: Tensor, times: Tensor) -> Tensor:
        return (weights * sx.solve(inner, x0, times, method=method, gradient=gradient, time_dependent=True, **ways).states).sum()

    x0 = normal(seed + 3, 2, dim).requires_grad_()
    times = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64, requires_grad=True)
    by = torch.autograd.grad(value(x0, times), [x0, w, times])
    h = 1e-5
    for tensor, gradient_ in zip((x0, w, times), by, strict=True):
        along, ends = normal(seed + 9, *tensor.shape), []
        for sign in (1, -1):
            with torch.no_grad():
                tensor += sign * h * along
                ends.append(float(value(x0, times)))
                tensor -= sign * h * along
        wanted = (ends[0] - ends[1]) / (2 * h)
        assert abs(float((gradient_ * along).sum()) - wanted) < 1e-4 * (1 + abs(wanted))


@fewer(4)
@given(st.integers(1, 4), SEEDS, st.sampled_from(PAIRS), st.integers(-9, 9), st.integers(-9, 9))
def test_units_of_state_and_time_change_nothing(dim, seed, method, size, pace):
    """x → 10^k x, t → 10^m t; steps are the same but for rounding, which may turn a trial."""
    c, p = 10.0**size, 10.0**pace
    ours, _ = field(dim, seed, 2.0, False)
    x0 = normal(seed + 3, 2, dim)
    plain = sx.solve(lambda x: ours(x, torch.zeros(())), x0, [0.0, 3.0], method=method)
    other = sx.solve(lambda x: c / p * ours(x / c, torch.zeros(())), c * x0, [0.0, 3.0 * p], method=method)
    assert int((plain.accepted - other.accepted).abs().max()) <= 1
    assert float((other.last / c - plain.last).abs().max()) < 1e-4 * float(plain.last.abs().max())
