"""Settings of all tests."""

from hypothesis import settings

# Hypothesis fails an example that takes 200 ms: on a busy machine that says nothing of the code (pytest-timeout does).
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
