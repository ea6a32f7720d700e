"""Loading of what a command line names: a model, its weights and its inputs."""

from separatrix.loading.inputs import load_arguments, load_inputs
from separatrix.loading.model import load_model
from separatrix.loading.weights import load_weights_

__all__ = ["load_arguments", "load_inputs", "load_model", "load_weights_"]
