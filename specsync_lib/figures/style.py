"""One look for every figure: style, a colour and a marker for each role, honest labels, PNG and CSV under one stem."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from specsync_lib.files import atomic_path
from specsync_lib.paths import PLOTS_DIR
from specsync_lib.summary import LABELS

# Okabe and Ito, "Color Universal Design" (2008): told apart under the common colour-vision deficiencies.
ROLE_COLOURS = {
    "target": "#000000",  # truth, or the reasoner that stands in its place
    "draft": "#E69F00",
    "accepted": "#0072B2",
    "rejected": "#D55E00",
    "corrected": "#009E73",
    "coverage": "#56B4E9",
    "claimed": "#CC79A7",
    "baseline": "#7F7F7F",  # neutral grey: majority class, chance, naive code
    "below_threshold": "#D9D9D9",  # light grey: not decided by the draft
}

# A role is never told by its colour alone.
ROLE_MARKERS = {
    "target": "s",
    "draft": "o",
    "accepted": "^",
    "rejected": "v",
    "corrected": "D",
    "coverage": "P",
    "claimed": "*",
    "baseline": "x",
}


def use_style() -> None:
    """Apply the project's matplotlib style to the whole process, over matplotlib's own defaults and nobody else's."""
    plt.style.use(["default", Path(__file__).with_name("specsync.mplstyle")])


def labelled(name: str, label: str) -> str:
    """Legend text of a curve or a bar with where its numbers come from: ``draft (measured)``.

    Raises
    ------
    ValueError
        If ``label`` is not one of measured, real-shape, simulated, claimed.
    """
    if label not in LABELS:
        raise ValueError(f"label {label!r} of {name!r}: expected one of {', '.join(LABELS)}")
    return f"{name} ({label})"


def save_figure(fig: Figure, stem: str, table: pd.DataFrame, directory: str | Path | None = None) -> Path:
    """Write ``<stem>.png`` and, beside it, ``<stem>.csv`` with the numbers it was drawn from; both whole or absent.

    Parameters
    ----------
    fig : the figure.
    stem : file name without a suffix.
    table : every number the figure shows, units in the column names.
    directory : default the run's ``plots/``.

    Returns
    -------
    Path of the PNG.
    """
    png = Path(directory or PLOTS_DIR) / f"{stem}.png"
    with atomic_path(png.with_suffix(".csv")) as numbers, atomic_path(png) as picture:
        table.to_csv(numbers, index=False)
        fig.savefig(picture)
    return png
