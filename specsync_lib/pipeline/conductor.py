"""The rules of the speculative pipeline, without threads and without a clock: what may run next, and what it means.

:class:`Conductor` is told what happened (sound heard, a job done, a verdict, time passing) and says which job each
stage may run next. ``run.py`` drives it, with threads against the real clock or event by event in virtual time,
so that the rules tested over many schedules are the ones that run.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

import numpy as np
import torch

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.pipeline.commit_log import CommitLog, corrections
from specsync_lib.pipeline.sound import ChunkAudio
from specsync_lib.pipeline.stages import (
    By,
    Commit,
    Draft,
    How,
    Plan,
    Policy,
    Request,
    Settled,
    Stages,
    Station,
    Tokens,
    Verdict,
    Work,
    plan_of,
)
from specsync_lib.pipeline.trace import Trace, TraceEvent

VERDICTS_REMEMBERED = 256  # chunks whose verdict is kept, to tell a duplicate from a contradiction
LONGEST_LINE = 300
OPENNESS_SLACK = 1e-3  # the same rows of two passes differ by less
# Of frames that went out unasked a judge is told these at most, 12.8 s: more than its window holds.
CONTEXT_FRAMES = 384


@dataclass(frozen=True)
class Job:
    """Something that a stage may run now; ``ready_s`` is since when it could have."""

    station: Station
    what: str
    chunk: int
    attempt: int
    ready_s: float
    run: Callable[[], object]
    plan: Plan | None = None


@dataclass(slots=True)
class _Chunk:
    """A chunk on its way."""

    audio: ChunkAudio
    draft: Draft | None = None
    drafted_s: float = inf
    asked: bool = False
    guess: Tokens | None = None  # the judge's, not final
    told: np.ndarray | None = None  # the openness that it expects by now
    abstained: bool = False
    verdict: Tokens | None = None
    judged_s: float = float("nan")
    passes: int = 0
    judged: Tokens = ()  # the judge's own best
    decided: Tokens | None = None
    by: tuple[By, ...] = ()
    decided_s: float = inf
    work: Work | None = None
    used: Plan | None = None  # the plan of the last step
    frames: np.ndarray | None = None
    attempt: int = 1
    failures: int = 0
    steps: int = 0  # all that were run
    steps_here: int = 0  # in this attempt
    begun_s: float = inf
    rendered_s: float = inf
    unasked: bool = False
    committed: bool = False

    @property
    def context(self) -> Tokens:
        """The tokens that later chunks are judged on: the judge's own where it gave some, else those that stand."""
        return self.verdict if self.verdict is not None else self.decided

    @property
    def plan(self) -> Plan:
        """The best that is known by now."""
        return plan_of(self.draft, self.decided or self.guess or self.draft.tokens, self.told)


def kept(frames: object) -> object:
    """Frames as nobody writes to them any more: a copy, for a generator may use its buffer again.

    Made within the stage's own call, so that its time is the stage's and no lock is held meanwhile; by torch, which
    copies a chunk of 720p on all cores. What are no frames pass as they came, to be refused.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        return frames
    copy = torch.from_numpy(np.ascontiguousarray(frames)).clone().numpy()
    copy.flags.writeable = False
    return copy


def one_line(error: BaseException) -> str:
    """An error in one line, without the traceback that would keep its tensors alive."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    line = text if isinstance(error, InputError) else f"{name}: {text}" if text else name
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


