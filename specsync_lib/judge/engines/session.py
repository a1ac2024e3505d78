"""What the judge asks of a language model, wherever that runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Protocol

from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One way in which a text may go on: a line before every answer, and the answers.

    Attributes
    ----------
    lines : [k + 1] the tokens that stand before each answer.
    letters : [k] the answers; the last line has none.
    last : whether the row after the last line alone is asked for, instead of one after every line.
    """

    lines: Sequence[Sequence[int]]
    letters: Sequence[int]
    last: bool = False

    @property
    def tokens(self) -> list[int]:
        """Lines and answers as they follow each other."""
        answers = ([letter] for letter in self.letters)
        return list(chain.from_iterable(chain(*pair) for pair in zip_longest(self.lines, answers, fillvalue=())))

    @property
    def ends(self) -> list[int]:
        """For every row that is asked for, how many of the branch's tokens stand before the answer."""
        ends, count = [], 0
        for line in self.lines:
            ends.append(count + len(line))
            count += len(line) + 1
        return ends[-1:] if self.last else ends


class Session(Protocol):
    """One recording's way to the model. It may keep what it has read; the text alone decides what comes out.

    Attributes
    ----------
    passes, tokens_read : how often the model was asked, and the tokens that went through it (a server's: that were
        sent), so far.
    """

    passes: int
    tokens_read: int

    def rows(self, text: Sequence[int], branches: Sequence[Branch]) -> list[Float32[Tensor, "asked 15"]]:
        """The letters' logits at the places that each branch asks for, in ONE pass; each row up to a constant.

        Raises
        ------
        ServerFault : a server that did not answer, or whose answer can not be believed.
        """

    def next(self, text: Sequence[int]) -> int:
        """The likeliest token of the whole vocabulary after a text."""

    def fork(self) -> "Session":
        """Another one at the same place; what either is asked from now on, the other does not notice."""


class Engine(Protocol):
    """A model that many recordings share.

    Attributes
    ----------
    about : what it is and where, in a few words.
    """

    about: str

    def open(self) -> Session:
        """Begin one recording."""
