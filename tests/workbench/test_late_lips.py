"""Lip error against the judge's plan: none where plans agree, and only frames that differ count."""

import numpy as np
import pandas as pd
import pytest

from specsync_lib.errors import InputError
from specsync_lib.measures.late_lips import table
from workbench.measure import late_lips


class ToyHead:
    """Lips open in mm as the jaw's unit says."""

    def lip_aperture(self, units):
        return 10 * float(units.sum())


def judged(draft):
    frames = pd.DataFrame({"utterance": np.repeat(["a", "b"], 24), "frame": np.tile(np.arange(24), 2)})
    frames["committed"] = frames["truth"] = frames["lenient"] = "sil"
    return frames.assign(draft=draft)


def test_plans_that_agree_cost_nothing():
    rows = pd.DataFrame(late_lips.measure(judged("sil"), ToyHead(), np.random.default_rng(0))["rows"])
    assert (rows["lip_error_mm"] == 0).all() and (rows["chunks_that_differ"] == 0).all()


def test_what_differs_is_counted_where_it_is():
    draft = np.full(48, "sil", dtype=object)
    draft[14:18] = "aa"  # the second chunk of the first utterance
    rows = late_lips.measure(judged(draft), ToyHead(), np.random.default_rng(0))["rows"]
    row = next(row for row in rows if row["what"] == "the draft stands")
    assert row["chunks_that_differ"] == 0.25 and row["frames_that_differ"] == pytest.approx(4 / 48, abs=1e-5)
    assert 0 < row["lip_error_mm"] < row["in_chunks_that_differ_mm"]
    assert row["mm_per_wrong_frame"] == pytest.approx(row["lip_error_mm"] * 48 / 4, rel=1e-3)


def test_the_committed_numbers_say_that_the_lenient_rule_costs_less_than_the_draft(tmp_path):
    rows = table()
    assert rows.loc["the lenient rule's plan", "lip_error_mm"] < rows.loc["the draft stands", "lip_error_mm"]
    assert (rows["n_utterances"] == 93).all()
    with pytest.raises(InputError, match="no lip errors"):
        table(tmp_path / "absent.json")
