"""Recurrent networks driven by data, as systems whose state is the h (and c) of every layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.rnn import PackedSequence

from separatrix.core.checks import as_inputs, check_positive
from separatrix.core.driven import Driven
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.wrappers import bare
from separatrix.systems.drives import Constant, Drive, Sequential, Shared, Stream, is_listed, sequence_list
from separatrix.systems.recurrent.custom_cell import CustomCell
from separatrix.systems.recurrent.hand_layer import own_network
from separatrix.systems.recurrent.standard_network import StandardNetwork, describe, is_standard, kind_of, refuse_changed_layer


class Recurrent(Driven):
    r"""Recurrent network as a dynamical system  x_{n+1} = F(x_n, u_n),  with closed-form tangents for the standard cells.

    The state is (h_1 … h_L) of all layers, followed by (c_1 … c_L) for an LSTM; `pack` and `unpack` convert from and to the
    module's own form. The module is not changed: its weights are cast to the dtype of the state, and dropout is off. Gradients
    reach its parameters.

    Args:
        module: an `nn.RNN`, `nn.GRU` or `nn.LSTM` (stacked, with or without biases, projected); an `nn.RNNCell`, `nn.GRUCell` or
            `nn.LSTMCell`; a custom cell of signature (u, state) → state or (out, state), whose `pushforward` is used if it has
            one; or a custom layer with a method `as_cell()` that returns its step, such as `sx.nn.LEM`. A list of equal modules
            is an ensemble: its axis is the last of the batch, and all networks read the same inputs. The weights of an ensemble,
            and weights that PyTorch computes from others (pruned, normalised, parametrised), are copied when the system is
            built; build it again after an optimiser step. A standard module with its own `forward` or hooks is not treated as
            standard: a cell is called, a layer is refused.
        inputs: the module's inputs: (time, inputs), or batched, (time, batch, inputs), or (batch, time, inputs) if the module has
            an attribute `batch_first` that is True. Cells take time first. Or a list of sequences (time, inputs) or a
            `PackedSequence`, of one length. Or a `Drive`, such as `sx.Stream`, which takes sequences of any lengths.
        constant: one input, (*batch, inputs), for every step, instead of `inputs`. Default: zeros. It is a parameter of the
            system: use `at(constant=…)`; its first component is "constant[0]", which sweeps and `continuation` can vary.
        dt: duration of one step in any unit, such as the Δt of a discretised rate equation or the sampling time of the inputs.
            Rates and exponents are per this unit; 1 counts steps.
        state: for a custom cell, an example of its state without batch axes, if `hidden_size` does not determine it: a tensor, or
            a tuple, named tuple, dict or dataclass of tensors. Complex numbers become pairs of real ones in the state vector.
        returns: what a custom cell returns, "state", "out, state" or "state, out", if a trial call cannot decide.

    Raises:
        UnsupportedModuleError: the module is bidirectional, has no step (state, input) → state, or has no weights yet (meta, lazy).
        ShapeError: the rank or width of the inputs does not fit the module.
        InputError: inputs or weights are not finite, sequences differ in length, both `inputs` and `constant` are given, or dt is
            not a positive number.

    Example:
        >>> lstm = sx.Recurrent(nn.LSTM(3, 8, num_layers=2), torch.randn(50, 3))
        >>> lstm.dim, lstm.horizon  # (h₁, h₂, c₁, c₂)
        (32, 50)
    """

    def __init__(
        self,
        module: nn.Module | Sequence[nn.Module],
        inputs: Any = None,
        *,
        constant: Any = None,
        dt: float = 1.0,
        state: Any = None,
        returns: str | None = None,
    ) -> None:
        network = _network(module, state, _width(inputs, constant), returns)
        drive = _drive(network, inputs, constant)
        super().__init__(network.dim, dt=check_positive("dt", dt), horizon=drive.horizon)
        self.network = network
        self.source = drive
        self.is_driven = inputs is not None

    @property
    def into_ball(self) -> bool:
        """Whether some ball of states is mapped into itself, as for PyTorch's cells with tanh."""
        return bool(getattr(self.network, "into_ball", False))

    def drive(self, n: int) -> Tensor:
        """The input of step n, shape (*batch, inputs)."""
        return self.source(n)

    def advance(self, x: Tensor, u: Tensor) -> Tensor:
        """The state after reading the input u."""
        return self.network.step(x, u.to(x))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state after step n and its tangents: in closed form for standard cells, by the cell's own or forward AD otherwise."""
        return self.network.pushforward(x, v, self.drive(n).to(x))

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """Zeros, the module's default, if inputs drive it; otherwise uniform in ±1, because zero may be a fixed point."""
        if self.is_driven:
            return torch.zeros(*batch, self.dim, dtype=torch.float64)
        uniform = torch.rand(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))
        return 2 * uniform - 1

    def pack(self, *state: Tensor) -> Tensor:
        """The state vector, (*batch, dim), of a state in the module's form: h_n, or (h_n, c_n), shape (layers, *batch, hidden)."""
        parts = state[0] if len(state) == 1 and isinstance(state[0], tuple | list) else state
        return self.network.pack(*parts)

    def unpack(self, x: Tensor) -> Any:
        """The state in the module's own form: h_n, or (h_n, c_n)."""
        return self.network.unpack(x)

    def extra_repr(self) -> str:
        """The text between the parentheses of `repr`."""
        length = "endless" if self.horizon is None else f"{self.horizon} steps"
        dt = f"dt={self.dt:g}, " if self.dt != 1 else ""
        return f"dim={self.dim}, {dt}{self.network.label}, inputs {length}"


