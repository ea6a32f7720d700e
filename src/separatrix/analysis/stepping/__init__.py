"""What the step of an integration method does: its order of convergence and its region of stability."""
