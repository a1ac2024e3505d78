"""The statistics of acceptance, each against a loop that cannot be wrong."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.judge.rules import same_viseme, within_one_frame
from specsync_lib.measures.acceptance import (
    THRESHOLDS,
    acceptance_table,
    accepted_run_lengths,
    at_threshold,
    confusion_matrix,
    expected_calibration_error,
    reliability_table,
    viseme_table,
)
from specsync_lib.units import VISEMES


@st.composite
def frame_tables(draw) -> pd.DataFrame:
    """Frames of 1 to 5 utterances: ties and NaN in confidence, few visemes so that many agree, NaN verdicts."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    n = sum(lengths)

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    grid = st.integers(0, 20).map(lambda k: k / 20)
    return pd.DataFrame(
        {
            "utterance": np.repeat([f"u{k}" for k in range(len(lengths))], lengths),
            "confidence": column(st.one_of(grid, st.floats(0, 1), st.just(np.nan))),
            "draft": column(st.integers(0, 2)),
            "judged": np.array(column(st.one_of(st.integers(0, 2), st.just(np.nan))), dtype=float),
        }
    )


def table_of(frames: pd.DataFrame, **options) -> pd.DataFrame:
    accepted = same_viseme(frames["draft"], frames["judged"])
    return acceptance_table(frames["confidence"], accepted, frames["utterance"], n_resamples=50, **options)


@given(frame_tables())
@settings(max_examples=60)
def test_table_equals_a_naive_loop(frames):
    accepted = same_viseme(frames["draft"], frames["judged"])
    table = table_of(frames)
    for row in table.iloc[::20].itertuples():
        covered = [k for k in range(len(frames)) if frames["confidence"][k] >= row.threshold]
        assert row.n_frames == len(covered)
        assert row.n_utterances == len({frames["utterance"][k] for k in covered})
        assert row.coverage == len(covered) / len(frames)
        if covered:
            assert row.acceptance == sum(accepted[k] for k in covered) / len(covered)
        else:
            assert np.isnan([row.acceptance, row.acceptance_low, row.acceptance_high]).all()


@given(frame_tables())
@settings(max_examples=60)
def test_shares_and_their_intervals_are_ordered(frames):
    table = table_of(frames)
    assert (np.diff(table["coverage"]) <= 0).all()
    covered = table[table["n_frames"] > 0]
    assert (covered["acceptance"] * covered["coverage"] <= covered["coverage"]).all()
    assert (np.diff(covered["acceptance"] * covered["n_frames"]) <= 1e-9).all()
    for name in ("acceptance", "coverage"):
        assert (covered[f"{name}_low"] <= covered[name]).all() and (covered[name] <= covered[f"{name}_high"]).all()
        assert (covered[f"{name}_low"] >= 0).all() and (covered[f"{name}_high"] <= 1).all()


