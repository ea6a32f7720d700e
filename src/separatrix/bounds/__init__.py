"""Proven bounds and matching measurements: certificates of networks, norms of linear layers, robustness against attacks."""

from separatrix.bounds.certificate.certificate import certificate
from separatrix.bounds.operator_norm.operator_norm import operator_norm
from separatrix.bounds.robustness.adversarial import adversarial_images
from separatrix.bounds.robustness.robustness import robustness

__all__ = [
    "adversarial_images",
    "certificate",
    "operator_norm",
    "robustness",
]
