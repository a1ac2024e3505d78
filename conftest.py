"""For every test: a property may take as long as a busy machine needs; benchmarks are never timed tests.

Properties meet the same examples everywhere; SPECSYNC_LONG_TESTS=1, the campaign and the fuzzers look for new ones.
"""

import os

from hypothesis import settings

settings.register_profile("specsync", deadline=None, derandomize="SPECSYNC_LONG_TESTS" not in os.environ)
settings.load_profile("specsync")

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: it, and what it starts, computes on its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def pytest_collection_modifyitems(items):
    """Files with slow tests first: a worker that took one last would leave the others with nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
