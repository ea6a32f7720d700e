"""Recurrent cells and layers derived from ODEs, with PyTorch's signatures; one equation per file."""

from separatrix.nn.cells.antisymmetric import AntisymmetricCell, AntisymmetricRNN
from separatrix.nn.cells.cell import OdeCell
from separatrix.nn.cells.cornn import CoRNN, CoRNNCell
from separatrix.nn.cells.layer import OdeLayer
from separatrix.nn.cells.lem import LEM, LEMCell
from separatrix.nn.cells.lipschitz import LipschitzCell, LipschitzRNN

__all__ = [
    "LEM",
    "AntisymmetricCell",
    "AntisymmetricRNN",
    "CoRNN",
    "CoRNNCell",
    "LEMCell",
    "LipschitzCell",
    "LipschitzRNN",
    "OdeCell",
    "OdeLayer",
]
