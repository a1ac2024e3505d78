"""A button that renders some seconds under the chosen rule and threshold, beside the notebook and not in its way."""

import tempfile
import threading
from pathlib import Path

import ipywidgets

from specsync_lib.errors import InputError
from specsync_lib.figures.pressed import Pressed
from specsync_lib.pipeline.stages import Commit, Stopped
from specsync_lib.units import SAMPLE_RATE_HZ, frame_count

PREVIEW_SECONDS = 2.0
START_STEP_S = 0.1


class Preview(Pressed):
    """Render, cancel, a progress bar and the video; the work is a thread's, so that cells go on running.

    Cancel takes effect at the next denoising step, pass of the judge, decoded slot or picture. Models that are being
    loaded go on loading, for the next press.

    Made of what `Pressed` takes.

    Attributes
    ----------
    widget : what a notebook displays.
    button, cancel, start, bar, line, video : its parts; ``thread`` is the last one started.
    """

    def _lay_out(self) -> None:
        self._loading = threading.Lock()
        self.thread: threading.Thread | None = None
        seconds = len(self._samples) / SAMPLE_RATE_HZ
        self.button = ipywidgets.Button(description=f"render {PREVIEW_SECONDS:g} s", button_style="primary")
        self.cancel = ipywidgets.Button(description="cancel", disabled=True)
        self.start = ipywidgets.FloatSlider(
            value=0.0, min=0.0, max=max(0.0, seconds - PREVIEW_SECONDS), step=START_STEP_S, description="from (s)"
        )
        self.bar = ipywidgets.IntProgress(value=0, min=0, max=1)
        self.line = ipywidgets.Label()
        self.video = ipywidgets.Video(format="mp4", autoplay=False, loop=False, width=640)
        knobs = ipywidgets.HBox([self.button, self.cancel, self.start])
        self.widget = ipywidgets.VBox([knobs, ipywidgets.HBox([self.bar, self.line])])
        self.button.on_click(lambda _: self.press())
        self.cancel.on_click(lambda _: self.halt())

    def press(self) -> None:
        """Begin, and return at once; a press while it renders does nothing."""
        if self.button.disabled:
            return
        self._stop = threading.Event()
        first = round(self.start.value * SAMPLE_RATE_HZ)
        part = slice(first, first + round(PREVIEW_SECONDS * SAMPLE_RATE_HZ))
        self.button.disabled, self.cancel.disabled = True, False
        self.bar.value, self.bar.max, self.bar.bar_style = 0, frame_count(len(self._samples[part])), ""
        self.line.value = "loading the models" if self._system is None else "rendering"
        asked = self._choose()
        self.thread = threading.Thread(
            target=self._work, args=(part, *asked, self._stop), name="specsync-preview", daemon=True
        )
        self.thread.start()

    def halt(self) -> None:
        """End what renders; while models load there is nothing to wait for."""
        self._stop.set()
        if self._system is None:
            self._rest("cancelled while the models load")

    def _rest(self, line: str, style: str = "") -> None:
        self.line.value, self.bar.bar_style = line, style
        self.button.disabled, self.cancel.disabled = False, True

    def _work(self, part: slice, rule: str, threshold: float | None, stop: threading.Event) -> None:
        asked = rule if threshold is None else f"{rule}, threshold {threshold:g}"
        try:
            with self._loading:
                if self._system is None and not stop.is_set():
                    self._system = self._load()
                if stop.is_set():
                    raise Stopped
                self.line.value = f"rendering: {asked}"
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "preview.mp4"
                    quiet = {"progress": False, "say": lambda line: None}
                    heard, sound = self._heard[part], self._samples[part]
                    watched = {"watch": self._advance, "stop": stop}
                    run = self._system.run(sound, rule, threshold, heard=heard, video=path, **watched, **quiet)
                    self.video.value = path.read_bytes()
                    # Not before: a browser complains of a video without a byte.
                    self.widget.children = (*self.widget.children[:2], self.video)
            line, style = f"{asked}: {run.report.frame_count} frames in {run.report.wall_s:.1f} s (measured)", "success"
        except Stopped:
            line, style = f"cancelled after {self.bar.value} frames", ""
        except InputError as error:
            line, style = str(error), "danger"
        if stop is self._stop:  # else another press has taken over
            self._rest(line, style)

    def _advance(self, commit: Commit) -> None:
        self.bar.value += len(commit.tokens)
