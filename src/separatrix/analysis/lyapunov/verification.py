"""What a spectrum is held to before it counts as ok: that the step has the derivative it was made of, and an independent check."""

from dataclasses import replace

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.derivative import on_a_kink
from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.evolve import Front, hold_anew
from separatrix.core.result import Status
from separatrix.core.system import System
from separatrix.core.twin import twin


def held_to_a_derivative(spectrum: LyapunovSpectrum, front: Front) -> LyapunovSpectrum:
    """What ends on a kink of the step, such as a ReLU of zeros, or where the derivative is another's, is not ok."""
    system, n = front.system, max(front.n - 1, 0)  # no later than what was asked: the inputs may end there
    x = front.x.detach().where((spectrum.codes != Status.DIVERGED)[..., None], 0.0)
    exact = system if x.dtype == torch.float64 else twin(system, dtype=torch.float64)
    changed = _changed(system, x, front.v, n)
    if changed:
        codes = spectrum.codes.masked_fill(spectrum.codes == Status.OK, int(Status.NOT_CONVERGED))
        told = f"at the end of the run {changed}"
        return replace(spectrum, codes=codes, converged=torch.zeros_like(spectrum.converged), notes=(told, *spectrum.notes))
    kinked = on_a_kink(lambda y: exact.step(y, n), x.double(), float(x.abs().mean()) or 1.0) & (spectrum.codes != Status.DIVERGED)
    if not bool(kinked.any()):
        return spectrum
    of = f"{int(kinked.sum())} of {kinked.numel()} runs end" if spectrum.batch else "the run ends"
    told = f"{of} on a kink of the step (a ReLU of zero, a tie), where it has no derivative: begin beside it, with another x0"
    codes = spectrum.codes.masked_fill(kinked & (spectrum.codes == Status.OK), int(Status.NOT_CONVERGED))
    return replace(spectrum, codes=codes, converged=spectrum.converged & ~kinked, notes=(told, *spectrum.notes))


def _changed(system: System, x: Tensor, v: Tensor, n: int) -> str:
    """That the derivative is not the step's where the run ends, though it was where it began; empty where it is."""
    hold_anew(system)
    try:
        system.pushforward(x, v[..., :1, :], n)
    except UnsupportedModuleError as error:
        return str(error).split("\n", maxsplit=1)[0]
    return ""


def held_to_its_check(spectrum: LyapunovSpectrum) -> LyapunovSpectrum:
    """What was ok is not where the check disagrees."""
    apart = spectrum.disagreement & (spectrum.codes == Status.OK)
    codes = spectrum.codes.masked_fill(apart, Status.NOT_CONVERGED)
    return replace(spectrum, codes=codes, converged=spectrum.converged & ~apart)
