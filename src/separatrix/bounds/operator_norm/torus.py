"""A convolution as part of one on a torus, whose spectrum the Fourier transform gives: a bound, and a proof of a tight one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import inf, prod, sqrt

import torch
from torch import Tensor

from separatrix.bounds.operator_norm.convolution import Axis, Convolution
from separatrix.bounds.operator_norm.rounding import SAFETY, UNIT, gamma

ACCURACY, ITERATIONS = 1e-5, 300
"""Of the sources on the border, at which conjugate gradients end; a proof is tried after 2, 4, 8, … of them."""
NEGLIGIBLE = 1e-8
"""Part of the norm that a proof may lose without going on."""
TYPICAL_ITERATIONS, WAITING, OVERHEAD = 16, 16, 3e9
"""Of conjugate gradients, as measured on networks for images; OVERHEAD is what many small tensors cost, in operations."""
ROOM = 3e7
"""Numbers in all fields together; some ten copies of them are in memory at a time."""


def turns(axis: Axis) -> int | None:
    """Places of the shortest circle on which the outputs of the layer see what they see on the line; None if there is none."""
    if axis.mode == "circular" and axis.before + axis.after > 0:
        fits = axis.size % axis.stride == 0 and axis.out * axis.stride <= axis.size
        return axis.size if fits else None
    if axis.mode != "zeros" and axis.before + axis.after > 0:
        return None
    last = (axis.out - 1) * axis.stride + axis.reach - axis.before
    places = max(axis.size + axis.before, last + 1, axis.out * axis.stride)
    return places + -places % axis.stride


@dataclass(frozen=True)
class Torus:
    r"""Of one group: outputs y and inputs x on a torus of places m, with  A = what C does between the places inside.

        (C x)_m = Σ_t K_t x_{φ(t), m + a(t)},   d t − p = s · a + φ,   Ĉ(ω) = Σ_t K_t e^{iω·a(t)}

    A stride is taken away by counting each of its phases φ as channels of their own.

    Args:
        convolution: the convolution of one group.
        places: number of positions on the torus along each axis, for the outputs.
    """

    convolution: Convolution
    places: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Of outputs and inputs together, phases counted."""
        o, c = self.convolution.weight.shape[1:3]
        return o + c * prod(axis.stride for axis in self.convolution.axes)

    @cached_property
    def symbol(self) -> Tensor:
        """Ĉ on the half of the frequencies that has all of a real operator, shape (*frequencies, o, c Π s)."""
        axes, weight = self.convolution.axes, self.convolution.weight[0]
        strides = [axis.stride for axis in axes]
        kernel = weight.new_zeros(*weight.shape[:2], *strides, *self.places)
        for tap in product(*(range(axis.kernel) for axis in axes)):
            offsets = [axis.dilation * t - axis.before for axis, t in zip(axes, tap, strict=True)]
            phases = [offset % s for offset, s in zip(offsets, strides, strict=True)]
            at = [-(offset // s) % m for offset, s, m in zip(offsets, strides, self.places, strict=True)]
            kernel[(slice(None), slice(None), *phases, *at)] += weight[(..., *tap)]
        d = len(axes)
        return torch.fft.rfftn(kernel.flatten(1, 1 + d), dim=tuple(range(2, 2 + d))).movedim((0, 1), (d, d + 1))

    @cached_property
    def weights(self) -> Tensor:
        """How many frequencies of the whole torus each of the half stands for, shape (*frequencies,)."""
        last = torch.arange(self.places[-1] // 2 + 1, device=self.symbol.device)
        twice = torch.where((last == 0) | (2 * last == self.places[-1]), 1, 2)
        return twice.expand(self.symbol.shape[:-2])

    @cached_property
    def singular_values(self) -> Tensor:
        """Of Ĉ(ω), shape (*frequencies, channels), descending; to `slack`."""
        return torch.linalg.svdvals(self.symbol)

    @cached_property
    def squares(self) -> Tensor:
        """Squares of the singular values, ascending, from the smaller Gram matrix: half the time, to `slack_of_squares`."""
        small = _upright(self.symbol)
        return torch.linalg.eigvalsh(small @ small.mH)

    @property
    def slack(self) -> float:
        """What rounding can do to the symbol, to its singular values, and to products with C of unit vectors."""
        rows, columns = self.symbol.shape[-2:]
        of_svd = SAFETY * rows * columns * UNIT * self._frobenius
        return SAFETY * gamma(self.terms) * self.convolution.absolute_norm() + of_svd

    @property
    def slack_of_squares(self) -> float:
        """What rounding can do to the products in a Gram matrix, and to its eigenvalues."""
        rows, columns = self.symbol.shape[-2:]
        return SAFETY * (gamma(max(rows, columns)) + min(rows, columns) ** 2 * UNIT) * self._frobenius**2

    @property
    def _frobenius(self) -> float:
        """At least ‖Ĉ(ω)‖_F at every frequency."""
        return float(self.convolution.weight.abs().flatten(3).sum(-1).norm())

    @property
    def terms(self) -> float:
        """What a transform there and back and a product in between can add up, however they are done."""
        return sum(self.places) ** 1.5 + self.channels

    @property
    def largest(self) -> float:
        """A bound of ‖C‖, and so of ‖A‖."""
        return sqrt(float(self.squares.max()) + self.slack_of_squares) + self.slack

    def above(self, tau: float) -> int:
        """How many singular values C has above τ."""
        return int((self.weights[..., None] * (self.squares > tau**2)).sum())

    def flops(self, tau: float) -> float:
        """What `excess_over` costs, about; products with few fields wait for memory, as if there were WAITING more."""
        fields = self.above(tau)
        if fields * self.inside.numel() > ROOM or fields > int(self.inside.sum()):  # too few places for that many sources
            return inf
        small = min(self.symbol.shape[-2:])
        each = 4 * small + TYPICAL_ITERATIONS * (fields + WAITING)
        return OVERHEAD + 8.0 * self.weights.numel() * self.channels**2 * each if fields else 0.0

    @cached_property
    def inside(self) -> Tensor:
        """Where the outputs and the inputs of the layer are, shape (channels, *places)."""
        axes, device = self.convolution.axes, self.symbol.device
        o, c = self.convolution.weight.shape[1:3]
        grids = [torch.arange(m, device=device) for m in self.places]
        outputs = _all([grid < axis.out for grid, axis in zip(grids, axes, strict=True)])
        inputs = [
            _all([grid * axis.stride + phase < axis.size for grid, axis, phase in zip(grids, axes, phases, strict=True)])
            for phases in product(*(range(axis.stride) for axis in axes))
        ]
        return torch.cat([outputs.expand(o, *self.places), torch.stack(inputs).repeat(c, *[1] * len(axes))])


def _all(conditions: list[Tensor]) -> Tensor:
    total = conditions[0]
    for condition in conditions[1:]:
        total = total[..., None] & condition
    return total


def torus_of(convolution: Convolution) -> list[Torus] | None:
    """Of every group; None where the padding is neither zeros nor closes the circle."""
    lengths = [turns(axis) for axis in convolution.axes]
    places = tuple(length // axis.stride for length, axis in zip(lengths, convolution.axes, strict=True) if length)
    if len(places) < len(lengths):
        return None
    return [Torus(Convolution(kernel[None], convolution.axes), places) for kernel in convolution.weight]


def excess_over(torus: Torus, tau: float) -> float | None:
    r"""A number δ with ‖A‖ ≤ τ + δ, by counting; None where the count does not come out.

    The operator  H = (τ I, C; Cᵀ, τ I)  on the torus has as many negative eigenvalues as C has singular values above τ, say s.
    Take s fields W with  Wᵀ H W ≺ 0  and  H W = 0  inside. Were there a field x inside with  xᵀ H x ≤ 0,  then H would not be
    positive on the s + 1 dimensions of x and W, as  xᵀ H W = 0:  one more than it can. So H is positive inside, which says
    ‖A‖ < τ. Where  H W = R  inside is not quite 0, and  Wᵀ H W ⪯ −b,  the same argument gives  ‖A‖ ≤ τ + ‖R‖² / b.

    The fields are those that sources on the border U raise,  W = H⁻¹ U,  with  U = (P on the border)⁻¹ Φ,  Φ the s modes above τ
    as the border sees them and P the rest of H⁻¹. How U was found is no part of the proof: with any U on the border  H W = 0
    inside, and a coarse one is enough for  Wᵀ H W ≺ 0.

    Source: Haynsworth's additivity of inertia, applied to a torus and its border; in spectral theory, intermediate problems
    (Weinstein & Stenger 1972, Methods of Intermediate Problems for Eigenvalues).
    """
    if float((torus.squares - tau**2).abs().min()) <= torus.slack_of_squares + torus.slack * (2 * tau + torus.slack):
        return None
    above = torus.above(tau)
    if above == 0:
        return 0.0
    best = None
    for fields in () if bool(torus.inside.all()) else _raised(torus, tau, above):
        found = _proof(torus, tau, fields)
        best = min((one for one in (best, found) if one is not None), default=None)
        if best is not None and best <= NEGLIGIBLE * tau:
            break
    return best


def _upright(symbol: Tensor) -> Tensor:
    """The symbol or its adjoint, whichever has fewer rows."""
    return symbol if symbol.shape[-2] <= symbol.shape[-1] else symbol.mH.resolve_conj()


def _operator(torus: Torus, tau: float) -> Tensor:
    """H(ω), shape (*frequencies, channels, channels)."""
    symbol = torus.symbol
    o, c = symbol.shape[-2:]
    whole = symbol.new_zeros(*symbol.shape[:-2], o + c, o + c)
    whole[..., :o, o:], whole[..., o:, :o] = symbol, symbol.mH
    whole.diagonal(dim1=-2, dim2=-1).fill_(tau)
    return whole


def _inverse(torus: Torus, tau: float) -> Tensor | None:
    """H(ω)⁻¹ by the Schur complement  S = τ² − C C*,  or  τ² − C* C  if that is smaller; None if it is singular.

    H⁻¹ = (τ S⁻¹, −S⁻¹ C; −C* S⁻¹, (1 + C* S⁻¹ C) / τ)
    """
    c, rows = _upright(torus.symbol), torus.symbol.shape[-2]
    n, adjoint, is_turned = c.shape[-2], c.mH.resolve_conj(), c.shape != torus.symbol.shape
    complement = -(c @ adjoint)
    complement.diagonal(dim1=-2, dim2=-1).add_(tau**2)
    solution, info = torch.linalg.inv_ex(complement)
    if bool(info.any()):
        return None
    whole = c.new_empty(*c.shape[:-2], torus.channels, torus.channels)
    one, other = (slice(rows, None), slice(None, rows)) if is_turned else (slice(None, n), slice(n, None))
    across = solution @ c
    whole[..., one, one], whole[..., one, other], whole[..., other, one] = tau * solution, -across, -across.mH
    whole[..., other, other] = (adjoint @ across) / tau
    whole[..., other, other].diagonal(dim1=-2, dim2=-1).add_(1 / tau)
    return whole


def _raised(torus: Torus, tau: float, above: int) -> Iterator[Tensor]:
    """Fields W, shape (above, channels, *places), with Wᵀ H W ≈ −I, from better and better sources."""
    outside = ~torus.inside
    inverse, modes = _inverse(torus, tau), list(_modes(torus, tau))
    seen = [field for at, _, mode in modes for field in _fields_of(torus, at, mode)]
    if len(seen) != above or inverse is None:
        return
    rest = inverse.clone()  # P
    for at, strength, mode in modes:
        rest[at] += strength * torch.outer(mode, mode.conj())
    for sources in _solutions(lambda fields: _convolved(torus, rest, fields) * outside, torch.stack(seen) * outside):
        fields = _convolved(torus, inverse, sources)
        form = _form(fields, sources)
        if not bool(torch.isfinite(form).all()):
            return
        values, vectors = torch.linalg.eigh(form)
        if float(values.max()) < 0:
            yield torch.tensordot((vectors / (-values).sqrt()).mT, fields, dims=1)


def _solutions(operator: Callable[[Tensor], Tensor], right: Tensor) -> Iterator[Tensor]:
    """Conjugate gradients for each of (k, channels, *places), all at once: after 2, 4, 8, … iterations, and at the end."""
    solution, residual = torch.zeros_like(right), right
    direction, size = residual, _squares(residual)
    goal = size * ACCURACY**2
    for n in range(1, ITERATIONS + 1):
        image = operator(direction)
        step = _ratio(size, _inner(direction, image))
        solution, residual = solution + step * direction, residual - step * image
        before, size = size, _squares(residual)
        is_last = n == ITERATIONS or bool((size <= goal).all())
        if is_last or (n > 1 and n & (n - 1) == 0):
            yield solution
        if is_last:
            return
        direction = residual + _ratio(size, before) * direction


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Zero for a field that is solved, or along which the operator is not positive."""
    return torch.where(whole > 0, part / whole, 0.0)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(tuple(range(1, one.dim())), keepdim=True)


def _squares(fields: Tensor) -> Tensor:
    return _inner(fields, fields)


def _modes(torus: Torus, tau: float) -> Iterator[tuple[tuple[int, ...], float, Tensor]]:
    """(frequency, 1 / (σ − τ), unit eigenvector of H with the eigenvalue τ − σ) of each singular value above τ."""
    for at in map(tuple, (torus.squares[..., -1] > tau**2).nonzero().tolist()):
        matrix = torus.symbol[at]
        own = _opposite(torus, at) == at
        left, values, right = torch.linalg.svd(matrix.real if own else matrix, full_matrices=False)
        for j in range(int((values > tau).sum())):
            mode = torch.cat([left[:, j], -right[j].conj()]).to(matrix.dtype) / 2**0.5
            yield at, 1 / (float(values[j]) - tau), mode


def _opposite(torus: Torus, at: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-k % m for k, m in zip(at, torus.places, strict=True))


def _fields_of(torus: Torus, at: tuple[int, ...], mode: Tensor) -> list[Tensor]:
    """The real fields (channels, *places) of a mode and of its conjugate; none if those came before."""
    opposite = _opposite(torus, at)
    if opposite[-1] == at[-1] and opposite < at:
        return []
    lines = [
        torch.exp(2j * torch.pi * k / m * torch.arange(m, device=mode.device).double())
        for k, m in zip(at, torus.places, strict=True)
    ]
    wave = mode
    for line in lines:
        wave = wave[..., None] * line
    return [wave.real] if opposite == at else [wave.real, wave.imag]


def _convolved(torus: Torus, multiplier: Tensor, fields: Tensor) -> Tensor:
    """A translation-invariant operator on fields (k, channels, *places)."""
    dims = tuple(range(2, fields.dim()))
    spectrum = torch.fft.rfftn(fields, dim=dims).movedim((0, 1), (-1, -2))
    return torch.fft.irfftn((multiplier @ spectrum).movedim((-1, -2), (0, 1)), s=torus.places, dim=dims)


def _form(fields: Tensor, images: Tensor) -> Tensor:
    products = fields.flatten(1) @ images.flatten(1).T
    return (products + products.T) / 2


def _proof(torus: Torus, tau: float, fields: Tensor) -> float | None:
    """δ of `excess_over`, from the fields alone and with what rounding can do."""
    images = _convolved(torus, _operator(torus, tau), fields)
    size = float(fields.norm())
    error = torus.slack + SAFETY * gamma(torus.terms) * tau
    form = _form(fields, images)
    of_form = gamma(fields[0].numel()) * size * float(images.norm()) + gamma(len(form) ** 2) * float(form.norm())
    b = -float(torch.linalg.eigvalsh(form).max()) - error * size**2 - SAFETY * of_form
    if b <= 0:
        return None
    residual = float((images * torus.inside).norm()) + error * size
    return residual**2 / b * (1 + 8 * UNIT)
