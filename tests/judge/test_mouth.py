"""The rule that is exact on mouth shapes: given what stands before it, every frame's group is the judge's."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.verify_prefix.grouped import by_group
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import Branches, Room
from specsync_lib.judge.mouth import MOST_APART_MM, PATH, SHUT, MouthShapes, load_mouth_shapes
from specsync_lib.judge.rules import VerifyOptions, decide
from specsync_lib.judge.verify import ChunkContext, run_options, verify_chunk
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES
from tests.toys.judges import DRAFTS, GROUPS, ToyJudges, ToyStream, drafted_by, options_of, p_value, plan_of

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = (0, 0, 1, 2)  # groups of four tokens
GREEDY = options_of("mouth-greedy")


def shape_plan(judges: ToyJudges) -> torch.Tensor:
    """Plain writing by shapes: at every frame the likeliest token of the likeliest group."""
    tokens, groups = torch.zeros(judges.frame.shape[:2], dtype=torch.long), torch.tensor(GROUPS)
    for frame in range(tokens.shape[1]):
        row = judges.score(tokens)[:, frame]
        best = by_group(row, groups).argmax(dim=1)
        tokens[:, frame] = torch.where(groups == best[:, None], row, 0).argmax(dim=1)
    return tokens


@pytest.mark.parametrize("redraft", ["judge", "draft"])
@pytest.mark.parametrize("kind", DRAFTS)
def test_greedy_every_group_is_the_judges_likeliest_given_what_stands(kind, redraft):
    """2,000 cases a draft, 10,000 in all: against the judge's rows for the committed plan itself."""
    judges = ToyJudges.random(2_000, FRAMES_PER_CHUNK, len(VISEMES), seed=DRAFTS.index(kind))
    if kind == "perfect":
        rows = torch.nn.functional.one_hot(shape_plan(judges), len(VISEMES)).float()
    else:
        rows = judges.draft(kind, seed=7, missing=0.1)
    decision = decide(judges.score, rows, VerifyOptions("mouth-greedy", groups=GROUPS, redraft=redraft))
    groups = torch.tensor(GROUPS)
    given_itself = judges.score(decision.tokens)
    likeliest = by_group(given_itself, groups).argmax(dim=2)
    assert torch.equal(groups[decision.tokens], likeliest) and decision.decided.all()
    inside = torch.where(groups == likeliest[..., None], given_itself, 0).argmax(dim=2)
    recovered = decision.recovered
    assert torch.equal(decision.tokens[recovered], inside[recovered])
    agrees = (groups[decision.drafted] == likeliest) & ~recovered
    assert torch.equal(decision.tokens[agrees], decision.drafted[agrees])  # the draft's where its group agrees
    if kind == "perfect":
        assert (decision.passes == 1).all() and torch.equal(decision.tokens, decision.drafted)


def drawn(judges: ToyJudges, kind: str, redraft: str, draws: int) -> np.ndarray:
    """Committed tokens of many runs of one chunk [draws, t]."""
    many = ToyJudges(judges.frame.expand(draws, -1, -1), judges.after)
    generator = torch.Generator().manual_seed(11)
    rows = judges.draft(kind, seed=3, missing=0.3).expand(draws, -1, -1)
    options = VerifyOptions("mouth-sampled", groups=SMALL, generator=generator, redraft=redraft)
    return decide(many.score, rows, options).tokens.numpy()


def prefix_p_values(tokens: np.ndarray, judges: ToyJudges) -> list[float]:
    """Chi-square of the groups committed behind every committed prefix that came often enough."""
    values = []
    for frame in range(tokens.shape[1]):
        codes = tokens[:, :frame] @ 4 ** np.arange(frame)
        for code in np.unique(codes):
            here = tokens[codes == code]
            if len(here) < 500:
                continue
            row = judges.score(torch.from_numpy(here[:1]))[0, frame]
            expected = by_group(row, torch.tensor(SMALL)).double().numpy()
            values.append(p_value(np.bincount(np.array(SMALL)[here[:, frame]], minlength=3), expected))
    return values


@pytest.mark.parametrize("redraft", ["judge", "draft"])
@pytest.mark.parametrize("kind", DRAFTS)
def test_sampled_groups_are_the_judges_given_what_stands(kind, redraft):
    """100,000 draws of 3 frames over 4 tokens in 3 groups: behind each prefix, the groups against the judge's."""
    judges = ToyJudges.random(1, 3, 4, seed=20, sharpness=0.7)
    tokens = drawn(judges, kind, redraft, 100_000)
    values = prefix_p_values(tokens, judges)
    assert len(values) >= 10 and min(values) > 1e-3 / len(values)
    colder = ToyJudges(1.1 * judges.frame, 1.1 * judges.after)  # the test can fail
    assert min(prefix_p_values(tokens, colder)) < 1e-6


@pytest.mark.parametrize("kind", DRAFTS)
def test_a_judge_that_reads_groups_alone_has_its_whole_sequence_of_groups(kind):
    """100,000 draws: all 27 sequences of groups against their exact probabilities."""
    judges = ToyJudges.random(1, 3, 4, seed=20, sharpness=0.7)
    judges.after = judges.after[[0, 0, 2, 3]]  # tokens 0 and 1 are one group, and are read alike
    shapes = np.array(SMALL)[drawn(judges, kind, "judge", 100_000)]
    counts = np.bincount(shapes @ 3 ** np.arange(2, -1, -1), minlength=27)
    outcomes = torch.cartesian_prod(*[torch.tensor([0, 2, 3])] * 3)  # a token of each group
    rows = ToyJudges(judges.frame.expand(27, -1, -1), judges.after).score(outcomes)
    chosen = by_group(rows, torch.tensor(SMALL)).gather(2, torch.tensor(SMALL)[outcomes][..., None]).squeeze(2)
    assert p_value(counts, chosen.double().prod(dim=1).numpy()) > 1e-3


