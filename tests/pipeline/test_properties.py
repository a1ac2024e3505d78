"""The pipeline's rules over tens of thousands of schedules, in virtual time: what never breaks, whatever comes when.

Hypothesis draws the situation (policy, stage times, how the judge, the generator and the sound misbehave); a seeded
generator plays SCHEDULES_EACH schedules of it. Every verdict may be early, late, doubled, out of order, missing or
contradicted. ``check_commits`` holds for all of them; the tests add what their policy promises.
"""

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specsync_lib import units
from specsync_lib.pipeline.clock import VirtualClock
from specsync_lib.pipeline.commit_log import replay
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.stages import Policy
from specsync_lib.pipeline.synthetic import (
    StageTimes,
    SyntheticDrafter,
    SyntheticTarget,
    extend,
    synthetic_stages,
)
from tests.toys.schedules import SCHEDULES_EACH, Situation, check_commits, check_timing, play, sound

SITUATIONS = 250  # with SCHEDULES_EACH: 10,000 schedules a test


sizes = st.sampled_from([units.ChunkSize(slots) for slots in units.CHUNK_SLOTS])
policies = st.builds(
    Policy,
    late=st.sampled_from(["midflight", "rollback"]),
    on_silence=st.just("stop"),
    deadline_s=st.sampled_from([0.5, 2.0, 30.0]),
    min_steps_left=st.integers(1, 2),
    start_confidence=st.sampled_from([0.0, 1.0]),
    hold_before=st.sampled_from(["nothing", "decode", "last step"]),
    generator_retries=st.integers(0, 2),
    judge_backlog=st.integers(1, 4),
)
situations = st.builds(
    Situation,
    policy=policies,
    chunks=st.sampled_from([1, 2, 3, 4, 5]),
    ahead=st.integers(1, 5),
    steps=st.integers(0, 4),
    draft_errors=st.sampled_from([0.0, 0.3, 1.0]),
    slowest_verdict_s=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    lost_verdicts=st.sampled_from([0.0, 0.0, 0.1]),
    noise=st.sampled_from([0.0, 0.5, 1.0]),
    judge_dies=st.sampled_from([0.0, 0.0, 0.05]),
    generator_fails=st.sampled_from([0.0, 0.0, 0.02]),
    real_time=st.booleans(),
    gaps=st.sampled_from([0.0, 0.2]),
    cancelled=st.booleans(),
    size=sizes,
)
seeds = st.integers(0, 2**32 - 1 - SCHEDULES_EACH)
sweep = settings(max_examples=SITUATIONS, suppress_health_check=list(HealthCheck), database=None)


@sweep
@given(situations, seeds)
def test_an_exact_pipeline_commits_the_targets_own_plan(situation, seed):
    for number in range(SCHEDULES_EACH):
        played = play(situation, seed + number)
        check_commits(played, situation)
        check_timing(played, situation)
        plan = SyntheticTarget(seed + number).plan(played.chunk_frames)
        assert [commit.tokens for commit in played.report.commits] == plan[: len(played.report.commits)]
        assert all(commit.how in ("accepted", "corrected") for commit in played.report.commits)


class UnsureDrafter(SyntheticDrafter):
    """Sure of some chunks."""

    def draft(self, audio):
        draft = super().draft(audio)
        sure = audio.index * 7919 % 5 < 2
        return replace(draft, confidence=np.full(audio.frames, 0.9 if sure else 0.2, np.float32))


@sweep
@given(situations, st.sampled_from([0.0, 0.5, 0.95]), seeds)
def test_a_gate_commits_sure_chunks_unasked_and_the_judges_word_on_them_elsewhere(situation, gate, seed):
    """Given what was committed before, whoever decided that, a chunk is the sure draft or the target's."""
    situation = replace(situation, policy=replace(situation.policy, gate=gate))
    for number in range(SCHEDULES_EACH):
        played = play(situation, seed + number, UnsureDrafter)
        check_commits(played, situation)
        check_timing(played, situation)
        target, context = SyntheticTarget(seed + number), 0
        for commit in played.report.commits:
            unasked = gate == 0 or (commit.confidence >= gate).all()
            assert (commit.how == "unasked") == unasked and (commit.passes == 0) == unasked
            assert set(commit.by) == {"draft" if unasked else "judge"}
            assert commit.tokens == (commit.drafted if unasked else target.tokens(context, len(commit.tokens)))
            context = extend(context, commit.tokens)


