"""The sliders without a screen: every place has its page, pages differ where they must, the browser knows the link."""

import io
import json

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from specsync_lib.door.cells import read_cells
from specsync_lib.figures import sliders
from specsync_lib.figures.sliders import AcceptanceExplorer, RecordingExplorer, shown_page, threshold_slider
from specsync_lib.measures.acceptance import acceptance_table
from specsync_lib.measures.recording import GATE_THRESHOLDS, SWEEP_COLUMNS, variant_name, variants
from specsync_lib.paths import MEASUREMENTS_DIR, NOTEBOOKS_DIR
from specsync_lib.rules_in_words import RULE_WORDS
from specsync_lib.units import VISEMES
from tests.toys.sweeps import sweep_of


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


@pytest.fixture(scope="module")
def recording() -> RecordingExplorer:
    frames, sweep, words = sweep_of(36)
    return RecordingExplorer(frames, sweep, words, "gate", 0.85, predicted_on="a machine")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def linked_in_the_browser() -> set[tuple[str, str, str, str]]:
    """Source, trait, target and trait of every link that the browser follows without a kernel."""
    found = [
        one for one in ipywidgets.widgets.widget._instances.values() if isinstance(one, ipywidgets.widget_link.Link)
    ]
    return {(one.source[0].model_id, one.source[1], one.target[0].model_id, one.target[1]) for one in found}


def test_the_browser_turns_the_pages(explorer, recording):
    links = linked_in_the_browser()
    for knob, stack in (
        (explorer.slider, explorer.curves),
        (explorer.slider, explorer.strip),
        (recording.slider, recording.picture.children[3]),
        (recording.rule, recording.picture),
    ):
        assert (knob.model_id, "index", stack.model_id, "selected_index") in links


def test_every_threshold_has_its_page_and_the_pages_differ_where_they_must(explorer):
    assert len(explorer.curves.children) == len(explorer.strip.children) == len(sliders.THRESHOLDS) == 41
    assert explorer.slider.continuous_update
    low, high = (pixels(explorer.curves.children[k].value) for k in (12, 34))
    changed = (low != high).any(-1)
    assert 0 < changed.mean() < 0.3
    # Curves with their marker at the left, the numbers at the right.
    width = changed.shape[1]
    assert changed[:, : width // 2].any() and changed[:, width // 2 :].any()
    low, high = (pixels(explorer.strip.children[k].value) for k in (12, 34))
    assert (low != high).any()
    assert len({image.value for image in explorer.curves.children}) == 41


def test_the_first_page_is_the_chosen_threshold(explorer):
    assert explorer.slider.value == 0.85
    assert explorer.curves.selected_index == explorer.strip.selected_index == explorer.slider.index == 34


def test_another_utterance_has_its_strip_drawn_and_nothing_else(explorer):
    curves = [image.value for image in explorer.curves.children]
    before = [image.value for image in explorer.strip.children]
    explorer.utterance.value = "two"
    after = [image.value for image in explorer.strip.children]
    explorer.utterance.value = "one"
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert [image.value for image in explorer.strip.children] == before
    assert [image.value for image in explorer.curves.children] == curves


def test_a_recording_has_a_page_for_every_rule_and_eleven_for_the_gate(recording):
    assert [len(stack.children) for stack in recording.picture.children] == [1, 1, 1, 11, 1, 1]
    assert [name for _, name in recording.rule.options] == ["exact", "mouth", "lenient", "gate", "draft", "judge"]
    assert recording.choice == ("gate", 0.85)
    gate = recording.picture.children[3]
    assert shown_page(recording.picture) == gate.children[GATE_THRESHOLDS.index(0.85)].value
    assert len({image.value for image in gate.children}) == 11
    recording.rule.value = "exact"
    assert recording.choice == ("exact", None)
    recording.rule.value = "gate"


@pytest.mark.parametrize("rule", RULE_WORDS)
def test_notebook_03_begins_with_what_the_run_commits(rule):
    """Figure and slider both, at the run's own rule and threshold."""
    cells = {cell.id: cell.source for cell in read_cells(NOTEBOOKS_DIR / "03_acceptance_sweep.ipynb")}
    made = {"kinds": variants(0.62), "rule": rule, "threshold": 0.62}
    exec(cells["recording-strips"].splitlines()[0], made)
    assert made["variant"] == variant_name(rule, 0.62 if rule == "gate" else None)
    explored = []
    made |= {"RecordingExplorer": lambda *given, **_: explored.append(given)}
    made |= dict.fromkeys(("own_frames", "sweep", "spoken", "predicted_on"))
    exec(cells["recording-slider"].splitlines()[0], made)
    assert explored[0][-2:] == (rule, 0.62)


def test_a_threshold_beside_the_end_of_the_scale_is_not_the_end():
    slider = threshold_slider([0.0, 0.0001, 0.1 + 0.2, 0.9999, 1.0], 0.9999)
    assert slider.index == 3
    slider.value = 1.0
    assert slider.index == 4
    assert [label for label, _ in slider.options] == ["0", "0.0001", "0.3", "0.9999", "1"]


def test_a_move_of_a_recording_changes_strip_and_numbers_alone(recording):
    zero, one = (pixels(recording.picture.children[3].children[k].value) for k in (0, 10))
    changed = (zero != one).any(-1)
    assert 0 < changed.mean() < 0.35
    assert changed[: changed.shape[0] // 5].any() and changed[changed.shape[0] // 2 :].any()


def test_the_sweeps_columns_are_those_that_the_picture_reads():
    frames, sweep, _ = sweep_of(24)
    assert list(sweep) == list(SWEEP_COLUMNS)
    assert set(sweep["variant"]) == set(variants()) <= set(frames)
    assert variant_name("gate", 0.85) == "gate_0.85"


def test_what_was_measured_in_a_browser_says_where_and_keeps_to_its_aim():
    found = json.loads((MEASUREMENTS_DIR / "slider_browser.json").read_text(encoding="utf-8"))
    rows = pd.DataFrame(found["sliders"])
    assert found["label"] == "measured" and "chrome" in found["browser"] and found["machine"]["cores"] >= 1
    assert (rows["n"] == 50).all() and set(rows["input"]) == {"pointer", "key"} and found["moves"] == rows["n"].sum()
    assert rows["p95_ms"].max() == found["p95_ms"] <= found["wanted_p95_ms"] == 100
    assert (rows["p50_ms"] <= rows["p95_ms"]).all() and (rows["p95_ms"] <= rows["max_ms"]).all()
