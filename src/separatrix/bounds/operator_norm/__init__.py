"""Ways to prove a bound of a linear layer's norm, one a file; `operator_norm` is the door to them."""
