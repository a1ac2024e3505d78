"""The slider without a screen: the picture follows the value, and the timing file holds what was measured."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from specsync_lib.figures.sliders import AcceptanceExplorer, measure_redraw
from specsync_lib.measures.acceptance import acceptance_table
from specsync_lib.units import VISEMES


@pytest.fixture(scope="module")
def explorer() -> AcceptanceExplorer:
    generator = np.random.default_rng(5)
    names = np.array(VISEMES)[np.repeat(generator.integers(0, 15, 40), 3)]
    confidence = generator.uniform(0.2, 1, 120)
    frames = pd.DataFrame(
        {
            "utterance": np.repeat(["one", "two"], 60),
            "frame": np.tile(np.arange(60), 2),
            "confidence": confidence,
            "draft": names,
            "truth": names,
            "accepted": generator.random(120) < confidence,
        }
    )
    table = acceptance_table(frames["confidence"], frames["accepted"], frames["utterance"], n_resamples=100)
    return AcceptanceExplorer(table, frames, 0.85)


def pixels(explorer: AcceptanceExplorer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(explorer.image.value)))


def test_a_move_redraws_the_picture_and_coming_back_restores_it(explorer):
    explorer.slider.value = 0.85
    first = pixels(explorer)
    explorer.slider.value = 0.3
    moved = pixels(explorer)
    explorer.slider.value = 0.85
    np.testing.assert_array_equal(pixels(explorer), first)
    changed = (first != moved).any(-1)
    assert 0 < changed.mean() < 0.3
    # Curves with their marker, the numbers, and the strip all change: top left, top right, bottom.
    height, width = changed.shape
    top, bottom = slice(0, height // 2), slice(height // 2, height)
    assert changed[top, : width // 2].any() and changed[top, width // 2 :].any() and changed[bottom].any()


def test_the_slider_redraws_while_it_is_dragged(explorer):
    assert explorer.slider.continuous_update and (explorer.slider.min, explorer.slider.max) == (0, 1)


def test_another_utterance_changes_the_strip_alone(explorer):
    before = pixels(explorer)
    explorer.utterance.value = "two"
    changed = (pixels(explorer) != before).any(-1)
    explorer.utterance.value = "one"
    assert changed[changed.shape[0] // 2 :].any() and not changed[: changed.shape[0] // 3].any()


def test_the_timing_is_of_distinct_moves_and_says_what_it_is(explorer, tmp_path):
    seen = []
    explorer.slider.observe(lambda change: seen.append(change["new"]), names="value")
    result = measure_redraw(explorer, tmp_path / "redraw.json", moves=20, rng=np.random.default_rng(0))
    assert len(seen) == 20 and 0 <= min(seen) <= max(seen) <= 1
    assert json.loads((tmp_path / "redraw.json").read_text()) == result
    assert result["label"] == "measured" and result["moves"] == 20
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["max_ms"]
    assert result["machine"]["cores"] >= 1
