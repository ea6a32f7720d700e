"""The scalar program of a step on a few numbers, recorded once while the step is taken.

Note [Scalar programs]
PyTorch spends about a microsecond on an operator, whatever its size, and many more on its forward derivative. A step on a few
numbers is therefore recorded once: each operator that it calls is repeated on arrays of symbols, and the symbols become one
Python function of floats, with the tangents of every operation beside it by the chain rule. The record is the function only if
nothing but the recorded operators connects input and output. Hence the step is not given a state but a tensor without its
numbers: its memory holds NaN, and whatever is called on it, in any thread or mode, is either in the tables below or ends the
recording. So a step that reads a number (`if x > 0`, `item()`, `numpy()`) has no record, whichever way it would have gone. The
same holds if the items of a batch mix. Kinks (abs, relu, where) are not in the tables, because there the derivative is a choice.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from separatrix.core.scalar_program import SLOPES, NotStraight, Program, Scalar, Symbol

BY_PYTHON = {
    *("__array__", "__bool__", "__complex__", "__contains__", "__dlpack__", "__float__", "__index__", "__int__"),
    *("__format__", "__reduce_ex__", "__repr__", "data_ptr", "item", "numpy", "storage", "tolist", "untyped_storage"),
}
"""Methods of a tensor by which its numbers leave PyTorch without a call of an operator."""

MOST_NUMBERS = 64  # in the states of all items


Array = np.ndarray


class _Record:
    """The scalar operations of a step, added by the operators that it calls."""

    def __init__(self) -> None:
        self.program = Program()
        self.operators = 0

    def array(self, value: Any) -> Array:
        """The scalars of a tensor or a number."""
        if isinstance(value, Recorded):
            return value.scalars
        return _numbers_of(value) if isinstance(value, Tensor) else np.asarray(float(value), dtype=object)

    def operate(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator on the tensors, and repeat it on their scalars."""
        self.operators += 1
        schema = operator._schema
        name = schema.name.partition("::")[2]
        known = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Recorded)]
        moving = name not in SHAPED and any(one.depends for one in known)
        view = any(one.alias_info is not None for one in schema.returns)
        if known and name in TURNS:
            operator(*tree_map(_values, args))
            with torch._C._DisableTorchDispatch():
                operator(*args)
            args[0].scalars = TURNS[name](self, *args)
            return args[0]
        if known and schema.is_mutable:
            if name not in WRITES or not isinstance(args[0], Recorded):  # in particular, memory from outside the step
                raise NotStraight
            operator(*tree_map(_values, args), **tree_map(_values, kwargs))
            args[0].scalars[...] = WRITES[name](self, *args, **kwargs)
            return args[0]
        if not moving and not (known and view):
            made = operator(*tree_map(_values, args), **tree_map(_values, kwargs))
            return made if view else tree_map(self.as_constant, made)
        if name not in OPERATORS:
            raise NotStraight
        made = operator(*tree_map(_values, args), **tree_map(_values, kwargs))
        arrays = OPERATORS[name](self, *args, **kwargs)
        if isinstance(made, list | tuple):
            return [self.keep(values, array) for values, array in zip(made, arrays, strict=True)]
        return self.keep(made, arrays)

    def keep(self, values: Tensor, array: Any) -> "Recorded":
        array = np.asarray(array, dtype=object)
        if values.dtype != torch.float64 or values.shape != array.shape:
            raise NotStraight
        return Recorded(self, values, array)

    def as_constant(self, made: Any) -> Any:
        """A new tensor of the step, into which it may write."""
        return self.keep(made, _numbers_of(made)) if isinstance(made, Tensor) and made.dtype == torch.float64 else made


class Recorded(Tensor):
    """A tensor of the step that is recorded, with its scalars; in memory, the numbers that depend on the input are NaN."""

    record: _Record
    values: Tensor
    scalars: Array

    def __new__(cls, record: _Record, values: Tensor, scalars: Array) -> "Recorded":
        made = Tensor._make_subclass(cls, values)
        made.record, made.values, made.scalars = record, values, scalars
        return made

    @property
    def depends(self) -> bool:
        """Whether it depends on the input."""
        return any(isinstance(one, Symbol) for one in self.scalars.flat)

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in BY_PYTHON and isinstance(args[0], Recorded):
            if args[0].depends:
                raise NotStraight
            args = tree_map(_values, args)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, operator: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Recorded)]
        return known[0].record.operate(operator, args, kwargs or {})


def _values(value: Any) -> Any:
    return value.values if isinstance(value, Recorded) else value


def _numbers_of(tensor: Tensor) -> Array:
    if tensor.is_floating_point():
        return np.array(tensor.detach().to(torch.float64).tolist(), dtype=object)
    return np.array(tensor.tolist(), dtype=object)


