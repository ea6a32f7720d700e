"""Memory that a computation needs, compared with what there is before it is allocated."""

import math
import os

import torch

from separatrix.core.errors import InputError

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
SMALL = 2**26  # bytes for which the system is not asked
SHARE = 0.8  # of the available memory that a computation may take
MOST_WHOLE = 4 * 2**30  # bytes in all copies of whole Jacobians, beyond which factorising them takes hours


def available(device: torch.device | str = "cpu") -> float:
    """Bytes of memory that are available; infinity if the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return float("inf")


def check_memory(what: str, numbers: float, like: torch.Tensor, way_out: str) -> None:
    """Refuse to hold so many numbers of the dtype of `like`, on its device, if there is not enough memory.

    Raises:
        InputError: with the bytes needed and available, and the way out.
    """
    needed = numbers * like.element_size()
    if needed <= SMALL:
        return
    there = available(like.device)
    if needed > SHARE * there:
        raise InputError(f"{what} needs {in_bytes(needed)}, but {in_bytes(there)} of memory are available.\n{way_out}")


def check_whole_jacobian(x: torch.Tensor, copies: int, way_out: str) -> None:
    """Refuse to hold whole Jacobians at states of shape (*batch, dim) if they are too large to be factorised in reasonable time.

    Args:
        x: the states.
        copies: number of Jacobians at each state that are held at once.
        way_out: what to do instead.

    Raises:
        InputError: with the bytes needed and the limit, and the way out.
    """
    numbers = float(copies) * x.shape[-1] * x.numel()
    if numbers * x.element_size() > MOST_WHOLE:
        raise InputError(
            f"the whole Jacobian of {x.shape[-1]:,} numbers needs {in_bytes(numbers * x.element_size())} for {x[..., 0].numel()} "
            f"state{'s' * (x[..., 0].numel() > 1)}, but the limit is {in_bytes(MOST_WHOLE)}.\n{way_out}"
        )
    check_memory("the whole Jacobian", numbers, x, way_out)


def in_bytes(count: float) -> str:
    """1.5 GiB, 20 MiB, 3 B."""
    power = min(int(math.log2(max(count, 1.0)) // 10), len(UNITS) - 1)
    return f"{count / 1024**power:.4g} {UNITS[power]}"
