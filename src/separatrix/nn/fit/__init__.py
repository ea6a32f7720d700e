"""Fields fitted to data."""
