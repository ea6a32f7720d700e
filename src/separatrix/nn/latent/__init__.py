"""Series at uneven times."""
