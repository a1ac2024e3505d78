"""A recording at the pace of speech in a notebook: frames as they are committed, their sound, and each one's age."""

import io
import queue
import threading
import time

import ipywidgets
import numpy as np
from IPython.display import Audio
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from specsync_lib.errors import InputError
from specsync_lib.figures.pressed import Pressed
from specsync_lib.pipeline.live import LiveFrame, run_live
from specsync_lib.pipeline.sound import pieces
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS

QUEUE_FRAMES = 60  # 2 s: more than that would be shown too late, so the oldest goes
JPEG_QUALITY = 80
STAMP_BOX_PX = (0, 0, 330, 44)
STAMP_SIZE_PX = 26


def stamped(frame: LiveFrame) -> UInt8[np.ndarray, "height width 3"]:
    """Its picture with its age in the corner."""
    picture = Image.fromarray(frame.picture)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(STAMP_BOX_PX, fill="black")
    draw.text((10, 6), f"age {1e3 * frame.age_s:5.0f} ms   {frame.index / VIDEO_FPS:5.1f} s", "white",
              font_size=STAMP_SIZE_PX)  # fmt: skip
    return np.asarray(picture)


def jpeg(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as a browser shows it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


class LiveView(Pressed):
    """Play, stop, the picture and a line; stream and pictures are threads', so that cells go on running.

    Pictures wait in a bounded queue and are shown by the clock that the sound runs by: one that comes too late is left
    out, and the picture before it stays.

    Made of what `Pressed` takes.

    Attributes
    ----------
    widget : what a notebook displays; play, stop, picture, sound, line are its parts.
    threads : of the last press.
    """

    def _lay_out(self) -> None:
        self.threads: list[threading.Thread] = []
        self.play = ipywidgets.Button(description="play live", button_style="primary")
        self.stop = ipywidgets.Button(description="stop", disabled=True)
        self.picture = ipywidgets.Image(format="jpeg", width=640)
        self.picture.layout.display = "none"
        self.sound, self.line = ipywidgets.HTML(), ipywidgets.Label()
        self.widget = ipywidgets.VBox([ipywidgets.HBox([self.play, self.stop, self.line]), self.picture, self.sound])
        self.play.on_click(lambda _: self.press())
        self.stop.on_click(lambda _: self._stop.set())

    def press(self) -> None:
        """Begin, and return at once; a press while it plays does nothing."""
        if self.play.disabled:
            return
        self.play.disabled, self.stop.disabled = True, False
        self._stop = threading.Event()
        frames: queue.Queue[LiveFrame | None] = queue.Queue(QUEUE_FRAMES)
        asked = self._choose()
        self.threads = [
            threading.Thread(target=self._stream, args=(frames, *asked), name="specsync-live", daemon=True),
            threading.Thread(target=self._show, args=(frames,), name="specsync-live-view", daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _stream(self, frames: queue.Queue, rule: str, threshold: float | None) -> None:
        try:
            if self._system is None:
                self.line.value = "loading the models"
                self._system = self._load()
                # the first call of anything is slow
                self._system.expected_s(self._samples, rule, threshold, video=False)
            self.line.value = "listening"
            live = run_live(
                self._system, pieces(self._heard), rule, threshold, show=lambda frame: put(frames, frame),
                stop=self._stop,
            )  # fmt: skip
            table = live.frames()
            age_ms = table["age_ms"].quantile([0.5, 0.99]) if len(table) else (float("nan"),) * 2
            p50, p99 = age_ms
            held = int((table["kept_up"] == "held").sum())
            self.line.value = (
                f"{len(table)} frames, age p50 {p50:.0f} ms, p99 {p99:.0f} ms; mouth held in {held} (measured)"
            )
        except InputError as error:
            self.line.value = str(error)
        finally:
            put(frames, None)

    def _show(self, frames: queue.Queue) -> None:
        start_s = None
        while (frame := frames.get()) is not None and not self._stop.is_set():
            now_s = time.monotonic()
            if start_s is None:
                start_s = now_s - frame.index / VIDEO_FPS
                sound = Audio(self._samples, rate=SAMPLE_RATE_HZ, normalize=False, autoplay=True)
                self.sound.value, self.picture.layout.display = sound._repr_html_(), ""
            wait_s = start_s + frame.index / VIDEO_FPS - now_s
            if wait_s < -1 / VIDEO_FPS:
                continue
            time.sleep(max(0.0, wait_s))
            self.picture.value = jpeg(stamped(frame))
        self.sound.value = ""
        self.play.disabled, self.stop.disabled = False, True


def put(frames: queue.Queue, frame: LiveFrame | None) -> None:
    """Into a bounded queue; where it is full the oldest goes."""
    while True:
        try:
            frames.put_nowait(frame)
            return
        except queue.Full:
            try:
                frames.get_nowait()
            except queue.Empty:
                continue
