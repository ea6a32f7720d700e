"""Along checkpoints of a training."""
