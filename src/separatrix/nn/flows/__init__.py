"""Networks that are flows."""
