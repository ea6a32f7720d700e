"""Layers that keep a volume, a symplectic form or an energy."""
