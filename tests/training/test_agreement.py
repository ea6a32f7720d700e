"""A training takes the steps of torch.optim itself, from its start and from its middle."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop
from torch.optim import lr_scheduler as schedules

import separatrix as sx

STEPS, MIDDLE = 100, 37
CASES: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (SGD, {"lr": 0.1}),
    "SGD, momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "SGD, dampening": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "SGD, Nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD, maximize": (SGD, {"lr": 0.001, "momentum": 0.5, "maximize": True}),
    "Adam": (Adam, {"lr": 0.01}),
    "Adam, decay": (Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    "Adam, decoupled decay": (Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "AMSGrad": (Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW": (AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "AdamW, AMSGrad": (AdamW, {"lr": torch.tensor(0.01, dtype=torch.float64), "amsgrad": True, "maximize": True}),
    "NAdam": (NAdam, {"lr": 0.01}),
    "NAdam, decay": (NAdam, {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.1}),
    "NAdam, decoupled decay": (NAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "RMSprop": (RMSprop, {"lr": 0.01, "weight_decay": 0.01}),
    "RMSprop, centred": (RMSprop, {"lr": 0.01, "centered": True, "alpha": 0.9}),
    "RMSprop, momentum": (RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "Adagrad": (Adagrad, {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.01}),
    "Adagrad, start": (Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}),
}
SCHEDULES: dict[str, tuple[Callable[[Optimizer], Any], int]] = {
    "steps": (lambda o: schedules.StepLR(o, 30, 0.3), 1),
    "cosine": (lambda o: schedules.CosineAnnealingWarmRestarts(o, 20), 1),
    "warm-up from 0": (lambda o: schedules.LambdaLR(o, lambda n: min(1.0, n / 10)), 1),
    "cycled momentum": (lambda o: schedules.OneCycleLR(o, 0.1, total_steps=STEPS), 1),
    "each epoch": (lambda o: schedules.ExponentialLR(o, 0.9), 4),
    "in a row": (
        lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o, 0.1, total_iters=9), schedules.CosineAnnealingLR(o, 50)], [9]),
        1,
    ),
}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """PyTorch keeps NAdam's product of momenta in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """The first layer with rates of its own."""
    return [{"params": model[0].parameters(), "lr": 0.02, "weight_decay": 0.003}, {"params": model[2].parameters()}]


def mini_batches(first: int = 0) -> sx.training.Batches:
    torch.manual_seed(1)
    return sx.training.Batches(torch.randn(19, 3), torch.randn(19, 2), size=5, seed=3, first=first)


def same(training: sx.Training, x: Tensor, n: int, model: nn.Module, optimizer: Optimizer) -> None:
    """The model and the optimiser, number by number, are at the state x before step n."""
    weights, state = training.unpack(x, n)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-12)
    wanted = optimizer.state_dict()
    assert state["state"].keys() == wanted["state"].keys()
    for number, held in wanted["state"].items():
        for name, value in held.items():
            if value is not None:
                torch.testing.assert_close(state["state"][number][name], value, rtol=1e-12, atol=1e-12)
    for own, group in zip(state["param_groups"], wanted["param_groups"], strict=True):
        assert own["params"] == group["params"]
        assert own["lr"] == pytest.approx(float(group["lr"]), abs=1e-15)


def held_to_torch(kind: type[Optimizer], options: dict[str, Any], schedule: Callable[[Optimizer], Any] | None, every: int) -> None:
    model, loss = network(), nn.MSELoss()
    optimizer = kind(groups(model), **options)
    scheduler = None if schedule is None else schedule(optimizer)
    batches = mini_batches()
    begun = sx.Training(model, loss, batches, optimizer, schedule=scheduler, schedule_every=every)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    fresh = sx.trajectory(begun, steps=STEPS)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), (kept[0], kept[1]["state"]), rtol=0, atol=0)
    assert optimizer.state_dict()["param_groups"] == kept[1]["param_groups"]
    assert scheduler is None or scheduler.last_epoch == 0
    for n in range(STEPS):
        if n == MIDDLE and every == 1:
            later = sx.Training(model, loss, mini_batches(first=n), optimizer, schedule=scheduler)
            continued = sx.trajectory(later, steps=STEPS - n)
            same(later, continued[0], 0, model, optimizer)
        inputs, targets = batches(n)
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
        if scheduler is not None and (n + 1) % every == 0:
            scheduler.step()
    same(begun, fresh[-1], STEPS, model, optimizer)
    if every == 1:
        same(later, continued[-1], STEPS - MIDDLE, model, optimizer)


@pytest.mark.filterwarnings("ignore:.*epoch parameter:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps_are_those_of_torch(name: str):
    held_to_torch(*CASES[name], None, 1)


@pytest.mark.filterwarnings("ignore:.*epoch parameter:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rates_are_those_of_the_scheduler(name: str):
    schedule, every = SCHEDULES[name]
    held_to_torch(SGD, {"lr": 0.1, "momentum": 0.9}, schedule, every)


def test_a_state_becomes_state_dicts_that_continue_the_run():
    """load_state_dict of what unpack returns, then torch.optim's own steps."""
    model, batches = network(), mini_batches()
    training = sx.Training(model, nn.MSELoss(), batches, optimizer := Adam(groups(model), lr=0.01))
    orbit = sx.trajectory(training, steps=20)
    other = network()
    resumed = Adam(groups(other), lr=0.5)
    weights, state = training.unpack(orbit[12], 12)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for n in range(12, 20):
        inputs, targets = batches(n)
        resumed.zero_grad()
        nn.MSELoss()(other(inputs), targets).backward()
        resumed.step()
    same(training, orbit[20], 20, other, resumed)
    assert torch.equal(training.pack((model.state_dict(), optimizer.state_dict())), training.initial_state())
    with pytest.raises(sx.errors.InputError, match="after 12 steps"):
        training.pack(training.unpack(orbit[12], 12))


def test_mini_batches_cover_each_epoch_once():
    batches = sx.training.Batches({"rows": torch.arange(10)}, [torch.arange(10) * 2, "unit"], size=4, seed=1)
    assert batches.per_epoch == 3
    for epoch in range(2):
        parts = [batches(3 * epoch + i) for i in range(3)]
        rows = torch.cat([inputs["rows"] for inputs, _ in parts])
        assert sorted(rows.tolist()) == list(range(10)) and [len(inputs["rows"]) for inputs, _ in parts] == [4, 4, 2]
        assert torch.equal(torch.cat([targets[0] for _, targets in parts]), 2 * rows) and parts[0][1][1] == "unit"
    assert not torch.equal(batches(0)[0]["rows"], batches(3)[0]["rows"])
    later = sx.training.Batches({"rows": torch.arange(10)}, None, size=4, seed=1, first=4)
    assert torch.equal(later(0)[0]["rows"], batches(4)[0]["rows"])
