"""The pictures of one recording under every rule: strips over time with the words, its curves beside the corpus'."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from specsync_lib.figures.drawing import Drawing
from specsync_lib.figures.style import ROLE_COLOURS, labelled
from specsync_lib.units import VIDEO_FPS

LINE_SECONDS = 10  # a line of the strips holds at most
NARROWEST_NAMED_RUN = 1 / 90  # of a line: letters would run into their neighbours
ROW_HEIGHT = 0.86
PALE = 0.55  # letters stand on the cells


def _pale(role: str) -> tuple[float, float, float]:
    return tuple(1 - PALE * (1 - part) for part in to_rgb(ROLE_COLOURS[role]))


# What a cell of a strip can be.
CELLS = {
    "as the judge has it": _pale("coverage"),
    "not as the judge has it": _pale("rejected"),
    "truth": to_rgb(ROLE_COLOURS["below_threshold"]),
    "sure: committed unasked": to_rgb(ROLE_COLOURS["draft"]),
}


def line_count(frames: pd.DataFrame) -> int:
    """How many lines of strips a recording takes."""
    return 1 + int(frames["time_s"].iloc[-1] // LINE_SECONDS)


def draw_recording(
    frames: pd.DataFrame, sweep: pd.DataFrame, words: pd.DataFrame | None, figure: Figure, *, predicted_on: str
) -> Drawing:
    """Draft, judge, committed and, where it is known, truth as strips under the words, with the numbers above; it moves
    from variant to variant.

    Parameters
    ----------
    frames, sweep : from `measures.recording`.
    words : columns word, start_s, end_s; None: not known.
    figure : an empty one, with a layout engine.
    predicted_on : the machine whose stage times the predicted latency rests on.
    """
    lines = [part for _, part in frames.groupby((frames["time_s"] // LINE_SECONDS).astype(int))]
    axes = figure.subplots(len(lines) + 1, 1, squeeze=False, height_ratios=[0.42, *[1.75] * len(lines)])[:, 0]
    head, numbers = _numbers(sweep, axes[0], predicted_on)
    strips = [draw_strips(part, words, ax) for part, ax in zip(lines, axes[1:], strict=True)]
    axes[-1].set_xlabel("time (s)")
    shown = [name for name in CELLS if name != "truth" or (frames["truth"] != "").any()]
    handles = [Patch(color=CELLS[name], label=name) for name in shown]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=8)

    def move(variant: str) -> None:
        row = sweep[sweep["variant"] == variant].iloc[0]
        numbers(row)
        for strip in strips:
            strip.move((variant, row["threshold"]))

    move(sweep["variant"].iloc[0])
    return Drawing((*head, *(artist for strip in strips for artist in strip.artists)), move)


def _numbers(sweep: pd.DataFrame, ax: Axes, predicted_on: str):
    """Two lines of text above the strips, and what sets them."""
    ax.set_axis_off()
    style = {"transform": ax.transAxes, "ha": "left", "va": "top", "family": "monospace", "fontsize": 9.5}
    texts = [ax.text(0, height, "", **style) for height in (1.0, 0.55)]

    def move(row: pd.Series) -> None:
        asked = f"{row['rule']}, threshold {row['threshold']:g}" if row["rule"] == "gate" else row["rule"]
        kept = ""
        if row["rule"] == "gate":
            accepted = f"{row['acceptance']:.1%}" if row["covered_frames"] else "none"
            kept = f", coverage {row['coverage']:.1%} (the judge accepts {accepted} of it)"
        truth = "" if np.isnan(row["accuracy"]) else f", as truth {row['accuracy']:.1%}"
        texts[0].set_text(f"{asked}{kept}: as the judge alone {row['agreement_with_judge']:.1%}{truth} (measured)")
        texts[1].set_text(
            f"lips off the judge's {row['lip_error_mm_vs_judge']:.2f} mm, {row['passes_a_second']:.1f} passes/s "
            f"(measured); a chunk after {row['predicted_ms']:,.0f} ms (simulated, {predicted_on})"
        )

    move(sweep.iloc[0])
    return texts, move


def draw_strips(frames: pd.DataFrame, words: pd.DataFrame | None, ax: Axes) -> Drawing:
    """One line of strips; it moves to a (variant, threshold)."""
    rows = ["draft", "judge", "committed", *["truth"] * bool((frames["truth"] != "").any())]
    start_s, end_s = frames["time_s"].iloc[0], frames["time_s"].iloc[-1] + 1 / VIDEO_FPS
    ax.set(xlim=(start_s, max(end_s, start_s + LINE_SECONDS / 2)), ylim=(len(rows) - 0.5, -1.4))
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
    for name, height in zip(rows, range(len(rows)), strict=True):
        if name != "committed":
            same = (frames[name] == frames["judge"]).to_numpy()
            _cells(ax, height, start_s, end_s, _colours(same) if name != "truth" else None, len(frames))
            _name_runs(frames[name], start_s, height, ax)
    for row in () if words is None else words.itertuples():
        if start_s <= (middle_s := (row.start_s + row.end_s) / 2) < end_s:
            ax.text(middle_s, -0.95, row.word, ha="center", va="center", fontsize=8.5)
    committed = _cells(ax, 2, start_s, end_s, None, len(frames))
    sure = ax.imshow(
        np.ones((1, len(frames), 3)), extent=(start_s, end_s, 2.5, 2.4), aspect="auto", origin="lower", zorder=3
    )
    texts = [ax.text(0, 2, "", ha="center", va="center", fontsize=7) for _ in range(len(frames) // 2 + 1)]
    recalibrated = frames["recalibrated"].to_numpy()

    def move(place: tuple[str, float]) -> None:
        variant, threshold = place
        same = (frames[variant] == frames["judge"]).to_numpy()
        committed.set_data(_colours(same))
        unasked = recalibrated >= (2.0 if np.isnan(threshold) else threshold)
        sure.set_data(np.where(unasked[:, None], CELLS["sure: committed unasked"], 1.0)[None])
        _set_runs(texts, frames[variant], start_s)

    return Drawing((committed, sure, *texts), move)


def _colours(same: np.ndarray) -> np.ndarray:
    """[1, frames, 3]: blue where a plan is the judge's, vermilion where it is not."""
    return np.where(same[:, None], CELLS["as the judge has it"], CELLS["not as the judge has it"])[None]


