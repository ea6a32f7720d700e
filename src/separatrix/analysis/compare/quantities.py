"""The quantities that are compared: exponents, dimensions, moments, return maps and power spectra, with their errors."""

from typing import NamedTuple

from torch import Tensor

from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension, correlation_dimension_of
from separatrix.analysis.attractor.maxima import sampled_return_map
from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.analysis.compare.resampled import (
    Difference,
    of_deviations,
    of_estimates,
    of_orbits,
    return_map_difference,
    spectrum_difference,
)
from separatrix.analysis.compare.samples import FEWEST, Options, Sample
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.core.result import Status
from separatrix.core.system import System

COMPONENTS = 6  # number of components whose mean and deviation are compared
BLOCKS_FREE = 9  # degrees of freedom of the error of a correlation dimension, a jackknife over ten blocks
TURN = 1e-3  # nats that the alignment of the frame may add to an exponent over a run
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class Held(NamedTuple):
    """Results for "true" and "learned" that a comparison stores."""

    spectra: dict[str, LyapunovSpectrum]
    dimensions: dict[str, CorrelationDimension]
    maps: dict[str, ReturnMap]


def quantities_of(
    learned: System, truth: System | Tensor, pair: dict[str, Sample], options: Options
) -> tuple[dict[str, Difference], Held]:
    """The difference of every quantity, and the results behind them."""
    found: dict[str, Difference] = {}
    spectra: dict[str, LyapunovSpectrum] = {}
    dimensions: dict[str, CorrelationDimension] = {}
    if isinstance(truth, System):
        spectra = {who: _spectrum(system, pair[who], options) for who, system in (("true", truth), ("learned", learned))}
        found |= _exponents(spectra["true"], spectra["learned"])
    if options.points:
        dimensions = {
            who: correlation_dimension_of(_thinned(part.states, options.points), theiler=None) for who, part in pair.items()
        }
        found |= _dimension(dimensions["true"], dimensions["learned"])
    found |= _moments(pair["true"].states, pair["learned"].states)
    of_maxima = learned.continuous
    maps = {who: sampled_return_map(part.states, part.dt, options.component, of_maxima) for who, part in pair.items()}
    if any(part.resting < part.states.shape[1] for part in pair.values()):
        found |= _rhythm(maps["true"], maps["learned"], pair, options.component, options.seed)
    return found, Held(spectra, dimensions, maps)


def _spectrum(system: System, sample: Sample, options: Options) -> LyapunovSpectrum:
    """Spectra of the orbits of a sample; the frames align during the first tenth of the time."""
    steps = len(sample.states) - 1
    return lyapunov_spectrum(
        system, sample.states[0], k=options.k, steps=steps, settle=steps // 10, seed=options.seed, progress=options.progress
    )


def _thinned(states: Tensor, points: int) -> Tensor:
    """About `points` of the states, one orbit after the other."""
    every = max(1, states.shape[0] * states.shape[1] // points)
    return states[::every].movedim(0, 1).flatten(0, 1)


def _exponents(true: LyapunovSpectrum, learned: LyapunovSpectrum) -> dict[str, Difference]:
    pairs = zip(_alive(true, true.exponents).unbind(-1), _alive(learned, learned.exponents).unbind(-1), strict=True)
    floor = TURN / float(true.history_time[-1].amin())
    found = {f"λ{i}".translate(SUBSCRIPTS): of_orbits(*pair, floor) for i, pair in enumerate(pairs, 1) if _all_finite(*pair)}
    dimension = [_alive(spectrum, spectrum.kaplan_yorke_dimension) for spectrum in (true, learned)]
    return found | ({"Kaplan–Yorke dimension": of_orbits(*dimension)} if _all_finite(*dimension) else {})


def _dimension(true: CorrelationDimension, learned: CorrelationDimension) -> dict[str, Difference]:
    if not bool((true.codes == Status.OK) & (learned.codes == Status.OK)):
        return {}
    values, errors = ((float(true.dimension), float(learned.dimension)), (float(true.stderr), float(learned.stderr)))
    return {"correlation dimension": of_estimates(*values, errors, (BLOCKS_FREE, BLOCKS_FREE))}


def _moments(true: Tensor, learned: Tensor) -> dict[str, Difference]:
    """Means and standard deviations of the components."""
    found = {}
    for i in range(min(true.shape[-1], COMPONENTS)):
        name = f"x{i + 1}".translate(SUBSCRIPTS)
        each = [states[..., i] for states in (true, learned)]
        squares = [(x - x.mean()).square().mean(0) for x in each]
        found[f"mean of {name}"] = of_orbits(each[0].mean(0), each[1].mean(0))
        found[f"deviation of {name}"] = of_deviations(*squares)
    return found


def _rhythm(true: ReturnMap, learned: ReturnMap, pair: dict[str, Sample], component: int, seed: int) -> dict[str, Difference]:
    """Return map, mean time between maxima, and power spectrum."""
    found = {"return map": return_map_difference(true, learned, seed)}
    if true.of_maxima:
        gaps = [seen.intervals.nanmean(0) for seen in (true, learned)]
        found["time between maxima"] = of_orbits(*gaps) if _all_finite(*gaps) else None
    series = [part.states[..., component] for part in pair.values()]
    found["power spectrum"] = spectrum_difference(*series, (pair["true"].dt, pair["learned"].dt), seed)
    return {name: difference for name, difference in found.items() if difference is not None}


def _alive(spectrum: LyapunovSpectrum, values: Tensor) -> Tensor:
    return values[spectrum.codes != Status.DIVERGED]


def _all_finite(*values: Tensor) -> bool:
    return all(len(part) >= FEWEST and bool(part.isfinite().all()) for part in values)
