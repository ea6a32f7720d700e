"""Models and loops as people write them: each is right against torch.optim itself, or refused by name."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.randomness import drawing

STEPS = 8
ROWS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
PAIRS = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1])
WORDS = torch.randint(0, 7, (12, 5), generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))


class Tied(nn.Module):
    """A language model whose last layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle, self.head = nn.Embedding(7, 3), nn.Linear(3, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(words)))).mean(1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(7, 3), kind(3, 4, batch_first=True, num_layers=2), nn.Linear(4, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.cell(self.embedding(words))[0][:, -1])


def convolutional() -> nn.Module:
    layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    model = nn.Sequential(*layers)
    model(IMAGES)  # running statistics of its own
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], nn.Module, Tensor, Tensor]] = {
    "classifier": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), nn.CrossEntropyLoss(), ROWS, CLASSES),
    "tied weights": (Tied, nn.CrossEntropyLoss(), WORDS, WORDS[:, 0]),
    "embedding and GRU": (lambda: Recurrent(nn.GRU), nn.CrossEntropyLoss(label_smoothing=0.1), WORDS, CLASSES),
    "embedding and LSTM": (lambda: Recurrent(nn.LSTM), nn.CrossEntropyLoss(), WORDS, CLASSES),
    "BatchNorm in training": (convolutional, nn.CrossEntropyLoss(), IMAGES, CLASSES[:6]),
    "BatchNorm in evaluation": (lambda: convolutional().eval(), nn.CrossEntropyLoss(), IMAGES, CLASSES[:6]),
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 2)), nn.MSELoss(), ROWS, PAIRS),
    "frozen layer": (frozen, nn.MSELoss(), ROWS, PAIRS),
    "weight normalisation": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)),
        nn.MSELoss(),
        ROWS,
        PAIRS,
    ),
    "sparse gradients": (
        lambda: nn.Sequential(nn.Embedding(7, 2, sparse=True), nn.Flatten(), nn.Linear(10, 2)),
        nn.CrossEntropyLoss(),
        WORDS,
        CLASSES,
    ),
    "one item": (lambda: nn.Linear(3, 2), nn.MSELoss(), ROWS[:1], PAIRS[:1]),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_steps_are_those_of_torch_and_the_tangents_those_of_the_steps(name: str):
    """In float64; the masks of dropout are those of the training's own seed."""
    make, loss, inputs, targets = MODELS[name]
    torch.manual_seed(0)
    model = make()
    before = copy.deepcopy(model.state_dict())
    training = sx.Training(model, loss, (inputs, targets), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    orbit = sx.trajectory(training, steps=STEPS)
    spectrum = sx.lyapunov_spectrum(training, k=2, steps=4, settle=0)  # compares the tangents with differences of the step
    assert spectrum.exponents.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    own = copy.deepcopy(model).double()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = (data.double() if data.is_floating_point() else data for data in (inputs, targets))
    for n in range(STEPS):
        optimizer.zero_grad()
        with drawing(0, "draws of a training step", n):
            loss(own(inputs), targets).backward()
        optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in own.parameters() if p.requires_grad])
    assert orbit[-1, : len(weights)] == pytest.approx(weights, abs=1e-12)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_a_loss_that_is_not_one_number_is_refused():
    model = linear()
    with pytest.raises(sx.errors.InputError, match=r"shape \(12, 2\)"):
        sx.Training(model, nn.MSELoss(reduction="none"), (ROWS, PAIRS), torch.optim.SGD(model.parameters(), lr=0.1))


def test_parameters_without_a_gradient_are_named():
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Spare()
    with pytest.raises(sx.errors.InputError, match=r"spare\.weight, spare\.bias"):
        sx.Training(model, nn.MSELoss(), (ROWS, PAIRS), torch.optim.SGD(model.parameters(), lr=0.1))
    model.spare.requires_grad_(False)
    assert sx.Training(model, nn.MSELoss(), (ROWS, PAIRS), torch.optim.SGD(model.parameters(), lr=0.1)).dim == 8


