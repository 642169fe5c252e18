"""Settings of all tests."""

from hypothesis import settings

# No test measures time: a first call into torch may take a second on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
