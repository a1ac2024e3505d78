"""Standard output and error as they come: closed, piped to a reader that left, on a full disk, without UTF-8.

What a run says is never a reason for it to stop, and nothing that is said is a traceback.
"""

import io
import os
import select
import sys
from contextlib import suppress


class Kept(io.RawIOBase):
    """A descriptor whose losses are nobody's concern: what can not be written any more is dropped."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.lost = descriptor, False

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        if not self.lost:
            try:
                select.select((), (self.descriptor,), ())  # a terminal that another program made non-blocking
                return os.write(self.descriptor, content)
            except OSError:  # EPIPE, ENOSPC, EIO of a terminal that is gone, EBADF
                self.lost = True
                with suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                    os.dup2(nowhere.fileno(), self.descriptor)  # for the programs that are started from here
        return len(content)


def settle() -> None:
    """Give this process an output and an error that take everything, in the terminal's encoding as far as it goes.

    A descriptor that was closed is opened on nothing first, so that no file of ours gets its number.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(descriptor, True)  # or the programs that are started from here have none
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        encoding = getattr(before, "encoding", None) or "utf-8"
        kept = io.BufferedWriter(Kept(descriptor))
        setattr(sys, name, io.TextIOWrapper(kept, encoding, "replace", line_buffering=True))
