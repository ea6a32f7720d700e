"""Hamiltonian networks: symplectic steps along a learned energy, by leapfrog if it is separable, else by the midpoint rule."""

import math
from typing import Literal

import torch
from torch import Tensor

from separatrix.core.checks import check_choice
from separatrix.core.errors import ShapeError
from separatrix.flows.methods.implicit import ImplicitMidpoint
from separatrix.flows.methods.splitting import Move, Parts, Splitting, halves, joined, leapfrog, yoshida4
from separatrix.nn.block import Block
from separatrix.nn.energy import Energy, KineticEnergy, Masses, Ridges
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee

SPLITTINGS = {method.name: method for method in (leapfrog, yoshida4)}
KINETIC = {"masses": KineticEnergy, "network": Energy}


class HamiltonianBlock(Block):
    """A step of size dt along the flow  q̇ = ∂H/∂p,  ṗ = −∂H/∂q  of a learned energy H on states (q, p).

    Args:
        dim: numbers in the state (q, p), even.
        dt: step size, in the time of the flow.
    """

    def __init__(self, dim: int, *, dt: float) -> None:
        if dim < 2 or dim % 2:
            raise ShapeError(f"dim is {dim}; a Hamiltonian needs pairs (q, p), an even number of at least 2.")
        super().__init__(dim, dt=dt)

    def energy(self, x: Tensor) -> Tensor:
        """H, shape (*batch, dim) → (*batch)."""
        raise NotImplementedError(f"{type(self).__name__} must define energy(x).")

    def field(self, x: Tensor) -> Tensor:
        """The vector field (∂H/∂p, −∂H/∂q), shape (*batch, dim); `sx.Flow(block.field, dim, dt)` integrates it."""
        raise NotImplementedError(f"{type(self).__name__} must define field(x).")

    def follow(self, parts: Parts, h: float) -> Parts:
        """The state after a step of size h, with tangents if they are given; h may be negative."""
        raise NotImplementedError(f"{type(self).__name__} must define follow(parts, h).")

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a time dt later."""
        return self.follow((x,), self.dt)[0]

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The step and its exact derivative in closed form."""
        x, v = self.follow((x, v), self.dt)
        return x, v

    def inverse(self, y: Tensor) -> Tensor:
        """The state a time dt earlier: a step of size −dt, since the method is symmetric."""
        return self.follow((y,), -self.dt)[0]

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, dt={self.dt:g}"


