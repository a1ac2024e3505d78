"""For every test: a property may take as long as a busy machine needs; benchmarks are never timed tests.

Properties meet the same examples everywhere; SPECSYNC_LONG_TESTS=1, the campaign and the fuzzers look for new ones.
"""

import os
import sys

import pytest
from hypothesis import settings

settings.register_profile("specsync", deadline=None, derandomize="SPECSYNC_LONG_TESTS" not in os.environ)
settings.load_profile("specsync")

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: it, and what it starts, computes on its share of the cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


@pytest.fixture(scope="module", autouse=True)
def threads_as_they_were():
    """How many threads a test's tensors are computed on ends with its file, whoever set it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread(threads_as_they_were):
    """Small tensors: a second thread costs more than it brings, on a busy machine much more."""
    sys.modules["torch"].set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Files with slow tests first: a worker that took one last would leave the others with nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
