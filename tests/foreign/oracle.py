"""What is right: dense Jacobians, QR and finite differences of the module itself, without the library."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx

Make = Callable[[], nn.Module]
Step = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, input, state) → state, all with one batch axis

CLOSE = 1e-6  # of two Jacobians, relative to the larger one's norm
NUDGE = 1e-6  # of a finite difference


@dataclass(frozen=True)
class Case:
    """One network of somebody else's, and what may be said of it.

    Args:
        make: builds it.
        refused: by verb, a pattern that the message of a refusal must match. Without an entry the answer must be right.
        name: of the case. Default: of the class.
    """

    make: Make
    refused: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    name: str = field(default="", kw_only=True)

    @property
    def label(self) -> str:
        """What the test is called."""
        return self.name or getattr(self.make, "__name__", type(built(self.make)).__name__)


@dataclass(frozen=True)
class Layered(Case):
    """A network whose depth is its time.

    Args:
        inputs: of the model, items first.
        verbs: what is asked; "map" and "ode" where it maps vectors to vectors of the same width.
        plain: builds the same network without its wrapper, for the comparison. Default: `make`.
        call: a way to call it that takes one tensor. Default: with the tensor.
        given: what is handed to the library, where that is not the inputs alone.
        one_item: whether one state at a time is asked of maps and flows, since the batch's numbers decide a branch.
    """

    inputs: Tensor
    verbs: tuple[str, ...] = ("depth", "analyze", "certificate")
    plain: Make | None = None
    call: Callable[[nn.Module, Tensor], Any] = lambda model, x: model(x)
    given: Callable[[Tensor], Any] = lambda x: x
    one_item: bool = False

    def value(self, model: nn.Module, x: Tensor) -> Tensor:
        """The model's first floating-point output."""
        return first_floating(self.call(model, x))


@dataclass(frozen=True)
class Looped(Case):
    """A network that carries a state along time.

    Args:
        inputs: of the model.
        step: one step of its state, of dim numbers, on the module itself.
        sequences: how the model's inputs are read as (time, sequences, …). Default: batch first.
        dim: numbers in the state.
        module: its recurrent part's name, where it is to be told.
        start: the state that it begins at, (sequences, dim). Default: zeros.
        given: what is handed to the library.
        said: a pattern of a verdict that says what was measured instead; the numbers are then those of that.
        steps: that are averaged, and those before; None for all that the inputs have.
    """

    inputs: Any
    step: Step
    dim: int
    sequences: Callable[[Any], Tensor] = lambda x: x.transpose(0, 1)
    module: str | None = None
    start: Callable[[nn.Module, int], Tensor] | None = None
    given: Callable[[Any], Any] = lambda x: x
    plain: Make | None = None
    said: str = ""
    steps: tuple[int, int] = (150, 40)


@dataclass(frozen=True)
class Celled(Case):
    """A cell (u, state) → state or (out, state).

    Args:
        width: numbers in an input.
        dim: numbers in the state.
        step: one step on the module itself.
        state: an example without batch axes, where `hidden_size` does not tell.
    """

    width: int
    dim: int
    step: Step
    state: Any = None


def marked(cases: list[Any], verb: str) -> list[Any]:
    """The cases that are asked a verb, as parameters."""
    return [pytest.param(case, id=case.label) for case in cases if verb in getattr(case, "verbs", (verb,))]


def built(make: Make, seed: int = 0) -> nn.Module:
    """A network whose weights are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def exact(make: Make) -> nn.Module:
    """Another instance of it, in float64 and evaluation mode."""
    return widened(built(make)).eval()


def widened(model: nn.Module) -> nn.Module:
    """The network itself in float64; tensors that are plain attributes too."""
    model = model.double()
    for part in model.modules():
        for name, value in vars(part).items():
            vars(part)[name] = _doubled(value)
        for name, value in part._parameters.items():
            if value is not None and value.is_complex():
                part._parameters[name] = nn.Parameter(value.to(torch.cdouble))
    return model


def _doubled(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double()
    return [_doubled(one) for one in value] if type(value) is list else value


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The user's module, its mode and the global generator are afterwards what they were before."""
    state = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    modes = [part.training for part in model.modules()]
    drawn = torch.get_rng_state()
    yield
    after = model.state_dict()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, after[name]) for name, value in state.items() if not value.is_sparse)
    assert torch.equal(torch.get_rng_state(), drawn)


@contextmanager
def unwritten(inputs: Tensor) -> Iterator[None]:
    """The user's inputs are afterwards what they were before."""
    before = inputs.clone()
    yield
    is_same = torch.equal(inputs, before)
    inputs.copy_(before)
    assert is_same, "the inputs were written to"


