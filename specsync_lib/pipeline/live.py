"""A stream at the pace of speech, and what is done where the machine does not keep up with it.

    live = run_live(system, pieces(at_level(samples)), "gate", 0.6, show=lambda frame: ...)
    live.frames()                                        # a row a frame: its age, and what became of it

A chunk is *late* by the time since its last sample. Late by more than ``fewer_steps_s`` when its generation begins, it
takes one denoising step less; late by more than ``hold_s`` it is not generated: the mouth is held, its frames are the
policy's, and the next chunk is on time. A judge that is silent for ``deadline_s`` loses the chunk to the draft. So the
picture never drifts away from the sound.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face import generation
from specsync_lib.face.compositing import FACE_BOX, composite
from specsync_lib.judge.rules import RunRule
from specsync_lib.judge.verify import run_options
from specsync_lib.pipeline.clock import Clock, RealClock
from specsync_lib.pipeline.models import FaceStage, FaceWork
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.sound import AudioPiece, ChunkAudio
from specsync_lib.pipeline.stages import Commit, Draft, Plan, Policy
from specsync_lib.pipeline.system import System, gate_of, seats

HISTORY = 4096  # entries of log and trace: a stream may last for hours
AHEAD_FRAMES = 48  # heard and not yet committed, at most: 1.6 s
FRAME_COLUMNS = ("frame", "time_s", "age_ms", "viseme", "by", "kept_up")


@dataclass(frozen=True)
class Pace:
    """What falling behind costs; see above. Seconds since a chunk's last sample."""

    fewer_steps_s: float = 0.4
    hold_s: float = 0.8
    deadline_s: float = 0.6


@dataclass
class HeldWork:
    """A chunk of so many frames that is not generated."""

    frames: int
    steps_left: int = 0


class PacedFace(FaceStage):
    """`FaceStage` that looks at the clock before it begins a chunk.

    Attributes
    ----------
    held, hurried : chunks whose mouth was held, and those that took a step less.
    """

    def __init__(self, face: generation.FaceGenerator, *, clock: Clock, pace: Pace, **options: object) -> None:
        super().__init__(face, **options)
        self.held: set[int] = set()
        self.hurried: set[int] = set()
        self._clock, self._pace = clock, pace
        self._shown = face.reference

    def begin(self, audio: ChunkAudio, draft: Draft, plan: Plan) -> FaceWork | HeldWork:
        """Start a chunk with the steps that its lateness leaves it, or hold the mouth."""
        late_s = self._clock.now() - audio.heard_s
        hurried = late_s > self._pace.fewer_steps_s and self._steps > 1
        for chunks, now in ((self.held, late_s > self._pace.hold_s), (self.hurried, hurried)):
            (chunks.add if now else chunks.discard)(audio.index)  # it may be begun a second time
        if audio.index in self.held:
            self.hurried.discard(audio.index)
            return HeldWork(audio.size.frames)
        return super().begin(audio, draft, plan, self._steps - hurried)

    def render(self, work: FaceWork | HeldWork) -> UInt8[np.ndarray, "frames height width 3"] | None:
        """Decode one more slot; of a held mouth all frames at once."""
        if isinstance(work, HeldWork):
            return np.broadcast_to(self._shown, (work.frames, *self._shown.shape))
        return super().render(work)

    def commit(self, work: FaceWork | HeldWork) -> None:
        """The chunk becomes the past; a held mouth leaves none."""
        if isinstance(work, FaceWork):
            super().commit(work)
            self._shown = work.decoded.frames[-1]


@dataclass(frozen=True)
class LiveFrame:
    """A frame on its way to a viewer: index, its whole picture, how old it was when it could be shown (s)."""

    index: int
    picture: UInt8[np.ndarray, "height width 3"]
    age_s: float


