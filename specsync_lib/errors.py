"""Errors a person can act on."""

INTERRUPTED_EXIT_CODE = 130  # of what Ctrl-C or a signal like it ended


class InputError(ValueError):
    """Input that cannot be used: one line that says what, where and what to do.

    Every door (``run_all.sh``, ``python -m specsync_lib...``) prints the line alone and exits with ``EXIT_CODE``.
    """

    EXIT_CODE = 2


class CheckError(AssertionError):
    """A check at a notebook's end that does not hold; the words say what should, and what came instead."""


def require(holds: bool, otherwise: str) -> None:
    """Check what must hold for every input, also under ``python -O``.

    Raises
    ------
    CheckError: it does not; ``otherwise`` says so in words.
    """
    if not holds:
        raise CheckError(otherwise)
