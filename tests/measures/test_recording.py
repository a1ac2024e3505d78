"""One recording's table: eleven thresholds, ends that are known, numbers that follow from the plans."""

import numpy as np
import pandas as pd
import pytest

from specsync_lib.measures import recording
from specsync_lib.measures.acceptance import at_threshold
from specsync_lib.pipeline.replay import HeardChunk, ReplayedChunk
from specsync_lib.pipeline.sound import ChunkAudio
from specsync_lib.pipeline.stages import Draft
from specsync_lib.units import FRAMES_PER_CHUNK, VIDEO_FPS, VISEMES


def chunk_of(tokens, passes=2, unasked=False) -> ReplayedChunk:
    frames = len(tokens)
    return ReplayedChunk(tuple(tokens), np.full(frames, 0.5), ("judge",) * frames, (), passes, passes, unasked)


@pytest.fixture
def made():
    """Two chunks; the draft is wrong in the last three frames of the first one, and is unsure of two of them."""
    judge = [[1] * 6 + [10] * 6, [0] * 12]
    draft = [[1] * 6 + [10] * 3 + [4] * 3, [0] * 12]
    sure = [np.r_[np.full(9, 0.9), 0.9, 0.4, 0.4], np.full(12, 0.97)]
    heard = [
        HeardChunk(
            ChunkAudio(k, FRAMES_PER_CHUNK, np.zeros(6400), 0.0),
            Draft(tuple(draft[k]), sure[k], np.full(12, 0.5), recalibrated=sure[k]),
            None,
        )
        for k in range(2)
    ]
    plans = {
        "judge": [chunk_of(tokens, 12) for tokens in judge],
        "exact": [chunk_of(tokens) for tokens in judge],
        "gate_0.85": [chunk_of([1] * 6 + [10] * 3 + [4] + [10] * 2), chunk_of(draft[1], 0, unasked=True)],
        "draft": [chunk_of(tokens, 0) for tokens in draft],
    }
    kinds = {"judge": ("judge", None), "exact": ("exact", None), "gate_0.85": ("gate", 0.85), "draft": ("draft", None)}
    return heard, plans, kinds


def test_eleven_thresholds_and_a_runs_own_takes_the_nearest_ones_place():
    gates = [threshold for rule, threshold in recording.variants().values() if rule == "gate"]
    assert len(gates) == 11
    assert (gates[0], gates[-1]) == (0, 1)
    assert 0.85 in gates
    own = [threshold for rule, threshold in recording.variants(0.62).values() if rule == "gate"]
    assert len(own) == 11
    assert 0.62 in own
    assert 0.6 not in own
    for edge in (0.0, 1.0, 0.0001, 0.9999, 1e-12):
        kinds = recording.variants(edge)
        assert sum(rule == "gate" for rule, _ in kinds.values()) == 11
        assert ("gate", edge) in kinds.values()
    assert len(set(recording.variants(0.851))) == len(recording.variants())


def test_numbers_follow_from_the_plans(made):
    heard, plans, kinds = made
    frames = recording.frame_table(heard, plans, [VISEMES[1]] * 24)
    gaps = {name: np.zeros(24) for name in plans} | {"gate_0.85": np.r_[1.2, np.zeros(23)]}
    table = recording.sweep_table(frames, heard, plans, gaps, kinds).set_index("variant")
    assert frames["accepted"].sum() == 21
    gate = table.loc["gate_0.85"]
    assert gate["coverage"] == pytest.approx(22 / 24)
    assert gate["covered_frames"] == 22
    assert gate["acceptance"] == pytest.approx(frames.loc[frames["recalibrated"] >= 0.85, "accepted"].mean())
    assert gate["agreement_with_judge"] == pytest.approx(23 / 24)
    assert gate["unasked_chunks"] == 0.5
    assert gate["passes_a_second"] == pytest.approx(2 / (24 / VIDEO_FPS))
    assert gate["lip_error_mm_vs_judge"] == pytest.approx(0.05)
    assert table.loc["exact", "agreement_with_judge"] == table.loc["draft", "draft_stands"] == 1
    assert table.loc["draft", "agreement_with_judge"] == pytest.approx(21 / 24)
    assert table.loc["exact", "accuracy"] == pytest.approx(6 / 24)
    assert table.loc["judge", "predicted_ms"] > table.loc["exact", "predicted_ms"] > table.loc["draft", "predicted_ms"]
    assert table.loc["draft", "predicted_ms"] < gate["predicted_ms"] <= table.loc["exact", "predicted_ms"]
    assert np.isnan(table.loc["exact", "coverage"])


def test_without_truth_there_is_no_accuracy(made):
    heard, plans, kinds = made
    frames = recording.frame_table(heard, plans)
    table = recording.sweep_table(frames, heard, plans, {name: np.zeros(24) for name in plans}, kinds)
    assert table["accuracy"].isna().all()
    assert (frames["truth"] == "").all()


def test_a_single_recordings_curves_have_no_interval(made):
    heard, plans, _ = made
    curves = recording.curves(recording.frame_table(heard, plans))
    assert list(curves) == ["threshold", "acceptance", "coverage", "n_frames"]
    assert at_threshold(curves, 0.85)["coverage"] == pytest.approx(22 / 24)
    assert at_threshold(curves, 0.95)["acceptance"] == 1
    assert pd.isna(at_threshold(curves, 1.0)["acceptance"])
