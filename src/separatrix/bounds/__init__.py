"""Proven bounds and matching measurements: certificates of networks, norms of linear layers, robustness against attacks."""

from separatrix.bounds.certificate.certificate import Certificate, certificate
from separatrix.bounds.operator_norm.operator_norm import OperatorNorm, operator_norm
from separatrix.bounds.robustness.adversarial import AdversarialImages, adversarial_images
from separatrix.bounds.robustness.robustness import Robustness, robustness

__all__ = [
    "AdversarialImages",
    "Certificate",
    "OperatorNorm",
    "Robustness",
    "adversarial_images",
    "certificate",
    "operator_norm",
    "robustness",
]
