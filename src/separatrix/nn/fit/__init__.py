"""Fits of vector fields to data."""
