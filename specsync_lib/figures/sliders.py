"""The threshold slider: moves a few artists over a picture drawn once, so that it follows the hand without a GPU.

The Agg canvas keeps the still part of the figure as pixels; a move restores them, draws only the artists that depend on
the threshold, and sends one PNG to an ``ipywidgets.Image``. It needs no interactive backend and runs headless.
"""

import io
import time
from collections.abc import Mapping
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from specsync_lib.claims import CLAIMED_THRESHOLD
from specsync_lib.figures.acceptance import draw_acceptance, draw_numbers, draw_strip
from specsync_lib.figures.latency import POLICY_NAMES, POLICY_ROLES, draw_late_latency, draw_threshold
from specsync_lib.figures.style import ROLE_COLOURS
from specsync_lib.files import write_json
from specsync_lib.provenance import machine

SLIDER_STEP = 0.005  # the spacing of measures.acceptance.THRESHOLDS
DPI = 80
SIZE_IN = (12, 7)


class AcceptanceExplorer:
    """A slider over the threshold, with both curves, one utterance's verdicts over time and the numbers.

    Parameters
    ----------
    table : from `measures.acceptance.acceptance_table`.
    frames : the frame table (see `specsync_lib.figures.acceptance`), any number of utterances.
    threshold : where the slider starts.
    judge : who accepts, for the legend.

    Attributes
    ----------
    widget : what a notebook displays.
    slider, utterance, image : its parts.
    """

    def __init__(self, table: pd.DataFrame, frames: pd.DataFrame, threshold: float, *, judge: str = "truth") -> None:
        self._table, self._frames, self._judge = table, frames, judge
        names = list(frames["utterance"].unique())
        self.slider = ipywidgets.FloatSlider(
            value=threshold,
            min=0,
            max=1,
            step=SLIDER_STEP,
            description="threshold",
            readout_format=".3f",
            continuous_update=True,
            layout=ipywidgets.Layout(width="60%"),
        )
        self.utterance = ipywidgets.Dropdown(options=names, value=names[0], description="utterance")
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.widget = ipywidgets.VBox([ipywidgets.HBox([self.slider, self.utterance]), self.image])
        self._draw_still()
        self.slider.observe(lambda change: self._move(change["new"]), names="value")
        self.utterance.observe(lambda change: self._draw_still(), names="value")

    def _draw_still(self) -> None:
        """Draw the figure for the chosen utterance and keep its pixels without the artists that move."""
        figure = Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(figure)
        axes = figure.subplot_mosaic(
            [["curves", "numbers"], ["strip", "strip"]], width_ratios=[1.4, 1], height_ratios=[1.3, 1]
        )
        chosen = self._frames[self._frames["utterance"] == self.utterance.value]
        threshold = self.slider.value
        self._drawings = (
            draw_acceptance(self._table, threshold, axes["curves"], judge=self._judge),
            draw_numbers(self._table, threshold, axes["numbers"], frames=self._frames),
            draw_strip(chosen, threshold, axes["strip"]),
        )
        for artist in self._moving():
            artist.set_animated(True)  # left out of the full draw
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)
        self._move(threshold)

    def _moving(self) -> list:
        return [artist for drawing in self._drawings for artist in drawing.artists]

    def _move(self, threshold: float) -> None:
        self._canvas.restore_region(self._background)
        for drawing in self._drawings:
            drawing.move(threshold)
        for artist in self._moving():
            artist.axes.draw_artist(artist)
        png = io.BytesIO()
        # Level 1: encoding is most of a move, and a smaller file saves nothing on the way to a local browser.
        Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB").save(png, "png", compress_level=1)
        self.image.value = png.getvalue()


