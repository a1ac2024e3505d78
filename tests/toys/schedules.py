"""Schedules in virtual time: judge, generator and sound misbehave as a situation says, and what must hold all the same.

Every verdict may be early, late, doubled, out of order, missing or contradicted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from specsync_lib import units
from specsync_lib.pipeline.clock import VirtualClock
from specsync_lib.pipeline.commit_log import DECISIONS, replay
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.sound import AudioPiece, ChunkAssembler
from specsync_lib.pipeline.stages import Policy, Stages, Verdict
from specsync_lib.pipeline.synthetic import (
    StageTimes,
    SyntheticDrafter,
    SyntheticGenerator,
    SyntheticJudge,
    SyntheticTarget,
)

SCHEDULES_EACH = 40  # of a situation
EPSILON_S = 1e-9
RATE_HZ = units.SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Situation:
    """Chances are per event, times in seconds."""

    policy: Policy
    chunks: int
    ahead: int
    steps: int
    draft_errors: float
    slowest_verdict_s: float
    lost_verdicts: float = 0.0
    noise: float = 0.0  # doubled, contradicting, unasked, malformed and unfinished verdicts
    judge_dies: float = 0.0
    generator_fails: float = 0.0
    real_time: bool = False
    gaps: float = 0.0
    cancelled: bool = False
    size: units.ChunkSize = units.CHUNK


class ScheduledJudge(SyntheticJudge):
    """Thinks as the target does, but answers as the situation says."""

    def __init__(self, situation: Situation, clock: VirtualClock, target: SyntheticTarget, rng: np.random.Generator):
        super().__init__(clock, StageTimes(), target)
        self._situation, self._rng = situation, rng

    def verify(self, request, deliver) -> None:
        situation, rng, clock = self._situation, self._rng, self._clock
        if rng.random() < situation.judge_dies:
            raise RuntimeError("the judge died\nwith a long story")
        index, frames = request.audio.index, request.audio.frames
        truth = self.answer(request)
        noisy = rng.random(5) < situation.noise
        if noisy[0]:  # a verdict on a chunk that nobody asked about yet
            deliver(Verdict(index + 1 + int(rng.integers(3)), rng.integers(0, 15, situation.size.frames).tolist()))
        if noisy[1]:
            deliver(rng.choice(MALFORMED)(index, frames))
        if noisy[2]:
            deliver(Verdict(index, tuple(rng.integers(0, 15, frames)), final=False))
        # Some judges hold the stage until they know, some answer from elsewhere.
        delay_s = float(rng.random() * situation.slowest_verdict_s)
        if rng.random() < 0.5:
            clock.sleep(delay_s)
            delay_s = 0.0
        if rng.random() < situation.lost_verdicts:
            if rng.random() < 0.3:
                clock.sleep(np.inf)  # hangs
            elif rng.random() < 0.3:
                deliver(Verdict(index, ()))  # cannot say
            return
        clock.after(delay_s, lambda: deliver(Verdict(index, truth)))
        if noisy[3]:
            clock.after(delay_s + float(rng.random()), lambda: deliver(Verdict(index, list(truth))))
        if noisy[4]:
            lie = tuple((token + 1) % 15 for token in truth)
            clock.after(delay_s + EPSILON_S + float(rng.random()), lambda: deliver(Verdict(index, lie)))


MALFORMED: list[Callable] = [
    lambda index, frames: Verdict(index, (0,) * (frames - 1 or 2)),  # none at all is no mistake: the judge cannot say
    lambda index, frames: Verdict(index, (0,) * (frames + 1)),
    lambda index, frames: Verdict(index, (15,) * frames),
    lambda index, frames: Verdict(index, (-1,) * frames),
    lambda index, frames: Verdict(index, (float("nan"),) * frames),
    lambda index, frames: Verdict(index, None),
    lambda index, frames: Verdict(None, (0,) * frames),
    lambda index, frames: Verdict(-1, (0,) * frames),
    lambda index, frames: None,
    lambda index, frames: Verdict(index, (0,) * frames, by=("judge",) * (frames + 1)),
    lambda index, frames: Verdict(index, (0,) * frames, by=("nobody",) * frames),
    lambda index, frames: Verdict(index, (0,) * frames, openness=np.full(frames, np.nan)),
    lambda index, frames: Verdict(index, (0,) * frames, judged=(15,) * frames),
]


class WatchedGenerator(SyntheticGenerator):
    """Notes under which plans each committed chunk was generated, and fails now and then."""

    def __init__(self, clock, times: StageTimes, fails: float, rng: np.random.Generator):
        super().__init__(clock, times)
        self._fails, self._rng = fails, rng
        self.plans: list[list] = []

    def begin(self, audio, draft, plan):
        self._maybe_fail()
        work = super().begin(audio, draft, plan)
        work.plans = [plan.tokens]
        return work

    def step(self, work, plan):
        self._maybe_fail()
        super().step(work, plan)
        work.plans.append(plan.tokens)

    def rewind(self, work):
        self._maybe_fail()
        super().rewind(work)
        work.plans.pop()

    def render(self, work):
        self._maybe_fail()
        return super().render(work)

    def commit(self, work):
        super().commit(work)
        self.plans.append(work.plans)

    def _maybe_fail(self) -> None:
        if self._rng.random() < self._fails:
            raise MemoryError("out of memory\nin the middle of a chunk")


@dataclass
class Played:
    """A schedule's run, and what was seen of it while it ran."""

    report: PipelineReport
    generator: WatchedGenerator
    frames_at_commit: list[bytes]
    chunk_frames: list[int]
    times: StageTimes


