"""What the step of a method does."""
