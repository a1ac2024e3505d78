"""Errors a person can act on."""

import errno

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


def advice(error: OSError, elsewhere: str) -> str:
    """What to do about a file or folder that the system refused; ``elsewhere`` says what may be named in its place."""
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"name {elsewhere}"
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"free some space, or name {elsewhere}, and run again"
        case errno.EMFILE | errno.ENFILE:
            return "allow more open files (ulimit -n) and run again"
        case errno.EEXIST | errno.ENOTDIR | errno.EISDIR | errno.ENOTEMPTY:
            return f"something else lies there: move it away, or name {elsewhere}"
        case errno.ELOOP:
            return "a link leads to itself: remove it"
        case errno.ENAMETOOLONG:
            return f"the path is too long: name {elsewhere}"
        case errno.ENOENT if error.filename is None:  # as tempfile says it
            return "name a folder that can be written in TMPDIR"
        case errno.ENOENT:
            return "it went while the run worked, or a link leads nowhere: run again"
        case errno.ENOMEM | errno.EAGAIN:
            return "end other programs, or allow more memory and processes (ulimit -a), and run again"
        case _:
            return "check the disk and run again"
