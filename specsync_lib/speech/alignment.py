"""Forced alignment: a known transcript and its audio become phones with times, and phones become a sync plan.

This is the suite's referee: it knows the words and hears the audio, and neither the draft nor the reasoner sees its
result.

Source: PocketSphinx 5.1.1 with its US English model and the CMU pronouncing dictionary (BSD), two passes: words by
``set_align_text``, then phones of the words found by ``set_alignment``.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pocketsphinx

from specsync_lib.errors import InputError
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS
from specsync_lib.visemes import PHONE_TO_VISEME, SyncPlan

FORMAT = 1  # of kept alignments: raised whenever a rule here changes what they say
ALIGNER_FRAMES_PER_SECOND = 100  # 10 ms
# Aligner frame j hears the 410 samples (25.625 ms) from j/100 s on. Where the label changes between two frames, the
# sound changes midway between their centres: half a window less half a hop, 125 samples, after j/100 s. Seen from
# outside, too: without it, /s/ on the human prompts starts and ends a median 11 and 2 ms after its label.
EDGE_DELAY_S = 125 / SAMPLE_RATE_HZ
SHORTEST_AUDIO_S = 0.1
# Tightly cut speech has no silence for the aligner to begin and end in: lend it some, one quantum loud, and take it
# back. A few prompts align only without.
LENT_FRAMES = 20


@dataclass(frozen=True)
class Phone:
    """One speech sound: its label in ARPAbet (from ``align``) or IPA (Piper's), times in seconds, and its word."""

    label: str
    start_s: float
    end_s: float
    word: str


# ---------------------------------------------------------------------------------------------------- text to words

_SPOKEN_SYMBOLS = {
    "#": "pound", "*": "star", "%": "percent", "&": "and", "@": "at", "+": "plus", "=": "equals", "$": "dollars",
    "€": "euros", "£": "pounds", "°": "degrees",
}  # fmt: skip
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_LONGEST_NUMBER = 15  # digits; anything longer is read digit by digit


def number_words(number: int) -> list[str]:
    """A whole number from 0 as English words: 1234 → one thousand two hundred thirty four."""
    if number < 20:
        return [_ONES[number]]
    if number < 100:
        return [_TENS[number // 10], *([_ONES[number % 10]] if number % 10 else [])]
    scale, name = next((scale, name) for scale, name in _SCALES if number >= scale)
    rest = number_words(number % scale) if number % scale else []
    return [*number_words(number // scale), name, *rest]


def _digits_words(digits: str) -> list[str]:
    """A run of digits: a leading zero or a very long run is read digit by digit, 1100 … 1999 in pairs as years are."""
    if len(digits) > _LONGEST_NUMBER or (len(digits) > 1 and digits[0] == "0"):
        return [_ONES[int(digit)] for digit in digits]
    number = int(digits)
    if 1100 <= number <= 1999 and number % 100:
        last = number_words(number % 100) if number % 100 > 9 else ["oh", _ONES[number % 10]]
        return [*number_words(number // 100), *last]
    return number_words(number)


def _ordinal_words(digits: str) -> list[str]:
    *first, last = number_words(int(digits))
    ordinal = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return [*first, ordinal]


_NUMBER = re.compile(
    r"(?P<ordinal>\d{1,15})(?:st|nd|rd|th)\b|(?P<whole>\d{1,3}(?:,\d{3}){1,4}|\d+)(?:\.(?P<decimals>\d+))?"
)


def _spell_numbers(text: str) -> str:
    def words(match: re.Match) -> str:
        if match["ordinal"]:
            return f" {' '.join(_ordinal_words(match['ordinal']))} "
        whole = match["whole"].replace(",", "")
        if match["decimals"]:
            spoken = [*number_words(int(whole)), "point", *(_ONES[int(digit)] for digit in match["decimals"])]
        else:
            spoken = number_words(int(whole)) if "," in match["whole"] else _digits_words(whole)
        return f" {' '.join(spoken)} "

    return _NUMBER.sub(words, text)


def normalise_text(transcript: str) -> list[str]:
    """The spoken words of a transcript, in lower case, as the dictionary writes them where it has them.

    Stage directions in brackets go; numbers, ordinals and symbols become words; abbreviations in capitals or without a
    vowel that no dictionary has are spelled letter by letter.
    """
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>", " ", transcript).replace("’", "'")
    text = re.sub(
        r"\b((?:[A-Za-z]\.)+[A-Za-z])\.?(?![A-Za-z])", lambda m: " ".join(m[1].split(".")), text
    )  # A.M. → A M
    text = re.sub(r"(?<=[A-Za-z0-9])\.(?=[A-Za-z])", " dot ", text)  # a host name's dots are spoken
    text = re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Z])", " ", text)
    for symbol, word in _SPOKEN_SYMBOLS.items():
        text = text.replace(symbol, f" {word} ")
    tokens = re.findall(r"[^\W_]+(?:'[^\W_]+)*'?", _spell_numbers(text))
    return [word for token in tokens for word in _token_words(token)]


def _token_words(token: str) -> list[str]:
    for word in (token.lower(), token.lower().rstrip("'")):
        if in_dictionary(word):
            return [word]
    word = word.replace("'", "")
    is_abbreviation = word.isascii() and (not re.search("[aeiouy]", word) or (token.isupper() and len(token) <= 5))
    return list(word) if is_abbreviation else [word]


# -------------------------------------------------------------------------------------------- words to pronunciations

# Names that the dictionary lacks and the rules below would miss.
PRONUNCIATIONS = {
    "digium": "D IH JH IY AH M", "dahdi": "D AA D IY", "voicemail": "V OY S M EY L", "pbx": "P IY B IY EH K S",
    "misdn": "EH M AY EH S D IY EH N", "www": "D AH B AH L Y UW D AH B AH L Y UW D AH B AH L Y UW",
}  # fmt: skip

# Our own small set of English letter-to-sound rules, longest match first. An aligner needs the sounds about right, not
# the dialect: one pronunciation a spelling, no stress.
_LETTER_SOUNDS = {
    "tion": "SH AH N", "sion": "ZH AH N", "ture": "CH ER", "ough": "AO", "augh": "AO", "eigh": "EY", "igh": "AY",
    "tch": "CH", "dge": "JH", "sch": "SH", "eau": "OW", "ious": "IY AH S", "ous": "AH S",
    "ai": "EY", "ay": "EY", "au": "AO", "aw": "AO", "ea": "IY", "ee": "IY", "ei": "EY", "ey": "IY", "eu": "Y UW",
    "ew": "UW", "ie": "IY", "oa": "OW", "oe": "OW", "oi": "OY", "oy": "OY", "oo": "UW", "ou": "AW", "ow": "OW",
    "ue": "UW", "ui": "UW", "ar": "AA R", "er": "ER", "ir": "ER", "or": "AO R", "ur": "ER", "yr": "ER",
    "ch": "CH", "ck": "K", "gh": "G", "gn": "N", "kn": "N", "mb": "M", "ng": "NG", "nk": "NG K", "ph": "F", "qu": "K W",
    "rh": "R", "sc": "S K", "sh": "SH", "th": "TH", "wh": "W", "wr": "R", "zh": "ZH", "ce": "S EH", "ci": "S IH",
    "cy": "S IY", "ge": "JH EH", "gi": "JH IH", "gy": "JH IY",
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K",
    "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V",
    "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
_LONG_VOWELS = {"a": "EY", "e": "IY", "i": "AY", "o": "OW", "u": "UW", "y": "AY"}
_GRAPHEME = re.compile("|".join(sorted(_LETTER_SOUNDS, key=len, reverse=True)))


def pronounce(word: str) -> str:
    """ARPAbet phones, space-separated, of a lower-case word: the dictionary's first, else ours, else by rule.

    Raises
    ------
    InputError: the word has letters outside a … z, which no rule covers.
    """
    known = _decoder().lookup_word(word) or PRONUNCIATIONS.get(word)
    if known:
        return known
    if not re.fullmatch("[a-z]+", word):
        raise InputError(f"transcript: no pronunciation for the word {word!r}; spell it with the letters a to z")
    spelling = re.sub(r"([bcdfgjklmnprstvz])\1", r"\1", word)  # doubled consonants sound once
    long_vowel = re.fullmatch(r"(.*?)([aeiouy])([bcdfgklmnprstvz])e", spelling)  # the silent e of "made"
    if long_vowel:
        head, vowel, coda = long_vowel.groups()
        coda_sound = {"c": "S", "g": "JH"}.get(coda, _LETTER_SOUNDS[coda])
        return " ".join(filter(None, [_by_rule(head), _LONG_VOWELS[vowel], coda_sound]))
    return _by_rule(spelling)


def _by_rule(spelling: str) -> str:
    return " ".join(_LETTER_SOUNDS[match[0]] for match in _GRAPHEME.finditer(spelling))


# ------------------------------------------------------------------------------------------------------- the aligner


@lru_cache(maxsize=1)
def _decoder() -> pocketsphinx.Decoder:
    """One decoder for the process (it loads in 0.1 s); ``align`` clears what an utterance leaves in its front end."""
    return pocketsphinx.Decoder(lm=None, samprate=SAMPLE_RATE_HZ, loglevel="FATAL")


def in_dictionary(word: str) -> bool:
    """Whether the CMU dictionary of the aligner has the word (lower case)."""
    return _decoder().lookup_word(word) is not None


def align(samples: np.ndarray, transcript: str) -> list[Phone]:
    """Phones of a transcript with their times in a recording.

    samples: [n] float, 16 kHz mono in [-1, 1]. The phones follow each other without gaps from 0 s; pauses, and the
    silence before and after the words, are phones labelled SIL with an empty word. Edges lie on a grid of 10 ms. The
    same input gives the same output, whatever was aligned before.

    Raises
    ------
    InputError: the audio is too short or not finite, the transcript has no spoken word or one that cannot be
    pronounced, or the words cannot be found in the audio.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or samples.size < SHORTEST_AUDIO_S * SAMPLE_RATE_HZ or not np.isfinite(samples).all():
        raise InputError(
            f"alignment: expected at least {SHORTEST_AUDIO_S} s of finite mono samples, got {samples.shape}"
        )
    words = normalise_text(transcript)
    if not words:
        raise InputError(f"alignment: the transcript {transcript!r} has no spoken word; write what is said")
    decoder = _decoder()
    for word in words:
        if not in_dictionary(word):
            decoder.add_word(word, pronounce(word), True)
    for lent_frames in (LENT_FRAMES, 0):
        try:
            if _find_words(decoder, _pcm(samples, lent_frames), words):
                return list(_phones(decoder, lent_frames, samples.size / SAMPLE_RATE_HZ))
        except RuntimeError:  # pocketsphinx's word for a search that reached no end
            continue
    raise InputError(f"alignment: the audio does not contain the words {' '.join(words)[:80]!r}; check the transcript")


def _pcm(samples: np.ndarray, lent_frames: int) -> bytes:
    """16-bit samples between two stretches of lent silence."""
    lent = np.random.default_rng(0).integers(-1, 2, (2, lent_frames * SAMPLE_RATE_HZ // ALIGNER_FRAMES_PER_SECOND))
    speech = (samples.clip(-1, 1) * np.iinfo(np.int16).max).round()
    return np.concatenate([lent[0], speech, lent[1]]).astype("<i2").tobytes()


def _find_words(decoder: pocketsphinx.Decoder, audio: bytes, words: list[str]) -> bool:
    """Both passes; False when the words are not all found in their order."""
    decoder.set_align_text(" ".join(words))
    _hear(decoder, audio)
    found = [re.sub(r"\(\d+\)$", "", segment.word) for segment in decoder.seg()] if decoder.hyp() else []
    if [word for word in found if word in words] != words:
        return False
    decoder.set_alignment()
    _hear(decoder, audio)
    return True


def _hear(decoder: pocketsphinx.Decoder, audio: bytes) -> None:
    decoder.reinit_feat()  # forget the noise estimate of the utterance before
    decoder.start_utt()
    decoder.process_raw(audio, full_utt=True)
    decoder.end_utt()


def _phones(decoder: pocketsphinx.Decoder, lent_frames: int, duration_s: float) -> Iterator[Phone]:
    # Entries point into the live alignment: read each one while its iterator stands on it (a list of them crashes).
    for word in decoder.get_alignment():
        name = re.sub(r"\(\d+\)$", "", word.name)
        for phone in word:
            edges = (phone.start, phone.start + phone.duration)
            start_s, end_s = (
                _edge_s(edge - lent_frames, decoder.n_frames() - 2 * lent_frames, duration_s) for edge in edges
            )
            if start_s < end_s:
                label = "SIL" if phone.name.startswith("+") else phone.name
                yield Phone(label, start_s, end_s, word="" if name.startswith(("<", "[")) else name)


def _edge_s(frame: int, frames: int, duration_s: float) -> float:
    """Time of the edge before an aligner frame; the first edge is the recording's start and the last one its end."""
    if frame <= 0 or frame >= frames:
        return 0.0 if frame <= 0 else duration_s
    return min(frame / ALIGNER_FRAMES_PER_SECOND + EDGE_DELAY_S, duration_s)


# ---------------------------------------------------------------------------------------------------- phones to a plan


def exact_seconds(seconds: float) -> Fraction:
    """The rational that a time stands for: the nearest with a denominator up to a million.

    A float cannot hold 0.55 s; the boundary at 55/100 s and the frame centre at 33/60 s are the same instant, and which
    side a frame falls on must not hang on a rounding error. Sample clocks up to 1 MHz are exact.
    """
    return Fraction(seconds).limit_denominator(1_000_000)


def phone_at_frames(phones: Sequence[Phone], frames: int) -> list[Phone | None]:
    """The phone under the centre (k + 1/2)/30 s of each frame k; a phone covers [start, end); None where there is none.

    Raises
    ------
    InputError: a phone's times are not finite, run backwards, or overlap the phone before.
    """
    covering: list[Phone | None] = [None] * frames
    previous_end = Fraction(0)
    for phone in phones:
        if not (math.isfinite(phone.start_s) and math.isfinite(phone.end_s)):
            raise InputError(
                f"phone {phone.label!r}: times must be finite seconds, got {phone.start_s} … {phone.end_s}"
            )
        start, end = exact_seconds(phone.start_s), exact_seconds(phone.end_s)
        if not previous_end <= start <= end:
            raise InputError(
                f"phone {phone.label!r} at {phone.start_s} … {phone.end_s} s: times must rise without overlap"
            )
        previous_end = end
        first, beyond = (math.ceil(time * VIDEO_FPS - Fraction(1, 2)) for time in (start, end))
        covering[first:beyond] = [phone] * max(0, min(beyond, frames) - first)
    return covering


def plan_from_phones(phones: Sequence[Phone], frames: int) -> SyncPlan:
    """The sync plan of a phone sequence: each frame takes the viseme of the phone at its centre, silence where none is.

    Raises
    ------
    InputError: a label has no viseme, or the times are not those of a sequence (``phone_at_frames``).
    """
    unknown = {phone.label for phone in phones} - PHONE_TO_VISEME.keys()
    if unknown:
        raise InputError(f"phone {min(unknown)!r} has no viseme; known are ARPAbet and Piper's en-us IPA (visemes.py)")
    return SyncPlan.from_names(
        [PHONE_TO_VISEME[phone.label] if phone else "sil" for phone in phone_at_frames(phones, frames)]
    )
