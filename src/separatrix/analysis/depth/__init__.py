"""Networks in depth."""
