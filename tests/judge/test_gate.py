"""The gate: sure frames are forced, the judge writes the others given them, a wholly sure chunk asks nobody."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.judge.branches import Branches, Room
from specsync_lib.judge.rules import VerifyOptions, decide
from specsync_lib.judge.verify import ChunkContext, verify_chunk
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES
from tests.toys.judges import DRAFTS, FAULTS, FaultyStream, ToyJudges, ToyStream, drafted_by, plan_of

GATE = VerifyOptions("gate", 0.5)


def written_given(judges: ToyJudges, drafted: np.ndarray, sure: np.ndarray) -> list[int]:
    """Token by token: the draft's where it is sure, else the judge's best given all before it."""
    tokens = torch.zeros(1, len(drafted), dtype=torch.long)
    for frame in range(len(drafted)):
        best = int(judges.score(tokens)[0, frame].argmax())
        tokens[0, frame] = int(drafted[frame]) if sure[frame] else best
    return tokens[0].tolist()


@given(
    seed=st.integers(0, 2**31), frames=st.integers(1, 14), kind=st.sampled_from(DRAFTS), guessed=st.booleans(),
    sureness=st.floats(0, 1), room=st.one_of(st.none(), st.builds(Room, st.integers(1, 60), st.integers(1, 60))),
)  # fmt: skip
@settings(max_examples=200)
def test_a_chunk_is_what_token_by_token_writing_with_forced_tokens_gives(seed, frames, kind, guessed, sureness, room):
    judges, rng = ToyJudges.random(1, frames, len(VISEMES), seed), np.random.default_rng(seed)
    plan, stream, told = plan_of(judges.draft(kind, seed + 1)[0]), ToyStream(judges), []
    recalibrated = np.where(rng.random(frames) < sureness, rng.uniform(0.5, 1, frames), rng.uniform(0, 0.5, frames))
    sure = (recalibrated >= 0.5) & (kind != "empty")  # a missing draft is never sure
    guess = rng.dirichlet(np.full(len(VISEMES), 0.3), frames).astype(np.float32) if guessed else None
    changes = np.log(rng.dirichlet(np.ones(len(VISEMES)), len(VISEMES)))
    options = VerifyOptions("gate", 0.5, branches=room and Branches(changes, room))
    context = ChunkContext(guess=guess, recalibrated=recalibrated, before=0)
    verdict = verify_chunk(stream, plan, options, context, lambda tokens, *_: told.append(tokens))
    assert verdict.tokens.tolist() == written_given(judges, drafted_by(plan), sure) == stream.tokens
    assert verdict.by == tuple("draft" if each else "judge" for each in sure) and not verdict.fallbacks
    assert verdict.passes == stream.passes == len(told) <= (~sure).sum()  # never a pass for forced frames alone
    assert not (verdict.accepted & sure).any() and (verdict.sure == sure).all() and (verdict.verified == ~sure).all()
    assert np.isfinite(verdict.rows[~sure]).all()
    assert all((tokens[sure] == verdict.tokens[sure]).all() for tokens in told)


def test_a_wholly_sure_chunk_asks_nobody_and_becomes_context():
    judges = ToyJudges.random(1, 2 * FRAMES_PER_CHUNK, len(VISEMES), seed=2)
    plan, stream = plan_of(judges.draft("random", 3)[0]), ToyStream(judges)
    parts = [plan_of(torch.from_numpy(plan.probabilities[at : at + 12])) for at in (0, 12)]
    first = verify_chunk(stream, parts[0], GATE, ChunkContext(recalibrated=np.ones(12)))
    assert first.passes == stream.passes == 0 and first.by == ("draft",) * 12 and first.best_of_last is None
    assert first.tokens.tolist() == stream.tokens == plan.probabilities[:12].argmax(1).tolist()
    second = verify_chunk(stream, parts[1], GATE, ChunkContext(recalibrated=np.zeros(12)))
    sure = np.arange(24) < 12
    assert [*first.tokens, *second.tokens] == written_given(judges, plan.probabilities.argmax(1), sure)


def test_a_higher_threshold_leaves_more_to_the_judge():
    torch.manual_seed(0)
    judges = ToyJudges.random(400, FRAMES_PER_CHUNK, len(VISEMES), seed=5)
    rows, sureness = judges.draft("good", 6), torch.rand(400, FRAMES_PER_CHUNK)
    plans = [decide(judges.score, rows, forced=sureness >= threshold) for threshold in (0.0, 0.5, 0.9, 1.1)]
    asked, agree = zip(
        *((p.passes.sum().item(), (p.tokens == judges.plan()).double().mean()) for p in plans), strict=True
    )
    assert asked[0] == 0 and list(asked) == sorted(asked) and list(agree) == sorted(agree) and agree[-1] == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_judge_leaves_sure_frames_sure_and_the_others_to_the_draft(fault):
    judges = ToyJudges.random(1, FRAMES_PER_CHUNK, len(VISEMES), seed=4)
    plan, sure = plan_of(judges.draft("good", 5)[0]), np.arange(FRAMES_PER_CHUNK) % 3 == 0
    with np.errstate(all="ignore"):
        verdict = verify_chunk(FaultyStream(judges, FAULTS[fault]), plan, GATE, ChunkContext(recalibrated=1.0 * sure))
    assert verdict.tokens.tolist() == drafted_by(plan).tolist() and not verdict.verified.any()
    assert verdict.fallbacks == (~sure).sum() and (verdict.sure == sure).all() and len(verdict.faults) == 1
