"""How perturbations and gradients grow in time."""
