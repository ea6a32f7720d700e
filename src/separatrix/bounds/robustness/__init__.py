"""What attacks find, beside what is proven."""
