"""Initial value problems: steps, tolerances, dense output."""
