"""The Lipschitz factor of each PyTorch operator: a proven factor, or the reason why there is none. See Note [Rules]."""

import torch

from separatrix.bounds.certificate import activations, combine, copies, fourier, linear, normalisation, order, pooling, products
from separatrix.bounds.certificate.call import DRAWS, Call, NoBoundError
from separatrix.bounds.certificate.factor import REASONS, RULES, Factor

FAMILIES = (activations, combine, copies, fourier, linear, normalisation, order, pooling, products)
"""The files whose functions are the rules."""


def bound_behind(call: Call) -> tuple[float, Factor]:
    """The bound from the network's input to behind an operator, and its own factor.

    Raises:
        NoBoundError: it has none, or none that is known where these arguments depend on the input.
    """
    rule = RULES.get(call.name)
    if rule is None:
        draws = torch.Tag.nondeterministic_seeded in call.op.tags
        raise NoBoundError(REASONS.get(call.name, DRAWS if draws else f"no bound is known for the operator {call.name}"))
    rule.check(call)
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
