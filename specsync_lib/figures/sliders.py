"""Sliders that follow the hand: every place of a knob has its picture ready, and the browser alone turns the pages.

Pictures are drawn once, each as the still part of a figure with the few artists that move laid over it (the Agg canvas
keeps the still part as pixels), and become the pages of an ``ipywidgets.Stack``. The knob's index is linked to the
stack's in the browser (``jslink``), so that a move asks neither the kernel nor matplotlib for anything and works while
the kernel computes. How fast is measured in a real browser: ``data/measurements/slider_browser.json``.
"""

import io
from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from specsync_lib.claims import CLAIMED_THRESHOLD
from specsync_lib.figures.acceptance import draw_acceptance, draw_numbers, draw_strip
from specsync_lib.figures.drawing import Drawing
from specsync_lib.figures.latency import draw_rejected, draw_threshold
from specsync_lib.figures.recording import draw_recording, line_count
from specsync_lib.rules_in_words import RULE_WORDS

SLIDER_STEP = 0.025
THRESHOLDS = tuple(round(step * SLIDER_STEP, 3) for step in range(round(1 / SLIDER_STEP) + 1))
DPI = 80
COLOURS = 128  # of a page: a few hues and their blends into white; a third of the bytes of full colour
WIDE = ipywidgets.Layout(width="60%")


def pages(figure: Figure, drawings: Sequence[Drawing], places: Sequence[object]) -> list[bytes]:
    """A PNG for each place: the figure with its drawings moved there."""
    canvas = FigureCanvasAgg(figure)
    moving = [artist for drawing in drawings for artist in drawing.artists]
    for artist in moving:
        artist.set_animated(True)  # left out of the full draw
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    found = []
    for place in places:
        canvas.restore_region(still)
        for drawing in drawings:
            drawing.move(place)
        for artist in moving:
            artist.axes.draw_artist(artist)
        png = io.BytesIO()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        picture.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(png, "png")
        found.append(png.getvalue())
    return found


def page_stack(pictures: Sequence[bytes]) -> ipywidgets.Stack:
    """Pictures of which one is seen, the first."""
    layout = {"max_width": "100%", "margin": "0"}  # with a margin it is wider than its box, which then scrolls
    images = [ipywidgets.Image(value=png, format="png", layout=layout) for png in pictures]
    return ipywidgets.Stack(images, selected_index=0, layout={"overflow": "hidden"})


def linked(knob: ipywidgets.Widget, stack: ipywidgets.Stack) -> ipywidgets.Stack:
    """The stack, which from now on shows the page of the knob's choice, in the browser and here."""
    stack.selected_index = knob.index
    ipywidgets.jslink((knob, "index"), (stack, "selected_index"))
    return stack


def nearest(values: Sequence[float], wanted: float) -> int:
    """Which value is nearest."""
    return int(np.abs(np.asarray(values) - wanted).argmin())


def threshold_slider(values: Sequence[float], wanted: float) -> ipywidgets.SelectionSlider:
    """A slider over given thresholds that starts at the nearest to the wanted one."""
    # ipywidgets finds an option by its label: 0.9999 must not read as 1.
    options = [(f"{value:.15g}", float(value)) for value in values]
    start = float(values[nearest(values, wanted)])
    return ipywidgets.SelectionSlider(
        options=options, value=start, description="threshold", continuous_update=True, layout=WIDE
    )


def shown_page(stack: ipywidgets.Stack) -> bytes:
    """The PNG that a stack, or a stack of stacks, shows."""
    page = stack.children[stack.selected_index]
    return shown_page(page) if isinstance(page, ipywidgets.Stack) else page.value