class Conductor:
    """The pipeline's state and rules. Every method is called under one lock, with the clock's time.

    A clock that runs backwards stands still here. After ``ended`` is set nothing is committed any more.
    """

    def __init__(
        self,
        stages: Stages,
        policy: Policy,
        *,
        ahead: int,
        log: CommitLog,
        trace: Trace,
        deliver: Callable[[Verdict], None],
        stop: threading.Event,
    ) -> None:
        if ahead < 1:
            raise InputError(f"pipeline: ahead is {ahead}: at least one chunk must be in flight")
        self.stages, self.policy, self.ahead, self.log, self.trace = stages, policy, ahead, log, trace
        self.out: deque[Commit] = deque()  # committed, not yet taken by the consumer
        self.ended: Literal["", "complete", "failed", "cancelled"] = ""
        self.error: str | None = None
        self.notes: list[str] = []
        self.counts: Counter[str] = Counter()
        self._deliver, self._stop = deliver, stop
        self._now = -inf
        self._chunks: dict[int, _Chunk] = {}  # heard, and not yet both committed and context of the judge
        self._heard = self._drafted = self._committed = 0  # how many chunks
        self._to_ask = self._settled = 0  # the next chunk for the judge; the first that is not yet its context
        self._audio_ended = False
        self._judge_lost = False  # or not wanted
        self._stop_at = (inf, "")  # the first chunk that cannot be, and why
        self._committed_s = -inf
        self._context_chunks = CONTEXT_FRAMES // stages.chunk.frames
        self._busy: set[Station] = set()
        self._verdicts: dict[int, Tokens] = {}
        if policy.gate == 0:
            self._without_judge()

    # --- sound

    def room(self) -> bool:
        """Whether another chunk may be heard: the bound on chunks in flight."""
        return self._heard - self._committed + len(self.out) < self.ahead and not self._audio_ended

    def hear(self, audio: ChunkAudio, now_s: float) -> None:
        """A chunk's last sample is there."""
        now_s = self.advance(now_s)
        self._chunks[audio.index] = _Chunk(audio)
        self._heard += 1
        self.trace.add(TraceEvent("audio", "heard", audio.index, audio.heard_s, audio.heard_s))
        self.tick(now_s)

    def end_of_audio(self, now_s: float, error: str | None = None) -> None:
        """No more sound; with an error, because the source broke. What was heard is still committed."""
        self._audio_ended = True
        if error is not None:
            self._fail_from(self._heard, error)
        self.tick(now_s)

    # --- jobs

    def next_job(self, station: Station, now_s: float) -> Job | None:
        """What a stage may run now, or None. The job is taken: its outcome must be given to ``done``."""
        self.advance(now_s)
        if self.ended or station in self._busy:
            return None
        job = {"draft": self._draft_job, "judge": self._judge_job, "generator": self._generator_job}[station]()
        if job is not None:
            self._busy.add(station)
        return job

    def done(self, job: Job, result: object, error: str | None, start_s: float, now_s: float) -> None:
        """A job's outcome: its result, or the one line of its error."""
        now_s = self.advance(now_s)
        self._busy.remove(job.station)
        start_s = min(start_s, now_s)
        wait_s = max(0.0, start_s - job.ready_s)
        note = "failed" if error else ""
        stage = "commit" if job.what == "commit" else job.station
        self.trace.add(TraceEvent(stage, job.what, job.chunk, start_s, now_s, wait_s, job.attempt, note))
        if self.ended:
            return
        if job.station == "draft":
            self._draft_done(job, result, error, now_s)
        elif job.station == "judge":
            self._judge_done(job, error)
        else:
            self._generator_done(job, result, error, now_s)
        self.tick(now_s)

    def _draft_job(self) -> Job | None:
        if self._drafted == self._heard or self._drafted >= self._stop_at[0]:
            return None
        chunk = self._chunks[self._drafted]
        drafter = self.stages.drafter
        return Job("draft", "draft", self._drafted, 1, chunk.audio.heard_s, lambda: drafter.draft(chunk.audio))

    def _draft_done(self, job: Job, result: object, error: str | None, now_s: float) -> None:
        chunk = self._chunks[job.chunk]
        if error is None and not _is_tokens(result.tokens, chunk.audio.frames):
            error = f"gave no viseme for each of {chunk.audio.frames} frames"
        if error is not None:
            self._fail_from(job.chunk, f"draft of chunk {job.chunk}: {error}")
            return
        chunk.draft, chunk.drafted_s = result, now_s
        self._drafted += 1
        self.log.add(now_s, "drafted", job.chunk, tokens=result.tokens)
        gate = self.policy.gate
        if gate is not None:
            sure = result.confidence if result.recalibrated is None else result.recalibrated
            if gate == 0 or np.min(sure) >= gate:  # NaN is not sure
                self._stand(chunk, now_s, "unasked")

    def _judge_job(self) -> Job | None:
        if self._judge_lost:
            return None
        # What stands or went out without a verdict is not asked any more: it is context only.
        while (chunk := self._askable()) is not None and (chunk.committed or self._silenced(chunk)):
            self._to_ask += 1
        if chunk is None:
            return None
        chunk.asked = True
        self._to_ask += 1
        index = chunk.audio.index
        since = range(max(self._settled, index - self._context_chunks), index)
        settled = tuple(Settled(one.audio, one.draft, one.context) for one in map(self._chunks.get, since))
        self._settled = index
        self._forget()
        ready_s = max(chunk.drafted_s, self._context_s(index - 1))
        request = Request(chunk.audio, chunk.draft, settled, self._stop)
        return Job("judge", "verify", index, 1, ready_s, lambda: self.stages.judge.verify(request, self._deliver))

    def _askable(self) -> _Chunk | None:
        """The next chunk for the judge, once it is drafted and everything before it has tokens."""
        chunk = self._chunks.get(self._to_ask)
        if chunk is None or chunk.draft is None or self._to_ask >= self._stop_at[0]:
            return None
        before = self._chunks.get(self._to_ask - 1)
        return chunk if before is None or before.context is not None else None

    def _context_s(self, index: int) -> float:
        before = self._chunks.get(index)
        return -inf if before is None else before.judged_s if before.verdict is not None else before.decided_s

    def _silenced(self, chunk: _Chunk) -> bool:
        """Decided by silence: a verdict could not change anything."""
        return chunk.decided is not None and (chunk.unasked or self.policy.late != "overrule")

    def _judge_done(self, job: Job, error: str | None) -> None:
        if error is not None:
            self._lose_judge(f"the judge failed at chunk {job.chunk} ({error})")

    def _generator_job(self) -> Job | None:
        index = self._committed
        chunk = self._chunks.get(index)
        if chunk is None or chunk.draft is None or index >= self._stop_at[0]:
            return None
        if chunk.work is None and chunk.decided is None:
            if self.policy.late != "overrule" and float(np.mean(chunk.draft.confidence)) < self.policy.start_confidence:
                return None
            if self.policy.late == "overrule":
                self._stand(chunk, self._now, "unverified")
        wanted = chunk.plan
        steps_left = 0 if chunk.work is None else chunk.work.steps_left
        changed = chunk.work is not None and self._differs(chunk.used, wanted)
        generator, audio, draft = self.stages.generator, chunk.audio, chunk.draft
        if changed and not (self.policy.late == "midflight" and steps_left >= self.policy.min_steps_left):
            if self.policy.late == "midflight" and self.policy.min_steps_left == 1 and chunk.steps_here:
                return self._rewinding(chunk)
            self._roll_back(chunk, "rolled back")
        work = chunk.work
        if work is None:
            begin_s = max(chunk.drafted_s, self._committed_s)
            if chunk.attempt > 1 or self.policy.start_confidence > 0:
                begin_s = max(begin_s, min(chunk.decided_s, self._now))
            return self._generation(chunk, "begin", begin_s, lambda: generator.begin(audio, draft, wanted), wanted)
        if self._held(chunk, steps_left):
            return None
        if steps_left > 0:
            if changed:
                self.counts["corrected mid-flight"] += 1
            return self._generation(
                chunk, f"step {chunk.steps_here + 1}", self._now, lambda: generator.step(work, wanted), wanted
            )
        if chunk.frames is None:
            return self._generation(chunk, "render", self._now, lambda: kept(generator.render(work)))
        if chunk.decided is None or len(self.out) >= self.ahead:
            return None
        ready_s = max(chunk.rendered_s, chunk.decided_s)
        return self._generation(chunk, "commit", ready_s, lambda: generator.commit(work))

    def _differs(self, used: Plan, wanted: Plan) -> bool:
        """Whether what is generated under one plan has to be mended for another: mouths that open a little otherwise
        wait for the next step, if there is one, unless frames were promised to be of one plan from the start."""
        opens = float(np.abs(used.openness - wanted.openness).max(initial=0))
        return used.tokens != wanted.tokens or (self.policy.late == "rollback" and opens > OPENNESS_SLACK)

    def _held(self, chunk: _Chunk, steps_left: int) -> bool:
        """Whether the next job waits for the judge's first pass."""
        if chunk.decided is not None or (chunk.guess is not None and chunk.passes > 0):
            return False
        return (
            steps_left == 0
            if self.policy.hold_before == "decode"
            else (steps_left <= 1 and self.policy.hold_before == "last step")
        )

    def _generation(
        self, chunk: _Chunk, what: str, ready_s: float, run: Callable[[], object], plan: Plan | None = None
    ) -> Job:
        return Job("generator", what, chunk.audio.index, chunk.attempt, ready_s, run, plan)

    def _rewinding(self, chunk: _Chunk) -> Job:
        """The last step is undone; what was decoded of it is dropped."""
        work, chunk.frames = chunk.work, None
        chunk.attempt += 1
        self.counts["rewound"] += 1
        return self._generation(chunk, "rewind", self._now, lambda: self.stages.generator.rewind(work))

    def _roll_back(self, chunk: _Chunk, what: str) -> None:
        chunk.work = chunk.frames = None
        chunk.steps_here = 0
        chunk.attempt += 1
        self.counts[what] += 1
        self.log.add(self._now, "rolled back", chunk.audio.index)
        self.trace.add(TraceEvent("generator", what, chunk.audio.index, self._now, self._now, attempt=chunk.attempt))

    def _generator_done(self, job: Job, result: object, error: str | None, now_s: float) -> None:
        chunk = self._chunks[job.chunk]
        kind = job.what.split()[0]
        if error is None and kind == "render" and result is not None and not _is_frames(result, chunk.audio.frames):
            error = f"gave no uint8 frames [at least {chunk.audio.frames}, height, width, 3]"
        if error is not None:
            chunk.failures += 1
            # Frames went out only after a commit that returned, so one that raised leaves an unknown past.
            if kind == "commit" or chunk.failures > self.policy.generator_retries:
                self._fail_from(job.chunk, f"generator: chunk {job.chunk}, {job.what}: {error}")
            else:
                self._roll_back(chunk, "generation failed")
            return
        if kind == "begin":
            chunk.work, chunk.used, chunk.begun_s = result, job.plan, min(chunk.begun_s, now_s)
        elif kind == "step":
            chunk.used = job.plan
            chunk.steps += 1
            chunk.steps_here += 1
        elif kind == "rewind":
            chunk.steps_here -= 1
        elif kind == "render" and result is not None:
            chunk.frames, chunk.rendered_s = result[: chunk.audio.frames], now_s
        elif kind == "commit":
            self._commit(chunk, now_s)

    def _commit(self, chunk: _Chunk, now_s: float) -> None:
        drafted = chunk.draft.tokens
        how: How = "unasked" if chunk.unasked else "unverified"
        if chunk.verdict is not None:
            how = "overruled" if chunk.verdict != chunk.decided else "accepted"
            if how == "accepted" and chunk.decided != drafted:
                how = "corrected"
        self.out.append(
            Commit(
                index=chunk.audio.index, first_frame=chunk.audio.first_frame,
                tokens=chunk.decided, drafted=drafted, how=how, frames=chunk.frames,
                heard_s=chunk.audio.heard_s, drafted_s=chunk.drafted_s, judged_s=chunk.judged_s,
                decided_s=chunk.decided_s, begun_s=chunk.begun_s, rendered_s=chunk.rendered_s, committed_s=now_s,
                attempts=chunk.attempt, steps=chunk.steps, passes=chunk.passes, by=chunk.by,
                openness=chunk.used.openness, confidence=chunk.draft.confidence,
                recalibrated=chunk.draft.recalibrated, judged=chunk.judged,
            )
        )  # fmt: skip
        self.log.add(now_s, "committed", chunk.audio.index)
        self.counts[how] += 1
        chunk.committed, chunk.work, chunk.frames = True, None, None
        self._committed += 1
        self._committed_s = now_s
        self._forget()

    def _forget(self) -> None:
        """Drop what neither the generator nor the judge will ask for again."""
        keep_from = min(self._committed, max(self._settled, self._to_ask - self._context_chunks))
        for index in [index for index in self._chunks if index < keep_from]:
            del self._chunks[index]

    # --- verdicts and time

    def deliver(self, verdict: Verdict, now_s: float) -> None:
        """A verdict, wanted or not: the first sound one of a chunk that was asked counts, and only before a decision.

        An exact pipeline takes the judge's word once: a second, different verdict is counted and changes nothing.
        """
        now_s = self.advance(now_s)
        if self.ended:
            return
        kind = self._take(verdict, now_s)
        self.counts[f"verdicts {kind}"] += 1
        index = verdict.chunk if isinstance(verdict, Verdict) and isinstance(verdict.chunk, int) else -1
        self.trace.add(TraceEvent("judge", "verdict", index, now_s, now_s, note=kind))
        self.tick(now_s)

    def _take(self, verdict: Verdict, now_s: float) -> str:
        if not isinstance(verdict, Verdict) or not isinstance(verdict.chunk, int | np.integer):
            return "malformed"
        index = int(verdict.chunk)
        if index in self._verdicts:
            try:
                same = tuple(int(token) for token in verdict.tokens) == self._verdicts[index]
            except (TypeError, ValueError):
                same = False
            return "duplicate" if same else "contradictory"
        chunk = self._chunks.get(index)
        if chunk is None or not chunk.asked:
            return "unasked"
        if verdict.final and isinstance(verdict.tokens, Sequence) and not len(verdict.tokens):
            chunk.abstained = True
            return "abstaining"
        if not is_sound(verdict, chunk.audio.frames):
            return "malformed"
        tokens = tuple(int(token) for token in verdict.tokens)
        if not verdict.final:
            chunk.guess, chunk.told, chunk.passes = tokens, verdict.openness, int(verdict.passes)
            return "not final" if verdict.passes else "guessed"
        self._verdicts[index] = tokens
        self._verdicts.pop(index - VERDICTS_REMEMBERED, None)
        chunk.verdict, chunk.judged_s, chunk.passes = tokens, now_s, int(verdict.passes)
        chunk.judged = tuple(int(token) for token in verdict.judged) or tokens
        changes = corrections(chunk.draft.tokens, tokens)
        if chunk.decided is not None:
            self.log.add(now_s, "overruled", index, corrections=changes)
            return "late"
        chunk.decided, chunk.decided_s, chunk.told = tokens, now_s, verdict.openness
        chunk.by = tuple(verdict.by) or ("judge",) * len(tokens)
        self.log.add(now_s, "judged", index, corrections=changes, by=chunk.by)
        return "rejecting" if changes else "accepting"

    def tick(self, now_s: float) -> None:
        """Time passes: deadlines, a judge that fell too far behind, the end."""
        now_s = self.advance(now_s)
        if self.ended:
            return
        if not self._judge_lost and self._drafted - self._to_ask > self.policy.judge_backlog + self.ahead:
            self._lose_judge(f"the judge is more than {self.policy.judge_backlog} chunks behind")
        for index in range(self._committed, self._drafted):
            chunk = self._chunks[index]
            if chunk.decided is None and (self._judge_lost or chunk.abstained or now_s >= self._deadline(chunk)):
                self._silence(chunk, now_s)
        if self._committed >= self._stop_at[0]:
            self._end("failed", self._stop_at[1])
        elif self._audio_ended and self._committed == self._heard:
            self._end("complete")

    def next_deadline(self) -> float:
        """When ``tick`` will have something to do, at the latest; inf if never."""
        waiting = (self._chunks[index] for index in range(self._committed, self._drafted))
        return min((self._deadline(chunk) for chunk in waiting if chunk.decided is None), default=inf)

    def cancel(self) -> None:
        """End at once; what is being generated is dropped."""
        if not self.ended:
            self._end("cancelled")

    def _deadline(self, chunk: _Chunk) -> float:
        if self.policy.late == "overrule" or chunk.audio.index >= self._stop_at[0]:
            return inf
        return chunk.audio.heard_s + self.policy.deadline_s

    def _silence(self, chunk: _Chunk, now_s: float) -> None:
        """No verdict will decide this chunk."""
        index = chunk.audio.index
        if self.policy.late == "overrule":
            return  # decided when it is begun
        if self.policy.on_silence == "draft":
            self._stand(chunk, now_s, "unverified")
        elif index < self._stop_at[0]:
            why = f"no verdict within {self.policy.deadline_s:g} s"
            if self._judge_lost:
                why = self.notes[-1]
            elif chunk.abstained:
                why = "the judge could not decide it"
            self._fail_from(index, f"chunk {index}: {why}; the policy is to stop")

    def _stand(self, chunk: _Chunk, now_s: float, why: Literal["unverified", "unasked"]) -> None:
        """The draft stands, without a verdict."""
        chunk.decided, chunk.decided_s, chunk.unasked = chunk.draft.tokens, now_s, why == "unasked"
        chunk.by = ("draft" if chunk.unasked else "policy",) * len(chunk.decided)
        self.log.add(now_s, why, chunk.audio.index, by=chunk.by)

    def _lose_judge(self, why: str) -> None:
        self._without_judge()
        self.notes.append(why)
        self.trace.add(TraceEvent("judge", "lost", self._committed, self._now, self._now, note=why))
        self._forget()

    def _without_judge(self) -> None:
        """Nothing waits for the judge (any more)."""
        self._judge_lost = True
        self._settled = self._to_ask = inf

    def _fail_from(self, index: int, line: str) -> None:
        """Chunks before this one are still committed; then the stream ends."""
        if index < self._stop_at[0]:
            self._stop_at = (index, line)

    def _end(self, how: Literal["complete", "failed", "cancelled"], line: str | None = None) -> None:
        self.ended, self.error = how, line
        self._stop.set()
        self._chunks.clear()

    def advance(self, now_s: float) -> float:
        """The time, as the pipeline knows it: never less than before."""
        self._now = max(self._now, now_s)
        return self._now


def _is_tokens(tokens: object, frames: int) -> bool:
    """Whether these are visemes, one for each of so many frames. NaN, floats and negative numbers are not."""
    try:
        values = list(tokens)
    except TypeError:
        return False
    return len(values) == frames and all(
        isinstance(value, int | np.integer) and 0 <= value < len(units.VISEMES) for value in values
    )


def is_sound(verdict: object, frames: int) -> bool:
    """Whether a verdict has a viseme for each of so many frames, and one value a frame of what comes with them."""
    if not isinstance(verdict, Verdict):
        return False
    openness = verdict.openness
    return (
        _is_tokens(verdict.tokens, frames)
        and len(verdict.by) in (0, frames)
        and set(verdict.by) <= set(get_args(By))
        and (not len(verdict.judged) or _is_tokens(verdict.judged, frames))
        and (openness is None or (np.shape(openness) == (frames,) and bool(np.isfinite(openness).all())))
    )


def _is_frames(frames: object, least: int) -> bool:
    return (
        isinstance(frames, np.ndarray)
        and frames.dtype == np.uint8
        and frames.ndim == 4
        and len(frames) >= least
        and frames.shape[3] == 3
    )
