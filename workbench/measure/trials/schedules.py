"""Schedules in virtual time: early, late, doubled, contradicting and missing verdicts, failing stages, broken sound.

The situations are those of the suite's properties, drawn from a seed; ``check_commits`` and ``check_timing`` say what
must hold of every one. Strict situations must commit the target's own plan, lax ones must always come to their end.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from specsync_lib.pipeline.stages import Policy
from specsync_lib.pipeline.synthetic import SyntheticTarget
from tests.toys.schedules import SCHEDULES_EACH, Played, Situation, check_commits, check_timing, play
from workbench.measure.trials.outcome import Outcome, batch_names, batch_of, require

BATCHES, EACH, SHORT_EACH = 25, 400, 200


def names(short: bool) -> list[str]:
    """Batches by their seed."""
    return batch_names(short, BATCHES, EACH, SHORT_EACH)


def situation_of(rng: np.random.Generator, strict: bool) -> Situation:
    """A policy, stage times, and how judge, generator and sound misbehave."""

    def pick(*values):
        return values[int(rng.integers(len(values)))]

    policy = Policy(
        late=pick("midflight", "rollback") if strict else pick("midflight", "rollback", "overrule"),
        on_silence="stop" if strict else "draft",
        deadline_s=pick(0.5, 2.0, 30.0) if strict else pick(0.01, 0.5, 2.0),
        min_steps_left=pick(1, 2),
        start_confidence=pick(0.0, 1.0) if strict else 0.0,
        hold_before=pick("nothing", "decode", "last step"),
        generator_retries=pick(0, 1, 2) if strict else 2,
        judge_backlog=pick(1, 2, 3, 4),
    )
    return Situation(
        policy,
        chunks=pick(1, 2, 3, 4, 5),
        ahead=pick(1, 2, 3, 4, 5),
        steps=pick(0, 1, 2, 3, 4),
        draft_errors=pick(0.0, 0.3, 1.0),
        slowest_verdict_s=pick(0.0, 0.2, 1.0, 3.0),
        lost_verdicts=pick(0.0, 0.0, 0.1) if strict else pick(0.0, 0.3, 1.0),
        noise=pick(0.0, 0.5, 1.0),
        judge_dies=pick(0.0, 0.0, 0.05) if strict else pick(0.0, 0.2),
        generator_fails=pick(0.0, 0.0, 0.02) if strict else 0.0,
        real_time=pick(False, True),
        gaps=pick(0.0, 0.2),
        cancelled=strict and pick(False, True),
    )


def check(played: Played, situation: Situation, seed: int, strict: bool) -> str:
    """What must hold; returns how the stream ended."""
    check_commits(played, situation)
    check_timing(played, situation)
    report = played.report
    if strict:
        plan = SyntheticTarget(seed).plan(played.chunk_frames)
        require([commit.tokens for commit in report.commits] == plan[: len(report.commits)], "not the target's plan")
    else:
        require(report.ended == "complete", f"ended {report.ended}: {report.error}")
    return f"{'strict' if strict else 'lax'}, {report.ended}"


def attempt(name: str, folder: Path) -> Outcome:
    """A batch: several schedules of each situation."""
    first, count = batch_of(name)
    rng, outcome = np.random.default_rng(first), Outcome(Counter())
    for number in range(count):
        if number % SCHEDULES_EACH == 0:
            strict = rng.random() < 0.6
            situation = situation_of(rng, strict)
        seed = 100_000 * first + number
        try:
            outcome.how[check(play(situation, seed), situation, seed, strict)] += 1
        except Exception as error:
            line = f"{type(error).__name__}: {str(error)[:200]}"
            outcome.lost.append(f"schedule {seed} ({'strict' if strict else 'lax'}): {line}")
    return outcome