def _width(*given: Any) -> int | None:
    """Length of one input, from the first argument that is a sequence or drive."""
    for values in given:
        if isinstance(values, Drive):
            return int(values(0).shape[-1])
        if isinstance(values, PackedSequence):
            return int(values.data.shape[-1])
        first = values[0] if isinstance(values, list | tuple) and values else values
        if shape := getattr(first, "shape", ()):
            return int(shape[-1])
    return None


def _network(
    module: nn.Module | Sequence[nn.Module], state: Any, width: int | None, returns: str | None
) -> StandardNetwork | CustomCell:
    modules = [bare(one) for one in (module if isinstance(module, Sequence | nn.ModuleList) else [module])]
    is_ensemble = not isinstance(module, nn.Module) or isinstance(module, nn.ModuleList)
    if not modules:
        raise InputError("expected an ensemble of at least 1 network, got an empty list.")
    for one in modules:
        if not isinstance(one, nn.Module):
            raise UnsupportedModuleError(
                f"expected an nn.Module, got a {type(one).__name__}.\nWrap a function of the state: sx.Map(f, dim)."
            )
    if len({type_before_parametrizations(module) for module in modules}) > 1:
        kinds = ", ".join(sorted({kind_of(module) for module in modules}))
        raise UnsupportedModuleError(f"expected an ensemble of one kind of network, got {kinds}.\nMeasure them one by one.")
    first = modules[0]
    if getattr(first, "bidirectional", False):
        raise UnsupportedModuleError(
            f"this {describe(first)} is bidirectional: its backward half reads the future, so it has no step forward in time.\n"
            "Measure one direction: build the same module with bidirectional=False and load the weights without '_reverse'."
        )
    for one in modules:
        refuse_changed_layer(one)
    if all(is_standard(one) for one in modules):
        return StandardNetwork(modules, is_ensemble)
    return own_network(modules, is_ensemble, state, width, returns)


def _drive(network: StandardNetwork | CustomCell, inputs: Any, constant: Any) -> Drive:
    if inputs is not None and constant is not None:
        raise InputError("expected either inputs or constant, got both.\nPass a sequence as inputs, or one input as constant.")
    if isinstance(inputs, Drive):
        drive = inputs
    elif inputs is not None:
        drive = Sequential(_read(network, inputs))
    elif constant is not None:
        drive = Constant(as_inputs("the constant input", constant))
    else:
        drive = Constant(torch.zeros(network.inputs or 0, dtype=torch.float64))
    if network.is_ensemble and (isinstance(drive, Stream) or drive is not inputs):
        drive = Shared(drive)
    width = drive(0).shape[-1]
    if network.inputs is not None and width != network.inputs:
        raise ShapeError(
            f"the inputs have {width} numbers per step but this {network.label} takes {network.inputs}.\nPass {network.input_form}."
        )
    return drive


def _read(network: StandardNetwork | CustomCell, inputs: Any) -> Tensor:
    """The inputs with time first, from one sequence or a batch, or from a list or packed batch of equal length."""
    if not isinstance(inputs, PackedSequence) and not is_listed(inputs):
        return _time_first(network, as_inputs("the inputs", inputs))
    sequences = sequence_list(inputs)
    lengths = sorted({len(sequence) for sequence in sequences})
    if len(lengths) > 1:
        raise InputError(
            f"the {len(sequences)} sequences have {lengths[0]} to {lengths[-1]} steps, so that their batch has no common horizon.\n"
            "Pass sx.Stream(sequences), in which each copy reads one sequence after the other, or pass one sequence at a time."
        )
    return torch.stack(sequences, dim=1)


def _time_first(network: StandardNetwork | CustomCell, values: Tensor) -> Tensor:
    if values.ndim not in (2, 3):
        raise ShapeError(
            f"the inputs have {values.ndim} axes, shape {tuple(values.shape)}; expected 2 or 3.\nPass {network.input_form}."
        )
    if 0 in values.shape:
        raise ShapeError(f"the inputs are empty: shape {tuple(values.shape)}.\nPass {network.input_form}.")
    return values.transpose(0, 1) if values.ndim == 3 and network.batch_first else values
