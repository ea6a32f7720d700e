"""Ways to prove a bound of a linear layer's norm, one a file; `separatrix.nn.operator_norm` is the door to them."""