def test_data_that_make_the_first_loss_not_a_number_are_refused():
    inputs = torch.ones(4, 2)
    inputs[1, 0] = torch.nan
    model = nn.Linear(2, 1)
    with pytest.raises(sx.errors.InputError, match="loss of the first step is nan"):
        sx.Training(model, nn.MSELoss(), (inputs, torch.zeros(4, 1)), torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_penalty_inside_the_loss_that_would_be_left_out_is_refused():
    model = linear()

    def with_penalty(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets) + 0.1 * sum(p.square().sum() for p in model.parameters())

    with pytest.raises(sx.errors.InputError, match="weight_decay"):
        sx.Training(model, with_penalty, (ROWS, PAIRS), torch.optim.SGD(model.parameters(), lr=0.1))


def test_optimisers_that_are_no_known_map_are_refused_with_the_way_to_write_it():
    model = linear()

    def refused(optimizer: object, match: str, **options: object) -> None:
        with pytest.raises(sx.SeparatrixError, match=match):
            sx.Training(model, nn.MSELoss(), (ROWS, PAIRS), optimizer, **options)

    refused(torch.optim.LBFGS(model.parameters()), "closure")
    refused(torch.optim.RAdam(model.parameters()), r'OPTIMIZERS\["RAdam"\]')
    refused(torch.optim.SGD, "pass an instance")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    refused(torch.optim.SGD([nn.Parameter(torch.ones(1)), *model.parameters()], lr=0.1), "no parameters of the model")
    refused(sgd, "sets the rate by the loss", schedule=torch.optim.lr_scheduler.ReduceLROnPlateau(sgd))
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    refused(sgd, "another optimiser", schedule=torch.optim.lr_scheduler.StepLR(other, 1))
    sgd.register_step_post_hook(lambda *_: None)
    refused(sgd, "hooks")


def test_an_optimiser_of_ones_own_has_the_map_that_is_written_for_it():
    class SignDescent(torch.optim.Optimizer):
        def __init__(self, parameters: object, lr: float) -> None:
            super().__init__(parameters, {"lr": lr})

        def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(group["lr"] * p.grad.sign())

    model = linear()
    optimizer = SignDescent(model.parameters(), lr=0.01)
    name = f"{SignDescent.__module__}.{SignDescent.__qualname__}"
    with pytest.raises(sx.errors.UnsupportedModuleError) as refusal:
        sx.Training(model, nn.MSELoss(), (ROWS, PAIRS), optimizer)
    assert name in str(refusal.value)
    sx.tables.OPTIMIZERS[name] = sx.training.Rule(lambda p, g, state, o: (p - o.lr * g.sign(), {}))
    try:
        training = sx.Training(model, nn.MSELoss(), (ROWS, PAIRS), optimizer)
        after = sx.trajectory(training, steps=1)[-1]
    finally:
        del sx.tables.OPTIMIZERS[name]
    nn.MSELoss()(model(ROWS), PAIRS).backward()
    optimizer.step()
    assert after == pytest.approx(torch.cat([p.detach().flatten() for p in model.parameters()]).double(), abs=1e-6)


def test_a_loader_is_refused_with_the_way_to_pass_its_data():
    model = linear()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ROWS, PAIRS), batch_size=4)
    with pytest.raises(sx.errors.InputError, match="Batches"):
        sx.Training(model, nn.MSELoss(), loader, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(sx.errors.InputError, match="same number of items"):
        sx.training.Batches(ROWS, PAIRS[:5], size=2)
    with pytest.raises(sx.errors.InputError, match="size is 13"):
        sx.training.Batches(ROWS, PAIRS, size=13)


def test_a_model_that_fails_on_the_data_is_named_with_its_error():
    model = nn.Linear(4, 2)
    with pytest.raises(sx.errors.ModelError, match="mat1 and mat2"):
        sx.Training(model, nn.MSELoss(), (ROWS, PAIRS), torch.optim.SGD(model.parameters(), lr=0.1))


def test_curvature_is_of_trainings_only():
    with pytest.raises(sx.errors.UnsupportedModuleError, match="expected a Training"):
        sx.curvature(sx.classic.henon())
