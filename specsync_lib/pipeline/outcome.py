"""What a pipeline's run leaves: commits, trace, log, and the table of its chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Int8

from specsync_lib.pipeline.commit_log import CommitLog
from specsync_lib.pipeline.stages import Commit
from specsync_lib.pipeline.trace import Trace


@dataclass(frozen=True)
class PipelineReport:
    """What a run did.

    ended: complete, failed (``error`` says why in one line; every frame in ``commits`` is valid) or cancelled. commits:
    in order (without their frames where the run did not keep them). counts: verdicts by kind, commits by kind, roll
    backs, filled and dropped samples. notes: lines about what went wrong on the way.
    """

    mode: str
    guarantee: str
    ended: str
    error: str | None
    notes: tuple[str, ...]
    commits: tuple[Commit, ...]
    counts: dict[str, int]
    log: CommitLog
    trace: Trace
    wall_s: float

    @property
    def plan(self) -> Int8[np.ndarray, " frames"]:
        """The committed visemes."""
        return np.array([token for commit in self.commits for token in commit.tokens], np.int8)

    @property
    def frame_count(self) -> int:
        """Committed video frames."""
        return sum(len(commit.tokens) for commit in self.commits)

    def frames(self) -> Iterator[np.ndarray]:
        """The committed frames one by one, uint8 [height, width, 3]."""
        return (frame for commit in self.commits for frame in commit.frames)

    def chunks(self) -> pd.DataFrame:
        """One row a committed chunk: index, how, the times of :class:`Commit`, latency_ms, attempts, steps, passes …"""
        names = [field.name for field in fields(Commit) if field.name not in ("frames", "tokens", "drafted")]
        table = pd.DataFrame([[getattr(commit, name) for name in names] for commit in self.commits], columns=names)
        table["frames"] = [len(commit.tokens) for commit in self.commits]
        table["accepted_frames"] = [commit.accepted_frames for commit in self.commits]
        table["latency_ms"] = 1000 * (table["committed_s"] - table["heard_s"])
        return table
