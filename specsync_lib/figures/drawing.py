"""What of a drawing moves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist


@dataclass(frozen=True)
class Drawing:
    """The artists that depend on where a slider stands, and what puts them there."""

    artists: Sequence[Artist]
    move: Callable[[Any], None]
