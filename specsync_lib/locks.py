"""One at a time: an advisory lock that dies with its process. Standard library alone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specsync_lib.errors import InputError


@contextmanager
def exclusive(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file at ``path`` for the duration of the block; ``wait`` until another process gives it up.

    Raises
    ------
    InputError: another process holds it, and nobody wants to wait; ``what`` says what that process does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise InputError(f"{what} is already under way here (process {owner}); wait for it or stop it") from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
