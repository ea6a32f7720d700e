"""The third noun: a Result is a frozen record of a measurement, with units, error bars, a status for each item, and settings."""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from separatrix.core.errors import DivergedError, InputError, NoPictureError, NotConvergedError
from separatrix.core.wording import counted

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


SHORT = 64  # size up to which `Result.numbers` includes a field


class Status(IntEnum):
    """Outcome of one item of a batch.

    Example:
        >>> square = sx.Map(lambda x: x**2, dim=1)
        >>> found = sx.lyapunov_spectrum(square, torch.tensor([[1.0], [2.0]]).double(), steps=50)
        >>> (found.codes == sx.Status.DIVERGED).tolist()
        [False, True]
    """

    OK = 0
    NOT_CONVERGED = 1
    DIVERGED = 2

    @property
    def words(self) -> str:
        """The name in plain words, such as "not converged"."""
        return self.name.lower().replace("_", " ")


def versions() -> dict[str, str]:
    """The versions on which the numbers depend."""
    return {
        "separatrix": importlib.metadata.version("separatrix"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
    }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Base class of all results.

    A subclass declares its tensors as fields, and names their axes in `layout`, where "batch" stands for the batch axes of the
    run: {"exponents": "batch k"}. `units` holds the unit of each field. A field may be a Result or a dictionary of them. A class
    with a figure defines `plot`, or names the function that draws it in `drawn_by`, as "package.module:function". A class of
    your own must be imported or defined before it is loaded; a file never says what code to run.

    Args:
        codes: `Status` of each batch item, shape (*batch), int8.
        settings: arguments of the analysis, including defaults.
        versions: versions of the libraries that computed it.

    Example:
        >>> found = sx.lyapunov_spectrum(sx.classic.henon(), steps=50)
        >>> isinstance(found, sx.Result), found.status, found.settings["steps"]
        (True, 'ok', 50)
    """

    codes: Tensor
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    drawn_by: ClassVar[str] = ""
    layout: ClassVar[dict[str, str]] = {}
    units: ClassVar[dict[str, str]] = {}

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes of the run."""
        return tuple(self.codes.shape)

    @property
    def status(self) -> Any:
        """The status of each item as text: a string, or an array of strings of shape (*batch)."""
        words = np.array([status.name.lower() for status in Status])[self.codes.cpu().numpy()]
        return str(words) if words.ndim == 0 else words

    def ended(self) -> str:
        """The outcome of all items as text: "ok", or for a batch "3 ok, 1 not converged"."""
        if not self.batch:
            return Status(int(self.codes)).words
        counts = {status.words: int((self.codes == status).sum()) for status in Status}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count)

    def or_raise(self, throw: bool = True) -> Self:
        """Return this result; with `throw`, raise an error if an item is not ok.

        Raises:
            DivergedError: an item diverged.
            NotConvergedError: an item did not converge.
        """
        for status, error in ((Status.DIVERGED, DivergedError), (Status.NOT_CONVERGED, NotConvergedError)):
            failed = (self.codes == status).nonzero()
            if throw and len(failed):
                first = f", first at index {tuple(failed[0].tolist())}" if self.batch else ""
                raise error(
                    f"{len(failed)} of {counted(self.codes.numel(), 'item')} {status.words}{first}.\n{self._remedy(status)}"
                )
        return self

    def _remedy(self, status: Status) -> str:
        """Advice for items with that status; by default, the summary."""
        return self.summary()

    def summary(self) -> str:
        """The answer in words."""
        return f"{type(self).__name__} of {self.codes.numel()} runs"

    def numbers(self) -> dict[str, Any]:
        """A short version of the result for machines: the summary, the status of each item, and the small fields."""
        small = {name: value for name in self.layout if _is_short(value := getattr(self, name))}
        values = {**self._plain(), **{name: value.tolist() for name, value in small.items()}}
        return {"summary": self.summary(), "status": np.asarray(self.status).tolist(), **values}

    def __repr__(self) -> str:
        """The answer in words."""
        return self.summary()

    def _repr_html_(self) -> str:
        """The answer in words, and its figure if it has one, for notebooks."""
        try:
            drawn = self.plot()
        except NoPictureError:
            drawn = None
        figure = getattr(drawn, "figure", drawn)  # for axes, the figure that contains them
        shown = importlib.import_module("separatrix.plot").svg(figure) if hasattr(figure, "savefig") else ""
        return f"<p style='white-space:pre-line'>{_escape(self.summary())}</p>{shown}"

    def plot(self) -> "Figure":
        """A Matplotlib figure of the result, drawn by the function that its class names in `drawn_by`.

        Raises:
            NoPictureError: the class names no function.
        """
        if not self.drawn_by:
            raise NoPictureError(
                f"a {type(self).__name__} has no figure.\n"
                "Give the class a method plot(self) that returns a Matplotlib figure, or name a function in drawn_by."
            )
        module, _, function = self.drawn_by.partition(":")
        return getattr(importlib.import_module(module), function)(self)

    def to_dataset(self) -> "xarray.Dataset":
        """The result as an xarray Dataset: named axes, units, settings as attributes.

        Raises:
            InputError: a field is a tensor whose axes are not in `layout`.
        """
        import xarray

        for name, value in self._plain().items():
            if isinstance(value, Tensor):
                axes = " ".join(["batch", *(f"axis_{i}" for i in range(value.ndim - len(self.batch)))])
                raise InputError(
                    f"the field {name!r} of this {type(self).__name__} is a tensor of shape {tuple(value.shape)}, but its layout "
                    f"lists {', '.join(self.layout) or 'no field'}.\nName its axes in the class: layout = {{{name!r}: {axes!r}}}."
                )
        variables = {}
        for name, axes in {"codes": "batch", **self.layout}.items():
            value = getattr(self, name)
            if value is not None:
                unit = {"units": self.units[name].replace("unit time", self.clock)} if name in self.units else {}
                variables[name] = (self._axes(axes), value.detach().cpu().numpy(), unit)
        return xarray.Dataset(variables, attrs={"result": _address(type(self)), "record": json.dumps(self._plain(), default=str)})

    @property
    def clock(self) -> str:
        """The unit of time, in words: "step" for a map with dt = 1, otherwise "unit time"."""
        return str(self.settings.get("clock", "unit time"))

    def save(self, path: str | Path) -> Path:
        """Write the result to a new Zarr folder; results inside it become groups.

        Raises:
            InputError: the path already exists.
        """
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} already exists.\nChoose another name, or remove it first.")
        self._write(path, "")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result that `save` wrote.

        Raises:
            InputError: as for `sx.load`; or the saved result is of another class.
        """
        loaded = _read(_existing(path), "", cls)
        if not isinstance(loaded, cls):
            raise InputError(f"{path} holds a {type(loaded).__name__}, not a {cls.__name__}.")
        return loaded

    def _write(self, path: Path, group: str) -> None:
        self.to_dataset().to_zarr(path, group=group or None, mode="a", consolidated=False)
        for name, child in self._children().items():
            child._write(path, f"{group}/{name}".strip("/"))

    def _children(self) -> "dict[str, Result]":
        """The results inside this one by group: `field`, or `field/key` for a dictionary."""
        found = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Result):
                found[name] = value
            elif _holds_results(value):
                found.update({f"{name}/{key}": child for key, child in value.items()})
        return found

    def _plain(self) -> dict[str, Any]:
        """The fields that are neither tensors nor results; for a dictionary of results, its keys in order."""
        skip = {"codes", *self.layout, *self._children()}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        return {name: list(value) if _holds_results(value) else value for name, value in values.items()}

    def _axes(self, axes: str) -> tuple[str, ...]:
        names = [f"batch_{i}" for i in range(len(self.batch))] if len(self.batch) > 1 else ["batch"] * len(self.batch)
        return tuple(part for axis in axes.split() for part in (names if axis == "batch" else [axis]))


def load(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote. A result class of your own must be imported or defined first.

    Raises:
        InputError: the folder does not exist, was not written by `Result.save`, or holds an unknown class.

    Example:
        >>> from tempfile import mkdtemp
        >>> spectrum = sx.lyapunov_spectrum(sx.Map(lambda x: 0.5 * x, dim=1), torch.ones(1), steps=20)
        >>> path = spectrum.save(mkdtemp() + "/spectrum")
        >>> sx.load(path).exponents
        tensor([-0.6931])
    """
    return _read(_existing(path), "", Result)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no result at {path}.")
    return path


