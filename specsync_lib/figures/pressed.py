"""What a notebook's button plays or renders: a recording through a system that is loaded at the first press."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from specsync_lib.pipeline.system import System


class Pressed(ABC):
    """A recording and a system for widgets whose work is a thread's, so that cells go on running.

    Parameters
    ----------
    load : gives the system; called in the thread at the first press, once.
    samples, heard : [n] the recording, 16 kHz mono, and what draft and judge hear of it (`ears.listen`).
    choose : gives rule and threshold, asked at every press.
    """

    def __init__(
        self,
        load: Callable[[], System],
        samples: np.ndarray,
        heard: np.ndarray,
        choose: Callable[[], tuple[str, float | None]],
    ) -> None:
        self._load, self._samples, self._heard, self._choose = load, samples, heard, choose
        self._system: System | None = None
        self._stop = threading.Event()  # of the last press
        self._lay_out()

    @abstractmethod
    def _lay_out(self) -> None:
        """Make the widgets."""
