"""What became of one case of the campaign."""

from collections import Counter
from dataclasses import dataclass, field

RIGHT, REFUSED = "right answer", "one line and exit code 2"


class Lost(AssertionError):
    """The product lost: the line says what came instead of what should."""


@dataclass
class Outcome:
    """Of one case, which may stand for many tries.

    Attributes
    ----------
    how : how often it survived in which way; ``RIGHT`` and ``REFUSED``, or what a section calls its own.
    lost : a line for each that was lost.
    facts : numbers for the section's entry.
    shown : what the person saw.
    """

    how: Counter = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    shown: str = ""

    @property
    def tried(self) -> int:
        """How many."""
        return sum(self.how.values()) + len(self.lost)


def survived(how: str, shown: str = "") -> Outcome:
    """One try that did."""
    return Outcome(Counter({how: 1}), shown=shown)


def require(holds: bool, line: str) -> None:
    """Lose with a line where something does not hold."""
    if not holds:
        raise Lost(line)


def one_line(text: str) -> str:
    """A refusal as it is shown: checked to be one line that says enough and not too much."""
    require(len(text.splitlines()) == 1, f"not one line: {text[:300]!r}")
    require(10 < len(text) < 700, f"{len(text)} characters: {text[:300]!r}")
    require("Traceback (most" not in text, f"a traceback: {text[:300]!r}")
    return text


def batch_names(short: bool, batches: int, each: int, short_each: int) -> list[str]:
    """A section's batches by their seed, each with how many tries it holds; the short form is one smaller batch."""
    return [f"seed 0: {short_each}"] if short else [f"seed {seed}: {each}" for seed in range(batches)]


def batch_of(name: str) -> tuple[int, int]:
    """The seed and the tries of a name of :func:`batch_names`."""
    seed, count = name.removeprefix("seed ").split(": ")
    return int(seed), int(count)
