"""How a job ends, whichever it is: its own exit code, or one line for people and a code."""

import signal
import sys
from collections.abc import Callable

from specsync_lib.errors import INTERRUPTED_EXIT_CODE, InputError, advice
from specsync_lib.values import on_one_line

LONGEST_LINE = 400  # of what ended a job


def ended(work: Callable[[], int], go_on: str = "") -> int:
    """The exit code of ``work``; where it was stopped or can not go on, one line says so.

    Parameters
    ----------
    go_on : what to do after Ctrl-C or SIGTERM, both of which stop it wherever it is.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as ``__main__`` leaves it; who ignores it goes on so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return work()
    except InputError as error:
        print(f"specsync: {on_one_line(str(error), LONGEST_LINE)}", file=sys.stderr)
        return InputError.EXIT_CODE
    except OSError as error:
        print(f"specsync: {on_one_line(str(error), LONGEST_LINE)}; {advice(error, 'another folder')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nspecsync: interrupted{go_on and f'; {go_on}'}", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
