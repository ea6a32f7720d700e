"""A long product of Jacobians, stored in logarithms, and its singular values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.orthonormal import lengths, orthonormalise, resolution
from separatrix.core.randomness import torch_generator

NEAR = 8  # nats: singular values farther apart than this are computed separately
LOW = 40  # nats below all others, assigned to a row of zeros so that it affects nothing and comes last
SWEEPS = 5  # sweeps; after these, the coupling of values NEAR nats apart is below e^(−8·9)

# Note [Singular values of a long product]
# σ_i/σ_1 falls below rounding after a few dozen nats, so J_T itself shows only its leading singular values. Its factors show all:
# with tangents as rows, v J = R Q at each QR (R lower triangular), so J_T is an e^D-graded triangular matrix times an orthonormal
# one. The product of the R is stored as D U, where D holds the logarithms of a diagonal and U is triangular with 1 on its diagonal.
# U is well conditioned, because the initially random frame turns so that D descends. QR of Uᵀ and a rescaling give the next D U,
# that of the transpose, without large numbers (a step of the QR algorithm for J Jᵀ, in logarithms). U tends to 1 like
# (σ_j/σ_i)^(2·sweeps). Values that lie close together would converge slowly; they are left to an SVD in which distant values are
# clamped to e^±8.
# If a step erases a direction, a row of the frame lies in the span of the rows above it. It becomes a row of zeros, whose D has no
# meaning and whose U is that of the identity, so it stays separate. At the end its row and column are moved behind the others.


@dataclass(frozen=True)
class Product:
    """A product of Jacobians as e^D U times an orthonormal frame. See Note [Singular values of a long product].

    Args:
        frame: (*batch, k, dim), orthonormal rows; rows that a step has erased are zero. With k = dim, the product is whole.
        log: (*batch, k), D.
        unit: (*batch, k, k), U, upper triangular with 1 on its diagonal.
    """

    frame: Tensor
    log: Tensor
    unit: Tensor

    @staticmethod
    def of(x: Tensor, seed: int) -> "Product":
        """The empty product at the states x, with the same random frame for all."""
        dim = x.shape[-1]
        draw = torch.randn(dim, dim, dtype=torch.float64, generator=torch_generator(seed, "frame of a product"))
        return Product.of_frame(torch.linalg.qr(draw)[0].to(x).expand(*x.shape[:-1], dim, dim))

    @staticmethod
    def of_frame(frame: Tensor) -> "Product":
        """The empty product in the span of orthonormal rows, (*batch, k, dim)."""
        k = frame.shape[-2]
        unit = torch.eye(k, dtype=frame.dtype, device=frame.device).expand(*frame.shape[:-2], k, k)
        return Product(frame, torch.zeros_like(frame[..., 0]), unit)

    def times(self, v: Tensor) -> "Product":
        """The product after a step that pushes the frame to v."""
        frame, log_r = orthonormalise(v)
        singular = log_r.isneginf().any(-1)
        if bool(singular.any()):
            frame = frame.clone()
            frame[singular] = _span(v[singular])
            log_r = (frame * v).sum(-1).log()
        alive, eye = log_r > -torch.inf, torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
        log = self.log + log_r.where(alive | log_r.isnan(), 0.0)
        growth = _above(self.log, log).where(alive[..., None], 0.0).exp()
        unit = ((v @ frame.mT).mT.triu(1) * growth + eye) @ self.unit
        return Product(frame, log, unit.where((alive | log_r.isnan())[..., None], eye))

    @property
    def alive(self) -> Tensor:
        """Whether each row is nonzero, (*batch, dim)."""
        return lengths(self.frame) != 0

    def log_singular_values(self, k: int | None = None) -> Tensor:
        """The k leading ln σ_i (default: all), descending, (*batch, k); NaN if the product is not finite."""
        finite = torch.isfinite(self.log).all(-1) & torch.isfinite(self.unit).all(-1).all(-1)
        eye = torch.eye(self.log.shape[-1], dtype=self.log.dtype, device=self.log.device)
        alive = self.alive
        order = alive.sort(dim=-1, descending=True, stable=True).indices
        least = self.log.where(alive, torch.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
        log = self.log.where(alive, least - LOW).gather(-1, order).where(finite[..., None], 0.0)
        unit = self.unit.gather(-2, order[..., None].expand_as(self.unit)).gather(-1, order[..., None, :].expand_as(self.unit))
        unit = unit.where(finite[..., None, None], eye)
        for _ in range(SWEEPS):
            log, unit = _turned(log, unit)
        places = range(log.shape[-1] if k is None else k)
        values = torch.stack([_singular_value_at(log, unit, place) for place in places], dim=-1)
        values = values.sort(-1, descending=True).values
        index = torch.arange(values.shape[-1], device=log.device)
        return values.where(index < alive.sum(-1, keepdim=True), -torch.inf).where(finite[..., None], torch.nan)

    def log_frobenius(self) -> Tensor:
        """ln ‖J‖_F, (*batch): J is e^D U up to a rotation."""
        log = self.log.where(self.alive, -torch.inf)
        size = log.amax(-1)
        rows = (log - size[..., None]).exp() * lengths(self.unit)
        return (size + lengths(rows).log()).where(self.alive.any(-1), -torch.inf)


@dataclass(frozen=True)
class Scaled:
    """A product of Jacobians as a number times a matrix of norm 1, which suffices for its largest singular value.

    Args:
        frame: (*batch, dim, dim), the matrix, transposed.
        log: (*batch), the logarithm of the number.
    """

    frame: Tensor
    log: Tensor

    @staticmethod
    def of(x: Tensor) -> "Scaled":
        """The empty product at the states x, the identity."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
        return Scaled(eye, torch.zeros_like(x[..., 0]))

    def times(self, v: Tensor) -> "Scaled":
        """The product after a step that pushes the frame to v."""
        size = torch.linalg.matrix_norm(v)
        size = size.where(size > 0, 1.0)
        return Scaled(v / size[..., None, None], self.log + size.log())

    def log_singular_values(self, k: int = 1) -> Tensor:
        """ln σ₁, (*batch, 1), from the largest eigenvalue of J Jᵀ; squaring spoils only the small ones."""
        finite = torch.isfinite(self.frame).all(-1).all(-1)
        gram = (self.frame @ self.frame.mT).where(finite[..., None, None], 0.0)
        largest = torch.linalg.eigvalsh(gram)[..., -1:].clamp(min=0).sqrt()
        return self.log[..., None] + largest.log().where(finite[..., None], torch.nan)

    def log_frobenius(self) -> Tensor:
        """ln ‖J‖_F, (*batch)."""
        return self.log + torch.linalg.matrix_norm(self.frame).log()


