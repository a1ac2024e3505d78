"""Time that a pipeline runs in: the machine's, or a virtual one that jumps from job to job."""

import heapq
import time
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Protocol

import numpy as np


class Clock(Protocol):
    """Seconds from any origin, and a way to let them pass."""

    def now(self) -> float:
        """The time in seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


class RealClock:
    """The machine's monotonic clock."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


class SteadyClock:
    """A clock that stands still where the one under it runs backwards."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._latest_s = clock, -inf
        self.sleep = clock.sleep

    def now(self) -> float:
        """The latest time that was ever read."""
        self._latest_s = max(self._latest_s, self._clock.now())
        return self._latest_s


class VirtualClock:
    """Time that passes only where someone sleeps: a job's sleeps are its duration, and nobody waits for it.

    Events at the same instant come in the order they were made, or, with ``rng``, in a random one.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._now_s = self._slept_s = 0.0
        self._events: list[tuple[float, float, int, Callable[[], None]]] = []
        self._numbers, self._rng = count(), rng

    def now(self) -> float:
        """The time, inside a job with what it has slept so far."""
        return self._now_s + self._slept_s

    def sleep(self, seconds: float) -> None:
        """The caller takes this long; inf: it never returns."""
        self._slept_s += seconds

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have ``call`` run ``delay_s`` from now; inf: never."""
        at_s = self.now() + delay_s
        if at_s < inf:
            tie = self._rng.random() if self._rng else 0.0
            heapq.heappush(self._events, (at_s, tie, next(self._numbers), call))

    def start_job(self) -> None:
        """What is slept from here on is the job's duration."""
        self._slept_s = 0.0

    def end_job(self) -> float:
        """The job's duration; the clock is back at its start."""
        slept_s, self._slept_s = self._slept_s, 0.0
        return slept_s

    def advance(self, until_s: float) -> bool:
        """Go to the next event before or at ``until_s`` and run it, or just there; False if there is neither."""
        if self._events and self._events[0][0] <= until_s:
            at_s, _, _, call = heapq.heappop(self._events)
            self._now_s = max(self._now_s, at_s)
            call()
            return True
        if until_s == inf:
            return False
        self._now_s = max(self._now_s, until_s)
        return True
