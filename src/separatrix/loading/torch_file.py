"""Files of `torch.save`, read as tensors only: a pickle that would run code is refused."""

import re
import textwrap
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from separatrix.core.errors import SeparatrixError
from separatrix.loading.finding import reading


def read_torch_file(path: Path, kind: type[SeparatrixError], way_out: str) -> Any:
    """Tensors in dictionaries and lists, on the CPU, by `torch.load(weights_only=True)`.

    Args:
        path: an existing file.
        kind: class of the error if the file cannot be read or would run code.
        way_out: second line of that error.
    """
    try:
        with reading(path, kind), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of what it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except SeparatrixError:
        raise
    except Exception as error:
        raise kind(f"{path} {_reason(error, path)}.\n{way_out}") from error


def _reason(error: Exception, path: Path) -> str:
    text = str(error)
    if wanted := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text):
        return f"is refused: to read it, Python would have to run {wanted[1]}, but only plain tensors are read"
    if "TorchScript" in text:
        return "is refused: it is a TorchScript archive, which holds code, but only plain tensors are read"
    if isinstance(error, UnpicklingError) and path.read_bytes()[:1] == b"\x80":
        return "is refused: it is a pickle that torch.save did not write, which may run arbitrary code"
    said = textwrap.shorten(text.partition(". ")[0], 120, placeholder=" …") or "it ends early"
    return f"is not a file written by torch.save, or is damaged ({type(error).__name__}: {said})"
