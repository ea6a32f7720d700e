"""Layers that keep a sum, a norm or a potential."""