def _turned(log: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """From D U to the D' U' of its transpose, up to a rotation: with Uᵀ = Q S, Uᵀ D = Q D' U'."""
    s = torch.linalg.qr(unit.mT)[1]
    diagonal = s.diagonal(dim1=-2, dim2=-1)
    scaled = (s / diagonal[..., None]).triu(1) * _above(log, log).exp()
    return log + diagonal.abs().log(), scaled + torch.diag_embed(torch.ones_like(log))


def _span(v: Tensor) -> Tensor:
    """Orthonormal rows by Gram–Schmidt with two projections; a row that lies in the span of those above, to rounding, is 0."""
    frame = torch.zeros_like(v)
    for i, row in enumerate(v.unbind(-2)):
        rest = row
        for _ in range(2):
            rest = rest - ((rest[..., None, :] @ frame.mT) @ frame)[..., 0, :]
        rest_length, row_length = lengths(rest), lengths(row)
        independent = (rest_length > resolution(v) * row_length)[..., None]
        frame[..., i, :] = torch.where(independent, rest / rest_length.where(rest_length > 0, 1.0)[..., None], 0.0)
    return frame


def _above(column: Tensor, row: Tensor) -> Tensor:
    """D_j − D_i above the diagonal; 0 elsewhere, where its exponential could overflow."""
    return (column[..., None, :] - row[..., :, None]).triu(1)


def _singular_value_at(log: Tensor, unit: Tensor, place: int) -> Tensor:
    """Logarithm of the singular value of D U that belongs to the D_i at this place in descending order."""
    own = log.sort(-1, descending=True).values[..., place : place + 1]
    values = torch.linalg.svdvals((log - own).clamp(-NEAR, NEAR).exp()[..., None] * unit)
    return values[..., place].log() + own[..., 0]
