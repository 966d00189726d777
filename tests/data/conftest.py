"""Property tests of the data room: few examples, and no deadlines, as the machine may be busy."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "data", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("data")
