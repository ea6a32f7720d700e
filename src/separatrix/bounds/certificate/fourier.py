r"""Discrete Fourier transforms: F is √N times a unitary matrix.

Where N is the product of the lengths along the axes that are transformed, and norm= says what is divided by. What is cut off or
filled up with zeros beforehand makes nothing longer. Of the half spectrum that irfft takes, each number but the first, and the last
of an even length, stands for two: its norm is √2 times as large.
"""

import math

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import Factor, rule
from separatrix.bounds.certificate.rounding import computed

INVERSE, HALVED = {"ifft", "irfft", "ihfft"}, {"irfft", "hfft"}
POWERS = {None: (0.0, 1.0), "backward": (0.0, 1.0), "ortho": (0.5, 0.5), "forward": (1.0, 0.0)}  # of 1/N: forwards, back


@rule("fft_fft fft_fft2 fft_fftn fft_ifft fft_ifft2 fft_ifftn", is_complex=True)
@rule("fft_rfft fft_rfft2 fft_rfftn fft_irfft fft_irfft2 fft_irfftn", is_complex=True)
@rule("fft_hfft fft_hfft2 fft_hfftn fft_ihfft fft_ihfft2 fft_ihfftn", is_complex=True)
def fourier(call: Call) -> Factor:
    """√N, over what norm= divides by."""
    kind = call.name.removeprefix("fft_").rstrip("2n")
    axes = _axes(call)
    lengths = [call.shape[axis] for axis in axes]
    if kind in ("rfft", "ihfft"):  # the last of which gives half as many as it takes
        lengths[-1] = _given_length(call) or call.active[0].shape[axes[-1]]
    power = POWERS[call["norm"]][kind in INVERSE]
    twice = 2.0 if kind in HALVED and lengths[-1] > 2 else 1.0
    return Factor(computed(math.sqrt(twice) * math.prod(lengths) ** (0.5 - power)), "√N × a unitary matrix")


def _axes(call: Call) -> list[int]:
    given = call["dim"]
    if given is None:
        count = len(call.shape) if call["s"] is None else len(call["s"])
        return list(range(-count, 0))
    axes = [given] if isinstance(given, int) else list(given)
    if not axes:
        raise NoBoundError(f"{call.name} has no axis")
    return axes


def _given_length(call: Call) -> int | None:
    sizes = call["s"]
    size = call["n"] if sizes is None else sizes[-1]
    return None if size is None or size < 0 else int(size)
