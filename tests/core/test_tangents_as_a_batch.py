"""Tangents of small states by copies of the state: the same as under vmap, or not used at all."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.derivative import Tangents
from separatrix.core.tangent import AS_A_BATCH, as_a_batch, jacobian

DOUBLE = {"dtype": torch.float64}
WEIGHT = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)


def turned(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], **DOUBLE)


TAKES_COPIES = {
    "scalars on either side": lambda x: 1 - 1.4 * x**2 / 3 + (2 - x) / (3 + x) - 0.5,
    "a product with weights": lambda x: torch.tanh(x @ WEIGHT.mT + WEIGHT[0]),
    "a layer": nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double(),
    "larger and smaller": lambda x: torch.maximum(x, WEIGHT[0]) * torch.minimum(x, WEIGHT[1]),
    "kinks": lambda x: torch.where(x > 0, 2 * x, x.relu() - 0.1 * x.abs()),
    "integers and masks": lambda x: (x > 0) * x * torch.arange(3) + x.roll(1, -1),
    "complex numbers inside": lambda x: (torch.complex(x, x.sin()) * (0.3 + 0.2j)).abs(),
}


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", TAKES_COPIES)
def test_the_tangents_are_those_of_the_jacobian(name, batch):
    f, random = TAKES_COPIES[name], torch.Generator().manual_seed(1)
    x, v = torch.randn(*batch, 3, generator=random, **DOUBLE), torch.randn(*batch, 2, 3, generator=random, **DOUBLE)
    found = as_a_batch(f, x, v)
    assert found is not None
    exact = torch.func.vmap(torch.func.jacrev(f))(x.reshape(-1, 3)).reshape(*batch, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(found[0], f(x), rtol=0, atol=0)
        torch.testing.assert_close(found[1], v @ exact.mT.detach(), rtol=1e-12, atol=1e-12)


def test_parameters_of_each_item_stay_with_their_item():
    """x → a x (1 − x) with one a for each of three items: the derivative of item i is a_i (1 − 2 x_i)."""
    a, x = torch.tensor([2.5, 3.3, 3.9], **DOUBLE), torch.tensor([[0.2], [0.3], [0.4]], **DOUBLE)
    _, pushed = as_a_batch(lambda x: a[:, None] * x * (1 - x), x, torch.ones(3, 2, 1, **DOUBLE))
    torch.testing.assert_close(pushed, (a * (1 - 2 * x[:, 0]))[:, None, None].expand(3, 2, 1), rtol=1e-15, atol=0)


WRITTEN_FOR_ONE_STATE = {
    "a product from the left": lambda x, n: 0.9 * turned(0.3 * n) @ x,
    "an index": lambda x, n: torch.stack([0.9 * x[1] + 0.1 * n * x[0], 0.5 * x[0]]),
    "a mean": lambda x, n: 0.5 * x + 0.3 * math.sin(n) * (x.mean(0) - x),
    "a flip": lambda x, n: x.flip(0) * torch.tensor([0.5, 0.9], **DOUBLE),
    "a reshape": lambda x, n: (turned(0.2 * n) * 0.8) @ x.reshape(2),
}


@pytest.mark.parametrize("name", WRITTEN_FOR_ONE_STATE)
def test_what_is_written_for_one_state_is_measured_as_written(name):
    """Some of these are the same for copies of the state at n = 0, where the turn is by 0, and not later."""
    f, x = WRITTEN_FOR_ONE_STATE[name], torch.tensor([0.3, 0.4], **DOUBLE)
    spectrum = sx.lyapunov_spectrum(sx.Map(f, 2, time_dependent=True), x, steps=40, settle=0, every=1)
    log_det = 0.0
    for n in range(40):
        log_det += float(torch.linalg.slogdet(torch.func.jacrev(lambda y, n=n: f(y, n))(x)).logabsdet)
        x = f(x, n)
    assert float(spectrum.exponents.sum()) == pytest.approx(log_det / 40, rel=1e-10)


def test_a_function_that_mixes_the_copies_is_given_up_at_that_call():
    tangents, x, v = Tangents(), torch.tensor([0.3, 0.4], **DOUBLE), torch.eye(2, **DOUBLE)
    with torch.no_grad():
        for n in range(3):
            pushed = tangents(lambda y, n=n: turned(0.3 * n) @ y, x, v)[1]
            torch.testing.assert_close(pushed, turned(0.3 * n).mT, rtol=1e-14, atol=1e-16)
    assert list(tangents._as_a_batch.values()) == [False]


def test_an_item_that_has_left_the_numbers_does_not_hide_a_mistake_in_another():
    x = torch.tensor([[1e200, 0.5], [0.1, 0.2]], **DOUBLE)
    assert as_a_batch(lambda x: x**2, x, torch.ones(2, 3, 2, **DOUBLE)) is not None
    assert as_a_batch(lambda x: x**2 + 1e-3 * x.sum(0), x, torch.ones(2, 3, 2, **DOUBLE)) is None


def test_many_tangents_share_one_state():
    dim = math.isqrt(AS_A_BATCH) + 1
    tangents, shapes = Tangents(), []

    def f(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x.sin()

    with torch.no_grad():
        for _ in range(2):
            tangents(f, torch.ones(dim, **DOUBLE), torch.eye(dim, **DOUBLE))
    assert (dim, dim) not in shapes
    torch.testing.assert_close(jacobian(torch.sin, torch.ones(2, **DOUBLE)), math.cos(1) * torch.eye(2, **DOUBLE))


RING = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.5, 0.5], [0.1, 0.1, 0.8]], **DOUBLE)
SAME_VALUE = {  # on copies of the state, from some step or state on, but not the same tangents
    "a mean": (lambda x, n: torch.sin(2 * x) + 0.5 * x.mean(), (0.1, 0.2, 0.3)),
    "a mean from a step on": (lambda x, n: torch.sin(2 * x) + 0.1 * min(n, 1) * x.mean(), (0.1, 0.2, 0.3)),
    "a mean from a state on": (lambda x, n: 1.3 * x - 0.9 * torch.relu(x.mean() - 0.5), (0.1, 0.2, 0.3)),
    "a branch": (lambda x, n: (x / x.max() if x.max() > 1 else x) * 1.2 + 0.1 * x * x, (0.1, 0.2, 0.3)),
    "a roll": (lambda x, n: 3.9 * x * (1 - x) if n < 1 else 3.51 * x * (1 - x) + 0.1 * torch.roll(x, 1), (0.1, 0.2, 0.3)),
    "a product": (lambda x, n: (torch.eye(3, **DOUBLE) if n < 1 else RING) @ (3.9 * x * (1 - x)), (0.3, 0.3, 0.3)),
    "a flip": (lambda x, n: 3.9 * x * (1 - x) if n < 1 else 0.9 * x.flip(0) + 0.1 * x, (0.3, 0.3, 0.3)),
    "the last": (lambda x, n: 1.1 * x * (x[-1] if n else 0.3), (0.3, 0.3, 0.3)),
    "other units": (
        lambda x, n: (
            torch.stack([0.9 * x[0] + 1e9 * torch.sin(3 * x[1]), 1.9 * torch.sin(2 * x[1]) + 0.25 * x[1]])
            + 0.5 * torch.tensor([0.0, 1.0], **DOUBLE) * (x / torch.tensor([1e10, 1.0], **DOUBLE)).mean()
        ),
        (2e9, 0.3),
    ),
}


@pytest.mark.parametrize("first", ["identity", "zeros", "random"])
@pytest.mark.parametrize("name", SAME_VALUE)
def test_a_mistake_that_shows_in_the_tangents_alone_is_seen_in_every_call(name, first):
    f, start = SAME_VALUE[name]
    x, dim = torch.tensor(start, **DOUBLE), len(start)
    random = torch.Generator().manual_seed(2)
    v = {"identity": torch.eye(dim, **DOUBLE), "zeros": torch.zeros(dim, dim, **DOUBLE)}.get(
        first, torch.randn(dim, dim, generator=random, **DOUBLE)
    )
    tangents = Tangents()
    for n in range(6):
        exact = v @ torch.func.jacrev(lambda y, n=n: f(y, n))(x).mT
        with torch.no_grad():
            x, pushed = tangents(lambda y, n=n: f(y, n), x, v)
        torch.testing.assert_close(pushed, exact, rtol=1e-8, atol=1e-14)
        v = torch.randn(dim, dim, generator=random, **DOUBLE)
