"""A long product of Jacobians, kept in logarithms, and its singular values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.orthonormal import lengths, orthonormalise, resolution

NEAR = 8  # nats between singular values beyond which they are taken apart
SWEEPS = 5  # after which what couples them is below e^(−8·9)

# Note [Singular values of a long product]
# σ_i/σ_1 falls below rounding after a few dozen nats, so J_T itself shows no more than its leading ones. Its factors do:
# with tangents as rows, v J = R Q at each QR (R lower triangular), so that J_T = e^D-graded triangular times orthonormal. The
# product of the R is kept as D U: D the logarithms of a diagonal, U triangular with 1 on its diagonal and well conditioned,
# because the frame, random at first, turns so that D descends. QR of Uᵀ and a rescaling give the next D U, of the transpose,
# without a large number (a step of the QR algorithm for J Jᵀ, in logarithms): U tends to 1 like (σ_j/σ_i)^(2·sweeps). Values
# that lie near each other would take long, and are left to an SVD in which all that is far away is brought to e^±8.


@dataclass(frozen=True)
class Product:
    """A product of Jacobians as e^D U times an orthonormal frame. See Note [Singular values of a long product].

    Args:
        frame: (*batch, dim, dim), orthonormal rows.
        log: (*batch, dim), D.
        unit: (*batch, dim, dim), U, upper triangular with 1 on its diagonal.
        rank: (*batch), directions not yet lost.
    """

    frame: Tensor
    log: Tensor
    unit: Tensor
    rank: Tensor

    @staticmethod
    def of(x: Tensor, seed: int) -> "Product":
        """The empty product at the states x, with one random frame for all."""
        dim = x.shape[-1]
        draw = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        frame = torch.linalg.qr(draw)[0].to(x).expand(*x.shape[:-1], dim, dim)
        unit = torch.eye(dim, dtype=x.dtype, device=x.device).expand_as(frame)
        return Product(frame, torch.zeros_like(x), unit, torch.full(x.shape[:-1], dim, device=x.device))

    def times(self, v: Tensor) -> "Product":
        """The product after the frame was pushed to v."""
        frame, log_r = orthonormalise(v)
        lost = log_r.isneginf()
        least = torch.finfo(v.dtype).tiny
        floor = (resolution(v) * lengths(v)).clamp(min=least).log()
        log = self.log + log_r.where(~lost, floor)
        upper = (v @ frame.mT).mT.triu(1) * _above(self.log, log).exp()
        upper = upper + torch.diag_embed(torch.ones_like(log))
        rank = torch.minimum(self.rank, (~lost).sum(-1))
        return Product(frame, log, upper @ self.unit, rank)

    def log_singular_values(self, k: int | None = None) -> Tensor:
        """The k leading ln σ_i, or all, descending, (*batch, k); NaN where the product is not finite."""
        log, unit = self.log, self.unit
        finite = torch.isfinite(log).all(-1) & torch.isfinite(unit).all(-1).all(-1)
        eye = torch.eye(log.shape[-1], dtype=log.dtype, device=log.device)
        log, unit = log.where(finite[..., None], 0.0), unit.where(finite[..., None, None], eye)
        for _ in range(SWEEPS):
            log, unit = _turned(log, unit)
        places = range(log.shape[-1] if k is None else k)
        values = torch.stack([_singular_value_at(log, unit, place) for place in places], dim=-1)
        values = values.sort(-1, descending=True).values
        index = torch.arange(values.shape[-1], device=log.device)
        return values.where(index < self.rank[..., None], -torch.inf).where(finite[..., None], torch.nan)

    def log_frobenius(self) -> Tensor:
        """Ln ‖J‖_F, (*batch): J is e^D U, but for a rotation."""
        size = self.log.amax(-1)
        rows = (self.log - size[..., None]).exp() * lengths(self.unit)
        return (size + lengths(rows).log()).where(self.rank > 0, -torch.inf)


@dataclass(frozen=True)
class Scaled:
    """A product of Jacobians as a number times a matrix of norm 1: all that its largest singular value needs.

    Args:
        frame: (*batch, dim, dim), the matrix, transposed.
        log: (*batch), ln of the number.
    """

    frame: Tensor
    log: Tensor

    @staticmethod
    def of(x: Tensor) -> "Scaled":
        """The empty product at the states x."""
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
        return Scaled(eye, torch.zeros_like(x[..., 0]))

    def times(self, v: Tensor) -> "Scaled":
        """The product after the frame was pushed to v."""
        size = torch.linalg.matrix_norm(v)
        size = size.where(size > 0, 1.0)
        return Scaled(v / size[..., None, None], self.log + size.log())

    def log_singular_values(self, k: int = 1) -> Tensor:
        """Ln σ₁, (*batch, 1), by the largest eigenvalue of J Jᵀ: only the small ones suffer from the squaring."""
        finite = torch.isfinite(self.frame).all(-1).all(-1)
        gram = (self.frame @ self.frame.mT).where(finite[..., None, None], 0.0)
        largest = torch.linalg.eigvalsh(gram)[..., -1:].clamp(min=0).sqrt()
        return self.log[..., None] + largest.log().where(finite[..., None], torch.nan)

    def log_frobenius(self) -> Tensor:
        """Ln ‖J‖_F, (*batch)."""
        return self.log + torch.linalg.matrix_norm(self.frame).log()


def _turned(log: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """D U → the D' U' of its transpose, up to a rotation: with Uᵀ = Q S, Uᵀ D = Q D' U'."""
    s = torch.linalg.qr(unit.mT)[1]
    diagonal = s.diagonal(dim1=-2, dim2=-1)
    scaled = (s / diagonal[..., None]).triu(1) * _above(log, log).exp()
    return log + diagonal.abs().log(), scaled + torch.diag_embed(torch.ones_like(log))


def _above(column: Tensor, row: Tensor) -> Tensor:
    """D_j − D_i above the diagonal, and 0 elsewhere, where its exponential might overflow."""
    return (column[..., None, :] - row[..., :, None]).triu(1)


def _singular_value_at(log: Tensor, unit: Tensor, place: int) -> Tensor:
    """Ln of that singular value of D U which comes from the D_i in this place of descending order."""
    own = log.sort(-1, descending=True).values[..., place : place + 1]
    values = torch.linalg.svdvals((log - own).clamp(-NEAR, NEAR).exp()[..., None] * unit)
    return values[..., place].log() + own[..., 0]