@given(frame_tables(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_order_of_utterances_does_not_matter(frames, random):
    names = list(frames["utterance"].unique())
    random.shuffle(names)
    shuffled = pd.concat([frames[frames["utterance"] == name] for name in names], ignore_index=True)
    pd.testing.assert_frame_equal(table_of(frames), table_of(shuffled), check_exact=True)


@given(frame_tables())
@settings(max_examples=60)
def test_no_confidence_or_no_verdict_is_never_accepted(frames):
    verdict = np.where(frames["judged"].isna(), np.nan, frames["draft"] == frames["judged"])
    table = acceptance_table(frames["confidence"], verdict, frames["utterance"], n_resamples=10)
    known = frames["confidence"].notna()
    assert table["n_frames"][0] == known.sum()
    accepted = table["acceptance"] * table["n_frames"]
    assert np.nan_to_num(accepted[0]) == pytest.approx(((verdict == 1) & known).sum())
    assert not same_viseme(frames["draft"], np.full(len(frames), np.nan)).any()
    assert not within_one_frame(frames["draft"], np.full(len(frames), np.nan), frames["utterance"]).any()


@given(frame_tables())
@settings(max_examples=60)
def test_the_lenient_rule_is_the_strict_one_and_its_neighbours(frames):
    strict = same_viseme(frames["draft"], frames["judged"])
    lenient = within_one_frame(frames["draft"], frames["judged"], frames["utterance"])
    assert (lenient >= strict).all()
    for k in range(len(frames)):
        near = [
            j for j in (k - 1, k, k + 1) if 0 <= j < len(frames) and frames["utterance"][j] == frames["utterance"][k]
        ]
        assert lenient[k] == any(frames["judged"][j] == frames["draft"][k] for j in near)


def test_the_lenient_rule_stops_at_the_utterance():
    draft, judged = np.array([1, 2, 3, 4]), np.array([2, 1, 4, 3])
    assert within_one_frame(draft, judged, np.array([0, 0, 1, 1])).all()
    # The same frames with the border moved: frame 1 could only be excused by frame 0, frame 2 only by frame 3.
    assert within_one_frame(draft, judged, np.array([0, 1, 1, 2])).tolist() == [False] * 4


def test_unknown_visemes_agree_with_nothing():
    assert same_viseme(np.array([-1, 15, 3]), np.array([-1, 15, 3])).tolist() == [False, False, True]


def test_a_confidence_on_the_threshold_is_covered():
    table = acceptance_table(np.array([0.85, 0.5]), np.array([True, False]), np.array(["a", "b"]))
    assert at_threshold(table, 0.85)["n_frames"] == 1 and at_threshold(table, 0.85)["acceptance"] == 1
    assert at_threshold(table, 0.855)["n_frames"] == 0 and np.isnan(at_threshold(table, 0.855)["acceptance"])
    assert 0.85 in THRESHOLDS and len(THRESHOLDS) == 201


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Utterances share a random effect: an interval by frame would be far too narrow here."""
    generator = np.random.default_rng(0)
    utterances, frames = 40, 30
    hits = 0
    for _ in range(200):
        rate = np.repeat(generator.beta(8, 2, utterances), frames)
        accepted = generator.random(len(rate)) < rate
        row = acceptance_table(
            np.ones(len(rate)),
            accepted,
            np.repeat(np.arange(utterances), frames),
            [0.5],
            n_resamples=400,
            rng=generator,
        ).iloc[0]
        hits += row["acceptance_low"] <= 0.8 <= row["acceptance_high"]
    assert 0.89 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("confidence", "accepted", "groups"),
    [
        ([], [], []),
        ([0.5], [True, False], [0]),
        ([1.5], [True], [0]),
        ([-0.1], [True], [0]),
        ([np.inf], [True], [0]),
        ([0.5], [2.0], [0]),
    ],
)
def test_bad_frames_are_refused_in_one_line(confidence, accepted, groups):
    with pytest.raises(InputError) as error:
        acceptance_table(np.array(confidence), np.array(accepted), np.array(groups))
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_thresholds_must_rise_and_utterances_stand_together():
    with pytest.raises(InputError, match="rising"):
        acceptance_table(np.array([0.5]), np.array([True]), np.array([0]), [0.5, 0.5])
    for rule in (
        lambda groups: within_one_frame(np.zeros(3), np.zeros(3), groups),
        lambda groups: accepted_run_lengths(np.ones(3), np.ones(3, bool), groups, 0.5),
    ):
        with pytest.raises(InputError, match="stand together"):
            rule(np.array(["a", "b", "a"]))


def test_calibration_error_by_hand():
    # Bin [0.8, 0.8667): 4 frames at 0.8, half right; last bin: 6 frames at 1.0, all right. 0.4 x 0.3 + 0.6 x 0 = 0.12.
    confidence = np.array([0.8] * 4 + [1.0] * 6)
    correct = np.array([True, False] * 2 + [True] * 6)
    groups = np.repeat(np.arange(5), 2)
    error = expected_calibration_error(confidence, correct, groups)
    assert error.value == pytest.approx(0.12) and error.low <= error.value <= error.high
    assert (error.n, error.resampling_unit) == (5, "utterance")
    table = reliability_table(confidence, correct, groups)
    assert table["n_frames"].sum() == 10 and table["n_frames"][12] == 4
    assert table["accuracy"][12] == 0.5 and table["mean_confidence"][12] == pytest.approx(0.8)
    assert table["accuracy"].notna().sum() == 2


def test_calibration_of_a_calibrated_and_of_an_overconfident_draft():
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.2, 1, 20_000)
    groups = np.repeat(np.arange(200), 100)
    calibrated = expected_calibration_error(confidence, generator.random(20_000) < confidence, groups)
    overconfident = expected_calibration_error(confidence, generator.random(20_000) < confidence - 0.2, groups)
    assert calibrated.value < 0.02
    assert overconfident.value == pytest.approx(0.2, abs=0.02)
    assert overconfident.low <= 0.2 <= overconfident.high


@given(frame_tables(), st.floats(0, 1))
@settings(max_examples=40)
def test_runs_visemes_and_confusion_count_every_frame_once(frames, threshold):
    accepted = same_viseme(frames["draft"], frames["judged"])
    confidence = frames["confidence"].to_numpy()
    kept = accepted & (confidence >= threshold)
    runs = accepted_run_lengths(confidence, accepted, frames["utterance"], threshold)
    assert runs.sum() == kept.sum() and (runs > 0).all()
    assert len(runs) == sum(
        len("".join("x" if k else " " for k in kept[frames["utterance"] == name]).split())
        for name in frames["utterance"].unique()
    )
    by_viseme = viseme_table(confidence, frames["draft"], frames["judged"], accepted, threshold)
    assert list(by_viseme["viseme"]) == list(VISEMES)
    assert by_viseme["n_drafted"].sum() == len(frames)
    covered = by_viseme["coverage"] * by_viseme["n_drafted"]
    assert (by_viseme["acceptance"] * covered).sum() == pytest.approx(kept.sum())
    counts = confusion_matrix(frames["draft"], frames["judged"])
    assert counts.sum() == frames["judged"].notna().sum() and counts.trace() == accepted.sum()
    assert (by_viseme["recall"] * by_viseme["n_judged"]).sum() == pytest.approx(accepted.sum())