def _read(path: Path, group: str, expected: type[Result]) -> Result:
    """The result in a group of a folder; `expected` is the class that the caller expects."""
    import xarray
    import zarr

    try:
        node = zarr.open_group(path / group, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path} was not written by Result.save: it is not a Zarr folder.") from None
    kind = _resolve(node.attrs.get("result"), path, expected)
    data = xarray.open_zarr(path, group=group or None, consolidated=False)
    tensors = {name: torch.as_tensor(np.array(data[name].values)) for name in data.variables}
    children = {name: _read_field(path, f"{group}/{name}".strip("/")) for name in node.group_keys()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(data.attrs["record"]).items()}
    for name, held in children.items():
        if isinstance(held, dict):
            children[name] = {key: held[key] for key in plain[name]}
    absent = dict.fromkeys(kind.layout)  # fields that are None are not written
    known = {f.name for f in dataclasses.fields(kind)}
    given = {**absent, **plain, **tensors, **children}
    missing = [f.name for f in dataclasses.fields(kind) if f.init and f.name not in given and _is_required(f)]
    if missing:
        raise InputError(
            f"{path} holds a {kind.__name__} without {', '.join(missing)}: it was saved when the class had other fields.\n"
            "Give the newer fields a default."
        )
    return kind(**{name: value for name, value in given.items() if name in known})


