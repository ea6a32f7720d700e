"""Layers and networks of Lipschitz factor at most 1."""
