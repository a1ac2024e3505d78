"""The learned policy and the bounds: against distributions whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta

from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.judge.policy import (
    CHUNK_FEATURES,
    FRAME_FEATURES,
    AcceptancePolicy,
    LiveConfidence,
    Logistic,
    chunk_features,
    frame_features,
    load_policy,
)
from specsync_lib.measures.bounds import (
    at_temperature,
    bad_accept_bound,
    conformal_threshold,
    fit_temperature,
    logits_of,
    ranking_skill,
)
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES


def random_draft(frames: int, generator: np.random.Generator) -> DraftPlan:
    rows = generator.dirichlet(np.full(len(VISEMES), 0.3), frames).astype(np.float32)
    return DraftPlan(rows, rows.max(axis=1, initial=0), np.zeros(frames, np.float32))


def part_of(draft: DraftPlan, part: slice) -> DraftPlan:
    return DraftPlan(*(values[part] for values in vars(draft).values()))


@given(seed=st.integers(0, 2**31), frames=st.integers(0, 30))
@settings(max_examples=30)
def test_features_are_finite_and_look_no_further_than_their_chunk(seed, frames):
    generator = np.random.default_rng(seed)
    draft, energy = random_draft(frames, generator), generator.normal(size=frames)
    features = frame_features(draft, energy)
    assert features.shape == (frames, len(FRAME_FEATURES)) and np.isfinite(features).all()
    for end in range(FRAMES_PER_CHUNK, frames, FRAMES_PER_CHUNK):
        assert (frame_features(part_of(draft, slice(end)), energy[:end]) == features[:end]).all()


@given(seed=st.integers(0, 2**31), frames=st.integers(1, 60))
@settings(max_examples=30)
def test_the_confidence_of_a_chunk_is_the_same_live_and_of_the_whole_recording(seed, frames):
    generator = np.random.default_rng(seed)
    draft, energy = random_draft(frames, generator), generator.normal(size=frames)
    logistics = [Logistic(tuple(generator.normal(size=len(FRAME_FEATURES))), 0.3) for _ in range(2)]
    policy = AcceptancePolicy(*logistics, Logistic((0.0,) * len(CHUNK_FEATURES), 0.0))
    live = LiveConfidence(policy)
    parts = [slice(first, first + FRAMES_PER_CHUNK) for first in range(0, frames, FRAMES_PER_CHUNK)]
    chunks = [live.of(part_of(draft, part), energy[part]) for part in parts]
    assert np.concatenate(chunks) == pytest.approx(policy.lenient(frame_features(draft, energy)), abs=1e-12)


def test_features_by_hand():
    rows = np.full((3, len(VISEMES)), 0.01)
    rows[0, 2], rows[1, 2], rows[2, 5] = 0.86, 0.86, 0.86
    rows[2, 2] = 0.01
    table = dict(
        zip(FRAME_FEATURES, frame_features(DraftPlan(rows, rows.max(1), rows[:, 0]), np.arange(3.0)).T, strict=True)
    )
    assert table["margin"] == pytest.approx([0.85] * 3) and table["log_odds"][0] == pytest.approx(np.log(0.86 / 0.14))
    assert table["run_before"].tolist() == [2, 2, 0] and table["run_after"].tolist() == [1, 0, 2]
    assert table["same_viseme_after"] == pytest.approx([0.86, 0.01, 0.86])
    assert (
        table["energy_change"].tolist() == [0, 1, 1]
        and table["frames_after"].tolist() == [2, 1, 0]
        and table["is_FF"].tolist() == [1, 1, 0]
    )


def test_energy_of_another_length_is_one_line():
    with pytest.raises(InputError, match="expected the energy of 4 frames, got 3"):
        frame_features(random_draft(4, np.random.default_rng(0)), np.zeros(3))


def test_the_logistic_regression_finds_the_weights_that_made_the_data():
    generator = np.random.default_rng(2)
    features = np.column_stack([generator.normal(3, 5, 40_000), generator.normal(0, 0.1, 40_000), np.ones(40_000)])
    true = np.array([0.4, -8.0, 0.0])
    hits = generator.random(40_000) < expit(features @ true - 1)
    model = Logistic.fit(features, hits)
    assert model.weights[:2] == pytest.approx(true[:2], rel=0.1) and model.bias == pytest.approx(-1, abs=0.1)
    assert abs(model(features).mean() - hits.mean()) < 1e-3


def test_the_policy_predicts_its_judge_and_survives_its_file(tmp_path):
    """A judge that follows the draft's confidence, and nothing else."""
    generator = np.random.default_rng(3)
    draft = random_draft(6_000, generator)
    features = frame_features(draft, generator.normal(size=6_000))
    exact = generator.random(6_000) < draft.confidence
    lenient = exact | (generator.random(6_000) < 0.3)
    chunks = np.arange(6_000) // 12
    policy = AcceptancePolicy.fit(features, lenient, exact, chunks)
    assert np.abs(policy.exact(features) - draft.confidence).mean() < 0.05
    rejected = np.array([not exact[chunks == chunk].all() for chunk in range(500)])
    predicted = policy.any_rejection(features, chunks)
    assert predicted.shape == (500,) and abs(predicted.mean() - rejected.mean()) < 0.02
    policy.save(tmp_path / "policy.json", commit="abc")
    assert load_policy(tmp_path / "policy.json") == policy


