"""Initial value problems: equal or adaptive steps, dense output."""
