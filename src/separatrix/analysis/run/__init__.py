"""How long a run is, and how sure its answer."""
