"""What draft and judge listen to: the recording at level, and silence where nobody speaks.

The draft takes music for speech, and nothing that it hears live tells them apart; Whisper does, afterwards.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from specsync_lib.paths import RUN_DIR
from specsync_lib.rows import Hearing
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.level import at_level
from specsync_lib.units import SAMPLE_RATE_HZ

WINDOW_S = 30  # Whisper's own


def as_heard(samples: Float[np.ndarray, " n"], speech: bool) -> Float32[np.ndarray, " n"]:
    """A recording (16 kHz mono in [-1, 1]) as draft and judge hear it: at level; nothing of it where nobody speaks."""
    return at_level(samples) if speech else np.zeros(len(samples), np.float32)


def anyone_speaks(samples: Float[np.ndarray, " n"], hearing: Hearing | None = None) -> bool:
    """Whether Whisper hears a word in a recording (16 kHz mono in [-1, 1]), half a minute at a time until it does.

    ``hearing``: a row's part; None: the default one's.

    Raises
    ------
    InputError: Whisper's weights are absent.
    """
    from specsync_lib.speech import whisper_base

    model, levelled, window = whisper_base.load_whisper(hearing), at_level(samples), WINDOW_S * SAMPLE_RATE_HZ
    parts = (levelled[first : first + window] for first in range(0, len(levelled), window))
    return any(whisper_base.hear(model, part).words for part in parts)


def listen(run_dir: Path = RUN_DIR) -> Float32[np.ndarray, " n"]:
    """The run's recording, ``speech.flac``, as draft and judge hear it; what is given as its words counts as speech.

    The video's sound is ``speech.flac`` as it is.

    Returns
    -------
    [n] float32, 16 kHz mono in [-1, 1], as long as ``speech.flac``.
    """
    facts = json.loads((run_dir / "input.json").read_text(encoding="utf-8"))
    return as_heard(load_audio(run_dir / "speech.flac").samples, bool(facts["has_speech"] or facts["transcript"]))
