"""Streams of synthetic stages: quick ones, cancelled ones, and judges that misbehave."""

import threading

import numpy as np

from specsync_lib.pipeline.clock import RealClock
from specsync_lib.pipeline.commit_log import replay
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Stages, Verdict
from specsync_lib.pipeline.synthetic import StageTimes, SyntheticJudge, SyntheticTarget, synthetic_stages
from specsync_lib.units import CHUNK_SAMPLES

SPEECH = np.random.default_rng(0).normal(0, 0.1, 5 * CHUNK_SAMPLES).astype(np.float32)  # 5 chunks
QUICK = StageTimes(verify_s=0.001, token_s=0.0001, step_s=0.0005, render_s=0.0005)
TARGET_PLAN = [token for tokens in SyntheticTarget().plan([12] * 5) for token in tokens]


def wrong_at_odd_chunks(index: int) -> tuple[int, ...]:
    return (2, 7) if index % 2 else ()


def stages(times: StageTimes = QUICK, clock=RealClock, **parts) -> Stages:
    made = synthetic_stages(clock, times, rejected=wrong_at_odd_chunks, size_px=(16, 16))
    return Stages(**(vars(made) | parts))


def fast(samples=SPEECH):
    return pieces(samples, pace="fast")


def no_threads_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("specsync-")]


def cancelled_run(rng: np.random.Generator) -> str:
    """A stream ended at a random call of a random stage, from that stage's own thread, or by leaving the loop: how."""
    countdown = iter(range(int(rng.integers(1, 60))))
    running: list[Pipeline] = []

    class Clock(RealClock):
        @staticmethod
        def sleep(seconds):
            if next(countdown, None) is None:
                running[0].cancel()

    running.append(pipeline := Pipeline(fast(), stages(StageTimes(), Clock)))
    leave_after = int(rng.integers(1, 8))
    kept = []
    for commit in pipeline.commits():
        kept.append(commit)
        if len(kept) == leave_after:
            break
    report = pipeline.report(kept)
    assert report.ended in ("cancelled", "complete")
    assert report.plan.tolist() == TARGET_PLAN[: report.frame_count]
    assert replay(report.log.entries)[: len(kept)] == [commit.tokens for commit in kept]
    return report.ended


class Bad(SyntheticJudge):
    """A judge with an odd ``verify``."""

    def __init__(self, how):
        super().__init__(RealClock, StageTimes(), SyntheticTarget())
        self._how = how

    def verify(self, request, deliver):
        self._how(request, deliver)


def dies(request, deliver):
    raise RuntimeError("connection lost\nTraceback …")


def exits(request, deliver):
    raise SystemExit(1)


def drips(request, deliver):
    for frame in range(1, request.audio.frames):
        deliver(Verdict(request.audio.index, request.draft.tokens[:frame]))


def lies(request, deliver):
    deliver(Verdict(request.audio.index, (99,) * request.audio.frames))
    deliver(Verdict(request.audio.index + 1, request.draft.tokens))
    deliver("yes")


def says_nothing(request, deliver):
    pass


def abstains(request, deliver):
    deliver(Verdict(request.audio.index, ()))


def spoils(request, deliver):
    """Writes into what it reads; what goes out is not its to change."""
    request.audio.samples[:] = np.nan


def spoils_the_draft(request, deliver):
    request.draft.openness[:] = np.nan


BAD_JUDGES = {
    "spoils the sound": spoils,
    "spoils the draft": spoils_the_draft,
    "hangs": lambda request, deliver: request.stop.wait(),
    "dies": dies,
    "exits": exits,
    "drips": drips,
    "lies": lies,
    "says nothing": says_nothing,
    "abstains": abstains,
}
