from hypothesis import settings

# The first example of a process pays for loading kernels; a deadline would blame the test.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
