"""Checks that your own system, analysis or block keeps the contract that the library relies on."""

from separatrix.testing.analyses import check_analysis
from separatrix.testing.blocks import check_block
from separatrix.testing.held import held_bytes
from separatrix.testing.modules import check_module_untouched
from separatrix.testing.systems import check_system

__all__ = ["check_analysis", "check_block", "check_module_untouched", "check_system", "held_bytes"]
