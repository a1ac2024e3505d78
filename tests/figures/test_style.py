"""Figures: files that hold what was drawn, one look, and drawings that show the chosen threshold."""

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from specsync_lib.claims import CLAIMED_ACCEPTANCE, CLAIMED_THRESHOLD
from specsync_lib.figures.acceptance import (
    draw_acceptance,
    draw_confusion,
    draw_front,
    draw_mouth_shapes,
    draw_numbers,
    draw_referee,
    draw_reliability,
    draw_rules,
    draw_runs,
    draw_scores,
    draw_strip,
    draw_visemes,
)
from specsync_lib.figures.style import ROLE_COLOURS, labelled, save_figure, use_style
from specsync_lib.measures.acceptance import acceptance_table, at_threshold, reliability_table, viseme_table
from specsync_lib.units import VIDEO_FPS, VISEMES
from specsync_lib.visemes import viseme_codes


@pytest.fixture
def frames() -> pd.DataFrame:
    """Three utterances of 60 frames; confidence says how often the draft is right."""
    generator = np.random.default_rng(3)
    truth = np.repeat(generator.integers(0, len(VISEMES), 60), 3)
    confidence = generator.beta(4, 1, 180).clip(1 / 15, 1)
    right = generator.random(180) < confidence
    draft = np.where(right, truth, (truth + 1) % len(VISEMES))
    names = np.array(VISEMES)
    return pd.DataFrame(
        {
            "utterance": np.repeat(["one", "two", "three"], 60),
            "frame": np.tile(np.arange(60), 3),
            "confidence": confidence,
            "draft": names[draft],
            "truth": names[truth],
            "accepted": right,
        }
    )


@pytest.fixture
def ax():
    use_style()
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture
def table(frames) -> pd.DataFrame:
    return acceptance_table(frames["confidence"], frames["accepted"], frames["utterance"], n_resamples=100)


