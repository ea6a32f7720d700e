"""States as people write them: tuples, dictionaries, images, complex numbers."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
WAYS = [{"rtol": 1e-9}, {"method": "rodas5p", "rtol": 1e-9}, {"method": "rk4", "dt": 0.01}]


class Phase(NamedTuple):
    """A state with names."""

    q: torch.Tensor
    p: torch.Tensor


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize(("shape", "axes"), [((), None), ((1,), None), ((4, 3), None), ((4, 3), 1), ((4,), 1)])
def test_containers_come_back_as_they_were(ways, shape, axes):
    """The oscillator: q cos t + p sin t, whichever container and whatever of it is the batch."""
    q, p = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), **DOUBLE)
    times = torch.tensor([0.0, 0.5, 2.0], **DOUBLE)
    exact = q * times.cos().reshape(-1, *[1] * q.ndim) + p * times.sin().reshape(-1, *[1] * q.ndim)
    for field, state, read in (
        (lambda s: (s[1], -s[0]), (q, p), lambda s: s[0]),
        (lambda s: [s[1], -s[0]], [q, p], lambda s: s[0]),
        (lambda s: {"q": s["p"], "p": -s["q"]}, {"q": q, "p": p}, lambda s: s["q"]),
        (lambda s: Phase(s.p, -s.q), Phase(q, p), lambda s: s.q),
    ):
        found = sx.solve(field, state, times, batch_axes=axes, **ways)
        assert type(found.states) is type(state) and read(found.states).shape == exact.shape
        assert (read(found.states) - exact).abs().max() < 1e-6 and (read(found.last) - exact[-1]).abs().max() < 1e-6
        assert found.codes.shape == (() if axes is None else q.shape[:axes])


@pytest.mark.parametrize("ways", [{"rtol": 1e-8}, {"method": "rk4", "dt": 0.02}])
def test_images_are_followed_by_a_convolution_and_give_its_gradients(ways):
    """A linear convolution: exp(t W), by the dense matrix of the layer."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
    images = torch.randn(3, 2, 4, 4, **DOUBLE)
    eye = torch.eye(32, **DOUBLE).reshape(32, 2, 4, 4)
    matrix = conv(eye).reshape(32, 32)
    exact = (images.reshape(3, 32) @ torch.linalg.matrix_exp(0.7 * matrix)).reshape(images.shape)
    found = sx.solve(conv, images, [0.0, 0.7], batch_axes=1, **ways)
    assert found.states.shape == (2, *images.shape) and (found.last - exact).abs().max() < 1e-6
    by, wanted = (torch.autograd.grad(value.square().sum(), conv.weight)[0] for value in (found.last, exact))
    torch.testing.assert_close(by, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ways", WAYS)
def test_complex_states_turn(ways):
    """ż = i ω z."""
    z = torch.tensor([[1 + 2j, -1j], [0.5 + 0j, 3 - 1j]], dtype=torch.complex128)
    omega = torch.tensor([1.0, -2.0], **DOUBLE)
    found = sx.solve(lambda z: 1j * omega * z, z, [0.0, 1.3], **ways)
    assert found.states.dtype == torch.complex128 and found.codes.shape == (2,)
    assert (found.last - z * torch.exp(1.3j * omega)).abs().max() < 1e-6


@pytest.mark.parametrize("ways", [{}, {"method": "dopri5", "rtol": 1e-8}])
def test_a_neural_ode_of_images_and_of_containers_is_its_flow(ways):
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()).double()
    images = torch.randn(3, 2, 4, 4, **DOUBLE)
    layer = sx.nn.NeuralODE(conv, shape=(2, 4, 4), **ways)
    tight = sx.solve(conv, images, [0.0, 1.0], batch_axes=1, rtol=1e-10)
    assert layer(images).shape == images.shape and (layer(images) - tight.last).abs().max() < 1e-5
    assert (layer.solve(images, [0.0, 1.0]).last - tight.last).abs().max() < 1e-5
    assert layer.dim == 32 and torch.equal(layer.unpack(layer.pack(images)), images)
    assert layer.step(layer.pack(images)).shape == (3, 32)  # a system on vectors

    class Turning(nn.Module):
        def forward(self, s: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"q": s["p"], "p": -s["q"]}

    turn = sx.nn.NeuralODE(Turning(), shape={"q": (2,), "p": (2,)}, **ways)
    state = {"q": torch.ones(5, 2, **DOUBLE), "p": torch.zeros(5, 2, **DOUBLE)}
    assert (turn(state)["q"] - math.cos(1)).abs().max() < 1e-5


def test_a_density_beside_a_state_as_others_pack_them():
    """(z, log p) of ż = a z: log p falls by a for each number, and both gradients are right."""
    a = torch.tensor(0.3, **DOUBLE, requires_grad=True)
    z, logp = torch.ones(5, 2, **DOUBLE), torch.zeros(5, 1, **DOUBLE)
    found = sx.solve(lambda s: (a * s[0], -2 * a * torch.ones_like(s[1])), (z, logp), [0.0, 2.0], rtol=1e-9)
    assert (found.last[0] - math.exp(0.6)).abs().max() < 1e-7 and (found.last[1] + 1.2).abs().max() < 1e-9
    assert float(torch.autograd.grad(found.last[1].sum(), a)[0]) == pytest.approx(-20)


def test_a_field_of_time_and_containers():
    found = sx.solve(
        lambda s, t: {"x": torch.cos(t) * s["x"]}, {"x": torch.tensor(1.0, **DOUBLE)}, [0, 2], time_dependent=True, rtol=1e-9
    )
    assert float(found.last["x"]) == pytest.approx(math.exp(math.sin(2)), rel=1e-7)


@pytest.mark.parametrize(
    ("field", "state", "more", "words"),
    [
        (lambda s: (s[0],), (torch.ones(2, **DOUBLE), torch.ones(2, **DOUBLE)), {}, "parts"),
        (lambda s: s, (torch.ones(2, 1, **DOUBLE), torch.ones(3, 1, **DOUBLE)), {"batch_axes": 1}, "1 batch axes"),
        (lambda s: s, {"n": torch.ones(2, dtype=torch.int64)}, {}, "int64"),
        (lambda s: s, (torch.ones(2, **DOUBLE), torch.full((2,), math.nan, **DOUBLE)), {}, "2 of 4"),
        (lambda s: s, {}, {}, "x0"),
    ],
)
def test_what_is_no_state_is_named(field, state, more, words):
    with pytest.raises(sx.SeparatrixError, match=words):
        sx.solve(field, state, [0.0, 1.0], **more)


def test_a_structured_solution_is_saved_with_its_vectors(tmp_path):
    found = sx.solve(lambda s: {"x": -s["x"]}, {"x": torch.ones(2, **DOUBLE)}, [0.0, 1.0])
    again = sx.load(found.save(tmp_path / "solution"))
    assert torch.equal(again.vectors, found.vectors) and found.plot().axes
    with pytest.raises(sx.errors.InputError, match="vectors"):
        again.states  # noqa: B018