@dataclass(frozen=True)
class Live:
    """What a stream was. chunks: the commits without their pictures; held, hurried: as of `PacedFace`."""

    report: PipelineReport
    chunks: tuple[Commit, ...]
    held: frozenset[int]
    hurried: frozenset[int]
    start_s: float

    def frames(self) -> pd.DataFrame:
        """FRAME_COLUMNS, a row a frame; kept_up: all steps, fewer, or held."""
        rows = []
        for commit in self.chunks:
            kept_up = "held" if commit.index in self.held else "fewer" if commit.index in self.hurried else "all steps"
            for place, (token, by) in enumerate(zip(commit.tokens, commit.by, strict=True)):
                frame = commit.first_frame + place
                age_ms = 1e3 * age_s(commit, frame, self.start_s)
                rows.append((frame, frame / units.VIDEO_FPS, age_ms, units.VISEMES[token], by, kept_up))
        return pd.DataFrame(rows, columns=list(FRAME_COLUMNS))

    @property
    def same_plan(self) -> bool:
        """Whether all of it is the rule's own plan: nothing went out by the policy."""
        return all("policy" not in commit.by for commit in self.chunks)


def age_s(commit: Commit, frame: int, start_s: float) -> float:
    """From the sound at a frame's centre to the frame in memory; ``start_s``: when the stream's first sample was."""
    return commit.committed_s - start_s - (frame + 0.5) / units.VIDEO_FPS


def run_live(
    system: System,
    source: Iterable[AudioPiece],
    rule: RunRule = "exact",
    threshold: float | None = None,
    *,
    show: Callable[[LiveFrame], None] = lambda frame: None,
    stop: threading.Event | None = None,
    pace: Pace | None = None,
    clock: Clock | None = None,
) -> Live:
    """Run a stream to its end, or until ``stop`` is set.

    Parameters
    ----------
    source : what draft and judge hear; pieces that are due as they are spoken (`sound.pieces`), or a live source's own.
    rule, threshold : as `system.checked_rule` gives them, but for ``judge``, which speaks after the whole chunk.
    show : takes every frame, in this thread; a slow one holds the stream back until its chunks are held.

    Raises
    ------
    InputError : the rule is judge, or the stream broke off; what was shown stays shown.
    """
    if rule == "judge":
        raise InputError(
            "live: rule=judge drafts nothing and is never in time; give exact, mouth, lenient, gate or draft"
        )
    pace, clock = pace or Pace(), clock or RealClock()
    stages = system.models.stages(
        options=run_options(rule, threshold), seed=system.seed, stage=partial(PacedFace, clock=clock, pace=pace)
    )
    face = stages.generator
    policy = Policy(
        on_silence="draft", deadline_s=pace.deadline_s, hold_before="last step", gate=gate_of(rule, threshold)
    )
    ahead = AHEAD_FRAMES // stages.chunk.frames
    seated = seats(system.device, rule)
    pipeline = Pipeline(source, stages, policy, clock=clock, ahead=ahead, history=HISTORY, stop=stop, threads=seated)
    resting = system.head.render(np.zeros(52, np.float32))
    chunks, last = [], None
    for commit in pipeline.commits():
        pictures = commit.frames
        if commit.index in face.held:
            commit = _held(commit, last)
        last = commit
        chunks.append(replace(commit, frames=pictures[:0]))
        for place, picture in enumerate(pictures):
            frame = commit.first_frame + place
            late_s = age_s(commit, frame, pipeline.start_s)
            show(LiveFrame(frame, composite(resting, picture, FACE_BOX), late_s))
    report = pipeline.report(chunks)
    if report.ended == "failed":
        raise InputError(f"live: the stream ended after {report.frame_count} frames: {report.error}")
    return Live(report, tuple(chunks), frozenset(face.held), frozenset(face.hurried), pipeline.start_s)


def _held(commit: Commit, last: Commit | None) -> Commit:
    """The plan of a held mouth is what is seen: the last frame's viseme and openness, by the policy."""
    frames = len(commit.tokens)
    token, openness = (units.VISEMES.index("sil"), 0.0) if last is None else (last.tokens[-1], last.openness[-1])
    return replace(
        commit, tokens=(token,) * frames, by=("policy",) * frames, openness=np.full(frames, openness, np.float32)
    )
