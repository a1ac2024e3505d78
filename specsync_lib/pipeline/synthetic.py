"""Stages without models: given durations, a made-up target that depends on its whole context, frames that are digests.

The same stages run against the real clock (they sleep) and in virtual time (they only say how long). The target's
tokens follow from everything committed before, so a wrong roll-back or a lost correction shows in every later chunk;
the frames follow from everything the generator was told, so a committed frame tells which plans made it.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from specsync_lib import units
from specsync_lib.pipeline.clock import Clock
from specsync_lib.pipeline.sound import ChunkAudio
from specsync_lib.pipeline.stages import Draft, Plan, Request, Stages, Tokens, Verdict

Duration = float | Callable[[], float]


@dataclass(frozen=True)
class StageTimes:
    """Durations in seconds, each a number or a function that draws one.

    verify_s: one forward pass over a draft; token_s: one token of the plan or of reasoning; steps: denoising steps;
    render_s: the whole decode, which ``render_parts`` calls share equally.
    """

    draft_s: Duration = 0.0
    verify_s: Duration = 0.0
    token_s: Duration = 0.0
    begin_s: Duration = 0.0
    step_s: Duration = 0.0
    render_s: Duration = 0.0
    commit_s: Duration = 0.0
    steps: int = 2
    render_parts: int = 3


@dataclass(frozen=True)
class SyntheticTarget:
    """What a judge would write: a fixed pseudo-random function of the context and the chunk."""

    seed: int = 0

    def tokens(self, context: int, frames: int) -> Tokens:
        """The chunk's tokens after a context (see :func:`extend`)."""
        digest = zlib.crc32(f"{self.seed},{context}".encode())
        return tuple((digest >> (2 * frame)) * 7 % len(units.VISEMES) for frame in range(frames))

    def plan(self, frames: Sequence[int]) -> list[Tokens]:
        """The target's own plan of chunks of so many frames: each after its own earlier tokens."""
        context, chunks = 0, []
        for count in frames:
            chunks.append(self.tokens(context, count))
            context = extend(context, chunks[-1])
        return chunks


def extend(context: int, tokens: Tokens) -> int:
    """The context after some more tokens."""
    return zlib.crc32(bytes(tokens), context)


class SyntheticDrafter:
    """Drafts the target's own plan, but for the frames of each chunk that ``rejected`` names."""

    def __init__(
        self, clock: Clock, times: StageTimes, target: SyntheticTarget, rejected: Callable[[int], Sequence[int]]
    ) -> None:
        self._clock, self._times, self._target, self._rejected = clock, times, target, rejected
        self._context = 0

    def draft(self, audio: ChunkAudio) -> Draft:
        """The next draft."""
        spend(self._clock, self._times.draft_s)
        tokens = list(self._target.tokens(self._context, audio.frames))
        self._context = extend(self._context, tuple(tokens))
        for frame in self._rejected(audio.index):
            if frame < audio.frames:
                tokens[frame] = (tokens[frame] + 1) % len(units.VISEMES)
        return Draft(tuple(tokens), np.ones(audio.frames, np.float32), np.zeros(audio.frames, np.float32))


class SyntheticJudge:
    """Answers with the target's tokens: after one pass, or, for a draft it rejects, two.

    A rejection is told after the first pass, not yet final, as a judge does that reads its own tokens off that pass.
    """

    def __init__(self, clock: Clock, times: StageTimes, target: SyntheticTarget) -> None:
        self._clock, self._times, self._target = clock, times, target
        self._context = 0

    def verify(self, request: Request, deliver: Callable[[Verdict], None]) -> None:
        """One pass, and more after a rejection."""
        tokens = self.answer(request)
        passes = 1 if tokens == request.draft.tokens else 2
        for done in range(passes):
            if done:
                deliver(Verdict(request.audio.index, tokens, done, final=False))
            spend(self._clock, self._times.verify_s)
        deliver(Verdict(request.audio.index, tokens, passes))

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Verdict:
        """Token by token."""
        for _ in range(reasoning_tokens + request.audio.frames):
            spend(self._clock, self._times.token_s)
        return Verdict(request.audio.index, self.answer(request), request.audio.frames)

    def answer(self, request: Request) -> Tokens:
        """The target's tokens after everything that is settled."""
        for settled in request.settled:
            self._context = extend(self._context, settled.tokens)
        return self._target.tokens(self._context, request.audio.frames)


@dataclass
class SyntheticWork:
    """steps_left, renders_left: calls to come; frames: of a whole chunk; digest: of the past, the chunk and every plan
    so far, and without the last step's."""

    steps_left: int
    renders_left: int
    frames: int
    digest: int
    digest_before: int = 0


class SyntheticGenerator:
    """Frames whose pixels are a digest of the committed past, the chunk and the plan of every step."""

    def __init__(self, clock: Clock, times: StageTimes, size_px: tuple[int, int] = (2, 2)) -> None:
        self._clock, self._times, self._size_px = clock, times, size_px
        self._past = 0

    def begin(self, audio: ChunkAudio, draft: Draft, plan: Plan) -> SyntheticWork:
        """Start a chunk."""
        spend(self._clock, self._times.begin_s)
        digest = extend(self._past, (audio.index % 251, *plan.tokens))
        return SyntheticWork(self._times.steps, self._times.render_parts, audio.size.frames, digest)

    def step(self, work: SyntheticWork, plan: Plan) -> None:
        """One step."""
        spend(self._clock, self._times.step_s)
        work.steps_left -= 1
        work.digest_before, work.digest = work.digest, extend(work.digest, plan.tokens)

    def rewind(self, work: SyntheticWork) -> None:
        """Back before the last step."""
        work.steps_left += 1
        work.digest, work.renders_left = work.digest_before, self._times.render_parts

    def render(self, work: SyntheticWork) -> np.ndarray | None:
        """A chunk's small frames, with the last of the calls."""
        spend(self._clock, self._times.render_s, 1 / self._times.render_parts)
        work.renders_left -= 1
        if work.renders_left > 0:
            return None
        height, width = self._size_px
        frames = np.zeros((work.frames, height, width, 3), np.uint8)
        frames[:] = np.frombuffer(work.digest.to_bytes(4, "big")[:3], np.uint8)
        return frames

    def commit(self, work: SyntheticWork) -> None:
        """The chunk becomes the past."""
        spend(self._clock, self._times.commit_s)
        self._past = work.digest


def spend(clock: Clock, duration: Duration, share: float = 1.0) -> None:
    """Let a share of a stage's duration pass."""
    clock.sleep(share * (duration() if callable(duration) else duration))


def synthetic_stages(
    clock: Clock,
    times: StageTimes,
    *,
    rejected: Callable[[int], Sequence[int]] = lambda index: (),
    target: SyntheticTarget | None = None,
    size_px: tuple[int, int] = (2, 2),
    chunk: units.ChunkSize = units.CHUNK,
) -> Stages:
    """Three synthetic stages of one stream.

    Parameters
    ----------
    times
        Durations.
    rejected
        Frames (counted in the chunk) of a chunk's draft that the judge will not accept: a replayed or a drawn pattern.
    chunk
        What they take at a time.
    """
    target = target or SyntheticTarget()
    return Stages(
        SyntheticDrafter(clock, times, target, rejected),
        SyntheticJudge(clock, times, target),
        SyntheticGenerator(clock, times, size_px),
        chunk,
    )
