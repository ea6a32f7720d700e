"""What a user names on a command line, as objects: a model, its weights, its inputs."""

from separatrix.loading.inputs import load_arguments, load_inputs
from separatrix.loading.model import load_model
from separatrix.loading.weights import load_weights_

__all__ = ["load_arguments", "load_inputs", "load_model", "load_weights_"]
