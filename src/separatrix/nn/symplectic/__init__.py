"""Layers that conserve volume or the symplectic form, and Hamiltonian networks."""
