"""Speech to learn from, end to end in memory, with the names of its sources."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.units import MEL_FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from specsync_lib.visemes import PHONE_TO_VISEME, VISEME_INDEX

UNKNOWN = 255  # label where no alignment is known

# The Spanish prompts are spoken by the English corpus' own speaker (folder es_MX_f_Allison): who must not know her
# must not hear them either.
TEST_SPEAKER_SOURCES = ("speech-en", "speech-es")
HUMAN_UNLABELLED = ("speech-es", "speech-fr", "speech-it", "speech-ru")
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
ESPEAK_VOICES = (
    "en-us", "en-us+m1", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f4", "en-us+f5", "en-us+klatt2", "en-us+klatt4",
    "en-us+whisperf", "en-gb", "en-gb-x-rp+m5",
)  # fmt: skip


@dataclass(frozen=True)
class Voices:
    """Utterances end to end, with their labels.

    samples: [n] int16 at 16 kHz; labels: [m] uint8, a viseme for each 10 ms or UNKNOWN; table: one dict an utterance,
    with source, split, start and length (samples), label_start.
    """

    samples: np.ndarray
    labels: np.ndarray
    table: list[dict]

    def save(self, folder: Path) -> None:
        """Write samples.npy, labels.npy and table.json."""
        for name in ("samples", "labels"):
            with atomic_path(folder / f"{name}.npy") as temporary:
                np.save(temporary, getattr(self, name), allow_pickle=False)
        write_text(folder / "table.json", json.dumps(self.table))

    @classmethod
    def load(cls, folder: Path) -> "Voices":
        """Read what ``save`` wrote.

        Raises
        ------
        InputError: a file is absent or the sizes disagree.
        """
        try:
            samples, labels = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("samples", "labels"))
            table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"voices {folder}: {error}; run python -m workbench.train.speech") from error
        if table and table[-1]["start"] + table[-1]["length"] > len(samples):
            raise InputError(f"voices {folder}: samples.npy is shorter than table.json says; gather the voices again")
        return cls(samples, labels, table)


def label_track(phones: Sequence, samples: int) -> np.ndarray:
    """[samples // 160 + 1] uint8: the viseme of each 10 ms (the aligner's grid), UNKNOWN without phones."""
    track = np.full(samples * MEL_FRAMES_PER_SECOND // SAMPLE_RATE_HZ + 1, UNKNOWN, np.uint8)
    for phone in phones:
        first, last = (round(time * MEL_FRAMES_PER_SECOND) for time in (phone.start_s, phone.end_s))
        track[first:last] = VISEME_INDEX[PHONE_TO_VISEME[phone.label]]
    if phones:
        track[track == UNKNOWN] = VISEME_INDEX["sil"]
    return track
