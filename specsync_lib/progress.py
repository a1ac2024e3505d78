"""Lines that a long computation tells whoever waits for it, in a notebook and at the terminal that runs it."""

# The door shows the printed lines that begin so, and leaves a notebook's other output in the notebook.
MARK = "» "


def say(line: str) -> None:
    """Print one line of progress: how long it will take, how far it is."""
    print(f"{MARK}{line}", flush=True)
