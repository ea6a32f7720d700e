"""Layers that conserve a sum or a norm, and gradient layers."""