class SeparableHamiltonian(HamiltonianBlock):
    r"""A leapfrog step along a learned separable energy  H(q, p) = T(p) + V(q).

        p ← p − (h/2) ∇V(q),   q ← q + h ∇T(p),   p ← p − (h/2) ∇V(q)

    Each substep is a shear by a gradient, so the step is symplectic with determinant 1, exactly and for all weights; its inverse is
    the step with −h. If h is small compared to the learned periods, the learned energy is conserved to O(h²) over very long times,
    without drift. `guarantee.lipschitz` is the product of the norms ½ (s + √(s² + 4)) of the shears, where s = h ‖D²T‖ or
    h ‖D²V‖ / 2 by proven bounds.

    Args:
        dim: numbers in the state (q, p), even.
        hidden: terms of each learned energy; see `Energy`.
        kinetic: "masses" for T = ½ Σ p_i²/m_i with learned m_i > 0, or "network" for a learned T.
        dt: h, the step size.
        method: "leapfrog" (order 2), or "yoshida4" (three leapfrog steps, one of them backwards; order 4).
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is odd.
        InputError: dt is not positive, hidden is less than 1, or kinetic or method is unknown.
    Limits: no friction and no time-dependent forces. One step may leave the level sets of H by O(h²). Train with the time step of
        the data; the network then learns the energy for which leapfrog fits them.
    Source: Greydanus, Dzamba & Yosinski 2019, NeurIPS (Hamiltonian networks); Chen, Zhang, Arjovsky & Bottou 2020, ICLR
        (trained through leapfrog); Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, VI.3 and IX.8.

    Example:
        >>> step, x = sx.nn.SeparableHamiltonian(4).double(), torch.randn(4).double()
        >>> torch.allclose(step.inverse(step(x)), x)
        True
        >>> print(f"{torch.func.jacrev(step)(x).det():.6f}")
        1.000000
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 64,
        kinetic: Literal["masses", "network"] = "masses",
        dt: float = 0.1,
        method: Literal["leapfrog", "yoshida4"] = "leapfrog",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, dt=dt)
        check_choice("kinetic", kinetic, KINETIC)
        check_choice("method", method, SPLITTINGS)
        factory = Factory(device=device, dtype=dtype)
        self.kinetic = KineticEnergy(dim // 2, **factory) if kinetic == "masses" else Energy(dim // 2, hidden, **factory)
        self.potential = Energy(dim // 2, hidden, **factory)
        self.method = method

    def energy(self, x: Tensor) -> Tensor:
        """H = T(p) + V(q), shape (*batch, dim) → (*batch)."""
        q, p = x.chunk(2, -1)
        return self.kinetic(p) + self.potential(q)

    def field(self, x: Tensor) -> Tensor:
        """The vector field (∇T(p), −∇V(q)), shape (*batch, dim)."""
        q, p = x.chunk(2, -1)
        return torch.cat([self.kinetic.form().gradient(p), -self.potential.form().gradient(q)], dim=-1)

    def follow(self, parts: Parts, h: float) -> Parts:
        """The state after a step of size h, with tangents if they are given; h may be negative."""
        force, velocity = _downhill(self.potential.form()), _uphill(self.kinetic.form())
        return joined(*self._splitting.follow(force, velocity, *halves(parts), 0.0, h))

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic with determinant 1; the Lipschitz factor bounds the product of the shears."""
        bend, heft = _bound(self.potential.form()), _bound(self.kinetic.form())
        norms = [
            _shear_norm(self.dt * part, bound)
            for move in self._splitting.moves
            for part, bound in zip(move, (bend, heft), strict=True)
        ]
        return Guarantee(lipschitz=math.prod(norms), log_det=0.0, symplectic=True)

    @property
    def _splitting(self) -> Splitting:
        return SPLITTINGS[self.method]