lax_policies = st.builds(
    Policy,
    late=st.sampled_from(["midflight", "rollback", "overrule"]),
    on_silence=st.just("draft"),
    deadline_s=st.sampled_from([0.01, 0.5, 2.0]),
    hold_before=st.sampled_from(["nothing", "last step"]),
    generator_retries=st.just(2),
    judge_backlog=st.integers(1, 4),
)
lax_situations = st.builds(
    Situation,
    policy=lax_policies,
    chunks=st.sampled_from([1, 2, 3, 4, 5]),
    ahead=st.integers(1, 5),
    steps=st.integers(0, 4),
    draft_errors=st.sampled_from([0.0, 0.3, 1.0]),
    slowest_verdict_s=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    lost_verdicts=st.sampled_from([0.0, 0.3, 1.0]),
    noise=st.sampled_from([0.0, 0.5]),
    judge_dies=st.sampled_from([0.0, 0.2]),
    real_time=st.booleans(),
    gaps=st.sampled_from([0.0, 0.2]),
    size=sizes,
)


@sweep
@given(lax_situations, seeds)
def test_whatever_the_judge_does_every_chunk_goes_out_in_time(situation, seed):
    for number in range(SCHEDULES_EACH):
        played = play(situation, seed + number)
        check_commits(played, situation)
        check_timing(played, situation)
        assert played.report.ended == "complete"
        for commit in played.report.commits:
            if commit.how in ("unverified", "overruled"):
                assert commit.tokens == commit.drafted
            assert (commit.how == "unverified") == np.isnan(commit.judged_s)


@settings(max_examples=200)
@given(situations, seeds)
def test_rolling_back_gives_the_serial_pipelines_frames(situation, seed):
    policy = Policy(late="rollback", deadline_s=np.inf, generator_retries=10**6)
    situation = Situation(
        policy, situation.chunks, situation.ahead, situation.steps, situation.draft_errors,
        situation.slowest_verdict_s, noise=situation.noise, generator_fails=situation.generator_fails,
        size=situation.size,
    )  # fmt: skip
    played = play(situation, seed)
    clock, target = VirtualClock(), SyntheticTarget(seed)
    stages = synthetic_stages(clock, StageTimes(steps=situation.steps), target=target, chunk=situation.size)
    serial = run_serial(sound(situation, np.random.default_rng(seed)), stages, clock=clock)
    assert played.report.ended == serial.ended == "complete"
    assert np.array_equal(played.report.plan, serial.plan)
    assert [c.frames.tobytes() for c in played.report.commits] == [c.frames.tobytes() for c in serial.commits]
    assert replay(serial.log.entries) == [commit.tokens for commit in serial.commits]


@given(situations, seeds)
@settings(max_examples=50)
def test_the_same_seed_gives_the_same_run(situation, seed):
    one, two = play(situation, seed).report, play(situation, seed).report
    assert one.log.entries == two.log.entries
    assert one.trace.events == two.trace.events


def test_silence_costs_the_deadline_and_no_more():
    policy = Policy(on_silence="draft", deadline_s=0.5)
    situation = Situation(policy, 5, 4, 2, 0.5, 0.1, lost_verdicts=1.0, real_time=True)
    chunks = play(situation, 7).report.chunks()
    assert (chunks["how"] == "unverified").all()
    # generation fits into the deadline here, so frames go out when it passes
    assert chunks["latency_ms"].iloc[:-1].between(499.9, 900).all()


def test_a_wrong_context_would_be_seen():
    """The target depends on its whole past, so that the sweep can fail: tokens after another past differ."""
    target = SyntheticTarget(3)
    plan = target.plan([12, 12])
    assert target.tokens(0, 12) == plan[0]
    assert target.tokens(0, 12) != plan[1]
