"""Waiting for other threads: until something is true, or long enough that no busy machine is the reason."""

import threading
import time
from collections.abc import Callable

LONG_S = 120.0


def wait_until(true: Callable[[], object]) -> None:
    """Return once it is."""
    until = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.005)


def wait_for_end(*threads: threading.Thread) -> None:
    """Return once all of them have ended."""
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive(), f"{thread.name} does not end"


class HeldClock:
    """A pipeline's clock that stands at 0 s until it is let go, so that no deadline passes before."""

    def __init__(self) -> None:
        self._from_s, self.sleep = float("inf"), time.sleep

    def let_go(self) -> None:
        """From now on, or from the first call, it is the machine's."""
        self._from_s = min(self._from_s, time.monotonic())

    def now(self) -> float:
        return max(0.0, time.monotonic() - self._from_s)
