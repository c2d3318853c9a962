"""How Hypothesis runs here: a slow machine is no failure, since nothing in these tests measures time."""

from hypothesis import HealthCheck, settings

settings.register_profile("taskfold", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("taskfold")
