"""From the operators of a network to the bound of its Lipschitz constant; `separatrix.nn.certificate` is the door."""
