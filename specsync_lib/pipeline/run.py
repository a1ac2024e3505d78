"""The pipeline, streaming: sound in, committed frames out; serial, or speculative under a draft that a judge verifies.

serial       per chunk: draft's features → the judge writes the plan token by token → generate → decode → commit
speculative  the chunk is generated under the kernel's draft while the judge verifies it in another thread; a rejection
             corrects it between two denoising steps or has it generated again (:class:`Policy`); frames go out when
             they are decoded and their tokens are decided, in order, once

:func:`run_serial` and :func:`run_speculative` are plain calls, in a notebook's running event loop too;
:func:`run_speculative_async` leaves the loop free. :class:`Pipeline` gives the commits one by one. With a
:class:`VirtualClock` the same rules run event by event in one thread: thousands of schedules a second, and every run
the same.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf

import torch

from specsync_lib.errors import InputError
from specsync_lib.pipeline.clock import Clock, RealClock, SteadyClock, VirtualClock
from specsync_lib.pipeline.commit_log import CommitLog
from specsync_lib.pipeline.conductor import Conductor, Job, one_line
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.sound import AudioPiece, ChunkAssembler
from specsync_lib.pipeline.stages import (
    STATIONS,
    Commit,
    Policy,
    Stages,
    Station,
    Verdict,
)
from specsync_lib.pipeline.trace import Trace

AHEAD_CHUNKS = 4  # chunks heard and not yet committed: 1.6 s of sound where they hold three slots
GRACE_S = 5.0  # how long an ended pipeline waits for a stage that is still inside a call
STOP_POLL_S = 0.05  # how soon a stop from outside is noticed


# --- speculative ------------------------------------------------------------------------------------------------------


class _Feeder:
    """Pulls the source piece by piece, when there is room for a chunk and the piece is due."""

    def __init__(self, source: Iterable[AudioPiece], conductor: Conductor, start_s: float) -> None:
        self._source, self._conductor, self._start_s = iter(source), conductor, start_s
        self._assembler = ChunkAssembler(conductor.stages.chunk)
        self._piece: AudioPiece | None = None
        self.ended = False

    def wants(self) -> bool:
        """Whether to call ``pull``: there is room and sound may come. Ask under the lock."""
        return not self.ended and not self._conductor.ended and self._piece is None and self._conductor.room()

    def pull(self, now_s: float) -> Callable[[float], None]:
        """Take the next piece, which may take a live source its time; returns what to do under the lock."""
        try:
            piece = next(self._source, None)
        except Exception as error:
            line = f"audio source: {one_line(error)}"
            return lambda now_s: self._finish(now_s, line)
        if piece is None:
            return self._finish
        self._piece = piece
        return lambda now_s: None

    def due_in(self, now_s: float) -> float:
        """Seconds until the piece in hand arrives; inf without one."""
        if self._piece is None or self.ended:
            return inf
        return 0.0 if self._piece.due_s is None else max(0.0, self._start_s + self._piece.due_s - now_s)

    def push(self, now_s: float) -> None:
        """The piece in hand arrives."""
        piece, self._piece = self._piece, None
        # A piece that had to wait for room has its latency counted from when it was due.
        arrival_s = now_s if piece.due_s is None else min(now_s, self._start_s + piece.due_s)
        try:
            chunks = self._assembler.push(piece, arrival_s)
        except InputError as error:
            self._finish(now_s, str(error))
            return
        for chunk in chunks:
            self._conductor.hear(chunk, now_s)

    def _finish(self, now_s: float, error: str | None = None) -> None:
        self.ended = True
        for chunk in self._assembler.finish(now_s):
            self._conductor.hear(chunk, now_s)
        counts = self._conductor.counts
        counts["samples filled"] += self._assembler.filled_samples
        counts["samples dropped"] += self._assembler.dropped_samples
        self._conductor.end_of_audio(now_s, error)


class Pipeline:
    """A speculative run. Iterate :meth:`commits`, or call :meth:`run`; :meth:`cancel` ends it from any thread.

    Three threads: sound and draft, judge, generator. The caller's thread takes the commits; when it does not, at most
    ``ahead`` chunks are in flight and the stages wait. A pipeline runs once.

    Parameters
    ----------
    source
        :func:`pieces` of a recording, or any iterable of :class:`AudioPiece`.
    stages, policy
        The models, and what happens when the judge disagrees late or is silent.
    ahead
        Bound on the chunks heard and not yet taken. 1: a chunk's sound comes when the one before is out (with a source
        at the pace "fast"), which measures each chunk by itself.
    history
        How many entries of the log and of the trace to keep; None: all.
    stop
        Set it from another thread to cancel; each stage leaves after the call that it is in (a denoising step, a pass
        of the judge, a decoded slot).
    threads
        torch's, by station; a station that is not named computes on as many as torch has.
    """

    def __init__(
        self,
        source: Iterable[AudioPiece],
        stages: Stages,
        policy: Policy | None = None,
        *,
        clock: Clock | None = None,
        ahead: int = AHEAD_CHUNKS,
        history: int | None = None,
        grace_s: float = GRACE_S,
        stop: threading.Event | None = None,
        threads: Mapping[Station, int] | None = None,
    ) -> None:
        self._threads_of, self._seated = threads or {}, threading.Semaphore(0)
        self._clock = clock if isinstance(clock, VirtualClock) else SteadyClock(clock or RealClock())
        self._grace_s, self._asked_to_stop = grace_s, stop
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._conductor = Conductor(
            stages,
            policy or Policy(),
            ahead=ahead,
            log=CommitLog(history),
            trace=Trace(history),
            deliver=self._deliver,
            stop=self._stop,
        )
        self._source = source
        self._threads: list[threading.Thread] = []
        self._started = False
        self._start_s = self._end_s = 0.0

    @property
    def start_s(self) -> float:
        """When the stream began, by its clock; pieces are due from then."""
        return self._start_s

    def run(self, on_commit: Callable[[Commit], None] | None = None, *, keep_commits: bool = True) -> PipelineReport:
        """Run to the end; ``on_commit`` is called in this thread with every commit as it goes out."""
        kept = []
        for commit in self.commits():
            if on_commit is not None:
                on_commit(commit)
            if keep_commits:
                kept.append(commit)
        return self.report(kept)

    def commits(self) -> Iterator[Commit]:
        """The commits in order, as they go out. Leaving the loop early cancels the run.

        Raises
        ------
        InputError: it has run already.
        """
        if self._started:
            raise InputError("pipeline: it has run already; make a new one, with new stages")
        self._started = True
        self._start_s = self._clock.now()
        if isinstance(self._clock, VirtualClock):
            yield from self._drive(self._clock)
            return
        feeder = _Feeder(self._source, self._conductor, self._start_s)
        self._threads = [
            threading.Thread(target=self._feed, args=(feeder,), name="specsync-draft", daemon=True),
            threading.Thread(target=self._work, args=("judge",), name="specsync-judge", daemon=True),
            threading.Thread(target=self._work, args=("generator",), name="specsync-generator", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
            self._seated.acquire()
        try:
            while True:
                with self._changed:
                    while not self._halted() and not self._conductor.out and not self._conductor.ended:
                        self._changed.wait(None if self._asked_to_stop is None else STOP_POLL_S)
                    if self._halted() or not self._conductor.out:
                        return
                    commit = self._conductor.out.popleft()
                    self._changed.notify_all()
                yield commit
        finally:
            self._close()

    def cancel(self) -> None:
        """End the run now: nothing is committed after this returns; the stages leave as soon as their call returns."""
        with self._changed:
            self._conductor.cancel()
            self._changed.notify_all()

    def _halted(self) -> bool:
        return self._asked_to_stop is not None and self._asked_to_stop.is_set()

    def report(self, commits: Iterable[Commit] = ()) -> PipelineReport:
        """What has happened so far, with the commits that the caller kept."""
        with self._changed:
            core = self._conductor
            return PipelineReport(
                mode="speculative",
                guarantee=core.policy.guarantee,
                ended=core.ended,
                error=core.error,
                notes=tuple(core.notes),
                commits=tuple(commits),
                counts=dict(core.counts),
                log=core.log,
                trace=core.trace,
                wall_s=(self._end_s or self._clock.now()) - self._start_s,
                chunk=core.stages.chunk,
            )

    # --- threads

    def _deliver(self, verdict: Verdict) -> None:
        if isinstance(self._clock, VirtualClock):
            self._clock.after(0.0, lambda: self._conductor.deliver(verdict, self._clock.now()))
            return
        with self._changed:
            self._conductor.deliver(verdict, self._clock.now())
            self._changed.notify_all()

    def _sit_down(self, station: Station) -> None:
        """A number of threads belongs to the thread that sets it, but for MKL's, which is the last that was set: the
        stations sit down one after the other, the generator last."""
        if station in self._threads_of:
            torch.get_num_threads()  # a thread's first question takes the process' number, and would take this one away
            torch.set_num_threads(self._threads_of[station])
        self._seated.release()

    def _work(self, station: Station) -> None:
        self._sit_down(station)
        job = self._wait_for_job(station)
        while job is not None:
            job = self._run(job, station)

    def _wait_for_job(self, station: Station) -> Job | None:
        with self._changed:
            while not self._conductor.ended and not self._halted():
                now_s = self._clock.now()
                self._conductor.tick(now_s)
                job = self._conductor.next_job(station, now_s)
                if job is not None:
                    return job
                if self._conductor.ended:
                    self._changed.notify_all()
                    return None
                self._wait(self._conductor.next_deadline() - now_s)
            return None

    def _wait(self, seconds: float) -> None:
        self._changed.wait(None if seconds == inf else min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def _run(self, job: Job, station: Station | None = None) -> Job | None:
        """Do a job; a station then takes its next one in the same breath, so that whoever waits for what is done wakes
        up beside that next job and not before it."""
        start_s = self._clock.now()
        result, error = _attempt(job)
        with self._changed:
            self._conductor.done(job, result, error, start_s, self._clock.now())
            self._changed.notify_all()
            return self._wait_for_job(station) if station else None

    def _feed(self, feeder: _Feeder) -> None:
        """Sound as it comes, and the draft inline: it is too short to be worth a thread."""
        self._sit_down("draft")
        while True:
            with self._changed:
                now_s = self._clock.now()
                if self._conductor.ended or self._halted():
                    return
                if feeder.due_in(now_s) == 0:
                    feeder.push(now_s)
                    self._changed.notify_all()
                job = self._conductor.next_job("draft", now_s)
                if job is None and not feeder.wants():
                    self._wait(feeder.due_in(now_s))
                    continue
            if job is not None:
                self._run(job)
            else:
                act = feeder.pull(now_s)
                with self._changed:
                    act(self._clock.now())
                    self._changed.notify_all()

    def _close(self) -> None:
        self.cancel()
        limit_s = time.monotonic() + self._grace_s
        for thread in self._threads:
            thread.join(max(0.0, limit_s - time.monotonic()))
            if thread.is_alive():
                stage = thread.name.removeprefix("specsync-")
                self._conductor.notes.append(f"the {stage} is still inside a call; its thread ends when that returns")
        self._end_s = self._clock.now()

    # --- virtual time

    def _drive(self, clock: VirtualClock) -> Iterator[Commit]:
        core = self._conductor
        feeder = _Feeder(self._source, core, self._start_s)
        try:
            while not core.ended and not self._halted():
                core.tick(clock.now())
                started = False
                if feeder.wants():
                    feeder.pull(clock.now())(clock.now())
                    started = True
                    if (due_s := feeder.due_in(clock.now())) < inf:
                        clock.after(due_s, lambda: feeder.push(clock.now()))
                for station in STATIONS:
                    job = core.next_job(station, clock.now())
                    if job is not None:
                        self._run_virtually(job, clock)
                        started = True
                while core.out:
                    yield core.out.popleft()
                    started = True
                if not started and not core.ended and not clock.advance(core.next_deadline()):
                    raise RuntimeError("pipeline: nothing is under way and nothing will happen")
            yield from core.out
        finally:
            core.cancel()
            self._end_s = clock.now()

    def _run_virtually(self, job: Job, clock: VirtualClock) -> None:
        start_s = clock.now()
        clock.start_job()
        result, error = _attempt(job)
        duration_s = clock.end_job()
        clock.after(duration_s, lambda: self._conductor.done(job, result, error, start_s, clock.now()))


def _attempt(job: Job) -> tuple[object, str | None]:
    """The job's result, or its error as one line."""
    try:
        return job.run(), None
    except BaseException as error:  # a stage that calls sys.exit() must not take its thread along unseen
        return None, one_line(error)


def run_speculative(
    source: Iterable[AudioPiece],
    stages: Stages,
    policy: Policy | None = None,
    *,
    clock: Clock | None = None,
    ahead: int = AHEAD_CHUNKS,
    on_commit: Callable[[Commit], None] | None = None,
    keep_commits: bool = True,
    stop: threading.Event | None = None,
    threads: Mapping[Station, int] | None = None,
) -> PipelineReport:
    """Run a speculative :class:`Pipeline` to its end; its parameters."""
    pipeline = Pipeline(source, stages, policy, clock=clock, ahead=ahead, stop=stop, threads=threads)
    return pipeline.run(on_commit, keep_commits=keep_commits)


async def run_speculative_async(
    source: Iterable[AudioPiece], stages: Stages, policy: Policy | None = None, **options
) -> PipelineReport:
    """:class:`Pipeline` without holding up the event loop; cancelling the task cancels the run."""
    pipeline = Pipeline(source, stages, policy, **options)
    running = asyncio.ensure_future(asyncio.to_thread(pipeline.run))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        pipeline.cancel()
        await running
        raise
