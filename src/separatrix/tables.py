"""What there is, by name: the tables that the command line, the documentation and the tests iterate over."""

from separatrix.analysis.tables import ANALYSES, PROFILES, SWEEPS
from separatrix.nn.tables import BLOCKS, CELLS
from separatrix.systems import SYSTEMS
from separatrix.training.optimizers import OPTIMIZERS

__all__ = ["ANALYSES", "BLOCKS", "CELLS", "OPTIMIZERS", "PROFILES", "SWEEPS", "SYSTEMS"]
