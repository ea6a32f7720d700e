"""The Lipschitz factor of each PyTorch operator: a proven factor, or the reason why there is none."""

import torch

from separatrix.bounds.certificate import combine as c
from separatrix.bounds.certificate import elementwise as e
from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import ALONE, SQUARES, SUM, Factor, Rule, by_argument, schur
from separatrix.bounds.certificate.fourier import TRANSFORMS, fourier
from separatrix.bounds.certificate.linear import affine, differences, sampled
from separatrix.bounds.certificate.pooling import PLANAR, interpolated, max_pool, mean_pool
from separatrix.bounds.certificate.products import PRODUCTS, convolved, product
from separatrix.bounds.certificate.rounding import computed
from separatrix.bounds.certificate.slopes import SELU, SLOPES


def bound_behind(call: Call) -> tuple[float, Factor]:
    """The bound from the network's input to behind an operator, and its own factor.

    Raises:
        NoBoundError: it has none, or none that is known where these arguments depend on the input.
    """
    rule = RULES.get(call.name)
    if rule is None:
        draws = torch.Tag.nondeterministic_seeded in call.op.tags
        raise NoBoundError(NAMED_REASONS.get(call.name, DRAWS if draws else f"no bound is known for the operator {call.name}"))
    rule.check(call, NAMED_REASONS.get(call.name))
    strange = next((part.dtype for part in call.active if not (part.dtype.is_floating_point or part.dtype.is_complex)), None)
    if strange is not None:
        raise NoBoundError(f"it takes {strange}, not real numbers".replace("torch.", ""))
    if call.name == "view" and call["dtype"] is not None and call.dtype.to_real() != call.active[0].dtype.to_real():
        raise NoBoundError(f"it reads the bits of {call.active[0].dtype} as {call.dtype}".replace("torch.", ""))
    if call.name == "scatter" and call["reduce"] is not None:
        raise NoBoundError(f"no bound is known for scatter with reduce={call['reduce']!r}")
    if any(part.is_floating_point() and bool(part.isnan().any()) for part in call.held):
        raise NoBoundError("its weights are not finite")
    return rule.behind(call)


DRAWS = "it draws random numbers, even in evaluation mode"

NAMED_REASONS = {
    "scaled_dot_product_attention": "dot-product attention is not Lipschitz on all inputs",
    "_native_multi_head_attention": "dot-product attention is not Lipschitz on all inputs",
    "_transformer_encoder_layer_fwd": "dot-product attention is not Lipschitz on all inputs",
    "embedding": "it looks up integers, which have no Lipschitz factor",
    "pow": "powers are not Lipschitz on all inputs",
    "square": "powers are not Lipschitz on all inputs",
    "exp": "the exponential function is not Lipschitz on all inputs",
    "log": "the logarithm is not Lipschitz on all inputs",
    "sqrt": "the root has an infinite slope at 0",
    "div": "it divides by a value that depends on the input",
    "where": "it switches by a value that depends on the input",
    "reciprocal": "it divides by a value that depends on the input",
    "glu": "it multiplies two values that both depend on the input",
    "lstm": "its gates multiply values that depend on the input",
    "gru": "its gates multiply values that depend on the input",
    "rnn_tanh": "recurrent layers are not unrolled",
    "rnn_relu": "recurrent layers are not unrolled",
    "hardshrink": "it jumps",
    "sign": "it jumps",
    "round": "it jumps",
    "floor": "it jumps",
    "_native_batch_norm_legit": "it normalises by the statistics of the batch, even in evaluation mode",
    "native_dropout": DRAWS,
}

