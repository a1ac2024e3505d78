"""The rollback log: what was drafted, judged, thrown away and committed, in order; the committed plan is its replay.

The log is written beside the pipeline's own state and replayed without it, so that the two can be held against each
other: a plan that was committed without its verdict, twice, or out of order does not survive :func:`replay`.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from specsync_lib.errors import InputError
from specsync_lib.files import write_text

Kind = Literal["drafted", "judged", "overruled", "unverified", "unasked", "rolled back", "committed"]

DECISIONS = ("judged", "unverified", "unasked")


class Entry(NamedTuple):
    """One line of the log.

    kind
        drafted: ``tokens`` are the chunk's draft. judged: a verdict counted; ``corrections`` are the frames (counted in
        the chunk) whose token it changes, with the new token. overruled: a verdict came too late and changes nothing.
        unverified: the draft was committed to without a verdict. unasked: the same, because it was sure. rolled back:
        what was generated so far was dropped. committed: the chunk's frames went out.
    by
        Who decided each frame (`stages.By`), where the entry is a decision.
    """

    at_s: float
    kind: Kind
    chunk: int
    tokens: tuple[int, ...] = ()
    corrections: tuple[tuple[int, int], ...] = ()
    by: tuple[str, ...] = ()


def corrections(draft: Sequence[int], tokens: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The (frame, token) pairs that turn a draft into other tokens of the same length."""
    return tuple((frame, token) for frame, (old, token) in enumerate(zip(draft, tokens, strict=True)) if old != token)


class CommitLog:
    """Append-only; ``keep`` bounds how many of the last entries stay in memory (None: all)."""

    def __init__(self, keep: int | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep)

    def add(self, at_s: float, kind: Kind, chunk: int, **fields: tuple) -> None:
        """Append an entry; see :class:`Entry`."""
        self._entries.append(Entry(at_s, kind, chunk, **fields))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is in memory, oldest first."""
        return tuple(self._entries)

    def write(self, path: str | Path) -> None:
        """JSON lines, one an entry."""
        write_text(path, "".join(json.dumps(entry._asdict()) + "\n" for entry in self._entries))


def read_log(path: str | Path) -> tuple[Entry, ...]:
    """The entries of a file that :meth:`CommitLog.write` wrote."""
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return tuple(
        Entry(
            **row
            | {name: tuple(row[name]) for name in ("tokens", "by")}
            | {"corrections": tuple(map(tuple, row["corrections"]))}
        )
        for row in rows
    )


def replay(entries: Iterable[Entry]) -> list[tuple[int, ...]]:
    """The committed plan, chunk by chunk: each draft with the corrections that counted.

    Raises
    ------
    InputError: the entries contradict the rules (a commit without a decision, twice or out of order; a decision after
        the commit or a second one; a correction outside the chunk).
    """
    drafts: dict[int, list[int]] = {}
    decided: set[int] = set()
    plan: list[tuple[int, ...]] = []
    for entry in entries:
        chunk = entry.chunk
        if entry.kind == "drafted":
            _require(chunk not in drafts and chunk >= len(plan), entry, "drafted twice")
            drafts[chunk] = list(entry.tokens)
        elif entry.kind in DECISIONS:
            _require(chunk in drafts and chunk not in decided, entry, "decided without a draft, or twice")
            decided.add(chunk)
            for frame, token in entry.corrections:
                _require(0 <= frame < len(drafts[chunk]), entry, "corrects a frame outside the chunk")
                drafts[chunk][frame] = token
        elif entry.kind == "committed":
            _require(chunk == len(plan), entry, "committed out of order")
            _require(chunk in decided, entry, "committed without a decision")
            plan.append(tuple(drafts.pop(chunk)))
            decided.remove(chunk)
    return plan


def _require(holds: bool, entry: Entry, what: str) -> None:
    if not holds:
        raise InputError(f"commit log: chunk {entry.chunk} at {entry.at_s:.3f} s: {what}; the log is damaged")
