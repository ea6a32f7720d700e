"""Networks defined by flows."""
