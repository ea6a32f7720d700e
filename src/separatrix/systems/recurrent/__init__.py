"""Recurrent networks as systems."""