def _pointwise(name: str) -> Callable[..., Array]:
    def operate(record: _Record, a: Any, b: Any, *, alpha: float = 1.0) -> Array:
        b = record.array(b)
        if alpha != 1.0:
            b = _over(record.program.multiply, b, np.asarray(float(alpha), dtype=object))
        return _over(getattr(record.program, name), record.array(a), b)

    return operate


def _function(name: str) -> Callable[..., Array]:
    def operate(record: _Record, a: Any) -> Array:
        return _over(lambda one: record.program.apply(name, one), record.array(a))

    return operate


def _over(function: Callable[..., Scalar], *arrays: Array) -> Array:
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)


def _power(record: _Record, a: Any, exponent: Any) -> Array:
    if isinstance(exponent, Tensor) or not isinstance(a, Tensor):
        raise NotStraight
    return _over(lambda one: record.program.power(one, float(exponent)), record.array(a))


def _remainder(record: _Record, a: Any, b: Any) -> Array:
    if isinstance(b, Tensor):
        raise NotStraight
    return _over(lambda one: record.program.add_line("%", one, float(b)), record.array(a))


def _rsub(record: _Record, a: Any, b: Any, alpha: float = 1.0) -> Array:
    return _pointwise("subtract")(record, b, a, alpha=alpha)


def _divide(record: _Record, a: Any, b: Any, *, rounding_mode: str | None = None) -> Array:
    if rounding_mode is not None:
        raise NotStraight
    return _over(record.program.divide, record.array(a), record.array(b))