def _cells(ax: Axes, height: float, start_s: float, end_s: float, colours: np.ndarray | None, frames: int):
    grey = np.full((1, frames, 3), CELLS["truth"])
    extent = (start_s, end_s, height + ROW_HEIGHT / 2, height - ROW_HEIGHT / 2)
    cells = grey if colours is None else colours
    return ax.imshow(cells, extent=extent, aspect="auto", origin="lower", interpolation="nearest")


def _runs(names: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of every run of one viseme that is not silence and wide enough for its letters."""
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[starts[1:], len(names)]
    least = NARROWEST_NAMED_RUN * len(names)
    return [(a, b) for a, b in zip(starts, ends, strict=True) if names[a] != "sil" and b - a > least]


def _name_runs(visemes: pd.Series, start_s: float, height: float, ax: Axes) -> None:
    names = visemes.to_numpy()
    for a, b in _runs(names):
        middle_s = start_s + (a + b) / 2 / VIDEO_FPS
        ax.text(middle_s, height, names[a], ha="center", va="center", fontsize=7)


def _set_runs(texts: Sequence[Text], visemes: pd.Series, start_s: float) -> None:
    names = visemes.to_numpy()
    runs = _runs(names)
    for text, (a, b) in zip(texts, runs, strict=False):
        text.set(x=start_s + (a + b) / 2 / VIDEO_FPS, text=names[a], visible=True)
    for text in texts[len(runs) :]:
        text.set_visible(False)


def draw_beside_corpus(own: pd.DataFrame, corpus: pd.DataFrame, threshold: float, ax: Axes) -> None:
    """Acceptance and coverage of this recording over thresholds, beside the corpus' curves with their intervals.

    Parameters
    ----------
    own : from `measures.recording.curves`; a single recording has no interval.
    corpus : from `measures.referee.acceptance_sweep`, on the same confidence; both count as accepted what the judge
        names within one frame.
    """
    for name, column, role, what in (
        ("acceptance", "within_one_frame", "accepted", "accepted within ±1 frame"),
        ("coverage", "coverage", "coverage", "coverage"),
    ):
        colour = ROLE_COLOURS[role]
        band = {"color": colour, "alpha": 0.22, "linewidth": 0}
        ax.fill_between(corpus["threshold"], corpus[f"{column}_low"], corpus[f"{column}_high"], **band)
        ax.plot(corpus["threshold"], corpus[column], "--", color=colour, label=labelled(f"{what}, corpus", "measured"))
        ax.plot(own["threshold"], own[name], color=colour, label=labelled(f"{what}, this recording", "measured"))
    ax.axvline(threshold, color=ROLE_COLOURS["target"], linestyle=":", linewidth=1.2)
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), xlabel="recalibrated confidence: threshold", ylabel="share of frames")
    ax.set_title("This recording, which has no interval, beside the corpus (95 %, by utterance)")
    ax.legend(loc="lower left")