def sample_count(situation: Situation, rng: np.random.Generator) -> int:
    """So many chunks, the last one whole, short, or too short for a frame."""
    whole = situation.size.samples(situation.chunks)
    return whole if rng.random() < 0.2 else whole - int(rng.integers(situation.size.samples(1)))


def sound(situation: Situation, rng: np.random.Generator) -> list[AudioPiece]:
    """Pieces of 20 to 100 ms with lost ones, repeats, and bursts that come late and together."""
    pieces, first, delay_s = [], 0, 0.0
    end = sample_count(situation, rng)
    while first < end:
        length = min(int(rng.integers(320, 1601)), end - first)
        if rng.random() < 0.1:
            delay_s = float(rng.random())
        due_s = (first + length) / RATE_HZ + delay_s if situation.real_time else None
        if rng.random() >= situation.gaps:
            shift = int(rng.integers(-500, 500)) if rng.random() < situation.gaps else 0
            pieces.append(AudioPiece(max(0, first + shift), np.zeros(length, np.float32), due_s))
        first += length
    return pieces


def frames_of_chunks(pieces: list[AudioPiece], size: units.ChunkSize) -> list[int]:
    assembler = ChunkAssembler(size)
    chunks = [chunk for piece in pieces for chunk in assembler.push(piece, 0.0)]
    return [chunk.frames for chunk in chunks + assembler.finish(0.0)]


def play(situation: Situation, seed: int, drafter: type[SyntheticDrafter] = SyntheticDrafter) -> Played:
    pieces = sound(situation, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    clock = VirtualClock(rng)
    target = SyntheticTarget(seed)
    times = StageTimes(
        draft_s=0.01 * rng.random(), begin_s=0.05 * rng.random(), step_s=0.2 * rng.random(),
        render_s=0.3 * rng.random(), commit_s=0.01 * rng.random(), steps=situation.steps,
        render_parts=int(rng.integers(1, 4)),
    )  # fmt: skip
    wrong = [index for index in range(40) if rng.random() < situation.draft_errors]
    errors = {index: rng.permutation(situation.size.frames)[:2] for index in wrong}
    stages = Stages(
        drafter(clock, times, target, lambda index: errors.get(index, ())),
        ScheduledJudge(situation, clock, target, rng),
        generator := WatchedGenerator(clock, times, situation.generator_fails, rng),
        situation.size,
    )
    pipeline = Pipeline(pieces, stages, situation.policy, clock=clock, ahead=situation.ahead)
    if situation.cancelled:
        clock.after(float(rng.random() * 3), pipeline.cancel)
    seen, kept = [], []
    for commit in pipeline.commits():
        kept.append(commit)
        seen.append(commit.frames.tobytes())
    return Played(pipeline.report(kept), generator, seen, frames_of_chunks(pieces, situation.size), times)


def check_commits(played: Played, situation: Situation) -> None:
    """What holds under every policy and every misbehaviour."""
    report = played.report
    commits = report.commits
    # in order, each once, and nothing that went out changed afterwards
    assert [commit.index for commit in commits] == list(range(len(commits)))
    assert [commit.frames.tobytes() for commit in commits] == played.frames_at_commit
    assert not any(commit.frames.flags.writeable for commit in commits)
    assert [len(commit.frames) for commit in commits] == played.chunk_frames[: len(commits)]
    assert [commit.first_frame for commit in commits] == [situation.size.first_frame(k) for k in range(len(commits))]
    assert all(one.committed_s <= two.committed_s for one, two in pairwise(commits))
    # the committed plan is the replay of drafts, accepted and corrected tokens
    assert replay(report.log.entries) == [commit.tokens for commit in commits]
    # every frame has its decider: the judge's word, or the draft's token
    decided = {entry.chunk: entry.by for entry in report.log.entries if entry.kind in DECISIONS}
    for commit in commits:
        assert commit.by == decided[commit.index] and len(commit.by) == len(commit.tokens) == len(commit.openness)
        for by, token, drafted, judged in zip(
            commit.by, commit.tokens, commit.drafted, commit.judged or commit.tokens, strict=True
        ):
            assert token == (judged if by == "judge" else drafted)
    # the generator's past is what was committed, each chunk under a plan that allows it
    assert len(played.generator.plans) - len(commits) in ((0, 1) if situation.cancelled else (0,))
    for commit, plans in zip(commits, played.generator.plans, strict=False):
        assert plans[-1] == commit.tokens
        if situation.policy.late != "midflight":
            assert set(plans) == {commit.tokens}
    # it ends, and says how
    assert report.ended in ("complete", "failed", "cancelled")
    assert (report.error is None) == (report.ended != "failed")
    assert all("\n" not in line for line in [*report.notes, report.error or ""])
    if report.ended == "complete":
        assert len(commits) == len(played.chunk_frames)


def check_timing(played: Played, situation: Situation) -> None:
    """No chunk waits for a decision past its deadline, nor for anything but its generation after that."""
    policy, times = situation.policy, played.times
    one_try_s = times.begin_s + times.steps * times.step_s + times.render_s + times.commit_s
    before_s = 0.0
    for commit in played.report.commits:
        if policy.late != "overrule":
            assert commit.decided_s <= max(commit.heard_s + policy.deadline_s, commit.drafted_s) + EPSILON_S
        ready_s = max(commit.decided_s, commit.drafted_s, before_s)
        # whatever runs when the decision comes is finished first; a failed try is repeated
        assert commit.committed_s <= ready_s + (2 + policy.generator_retries) * one_try_s + EPSILON_S
        before_s = commit.committed_s