def test_a_policy_of_other_features_is_refused(tmp_path):
    (tmp_path / "old.json").write_text('{"frame_features": ["confidence"]}')
    for name in ("old.json", "absent.json"):
        with pytest.raises(InputError, match=r"python -m workbench\.measure\.referee"):
            load_policy(tmp_path / name)


def test_chunk_features_are_sums_and_ends():
    generator = np.random.default_rng(0)
    features = frame_features(random_draft(24, generator), np.zeros(24))
    agrees = generator.uniform(0.5, 1, 24)
    table = chunk_features(features, agrees, np.repeat(["b", "a"], 12))
    assert list(table.columns) == list(CHUNK_FEATURES) and list(table.index) == ["b", "a"]
    assert table["log_all_agree"].to_numpy() == pytest.approx(np.log(agrees).reshape(2, 12).sum(1))
    assert (table["least_confidence"] <= table["mean_confidence"]).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_the_one_that_was_applied(temperature):
    generator = np.random.default_rng(1)
    rows = generator.dirichlet(np.full(15, 0.4), 20_000)
    correct = (rows.cumsum(1) > generator.random((20_000, 1))).argmax(1)
    logits = logits_of(at_temperature(rows, 1 / temperature))
    assert fit_temperature(logits, correct) == pytest.approx(temperature, rel=0.05)


def test_the_bound_is_clopper_pearson_for_independent_frames():
    generator = np.random.default_rng(0)
    groups = np.arange(4_000)  # each frame its own utterance: design effect 1
    bad = generator.random(4_000) < 0.03
    bound = bad_accept_bound(bad, np.ones(4_000, bool), groups)
    assert bound.n_effective == pytest.approx(4_000, rel=1e-3)
    assert bound.bound == pytest.approx(beta.ppf(0.95, bad.sum() + 1, 4_000 - bad.sum()), rel=1e-3)
    none = bad_accept_bound(np.zeros(100, bool), np.ones(100, bool), np.arange(100))
    assert none.bound == pytest.approx(1 - 0.05 ** (1 / 100))  # nothing bad in 100


def test_the_bound_holds_as_often_as_it_says_where_utterances_differ():
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(90), 60)
    holds = [
        bad_accept_bound(
            generator.random(len(groups)) < np.repeat(generator.beta(1, 24, 90), 60), np.ones(len(groups), bool), groups
        ).bound
        >= 0.04
        for _ in range(300)
    ]
    assert 0.9 <= np.mean(holds) <= 0.99  # 0.95 says it; frames taken as independent give 0.8


def test_a_bound_needs_two_utterances():
    with pytest.raises(InputError, match="two utterances"):
        bad_accept_bound(np.zeros(3, bool), np.ones(3, bool), np.zeros(3))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_the_conformal_threshold_is_the_lowest_that_keeps_the_risk(seed):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), 25)
    confidence = generator.uniform(0, 1, 1_000)
    bad = generator.random(1_000) > confidence
    grid = np.arange(101) / 100

    def risk(threshold):
        loss = [(bad & (confidence >= threshold))[groups == group].mean() for group in range(40)]
        return (sum(loss) + 1) / 41

    chosen = conformal_threshold(bad, confidence, groups, 0.1, grid)
    assert risk(chosen) <= 0.1 < risk(chosen - 0.01)
    assert conformal_threshold(bad, confidence, groups, 0.01, grid[:-1]) == 1.0


def test_ranking_skill_of_an_oracle_and_of_a_coin():
    generator = np.random.default_rng(0)
    hit = generator.random(600) < 0.4
    groups = np.arange(600) // 10
    assert ranking_skill(hit + 0.0, hit, groups, generator, 20) == (1.0, 1.0, 1.0)
    area, low, high = ranking_skill(generator.random(600), hit, groups, generator, 100)
    assert low <= area <= high and 0.4 < area < 0.6