def test_a_figure_and_its_table_are_saved_under_one_stem(tmp_path, ax, table):
    draw_acceptance(table, 0.85, ax)
    png = save_figure(ax.figure, "curves", table, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.csv", "curves.png"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), table)
    pixels = matplotlib.image.imread(png)
    width_in, height_in = ax.figure.get_size_inches()
    assert pixels.shape[:2] == (round(150 * height_in), round(150 * width_in))
    assert pixels[..., :3].std() > 0.05


def test_a_failed_figure_leaves_nothing(tmp_path, ax, table):
    ax.set_title(r"$\unknown$")
    with pytest.raises(ValueError, match="unknown"):
        save_figure(ax.figure, "broken", table, tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_are_the_four_honest_ones():
    assert labelled("draft", "measured") == "draft (measured)"
    with pytest.raises(ValueError, match="expected one of measured, real-shape, simulated, claimed"):
        labelled("draft", "estimated")


def test_role_colours_are_all_different():
    assert len(set(ROLE_COLOURS.values())) == len(ROLE_COLOURS)
    assert (ROLE_COLOURS["target"], ROLE_COLOURS["draft"]) == ("#000000", "#E69F00")


def test_acceptance_marks_the_claim_and_the_chosen_threshold(ax, table):
    drawing = draw_acceptance(table, 0.5, ax)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["accepted by truth, same frame (measured)", "coverage (measured)", "88% at 0.85 (claimed)"]
    claimed = ax.lines[labels.index("88% at 0.85 (claimed)") + 2]
    assert claimed.get_xydata().tolist() == [[CLAIMED_THRESHOLD, CLAIMED_ACCEPTANCE]]
    drawing.move(0.7)
    line, acceptance, coverage = drawing.artists
    assert line.get_xdata() == [0.7, 0.7]
    row = at_threshold(table, 0.7)
    assert acceptance.get_xydata().tolist() == [[0.7, row["acceptance"]]]
    assert coverage.get_xydata().tolist() == [[0.7, row["coverage"]]]


def test_the_lenient_rule_is_a_curve_of_its_own(ax, table):
    for end in ("", "_low", "_high"):
        table[f"within_one_frame{end}"] = table[f"acceptance{end}"].clip(lower=0.9)
    drawing = draw_acceptance(table, 0.5, ax, judge="the reasoner")
    assert ax.get_legend_handles_labels()[1][1] == "accepted by the reasoner, within ±1 frame (measured)"
    assert drawing.artists[2].get_ydata() == [at_threshold(table, 0.5)["within_one_frame"]]


def test_scores_are_bars_with_their_label(ax):
    scores = pd.DataFrame({"what": ["chance", "draft"], "value": [0.1, 0.8], "low": [0.05, 0.7], "high": [0.2, 0.9]})
    draw_scores(scores.assign(label="measured"), ax)
    assert [bar.get_width() for bar in ax.patches] == [0.1, 0.8]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["chance (measured)", "draft (measured)"]
    assert ax.patches[1].get_facecolor()[:3] == to_rgb(ROLE_COLOURS["draft"])


def test_strip_colours_are_the_verdicts(ax, frames):
    one = frames[frames["utterance"] == "one"]
    drawing = draw_strip(one, 0.8, ax)
    colours = drawing.artists[1].get_array()[0]
    for colour, row in zip(colours, one.itertuples(), strict=True):
        role = "below_threshold" if row.confidence < 0.8 else "accepted" if row.accepted else "rejected"
        np.testing.assert_allclose(colour, to_rgb(ROLE_COLOURS[role]))
    assert ax.get_xlim() == (0, 60 / VIDEO_FPS)
    drawing.move(0.0)
    assert not (drawing.artists[1].get_array()[0] == to_rgb(ROLE_COLOURS["below_threshold"])).all(-1).any()


def test_confusion_follows_the_threshold(ax, frames):
    drawing = draw_confusion(frames, 0.0, ax)
    image, title = drawing.artists[0], drawing.artists[-1]
    rows = image.get_array().sum(1)
    assert np.all((np.abs(rows - 1) < 1e-12) | (rows == 0)) and "180 frames" in title.get_text()
    truth, draft = viseme_codes(frames["truth"]), viseme_codes(frames["draft"])
    assert image.get_array()[truth[0], draft[0]] == pytest.approx((draft[truth == truth[0]] == draft[0]).mean())
    drawing.move(0.9)
    assert f"{(frames['confidence'] >= 0.9).sum()} frames" in title.get_text()


def test_reliability_shows_every_bin_with_frames(ax, frames):
    table = reliability_table(frames["confidence"], frames["accepted"], frames["utterance"], n_resamples=100)
    drawing = draw_reliability(table, 0.85, ax)
    shares = [bar.get_height() for bar in ax.patches]
    assert len(shares) == (table["n_frames"] > 0).sum() and sum(shares) == pytest.approx(1)
    drawing.move(0.25)
    assert drawing.artists[0].get_xdata() == [0.25, 0.25]


def test_numbers_are_the_tables(ax, table, frames):
    drawing = draw_numbers(table, 0.85, ax, frames=frames)
    row = at_threshold(table, 0.85)
    text = drawing.artists[0].get_text()
    assert (
        f"{row['acceptance']:.1%}" in text and f"{row['coverage']:.1%}" in text and "measured" in ax.texts[0].get_text()
    )
    drawing.move(1.0)
    assert "no frame is covered" in drawing.artists[0].get_text() and "none" in drawing.artists[0].get_text()


def test_unknown_viseme_names_have_no_code():
    assert viseme_codes(pd.Series(["sil", "ou", "xx", None])).tolist() == [0, 14, -1, -1]


def test_the_strip_names_the_reasoner_between_draft_and_truth(ax, frames):
    one = frames[frames["utterance"] == "one"].assign(reasoner="PP")
    draw_strip(one, 0.8, ax)
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels[:3] == ["draft", "reasoner", "truth"]
    assert "PP" in [text.get_text() for text in ax.texts]


def test_the_referees_picture_holds_every_party_of_both_speakers(ax):
    scores = {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.85, "within_one_frame": 0.9}
    parties = [("trained", "draft"), ("trained", "reasoner"), ("unseen", "draft")]
    draw_referee(pd.DataFrame([{"speaker": who, "what": what, **scores} for who, what in parties]), ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["reasoner", "draft"]
    labels = ax.get_legend_handles_labels()[1]
    assert {"trained speaker (measured)", "unseen speaker (measured)", "within ±1 frame"} == set(labels)
    assert [text.get_text() for text in ax.texts] == ["80.0%"] * 3


def test_the_front_shows_both_choices_and_every_way_of_working(ax):
    front = pd.DataFrame(
        {
            "passes_a_second": [0, 5.0] * 2,
            "error": [0.2, 0.15] * 2,
            "score": ["least_confidence"] * 2 + ["no_rejection"] * 2,
        }
    )
    points = pd.DataFrame(
        {
            "what": ["draft alone", "exact"],
            "passes_a_second": [0, 5.0],
            "error": [0.2, 0.15],
            "role": ["draft", "accepted"],
        }
    )
    draw_front(front, points, ax)
    labels = ax.get_legend_handles_labels()[1]
    assert labels[:2] == ["chunks chosen by fixed threshold (measured)", "chunks chosen by learned policy (measured)"]
    assert labels[2:] == ["draft alone: 0.0 /s, 20.0% (measured)", "exact: 5.0 /s, 15.0% (measured)"]
    assert ax.get_ylim()[0] < 0.15 and ax.get_ylim()[1] > 0.2 and ax.get_xlim()[1] > 30


def test_runs_and_passes_are_shares_of_chunks(ax):
    draw_runs(pd.Series([12, 3, 3, 0]), pd.Series([1, 2, 2, 3]), ax)
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(2)
    assert "mean 4.50" in ax.get_legend_handles_labels()[1][0] and "mean 2.00" in ax.get_legend_handles_labels()[1][1]


def test_visemes_stand_by_how_often_they_are_drafted(ax, frames):
    draft, truth = viseme_codes(frames["draft"]), viseme_codes(frames["truth"])
    table = viseme_table(frames["confidence"], draft, truth, frames["accepted"], 0.8)
    draw_visemes(table, 0.8, ax)
    counts = [int(tick.get_text().split("\n")[1]) for tick in ax.get_xticklabels()]
    assert counts == sorted(counts, reverse=True) and sum(counts) == len(frames)
    assert len(ax.patches) == 2 * len(counts)


def test_the_numbers_tell_what_a_threshold_costs(ax, table, frames):
    drawing = draw_numbers(table.assign(passes_a_second=4.25, error=0.125), 0.85, ax, frames=frames)
    text = drawing.artists[0].get_text()
    assert "4.2 a second" in text and "12.5% (truth)" in text


def test_mouths_stand_by_gap_and_width_and_their_distances_by_group():
    generator = np.random.default_rng(0)
    groups = np.array([0, 1, 0, 2, 2, 2, *range(3, 12)])
    shapes = pd.DataFrame({"viseme": VISEMES, "group": groups, "gap_mm": generator.uniform(0, 16, 15)})
    shapes["width_mm"] = generator.uniform(32, 45, 15)
    held = shapes[["gap_mm", "width_mm"]].to_numpy()
    distances_mm = np.abs(held[:, None] - held[None]).max(axis=2)
    figure, axes = plt.subplots(1, 2)
    draw_mouth_shapes(shapes, distances_mm, 2.0, axes)
    plane, matrix = axes
    assert {text.get_text() for text in plane.texts} == set(VISEMES)
    drawn = np.concatenate([line.get_xydata() for line in plane.lines])
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, held))
    assert [text.get_text() for text in plane.get_legend().get_texts()] == [
        "alone (measured)", "sil FF (measured)", "TH DD kk (measured)"
    ]  # fmt: skip
    names = [tick.get_text() for tick in matrix.get_yticklabels()]
    assert names[:2] == ["sil", "FF"] and len(matrix.patches) == 12
    order = [VISEMES.index(name) for name in names]
    assert np.array_equal(matrix.images[0].get_array(), distances_mm[np.ix_(order, order)])
    plt.close(figure)


def test_the_rules_stand_side_by_side():
    names = ("at_085", "passes_a_chunk", "lip_error_mm", "against_truth_mm")
    values = {f"{name}{end}": [shift + k for k in (0.1, 0.4)] for name in names
              for end, shift in (("", 0.1), ("_low", 0.05), ("_high", 0.2))}  # fmt: skip
    figure, axes = plt.subplots(1, 3)
    draw_rules(pd.DataFrame(values, index=["exact", "gate at 0.3"]), axes)
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == ["exact", "gate at 0.3"]
    assert [text.get_text() for text in axes[0].texts] == ["20.0%", "50.0%"]
    assert len(axes[2].get_legend().get_texts()) == 2
    assert all("(measured)" in text.get_text() for ax in axes for text in ax.get_legend().get_texts())
    plt.close(figure)
