"""Fields mean the same in a flow, a neural ODE, an initial value problem and a fit."""

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.flows.field import as_field

DOUBLE = {"dtype": torch.float64}
X = torch.linspace(-1.0, 1.0, 6, **DOUBLE).reshape(3, 2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def by_a_flow(module, x):
    flow = sx.Flow(module, 2, 0.1)
    for n in range(10):
        x = flow.step(x, n)
    return flow, x


def by_a_neural_ode(module, x):
    layer = sx.nn.NeuralODE(module, dt=0.1)
    return layer, layer(x)


def by_solving(module, x):
    return module, sx.solve(module, x, [0.0, 1.0], method="rk4", dt=0.1).last


def trained(way):
    """The weights after three steps of gradient descent on |x(1)|², with the parameters of the object that contains the field."""
    module = network()
    optimizer = torch.optim.SGD(way(module, X)[0].parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        way(module, X)[1].square().sum().backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def test_a_module_is_trained_alike_by_a_flow_a_neural_ode_and_solve():
    weights = [trained(way) for way in (by_a_flow, by_a_neural_ode, by_solving)]
    before = torch.cat([weight.detach().flatten() for weight in network().parameters()])
    assert float((weights[0] - before).abs().max()) > 1e-2
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-12, atol=1e-13)


def test_the_parameters_of_a_neural_ode_on_images_are_the_module_s():
    module = nn.Conv2d(2, 2, 3, padding=1)
    layer = sx.nn.NeuralODE(module, shape=(2, 4, 4))
    assert [id(weight) for weight in layer.parameters()] == [id(weight) for weight in module.parameters()]


FOLLOWED = {
    "Flow": lambda field, **how: sx.Flow(field, 2, 0.1, **how),
    "NeuralODE": lambda field, **how: sx.nn.NeuralODE(field, 2, **how),
    "solve": lambda field, **how: sx.solve(field, X, [0.0, 1.0], **how),
    "solve_until": lambda field, **how: sx.solve_until(field, X, lambda x, t=0.0: x[..., 0], end=1.0, **how),
    "sensitivities": lambda field, **how: sx.sensitivities(field, X, [0.0, 1.0], dt=0.1, **how),
    "Universal": lambda field, **how: sx.nn.Universal(field, nn.Linear(2, 2), **how),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_no_field_is_refused_alike(name):
    follow = FOLLOWED[name]
    with pytest.raises(sx.errors.UnsupportedModuleError, match="Henon"):
        follow(sx.classic.henon())
    with pytest.raises(sx.errors.InputError, match="int"):
        follow(3)
    with pytest.raises(sx.errors.InputError, match=r"\(t, x\)"):
        follow(lambda t, x: -x, time_dependent=True)


def test_a_flow_stands_for_its_field():
    flow = sx.classic.lotka_volterra()
    assert as_field(flow) is flow.field
    assert sx.Flow(flow, 2, 0.5).field is flow.field
    assert sx.nn.NeuralODE(flow).field is flow.field
    assert sx.nn.ContinuousDepth(flow, 2).field.fields[0] is flow.field


def test_a_network_of_blocks_is_a_field_like_any_module():
    block = sx.nn.SpherePreserving(2).double()
    by_hand = X + 0.1 * block(X)
    torch.testing.assert_close(sx.Flow(block, 2, 0.1, method="euler").step(X), by_hand, rtol=1e-14, atol=0)
