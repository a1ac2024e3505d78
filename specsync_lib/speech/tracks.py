"""Which of several sound tracks to take: one that decodes, in the language that is expected, the default, speech."""

import re
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.speech.decoding import Tally, mono_blocks, open_container

LANGUAGES = ("eng", "en")  # what the draft and the judge were trained on
UNNAMED = ("", "und", "mul", "zxx")
# Tracks beside the film's own: a commentary, a description of the picture, everything but the speech.
BESIDE = Disposition.comment | Disposition.visual_impaired | Disposition.clean_effects
PROBED_S = 30
MOST_TRIED = 8  # tracks; a file with more of one rank is no film
HOP_SAMPLES = units.HOP_SAMPLES
ENVELOPE_FLOOR_DB = -60.0
SYLLABLES_HZ = (2.0, 8.0)


@dataclass(frozen=True)
class Track:
    """One sound track: its number (from 1, in the file's order) and what the container says of it."""

    number: int
    index: int
    codec: str | None
    language: str
    default: bool
    beside: bool

    def __str__(self) -> str:
        words = [self.language if self.language not in UNNAMED else "", self.codec or "no decoder"]
        return f"{self.number} ({', '.join(word for word in words if word)}{', default' if self.default else ''})"


def tracks(container: av.container.InputContainer) -> list[Track]:
    """The sound tracks of an open file, in its order."""
    return [
        Track(
            number,
            stream.index,
            None if stream.codec_context is None else stream.codec_context.name,
            re.split("[-_]", stream.metadata.get("language", "").lower())[0][:3],  # en of en-GB, eng of English
            bool(stream.disposition & Disposition.default),
            bool(stream.disposition & BESIDE),
        )
        for number, stream in enumerate(container.streams.audio, start=1)
    ]


def ordered(found: list[Track], file: BinaryIO, name: str, number: int = 0) -> list[Track]:
    """The tracks to try, best first.

    Parameters
    ----------
    found
        From :func:`tracks`, at least one.
    file
        The file, to listen into tracks that the container holds for equal.
    name
        Its name, for errors.
    number
        The one that was asked for; 0: the best.

    Raises
    ------
    InputError
        There is no track of this number, or none has a decoder.
    """
    if number:
        asked = [track for track in found if track.number == number]
        if not asked:
            each = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
            many = f"{len(found)} sound track{'s' if len(found) > 1 else ''}"
            raise InputError(f"{name} has no track {number}, it has {many}: {each}; give one of these")
        found = asked
    able = [track for track in found if track.codec is not None]
    if not able:
        raise InputError(f"{name} is in a codec that cannot be decoded here: save it as wav, flac, mp3 or m4a")
    able.sort(key=_rank)
    # Only where the container leaves the choice open is a part of each decoded.
    able = able[:MOST_TRIED]
    equals = [track for track in able if _rank(track) == _rank(able[0])]
    if len(equals) > 1:
        scores = {track: speech_score(_beginning(file, track, name)) for track in equals}
        equals.sort(key=lambda track: -scores[track])
    return equals + [track for track in able if track not in equals]


def _rank(track: Track) -> tuple[bool, ...]:
    """Lower is better."""
    foreign = track.language not in LANGUAGES and track.language not in UNNAMED
    return track.beside, foreign, track.language not in LANGUAGES, not track.default


def _beginning(file: BinaryIO, track: Track, name: str) -> np.ndarray:
    """Up to PROBED_S of a track, 16 kHz mono; empty where it does not decode."""
    blocks, count = [], 0
    try:
        with open_container(file) as container:
            stream = container.streams[track.index]
            for block in mono_blocks([file], container, stream, name, np.inf, Tally()):
                blocks.append(block)
                count += len(block)
                if count >= PROBED_S * units.SAMPLE_RATE_HZ:
                    break
    except (av.FFmpegError, ValueError, OverflowError):
        pass  # it scores by what was heard; decoding it whole tells the user more
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def speech_score(samples: np.ndarray) -> float:
    """How much a sound moves like speech: the standard deviation in dB of its level at the pace of syllables.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono.

    Returns
    -------
    0 for silence and steady sound; about 3 for music, 6 to 12 for speech.

    Source: Houtgast and Steeneken, "A review of the MTF concept in room acoustics", JASA 77(3), 1985: speech modulates
    its level most at 2 to 8 Hz.
    """
    hops = len(samples) // HOP_SAMPLES
    if hops < units.MEL_FRAMES_PER_SECOND:
        return 0.0
    power = (samples[: hops * HOP_SAMPLES].astype(np.float64) ** 2).reshape(hops, HOP_SAMPLES).mean(axis=1)
    level_db = np.maximum(10 * np.log10(power + 1e-12), ENVELOPE_FLOOR_DB)
    spectrum = np.fft.rfft(level_db - level_db.mean())
    at_hz = np.fft.rfftfreq(hops, HOP_SAMPLES / units.SAMPLE_RATE_HZ)
    low, high = SYLLABLES_HZ
    return float(np.std(np.fft.irfft(np.where((at_hz >= low) & (at_hz <= high), spectrum, 0), hops)))
