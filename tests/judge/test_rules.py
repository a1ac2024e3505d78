"""The rules that decide about a draft: exactly what the judge alone would have written; nothing from a bad judge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import Branches, Room
from specsync_lib.judge.rules import (
    CHUNK_RULES,
    EXACT,
    PROMISES,
    RULES,
    RUN_RULES,
    VerifyOptions,
    decide,
    gate,
    within_one_frame,
)
from specsync_lib.judge.verify import ChunkContext, ShiftGuard, best_shift, row_fault, run_options, verify_chunk
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES
from tests.toys.judges import (
    DRAFTS,
    FAULTS,
    FLAT,
    FaultyStream,
    ToyJudges,
    ToyStream,
    drafted_by,
    options_of,
    p_value,
    plan_of,
    raise_error,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def toy():
    judges = ToyJudges.random(1, FRAMES_PER_CHUNK, len(VISEMES), seed=4)
    rows = judges.draft("good", seed=5)
    return judges, plan_of(rows[0])


@pytest.mark.parametrize("redraft", ["judge", "draft"])
@pytest.mark.parametrize("kind", DRAFTS)
def test_greedy_is_token_for_token_plain_decoding(kind, redraft):
    """2,000 cases a draft, 10,000 in all, in float32, with a tenth of the drafts missing."""
    judges = ToyJudges.random(2_000, FRAMES_PER_CHUNK, len(VISEMES), seed=DRAFTS.index(kind))
    rows = judges.draft(kind, seed=7, missing=0.1)
    decision = decide(judges.score, rows, VerifyOptions(redraft=redraft))
    assert torch.equal(decision.tokens, judges.plan()) and decision.decided.all()
    assert (decision.passes <= FRAMES_PER_CHUNK).all() and (decision.passes >= 1).all()
    if kind == "perfect":
        unbroken = ~rows.isnan().any(dim=2).any(dim=1)
        assert unbroken.sum() > 400 and (decision.passes[unbroken] == 1).all()


def outcome_counts(judges: ToyJudges, kind: str, redraft: str, draws: int) -> np.ndarray:
    """How often each outcome of a chunk came, by its number in base v."""
    vocabulary = judges.frame.shape[2]
    many = ToyJudges(judges.frame.expand(draws, -1, -1), judges.after)
    options = VerifyOptions("exact-sampled", generator=torch.Generator().manual_seed(11), redraft=redraft)
    rows = judges.draft(kind, seed=3, missing=0.3)
    decision = decide(many.score, rows.expand(draws, -1, -1), options)
    places = vocabulary ** torch.arange(rows.shape[1] - 1, -1, -1)
    return np.bincount((decision.tokens * places).sum(dim=1), minlength=vocabulary ** rows.shape[1])


def outcome_probabilities(judges: ToyJudges) -> np.ndarray:
    """Of every chunk that there can be, in the same order."""
    frames, vocabulary = judges.frame.shape[1:]
    outcomes = torch.cartesian_prod(*[torch.arange(vocabulary)] * frames)
    rows = ToyJudges(judges.frame.expand(len(outcomes), -1, -1), judges.after).score(outcomes)
    return rows.gather(2, outcomes[..., None]).squeeze(2).double().prod(dim=1).numpy()


@pytest.mark.parametrize("redraft", ["judge", "draft"])
@pytest.mark.parametrize("kind", DRAFTS)
def test_sampled_chunks_are_distributed_as_the_judges(kind, redraft):
    """100,000 draws of 3 frames over 4 tokens: all 64 outcomes against their exact probabilities."""
    judges = ToyJudges.random(1, 3, 4, seed=20, sharpness=0.7)
    counts = outcome_counts(judges, kind, redraft, 100_000)
    assert p_value(counts, outcome_probabilities(judges)) > 1e-3
    # The test can fail: a judge a tenth colder would be noticed.
    colder = ToyJudges(1.1 * judges.frame, 1.1 * judges.after)
    assert p_value(counts, outcome_probabilities(colder)) < 1e-12


def test_the_judges_rows_as_next_draft_save_passes():
    judges = ToyJudges.random(2_000, FRAMES_PER_CHUNK, len(VISEMES), seed=1)
    judges.after *= 0.3  # as for speech: what is heard decides more than the token before
    rows = judges.draft("good", seed=2)
    own, kernel = (
        decide(judges.score, rows, VerifyOptions(redraft=redraft)).passes.double().mean()
        for redraft in ("judge", "draft")
    )
    assert own < 0.75 * kernel < 0.75 * FRAMES_PER_CHUNK


@given(seed=st.integers(0, 2**31), frames=st.integers(1, 14), kind=st.sampled_from(DRAFTS), missing=st.floats(0, 1))
@settings(max_examples=60)
def test_one_chunk_behind_the_stream_equals_plain_decoding(seed, frames, kind, missing):
    judges = ToyJudges.random(1, frames, len(VISEMES), seed)
    plan = plan_of(judges.draft(kind, seed + 1, missing)[0])
    stream = ToyStream(judges)
    verdict = verify_chunk(stream, plan)
    assert verdict.tokens.tolist() == judges.plan()[0].tolist() == stream.tokens
    assert verdict.passes == stream.passes and verdict.verified.all() and not verdict.faults
    assert (verdict.accepted == (verdict.tokens == drafted_by(plan))).all() and verdict.by == ("judge",) * frames
    assert (verdict.rows.argmax(1) == verdict.tokens).all() and not verdict.sure.any()
    assert all(not verdict.accepted[frame] for frame in verdict.rejected_at)


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(DRAFTS))
@settings(max_examples=30)
def test_a_better_guess_saves_passes_and_changes_nothing_else(seed, kind):
    judges = ToyJudges.random(1, FRAMES_PER_CHUNK, len(VISEMES), seed)
    plan = plan_of(judges.draft(kind, seed + 1)[0])
    guess = judges.draft("perfect", 0)[0].numpy()
    verdict = verify_chunk(ToyStream(judges), plan, EXACT, ChunkContext(guess=guess))
    assert verdict.tokens.tolist() == judges.plan()[0].tolist() and verdict.passes == 1
    drafted = drafted_by(plan)
    assert (verdict.accepted == (verdict.tokens == drafted)).all()
    failed = verify_chunk(FaultyStream(judges, FAULTS["NaN"]), plan, EXACT, ChunkContext(guess=guess))
    assert failed.tokens.tolist() == drafted.tolist() and failed.fallbacks == FRAMES_PER_CHUNK


@given(
    seed=st.integers(0, 2**31),
    frames=st.integers(1, 14),
    kind=st.sampled_from(DRAFTS),
    room=st.builds(Room, st.integers(1, 60), st.integers(1, 60)),
    sharpness=st.floats(0.1, 4),
)
@settings(max_examples=150)
def test_several_plans_a_pass_commit_what_plain_decoding_does(seed, frames, kind, room, sharpness):
    """Whichever plans are tried, and however badly: the same tokens, in at most as many passes as frames."""
    judges = ToyJudges.random(1, frames, len(VISEMES), seed, sharpness)
    plan, rng, seen = plan_of(judges.draft(kind, seed + 1)[0]), np.random.default_rng(seed), []
    branches = Branches(np.log(rng.dirichlet(np.ones(len(VISEMES)), len(VISEMES))), room)
    stream = ToyStream(judges)
    guess = None if seed % 2 else rng.dirichlet(np.full(len(VISEMES), 0.3), frames).astype(np.float32)
    context = ChunkContext(guess=guess, before=0)
    tell = lambda tokens, *_: seen.append(tokens)  # noqa: E731
    verdict = verify_chunk(stream, plan, VerifyOptions(branches=branches), context, tell)
    assert verdict.tokens.tolist() == judges.plan()[0].tolist() == stream.tokens
    assert len(seen) == verdict.passes == stream.passes <= frames and verdict.verified.all() and not verdict.faults
    right = [bool((tokens == verdict.tokens).all()) for tokens in seen] + [True]
    assert all(right[verdict.known_after :]) and not (verdict.known_after and right[verdict.known_after - 1])


def test_several_plans_a_pass_save_passes():
    branches, passes = Branches(FLAT, Room(40, 40)), []
    for seed in range(60):
        judges = ToyJudges.random(1, FRAMES_PER_CHUNK, len(VISEMES), seed)
        judges.after *= 0.3
        plan = plan_of(judges.draft("good", seed + 1)[0])
        passes.append(
            [verify_chunk(ToyStream(judges), plan, VerifyOptions(branches=some)).passes for some in (None, branches)]
        )
    alone, together = np.mean(passes, axis=0)
    assert together < 0.9 * alone


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_pass_over_several_plans_decides_nothing(toy, fault):
    judges, plan = toy
    stream = FaultyStream(judges, FAULTS[fault])
    verdict = verify_chunk(stream, plan, VerifyOptions(branches=Branches(FLAT)))
    assert verdict.fallbacks == FRAMES_PER_CHUNK and len(verdict.faults) == 1 and verdict.passes == 1
    assert verdict.tokens.tolist() == plan.probabilities.argmax(1).tolist() == stream.tokens
    later = FaultyStream(judges, FAULTS[fault], since=1)
    verdict = verify_chunk(later, plan, VerifyOptions(branches=Branches(FLAT, Room(12, 12))))
    decided = verdict.verified
    assert 0 < decided.sum() < FRAMES_PER_CHUNK and not decided[np.argmin(decided) :].any()
    assert verdict.tokens[decided].tolist() == judges.plan()[0][decided].tolist()


def test_between_passes_one_can_see_what_the_judge_thinks(toy):
    judges, plan = toy
    seen = []
    verdict = verify_chunk(ToyStream(judges), plan, on_pass=lambda tokens, passes, _: seen.append((tokens, passes)))
    assert [passes for _, passes in seen] == list(range(verdict.passes)) and verdict.passes > 1
    assert all(len(tokens) == FRAMES_PER_CHUNK for tokens, _ in seen)
    right = [bool((tokens == verdict.tokens).all()) for tokens, _ in seen] + [True]
    assert all(right[verdict.known_after :]) and not right[verdict.known_after - 1]
    (first, _), (last, _) = seen[0], seen[-1]
    assert first.tolist() == plan.probabilities.argmax(1).tolist()
    assert (last == verdict.tokens).mean() > (first == verdict.tokens).mean()


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(DRAFTS))
@settings(max_examples=40)
def test_a_sampled_chunk_is_committed_and_the_seed_repeats_it(seed, kind):
    judges = ToyJudges.random(1, FRAMES_PER_CHUNK, len(VISEMES), seed)
    plan = plan_of(judges.draft(kind, seed + 1)[0])

    def run():
        stream = ToyStream(judges)
        options = VerifyOptions("exact-sampled", generator=torch.Generator().manual_seed(seed))
        return stream, verify_chunk(stream, plan, options)

    (stream, verdict), (_, again) = run(), run()
    assert verdict.tokens.tolist() == stream.tokens == again.tokens.tolist() and verdict.verified.all()
    assert len(stream.tokens) == FRAMES_PER_CHUNK and verdict.passes == stream.passes


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_bad_judge_accepts_nothing_and_is_counted(toy, fault, rule):
    judges, plan = toy
    sure = np.zeros(FRAMES_PER_CHUNK)
    with np.errstate(all="ignore"):
        verdict = verify_chunk(
            FaultyStream(judges, FAULTS[fault]), plan, options_of(rule), ChunkContext(recalibrated=sure)
        )
    assert not verdict.accepted.any() and not verdict.verified.any() and verdict.first_accepted == 0
    assert verdict.fallbacks == FRAMES_PER_CHUNK and verdict.passes == 1 and verdict.best_of_last is None
    assert len(verdict.faults) == 1 and "\n" not in verdict.faults[0] and set(verdict.by) == {"draft"}
    if not rule.endswith("sampled"):
        assert verdict.tokens.tolist() == plan.probabilities.argmax(1).tolist()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_was_decided_before_the_fault_stays(toy, fault):
    judges, plan = toy
    sound = verify_chunk(ToyStream(judges), plan)
    assert sound.passes > 1  # a fault in the second pass is possible
    kept = sound.first_accepted + 1
    with np.errstate(all="ignore"):
        verdict = verify_chunk(FaultyStream(judges, FAULTS[fault], since=1), plan)
    assert verdict.tokens[:kept].tolist() == sound.tokens[:kept].tolist()
    assert verdict.tokens[kept:].tolist() == plan.probabilities.argmax(1)[kept:].tolist()
    assert verdict.verified.tolist() == [True] * kept + [False] * (FRAMES_PER_CHUNK - kept)
    assert not verdict.accepted[kept:].any() and verdict.passes == 2


def test_a_stream_that_can_not_commit_is_a_fault(toy):
    judges, plan = toy
    stream = ToyStream(judges)
    stream.commit = raise_error
    verdict = verify_chunk(stream, plan)
    assert "ConnectionError" in " ".join(verdict.faults) and verdict.fallbacks > 0


@pytest.mark.parametrize("shift", [-3, -2, -1, 1, 2, 3])
def test_a_judge_of_other_frames_is_told_by_the_witness(toy, shift):
    judges, plan = toy
    judges.after *= 0.1
    witness = judges.score(judges.plan())[0].numpy()
    assert verify_chunk(ToyStream(judges), plan, EXACT, ChunkContext(witness=witness)).fallbacks == 0
    shifted = FaultyStream(judges, lambda rows: np.roll(rows, shift, axis=0))
    verdict = verify_chunk(shifted, plan, EXACT, ChunkContext(witness=witness))
    assert verdict.faults == (f"out of step by {shift:+d} frames",) and not verdict.accepted.any()


@pytest.mark.parametrize("frames", [4, 8])
@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_guard_notices_in_short_chunks_who_falls_out_of_step(frames, shift):
    """In step for a second, then out of it: told within 12 frames, and told as long as it lasts."""
    witness = np.eye(len(VISEMES))[np.random.default_rng(0).integers(0, 15, 72)]
    rows = np.concatenate([witness[:24], np.roll(witness, shift, axis=0)[24:]])
    guard, told = ShiftGuard(), []
    for first in range(0, 72, frames):
        guard.next_chunk(frames)
        told.append(guard.shift(rows[first : first + frames], witness[first : first + frames]))
        half = slice(first + frames // 2, first + frames)  # a second pass, over what is open
        assert guard.shift(rows[half], witness[half]) == told[-1]
    assert not any(told[: 24 // frames])
    assert all(one == shift for one in told[-(-36 // frames) :])
    guard.forget()
    guard.next_chunk(4)
    assert guard.shift(rows[40:44], witness[40:44]) == 0  # alone it is too short to tell


def test_steady_frames_are_never_out_of_step():
    silence = np.eye(len(VISEMES))[np.zeros(FRAMES_PER_CHUNK, int)]
    assert best_shift(silence, silence) == 0
    assert best_shift(silence[:1], silence[:1]) == 0


def test_the_end_of_a_chunk_is_too_short_to_be_out_of_step():
    rows = np.eye(len(VISEMES))[[3, 3, 7, 7]]
    assert best_shift(np.roll(rows, 1, axis=0), rows) == 0
    longer = np.eye(len(VISEMES))[np.arange(9)]
    assert best_shift(np.roll(longer, 1, axis=0), longer) == 1


def test_the_lenient_rule_by_hand():
    best, draft = np.array([1, 1, 2, 3]), np.array([0, 2, 1, 0])  # wrong; one early; one late; wrong
    assert within_one_frame(draft, best).tolist() == [False, True, True, False]
    assert within_one_frame(draft, best, before=0).tolist() == [True, True, True, False]  # across the border behind it
    assert within_one_frame(draft, best, np.array([0, 0, 1, 1])).tolist() == [False, False, False, False]


@given(seed=st.integers(0, 2**31), kind=st.sampled_from(DRAFTS), chunks=st.integers(1, 3))
@settings(max_examples=40)
def test_lenient_chunks_are_the_one_rule_across_their_borders(seed, kind, chunks):
    """Chunk by chunk, every frame but a chunk's last is held against the same neighbours as in the whole recording."""
    frames = chunks * FRAMES_PER_CHUNK
    judges = ToyJudges.random(1, frames, len(VISEMES), seed)
    plan, stream, verdicts = plan_of(judges.draft(kind, seed + 1)[0]), ToyStream(judges), []
    for part in (slice(first, first + FRAMES_PER_CHUNK) for first in range(0, frames, FRAMES_PER_CHUNK)):
        before = verdicts[-1].best_of_last if verdicts else None
        chunk = DraftPlan(*(values[part] for values in vars(plan).values()))
        verdicts.append(verify_chunk(stream, chunk, options_of("lenient"), ChunkContext(best_before=before)))
    best = np.concatenate([verdict.rows for verdict in verdicts]).argmax(1)
    tokens, drafted = np.concatenate([verdict.tokens for verdict in verdicts]), drafted_by(plan)
    both = within_one_frame(drafted, best)
    ends = np.arange(frames) % FRAMES_PER_CHUNK == FRAMES_PER_CHUNK - 1
    live = np.where(ends, (drafted == best) | (drafted == np.roll(best, 1)), both)
    if kind != "empty":
        assert (tokens == np.where(live, drafted, best)).all() and (live <= both).all()
        assert (np.concatenate([verdict.accepted for verdict in verdicts]) == (tokens == drafted)).all()
    assert tokens.tolist() == stream.tokens and all(verdict.passes == 1 for verdict in verdicts)


