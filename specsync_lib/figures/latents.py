"""Figures of the claim: lips drafted straight into latent space, over time and as correlations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.measures.latent_claim import REFERENCE, Claim
from specsync_lib.units import VIDEO_FPS

# condition: role (colour and marker), line, words for an axis
STYLE = {
    "vae": ("coverage", "-", "truth through\nthe VAE"),
    "truth_coefficients": ("accepted", "-", "truth's\ncoefficients"),
    "kernel": ("draft", "-", "the full\nkernel"),
    "ordered": ("corrected", "-", "kernel, pool\nwith order"),
    "energy": ("baseline", "--", "loudness\nalone"),
    "shuffled": ("rejected", ":", "another\nsentence"),
}
TRACED = ("truth_coefficients", "kernel", "energy", "shuffled")


def typical_utterance(lips: pd.DataFrame) -> str:
    """The reference person's sentence on which the kernel's correlation is the median one."""
    own = lips[lips["identity"] == REFERENCE]
    r = own.groupby("utterance")[["kernel_mm", "truth_mm"]].apply(lambda part: part["kernel_mm"].corr(part["truth_mm"]))
    r = r.fillna(-1.0).sort_values()
    return str(r.index[len(r) // 2])


def draw_lips(lips: pd.DataFrame, utterance: str, ax: Axes) -> None:
    """The gap between the lips over one sentence: truth's render and what was decoded without denoising."""
    part = lips[(lips["utterance"] == utterance) & (lips["identity"] == REFERENCE)]
    times_s = part["frame"] / VIDEO_FPS
    ax.plot(times_s, part["truth_mm"], color=ROLE_COLOURS["target"], lw=2, label=labelled("truth", "measured"))
    for condition in TRACED:
        role, line, words = STYLE[condition]
        name = labelled(words.replace("\n", " "), "measured")
        ax.plot(times_s, part[f"{condition}_mm"], color=ROLE_COLOURS[role], ls=line, label=name)
    ax.set(xlabel="time (s)", ylabel="gap between the lips (mm)", title=f"“{utterance}”", xlim=(0, times_s.max()))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    ax.legend(fontsize="small", loc="upper left", ncols=2)


def draw_correlations(table: pd.DataFrame, ax: Axes) -> None:
    """r of the lips with truth's, 95 % intervals by utterance; filled: the reference person, open: the stranger."""
    for offset, (identity, part) in zip((-0.12, 0.12), table.groupby("identity", sort=False), strict=False):
        rows = part.set_index("condition").loc[list(STYLE)]
        for place, (condition, row) in enumerate(rows.iterrows()):
            role = STYLE[condition][0]
            known = identity == REFERENCE
            ax.errorbar(
                place + offset,
                row["r"],
                yerr=np.array([[row["r"] - row["r_low"]], [row["r_high"] - row["r"]]]).clip(0),
                fmt=ROLE_MARKERS[role],
                color=ROLE_COLOURS[role],
                mfc=ROLE_COLOURS[role] if known else "white",
                capsize=3,
                label=labelled(f"{identity}, {row['utterances']:.0f} sentences", "measured") if place == 0 else None,
            )
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.axhline(0.85, color="0.8", lw=0.8, ls="--", zorder=0)
    ax.set(ylabel="correlation with truth's lips", ylim=(min(-0.3, ax.get_ylim()[0]), 1.02))
    ax.set_xticks(range(len(STYLE)), [words for _, _, words in STYLE.values()], fontsize="small")
    ax.legend(fontsize="small", loc="lower left")


def draw_claim(claim: Claim) -> Figure:
    """The claim's figure: a typical sentence over time, and the correlations of all conditions."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(14, 4.6), width_ratios=(1.3, 1), layout="constrained")
    draw_lips(claim.lips, typical_utterance(claim.lips), left)
    draw_correlations(claim.table, right)
    return fig
