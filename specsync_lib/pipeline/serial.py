"""The baseline: hear, write the plan, generate, one after the other."""

import threading
from collections.abc import Callable, Iterable, Iterator

from specsync_lib.errors import InputError
from specsync_lib.pipeline.clock import Clock, RealClock, SteadyClock, VirtualClock
from specsync_lib.pipeline.commit_log import CommitLog, corrections
from specsync_lib.pipeline.conductor import is_sound, kept, one_line
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.sound import AudioPiece, ChunkAssembler, ChunkAudio
from specsync_lib.pipeline.stages import (
    By,
    Commit,
    Draft,
    How,
    Policy,
    Request,
    Settled,
    Stages,
    Stopped,
    Verdict,
    plan_of,
)  # fmt: skip
from specsync_lib.pipeline.trace import Trace, TraceEvent


def run_serial(
    source: Iterable[AudioPiece],
    stages: Stages,
    policy: Policy | None = None,
    *,
    reasoning_tokens: int = 0,
    clock: Clock | None = None,
    history: int | None = None,
    on_commit: Callable[[Commit], None] | None = None,
    keep_commits: bool = True,
    stop: threading.Event | None = None,
) -> PipelineReport:
    """One stage after the other, one chunk after the other, in this thread: what speculation is measured against.

    Parameters
    ----------
    policy
        Its on_silence alone counts: what becomes of a chunk that the judge cannot decide.
    reasoning_tokens
        Tokens that the judge writes before each chunk's plan.
    stop
        Set it from another thread to cancel between two stages.

    Other parameters and the result are :class:`Pipeline`'s. A source at the pace "fast" gives a chunk's sound when the
    chunk before is out.
    """
    run = _Serial(
        stages, policy or Policy(), clock or RealClock(), reasoning_tokens, history, stop or threading.Event()
    )
    kept = []
    for commit in run.commits(source):
        if on_commit is not None:
            on_commit(commit)
        if keep_commits:
            kept.append(commit)
    return run.report(kept)


