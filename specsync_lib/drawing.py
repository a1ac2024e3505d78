"""The pictures of acceptance: pure ``draw_*(table, threshold, ax)`` functions, the same for a file and for a slider.

Each draws everything on the given axes and returns a `Drawing`: the artists that depend on the threshold, and a
function that moves them. A static figure drops it; the slider keeps it, so that a move redraws those artists alone.

A frame table has one row a frame: utterance, frame, confidence, draft and truth (viseme names), accepted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from specsync_lib.acceptance_statistics import accepted_run_lengths, at_threshold, confusion_matrix
from specsync_lib.figures import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.units import VIDEO_FPS, VISEMES

CLAIMED_THRESHOLD, CLAIMED_ACCEPTANCE = 0.85, 0.88  # the source report's operating point
# What a frame of the strip can be, in the order of its colour table.
STRIP_STATES = ("below_threshold", "rejected", "accepted")
# Shares under this are left blank in the confusion matrix: 225 cells of small print hide the errors that matter.
SMALLEST_PRINTED_SHARE = 0.05
# Share of a strip's width under which two letters would run into their neighbours.
NARROWEST_NAMED_RUN = 1 / 80


@dataclass(frozen=True)
class Drawing:
    """What of a drawing depends on the threshold."""

    artists: Sequence[Artist]
    move: Callable[[float], None]


def viseme_codes(names: pd.Series) -> np.ndarray:
    """Indices into ``units.VISEMES``; -1 for a name outside the set or a missing one."""
    return pd.Categorical(names, categories=VISEMES).codes


def draw_acceptance(table: pd.DataFrame, threshold: float, ax: Axes, *, judge: str = "truth") -> Drawing:
    """Acceptance and coverage against the threshold, intervals shaded, with the claimed point and the chosen threshold.

    Parameters
    ----------
    table : from `acceptance_statistics.acceptance_table`; the lenient rule's columns within_one_frame (_low, _high) may
        be added.
    judge : who accepts, for the legend.
    """
    curves = [("acceptance", "accepted", "-", f"accepted by {judge}, same frame")]
    if "within_one_frame" in table:
        curves.append(("within_one_frame", "accepted", "--", f"accepted by {judge}, within ±1 frame"))
    curves.append(("coverage", "coverage", "-", "coverage"))
    points = []
    for name, role, line_style, text in curves:
        colour = ROLE_COLOURS[role]
        ax.plot(table["threshold"], table[name], line_style, color=colour, label=labelled(text, "measured"))
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        ax.fill_between(table["threshold"], low, high, color=colour, alpha=0.25, linewidth=0)
        points += ax.plot([], [], ROLE_MARKERS[role], color=colour, markeredgecolor="white", markersize=9, zorder=4)
    ax.plot(
        CLAIMED_THRESHOLD,
        CLAIMED_ACCEPTANCE,
        ROLE_MARKERS["claimed"],
        color=ROLE_COLOURS["claimed"],
        markersize=13,
        markeredgecolor="white",
        zorder=5,
        linestyle="none",
        label=labelled(f"{CLAIMED_ACCEPTANCE:.0%} at {CLAIMED_THRESHOLD}", "claimed"),
    )
    line = ax.axvline(threshold, color=ROLE_COLOURS["target"], linestyle=":", linewidth=1.2, zorder=1)
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), xlabel="confidence threshold", ylabel="share of frames")
    ax.set_title("Acceptance among covered frames, and coverage")
    ax.legend(loc="lower left")

    def move(threshold: float) -> None:
        row = at_threshold(table, threshold)
        line.set_xdata([threshold, threshold])
        for point, (name, *_) in zip(points, curves, strict=True):
            point.set_data([threshold], [row[name]])

    move(threshold)
    return Drawing((line, *points), move)


def draw_scores(table: pd.DataFrame, ax: Axes) -> None:
    """Shares with their intervals as horizontal bars, one a row; the draft's in its colour, the rest in grey.

    Parameters
    ----------
    table : columns what, value, low, high, label.
    """
    roles = ["draft" if what.startswith("draft") else "baseline" for what in table["what"]]
    spread = [table["value"] - table["low"], table["high"] - table["value"]]
    rows = np.arange(len(table))[::-1]
    ax.barh(rows, table["value"], xerr=spread, color=[ROLE_COLOURS[role] for role in roles], capsize=3, height=0.6)
    for row, (value, high) in zip(rows, table[["value", "high"]].to_numpy(), strict=True):
        ax.text(high + 0.01, row, f"{value:.1%}", va="center")
    ax.set_yticks(rows, [labelled(what, label) for what, label in zip(table["what"], table["label"], strict=True)])
    ax.set(xlim=(0, 1), xlabel="share of frames that are right")
    ax.grid(visible=False, axis="y")


def draw_strip(frames: pd.DataFrame, threshold: float, ax: Axes) -> Drawing:
    """One utterance over time: confidence, what the threshold makes of each frame, and both rows of visemes.

    Parameters
    ----------
    frames : the frame table's rows of one utterance, in time order.
    """
    edges_s = np.arange(len(frames) + 1) / VIDEO_FPS
    confidence, accepted = frames["confidence"].to_numpy(float), frames["accepted"].to_numpy(bool)
    palette = np.array([to_rgb(ROLE_COLOURS[state]) for state in STRIP_STATES])
    ax.stairs(confidence, edges_s, color=ROLE_COLOURS["draft"], linewidth=1.2, baseline=None)
    line = ax.axhline(threshold, color=ROLE_COLOURS["target"], linestyle=":", linewidth=1.2)
    strip = ax.imshow(
        np.zeros((1, len(frames), 3)), extent=(0, edges_s[-1], -0.32, -0.08), aspect="auto", origin="lower", zorder=2
    )
    for name, height, role in (("draft", -0.5, "draft"), ("truth", -0.74, "target")):
        _write_visemes(frames[name], height, ROLE_COLOURS[role], ax)
    ax.set(xlim=(0, edges_s[-1]), ylim=(-0.88, 1.05), xlabel="time (s)")
    ax.set_yticks([-0.74, -0.5, -0.2, 0, 0.5, 1], ["truth", "draft", "verdict", "0", "confidence 0.5", "1"])
    ax.grid(visible=False)
    ax.set_title(str(frames["utterance"].iloc[0]))
    ax.legend(
        handles=[
            Patch(color=ROLE_COLOURS[state], label=state.replace("_", " the ") + " (measured)")
            for state in STRIP_STATES[::-1]
        ],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
        borderaxespad=0.2,
    )

    def move(threshold: float) -> None:
        line.set_ydata([threshold, threshold])
        state = np.where(confidence >= threshold, 1 + accepted, 0)
        strip.set_data(palette[state][None])

    move(threshold)
    return Drawing((line, strip), move)


def _write_visemes(visemes: pd.Series, height: float, colour: str, ax: Axes) -> None:
    """Name each run of one viseme at its middle; silence, and runs too narrow for the letters, are left blank."""
    names = visemes.to_numpy()
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    ends = np.r_[starts[1:], len(names)]
    for start, end in zip(starts, ends, strict=True):
        if names[start] != "sil" and end - start > NARROWEST_NAMED_RUN * len(names):
            middle_s = (start + end) / 2 / VIDEO_FPS
            ax.text(middle_s, height, names[start], color=colour, ha="center", va="center", fontsize=7.5)


def draw_reliability(table: pd.DataFrame, threshold: float, ax: Axes) -> Drawing:
    """Accuracy against mean confidence, bin by bin, with intervals; on the diagonal a confidence means what it says.

    Parameters
    ----------
    table : from `acceptance_statistics.reliability_table`.
    """
    filled = table[table["n_frames"] > 0]
    spread = [filled["accuracy"] - filled["accuracy_low"], filled["accuracy_high"] - filled["accuracy"]]
    ax.plot([0, 1], [0, 1], color=ROLE_COLOURS["baseline"], linestyle="--", linewidth=1, label="perfectly calibrated")
    ax.bar(
        filled["bin_low"],
        filled["n_frames"] / filled["n_frames"].sum(),
        width=filled["bin_high"] - filled["bin_low"],
        align="edge",
        color=ROLE_COLOURS["below_threshold"],
        label=labelled("share of frames", "measured"),
    )
    ax.errorbar(
        filled["mean_confidence"],
        filled["accuracy"],
        yerr=spread,
        fmt=ROLE_MARKERS["draft"],
        color=ROLE_COLOURS["draft"],
        capsize=2,
        label=labelled("draft accuracy", "measured"),
    )
    line = ax.axvline(threshold, color=ROLE_COLOURS["target"], linestyle=":", linewidth=1.2)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share of frames in the bin that are right")
    ax.set_title("Reliability")
    ax.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
    return Drawing((line,), lambda threshold: line.set_xdata([threshold, threshold]))


def draw_confusion(frames: pd.DataFrame, threshold: float, ax: Axes) -> Drawing:
    """Where the judge's viseme (row) went in the draft (column), in percent of the row, among covered frames.

    Parameters
    ----------
    frames : the frame table.
    """
    confidence, draft, truth = (
        frames["confidence"].to_numpy(float),
        viseme_codes(frames["draft"]),
        viseme_codes(frames["truth"]),
    )
    image = ax.imshow(np.zeros((len(VISEMES), len(VISEMES))), vmin=0, vmax=1, cmap="Blues")
    cells = [
        ax.text(column, row, "", ha="center", va="center", fontsize=7)
        for row in range(len(VISEMES))
        for column in range(len(VISEMES))
    ]
    ax.set_xticks(range(len(VISEMES)), VISEMES, rotation=90)
    ax.set_yticks(range(len(VISEMES)), VISEMES)
    ax.set(xlabel="draft", ylabel="judge (truth)")
    ax.grid(visible=False)
    title = ax.set_title("")

    def move(threshold: float) -> None:
        covered = confidence >= threshold
        counts = confusion_matrix(draft[covered], truth[covered])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image.set_data(shares)
        title.set_text(f"Confusion, confidence ≥ {threshold:.3g} (measured, {counts.sum():,} frames)")
        for cell, share in zip(cells, shares.flat, strict=True):
            cell.set_text(f"{100 * share:.0f}" if share >= SMALLEST_PRINTED_SHARE else "")
            cell.set_color("white" if share > 0.5 else "black")

    move(threshold)
    return Drawing((image, *cells, title), move)


def draw_numbers(table: pd.DataFrame, threshold: float, ax: Axes, *, frames: pd.DataFrame | None = None) -> Drawing:
    """The chosen threshold in words: both shares with intervals, the counts, and how long accepted runs last.

    Parameters
    ----------
    table : from `acceptance_statistics.acceptance_table`.
    frames : the frame table; without it no run lengths.
    """
    names = ("threshold", "acceptance", "coverage", "covered", "utterances") + ("accepted runs",) * (frames is not None)
    note = "\n\nmeasured; 95 % intervals by utterance"
    style = {"va": "top", "ha": "left", "family": "monospace", "fontsize": 10.5, "transform": ax.transAxes}
    ax.set_axis_off()
    ax.text(0, 0.98, "\n".join(names) + note, **style)
    values = ax.text(0.36, 0.98, "", **style)
    if frames is not None:
        confidence, accepted = frames["confidence"].to_numpy(float), frames["accepted"].to_numpy(bool)
        utterance = pd.factorize(frames["utterance"])[0]

    def move(threshold: float) -> None:
        row = at_threshold(table, threshold)
        lines = [f"{threshold:.3f}"]
        for name in ("acceptance", "coverage"):
            interval = f"{row[name]:.1%} [{row[f'{name}_low']:.1%}, {row[f'{name}_high']:.1%}]"
            lines.append(interval if row["n_frames"] else "no frame is covered")
        lines += [f"{row['n_frames']:,.0f} frames", f"{row['n_utterances']:,.0f}"]
        if frames is not None:
            runs = accepted_run_lengths(confidence, accepted, utterance, threshold)
            lines.append(f"{runs.mean():.1f} frames on average" if len(runs) else "none")
        values.set_text("\n".join(lines))

    move(threshold)
    return Drawing((values,), move)
