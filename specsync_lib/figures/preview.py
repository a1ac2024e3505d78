"""A button that renders some seconds under the chosen rule and threshold, beside the notebook and not in its way."""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.pipeline.stages import Commit
from specsync_lib.pipeline.system import System
from specsync_lib.units import SAMPLE_RATE_HZ, frame_count

PREVIEW_SECONDS = 2.0
START_STEP_S = 0.1


class Cancelled(Exception):
    """The reader pressed cancel."""


class Preview:
    """Render, cancel, a progress bar and the video; the work is a thread's, so that cells go on running.

    Parameters
    ----------
    load : gives the system; called in the thread at the first press, once.
    samples : [n] the recording, 16 kHz mono.
    choose : gives rule and threshold, asked at every press.

    Attributes
    ----------
    widget : what a notebook displays.
    button, cancel, start, bar, line, video : its parts; ``thread`` is the last one started.
    """

    def __init__(
        self, load: Callable[[], System], samples: np.ndarray, choose: Callable[[], tuple[str, float | None]]
    ) -> None:
        self._load, self._samples, self._choose = load, samples, choose
        self._system: System | None = None
        self._stop = threading.Event()
        self.thread: threading.Thread | None = None
        seconds = len(samples) / SAMPLE_RATE_HZ
        self.button = ipywidgets.Button(description=f"render {PREVIEW_SECONDS:g} s", button_style="primary")
        self.cancel = ipywidgets.Button(description="cancel", disabled=True)
        self.start = ipywidgets.FloatSlider(
            value=0.0, min=0.0, max=max(0.0, seconds - PREVIEW_SECONDS), step=START_STEP_S, description="from (s)"
        )
        self.bar = ipywidgets.IntProgress(value=0, min=0, max=1)
        self.line = ipywidgets.Label()
        self.video = ipywidgets.Video(format="mp4", autoplay=False, loop=False, width=640)
        self.video.layout.display = "none"
        knobs = ipywidgets.HBox([self.button, self.cancel, self.start])
        self.widget = ipywidgets.VBox([knobs, ipywidgets.HBox([self.bar, self.line]), self.video])
        self.button.on_click(lambda _: self.press())
        self.cancel.on_click(lambda _: self._stop.set())

    def press(self) -> None:
        """Begin, and return at once; a press while it renders does nothing."""
        if self.thread is not None and self.thread.is_alive():
            return
        self._stop.clear()
        first = round(self.start.value * SAMPLE_RATE_HZ)
        piece = self._samples[first : first + round(PREVIEW_SECONDS * SAMPLE_RATE_HZ)]
        self.button.disabled, self.cancel.disabled = True, False
        self.bar.value, self.bar.max, self.bar.bar_style = 0, frame_count(len(piece)), ""
        self.line.value = "loading the models" if self._system is None else "rendering"
        rule, threshold = self._choose()
        self.thread = threading.Thread(
            target=self._work, args=(piece, rule, threshold), name="specsync-preview", daemon=True
        )
        self.thread.start()

    def _work(self, piece: np.ndarray, rule: str, threshold: float | None) -> None:
        asked = rule if threshold is None else f"{rule}, threshold {threshold:g}"
        try:
            if self._system is None:
                self._system = self._load()
            self._watch()
            self.line.value = f"rendering: {asked}"
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "preview.mp4"
                quiet = {"progress": False, "say": lambda line: None}
                run = self._system.run(piece, rule, threshold, video=path, watch=self._watch, **quiet)
                self.video.value, self.video.layout.display = path.read_bytes(), ""
            self.bar.bar_style = "success"
            self.line.value = f"{asked}: {run.report.frame_count} frames in {run.report.wall_s:.1f} s (measured)"
        except Cancelled:
            self.line.value = f"cancelled after {self.bar.value} frames"
        except InputError as error:
            self.bar.bar_style, self.line.value = "danger", str(error)
        finally:
            self.button.disabled, self.cancel.disabled = False, True

    def _watch(self, commit: Commit | None = None) -> None:
        if self._stop.is_set():
            raise Cancelled
        if commit is not None:
            self.bar.value += len(commit.tokens)
