"""Operators that copy, move, cut, join and add numbers: matrices without negative entries."""

import torch

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import SQUARES, Factor, attained, rule
from separatrix.bounds.certificate.rounding import computed, root, times


@rule("alias clone contiguous conj detach lift_fresh_copy resolve_conj resolve_neg", is_complex=True)
@rule("_conj _conj_physical _neg_view", is_complex=True)
@rule("imag real view_as_complex view_as_real", is_complex=True)
def same(call: Call) -> Factor:
    """The same numbers or their conjugates; complex numbers as pairs, or one of each pair."""
    return attained(1.0, "the same numbers")


@rule("_to_copy to", is_complex=True)
def cast(call: Call) -> Factor:
    """Real numbers in another precision; whole ones, or the real part of complex ones, are not the same numbers."""
    if not (call.dtype.is_floating_point or call.dtype.is_complex):
        raise NoBoundError(f"it rounds to {call.dtype}".replace("torch.", ""))
    return attained(1.0, "the same numbers")


@rule("cat concat concatenate stack", "tensors", SQUARES, is_complex=True)
@rule("diagonal_scatter select_scatter slice_scatter", "self src", SQUARES, is_complex=True)
def side_by_side(call: Call) -> Factor:
    """Each argument is a part of the output, or of what is left of it."""
    return attained(1.0, "a part of it")


@rule("_unsafe_view flatten movedim permute reshape squeeze swapaxes t transpose unflatten unsqueeze view", is_complex=True)
@rule("channel_shuffle flip pixel_shuffle pixel_unshuffle roll rot90", is_complex=True)
@rule("broadcast_to expand repeat repeat_interleave tile", is_complex=True)
@rule("chunk diagonal narrow select slice split split_with_sizes tril triu unbind", is_complex=True)
@rule("index_select take", is_complex=True)
@rule("gather index", "self", is_complex=True)
@rule("col2im im2col unfold", is_complex=True)
@rule("constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d", is_complex=True)
@rule("replication_pad1d replication_pad2d replication_pad3d", is_complex=True)
@rule("upsample_nearest1d upsample_nearest2d upsample_nearest3d", is_complex=True)
@rule("_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d", is_complex=True)
@rule("cumsum mean sum", is_complex=True)
def schur(call: Call) -> Factor:
    r"""√(‖A‖₁ ‖A‖_∞) ≥ ‖A‖₂ for a matrix without negative entries, by A 1 and Aᵀ 1; exact where each output is one number.

    Source: Schur 1911, J. reine angew. Math. 140, 1.
    """
    call = call.in_double()
    ones = torch.ones(call.active[0].shape, dtype=torch.float64, device=call.device, requires_grad=True)
    with torch.enable_grad():
        outputs = [part for part in call.run(ones) if part.is_floating_point()]
        (columns,) = torch.autograd.grad(sum(part.sum() for part in outputs), ones)
    constant = call.run(torch.zeros_like(ones))
    sums = [(part.detach() - zero).abs() for part, zero in zip(outputs, constant, strict=True) if part.numel()]
    rows = max((float(part.max()) for part in sums), default=0.0)  # a cut may be of nothing
    value = root(times(rows, float(columns.max())))
    whole = rows.is_integer() and float(columns.max()).is_integer()
    value = value if whole else computed(value)
    return (Factor if call.name == "cumsum" else attained)(value, "how often a number is used")
