"""Numbers from a .csv file: an optional header line, then one row per time step."""

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from separatrix.core.errors import InputError

RULE = "After an optional header, every line must hold the same number of values, separated by commas."
EXACT = 2**53  # float64 holds every integer below


def read_csv(path: Path) -> Tensor:
    """The numbers of a .csv file, shape (rows, columns): int64 if all are written as integers, otherwise float64.

    Raises:
        InputError: a cell is not a number, rows differ in length, or there are no rows.
    """
    values, width, whole = array("d"), 0, True
    try:
        for line, cells in _rows(path):
            values.extend(_numbers(path, line, cells))
            whole = whole and all(cell.strip().lstrip("+-").isdigit() for cell in cells)
            width = len(cells)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not text in UTF-8, or is damaged: {error}.\nSave it as plain comma-separated text.") from error
    if not values:
        raise InputError(f"{path} holds no numbers.\n{RULE}")
    table = torch.from_numpy(np.array(values).reshape(-1, width))
    return table.long() if whole and table.abs().max() < EXACT else table


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells, all rows of one length, without blank lines and the header."""
    first: tuple[int, int] | None = None
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for cells in reader:
            if not any(cell.strip() for cell in cells) and len(cells) < 2:
                continue
            line, is_first, first = reader.line_num, first is None, first or (reader.line_num, len(cells))
            if len(cells) != first[1]:
                raise InputError(f"{path}: line {line} has {len(cells)} values, but line {first[0]} has {first[1]}.\n{RULE}")
            if not (is_first and _is_header(cells)):
                yield line, cells


def _is_header(cells: list[str]) -> bool:
    return not any(cell.strip() == "" or _is_number(cell) for cell in cells)


def _numbers(path: Path, line: int, cells: list[str]) -> list[float]:
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        column = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        cell = cells[column].strip()
        what = f"{cell!r} is not a number" if cell else "the cell is empty"
        raise InputError(f"{path}, line {line}, column {column + 1}: {what}.\n{RULE}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
