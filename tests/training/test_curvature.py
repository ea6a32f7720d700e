"""The ends of the Hessian's spectrum, and the threshold of each optimiser."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

import separatrix as sx
from separatrix.training.optimizers import rule_of
from separatrix.training.threshold import threshold

ETA = 0.1
ADAM = 2 * (1 + 0.9) / ((1 - 0.9) * ETA)  # 38 / η
THRESHOLDS: dict[str, tuple[Any, int, float]] = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=ETA), 0, 2 / ETA),
    "SGD, momentum": (lambda p: torch.optim.SGD(p, lr=ETA, momentum=0.9), 0, 2 * 1.9 / ETA),
    "SGD, dampening": (lambda p: torch.optim.SGD(p, lr=ETA, momentum=0.9, dampening=0.3), 7, 2 * 1.9 / (0.7 * ETA)),
    "SGD, Nesterov": (lambda p: torch.optim.SGD(p, lr=ETA, momentum=0.9, nesterov=True), 0, 2 * 1.9 / (2.8 * ETA)),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=ETA, centered=True), 3, 2 / ETA),
    "RMSprop, momentum": (lambda p: torch.optim.RMSprop(p, lr=ETA, momentum=0.9), 3, 2 * 1.9 / ETA),
    "Adagrad": (lambda p: torch.optim.Adagrad(p, lr=ETA, lr_decay=0.5), 4, 2 * (1 + 4 * 0.5) / ETA),
    "Adam, step 1": (lambda p: torch.optim.Adam(p, lr=ETA), 0, 3.8 / ETA),
    "Adam, step 2": (lambda p: torch.optim.Adam(p, lr=ETA), 1, 7.22 / ETA),
    "AMSGrad, step 10": (lambda p: torch.optim.Adam(p, lr=ETA, amsgrad=True), 9, ADAM * (1 - 0.9**10)),
    "Adam, step 1000": (lambda p: torch.optim.Adam(p, lr=ETA), 999, ADAM),
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=ETA, weight_decay=0.5), 999, (2 - ETA * 0.5) * 1.9 / (0.1 * ETA)),
    "NAdam, constant momentum": (
        lambda p: torch.optim.NAdam(p, lr=ETA, momentum_decay=1e3, betas=(0.9, 0.999)),
        9999,
        2 * 1.9 / (0.1 * 2.8 * ETA),
    ),
    "no rate": (lambda p: torch.optim.Adam(p, lr=0.0), 0, math.inf),
}
INPUTS = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 1])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def dense_hessian(model: nn.Module, inputs: Tensor, targets: Tensor, loss: nn.Module | None = None) -> Tensor:
    """The Hessian of the loss by torch.func, on the module itself."""
    parameters = dict(model.named_parameters())

    def value(theta: Tensor) -> Tensor:
        pieces = zip(parameters, theta.split([p.numel() for p in parameters.values()]), strict=True)
        named = {name: piece.view(parameters[name].shape) for name, piece in pieces}
        return (loss or nn.CrossEntropyLoss())(functional_call(model, named, (inputs,)), targets)

    return hessian(value)(torch.cat([p.detach().flatten() for p in parameters.values()]))


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_are_the_closed_forms(name: str):
    make, n, wanted = THRESHOLDS[name]
    model = nn.Linear(1, 1).double()
    training = sx.Training(model, nn.MSELoss(), (torch.ones(1, 1), torch.ones(1, 1)), optimizer := make(model.parameters()))
    assert threshold(rule_of(optimizer), training.settings(n)[0]) == pytest.approx(wanted, rel=1e-9)


def test_both_ends_are_those_of_the_dense_hessian():
    model = network()
    training = sx.Training(model, nn.CrossEntropyLoss(), (INPUTS, CLASSES), torch.optim.SGD(model.parameters(), lr=0.5))
    values = torch.linalg.eigvalsh(dense_hessian(model, INPUTS, CLASSES))
    found = sx.curvature(training, k=3)
    assert found.largest == pytest.approx(values.flip(0)[:3], abs=1e-9) and found.smallest == pytest.approx(values[:3], abs=1e-9)
    assert found.status == "ok" and float(found.threshold) == pytest.approx(4.0)
    assert float(found.ratio) == pytest.approx(float(values[-1]) / 4)
    rough = sx.curvature(training, k=3, max_steps=8)  # Krylov spaces of 8 of 32 dimensions
    both = torch.stack([rough.largest, rough.smallest])
    apart = (both[..., None] - values).abs().amin(-1)
    assert bool((apart <= rough.residuals * (1 + 1e-9)).all()) and float(rough.residuals.max()) > 1e-4
    assert rough.status == "not_converged"


def test_adams_hessian_is_preconditioned_by_its_next_divisor():
    """P = √v̂ + ε from torch.optim's own state after the step."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(INPUTS), CLASSES).backward()
        optimizer.step()
    training = sx.Training(model, nn.CrossEntropyLoss(), (INPUTS, CLASSES), optimizer)
    values = dense_hessian(model, INPUTS, CLASSES)
    optimizer.zero_grad()
    nn.CrossEntropyLoss()(model(INPUTS), CLASSES).backward()
    optimizer.step()
    squares = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in model.parameters()])
    root = ((squares / (1 - 0.99**5)).sqrt() + 1e-3).rsqrt()
    wanted = torch.linalg.eigh(root[:, None] * values * root)
    found = sx.curvature(training)
    assert float(found.largest) == pytest.approx(float(wanted.eigenvalues[-1]), rel=1e-9)
    assert float(found.smallest) == pytest.approx(float(wanted.eigenvalues[0]), rel=1e-6)
    assert float(found.threshold) == pytest.approx(3800 * (1 - 0.9**5), rel=1e-9)
    shares = [float(part.square().sum()) for part in wanted.eigenvectors[:, -1].split([15, 5, 10, 2])]
    assert found.shares.tolist() == pytest.approx(shares, abs=1e-5)
    assert found.parameters == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_two_weights_have_the_sharpness_of_their_closed_form():
    """½ (a b − 1)² has the Hessian [[b², 2ab − 1], [2ab − 1, a²]]; with a decay w, [[b² + w, …], …, a² + w]]."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.7, 1.9))

        def forward(self, x: Tensor) -> Tensor:
            return self.a * self.b * x

    model, one = Product(), torch.ones(1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4, weight_decay=0.25)
    found = sx.curvature(sx.Training(model, lambda y, t: (y - t).square().sum() / 2, (one, one), optimizer), k=2)
    a, b, w = 0.7, 1.9, 0.25
    middle, off = (a**2 + b**2) / 2 + w, math.hypot((a**2 - b**2) / 2, 2 * a * b - 1)
    assert found.largest.tolist() == pytest.approx([middle + off, middle - off], rel=1e-12)
    assert found.verdict == "at its edge of stability" and float(found.ratio) == pytest.approx((middle + off) * 0.2)


def test_chunks_add_up_to_the_mean_over_all_data():
    """Batches of 4, 4 and 2 items count by their size; a sum over items is measured for an average batch."""
    model = network()
    batches = sx.training.Batches(INPUTS, CLASSES, size=4)
    largest = float(torch.linalg.eigvalsh(dense_hessian(model, INPUTS, CLASSES))[-1])

    def measured(loss: nn.Module, **options: Any) -> sx.results.Curvature:
        return sx.curvature(sx.Training(model, loss, batches, torch.optim.SGD(model.parameters(), lr=0.5)), **options)

    mean = measured(nn.CrossEntropyLoss(), batches=3)
    assert float(mean.largest) == pytest.approx(largest, rel=1e-9) and not mean.notes
    assert float(measured(nn.CrossEntropyLoss(), chunk=3, batches=0).largest) == pytest.approx(largest, rel=1e-9)
    assert float(measured(nn.CrossEntropyLoss(reduction="sum"), batches=0).largest) == pytest.approx(10 / 3 * largest, rel=1e-9)
    weighted = nn.CrossEntropyLoss(
        weight=torch.tensor([1.0, 5.0], dtype=torch.float64)
    )  # a mean weighted by the classes of a batch
    wanted = float(torch.linalg.eigvalsh(dense_hessian(model, INPUTS, CLASSES, weighted))[-1])
    found = measured(weighted, batches=0)
    assert float(found.largest) == pytest.approx(wanted, rel=1e-9) and "not the mean of its parts" in found.notes[0]
    each = [float(torch.linalg.eigvalsh(dense_hessian(model, *batches(n)))[-1]) for n in range(3)]
    assert mean.batch_largest.tolist() == pytest.approx(each, rel=1e-6)


def test_groups_of_different_rates_have_one_threshold():
    """The parabola ½ (3 p² + 5 q²) with rates .2 and .1: multipliers 1 − .6 and 1 − .5, so the ratio is .6 / 2."""
    model = nn.ModuleDict({"p": nn.Linear(1, 1, bias=False), "q": nn.Linear(1, 1, bias=False)}).double()

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return 1.5 * self.parts["p"](x) ** 2 + 2.5 * self.parts["q"](x) ** 2

    groups = [{"params": model["p"].parameters(), "lr": 0.2}, {"params": model["q"].parameters()}]
    training = sx.Training(
        Pair(), lambda outputs, _: outputs.sum(), (torch.ones(1, 1).double(), None), torch.optim.SGD(groups, lr=0.1)
    )
    found = sx.curvature(training)
    multipliers = torch.linalg.eigvals(training.pushforward(training.initial_state(), torch.eye(2).double())[1]).real
    assert float(found.ratio) == pytest.approx((1 - float(multipliers.min())) / 2, rel=1e-9) == pytest.approx(0.3)
    assert training.at(lr_0=1.0).parameter_names == ("lr_0", "lr_1")
    assert float(sx.curvature(training.at(lr_0=1.0)).ratio) == pytest.approx(1.5)


def test_a_weight_that_rests_carries_the_leading_direction_by_epsilon():
    """At its minimum a weight has no gradient, so that Adam divides by ε alone: λ = h / ε."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 3.0]]))
    training = sx.Training(
        model,
        lambda outputs, _: outputs.square().sum() / 2,
        (torch.eye(2).double(), None),
        torch.optim.Adam(model.parameters(), lr=1e-6, eps=1e-4),
    )
    found = sx.curvature(training)
    assert float(found.largest) == pytest.approx(1e4) and float(found.in_epsilon) == pytest.approx(1.0)
    assert "100 % of the leading direction" in found.summary()


