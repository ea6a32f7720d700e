"""A long product of Jacobians, kept in logarithms, and its singular values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.orthonormal import lengths, orthonormalise, resolution
from separatrix.core.randomness import torch_generator

NEAR = 8  # nats between singular values beyond which they are taken apart
LOW = 40  # nats below all others at which a row of zeros is put: it moves nothing, and comes last
SWEEPS = 5  # after which what couples them is below e^(−8·9)

# Note [Singular values of a long product]
# σ_i/σ_1 falls below rounding after a few dozen nats, so J_T itself shows no more than its leading ones. Its factors do:
# with tangents as rows, v J = R Q at each QR (R lower triangular), so that J_T = e^D-graded triangular times orthonormal. The
# product of the R is kept as D U: D the logarithms of a diagonal, U triangular with 1 on its diagonal and well conditioned,
# because the frame, random at first, turns so that D descends. QR of Uᵀ and a rescaling give the next D U, of the transpose,
# without a large number (a step of the QR algorithm for J Jᵀ, in logarithms): U tends to 1 like (σ_j/σ_i)^(2·sweeps). Values
# that lie near each other would take long, and are left to an SVD in which all that is far away is brought to e^±8.
# Where a step erases a direction, a row of the frame lies in the span of those above it: it becomes a row of zeros, whose D means
# nothing and whose U is that of the identity, so that it stays apart. In the end it is moved behind the others, row and column.


@dataclass(frozen=True)
class Product:
    """A product of Jacobians as e^D U times an orthonormal frame. See Note [Singular values of a long product].

    Args:
        frame: (*batch, dim, dim), orthonormal rows, and zeros for those that a step has erased.
        log: (*batch, dim), D.
        unit: (*batch, dim, dim), U, upper triangular with 1 on its diagonal.
    """

    frame: Tensor
    log: Tensor
    unit: Tensor

    @staticmethod
    def of(x: Tensor, seed: int) -> "Product":
        """The empty product at the states x, with one random frame for all."""
        dim = x.shape[-1]
        draw = torch.randn(dim, dim, dtype=torch.float64, generator=torch_generator(seed, "frame of a product"))
        frame = torch.linalg.qr(draw)[0].to(x).expand(*x.shape[:-1], dim, dim)
        unit = torch.eye(dim, dtype=x.dtype, device=x.device).expand_as(frame)
        return Product(frame, torch.zeros_like(x), unit)

    def times(self, v: Tensor) -> "Product":
        """The product after the frame was pushed to v."""
        frame, log_r = orthonormalise(v)
        hit = log_r.isneginf().any(-1)
        if bool(hit.any()):
            frame = frame.clone()
            frame[hit] = _span(v[hit])
            log_r = (frame * v).sum(-1).log()
        alive, eye = log_r > -torch.inf, torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        log = self.log + log_r.where(alive | log_r.isnan(), 0.0)
        growth = _above(self.log, log).where(alive[..., None], 0.0).exp()
        unit = ((v @ frame.mT).mT.triu(1) * growth + eye) @ self.unit
        return Product(frame, log, unit.where((alive | log_r.isnan())[..., None], eye))

    @property
    def alive(self) -> Tensor:
        """(*batch, dim), whether each row is something else than 0."""
        return lengths(self.frame) != 0

    def log_singular_values(self, k: int | None = None) -> Tensor:
        """The k leading ln σ_i, or all, descending, (*batch, k); NaN where the product is not finite."""
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
        """ln ‖J‖_F, (*batch): J is e^D U, but for a rotation."""
        log = self.log.where(self.alive, -torch.inf)
        size = log.amax(-1)
        rows = (log - size[..., None]).exp() * lengths(self.unit)
        return (size + lengths(rows).log()).where(self.alive.any(-1), -torch.inf)


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
        """ln σ₁, (*batch, 1), by the largest eigenvalue of J Jᵀ: only the small ones suffer from the squaring."""
        finite = torch.isfinite(self.frame).all(-1).all(-1)
        gram = (self.frame @ self.frame.mT).where(finite[..., None, None], 0.0)
        largest = torch.linalg.eigvalsh(gram)[..., -1:].clamp(min=0).sqrt()
        return self.log[..., None] + largest.log().where(finite[..., None], torch.nan)

    def log_frobenius(self) -> Tensor:
        """ln ‖J‖_F, (*batch)."""
        return self.log + torch.linalg.matrix_norm(self.frame).log()


def _turned(log: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """D U → the D' U' of its transpose, up to a rotation: with Uᵀ = Q S, Uᵀ D = Q D' U'."""
    s = torch.linalg.qr(unit.mT)[1]
    diagonal = s.diagonal(dim1=-2, dim2=-1)
    scaled = (s / diagonal[..., None]).triu(1) * _above(log, log).exp()
    return log + diagonal.abs().log(), scaled + torch.diag_embed(torch.ones_like(log))


def _span(v: Tensor) -> Tensor:
    """Orthonormal rows by Gram–Schmidt, each projected twice; zeros for one that lies, to rounding, in the span of those above."""
    frame = torch.zeros_like(v)
    for i, row in enumerate(v.unbind(-2)):
        rest = row
        for _ in range(2):
            rest = rest - ((rest[..., None, :] @ frame.mT) @ frame)[..., 0, :]
        size, whole = lengths(rest), lengths(row)
        found = (size > resolution(v) * whole)[..., None]
        frame[..., i, :] = torch.where(found, rest / size.where(size > 0, 1.0)[..., None], 0.0)
    return frame


def _above(column: Tensor, row: Tensor) -> Tensor:
    """D_j − D_i above the diagonal, and 0 elsewhere, where its exponential might overflow."""
    return (column[..., None, :] - row[..., :, None]).triu(1)


def _singular_value_at(log: Tensor, unit: Tensor, place: int) -> Tensor:
    """ln of that singular value of D U which comes from the D_i in this place of descending order."""
    own = log.sort(-1, descending=True).values[..., place : place + 1]
    values = torch.linalg.svdvals((log - own).clamp(-NEAR, NEAR).exp()[..., None] * unit)
    return values[..., place].log() + own[..., 0]
