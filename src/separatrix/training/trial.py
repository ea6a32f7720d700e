"""Trial of a loss before a run: one number, with a gradient to every trained parameter, all of it through the model."""

import torch
from torch import Tensor

from separatrix.core.arguments import default_dtype
from separatrix.core.errors import InputError, ModelError, SeparatrixError
from separatrix.core.twin import twin
from separatrix.training.batches import Batches
from separatrix.training.objective import Objective

SAME = 1e-4  # relative difference of two gradients, one of which is that of parameters in their own precision

# Note [Parameters by another way]
# The map differentiates the loss as a function of the parameters that it puts into the model. A penalty on model.parameters()
# inside the loss, or a model that keeps a second reference to a parameter, would be left out. So the gradient is compared with that
# of the loss at the parameters themselves, which sees every way. Both are computed without dropout, because it may draw in another
# order under `torch.func`; a model that draws in evaluation mode too is not compared.


def check_loss(objective: Objective, batches: Batches, parameters: dict[str, Tensor]) -> bool:
    """Try the loss of step 0. See Note [Parameters by another way].

    Returns:
        Whether the loss draws from PyTorch's generator.

    Raises:
        ModelError: the model or the loss fails.
        InputError: the loss is not one finite number, or a gradient is missing or incomplete.
    """
    whole, draws = _gradient(objective, batches, parameters, objective.in_training)
    in_evaluation, still = _gradient(objective, batches, parameters, ()) if draws else (whole, False)
    if still:
        return True
    modes = () if draws else objective.in_training
    ready, data = _ready(objective, batches, modes)
    theta = torch.cat([p.detach().flatten() for p in parameters.values()]).double()
    own = ready.gradient(theta, data, 0)
    apart = (own - in_evaluation).abs()
    tol = max(SAME, *(2 * torch.finfo(p.dtype).eps for p in parameters.values()))
    if bool(in_evaluation.isfinite().all()) and not bool(apart.amax() <= tol * in_evaluation.abs().amax()):
        if not torch.equal(_gradient(objective, batches, parameters, modes)[0], in_evaluation):
            return draws  # it draws elsewhere: the trial of a run's first step says so
        place = int(apart.nan_to_num(torch.inf).argmax())
        ends = torch.tensor([p.numel() for p in parameters.values()]).cumsum(0)
        name = tuple(parameters)[int((ends <= place).sum())]
        raise InputError(
            f"the gradient of the loss by a number of {name} is {float(in_evaluation[place]):.6g}, but {float(own[place]):.6g} "
            "through the model's attributes.\nThe loss, a hook or the model uses parameters in another way, such as a penalty on "
            "model.parameters() inside the loss. Use the optimiser's weight_decay, or return the penalty from the model."
        )
    return draws


def _ready(objective: Objective, batches: Batches, modes: tuple[str, ...]) -> tuple[Objective, tuple[object, object]]:
    """The objective and the data of step 0 in float64, with these parts of the model in training mode."""
    ready = twin(objective, dtype=torch.float64, apart=True)
    ready.__dict__["in_training"] = modes
    return ready, twin(batches, dtype=torch.float64)(0)


def _gradient(objective: Objective, batches: Batches, parameters: dict[str, Tensor], modes: tuple[str, ...]) -> tuple[Tensor, bool]:
    """The gradient of the loss of step 0 at the parameters themselves, in one vector, and whether the loss draws."""
    ready, data = _ready(objective, batches, modes)
    with torch.inference_mode(False), torch.enable_grad(), ready.drawn(0), default_dtype(torch.float64):
        before = torch.get_rng_state()
        try:
            loss = ready.value(ready.model, data)
        except SeparatrixError:
            raise
        except Exception as error:  # user code may raise anything; the message repeats it
            lines = str(error).strip().splitlines() or ["no message"]
            raise ModelError(
                f"the loss of the first step failed: {type(error).__name__}: {lines[0].rstrip('.')}.\n"
                "It is computed as loss(model(inputs), targets), in float64."
            ) from error
        if not bool(loss.isfinite()):
            raise InputError(
                f"the loss of the first step is {float(loss)}; expected a finite number.\n"
                "Clean the data, or start from weights that are finite."
            )
        draws = not torch.equal(before, torch.get_rng_state())
        tensors = list(parameters.values())
        found = torch.autograd.grad(loss, tensors, allow_unused=True) if loss.requires_grad else [None] * len(tensors)
    absent = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(parameters)} trained parameters have no gradient: {', '.join(absent[:5])}"
            f"{', …' if len(absent) > 5 else ''}.\nThe loss does not depend on them. PyTorch's optimisers leave such parameters "
            "unchanged: exclude them with requires_grad_(False)."
        )
    pieces = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found if gradient is not None]
    return torch.cat([piece.flatten().double() for piece in pieces]), draws
