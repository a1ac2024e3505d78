"""Draft and judge hear the recording at level, and nothing where nobody speaks."""

import json

import numpy as np
import pytest

from specsync_lib.paths import CLIPS_DIR
from specsync_lib.speech.audio import load_audio, write_flac
from specsync_lib.speech.ears import listen
from specsync_lib.speech.level import at_level


@pytest.mark.parametrize(
    ("has_speech", "transcript", "silent"), [(True, "", False), (False, "words", False), (False, "", True)]
)
def test_a_mouth_has_nothing_to_move_for_where_nobody_speaks(tmp_path, has_speech, transcript, silent):
    quiet = load_audio(CLIPS_DIR / "vowels.flac").samples / 50
    write_flac(tmp_path / "speech.flac", quiet)
    (tmp_path / "input.json").write_text(json.dumps({"has_speech": has_speech, "transcript": transcript}))
    heard = listen(tmp_path)
    kept = load_audio(tmp_path / "speech.flac").samples
    assert heard.shape == kept.shape
    assert np.array_equal(heard, np.zeros_like(kept) if silent else at_level(kept))
    assert silent or np.abs(heard).max() > 5 * np.abs(kept).max()
