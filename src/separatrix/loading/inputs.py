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

from separatrix.core.errors import InputError
from separatrix.core.inputs import as_inputs
from separatrix.core.structure import children, leaves
from separatrix.loading.csv_file import read_csv
from separatrix.loading.finding import existing_file, instead_of, listed, reading
from separatrix.loading.torch_file import read_torch_file

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".csv")
AS_NUMBERS = "Save an array of numbers: numpy.save(file, array.astype(float))."


def load_inputs(path: str | Path) -> Tensor:
    """A network's inputs from a file, in the shape in which they were saved.

    Args:
        path: `.npy`; `.npz`, of one array or with the array's name, `file.npz:name`; `.pt`, a tensor; `.csv`, numbers
            with an optional header line, a row a time step.

    Returns:
        Finite numbers. Floating point keeps its precision; integers are int64, as an `nn.Embedding` takes them; truth
        values are float64. From a `.csv`: shape (time, columns).

    Raises:
        InputError: the file is missing, damaged or of another kind; it holds text, objects or complex numbers, nothing
            at all, several arrays of which none is named, or numbers that are not finite.
    """
    file, member = _split_member(str(path))
    file = _known_file(file)
    with reading(file, InputError):
        tensor = _read(file, member)
    if tensor.numel() == 0:
        raise InputError(f"the inputs in {path} are empty: shape {tuple(tensor.shape)}.\nSave at least one time step.")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        return as_inputs(tensor, f"the inputs in {path}")
    return tensor.long()


def load_arguments(paths: Sequence[str | Path]) -> Any:
    """What a model takes, from one file or several: `analyze` and `depth_profile` read it as it is.

    Args:
        paths: one file for each positional argument. A single file may hold several: an `.npz` of several arrays, whose names are
            the arguments', or a `.pt` with a tuple, a dict or a list of tensors.

    Returns:
        A tensor, as of `load_inputs`; else a tuple, a dict or a list of tensors, of whole numbers and truth values where they were
        saved so.

    Raises:
        InputError: a file is missing, damaged or of another kind; it holds anything else.
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
    """Of the arrays in an `.npz`."""
    with reading(file, InputError):
        content = _without_pickle(file, lambda: np.load(file, allow_pickle=False))
    if isinstance(content, np.ndarray):
        return []
    with content:
        return list(content.files)


def _content(file: Path) -> Any:
    """What a file of torch.save holds."""
    return read_torch_file(file, InputError, f"Save the inputs alone as a tensor: torch.save(inputs, '{file.name}').")


def _refuse_others(file: Path, content: Any) -> None:
    """Refuse containers that hold anything but tensors, numbers, words and None, or no tensor, or no numbers."""
    parts = children(content) or []
    if isinstance(content, Tensor):
        if content.numel() == 0:
            raise InputError(f"{file} holds an empty tensor: shape {tuple(content.shape)}.")
    elif not parts and content is not None and not isinstance(content, bool | int | float | str):
        raise InputError(f"{file} holds a {type(content).__name__}, where a tensor is expected.")
    for _, part in parts:
        _refuse_others(file, part)
    if isinstance(content, tuple | list | dict) and not leaves(content):
        raise InputError(f"{file} holds a {type(content).__name__} without a tensor.\nSave what the model takes.")


def _known_file(path: Path) -> Path:
    """An existing file of a kind that is read."""
    file = existing_file(path, InputError)
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"inputs are not read from {file.name}.\nSave them as one of {', '.join(SUFFIXES)}.")
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
        raise InputError(f"{file} holds integers up to {array.max()}, more than int64 has.\nSave them as floating point.")
    if kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    wide = kind == "f" and array.dtype.itemsize > 8
    return torch.from_numpy(array.astype(np.float64 if wide else array.dtype.newbyteorder("="), order="C"))
