"""How many examples a property is tried on: few, always the same, in CI; many, always others, on request.

HYPOTHESIS_PROFILE=long python -m pytest tests/properties --hypothesis-show-statistics
"""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("ci", max_examples=16, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=200, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