def test_the_gate_opens_on_the_threshold_and_never_for_nan():
    assert gate(np.array([0.85, 0.84, np.nan, 1.0]), 0.85).tolist() == [True, False, False, True]


def test_no_frames_take_no_pass(toy):
    verdict = verify_chunk(ToyStream(toy[0]), plan_of(torch.zeros(0, len(VISEMES))))
    assert verdict.passes == 0 and len(verdict.tokens) == 0 and verdict.fallbacks == 0


def test_sound_rows_have_no_fault_and_half_precision_is_sound():
    rows = torch.randn(5, 15, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert row_fault(rows.numpy(), 5, 15) is None
    assert row_fault(rows.half(), 5, 15) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "greedy"}, "expected one of exact-greedy, exact-sampled, mouth-greedy, mouth-sampled, lenient, gate"),
        ({"rule": "exact-sampled"}, r"expected a torch\.Generator"),
        ({"rule": "gate"}, "the gate needs one"),
        ({"rule": "gate", "threshold": 1.5}, "expected 0 to 1"),
        ({"rule": "lenient", "threshold": 0.5}, "no other rule has"),
        ({"rule": "mouth-greedy"}, "need groups="),
        ({"groups": (0,) * 15}, "the others have none"),
        ({"rule": "lenient", "branches": Branches(FLAT)}, "leave them out"),
        ({"rule": "exact-sampled", "branches": Branches(FLAT), "generator": torch.Generator()}, "leave them out"),
    ],
)
def test_options_that_do_not_fit_are_one_line(fields, message):
    with pytest.raises(InputError, match=message) as caught:
        VerifyOptions(**fields)
    assert "\n" not in str(caught.value)


def test_a_gate_without_the_confidence_of_every_frame_is_one_line(toy):
    judges, plan = toy
    for recalibrated in (None, np.ones(3)):
        with pytest.raises(InputError, match="recalibrated confidence of 12 frames"):
            verify_chunk(ToyStream(judges), plan, options_of("gate"), ChunkContext(recalibrated=recalibrated))


def test_every_rule_of_a_run_has_its_chunks_and_its_promise():
    assert RUN_RULES == ("exact", "mouth", "lenient", "gate", "draft", "judge")
    assert tuple(CHUNK_RULES) == tuple(PROMISES) == RUN_RULES
    assert run_options("draft") is run_options("judge", 0.5) is None
    assert run_options("exact", 0.5) == EXACT and run_options("gate", 0.5).threshold == 0.5
    with pytest.raises(InputError, match="expected one of exact, mouth"):
        run_options("strict")
    with pytest.raises(InputError, match="the gate needs one"):
        run_options("gate")
