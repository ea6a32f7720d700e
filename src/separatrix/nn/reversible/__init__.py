"""Networks whose activations are computed back."""
