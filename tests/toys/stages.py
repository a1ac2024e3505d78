"""A process that stands for one that hears a long recording; it imports next to nothing, so that it starts at once."""

import time


def quick(minutes, tell):
    """One stage, and for a long recording a second that hangs."""
    tell.send({"stage": "level", "wall_s": 0.1})
    if minutes > 1:
        time.sleep(600)
