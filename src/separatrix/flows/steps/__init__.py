"""The steps of a solution: how long, for which items, and what lies between them."""