def _is_required(of: dataclasses.Field[Any]) -> bool:
    return of.default is dataclasses.MISSING and of.default_factory is dataclasses.MISSING


def _read_field(path: Path, group: str) -> "Result | dict[str, Result]":
    """A result inside another, or a dictionary of results if the group names no class."""
    import zarr

    node = zarr.open_group(path / group, mode="r")
    if "result" in node.attrs:
        return _read(path, group, Result)
    return {name: _read(path, f"{group}/{name}", Result) for name in node.group_keys()}


def _holds_results(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, Result) for item in value.values())


def _is_short(value: Any) -> bool:
    """Whether a field is a short list of real numbers."""
    return isinstance(value, Tensor) and value.ndim <= 1 and value.numel() <= SHORT and not value.is_complex()


def _address(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _resolve(address: Any, path: Path, expected: type[Result]) -> type[Result]:
    """The class that a file names, among those that exist: only modules of this package are imported for a file.

    If a class was defined elsewhere when it was saved (in a script that is now imported, or in a function), its own `load` still
    recognises it by name.
    """
    module, _, name = str(address).partition(":")
    own = module.split(".")[0] == "separatrix"
    if own and not module.endswith("__main__"):
        with contextlib.suppress(ImportError):  # no such module in this version of the package
            importlib.import_module(module)
    known = _known(address)
    if _address(expected) == address or (not known and expected is not Result and _last(name) == expected.__name__):
        return expected
    if known:
        return known[-1]  # the newest, if a notebook cell has defined the class again
    if not name or own or (module in sys.modules and module != "__main__" and "<locals>" not in name):
        raise InputError(f"{path} was not written by Result.save: it names {address!r}, which is not a Result.")
    what = f"{path} holds a {_last(name)} of the module {module}"
    if module in sys.modules:
        raise InputError(f"{what}, where no such class has been defined.\nDefine it first; then {_last(name)}.load reads it.")
    raise InputError(f"{what}, which has not been imported.\nImport it first: import {module}; then load again.")


def _known(address: Any) -> list[type[Result]]:
    """The existing classes with that address, in the order of their definition."""
    return [kind for kind in _subclasses(Result) if _address(kind) == address]


def _subclasses(kind: type[Result]) -> list[type[Result]]:
    below = [sub for child in kind.__subclasses__() for sub in (child, *_subclasses(child))]
    return list(dict.fromkeys(below))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
