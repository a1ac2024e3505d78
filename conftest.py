"""For every test: a property may take as long as a busy machine needs; benchmarks are never timed tests."""

from hypothesis import settings

settings.register_profile("specsync", deadline=None)
settings.load_profile("specsync")
