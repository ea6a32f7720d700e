"""The third noun: a Result is a frozen record of what was measured, with units, error bars, a status for each item, and how."""

import dataclasses
import importlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from separatrix.errors import InputError

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


SHORT = 64  # numbers in a field that `Result.numbers` repeats


class Status(IntEnum):
    """How one item of a batch ended."""

    OK = 0
    NOT_CONVERGED = 1
    DIVERGED = 2

    @property
    def words(self) -> str:
        """Its name as a person says it."""
        return self.name.lower().replace("_", " ")


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    return {
        "separatrix": importlib.metadata.version("separatrix"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Base of every result.

    A subclass declares its tensors as fields and in `layout` the names of their axes, with "batch" standing for the batch axes
    of the run: {"exponents": "batch k"}. `units` names the unit of each. A field may hold a Result, or a dictionary of them.

    Args:
        codes: `Status` of each batch item, shape (*batch), int8.
        settings: what was asked, defaults filled in.
        versions: of the libraries that computed it.
    """

    codes: Tensor
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    layout: ClassVar[dict[str, str]] = {}
    units: ClassVar[dict[str, str]] = {}

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes of the run."""
        return tuple(self.codes.shape)

    @property
    def status(self) -> Any:
        """Each item's status in words: a string, or an array of strings of shape (*batch)."""
        words = np.array([status.name.lower() for status in Status])[self.codes.cpu().numpy()]
        return str(words) if words.ndim == 0 else words

    def ended(self) -> str:
        """How the items ended, in words: "ok", or of a batch "3 ok, 1 not converged"."""
        if not self.batch:
            return Status(int(self.codes)).words
        counts = {status.words: int((self.codes == status).sum()) for status in Status}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count)

    def summary(self) -> str:
        """The answer in words."""
        return f"{type(self).__name__} of {self.codes.numel()} runs"

    def numbers(self) -> dict[str, Any]:
        """What is short enough to be read, for machines: the answer in words, the status of each item, and small fields."""
        small = {name: value for name in self.layout if _is_short(value := getattr(self, name))}
        told = {**self._plain(), **{name: value.tolist() for name, value in small.items()}}
        return {"summary": self.summary(), "status": np.asarray(self.status).tolist(), **told}

    def __repr__(self) -> str:
        """The answer in words."""
        return self.summary()

    def _repr_html_(self) -> str:
        """The answer in words and its picture, for notebooks."""
        shown = importlib.import_module("separatrix.plot")
        return f"<p style='white-space:pre-line'>{_escape(self.summary())}</p>{shown.svg(self.plot())}"

    def plot(self) -> "Figure":
        """A Matplotlib figure of the result."""
        return importlib.import_module("separatrix.plot").figure(self)

    def to_dataset(self) -> "xarray.Dataset":
        """The result as an xarray Dataset: named axes, units, settings as attributes."""
        import xarray

        variables = {}
        for name, axes in {"codes": "batch", **self.layout}.items():
            value = getattr(self, name)
            if value is not None:
                unit = {"units": self.units[name]} if name in self.units else {}
                variables[name] = (self._axes(axes), value.detach().cpu().numpy(), unit)
        return xarray.Dataset(variables, attrs={"result": _address(type(self)), "record": json.dumps(self._plain(), default=str)})

    def save(self, path: str | Path) -> Path:
        """Write the result as a Zarr folder, which must not exist; results inside it become its groups."""
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists already.\nChoose another name, or remove it first.")
        self._write(path, "")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result that `save` wrote."""
        loaded = load(path)
        if not isinstance(loaded, cls):
            raise InputError(f"{path} holds a {type(loaded).__name__}, not a {cls.__name__}.")
        return loaded

    def _write(self, path: Path, group: str) -> None:
        self.to_dataset().to_zarr(path, group=group or None, mode="a", consolidated=False)
        for name, child in self._children().items():
            child._write(path, f"{group}/{name}".strip("/"))

    def _children(self) -> "dict[str, Result]":
        """The results inside this one, by the group each is written to: `field`, or `field/key` of a dictionary."""
        found = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Result):
                found[name] = value
            elif _holds_results(value):
                found.update({f"{name}/{key}": child for key, child in value.items()})
        return found

    def _plain(self) -> dict[str, Any]:
        """The fields that are neither tensors nor results; of a dictionary of results, its keys in their order."""
        skip = {"codes", *self.layout, *self._children()}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        return {name: list(value) if _holds_results(value) else value for name, value in values.items()}

    def _axes(self, axes: str) -> tuple[str, ...]:
        names = [f"batch_{i}" for i in range(len(self.batch))] if len(self.batch) > 1 else ["batch"] * len(self.batch)
        return tuple(part for axis in axes.split() for part in (names if axis == "batch" else [axis]))


def load(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote.

    Raises:
        InputError: there is no such folder, or it was not written by `Result.save`.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no result at {path}.")
    return _read(path, "")


def _read(path: Path, group: str) -> Result:
    import xarray
    import zarr

    try:
        node = zarr.open_group(path / group, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path} was not written by Result.save: it is no Zarr folder.") from None
    kind = _resolve(node.attrs.get("result"), path)
    data = xarray.open_zarr(path, group=group or None, consolidated=False)
    tensors = {name: torch.as_tensor(np.array(data[name].values)) for name in data.data_vars}
    children = {name: _read_field(path, f"{group}/{name}".strip("/")) for name in node.group_keys()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(data.attrs["record"]).items()}
    for name, held in children.items():
        if isinstance(held, dict):
            children[name] = {key: held[key] for key in plain[name]}
    absent = dict.fromkeys(kind.layout)  # what was None was not written
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in {**absent, **plain, **tensors, **children}.items() if name in known})


def _read_field(path: Path, group: str) -> "Result | dict[str, Result]":
    """A result inside another; of a group that says of no class, a dictionary of them."""
    import zarr

    node = zarr.open_group(path / group, mode="r")
    if "result" in node.attrs:
        return _read(path, group)
    return {name: _read(path, f"{group}/{name}") for name in node.group_keys()}


def _holds_results(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, Result) for item in value.values())


def _is_short(value: Any) -> bool:
    """Whether a field is a list of numbers that a person would read."""
    return isinstance(value, Tensor) and value.ndim <= 1 and value.numel() <= SHORT and not value.is_complex()


def _address(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _resolve(address: Any, path: Path) -> type[Result]:
    """The class a file names; only classes of this package are looked up."""
    module, _, name = str(address).partition(":")
    if module.split(".")[0] == "separatrix":
        kind = getattr(importlib.import_module(module), name, None)
        if isinstance(kind, type) and issubclass(kind, Result):
            return kind
    raise InputError(f"{path} was not written by Result.save: it names {address!r}.")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
