"""The record of a comparison of two systems, quantity by quantity."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension
from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DynamicsComparison(Result):
    r"""Comparison of the dynamics of a learned and a true system, quantity by quantity:  z = (learned − true) / stderr.

    Args:
        names: names of the quantities, in the order of the tensors below.
        true, learned: (quantity), the measured values. The return map and the power spectrum are distances: `true` is the mean
            distance between random halves of all orbits, `learned` that between the two systems.
        true_stderr, learned_stderr: (quantity), their standard errors; NaN for a distance.
        stderr: (quantity), standard error of the difference; for a distance, its standard deviation over random halves.
        z: (quantity), (learned − true) / stderr.
        limit: (quantity), |z| above which a quantity differs.
        p_value: (quantity), probability of a difference at least this large by chance.
        level: largest probability that any quantity is found to differ if none does.
        orbits: number of orbits of the (true, learned) system.
        left: number of them that escaped: they became infinite, or moved more than ten extents of the truth from its mean.
        resting: number of them that ended at rest.
        spectra, dimensions, maps: results for "true" and "learned", if measured.
    """

    names: tuple[str, ...]
    true: Tensor
    learned: Tensor
    true_stderr: Tensor
    learned_stderr: Tensor
    stderr: Tensor
    z: Tensor
    limit: Tensor
    p_value: Tensor
    level: float
    orbits: tuple[int, ...]
    left: tuple[int, ...]
    resting: tuple[int, ...]
    spectra: dict[str, LyapunovSpectrum]
    dimensions: dict[str, CorrelationDimension]
    maps: dict[str, ReturnMap]

    drawn_by: ClassVar[str] = "separatrix.plot.comparison:comparison_figure"
    layout: ClassVar[dict[str, str]] = dict.fromkeys(
        ("true", "learned", "true_stderr", "learned_stderr", "stderr", "z", "limit", "p_value"), "quantity"
    )
    units: ClassVar[dict[str, str]] = {"z": "standard errors", "limit": "standard errors"}

    @property
    def difference(self) -> Tensor:
        """learned − true, shape (quantity)."""
        return self.learned - self.true

    @property
    def differs(self) -> Tensor:
        """Whether each quantity differs significantly, shape (quantity), bool."""
        return self.p_value < self.level / max(len(self.names), 1)

    @property
    def agrees(self) -> bool:
        """Whether no quantity differs, and no more learned than true orbits escaped."""
        return bool(self.codes == Status.OK) and self.left[1] <= self.left[0] and not bool(self.differs.any())

    def of(self, name: str) -> dict[str, float]:
        """All numbers of one quantity, by name."""
        if name not in self.names:
            raise InputError(f"expected one of the quantities {', '.join(self.names) or '(none)'}, got {name!r}.")
        return {part: float(getattr(self, part)[self.names.index(name)]) for part in self.layout}

    def summary(self) -> str:
        """Whether the systems agree, and the largest differences, in words."""
        fates = self._fates()
        if self.codes == Status.DIVERGED:
            return f"The two systems differ: {fates}; too few remain to measure."
        different = [f"{name} by {plain(abs(z))}" for name, z, differs in self._rows() if differs]
        if different or self.left[1] > self.left[0]:
            errors = f"{', '.join(different)} standard errors" if different else ""
            return f"The two systems differ: {'; '.join(part for part in (errors, fates) if part)}."
        name, z, _ = max(self._rows(), key=lambda row: abs(row[1]))
        limit = plain(self.of(name)["limit"])
        largest = f"the largest difference, {name}, is {plain(abs(z))} standard errors; {limit} would be significant"
        return f"The two systems agree within error bars in all {len(self.names)} quantities: {largest}{fates and '; ' + fates}."

    def table(self) -> str:
        """A line per quantity: true, learned, their difference in standard errors, and its limit."""
        rows = [("", "true", "learned", "difference / error", "limit")]
        for i, name in enumerate(self.names):
            pair = ((self.true[i], self.true_stderr[i]), (self.learned[i], self.learned_stderr[i]))
            values = (measured(float(value), float(error)) for value, error in pair)
            mark = " *" if bool(self.differs[i]) else ""
            rows.append((name, *values, f"{float(self.z[i]):+.1f}{mark}".replace("-", "−"), f"{float(self.limit[i]):.1f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _rows(self) -> list[tuple[str, float, bool]]:
        return list(zip(self.names, self.z.tolist(), self.differs.tolist(), strict=True))

    def _fates(self) -> str:
        """The numbers of orbits that escaped or came to rest, in words."""
        parts = []
        for who, followed, left, resting in zip(("true", "learned"), self.orbits, self.left, self.resting, strict=True):
            if left:
                parts.append(f"{left} of {counted(followed, f'{who} orbit')} escaped")
            if resting:
                parts.append(f"{resting} of {counted(followed, f'{who} orbit')} ended at rest")
        return ", ".join(parts)
