"""The pictures of acceptance: pure ``draw_*(table, threshold, ax)`` functions, the same for a file and for a slider.

Each draws everything on the given axes and returns a `Drawing`: the artists that depend on the threshold, and a
function that moves them. A static figure drops it; the slider keeps it, so that a move redraws those artists alone.

A frame table has one row a frame: utterance, frame, confidence, draft and truth (viseme names), accepted.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from specsync_lib.claims import CLAIMED_ACCEPTANCE, CLAIMED_THRESHOLD
from specsync_lib.figures.drawing import Drawing
from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.measures.acceptance import accepted_run_lengths, at_threshold, confusion_matrix
from specsync_lib.measures.intervals import resampling_unit
from specsync_lib.units import VIDEO_FPS, VISEMES
from specsync_lib.visemes import viseme_codes

# What a frame of the strip can be, in the order of its colour table.
STRIP_STATES = ("below_threshold", "rejected", "accepted")
# Shares under this are left blank in the confusion matrix: 225 cells of small print hide the errors that matter.
SMALLEST_PRINTED_SHARE = 0.05
GROUP_MARGIN_MM = 0.25  # around the mouths of a group
FAR_APART_MM = 6.0  # from here on the distances of mouths are drawn alike
# Share of a strip's width under which two letters would run into their neighbours.
NARROWEST_NAMED_RUN = 1 / 80


def draw_acceptance(
    table: pd.DataFrame,
    threshold: float,
    ax: Axes,
    *,
    judge: str = "truth",
    confidence: str = "confidence",
    label: str = "measured",
) -> Drawing:
    """Acceptance and coverage against the threshold, intervals shaded, with the claimed point and the chosen threshold.

    Parameters
    ----------
    table : from `measures.acceptance.acceptance_table`; the lenient rule's columns within_one_frame (_low, _high) may
        be added.
    judge : who accepts, for the legend.
    confidence : whose, for the axis.
    label : "real-shape" where the judge's weights are random.
    """
    curves = [("acceptance", "accepted", "-", f"accepted by {judge}, same frame")]
    if "within_one_frame" in table:
        curves.append(("within_one_frame", "accepted", "--", f"accepted by {judge}, within ±1 frame"))
    curves.append(("coverage", "coverage", "-", "coverage"))
    points = []
    for name, role, line_style, text in curves:
        colour = ROLE_COLOURS[role]
        ax.plot(table["threshold"], table[name], line_style, color=colour, label=labelled(text, label))
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
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), xlabel=f"{confidence} threshold", ylabel="share of frames")
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


def draw_referee(table: pd.DataFrame, ax: Axes) -> None:
    """Strict accuracy against truth of everyone who names visemes, for the trained speaker and as for an unseen one.

    Parameters
    ----------
    table : from `measures.referee.referee_table`.
    """
    names = list(dict.fromkeys(table["what"]))
    for speaker, colour, marker, side in (
        ("trained", ROLE_COLOURS["accepted"], "o", 1),
        ("unseen", ROLE_COLOURS["rejected"], "D", -1),
    ):
        rows = table[table["speaker"] == speaker]
        if rows.empty:
            continue
        heights = np.array([len(names) - 1 - names.index(what) for what in rows["what"]]) + 0.12 * side
        spread = [rows["accuracy"] - rows["accuracy_low"], rows["accuracy_high"] - rows["accuracy"]]
        style = {"fmt": marker, "color": colour, "capsize": 2, "markersize": 6}
        ax.errorbar(rows["accuracy"], heights, xerr=spread, label=labelled(f"{speaker} speaker", "measured"), **style)
        ax.plot(rows["within_one_frame"], heights, "|", color=colour, markersize=9)
        for height, value in zip(heights, rows["accuracy"], strict=True):
            place = {"ha": "center", "va": "bottom" if side > 0 else "top", "fontsize": 7.5, "color": colour}
            ax.text(value, height + 0.08 * side, f"{value:.1%}", **place)
    ax.plot([], [], "|", color=ROLE_COLOURS["baseline"], markersize=9, label="within ±1 frame")
    ax.set_yticks(range(len(names)), names[::-1])
    ax.set(xlim=(0, 1), ylim=(-0.6, len(names) - 0.4), xlabel="share of frames that are right")
    ax.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


def draw_front(front: pd.DataFrame, points: pd.DataFrame, ax: Axes) -> None:
    """What a second of speech costs in passes of the reasoner, against the share of frames that end up wrong.

    Parameters
    ----------
    front : from `measures.referee.gated`, one or both scores: which chunks are verified depends on a cut.
    points : columns what, passes_a_second, error, role: whole ways of working.
    """
    styles = {"least_confidence": ("--", "fixed threshold"), "no_rejection": ("-", "learned policy")}
    for score, rows in front.groupby("score", sort=False):
        line_style, text = styles[score]
        label = labelled(f"chunks chosen by {text}", "measured")
        ax.plot(rows["passes_a_second"], rows["error"], line_style, color=ROLE_COLOURS["corrected"], label=label)
    for row in points.itertuples():
        label = labelled(f"{row.what}: {row.passes_a_second:.1f} /s, {row.error:.1%}", "measured")
        edge = ROLE_COLOURS[row.role] if row.role == "baseline" else "white"  # a cross is nothing but edge
        style = {"color": ROLE_COLOURS[row.role], "markersize": 10, "markeredgecolor": edge, "linestyle": "none"}
        ax.plot(row.passes_a_second, row.error, ROLE_MARKERS[row.role], label=label, zorder=4, **style)
    errors = pd.concat([points["error"], front["error"]])
    spread = max(errors.max() - errors.min(), 0.02)
    # Room above for the legend: the points lie low and to the left.
    ax.set(xlim=(-0.8, 31), ylim=(errors.min() - 0.15 * spread, errors.max() + 1.1 * spread))
    ax.set(xlabel="reasoner passes per second of speech", ylabel="share of frames wrong, by truth")
    ax.set_title("Cost and error")
    ax.legend(loc="upper right", fontsize=8.5)


def draw_mouth_shapes(
    shapes: pd.DataFrame, distances_mm: Float[np.ndarray, "v v"], most_apart_mm: float, axes: Sequence[Axes]
) -> None:
    """Which visemes look alike: left their mouths by gap and width, groups boxed; right the distances, groups framed.

    Parameters
    ----------
    shapes : columns viseme, group, gap_mm, width_mm.
    distances_mm : between visemes in the same order.
    most_apart_mm : what a group's visemes lie apart at most.
    axes : two.
    """
    colours = [ROLE_COLOURS[role] for role in ("accepted", "corrected", "rejected", "draft", "claimed", "coverage")]
    plane, matrix = axes
    shared = [rows for _, rows in shapes.groupby("group") if len(rows) > 1]
    alone = shapes[~shapes["group"].isin([rows["group"].iloc[0] for rows in shared])]
    style = {"linestyle": "none", "markersize": 7}
    plane.plot(
        alone["gap_mm"],
        alone["width_mm"],
        "o",
        color=ROLE_COLOURS["baseline"],
        label=labelled("alone", "measured"),
        **style,
    )
    for colour, marker, rows in zip(colours, "s^DvP*", shared, strict=False):
        corner = rows[["gap_mm", "width_mm"]].min().to_numpy() - GROUP_MARGIN_MM
        size = rows[["gap_mm", "width_mm"]].max().to_numpy() + GROUP_MARGIN_MM - corner
        plane.add_patch(Rectangle(corner, *size, facecolor=colour, alpha=0.15, linewidth=0))
        label = labelled(" ".join(rows["viseme"]), "measured")
        plane.plot(rows["gap_mm"], rows["width_mm"], marker, color=colour, label=label, **style)
    for row in shapes.itertuples():
        plane.annotate(row.viseme, (row.gap_mm, row.width_mm), (5, 4), textcoords="offset points", fontsize=9)
    plane.set(xlabel="gap between the lips (mm)", ylabel="width of the mouth (mm)", aspect="equal")
    plane.set_title(f"Visemes held on the mesh: groups at most {most_apart_mm:g} mm apart")
    plane.legend(loc="lower right", fontsize=8)

    order = np.argsort(shapes["group"].to_numpy(), kind="stable")
    values, groups = distances_mm[np.ix_(order, order)], shapes["group"].to_numpy()[order]
    matrix.imshow(values, cmap="Blues_r", vmin=0, vmax=FAR_APART_MM)
    for row, column in np.ndindex(values.shape):
        light = values[row, column] < FAR_APART_MM / 2
        text = f"{values[row, column]:.1f}" if row != column else ""
        matrix.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if light else "black")
    for group in np.unique(groups):
        first, count = int(np.argmax(groups == group)), int((groups == group).sum())
        frame = {"fill": False, "edgecolor": ROLE_COLOURS["rejected"], "linewidth": 1.8}
        matrix.add_patch(Rectangle((first - 0.5, first - 0.5), count, count, **frame))
    names = shapes["viseme"].to_numpy()[order]
    matrix.set_xticks(range(len(names)), names, rotation=90)
    matrix.set_yticks(range(len(names)), names)
    matrix.grid(visible=False)
    matrix.set_title("Distance in mm: the larger of gap and width (measured)")


def draw_rules(table: pd.DataFrame, axes: Sequence[Axes]) -> None:
    """The rules side by side: what stands of covered drafts, passes a chunk, and lip error against judge and truth.

    Parameters
    ----------
    table : from `measures.rules.rules_table`, by rule.
    axes : three, of one height.
    """
    heights = np.arange(len(table))[::-1]

    def bars(ax: Axes, name: str, role: str, text: str, shift: float = 0.0, form: str = "{:.1%}") -> None:
        low, high = (table[f"{name}_{end}"] for end in ("low", "high"))
        spread = [table[name] - low, high - table[name]]
        style = {"fmt": ROLE_MARKERS[role], "color": ROLE_COLOURS[role], "capsize": 2, "markersize": 7}
        ax.errorbar(table[name], heights + shift, xerr=spread, label=labelled(text, "measured"), **style)
        for height, value in zip(heights + shift, table[name], strict=True):
            place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            ax.annotate(form.format(value), (value, height), color=ROLE_COLOURS[role], **place)

    bars(axes[0], "at_085", "accepted", f"drafts that stand, recalibrated confidence ≥ {CLAIMED_THRESHOLD}")
    bars(axes[1], "passes_a_chunk", "target", "passes of the judge a chunk", form="{:.2f}")
    bars(axes[2], "lip_error_mm", "accepted", "against the judge's own plan", 0.16, "{:.2f}")
    bars(axes[2], "against_truth_mm", "rejected", "against truth", -0.16, "{:.2f}")
    for ax, (low, high), text in zip(
        axes,
        ((None, 1.01), (-0.1, None), (-0.05, None)),
        ("share of covered frames", "passes a chunk of 12 frames", "lip error (mm)"),
        strict=True,
    ):
        ax.set(xlim=(low, high), ylim=(-0.6, len(table) - 0.1), xlabel=text)
        ax.set_yticks(heights, table.index if ax is axes[0] else [])
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5)


def draw_runs(first_accepted: pd.Series, passes: pd.Series, ax: Axes) -> None:
    """How many drafts of a chunk stand in front of the first rejection, and how many passes chunks take.

    Parameters
    ----------
    first_accepted, passes : one value a chunk.
    """
    for values, role, shift, text in (
        (first_accepted, "accepted", -0.2, "drafted frames accepted by pass 1"),
        (passes, "target", 0.2, "passes until decided"),
    ):
        shares = values.value_counts(normalize=True).sort_index()
        label = labelled(f"{text}, mean {values.mean():.2f}", "measured")
        ax.bar(shares.index + shift, shares, width=0.4, color=ROLE_COLOURS[role], label=label)
    ax.set(xlabel="frames, or passes", ylabel="share of chunks", xticks=range(int(first_accepted.max()) + 1))
    ax.set_title("Chunks of 12 frames under the exact greedy rule")
    ax.legend(loc="upper right")


def draw_visemes(table: pd.DataFrame, threshold: float, ax: Axes) -> None:
    """Coverage and acceptance of each drafted viseme at a threshold, the commonest first.

    Parameters
    ----------
    table : from `measures.acceptance.viseme_table`.
    """
    table = table[table["n_drafted"] > 0].sort_values("n_drafted", ascending=False)
    places = np.arange(len(table))
    for name, role, shift in (("acceptance", "accepted", -0.2), ("coverage", "coverage", 0.2)):
        label = labelled(name, "measured")
        ax.bar(places + shift, table[name], width=0.4, color=ROLE_COLOURS[role], label=label)
    ax.set_xticks(places, [f"{row.viseme}\n{row.n_drafted:,}" for row in table.itertuples()])
    ax.set(ylim=(0, 1.15), ylabel="share", xlabel="drafted viseme, frames")
    ax.set_title(f"By viseme, confidence ≥ {threshold:.3g}")
    ax.legend(loc="upper right", ncols=2)


def draw_strip(frames: pd.DataFrame, threshold: float, ax: Axes) -> Drawing:
    """One utterance over time: confidence, what the threshold makes of each frame, and the rows of visemes.

    Parameters
    ----------
    frames : the frame table's rows of one utterance, in time order; a column reasoner adds its own row.
    """
    edges_s = np.arange(len(frames) + 1) / VIDEO_FPS
    confidence, accepted = frames["confidence"].to_numpy(float), frames["accepted"].to_numpy(bool)
    palette = np.array([to_rgb(ROLE_COLOURS[state]) for state in STRIP_STATES])
    ax.stairs(confidence, edges_s, color=ROLE_COLOURS["draft"], linewidth=1.2, baseline=None)
    line = ax.axhline(threshold, color=ROLE_COLOURS["target"], linestyle=":", linewidth=1.2)
    strip = ax.imshow(
        np.zeros((1, len(frames), 3)), extent=(0, edges_s[-1], -0.32, -0.08), aspect="auto", origin="lower", zorder=2
    )
    rows = [name for name in ("draft", "reasoner", "truth") if name in frames]
    heights = [-0.5 - 0.24 * index for index in range(len(rows))]
    for name, height in zip(rows, heights, strict=True):
        _write_visemes(frames[name], height, ROLE_COLOURS["draft" if name == "draft" else "target"], ax)
    ax.set(xlim=(0, edges_s[-1]), ylim=(heights[-1] - 0.14, 1.05), xlabel="time (s)")
    ax.set_yticks([*heights, -0.2, 0, 0.5, 1], [*rows, "verdict", "0", "confidence 0.5", "1"])
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
    table : from `measures.acceptance.reliability_table`.
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
    table : from `measures.acceptance.acceptance_table`; columns passes_a_second and error may be added: what it
        costs to verify only chunks with a frame under the threshold, and how much ends up wrong.
    frames : the frame table; without it no run lengths.
    """
    names = ("threshold", "acceptance", "coverage", "covered", "utterances") + ("accepted runs",) * (frames is not None)
    front = "passes_a_second" in table
    names += ("passes", "frames wrong") * front
    unit = "utterance" if frames is None else resampling_unit(frames)
    note = f"\n\nmeasured; 95 % intervals by {unit}"
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
        if front:
            lines += [f"{row['passes_a_second']:.1f} a second of speech", f"{row['error']:.1%} (truth)"]
        values.set_text("\n".join(lines))

    move(threshold)
    return Drawing((values,), move)