def test_states_and_rates_are_measured_one_by_one(tmp_path):
    model = network()
    training = sx.Training(model, nn.CrossEntropyLoss(), (INPUTS, CLASSES), torch.optim.SGD(model.parameters(), lr=0.5))
    x = sx.trajectory(training, steps=4)[1::2]
    both = sx.curvature(training.at(lr=torch.tensor([0.5, 50.0], dtype=torch.float64)), x)
    one = sx.curvature(training.at(lr=50.0), x[1])
    assert both.ratio[1] == pytest.approx(one.ratio) and both.threshold.tolist() == pytest.approx([4.0, 0.04])
    assert both.verdict.tolist() == ["below its edge of stability", "beyond its edge of stability"]
    assert sx.load(both.save(tmp_path / "curvature")).largest == pytest.approx(both.largest)


def test_curvature_of_a_loss_that_is_not_finite_is_said():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    training = sx.Training(
        model, lambda y, t: y.sqrt().mean(), (torch.ones(1, 1).double(), None), torch.optim.SGD(model.parameters(), lr=0.1)
    )
    assert sx.curvature(training, torch.tensor([-1.0]).double()).status == "diverged"


def test_a_large_training_is_measured_without_a_square_array():
    """A matrix of 10⁵ parameters would take 75 GiB; here memory and time are those of a few vectors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 10)).double()
    x, classes = torch.randn(8, 20).double(), torch.arange(8)
    training = sx.Training(model, nn.CrossEntropyLoss(), (x, classes), torch.optim.Adam(model.parameters()))
    assert training.layout.size > 9e4
    found = sx.curvature(training, max_steps=6)
    assert found.products == 6 and found.largest.isfinite().all()
    v = torch.randn(2, training.dim).double()
    assert training.pushforward(training.initial_state(), v)[1].shape == v.shape
