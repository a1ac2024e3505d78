"""What everything behind notebook 01 listens to."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from specsync_lib.paths import RUN_DIR
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.level import at_level


def listen(run_dir: Path = RUN_DIR) -> Float32[np.ndarray, " n"]:
    """The run's recording as draft and judge hear it: at level; silence where Whisper hears no speech at all.

    The draft takes noise and music for speech, and nothing that it hears live tells them apart. The video's sound is
    ``speech.flac`` as it is.

    Returns
    -------
    [n] float32, 16 kHz mono in [-1, 1], as long as ``speech.flac``.
    """
    samples = load_audio(run_dir / "speech.flac").samples
    facts = json.loads((run_dir / "input.json").read_text(encoding="utf-8"))
    return at_level(samples) if facts["has_speech"] or facts["transcript"] else np.zeros_like(samples)
