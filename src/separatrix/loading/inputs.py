"""Inputs from a file: `.npy`, `.npz`, `.pt` or `.csv`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from torch import Tensor

from separatrix.core.checks import as_inputs
from separatrix.core.errors import InputError
from separatrix.core.structure import children, leaves
from separatrix.loading.csv_file import read_csv
from separatrix.loading.finding import existing_file, instead_of, listed, reading
from separatrix.loading.torch_file import read_torch_file

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".csv")
AS_NUMBERS = "Save an array of numbers: numpy.save(file, array.astype(float))."


def load_inputs(path: str | Path) -> Tensor:
    """Load the inputs of a network from a file, in the shape in which they were saved.

    Args:
        path: `.npy`; `.npz` with one array, or with the name of an array, `file.npz:name`; `.pt` with a tensor; `.csv` with
            an optional header line and one row per time step.

    Returns:
        Finite numbers. Floating point keeps its precision; integers become int64, as `nn.Embedding` requires; booleans
        become float64. From a `.csv`: shape (time, columns).

    Raises:
        InputError: the file is missing, damaged or of another kind; it is empty; it holds text, objects, complex numbers,
            numbers that are not finite, or several arrays of which none is named.
    """
    file, member = _split_member(str(path))
    file = _known_file(file)
    with reading(file, InputError):
        tensor = _read(file, member)
    if tensor.numel() == 0:
        raise InputError(f"the inputs in {path} are empty: shape {tuple(tensor.shape)}.\nSave at least one time step.")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        return as_inputs(f"the inputs in {path}", tensor)
    return tensor.long()


def load_arguments(paths: Sequence[str | Path]) -> Any:
    """Load the arguments of a model from one file or several, in the form that `analyze` and `depth_profile` accept.

    Args:
        paths: one file per positional argument. A single file may hold several arguments: an `.npz` whose arrays have the
            arguments' names, or a `.pt` with a tuple, a dict or a list of tensors.

    Returns:
        A tensor, as from `load_inputs`; or a tuple, a dict or a list of tensors, in which integers and booleans stay as saved.

    Raises:
        InputError: a file is missing, damaged, of another kind, or holds anything else.
    """
    if len(paths) > 1:
        return tuple(_argument(str(path)) for path in paths)
    (path,) = paths
    file, member = _split_member(str(path))
    suffix = file.suffix.lower()
    if suffix == ".npz" and member is None and (names := _names(existing_file(file, InputError))) and len(names) > 1:
        return {name: _argument(f"{path}:{name}") for name in names}
    if suffix in (".pt", ".pth") and isinstance(content := _content(existing_file(file, InputError)), tuple | list | dict):
        _refuse_others(file, content)
        return content
    return load_inputs(path)


def _argument(path: str) -> Tensor:
    """One of several arguments; truth values are a mask."""
    file, member = _split_member(path)
    file = _known_file(file)
    with reading(file, InputError):
        tensor = _read(file, member)
    return tensor if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool else tensor.long()


def _names(file: Path) -> list[str]:
    """The names of the arrays in an `.npz`."""
    with reading(file, InputError):
        content = _without_pickle(file, lambda: np.load(file, allow_pickle=False))
    if isinstance(content, np.ndarray):
        return []
    with content:
        return list(content.files)


def _content(file: Path) -> Any:
    """The content of a file written by torch.save."""
    return read_torch_file(file, InputError, f"Save the inputs alone as a tensor: torch.save(inputs, '{file.name}').")


def _refuse_others(file: Path, content: Any) -> None:
    """Raise InputError for containers with anything but tensors, numbers, strings and None, or without a nonempty tensor."""
    parts = children(content) or []
    if isinstance(content, Tensor):
        if content.numel() == 0:
            raise InputError(f"{file} holds an empty tensor: shape {tuple(content.shape)}.")
    elif not parts and content is not None and not isinstance(content, bool | int | float | str):
        raise InputError(f"{file} holds a {type(content).__name__}; expected a tensor.")
    for _, part in parts:
        _refuse_others(file, part)
    if isinstance(content, tuple | list | dict) and not leaves(content):
        raise InputError(f"{file} holds a {type(content).__name__} without a tensor.\nSave the inputs of the model.")


def _known_file(path: Path) -> Path:
    """An existing file of a supported kind."""
    file = existing_file(path, InputError)
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"the format of {file.name} is not supported.\nSave the inputs as one of {', '.join(SUFFIXES)}.")
    return file


def _split_member(text: str) -> tuple[Path, str | None]:
    """A file, and the name of an array in it."""
    head, mark, member = text.rpartition(".npz:")
    return (Path(head + ".npz"), member) if mark and not os.path.exists(text) else (Path(text), None)


def _read(file: Path, member: str | None) -> Tensor:
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return read_csv(file)
    return _read_pt(file) if suffix in (".pt", ".pth") else _tensor(_read_numpy(file, member), file)


def _read_pt(file: Path) -> Tensor:
    way_out = f"Save the inputs alone as a tensor: torch.save(inputs, '{file.name}')."
    content = read_torch_file(file, InputError, way_out)
    if not isinstance(content, Tensor):
        keys = f" with the keys {listed(map(str, content))}" if isinstance(content, dict) else ""
        raise InputError(f"{file} holds a {type(content).__name__}{keys}, not a tensor.\n{way_out}")
    return content.detach().to_dense()


def _read_numpy(file: Path, member: str | None) -> np.ndarray:
    content = _without_pickle(file, lambda: np.load(file, allow_pickle=False))
    if isinstance(content, np.ndarray):
        return content
    with content:
        name = _member(file, content.files, member)
        return _without_pickle(file, lambda: content[name])


def _without_pickle(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ValueError, EOFError, BadZipFile, ZlibError) as error:
        if "Object arrays" in str(error):
            raise InputError(f"{file} holds Python objects, not numbers.\n{AS_NUMBERS}") from error
        raise InputError(f"{file} is not a NumPy file, or is damaged.\nSave it again with numpy.save or numpy.savez.") from error


def _member(file: Path, names: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in names:
        raise InputError(f"{file} has no array {wanted!r}.\n{instead_of(wanted, names, 'It holds')}")
    if wanted is None and len(names) != 1:
        raise InputError(f"{file} holds {len(names)} arrays: {listed(names)}.\nName one: {file}:{names[0] if names else 'name'}")
    return wanted if wanted is not None else names[0]


def _tensor(array: np.ndarray, file: Path) -> Tensor:
    kind = array.dtype.kind
    if kind not in "biufc":
        what = {"U": "text", "S": "text", "M": "dates", "m": "durations", "V": "records"}.get(kind, "objects")
        raise InputError(f"{file} holds {what} ({array.dtype}), not numbers.\n{AS_NUMBERS}")
    if kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{file} holds integers up to {array.max()}, beyond the range of int64.\nSave them as floating point.")
    if kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    wide = kind == "f" and array.dtype.itemsize > 8
    return torch.from_numpy(array.astype(np.float64 if wide else array.dtype.newbyteorder("="), order="C"))
