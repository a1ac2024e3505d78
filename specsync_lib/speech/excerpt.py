"""A part of a recording, exact on the time base."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.speech.alignment import Phone, exact_seconds
from specsync_lib.speech.audio import Recording, load_audio
from specsync_lib.values import LONGEST_S


def load_excerpt(
    path: str | Path,
    *,
    start_s: float = 0.0,
    duration_s: float = 0.0,
    track: int = 0,
    max_seconds: float = LONGEST_S,
) -> Recording:
    """``load_audio``, and of it the samples of [start, start + duration): the recording's own, whatever comes before.

    Parameters
    ----------
    path, track, max_seconds
        As for ``load_audio``; the whole recording is decoded.
    start_s, duration_s
        Seconds from 0, read as the decimal fractions that they stand for; the edges lie on the nearest samples. A
        duration of 0 goes to the end.

    Raises
    ------
    InputError
        As ``load_audio``; or the excerpt does not lie in the recording, or is shorter than one video frame.
    """
    whole = load_audio(path, max_seconds=max_seconds, track=track)
    return replace(whole, samples=cut(whole.samples, start_s, duration_s, repr(whole.source)))


def cut(samples: np.ndarray, start_s: float, duration_s: float, of: str = "the recording") -> np.ndarray:
    """Of samples [n] those of [start, start + duration), as `load_excerpt` reads them; ``of``: what they are.

    Raises
    ------
    InputError
        The excerpt does not lie in them, or is shorter than one video frame.
    """
    first, end = sample_range(len(samples), start_s, duration_s)
    excerpt = samples[first:end]
    if not 0 <= first < end <= len(samples) or units.frame_count(len(excerpt)) < 1:
        until = f"to {float(exact_seconds(start_s) + exact_seconds(duration_s)):g} s" if duration_s else "to the end"
        late = 0 <= first < len(samples) < end
        raise InputError(
            f"parameters start_s, duration_s: from {start_s:g} s {until} is no excerpt of {of}, which has "
            f"{len(samples) / units.SAMPLE_RATE_HZ:.3f} s: "
            + ("a duration_s of 0 goes to its end" if late else "give a part of at least one video frame (33 ms)")
        )
    return excerpt


def sample_range(samples: int, start_s: float, duration_s: float) -> tuple[int, int]:
    """First sample and the one after the last of an excerpt; a duration of 0 goes to the end."""
    start, duration = exact_seconds(start_s), exact_seconds(duration_s)
    first = round(start * units.SAMPLE_RATE_HZ)
    return first, round((start + duration) * units.SAMPLE_RATE_HZ) if duration_s else samples


def phones_within(phones: Sequence[Phone], start: Fraction, duration: Fraction) -> list[Phone]:
    """The phones that sound within [start, start + duration) s, with times from its start and cut at its edges."""
    begin, length = float(start), float(duration)
    shifted = [
        replace(phone, start_s=max(phone.start_s - begin, 0.0), end_s=min(phone.end_s - begin, length))
        for phone in phones
    ]
    return [phone for phone in shifted if phone.start_s < phone.end_s]
