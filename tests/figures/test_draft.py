"""The committed curves and rows of the draft, as the notebook shows them."""

import json

import matplotlib.pyplot as plt
import numpy as np

from specsync_lib.draft.front import MODEL_DIR
from specsync_lib.figures.draft import CURVES, SETS, curves_table, draw_curves
from specsync_lib.measures.draft import sets_table
from specsync_lib.measures.kernels import front_table, measurement


def read(name):
    return json.loads((MODEL_DIR / name).read_text(encoding="utf-8"))


def test_curves_hold_every_point_and_rise_with_sound_and_voices():
    table = curves_table(read("curves.json"))
    assert set(table["curve"]) == set(CURVES) and set(table["set"]) == set(SETS)
    assert table["accuracy"].between(0.5, 1).all()
    known = table["accuracy_low"].notna()
    assert table.loc[known, "accuracy"].between(table["accuracy_low"][known], table["accuracy_high"][known]).all()
    for _, line in table.groupby(["curve", "set"]):
        line = line.sort_values("at")
        assert line["accuracy"].iloc[-1] > line["accuracy"].iloc[0]
    fig, axes = plt.subplots(1, 3)
    draw_curves(table, axes)
    assert all(len(ax.lines) == len(SETS) for ax in axes)
    plt.close(fig)


def test_the_front_beats_the_window_network_everywhere():
    table = sets_table(read("metrics.json"))
    for which in ("trained_speaker", "real_speakers"):
        scores = table[which]["accuracy"]
        assert scores["ears"] > scores["draft"] > scores["window network"]
        assert (table[which]["accuracy_low"] < scores).all()


def test_the_fronts_rows_leave_out_the_tiles_that_lost():
    rows = front_table(measurement("causal_front"))
    assert not rows["what"].str.contains("columns").any() and set(rows["label"]) == {"real-shape"}
    assert rows.groupby(["shape", "frames", "what", "cache"]).size().max() == 1
    assert (rows["p99_us"] >= rows["p50_us"]).all() and np.isfinite(rows["p50_us"]).all()
    assert len(front_table(None)) == 0
