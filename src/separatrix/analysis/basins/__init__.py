"""Attractors and their basins."""