def _sum(record: _Record, a: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    return _reduced(record, record.array(a), dim, keepdim)


def _reduced(record: _Record, array: Array, dim: Any, keepdim: bool) -> Array:
    axes = range(array.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    for axis in sorted((axis % max(array.ndim, 1) for axis in axes), reverse=True):
        total = _total(record, array, axis)
        array = np.expand_dims(total, axis) if keepdim else total
    return array


def _mean(record: _Record, a: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    total = _sum(record, a, dim, keepdim)
    count = float(record.array(a).size / max(total.size, 1))
    return _over(record.program.divide, total, np.asarray(count, dtype=object))


def _matmul(record: _Record, a: Any, b: Any) -> Array:
    left, right = record.array(a), record.array(b)
    if right.ndim == 1:
        return _total(record, _over(record.program.multiply, left, right), -1)
    right = np.expand_dims(right, -3)
    return _total(record, _over(record.program.multiply, left[..., None], right), -2)


def _total(record: _Record, array: Array, axis: int) -> Array:
    """The sum along an axis."""
    rows = np.moveaxis(array, axis, 0)
    total = rows[0, ...]
    for row in rows[1:]:
        total = _over(record.program.add, total, row)
    return total


def _norm(record: _Record, a: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    if ord != 2:
        raise NotStraight
    squares = _over(lambda one: record.program.multiply(one, one), record.array(a))
    return _over(lambda one: record.program.apply("sqrt", one), _reduced(record, squares, dim, keepdim))


def _cross(record: _Record, a: Tensor, b: Tensor, *, dim: int = -1) -> Array:
    left, right = (np.moveaxis(record.array(one), dim, 0) for one in (a, b))
    product, less = record.program.multiply, record.program.subtract
    rows = [
        _over(less, _over(product, left[i, ...], right[j, ...]), _over(product, left[j, ...], right[i, ...]))
        for i, j in ((1, 2), (2, 0), (0, 1))
    ]
    return np.moveaxis(np.stack(rows), 0, dim)


def _addmm(record: _Record, bias: Any, a: Any, b: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Array:
    if beta != 1 or alpha != 1:
        raise NotStraight
    return _over(record.program.add, record.array(bias), _matmul(record, a, b))


def _select(record: _Record, a: Tensor, dim: int, index: int) -> Array:
    return np.moveaxis(record.array(a), dim, -1)[..., index]


def _slice(record: _Record, a: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    cut = np.moveaxis(record.array(a), dim, -1)[..., slice(start, end, step)]
    return np.moveaxis(cut, -1, dim)


def _reshape(record: _Record, a: Tensor, size: Any) -> Array:
    return record.array(a).reshape(tuple(size))


def _expand(record: _Record, a: Tensor, size: Any, *, implicit: bool = False) -> Array:
    array = record.array(a)
    own = (1,) * (len(size) - array.ndim) + array.shape
    return np.broadcast_to(array, [mine if wanted == -1 else wanted for wanted, mine in zip(size, own, strict=True)])


def _squeeze(record: _Record, a: Tensor, dim: Any = None) -> Array:
    array = record.array(a)
    axes = range(array.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    return array.squeeze(tuple(axis % array.ndim for axis in axes if array.ndim and array.shape[axis] == 1))


def _unbind(record: _Record, a: Tensor, dim: int = 0) -> list[Array]:
    rows = np.moveaxis(record.array(a), dim, 0)
    return [rows[i, ...] for i in range(len(rows))]


def _split(record: _Record, a: Tensor, sizes: Any, dim: int = 0) -> list[Array]:
    array = record.array(a)
    length = array.shape[dim]
    ends = range(sizes, length, sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return np.split(array, list(ends), axis=dim)


def _stack(record: _Record, tensors: Any, dim: int = 0) -> Array:
    return np.stack([record.array(one) for one in tensors], axis=dim)


def _cat(record: _Record, tensors: Any, dim: int = 0) -> Array:
    return np.concatenate([record.array(one) for one in tensors], axis=dim)


def _roll(record: _Record, a: Tensor, shifts: Any, dims: Any = ()) -> Array:
    if not dims:
        return np.roll(record.array(a).reshape(-1), shifts[0]).reshape(a.shape)
    return np.roll(record.array(a), shifts, axis=tuple(dims))


def _index(record: _Record, a: Tensor, indices: Any) -> Array:
    if any(one is not None and one.dtype != torch.int64 for one in indices):
        raise NotStraight
    return record.array(a)[tuple(slice(None) if one is None else np.array(one.tolist()) for one in indices)]


def _same(record: _Record, a: Tensor, *_: Any, **__: Any) -> Array:
    return record.array(a)


def _copied(record: _Record, a: Tensor, *_: Any, **__: Any) -> Array:
    return record.array(a).copy()


OPERATORS: dict[str, Callable[..., Any]] = {
    "add": _pointwise("add"),
    "sub": _pointwise("subtract"),
    "mul": _pointwise("multiply"),
    "div": _divide,
    "rsub": _rsub,
    "remainder": _remainder,
    "pow": _power,
    "square": lambda record, a: _power(record, a, 2.0),
    "reciprocal": lambda record, a: _power(record, a, -1.0),
    "sum": _sum,
    "mean": _mean,
    **{name: _matmul for name in ("mm", "mv", "dot", "bmm")},
    "linalg_vector_norm": _norm,
    "linalg_cross": _cross,
    "addmm": _addmm,
    **{name: _function(name) for name in SLOPES},
    "select": _select,
    "slice": _slice,
    **{name: _reshape for name in ("view", "reshape", "_unsafe_view")},
    "expand": _expand,
    "squeeze": _squeeze,
    "unsqueeze": lambda record, a, dim: np.expand_dims(record.array(a), dim),
    "transpose": lambda record, a, one, two: record.array(a).swapaxes(one, two),
    "t": lambda record, a: record.array(a).T,
    "permute": lambda record, a, dims: record.array(a).transpose(dims),
    "flip": lambda record, a, dims: np.flip(record.array(a), tuple(dims)),
    "roll": _roll,
    "index": _index,
    "unbind": _unbind,
    **{name: _split for name in ("split", "split_with_sizes")},
    "stack": _stack,
    "cat": _cat,
    **{name: _same for name in ("alias", "detach", "lift_fresh")},
    **{name: _copied for name in ("clone", "_to_copy")},
}
"""Operators and what they do to arrays of scalars; views of tensors are views of arrays."""

TURNS = {f"{name}_": OPERATORS[name] for name in ("squeeze", "unsqueeze", "transpose", "t")}
"""Operators that change the shape of their first argument."""

WRITES: dict[str, Callable[..., Array]] = {
    "copy_": lambda record, target, source, *_: record.array(source),
    "fill_": lambda record, target, value: record.array(value),
    "zero_": lambda record, target: np.asarray(0.0, dtype=object),
    **{f"{name}_": OPERATORS[name] for name in ("add", "sub", "mul", "div", "pow")},
}
"""Operators that write into their first argument."""

SHAPED = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}
"""Operators that take nothing but the shape of their first argument."""


class _NewTensors(TorchDispatchMode):
    """Within it, the tensors that a step makes of nothing are recorded as well."""

    def __init__(self, record: _Record) -> None:
        super().__init__()
        self.record = record

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # importing the compiler takes a second or two

    def __torch_dispatch__(self, operator: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.record.operate(operator, args, kwargs or {})


def recorded(step: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Program, list[Scalar], int]:
    """The program of a step from the state x, the scalars that are its result, and the number of operators that it called.

    Raises:
        NotStraight: the step cannot be recorded.
    """
    record = _Record()
    symbols = np.empty(x.numel(), dtype=object)
    symbols[:] = [record.program.add_line("input", place) for place in range(x.numel())]
    given = record.keep(torch.full_like(x, torch.nan), symbols.reshape(x.shape))
    with torch.no_grad(), _NewTensors(record):
        after = step(given)
    if not isinstance(after, Recorded) or after.shape != x.shape:
        raise NotStraight
    return record.program, list(after.scalars.flat), record.operators
