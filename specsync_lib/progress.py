"""Lines that a long computation tells whoever waits for it, in a notebook and at the terminal that runs it."""

from collections.abc import Callable

# The door shows the printed lines that begin so, and leaves a notebook's other output in the notebook.
MARK = "» "


def say(text: str) -> None:
    """Print one line of progress: how long it will take, how far it is, how it ended."""
    print(f"{MARK}{' '.join(text.split())}", flush=True)


def tenths(total: int, what: str) -> Callable[[int], None]:
    """A function that is told how many more of ``total`` are done, and says so at every tenth."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 10 * before // total < 10 * done // total:
            say(f"{done:,} of {total:,} {what} ({done / total:.0%})")

    return more
