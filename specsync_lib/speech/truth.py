"""The truth of a recording, or why there is none: the referee knows English, and hears whether the words are said."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby

import numpy as np
from jaxtyping import Float

from specsync_lib.errors import InputError
from specsync_lib.speech import alignment
from specsync_lib.speech.alignment import Phone
from specsync_lib.speech.corpus import Prompt, aligned_phones
from specsync_lib.speech.excerpt import phones_within
from specsync_lib.speech.whisper_base import Heard

REFEREE_LANGUAGES = ("en",)  # those of the forced aligner's acoustic model and dictionary


@dataclass(frozen=True)
class Said:
    """What is said in a recording, and when: the truth, or why there is none.

    Attributes
    ----------
    words
        What is said, or believed to be; empty where nobody knows.
    words_from
        given, corpus, whisper or nobody.
    phones
        The aligned sounds; empty where there is no truth.
    absent
        Why there is no truth, in one line; empty where there is.
    """

    words: str
    words_from: str
    phones: Sequence[Phone] = field(default=())
    absent: str = ""


def find_truth(samples: Float[np.ndarray, " n"], transcript: str, heard: Heard) -> Said:
    """The truth of a recording from the words that were given or, without them, from those that Whisper heard.

    Nothing here stops a run: words that are missing, wrong, partial or of a language without a referee give no truth.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono, at level.
    transcript
        The given words; empty for none.
    heard
        From ``whisper_base.hear``.
    """
    words, words_from = (transcript, "given") if transcript else (heard.text, "whisper" if heard.words else "nobody")
    if not words:
        return Said("", "nobody", absent="nobody gave the words, and Whisper hears no speech")
    if heard.language not in REFEREE_LANGUAGES and (heard.words or heard.language_given):
        return Said(words, words_from, absent=f"no referee for this language ({heard.language})")
    try:
        aligned = alignment.truth(samples, words, given=bool(transcript))
    except InputError as error:  # letters that English lacks, or nothing but signs
        return Said(words, words_from, absent=str(error))
    return Said(words, words_from, aligned.phones, aligned.reason.removeprefix("no truth: "))


def prompt_truth(prompt: Prompt, start: Fraction, duration: Fraction) -> Said:
    """The truth of [start, start + duration) s of a corpus prompt, from the alignment of the whole."""
    whole = aligned_phones(prompt)
    phones = phones_within(whole, start, duration)
    said = [word for word, _ in groupby(phone.word for phone in phones) if word]
    return Said(prompt.transcript if len(phones) == len(whole) else " ".join(said), "corpus", phones)
