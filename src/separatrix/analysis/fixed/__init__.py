"""Fixed points and cycles."""
