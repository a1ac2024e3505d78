"""Errors a person can act on."""


class InputError(ValueError):
    """Input that cannot be used: one line that says what, where and what to do.

    Every door (``run_all.sh``, ``python -m specsync_lib...``) prints the line alone and exits with ``EXIT_CODE``.
    """

    EXIT_CODE = 2
