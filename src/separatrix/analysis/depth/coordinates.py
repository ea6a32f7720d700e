"""Sizes of a network's activations, and of what a few steps of its optimiser change in them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separatrix.analysis.depth.hooks import LayerHooks, first_line, floating, label
from separatrix.analysis.depth.item_axes import one_call
from separatrix.analysis.depth.loss import Loss, objective
from separatrix.analysis.depth.passes import norm
from separatrix.core.arguments import Arguments
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError, ModelError, UnsupportedModuleError
from separatrix.core.progress import watched_count
from separatrix.core.randomness import drawing, undisturbed
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain
from separatrix.core.wrappers import bare

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CoordinateSizes(Result):
    """The typical size of a number in each layer's output y, and of its change in a few steps of training.

    Args:
        layers: names, in the order in which they run; "name:2" is the second call of the same module.
        activation: (layer, *batch), root mean square of y before training, over all inputs.
        change: (layer, *batch), root mean square of y after the steps minus y before.
        steps: number of steps.
        optimizer: class of the optimiser.
    """

    layers: tuple[str, ...]
    activation: Tensor
    change: Tensor
    steps: int
    optimizer: str

    drawn_by: ClassVar[str] = "separatrix.plot.widths:coordinate_sizes_figure"
    layout: ClassVar[dict[str, str]] = {"activation": "layer batch", "change": "layer batch"}

    def summary(self) -> str:
        """The sizes at each layer, as medians over the networks."""
        middle = [value.reshape(len(self.layers), -1).nanmedian(-1).values.tolist() for value in (self.activation, self.change)]
        networks = f" of {counted(self.codes.numel(), 'network')}" if self.batch else ""
        lines = [f"{counted(len(self.layers), 'layer')}{networks}, {counted(self.steps, 'step')} of {self.optimizer}"]
        sizes = zip(self.layers, *middle, strict=True)
        lines += [f"'{name}': activations {plain(size)}, their change {plain(change)}" for name, size, change in sizes]
        failed = int((self.codes == Status.DIVERGED).sum())
        return "\n".join([*lines, *([f"{failed} of {counted(self.codes.numel(), 'network')} diverged"] if failed else [])])


@undisturbed()
def coordinate_sizes(
    networks: nn.Module | Sequence[nn.Module],
    inputs: Any,
    *,
    targets: Any = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    steps: int = 3,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> CoordinateSizes:
    r"""Sizes of a network's activations, and of their change in a few steps of training.

        activation_l = ‖y_l(0)‖/√d_l,   change_l = ‖y_l(steps) − y_l(0)‖/√d_l

    for the output y_l of each layer, of d_l numbers in all inputs together. With `sx.along` over networks of growing width this is
    the coordinate check: it fits the power of the width with which each size grows. See `WidthScaling`.

    Args:
        networks: a module, or a list of equal modules with other initial weights, which become a batch axis. Copies are trained;
            the modules themselves are not changed. They run in the mode that they are in, as a rule training mode.
        inputs: arguments of the network for a batch: a tensor, an array, a tuple of several arguments, or a dict of named ones.
        targets: targets of the loss along axis 0: classes (whole numbers; cross-entropy) or values (mean squared error).
        loss: function (output, targets), or (output) without targets, that returns the loss of the batch. Default without
            targets: the component of the output along a random unit vector, averaged over the batch.
        optimizer: function from a network to its `torch.optim` optimiser, such as
            `lambda network: torch.optim.SGD(network.parameters(), lr=0.1)`. Default: `torch.optim.Adam` with its defaults.
        steps: number of steps, all on the same batch.
        layers: names of modules. Default: all that do not just pass on another layer's output.
        seed: seed of the random loss, and of what the network draws (dropout), which is the same in every pass.
        progress: show a progress bar.
        throw: raise instead of marking networks `diverged`.

    Returns:
        CoordinateSizes: `activation` and `change`, (layer, *batch). A network with a number that is not finite is `diverged`.

    Raises:
        InputError: a layer does not exist; the inputs do not fit the network; `optimizer` returns no optimiser of its argument, or
            one that does not take the network's sparse gradients; the networks do not have the same layers.
        ModelError: a network has uninitialised lazy weights.
        DivergedError: with `throw=True`.
    Limits: outputs of layers, not what is computed between them.
    Source: Yang et al. 2022, Tensor Programs V, arXiv:2203.03466, appendix D.1 and figure 5.

    Example:
        >>> layer = nn.Linear(4, 1, bias=False)
        >>> sizes = sx.coordinate_sizes(layer, torch.ones(1, 4), loss=lambda y: y.sum(), steps=1)
        >>> round(float(sizes.change[0]), 6)  # 4 weights, each changed by Adam's step size
        0.004
    """
    check_whole("steps", steps, 1)
    check_seed(seed)
    given = _checked_networks(networks)
    runs: list[_Run] = []
    for tick in watched_count(len(given), "Networks", progress):
        trainee = _Trainee(given[tick.index], inputs, targets, loss, _adam if optimizer is None else optimizer, seed)
        runs.append(trainee.sizes(steps, layers))
    first = runs[0]
    check_same_layers({f"network {i}": run.layers for i, run in enumerate(runs)})
    sizes = torch.stack([run.sizes for run in runs], dim=-1)  # (2, layer, network)
    codes = torch.where(sizes.isfinite().all(0).all(0), int(Status.OK), int(Status.DIVERGED)).to(torch.int8)
    if isinstance(networks, nn.Module):
        sizes, codes = sizes[..., 0], codes[0]
    found = CoordinateSizes(
        codes=codes,
        layers=first.layers,
        activation=sizes[0],
        change=sizes[1],
        steps=steps,
        optimizer=first.optimizer,
        settings={"steps": steps, "optimizer": first.optimizer, "loss": first.loss, "seed": seed},
    )
    return found.or_raise(throw)


def check_same_layers(layers: Mapping[str, Sequence[str]]) -> None:
    """Refuse networks, by name, that do not have the same layers in the same order: a layer means the same in all of them."""
    (first, names), *others = layers.items()
    for other, found in others:
        for i, (one, two) in enumerate(zip_longest(names, found), start=1):
            if one != two:
                of = [f"{who} has {'no such layer' if name is None else repr(name)}" for who, name in ((first, one), (other, two))]
                raise InputError(
                    f"the networks differ in layer {i}: {of[0]}, {of[1]}.\n"
                    "Pass networks of one architecture and depth, or name layers that all of them have: layers=[…]."
                )


def _checked_networks(networks: Any) -> list[nn.Module]:
    """The networks without their wrappers."""
    given = [bare(network) for network in networks] if isinstance(networks, list | tuple) else [bare(networks)]
    if not given:
        raise InputError("expected at least 1 network, got 0.")
    for network in given:
        if not isinstance(network, nn.Module):
            raise UnsupportedModuleError(f"expected an nn.Module or a list of them, got a {type(network).__name__}.")
        if any(isinstance(part, torch.jit.ScriptModule) for part in network.modules()):
            raise UnsupportedModuleError(
                "a TorchScript module cannot be copied for training.\nPass the module that it was made from."
            )
        if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
            raise ModelError(f"{type(network).__name__} has uninitialised lazy weights.\nCall it once on its inputs.")
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(f"this {type(network).__name__} has no parameters to train.")
    return given


def _adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters())


@dataclass(frozen=True)
class _Run:
    """The sizes of one network, (2, layer), before and of the change, with the names of its layers, optimiser and loss."""

    layers: tuple[str, ...]
    sizes: Tensor
    optimizer: str
    loss: str


class _Trainee:
    """A copy of a network in training."""

    def __init__(self, network: nn.Module, inputs: Any, targets: Any, loss: Loss | None, optimizer: Optimizer, seed: int) -> None:
        self.name, self.seed = type(network).__name__, seed
        self.arguments: Arguments = one_call(network, inputs, None)
        self.copy = _copied(network)
        self._loss, self.loss = _batch_loss(targets, loss, self.arguments, self.copy, seed)
        self.optimizer = _checked_optimizer(optimizer, self.copy)
        parts = dict(self.copy.named_modules())
        self.hooks = LayerHooks({name: part for name, part in parts.items() if "parametrizations" not in name})

    def sizes(self, steps: int, layers: Sequence[str] | None) -> _Run:
        """The sizes before, and of the change after the steps."""
        before = self._outputs(layers)
        for _ in range(steps):
            self._step()
        after = self._outputs(layers)
        if [(name, value.shape) for name, value in before.items()] != [(name, value.shape) for name, value in after.items()]:
            raise InputError("the layers of the network are not the same in every pass.\nName some that are: layers=[…].")
        pairs = [(_size(value), _size(after[name] - value)) for name, value in before.items()]
        return _Run(tuple(before), torch.tensor(pairs, dtype=torch.float64).mT, type(self.optimizer).__name__, self.loss)

    def _step(self) -> None:
        try:
            self.optimizer.step(self._loss_with_gradients)
        except RuntimeError as error:
            sparse = [name for name, own in self.copy.named_parameters() if own.grad is not None and own.grad.is_sparse]
            if not sparse:
                raise
            raise InputError(
                f"{type(self.optimizer).__name__} does not take the sparse gradient of '{sparse[0]}'.\n"
                "Build the layer with sparse=False, or pass an optimizer for sparse gradients, such as torch.optim.SGD."
            ) from error

    def _outputs(self, layers: Sequence[str] | None) -> dict[str, Tensor]:
        """The output of each layer, without those that pass on another's."""
        wanted = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
        seen: dict[str, Tensor] = {}
        originals: list[tuple[Tensor, int]] = []

        def keep(call: tuple[str, int], _: Any, returned: Any) -> None:
            value = floating(returned)
            if value is None or not value.numel():
                return
            is_new = not any(value is other and value._version == version for other, version in originals)
            originals.append((value, value._version))
            if is_new if wanted is None else (call[0] in wanted or label(call) in wanted):
                seen[label(call)] = value.detach().clone()

        with torch.no_grad(), self.hooks.listening(keep):
            self._answer()
        missing = [name for name in wanted or [] if not any(name in (found, found.rsplit(":", 1)[0]) for found in seen)]
        if missing:
            raise InputError(f"{self.name} has no output of a layer named {missing[0]!r}.\nName modules that run: layers=[…].")
        return seen

    def _answer(self) -> Any:
        """One pass, with the same random numbers each time."""
        fresh = self.arguments.with_tensors([tensor.clone() for tensor in self.arguments.tensors()])
        with drawing(self.seed, "pass of a coordinate check"):
            try:
                return fresh.call(self.copy)
            except Exception as error:
                raise InputError(
                    f"{self.name} failed on inputs {self.arguments.shapes}: {type(error).__name__}: {first_line(error)}"
                ) from error

    def _loss_with_gradients(self) -> Tensor:
        """The loss, after a backward pass."""
        with torch.enable_grad():
            self.optimizer.zero_grad()
            loss = self._loss(self._answer())
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
                raise InputError(f"the loss must be one number that depends on the parameters, got {what}.")
            loss.backward()
        return loss


