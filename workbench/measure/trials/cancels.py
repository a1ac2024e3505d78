"""Streams that are cancelled: what was committed stays right, and nothing is left."""

import threading
from collections import Counter
from pathlib import Path

import numpy as np

from tests.toys.streams import cancelled_run, no_threads_left
from workbench.measure.trials.outcome import Outcome, batch_names, batch_of

BATCHES, EACH, SHORT_EACH = 10, 100, 5


def names(short: bool) -> list[str]:
    """Batches by their seed."""
    return batch_names(short, BATCHES, EACH, SHORT_EACH)


def attempt(name: str, folder: Path) -> Outcome:
    """A batch."""
    seed, count = batch_of(name)
    rng, outcome, before = np.random.default_rng(seed), Outcome(Counter()), set(threading.enumerate())
    number = complete = 0
    while outcome.tried < count:
        number += 1
        try:
            how = cancelled_run(rng)
            if not no_threads_left() or not before.issuperset(threading.enumerate()):
                raise AssertionError("a thread is left")
        except Exception as error:
            outcome.lost.append(f"run {number}: {type(error).__name__}: {str(error)[:200]}")
        else:
            outcome.how["what was committed is the target's, nothing left"] += how == "cancelled"
            complete += how == "complete"
    outcome.facts["runs that were over before their cancel, not counted"] = complete
    return outcome
