"""Two tests of a spectrum before it counts as ok: the step has the derivative that was used, and an independent check agrees."""

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
    """Mark runs that end on a kink of the step (a ReLU of zero), or where the step and its derivative disagree."""
    system, n = front.system, max(front.n - 1, 0)  # not later than the last step taken: the inputs may end there
    x = front.x.detach().where((spectrum.codes != Status.DIVERGED)[..., None], 0.0)
    exact = system if x.dtype == torch.float64 else twin(system, dtype=torch.float64)
    changed = _changed(system, x, front.v, n)
    if changed:
        codes = spectrum.codes.masked_fill(spectrum.codes == Status.OK, int(Status.NOT_CONVERGED))
        note = f"at the end of the run {changed}"
        return replace(spectrum, codes=codes, converged=torch.zeros_like(spectrum.converged), notes=(note, *spectrum.notes))
    kinked = on_a_kink(lambda y: exact.step(y, n), x.double(), float(x.abs().mean()) or 1.0) & (spectrum.codes != Status.DIVERGED)
    if not bool(kinked.any()):
        return spectrum
    of = f"{int(kinked.sum())} of {kinked.numel()} runs end" if spectrum.batch else "the run ends"
    note = f"{of} on a kink of the step (a ReLU of zero, a tie), where it has no derivative: start next to it with another x0"
    codes = spectrum.codes.masked_fill(kinked & (spectrum.codes == Status.OK), int(Status.NOT_CONVERGED))
    return replace(spectrum, codes=codes, converged=spectrum.converged & ~kinked, notes=(note, *spectrum.notes))


def _changed(system: System, x: Tensor, v: Tensor, n: int) -> str:
    """The error if the step and its derivative disagree where the run ends; empty if they agree."""
    hold_anew(system)
    try:
        system.pushforward(x, v[..., :1, :], n)
    except UnsupportedModuleError as error:
        return str(error).split("\n", maxsplit=1)[0]
    return ""


def held_to_its_check(spectrum: LyapunovSpectrum) -> LyapunovSpectrum:
    """Mark items for which the check disagrees as not converged."""
    apart = spectrum.disagreement & (spectrum.codes == Status.OK)
    codes = spectrum.codes.masked_fill(apart, Status.NOT_CONVERGED)
    return replace(spectrum, codes=codes, converged=spectrum.converged & ~apart)