def _copied(network: nn.Module) -> nn.Module:
    """A copy to be trained, whose parameters keep what libraries have written on them, such as shapes of a base model."""
    try:
        twin = copy.deepcopy(network)
    except RuntimeError as error:
        raise UnsupportedModuleError(f"this {type(network).__name__} cannot be copied: {first_line(error)}") from error
    for own, other in zip(twin.parameters(), network.parameters(), strict=True):
        own.grad = None
        vars(own).update(vars(other))
    return twin


def _batch_loss(
    targets: Any, loss: Loss | None, arguments: Arguments, network: nn.Module, seed: int
) -> tuple[Callable[[Any], Tensor], str]:
    """The function from a network's output to the loss of the batch, and a description of it."""
    like = next(iter(network.parameters()), torch.zeros(()))
    count = next((len(tensor) for tensor in arguments.tensors() if tensor.ndim), 1)
    of_items = objective(targets, loss, like.detach().new_zeros(count, 0), seed, axis=0)
    if loss is not None:
        answers = () if targets is None else (torch.as_tensor(targets, device=like.device),)
        return lambda output: loss(output, *answers), of_items.words

    def mean(output: Any) -> Tensor:
        value = floating(output)
        if value is None or value.ndim == 0:
            raise InputError("the network returns no batch of floating-point numbers.\nPass a loss: loss=function(output).")
        return torch.stack([of_items.of_item(row, i) for i, row in enumerate(value)]).mean()

    return mean, of_items.words


def _checked_optimizer(make: Any, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a network."""
    way_out = "Pass a function of the network: optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.1)."
    if isinstance(make, type) and issubclass(make, torch.optim.Optimizer):
        raise InputError(
            f"optimizer is the class {make.__name__}; expected a function from a network to its optimiser.\n"
            f"Pass optimizer=lambda network: torch.optim.{make.__name__}(network.parameters(), lr=…)."
        )
    try:
        found = make(network) if callable(make) else make
    except (TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"optimizer failed on this {type(network).__name__}: {reason}\n{way_out}") from error
    if not isinstance(found, torch.optim.Optimizer):
        raise InputError(f"optimizer must return a torch.optim.Optimizer, got a {type(found).__name__}.\n{way_out}")
    own = {id(parameter) for parameter in network.parameters()}
    if any(id(parameter) not in own for group in found.param_groups for parameter in group["params"]):
        raise InputError(f"the optimizer holds parameters of another network.\n{way_out}")
    return found


def _size(value: Tensor) -> float:
    """Root mean square, in float64."""
    return float(norm(value.double().reshape(-1))) / value.numel() ** 0.5
