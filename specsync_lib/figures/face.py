"""Figures of the talking head: frames beside their words, and the lips over time."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
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


SHEET_ROWS = {"draft": "draft alone", "accepted": "committed", "target": "truth's render"}


def draw_contact_sheet(sheet: pd.DataFrame, pictures: dict[str, list[np.ndarray]]) -> Figure:
    """Faces of every role (row) at every chosen frame (column), under the word that is being said.

    Parameters
    ----------
    sheet : DataFrame
        Columns word, frame and one column per role with the viseme of that frame.
    pictures : dict of lists
        Per role ("draft", "accepted": what is generated from the draft alone and from the committed plan, "target":
        truth's render) one picture [height, width, 3] per row of ``sheet``.
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
        row[0].set_ylabel(SHEET_ROWS[role])
    for ax, (_, entry) in zip(axes[0], sheet.iterrows(), strict=False):
        ax.set_title(f"{entry['word'].strip()}\n{entry['frame'] / VIDEO_FPS:.2f} s", fontsize="medium")
    return fig


def draw_aperture(table: pd.DataFrame, words: pd.DataFrame, ax: Axes) -> None:
    """Lips of the generated face and of truth's render over time, with the words under the curves.

    Parameters
    ----------
    table : DataFrame
        Columns time_s, generated_mm, truth_mm (both read off the pictures), plan_mm (the committed plan on the mesh).
    """
    curves = {
        "truth_mm": ("truth's render", "target", "-", 1.8),
        "plan_mm": ("the committed plan on the head", "baseline", ":", 1.2),
        "generated_mm": ("generated", "accepted", "--", 1.6),
    }
    for column, (name, role, line, width) in curves.items():
        ax.plot(
            table["time_s"],
            table[column],
            color=ROLE_COLOURS[role],
            ls=line,
            lw=width,
            label=labelled(name, "measured"),
        )
    end = table["time_s"].max()
    high = max(1.0, np.nanmax(table[list(curves)].to_numpy()))
    low = -0.12 * high
    for _, word in words[words["start_s"] < end].iterrows():
        ax.axvline(word["start_s"], color="0.85", lw=0.8, zorder=0)
        centre = min((word["start_s"] + word["end_s"]) / 2, end)
        ax.text(centre, low / 2, word["word"].strip(), ha="center", va="center", fontsize="small")
    ax.set(xlabel="time (s)", ylabel="gap between the lips (mm)", xlim=(0, end), ylim=(low, 1.2 * high))
    ax.legend(loc="upper right", ncols=3)


def draw_methods(table: pd.DataFrame) -> Figure:
    """Error of the lips by way of generation with its interval, the mouth's PSNR, and a chunk's time."""
    fig, axes = plt.subplots(1, 3, figsize=(14, 0.36 * len(table) + 1.4), sharey=True, layout="constrained")
    places, roles = np.arange(len(table)), [_role(name) for name in table["method"]]
    colours = [ROLE_COLOURS[role] for role in roles]
    spread = np.abs(table[["lip_error_mm_low", "lip_error_mm_high"]].to_numpy().T - table["lip_error_mm"].to_numpy())
    for place, role, error, ends in zip(places, roles, table["lip_error_mm"], spread.T, strict=True):
        axes[0].errorbar(error, place, xerr=ends[:, None], fmt=ROLE_MARKERS[role], color=ROLE_COLOURS[role], capsize=3)
    axes[0].set(xlabel="error of the lips' gap (mm, measured)", xlim=(0, None))
    axes[1].scatter(table["mouth_psnr_db"], places, c=colours)
    axes[1].set(xlabel="PSNR of the mouth (dB, measured)")
    axes[2].barh(places, table["denoise_ms"].fillna(0), color=colours, label="denoising")
    axes[2].barh(
        places, table["decode_ms"].fillna(0), left=table["denoise_ms"].fillna(0), color="0.85", label="decoding"
    )
    axes[2].axvline(400, color=ROLE_COLOURS["target"], lw=0.8, ls=":", label="the chunk's own 400 ms")
    axes[2].set(xlabel="ms a chunk, here (measured)", xscale="symlog")
    axes[2].legend(fontsize="small", loc="upper left")
    axes[0].set_yticks(places, table["method"])
    axes[0].invert_yaxis()
    return fig


def _role(method: str) -> str:
    if "truth" in method:
        return "target"
    if "noise" in method:
        return "corrected"
    return "draft" if "draft" in method else "baseline"


def draw_seams_and_repair(seams: pd.DataFrame, repair: pd.DataFrame) -> Figure:
    """Jumps at chunk borders against truth's own; and what is left of a wrong draft by the step that set it right."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(14, 3.6), layout="constrained")
    times_s = seams["border"] / VIDEO_FPS
    for column, name, role in (("ratio", "generated", "draft"), ("truth_ratio", "truth's render", "target")):
        left.plot(
            times_s, seams[column], ROLE_MARKERS[role], color=ROLE_COLOURS[role], label=labelled(name, "measured")
        )
    left.axhline(1, color="0.8", lw=0.8, zorder=0)
    left.set(xlabel="chunk border (s)", ylabel="jump over the motion inside", ylim=(0, None))
    left.legend()
    right.bar(repair["switched_after"], repair["error_mm"], color=ROLE_COLOURS["corrected"])
    for _, row in repair.iterrows():
        right.text(row["switched_after"], row["error_mm"], f"{row['repaired']:.0%}", ha="center", va="bottom")
    words = [f"after {k:.0f}" for k in repair["switched_after"][:-1]] + ["never"]
    right.set(xlabel="the plan was set right (denoising steps)", ylabel="error of the lips' gap (mm, measured)")
    right.set_xticks(repair["switched_after"], words)
    right.margins(y=0.15)
    return fig