class _Serial:
    def __init__(
        self,
        stages: Stages,
        policy: Policy,
        clock: Clock,
        reasoning_tokens: int,
        history: int | None,
        stop: threading.Event,
    ) -> None:
        if reasoning_tokens < 0:
            raise InputError(f"reasoning_tokens is {reasoning_tokens}: expected 0 or more")
        self._stages, self._reasoning_tokens, self._stop = stages, reasoning_tokens, stop
        self._policy, self._notes = policy, []
        self._clock = clock if isinstance(clock, VirtualClock) else SteadyClock(clock)
        self._log, self._trace = CommitLog(history), Trace(history)
        self._settled: tuple[Settled, ...] = ()
        self._assembler = ChunkAssembler(stages.chunk)
        self._ended, self._error, self._counts = "complete", None, {}
        self._start_s = self._end_s = clock.now()

    def commits(self, source: Iterable[AudioPiece]) -> Iterator[Commit]:
        """Chunk after chunk; errors of sound or stages end the run with one line."""
        try:
            for audio in self._chunks(source):
                yield self._chunk(audio)
        except Stopped:
            self._ended = "cancelled"
        except InputError as error:
            self._ended, self._error = "failed", str(error)
        finally:
            self._end_s = self._clock.now()

    def report(self, commits: list[Commit]) -> PipelineReport:
        """What the run did."""
        reasoning = f" with {self._reasoning_tokens} reasoning tokens" if self._reasoning_tokens else ""
        return PipelineReport(
            mode=f"serial{reasoning}",
            guarantee="the committed plan is the judge's own, token by token"
            + (", but for chunks marked unverified" if self._policy.on_silence == "draft" else ""),
            ended=self._ended,
            error=self._error,
            notes=tuple(self._notes),
            commits=tuple(commits),
            counts=self._counts
            | {"samples filled": self._assembler.filled_samples, "samples dropped": self._assembler.dropped_samples},
            log=self._log,
            trace=self._trace,
            wall_s=self._end_s - self._start_s,
            chunk=self._stages.chunk,
        )

    def _chunks(self, source: Iterable[AudioPiece]) -> Iterator[ChunkAudio]:
        iterator, broken = iter(source), None
        while broken is None:
            chunks = []
            try:
                if (piece := next(iterator, None)) is None:
                    break
                arrival_s = self._clock.now()
                if piece.due_s is not None:
                    arrival_s = self._start_s + piece.due_s
                    self._wait(arrival_s - self._clock.now())
                chunks = self._assembler.push(piece, arrival_s)
            except InputError as error:
                broken = error
            except Exception as error:
                broken = InputError(f"audio source: {one_line(error)}")
            yield from chunks
        yield from self._assembler.finish(self._clock.now())
        if broken is not None:
            raise broken

    def _wait(self, seconds: float) -> None:
        if seconds <= 0:
            return
        if isinstance(self._clock, VirtualClock):
            self._clock.sleep(seconds)
        else:
            self._stop.wait(seconds)

    def _chunk(self, audio: ChunkAudio) -> Commit:
        drafter, generator = self._stages.drafter, self._stages.generator
        index = audio.index
        self._trace.add(TraceEvent("audio", "heard", index, audio.heard_s, audio.heard_s))
        draft: Draft = self._timed("draft", "draft", index, lambda: drafter.draft(audio), audio.heard_s)
        drafted_s = self._clock.now()
        self._log.add(drafted_s, "drafted", index, tokens=draft.tokens)
        request = Request(audio, draft, self._settled, self._stop)
        verdict = self._verdict(request)
        tokens = draft.tokens if verdict is None else tuple(int(token) for token in verdict.tokens)
        plan = plan_of(draft, tokens, None if verdict is None else verdict.openness)
        by: tuple[By, ...] = ("policy" if verdict is None else "judge",) * audio.frames
        decided_s = self._clock.now()
        changes = corrections(draft.tokens, tokens)
        self._log.add(decided_s, "unverified" if verdict is None else "judged", index, corrections=changes, by=by)
        work = self._timed("generator", "begin", index, lambda: generator.begin(audio, draft, plan))
        begun_s, steps = self._clock.now(), 0
        while work.steps_left:
            steps += 1
            self._timed("generator", f"step {steps}", index, lambda: generator.step(work, plan))
        rendered = None
        while rendered is None:
            rendered = self._timed("generator", "render", index, lambda: kept(generator.render(work)))
        frames = rendered[: audio.frames]
        rendered_s = self._clock.now()
        self._timed("commit", "commit", index, lambda: generator.commit(work))
        committed_s = self._clock.now()
        self._log.add(committed_s, "committed", index)
        self._settled = (Settled(audio, draft, tokens),)
        how: How = "corrected" if changes else "accepted"
        if verdict is None or draft.rest:
            how = "unverified" if verdict is None else "written"
        self._counts[how] = self._counts.get(how, 0) + 1
        return Commit(
            index=index, first_frame=audio.first_frame,
            tokens=tokens, drafted=draft.tokens, how=how, frames=frames, heard_s=audio.heard_s,
            drafted_s=drafted_s, judged_s=float("nan") if verdict is None else decided_s, decided_s=decided_s,
            begun_s=begun_s, rendered_s=rendered_s, committed_s=committed_s, steps=steps,
            passes=0 if verdict is None else verdict.passes, by=by, openness=plan.openness,
            confidence=draft.confidence, recalibrated=draft.recalibrated, judged=() if verdict is None else tokens,
        )  # fmt: skip

    def _verdict(self, request: Request) -> Verdict | None:
        """The judge's plan; None where it fails and the policy lets the draft stand."""
        index, frames = request.audio.index, request.audio.frames
        try:
            plan = lambda: self._stages.judge.plan(request, self._reasoning_tokens)  # noqa: E731
            verdict: Verdict = self._timed("judge", "plan", index, plan)
            if not is_sound(verdict, frames):
                raise InputError(f"judge: chunk {index}: no plan of {frames} tokens")
        except InputError as error:
            if self._policy.on_silence == "stop":
                raise
            self._notes.append(str(error))
            return None
        return verdict

    def _timed(self, stage: str, what: str, chunk: int, run: Callable[[], object], ready_s: float | None = None):
        if self._stop.is_set():
            raise Stopped
        start_s = self._clock.now()
        try:
            result = run()
        except Stopped:
            raise
        except Exception as error:
            raise InputError(f"{stage}: chunk {chunk}, {what}: {one_line(error)}") from None
        wait_s = 0.0 if ready_s is None else max(0.0, start_s - ready_s)
        self._trace.add(TraceEvent(stage, what, chunk, start_s, self._clock.now(), wait_s))
        return result
