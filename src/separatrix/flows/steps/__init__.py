"""Steps of a solution: their lengths, the items that take them, and the states between them."""