def test_a_judge_that_reads_tokens_drifts_from_its_own_run():
    """Why the promise is about what stands: a perfect shape with another token changes what comes after."""
    judges = ToyJudges.random(200, FRAMES_PER_CHUNK, len(VISEMES), seed=8)
    rows = judges.draft("good", seed=9)
    decision = decide(judges.score, rows, GREEDY)
    groups = torch.tensor(GROUPS)
    assert not torch.equal(groups[decision.tokens], groups[shape_plan(judges)])


@given(
    seed=st.integers(0, 2**31), frames=st.integers(1, 14), kind=st.sampled_from(DRAFTS), guessed=st.booleans(),
    room=st.one_of(st.none(), st.builds(Room, st.integers(1, 60), st.integers(1, 60))),
)  # fmt: skip
@settings(max_examples=100)
def test_one_chunk_behind_the_stream(seed, frames, kind, guessed, room):
    """With a guess or without, one plan a pass or a tree of them: the promise, and the draft where its shape stands."""
    judges, rng = ToyJudges.random(1, frames, len(VISEMES), seed), np.random.default_rng(seed)
    plan, stream = plan_of(judges.draft(kind, seed + 1, missing=0.1)[0]), ToyStream(judges)
    changes = np.log(rng.dirichlet(np.ones(len(VISEMES)), len(VISEMES)))
    guess = rng.dirichlet(np.full(len(VISEMES), 0.3), frames).astype(np.float32) if guessed else None
    options = VerifyOptions("mouth-greedy", groups=GROUPS, branches=room and Branches(changes, room))
    verdict = verify_chunk(stream, plan, options, ChunkContext(guess=guess, before=0))
    groups, tokens = np.array(GROUPS), verdict.tokens
    given_itself = judges.score(torch.from_numpy(tokens)[None])
    likeliest = by_group(given_itself, torch.tensor(GROUPS)).argmax(dim=2)[0].numpy()
    assert (groups[tokens] == likeliest).all() and tokens.tolist() == stream.tokens
    assert verdict.passes == stream.passes <= frames and verdict.by == ("judge",) * frames
    differs = np.flatnonzero((tokens != drafted_by(plan)) & (groups[drafted_by(plan)] == likeliest))
    assert set(differs) <= set(verdict.rejected_at)  # inside its own group a draft gives way only where a pass ended


def test_fewer_passes_than_the_exact_rule():
    """Where visemes of a group sound alike, a draft that takes one for the other stands."""
    passes = []
    for seed in range(60):
        judges = ToyJudges.random(1, FRAMES_PER_CHUNK, len(VISEMES), seed)
        judges.frame = judges.frame[..., list(GROUPS)] + 0.3 * judges.frame
        judges.after *= 0.3
        plan = plan_of(judges.draft("good", seed + 1)[0])
        passes.append([verify_chunk(ToyStream(judges), plan, each).passes for each in (VerifyOptions(), GREEDY)])
    exact, mouth = np.mean(passes, axis=0)
    assert mouth < 0.95 * exact


# ------------------------------------------------------------------------------------------------- the table of shapes


def test_the_shipped_groups_are_a_partition_within_the_bound():
    shapes = load_mouth_shapes()
    names = [name for group in shapes.names for name in group]
    assert sorted(names) == sorted(VISEMES) and run_options("mouth").groups == shapes.groups
    for group in shapes.names:
        members = [VISEMES.index(name) for name in group]
        for values in (shapes.gap_mm, shapes.width_mm):
            held = np.array(values)[members]
            assert held.max() - held.min() <= MOST_APART_MM
        assert set(group) <= set(SHUT) or not set(group) & set(SHUT)
    content = json.loads(PATH.read_text(encoding="utf-8"))
    assert np.array(content["distances_mm"]) == pytest.approx(shapes.distances_mm, abs=2e-3)
    assert content["provenance"]["label"] == "measured" and 1 < len(shapes.names) < len(VISEMES)


def apart(**groups: int) -> tuple[int, ...]:
    """A partition in which only the named visemes share a group."""
    taken = iter(range(2, 99))
    labels = [groups[name] if name in groups else next(taken) for name in VISEMES]
    order = list(dict.fromkeys(labels))
    return tuple(order.index(label) for label in labels)


GAPS, WIDTHS = tuple(3.0 * index for index in range(15)), (40.0,) * 15


@pytest.mark.parametrize(
    ("groups", "gap_mm", "message"),
    [
        (apart(aa=0, E=0), GAPS, "aa E are 3.00 mm apart; at most 2.0 fit"),
        (apart(PP=0, DD=0), (0.0,) * 15, "a shut mouth stands among open ones: PP DD"),
        ((1,) * 15, GAPS, "numbered from 0"),
        (apart()[:-1], GAPS, "one group, gap and width for each of 15"),
    ],
)
def test_groups_that_do_not_hold_are_one_line(groups, gap_mm, message):
    with pytest.raises(InputError, match=message) as caught:
        MouthShapes(groups, gap_mm, WIDTHS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "no json", "{}", '{"groups": [["sil"]], "visemes": {}}'])
def test_a_damaged_table_is_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "shapes.json").write_text(text)
    with pytest.raises(InputError, match=r"run workbench\.measure\.mouth_shapes"):
        load_mouth_shapes(tmp_path / "shapes.json")
