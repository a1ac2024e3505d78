"""What a pipeline's run leaves: commits, trace, log, and the table of its chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Float, Int8

from specsync_lib import units
from specsync_lib.pipeline.commit_log import CommitLog
from specsync_lib.pipeline.sound import samples_for_chunk
from specsync_lib.pipeline.stages import Commit
from specsync_lib.pipeline.trace import Trace

ARRAYS = ("frames", "tokens", "drafted", "by", "openness", "confidence", "recalibrated", "judged")  # a value a frame


@dataclass(frozen=True)
class PipelineReport:
    """What a run did.

    ended: complete, failed (``error`` says why in one line; every frame in ``commits`` is valid) or cancelled. commits:
    in order (without their frames where the run did not keep them). counts: verdicts by kind, commits by kind, roll
    backs, filled and dropped samples. notes: lines about what went wrong on the way. chunk: what each commit holds.
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
    chunk: units.ChunkSize = units.CHUNK

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

    def own_latency_s(self) -> Float[np.ndarray, " chunks"]:
        """Each chunk's latency, counted not before the chunk before it was out: a recording's last two chunks come at
        the same moment, and the second is not late because the first one took its time."""
        before_s = -np.inf
        own = []
        for commit in self.commits:
            own.append(commit.committed_s - max(commit.heard_s, before_s))
            before_s = commit.committed_s
        return np.array(own)

    def chunks(self) -> pd.DataFrame:
        """One row a committed chunk: index, how, the times of :class:`Commit`, latency_ms, attempts, steps, passes …"""
        names = [field.name for field in fields(Commit) if field.name not in ARRAYS]
        table = pd.DataFrame([[getattr(commit, name) for name in names] for commit in self.commits], columns=names)
        table["frames"] = [len(commit.tokens) for commit in self.commits]
        table["accepted_frames"] = [commit.accepted_frames for commit in self.commits]
        table["latency_ms"] = 1000 * (table["committed_s"] - table["heard_s"])
        return table


AGE_PARTS = ("chunk_wait_ms", "look_ahead_ms", "judge_ms", "generation_ms", "decoding_ms")


def frame_ages(report: PipelineReport, samples: int) -> pd.DataFrame:
    """How old each frame is when it can be shown: from the sound at its centre to the frame in memory, by parts.

    By sum: what the sound took to come (the chunk's rest, then the look-ahead) and the chunk's own latency, whatever
    the pace at which the run was fed. Of that latency, generation is the draft and all denoising, decoding all
    rendering and the commit, dropped work included; the rest is spent on the judge, if it was asked.

    Parameters
    ----------
    samples : how many the recording has.

    Returns
    -------
    One row a frame: frame, chunk, AGE_PARTS and age_ms, their sum.
    """
    spent = report.trace.table().assign(
        part=lambda table: table["what"].str.split().str[0].map(_PARTS), ms=lambda table: table["duration_ms"]
    )
    by_chunk = spent.pivot_table("ms", "chunk", "part", aggfunc="sum", fill_value=0.0)
    rows = []
    for commit, latency_s in zip(report.commits, report.own_latency_s(), strict=True):
        parts = by_chunk.loc[commit.index].to_dict()
        judge_ms = max(0.0, 1e3 * latency_s - sum(parts.values()))
        if commit.how == "unasked":  # nobody was waited for but the threads themselves
            parts["generation"], judge_ms = parts["generation"] + judge_ms, 0.0
        first = commit.first_frame
        end_s = (first + len(commit.tokens)) / units.VIDEO_FPS
        heard_s = min(samples_for_chunk(commit.index, report.chunk), samples) / units.SAMPLE_RATE_HZ
        for frame in range(first, first + len(commit.tokens)):
            wait_s = min(end_s, heard_s) - (frame + 0.5) / units.VIDEO_FPS
            ahead_s = max(0.0, heard_s - end_s)
            rows.append((frame, commit.index, 1e3 * wait_s, 1e3 * ahead_s, judge_ms, *(parts[k] for k in _SPENT)))
    table = pd.DataFrame(rows, columns=["frame", "chunk", *AGE_PARTS])
    return table.assign(age_ms=table[list(AGE_PARTS)].sum(axis=1))


_SPENT = ("generation", "decoding")
_PARTS = dict.fromkeys(("draft", "begin", "step", "rewind"), "generation") | dict.fromkeys(
    ("render", "commit"), "decoding"
)
