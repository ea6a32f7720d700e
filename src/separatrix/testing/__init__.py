"""Checks that a system, an analysis or a block of one's own keeps the contract."""

from separatrix.testing.blocks import check_block
from separatrix.testing.held import held_bytes
from separatrix.testing.systems import check_analysis, check_module_untouched, check_system

__all__ = ["check_analysis", "check_block", "check_module_untouched", "check_system", "held_bytes"]
