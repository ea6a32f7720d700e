"""Reversible networks: activations are recomputed from the output instead of stored."""