class AcceptanceExplorer:
    """A slider over the threshold, with both curves, the numbers and one utterance's verdicts over time.

    Parameters
    ----------
    table : from `measures.acceptance.acceptance_table`.
    frames : the frame table (see `specsync_lib.figures.acceptance`), any number of utterances.
    threshold : where the slider starts.
    judge : who accepts, for the legend.
    utterance : whose strip is shown first; None: the first one's.

    Attributes
    ----------
    widget : what a notebook displays.
    slider, utterance, curves, strip : its parts; another utterance has its strip's pages drawn.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        frames: pd.DataFrame,
        threshold: float,
        *,
        judge: str = "truth",
        utterance: str | None = None,
    ) -> None:
        self._frames = frames
        names = list(frames["utterance"].unique())
        self.slider = threshold_slider(THRESHOLDS, threshold)
        self.utterance = ipywidgets.Dropdown(
            options=names, value=names[0] if utterance is None else utterance, description="utterance"
        )
        figure = Figure(figsize=(12, 4), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
        drawings = (
            draw_acceptance(table, threshold, left, judge=judge),
            draw_numbers(table, threshold, right, frames=frames),
        )
        self.curves = linked(self.slider, page_stack(pages(figure, drawings, THRESHOLDS)))
        self.strip = linked(self.slider, page_stack(self._strip_pages()))
        knobs = ipywidgets.HBox([self.slider, self.utterance])
        self.widget = ipywidgets.VBox([knobs, self.curves, self.strip])
        self.utterance.observe(lambda change: self._turn(), names="value")

    def _strip_pages(self) -> list[bytes]:
        figure = Figure(figsize=(12, 3), dpi=DPI, layout="constrained")
        chosen = self._frames[self._frames["utterance"] == self.utterance.value]
        return pages(figure, [draw_strip(chosen, self.slider.value, figure.subplots())], THRESHOLDS)

    def _turn(self) -> None:
        for image, png in zip(self.strip.children, self._strip_pages(), strict=True):
            image.value = png


class RecordingExplorer:
    """One recording under a rule and, for the gate, a threshold: strips over time and what the choice costs.

    Parameters
    ----------
    frames, sweep : from `measures.recording`.
    words : columns word, start_s, end_s; None: the words are not known.
    rule, threshold : where the knobs start.
    predicted_on : the machine whose stage times the predicted latency rests on.

    Attributes
    ----------
    widget : what a notebook displays.
    rule, slider, picture : its parts.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        sweep: pd.DataFrame,
        words: pd.DataFrame | None,
        rule: str,
        threshold: float,
        *,
        predicted_on: str,
    ) -> None:
        gates = sweep[sweep["rule"] == "gate"]
        self.slider = threshold_slider(gates["threshold"].tolist(), threshold)
        options = [(RULE_WORDS[name], name) for name in RULE_WORDS if name in set(sweep["rule"])]
        self.rule = ipywidgets.Dropdown(options=options, value=rule, description="rule")
        figure = Figure(figsize=(12, 1.25 + 1.75 * line_count(frames)), dpi=DPI, layout="constrained")
        drawing = draw_recording(frames, sweep, words, figure, predicted_on=predicted_on)
        pictures = dict(zip(sweep["variant"], pages(figure, [drawing], sweep["variant"]), strict=True))
        by_rule = [
            linked(self.slider, page_stack([pictures[name] for name in gates["variant"]]))
            if name == "gate"
            else page_stack([pictures[name]])
            for _, name in options
        ]
        self.picture = linked(self.rule, ipywidgets.Stack(by_rule))
        self.widget = ipywidgets.VBox([ipywidgets.HBox([self.rule, self.slider]), self.picture])

    @property
    def choice(self) -> tuple[str, float | None]:
        """Rule and threshold, None but for the gate."""
        return self.rule.value, self.slider.value if self.rule.value == "gate" else None


class LatencyExplorer:
    """Sliders over the rejection rate and the threshold, on tables computed before; ``widget`` is what is displayed.

    Parameters
    ----------
    late : from `late_verdicts`, several setups in one table (column setup).
    serial_ms : each setup's serial latency.
    thresholds : from `threshold_table`, or None: then there is no such panel.
    threshold : where its slider starts.
    """

    def __init__(
        self,
        late: pd.DataFrame,
        serial_ms: Mapping[str, float],
        thresholds: pd.DataFrame | None = None,
        threshold: float = CLAIMED_THRESHOLD,
    ) -> None:
        rates = sorted(late["rate"].unique())
        options = [(f"{rate:.0%}", rate) for rate in rates]
        self.setup = ipywidgets.Dropdown(options=list(serial_ms), description="setup")
        middle, layout = rates[len(rates) // 2], ipywidgets.Layout(width="32%")
        self.rate = ipywidgets.SelectionSlider(options=options, value=middle, description="rejected", layout=layout)
        by_setup = []
        for setup, serial in serial_ms.items():
            figure = Figure(figsize=(8.4, 4.2), dpi=DPI, layout="constrained")
            drawing = draw_rejected(late[late["setup"] == setup], serial, figure.subplots(1, 2))
            by_setup.append(linked(self.rate, page_stack(pages(figure, [drawing], rates))))
        self.rejected = linked(self.setup, ipywidgets.Stack(by_setup))
        knobs, panels = [self.setup, self.rate], [self.rejected]
        if thresholds is not None:
            places = thresholds["threshold"].tolist()
            self.threshold = threshold_slider(places, threshold)
            self.threshold.layout = layout
            figure = Figure(figsize=(4.2, 4.2), dpi=DPI, layout="constrained")
            drawing = draw_threshold(thresholds, threshold, figure.subplots())
            self.begun = linked(self.threshold, page_stack(pages(figure, [drawing], places)))
            knobs, panels = [*knobs, self.threshold], [*panels, self.begun]
        self.widget = ipywidgets.VBox([ipywidgets.HBox(knobs), ipywidgets.HBox(panels)])