COPIES = {
    *(
        "_unsafe_view",
        "expand",
        "broadcast_to",
        "flatten",
        "movedim",
        "permute",
        "reshape",
        "squeeze",
        "swapaxes",
        "t",
        "transpose",
    ),
    *("unflatten", "unsqueeze", "view", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "flip", "roll", "rot90"),
    *("diagonal", "narrow", "select", "slice", "split", "split_with_sizes", "chunk", "unbind", "tril", "triu", "unfold", "im2col"),
    *("repeat", "repeat_interleave", "tile", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d", "cumsum", "mean", "sum"),
    *("index_select", "take", "col2im"),
}
"""Linear operators, up to a constant, whose matrices have no negative entries: copies, cuts, sums."""


SAME = {"alias", "clone", "contiguous", "conj", "_conj", "_conj_physical", "detach", "lift_fresh_copy"}
SAME |= {"_neg_view", "resolve_conj", "resolve_neg"}
"""The same numbers, or their conjugates."""

REAL_PARTS = {"real", "imag", "view_as_real", "view_as_complex"}
"""Complex numbers as pairs, and one of each pair."""

SIDE_BY_SIDE = {"cat", "concat", "concatenate", "stack"}
WRITTEN_INTO = {"select_scatter", "slice_scatter", "diagonal_scatter"}
SORTED = {"kthvalue", "median", "msort", "nanmedian", "sort", "topk"}
CONVOLUTIONS = {f"conv{way}{axes}d" for way in ("", "_transpose") for axes in (1, 2, 3)}
NORMALISED = {"group_norm", "instance_norm", "layer_norm", "rms_norm"}
ENDS = {"clamp": "self min max", "clamp_max": "self max", "clamp_min": "self min"}
GREATEST = {"fmax", "fmin", "max", "maximum", "min", "minimum"}

AFFINE: dict[str, tuple[str, str | None]] = {
    "addbmm": ("self batch1 | self batch2", ""),
    "addcdiv": ("self tensor1", None),
    "addcmul": ("self tensor1 | self tensor2", ""),
    "addmv": ("self mat | self vec", ""),
    "addr": ("self vec1 | self vec2", ""),
    "affine_grid_generator": ("theta", None),
    "baddbmm": ("self batch1 | self batch2", ""),
    "bilinear": ("input1 bias | input2 bias | weight bias", ""),
    "cross": ("self | other", None),
    "cumulative_trapezoid": ("y", None),
    "diag": ("self", ""),
    "diag_embed": ("self", ""),
    "dot": ("self | tensor", ""),
    "einsum": ("tensors", ""),
    "embedding_bag": ("weight", None),
    "fft_fftshift": ("self", ""),
    "fft_ifftshift": ("self", ""),
    "gradient": ("self", None),
    "index_add": ("self source", ""),
    "index_copy": ("self source", ""),
    "index_fill": ("self value", ""),
    "index_put": ("self values", ""),
    "inner": ("self | other", ""),
    "kron": ("self | other", ""),
    "linalg_cross": ("self | other", None),
    "linalg_solve": ("B", None),
    "linalg_solve_triangular": ("B", None),
    "masked_scatter": ("self source", ""),
    "outer": ("self | vec2", ""),
    "put": ("self source", ""),
    "scatter": ("self src | self value", ""),
    "scatter_add": ("self src", ""),
    "stft": ("self", None),
    "istft": ("self", None),
    "take_along_dim": ("self", ""),
    "tensordot": ("self | other", ""),
    "trapezoid": ("y", None),
    "trace": ("self", ""),
    "vdot": ("self | other", ""),
}
"""Operators that are affine in some of their arguments, as long as the others are held: which, as in `Rule`; and what keeps its
sign in the majorant, None where there is none. See Note [Affine in an argument]."""


IN_WEIGHTS = {"weight": affine(), "bias": affine()}
MAX_POOLS = {*(f"{kind}max_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3))}
MAX_POOLS |= {f"max_pool{axes}d_with_indices" for axes in (1, 2, 3)}
MEAN_POOLS = {f"{kind}avg_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3)}
INTERPOLATIONS = {"upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d", *PLANAR}

RULES: dict[str, Rule] = {
    **{name: Rule(e.slope(slope), is_complex=name in ("abs", "neg")) for name, slope in SLOPES.items()},
    **{name: Rule(lambda call: schur(call, "how often a number is used"), is_complex=True) for name in COPIES},
    **{name: Rule(e.one("the same numbers"), is_complex=True) for name in SAME},
    **{name: Rule(e.one("the same numbers"), is_complex=True) for name in REAL_PARTS},
    **{name: Rule(e.one("a part of it"), "tensors", SQUARES, is_complex=True) for name in SIDE_BY_SIDE},
    **{name: Rule(e.one("a part of it"), "self src", SQUARES, is_complex=True) for name in WRITTEN_INTO},
    **{name: Rule(e.median) for name in SORTED},
    **{
        name: Rule(affine(keep), active, ALONE if name == "einsum" else SUM, is_complex=True)
        for name, (active, keep) in AFFINE.items()
    },
    **{name: Rule(product, f"{a} {added} | {b} {added}", SUM, is_complex=True) for name, (a, b, added) in PRODUCTS.items()},
    **{name: Rule(convolved, "input bias | weight bias", SUM) for name in CONVOLUTIONS},
    **{name: Rule(by_argument(input=e.normalised, **IN_WEIGHTS), "input bias | weight bias", SUM) for name in NORMALISED},
    **{name: Rule(c.limited, active, SQUARES) for name, active in ENDS.items()},
    **{name: Rule(c.extreme, "self other", SQUARES) for name in GREATEST},
    **{name: Rule(fourier, is_complex=True) for name in TRANSFORMS},
    **{name: Rule(max_pool) for name in MAX_POOLS},
    **{name: Rule(mean_pool) for name in MEAN_POOLS},
    **{name: Rule(interpolated) for name in INTERPOLATIONS},
    **{name: Rule(sampled, "input") for name in ("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")},
    "_native_batch_norm_legit_no_training": Rule(by_argument(input=e.batch_norm, **IN_WEIGHTS), "input bias | weight bias", SUM),
    "_log_softmax": Rule(e.log_softmax),
    "_softmax": Rule(e.softmax),
    "_to_copy": Rule(e.cast, is_complex=True),
    "add": Rule(c.shifted, "self other", SUM, is_complex=True),
    "alpha_dropout": Rule(e.dropout),
    "amax": Rule(e.one("the largest is 1-Lipschitz")),
    "aminmax": Rule(e.one("the largest is 1-Lipschitz")),
    "amin": Rule(e.one("the smallest is 1-Lipschitz")),
    "cdist": Rule(e.distances, "x1 | x2"),
    "celu": Rule(e.celu),
    "complex": Rule(c.chosen, "real imag", SQUARES, is_complex=True),
    "copy": Rule(c.copied, "self src", SUM, is_complex=True),
    "cummax": Rule(e.running),
    "cummin": Rule(e.running),
    "diff": Rule(differences, "self"),
    "dist": Rule(e.distances, "self other", SUM),
    "div": Rule(c.divided, "self", is_complex=True),
    "dropout": Rule(e.dropout),
    "elu": Rule(e.elu),
    "embedding": Rule(c.looked_up, "weight"),
    "feature_dropout": Rule(e.dropout),
    "gather": Rule(lambda call: schur(call, "how often a number is used"), "self", is_complex=True),
    "gelu": Rule(e.gelu),
    "huber_loss": Rule(c.loss, "self target", SUM),
    "hardtanh": Rule(e.one("largest slope")),
    "hypot": Rule(c.convex, "self other", SQUARES),
    "index": Rule(lambda call: schur(call, "how often a number is used"), "self", is_complex=True),
    "leaky_relu": Rule(e.leaky),
    "l1_loss": Rule(c.loss, "self target", SUM),
    "lerp": Rule(c.weighed, "self end | weight", SUM),
    "linalg_vector_norm": Rule(e.vector_norm, is_complex=True),
    "log_softmax": Rule(e.log_softmax),
    "logaddexp": Rule(c.convex, "self other", SQUARES),
    "logaddexp2": Rule(c.convex, "self other", SQUARES),
    "logcumsumexp": Rule(e.running),
    "logsumexp": Rule(e.one("its gradient is a distribution")),
    "masked_fill": Rule(c.chosen, "self value", SQUARES),
    "mul": Rule(c.scaled, "self | other", is_complex=True),
    "norm": Rule(e.vector_norm, is_complex=True),
    "pairwise_distance": Rule(e.distances, "x1 x2", SUM),
    "pow": Rule(c.power),
    "prelu": Rule(by_argument(self=e.prelu, weight=affine()), "self | weight"),
    "quantile": Rule(e.quantile),
    "rrelu": Rule(e.rrelu),
    "rsub": Rule(c.shifted, "self other", SUM, is_complex=True),
    "scaled_dot_product_attention": Rule(c.attention, "value"),
    "scatter_reduce": Rule(c.scattered, "self src", SUM),
    "selu": Rule(e.slope(computed(SELU))),
    "smooth_l1_loss": Rule(c.loss, "self target", SUM),
    "softmax": Rule(e.softmax),
    "softplus": Rule(e.softplus),
    "std": Rule(e.deviation),
    "sub": Rule(c.shifted, "self other", SUM, is_complex=True),
    "threshold": Rule(e.threshold),
    "to": Rule(e.cast, is_complex=True),
    "where": Rule(c.chosen, "self other", SQUARES, is_complex=True),
}
"""By operator: its factor, in which of its arguments, and how what several contribute is joined."""
