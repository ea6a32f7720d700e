"""Training as a dynamical system: optimisers as maps, mini-batches as a function of the step, curvature."""

from separatrix.training.batches import Batches
from separatrix.training.optimizers.rule import Rule

__all__ = ["Batches", "Rule"]
