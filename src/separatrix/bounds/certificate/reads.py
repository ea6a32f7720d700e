"""Numbers that Python reads from values that depend on a network's input, and that may decide its control flow.

Note [Paths by numbers]
`torch.export` runs the module on tensors without values, and a module can notice: it may ask whether it is exported, or catch the
error and take another path. So the module itself is run, and every operator records whether its arguments share memory with
something computed from the input. A number that leaves such a tensor through bool(), item(), tolist(), numpy() and the like, or
through a shape that depends on values, may decide the control flow: then there is no bound, whichever path was taken.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from separatrix.core.scalar_record import BY_PYTHON

SHAPED = {"zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"}
SHAPED |= {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
"""Operators that take nothing but the shape of their first argument."""

BY_MASK = {"masked_select": 1, "index": 1}
"""Operators whose shape depends on the numbers of one argument alone: which."""

READ = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class Reads:
    """First read in each module, by the name of the innermost running module.

    Args:
        network: the module that runs.
    """

    def __init__(self, network: nn.Module) -> None:
        self.names = {id(part): name for name, part in network.named_modules()}
        self.found: dict[str, str] = {}
        self.pauses, self.compiled = 0, False
        self.followed: dict[int, Any] = {}  # storages by address, kept alive so that no other reuses it

    def run(self, network: nn.Module, x: Tensor) -> Any:
        """The network's output at x."""
        self._follow(x)
        try:
            with _Methods(self), _Operators(self):
                return network(x)
        finally:
            if self.compiled:  # torch.cond keeps code compiled while it was watched, which fails later
                torch._dynamo.reset()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which reads are not recorded, for a module whose guarantee is trusted."""
        self.pauses += 1
        try:
            yield
        finally:
            self.pauses -= 1

    def follows(self, value: Any) -> bool:
        """Whether a tensor depends on the input."""
        return isinstance(value, Tensor) and _address(value) in self.followed

    def note(self, what: str) -> None:
        """Record a read in the running module."""
        if not self.pauses:
            self.found.setdefault(self._where(), what)

    def _follow(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, Tensor) and (address := _address(value)) is not None:
                self.followed[address] = value.untyped_storage()

    def pass_on(self, given: Iterable[Any], made: Iterable[Any]) -> None:
        """Mark results as dependent on the input if an argument is."""
        if any(map(self.follows, given)):
            self._follow(*made)

    def _where(self) -> str:
        frame = sys._getframe()
        while frame is not None:
            name = self.names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""


class _Methods(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in BY_PYTHON and args and self.reads.follows(args[0]):
            self.reads.note(f"{name.strip('_')}()")
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, operator: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(operator, torch._ops.OpOverload):  # torch.cond and its like
            self.reads.compiled = True
            if any(map(self.reads.follows, tree_leaves((args, kwargs)))):
                self.reads.note(f"the way of {operator.name()}")
            return operator(*args, **kwargs)
        name = operator._schema.name.partition("::")[2]
        given = tree_leaves((args, kwargs))
        if any(tag in operator.tags for tag in READ):
            decisive = tree_leaves(args[BY_MASK[name]]) if name in BY_MASK else given
            is_index = name == "index"  # by whole numbers its shape is known
            if any(self.reads.follows(one) and (not is_index or one.dtype in (torch.bool, torch.uint8)) for one in decisive):
                self.reads.note("a number" if name == "_local_scalar_dense" else f"the result of {name}")
        made = operator(*args, **kwargs)
        if name not in SHAPED:
            self.reads.pass_on(given, (*tree_leaves(made), *_written(operator, args, kwargs)))
        return made


def _written(operator: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that the operator writes into."""
    schema = operator._schema.arguments
    named = {**{a.name: v for a, v in zip(schema, args, strict=False)}, **kwargs}
    return tree_leaves([named.get(a.name) for a in schema if a.alias_info is not None and a.alias_info.is_write])


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # a tensor without memory of its own
        return None
