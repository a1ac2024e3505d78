"""Figures of the talking head: frames beside their words, and the lips over time."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specsync_lib.figures import ROLE_COLOURS, labelled
from specsync_lib.units import VIDEO_FPS


def sheet_frames(words: pd.DataFrame, frames: int, count: int) -> pd.DataFrame:
    """At most ``count`` words, spread evenly, each with the frame at its middle (column ``frame``)."""
    inside = words[words["start_s"] * VIDEO_FPS < frames].reset_index(drop=True)
    chosen = (
        np.unique(np.linspace(0, len(inside) - 1, min(count, len(inside))).round().astype(int)) if len(inside) else []
    )
    sheet = inside.iloc[chosen].copy()
    middle = (sheet["start_s"] + sheet["end_s"]) / 2 * VIDEO_FPS
    return sheet.assign(frame=np.minimum(middle.astype(int), frames - 1))


def draw_contact_sheet(sheet: pd.DataFrame, pictures: dict[str, list[np.ndarray]]) -> Figure:
    """Faces of every role (row) at every chosen frame (column), under the word that is being said.

    Parameters
    ----------
    sheet : DataFrame
        Columns word, frame and one column per role with the viseme of that frame.
    pictures : dict of lists
        Per role ("draft", "target") one picture [height, width, 3] per row of ``sheet``.
    """
    columns = max(1, len(sheet))
    fig, axes = plt.subplots(
        len(pictures), columns, figsize=(1.45 * columns, 1.75 * len(pictures)), squeeze=False, layout="constrained"
    )
    for row, (role, faces) in zip(axes, pictures.items(), strict=True):
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, face, (_, entry) in zip(row, faces, sheet.iterrows(), strict=False):
            ax.imshow(face)
            ax.set_xlabel(entry[role], labelpad=2, color=ROLE_COLOURS[role] if role != "target" else "black")
        row[0].set_ylabel("truth" if role == "target" else role)
    for ax, (_, entry) in zip(axes[0], sheet.iterrows(), strict=False):
        ax.set_title(f"{entry['word'].strip()}\n{entry['frame'] / VIDEO_FPS:.2f} s", fontsize="medium")
    return fig


def draw_aperture(table: pd.DataFrame, words: pd.DataFrame, ax: Axes) -> None:
    """Lip aperture of draft and truth over time, with the words under the curves.

    Parameters
    ----------
    table : DataFrame
        Columns time_s, draft_mm, truth_mm.
    """
    ax.plot(table["time_s"], table["truth_mm"], color=ROLE_COLOURS["target"], label=labelled("truth", "measured"))
    ax.plot(
        table["time_s"], table["draft_mm"], color=ROLE_COLOURS["draft"], ls="--", label=labelled("draft", "measured")
    )
    end = table["time_s"].max()
    low = -0.12 * max(1.0, table[["truth_mm", "draft_mm"]].to_numpy().max())
    for _, word in words[words["start_s"] < end].iterrows():
        ax.axvline(word["start_s"], color="0.85", lw=0.8, zorder=0)
        centre = min((word["start_s"] + word["end_s"]) / 2, end)
        ax.text(centre, low / 2, word["word"].strip(), ha="center", va="center", fontsize="small")
    ax.set(xlabel="time (s)", ylabel="gap between the lips (mm)", xlim=(0, end), ylim=(low, None))
    ax.legend(loc="upper right")
