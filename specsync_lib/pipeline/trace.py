"""What every stage did and when: a table for the Gantt, and JSON that Perfetto (ui.perfetto.dev) or Chrome opens.

Source: "Trace Event Format" (Chromium project): complete events (ph X), instants (i) and thread names (M), in µs.
"""

import json
from collections import deque
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from specsync_lib.files import write_text

STAGES = ("audio", "draft", "judge", "generator", "commit")  # the Gantt's rows, top to bottom


class TraceEvent(NamedTuple):
    """One thing that happened.

    stage: one of STAGES; what: "draft", "verify", "plan", "begin", "step 1" …, "render", "commit", or an instant such
    as "heard", "verdict", "rolled back"; wait_s: how long it could have run but did not; note: a verdict in words.
    Instants have end_s == start_s.
    """

    stage: str
    what: str
    chunk: int
    start_s: float
    end_s: float
    wait_s: float = 0.0
    attempt: int = 1
    note: str = ""


class Trace:
    """Events in order of their end; ``keep`` bounds how many of the last ones stay in memory (None: all)."""

    def __init__(self, keep: int | None = None) -> None:
        self._events: deque[TraceEvent] = deque(maxlen=keep)

    def add(self, event: TraceEvent) -> None:
        """Append an event."""
        self._events.append(event)

    @property
    def events(self) -> tuple[TraceEvent, ...]:
        """What is in memory."""
        return tuple(self._events)

    def table(self) -> pd.DataFrame:
        """One row an event: the fields of :class:`TraceEvent`, and duration_ms; sorted by start."""
        table = pd.DataFrame(self._events, columns=list(TraceEvent._fields))
        table["duration_ms"] = 1000 * (table["end_s"] - table["start_s"])
        return table.sort_values("start_s", kind="stable", ignore_index=True)

    def perfetto(self, name: str = "SpecSync") -> dict:
        """The trace in Chrome's JSON object format; times count from the first event's start."""
        origin_s = min((event.start_s - event.wait_s for event in self._events), default=0.0)
        events: list[dict] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": name}}]
        for row, stage in enumerate(STAGES):
            events.append({"ph": "M", "pid": 1, "tid": row, "name": "thread_name", "args": {"name": stage}})
            events.append({"ph": "M", "pid": 1, "tid": row, "name": "thread_sort_index", "args": {"sort_index": row}})
        for event in self._events:
            shared = {
                "name": event.what,
                "cat": event.stage,
                "pid": 1,
                "tid": STAGES.index(event.stage),
                "ts": 1e6 * (event.start_s - origin_s),
                "args": {
                    "chunk": event.chunk,
                    "attempt": event.attempt,
                    "queue_wait_ms": 1000 * event.wait_s,
                    "note": event.note,
                },
            }
            if event.end_s > event.start_s:
                events.append(shared | {"ph": "X", "dur": 1e6 * (event.end_s - event.start_s)})
            else:
                events.append(shared | {"ph": "i", "s": "t"})
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def write_perfetto(self, path: str | Path, name: str = "SpecSync") -> None:
        """Write :meth:`perfetto` as a file."""
        write_text(path, json.dumps(self.perfetto(name), allow_nan=False))
