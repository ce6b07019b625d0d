"""How long hypothesis searches: a moment in every run of the tests, hours with ``pytest --hypothesis-profile=campaign``."""

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

settings.register_profile("short", max_examples=150, derandomize=True, **_COMMON)
settings.register_profile("campaign", max_examples=20_000, **_COMMON)
settings.load_profile("short")