def measure_redraw(explorer: AcceptanceExplorer, path: str | Path, *, moves: int, rng: np.random.Generator) -> dict:
    """Time slider moves to random thresholds, from setting the value to the new picture, and write them as JSON.

    Returns
    -------
    The JSON's content: moves, p50_ms, p95_ms, max_ms, png_kib (mean size), label "measured", machine.
    """
    steps = round(1 / SLIDER_STEP)
    # Never the same place twice in a row: an unchanged value is no move.
    places = (round(explorer.slider.value / SLIDER_STEP) + rng.integers(1, steps + 1, moves).cumsum()) % (steps + 1)
    elapsed_ms, sizes = np.empty(moves), np.empty(moves)
    for k, place in enumerate(places):
        start = time.perf_counter()
        explorer.slider.value = place * SLIDER_STEP
        elapsed_ms[k] = 1000 * (time.perf_counter() - start)
        sizes[k] = len(explorer.image.value)
    p50_ms, p95_ms, max_ms = (float(value) for value in np.percentile(elapsed_ms, [50, 95, 100]).round(2))
    result = {
        "what": "threshold slider, from setting the value to the encoded picture",
        "label": "measured",
        "moves": moves,
        "p50_ms": p50_ms,
        "p95_ms": p95_ms,
        "max_ms": max_ms,
        "png_kib": float((sizes.mean() / 1024).round(1)),
        "machine": machine(),
    }
    write_json(Path(path), result)
    return result


class LatencyExplorer:
    """Sliders over the rejection rate and the threshold, on tables computed before; ``widget`` is what is displayed.

    Parameters
    ----------
    late : from `late_verdicts`, several setups in one table (column setup).
    serial_ms : each setup's serial latency.
    thresholds : from `threshold_table`, or None: then there is no such panel.
    """

    def __init__(
        self, late: pd.DataFrame, serial_ms: Mapping[str, float], thresholds: pd.DataFrame | None = None
    ) -> None:
        self._late, self._serial_ms, self._thresholds = late, serial_ms, thresholds
        rates = sorted(late["rate"].unique())
        self.setup = ipywidgets.Dropdown(options=list(serial_ms), description="setup")
        self.rate = ipywidgets.SelectionSlider(
            options=[(f"{rate:.0%}", rate) for rate in rates], value=rates[len(rates) // 2], description="rejected"
        )
        self.threshold = ipywidgets.FloatSlider(
            value=CLAIMED_THRESHOLD, min=0, max=1, step=0.05, description="threshold"
        )
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        knobs = [self.setup, self.rate] + ([] if thresholds is None else [self.threshold])
        self.widget = ipywidgets.VBox([ipywidgets.HBox(knobs), self.image])
        for knob in knobs:
            knob.observe(lambda change: self.draw(), names="value")
        self.draw()

    def draw(self) -> None:
        """The picture for where the knobs stand."""
        figure = Figure(figsize=(12, 4.2), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2 if self._thresholds is None else 3)
        rows = self._late[self._late["setup"] == self.setup.value]
        serial_ms = self._serial_ms[self.setup.value]
        draw_late_latency(rows, serial_ms, axes[0])
        axes[0].axvline(self.rate.value, color=ROLE_COLOURS["target"], ls=":")
        here = rows[np.isclose(rows["rate"], self.rate.value)]
        names = ["serial", *[POLICY_NAMES[policy] for policy in here["policy"]]]
        colours = [ROLE_COLOURS[role] for role in ("target", *[POLICY_ROLES[policy] for policy in here["policy"]])]
        values = [serial_ms, *here["mean_ms"]]
        axes[1].barh(names, values, color=colours)
        for name, value in zip(names, values, strict=True):
            axes[1].annotate(f" {value:,.0f} ms", (value, name), va="center")
        axes[1].invert_yaxis()
        axes[1].set(xlim=(0, 1.3 * max(values)), xlabel="mean latency (ms)", title=f"{self.rate.value:.0%} rejected")
        if self._thresholds is not None:
            draw_threshold(self._thresholds, self.threshold.value, axes[2])
        canvas.draw()
        png = io.BytesIO()
        figure.savefig(png, format="png")
        self.image.value = png.getvalue()
