"""What a comparison of two systems found, quantity by quantity, and the same in words."""

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
    r"""What a learned system does beside what the true one does, quantity by quantity, in errors of their difference.

    Args:
        names: of the quantities, in the order of the tensors below.
        true, learned: (quantity), what was measured; of the return map and the power spectrum, which are distances: that which
            mixed halves of all orbits have on average, and that of the two systems.
        true_stderr, learned_stderr: (quantity), their standard errors; NaN of a distance.
        stderr: (quantity), of the difference; of a distance, its spread between mixed halves.
        z: (quantity), (learned − true) / stderr.
        limit: (quantity), the |z| above which a quantity is told apart.
        p_value: (quantity), how often chance alone makes a difference as large.
        level: chance that any quantity is told apart where none differs, at most.
        orbits: followed, of the (true, learned) system.
        left: how many of them left for infinity.
        resting: how many ended at rest.
        spectra, dimensions, maps: of "true" and "learned", where they were measured.
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
        """Learned less true, shape (quantity)."""
        return self.learned - self.true

    @property
    def differs(self) -> Tensor:
        """Which quantities are told apart, shape (quantity), bool."""
        return self.p_value < self.level / max(len(self.names), 1)

    @property
    def agrees(self) -> bool:
        """Whether nothing was told apart, and no orbit left that should have stayed."""
        return bool(self.codes == Status.OK) and self.left[1] <= self.left[0] and not bool(self.differs.any())

    def of(self, name: str) -> dict[str, float]:
        """All numbers of one quantity, by name."""
        if name not in self.names:
            raise InputError(f"there is no quantity {name!r}; there are {', '.join(self.names)}.")
        return {part: float(getattr(self, part)[self.names.index(name)]) for part in self.layout}

    def summary(self) -> str:
        """The verdict, and what it rests on, in words."""
        fate = self._fates()
        if self.codes == Status.DIVERGED:
            return f"The two differ: {fate}; too few are left to be measured."
        told = [f"{name} by {plain(abs(z))}" for name, z, differs in self._rows() if differs]
        if told or self.left[1] > self.left[0]:
            what = f"{', '.join(told)} standard errors" if told else ""
            return f"The two differ: {'; '.join(part for part in (what, fate) if part)}."
        name, z, _ = max(self._rows(), key=lambda row: abs(row[1]))
        limit = plain(self.of(name)["limit"])
        widest = f"the largest difference is {name}'s, {plain(abs(z))} standard errors, where {limit} would tell them apart"
        return f"The two agree within error bars in all {len(self.names)} quantities: {widest}{fate and '; ' + fate}."

    def table(self) -> str:
        """Every quantity in a line: true, learned, and their difference in standard errors."""
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
        """What became of the orbits that did not go on moving."""
        parts = []
        for who, followed, left, resting in zip(("true", "learned"), self.orbits, self.left, self.resting, strict=True):
            if left:
                parts.append(f"{left} of {counted(followed, f'{who} orbit')} left for infinity")
            if resting:
                parts.append(f"{resting} of {counted(followed, f'{who} orbit')} ended at rest")
        return ", ".join(parts)
