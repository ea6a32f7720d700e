"""Two systems compared."""
