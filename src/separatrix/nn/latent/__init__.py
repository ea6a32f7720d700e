"""Latent models of time series with irregular sampling."""
