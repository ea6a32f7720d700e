"""Fixed points of maps, equilibria of flows, and cycles."""
