"""How the draft came to hear everyone: look-ahead, minutes and voices, from the committed training curves."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled

SETS = {
    "real_speakers": ("real speakers", "draft"),
    "trained_speaker": ("the corpus' speaker, unheard", "target"),
    "held_voices": ("held-out synthetic voices", "coverage"),
}
CURVES = {
    "look_ahead": "sound heard past a frame's centre (ms)",
    "minutes": "minutes of synthetic speech",
    "voices": "synthetic voices, unmixed",
}


def curves_table(curves: dict) -> pd.DataFrame:
    """A row per curve, point and set: curve, at, set, accuracy with _low and _high (NaN for held-out voices)."""
    rows = []
    for curve in CURVES:
        points = {name: found for name, found in curves[curve].items() if name.isdigit()}
        for name, found in points.items():
            at = found["minutes"] if curve == "minutes" else float(name)
            for which in SETS:
                score = found[which]
                if which == "held_voices":
                    score = {"accuracy": score["clean"]["speech"]}
                ends = {f"accuracy_{end}": score.get(f"accuracy_{end}") for end in ("low", "high")}
                rows.append({"curve": curve, "at": at, "set": which, "accuracy": score["accuracy"], **ends})
    return pd.DataFrame(rows).astype({"accuracy_low": float, "accuracy_high": float})


def draw_curves(table: pd.DataFrame, axes: Sequence[Axes]) -> None:
    """Accuracy over look-ahead, minutes and voices, one picture each; bands: 95 % by utterance."""
    for (curve, words), ax in zip(CURVES.items(), axes, strict=True):
        for which, (name, role) in SETS.items():
            line = table[(table["curve"] == curve) & (table["set"] == which)].sort_values("at")
            ax.plot(line["at"], line["accuracy"], color=ROLE_COLOURS[role], marker=ROLE_MARKERS[role],
                    label=labelled(name, "measured"))  # fmt: skip
            ax.fill_between(line["at"], line["accuracy_low"], line["accuracy_high"], color=ROLE_COLOURS[role],
                            alpha=0.15, lw=0)  # fmt: skip
        ax.set(xlabel=words, ylabel="right frames")
        if curve != "look_ahead":
            ax.set_xscale("log")
            ticks = sorted(table.loc[table["curve"] == curve, "at"].unique())
            ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
            ax.minorticks_off()
