"""Tangents go through the whole map: Hessian-vector products, moments and the roots of second moments."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

import separatrix as sx

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}
INPUTS = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 1, 0, 1, 0])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def training_of(make: object, loss: nn.Module | None = None, size: int = 4) -> sx.Training:
    model = network()
    data = sx.training.Batches(INPUTS, CLASSES, size=size)
    return sx.Training(model, loss or nn.CrossEntropyLoss(), data, make(model.parameters()))


def directions(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_tangents_are_differences_of_the_step(name: str):
    training = training_of(OPTIMIZERS[name])
    x = sx.trajectory(training, steps=7)[-1]
    v = directions(3, training.dim)
    v[:, training.layout.size :] *= x[training.layout.size :].abs()  # second moments stay positive
    after, pushed = training.pushforward(x, v, 7)
    h = 1e-5
    difference = torch.stack([(training.step(x + h * row, 7) - training.step(x - h * row, 7)) / (2 * h) for row in v])
    assert after == pytest.approx(training.step(x, 7), abs=1e-14)
    assert pushed == pytest.approx(difference, abs=3e-8 * float(difference.abs().max()))
    assert (pushed - v).abs().max() > 1e-3  # the step moves more than rounding


def test_heavy_ball_is_the_block_matrix_of_its_hessian():
    """θ' = θ − η b', b' = μ b + ∇L: J = [[I − ηH, −ημ], [H, μ]], with H from torch.func on the module itself."""
    model, rate, momentum = network(), 0.3, 0.8
    training = sx.Training(
        model, nn.CrossEntropyLoss(), (INPUTS, CLASSES), torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    )
    x = sx.trajectory(training, steps=3)[-1]
    parameters = dict(model.named_parameters())

    def loss(theta: Tensor) -> Tensor:
        pieces = zip(parameters, theta.split([p.numel() for p in parameters.values()]), strict=True)
        named = {name: piece.view(parameters[name].shape) for name, piece in pieces}
        return nn.functional.cross_entropy(functional_call(model, named, (INPUTS,)), CLASSES)

    curvature, eye = hessian(loss)(x[: training.layout.size]), torch.eye(training.layout.size).double()
    wanted = torch.cat(
        [torch.cat([eye - rate * curvature, -rate * momentum * eye], 1), torch.cat([curvature, momentum * eye], 1)], 0
    )
    jacobian = training.pushforward(x, torch.eye(training.dim).double())[1].mT
    assert jacobian == pytest.approx(wanted, abs=1e-12)


def test_weights_without_any_gradient_have_a_derivative():
    """A dead unit: its second moments are 0, where the root has no slope."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].bias[1] = -100.0
    training = sx.Training(model, nn.CrossEntropyLoss(), (INPUTS, CLASSES), torch.optim.Adam(model.parameters(), lr=0.01))
    x, pushed = training.pushforward(training.initial_state(), directions(2, training.dim))
    assert x.isfinite().all() and pushed.isfinite().all()
    dead = torch.zeros(1, training.dim).double()
    dead[0, 3] = 1.0  # a weight of the dead unit: nothing depends on it
    assert torch.equal(training.pushforward(training.initial_state(), dead)[1], dead)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_training_keeps_the_contract_of_systems(name: str):
    """Second moments of 1 are far from their smallest value, 0, to which the check would else scatter them."""
    training = training_of(OPTIMIZERS[name])
    x = training.initial_state()
    x[2 * training.layout.size :] = 1.0
    sx.testing.check_system(training, x)


def test_tangents_have_derivatives_by_the_rate_and_the_state():
    """What a loss made of tangents needs: d/dη and d/dx of a pushed tangent, against differences."""
    training, h = training_of(OPTIMIZERS["AdamW"], size=6), 1e-6
    x, v = sx.trajectory(training, steps=5)[-1], directions(1, training.dim)

    def pushed(rate: Tensor, x: Tensor) -> Tensor:
        return training.at(lr=rate).pushforward(x, v, 5)[1].square().sum()

    rate, at = torch.tensor(0.01, dtype=torch.float64, requires_grad=True), x.clone().requires_grad_()
    by_rate, by_state = torch.autograd.grad(pushed(rate, at), (rate, at))
    rate, along = rate.detach(), torch.zeros_like(x)
    along[0] = 1.0
    assert float(by_rate) == pytest.approx(float(pushed(rate + h, x) - pushed(rate - h, x)) / (2 * h), rel=1e-5)
    assert float(by_state[0]) == pytest.approx(float(pushed(rate, x + h * along) - pushed(rate, x - h * along)) / (2 * h), rel=1e-5)
    assert not training.pushforward(x, v, 5)[1].requires_grad


def test_a_loss_without_forward_derivative_has_tangents_too():
    """The backward pass of Huber's loss has no forward-mode derivative in PyTorch: the ladder differentiates twice in reverse."""
    model = network()
    data = INPUTS, torch.zeros(6, 2).double()
    training = sx.Training(model, nn.HuberLoss(), data, torch.optim.Adam(model.parameters(), lr=0.01))
    by_hand = sx.Training(model, huber, data, torch.optim.Adam(model.parameters(), lr=0.01))
    x, v = sx.trajectory(training, steps=3)[-1], directions(2, training.dim)
    assert training.pushforward(x, v, 3)[1] == pytest.approx(by_hand.pushforward(x, v, 3)[1], rel=1e-9, abs=1e-12)


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    off = (outputs - targets).abs()
    return torch.where(off < 1, off**2 / 2, off - 0.5).mean()