class Hamiltonian(HamiltonianBlock):
    r"""An implicit midpoint step along a learned energy H(q, p), which need not be separable.

        x' = x + h Ω ∇H(m),   m = (x + x')/2,   Ω = (0 I; −I 0)

    The energy satisfies  (h/2) ‖D²H(x)‖₂ < 1  at every x (see `Energy`). The equation therefore has exactly one solution for
    every state and all weights, and the step is a smooth bijection whose inverse is the step with −h. Its derivative is the
    Cayley transform  (I − B)⁻¹ (I + B)  with  B = (h/2) Ω D²H(m),  which is symplectic with determinant 1 because ΩB is
    symmetric. A bound κ on ‖B‖ gives  ‖J‖₂ ≤ (1 + κ)/(1 − κ),  which is `guarantee.lipschitz`.

    The guarantees hold for the solution of the equation, which Newton's method finds to `tol`. States on which it fails become NaN.
    Reverse and forward derivatives are exact up to third order and do not unroll the iteration.

    Args:
        dim: numbers in the state (q, p), even. Each step solves linear systems of this size.
        hidden: terms of the learned energy; see `Energy`.
        dt: h, the step size; it bounds the stiffness that can be learned, ‖D²H‖₂ < 2/h.
        tol: tolerance of the residual, relative to 1 + |x| + |h f(x)/2|. Default: 64 roundings in the dtype of the state.
        max_steps: maximum number of Newton steps; 8 in a compiled or exported graph.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is odd.
        InputError: dt is not positive, or hidden is less than 1.
    Limits: one step costs about three Jacobians of the field and as many matrix inversions, (*batch, dim, dim) numbers, so it suits
        small dim. Under autocast the equation is solved in the precision of the weights. `torch.func.vmap` over states is not
        supported, because the number of Newton steps depends on them; pass a batch instead.
    Source: Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, VI.4 (symplectic), IX.8 (long times).

    Example:
        >>> step, x = sx.nn.Hamiltonian(4).double(), torch.randn(4).double()
        >>> torch.allclose(step.inverse(step(x)), x)
        True
        >>> print(f"{torch.func.jacrev(step)(x).det():.6f}")
        1.000000
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 128,
        dt: float = 0.1,
        tol: float | None = None,
        max_steps: int = 50,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, dt=dt)
        self.hamiltonian = Energy(dim, hidden, stiffest=2 / dt, device=device, dtype=dtype)
        self.solver = ImplicitMidpoint("implicit_midpoint", 2, tol=tol, max_steps=max_steps)

    def energy(self, x: Tensor) -> Tensor:
        """H, shape (*batch, dim) → (*batch)."""
        return self.hamiltonian(x)

    def field(self, x: Tensor) -> Tensor:
        """The vector field Ω∇H, shape (*batch, dim)."""
        return _turned(self.hamiltonian.form().gradient(x))

    def mismatch(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual of the step equation,  y − x − h Ω∇H((x + y)/2),  for x and y of shape (*batch, dim).

        As a loss on pairs (x, y) it costs one gradient of H, without solving an equation.
        """
        return y - x - self.dt * self.field((x + y) / 2)

    def follow(self, parts: Parts, h: float) -> Parts:
        """The state after a step of size h, with tangents if they are given; h may be negative."""
        field = _CanonicalField(self.hamiltonian.form())
        dtype = torch.promote_types(parts[0].dtype, field.form.k.dtype)  # autocast may have lowered the state's precision
        parts = tuple(part.to(dtype) for part in parts)
        if len(parts) == 1:
            return (self.solver.step(field, parts[0], 0.0, h),)
        return self.solver.pushforward(field.pushforward, *parts, 0.0, h)

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic with determinant 1; the Lipschitz factor is that of the Cayley transform."""
        kappa = self.dt / 2 * _bound(self.hamiltonian.form())
        return Guarantee(lipschitz=(1 + kappa) / (1 - kappa) if kappa < 1 else math.inf, log_det=0.0, symplectic=True)


class _CanonicalField:
    """The field Ω∇H of an energy at given weights, with its tangents."""

    def __init__(self, form: Ridges) -> None:
        self.form = form

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return _turned(self.form.gradient(x))

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        slope, bend = self.form.pushforward(x, v)
        return _turned(slope), _turned(bend)


def _turned(gradient: Tensor) -> Tensor:
    """Ω∇H = (∂H/∂p, −∂H/∂q)."""
    by_q, by_p = gradient.chunk(2, -1)
    return torch.cat([by_p, -by_q], dim=-1)


def _uphill(form: Ridges | Masses) -> Move:
    """The velocity ∇T(p), with tangents if they are given."""
    return lambda q, p, t: _gradient(form, p)


def _downhill(form: Ridges | Masses) -> Move:
    """The force −∇V(q), with tangents if they are given."""
    return lambda q, p, t: tuple(-part for part in _gradient(form, q))


def _gradient(form: Ridges | Masses, parts: Parts) -> Parts:
    return (form.gradient(parts[0]),) if len(parts) == 1 else form.pushforward(*parts)


def _bound(form: Ridges | Masses) -> float:
    """A bound on ‖D²U‖₂, computed in float64; inf if the weights are not finite."""
    bound = float(form.double().stiffness())
    return bound if bound < math.inf else math.inf


def _shear_norm(length: float, bound: float) -> float:
    """‖(I 0; S I)‖₂ for ‖S‖₂ = s = |length| · bound."""
    s = abs(length) * bound if length else 0.0
    return (s + math.hypot(s, 2)) / 2
