"""What an attractor looks like: its dimension, spectrum and return map."""