def asked(case: Case, verb: str, model: nn.Module, measure: Callable[[], Any]) -> Any:
    """The answer, or None where it is refused by name."""
    inputs = getattr(case, "inputs", None)
    with untouched(model), unwritten(inputs if isinstance(inputs, Tensor) else torch.zeros(())):
        try:
            return measure()
        except sx.SeparatrixError as error:
            assert verb in case.refused, f"refused: {error}"
            assert re.search(case.refused[verb], str(error), re.IGNORECASE), str(error)
            return None


def first_floating(value: Any) -> Tensor:
    """The first floating-point tensor in a structure."""
    found = next(_floating(value), None)
    assert found is not None
    return found


def _floating(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _floating(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _floating(part)


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂f/∂x of one item, (numbers out, numbers in), by reverse mode."""
    return torch.autograd.functional.jacobian(lambda flat: function(flat.reshape(x.shape).clone()).reshape(-1), x.reshape(-1))


def differences(function: Callable[[Tensor], Tensor], x: Tensor, scale: float = 1.0) -> Tensor:
    """∂f/∂x of each item of a batch, (items, numbers out, numbers in), by central differences: (items, dim) → (items, out)."""
    items, dim = x.shape
    nudge = NUDGE * scale * torch.eye(dim, dtype=x.dtype)
    moved = torch.cat([x[:, None] + nudge, x[:, None] - nudge], 1)
    with torch.no_grad():
        values = function(moved.reshape(-1, dim)).reshape(items, 2, dim, -1)
    return ((values[:, 0] - values[:, 1]) / (2 * NUDGE * scale)).mT


def layer_jacobians(case: Layered, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """∂(layer)/∂(input) at one item for each call of each module, by the names of `named_modules`, ":2" for a second call."""
    made: dict[str, Tensor] = {}
    handles = []
    for name, part in model.named_modules():

        def keep(_: nn.Module, __: Any, value: Any, name: str = name) -> None:
            found = next(_floating(value), None)
            label = name or "output"
            count = 1 + sum(key == label or key.startswith(f"{label}:") for key in made)
            if found is not None and not torch._C._functorch.is_functorch_wrapped_tensor(found):
                made[label if count == 1 else f"{label}:{count}"] = found.clone()

        handles.append(part.register_forward_hook(keep))
    try:
        z = x.clone().requires_grad_()
        made["itself"] = case.value(model, z.clone())
    finally:
        for handle in handles:
            handle.remove()
    return {name: _rows(value, z) for name, value in made.items() if value.requires_grad}


def _rows(value: Tensor, z: Tensor) -> Tensor:
    flat = value.reshape(-1)
    rows = [torch.autograd.grad(number, z, retain_graph=True, allow_unused=True)[0] for number in flat]
    return torch.stack([torch.zeros_like(z) if row is None else row for row in rows]).reshape(len(flat), -1)


def assert_close(got: Tensor, expected: Tensor, close: float = CLOSE) -> None:
    """Equal, relative to the largest number expected."""
    assert got.shape == expected.shape
    assert bool(got.isfinite().all()) == bool(expected.isfinite().all())
    scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
    assert float((got - expected).detach().abs().max()) <= close * max(scale, 1e-30), f"{got}\n{expected}"


def exponents(step: Callable[[Tensor, Tensor], Tensor], drive: Tensor, start: Tensor, settle: int, k: int) -> tuple[Tensor, Tensor]:
    """Lyapunov exponents of runs along a drive, (time, runs, …), by QR of dense Jacobians; their mean and its standard error."""
    x = start
    frame = torch.linalg.qr(torch.randn(*x.shape, k, dtype=x.dtype, generator=torch.Generator().manual_seed(5))).Q
    growth = []
    for n, u in enumerate(drive):

        def along(y: Tensor, u: Tensor = u) -> Tensor:
            return step(u.repeat_interleave(len(y) // len(u), 0), y)

        frame, upper = torch.linalg.qr(differences(along, x) @ frame)
        with torch.no_grad():
            x = step(u, x)
        if n >= settle:
            growth.append(upper.diagonal(dim1=-2, dim2=-1).abs().log())
    runs = torch.stack(growth).mean(0)
    spread = runs.std(0) / len(runs) ** 0.5 if len(runs) > 1 else torch.zeros(k, dtype=x.dtype)
    return runs.mean(0), spread


def streamed(sequences: Tensor, copies: int, steps: int) -> Tensor:
    """Sequences, (time, count, …), put one behind the other at random: (steps, copies, …)."""
    generator = torch.Generator().manual_seed(11)
    pieces = [
        sequences[:, torch.randint(sequences.shape[1], (copies,), generator=generator)]
        for _ in range(math.ceil(steps / len(sequences)))
    ]
    return torch.cat(pieces)[:steps]
