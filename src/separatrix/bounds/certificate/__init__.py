"""From the operators of a network to the bound of its Lipschitz constant; `certificate` is the door."""
