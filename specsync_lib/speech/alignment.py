"""Forced alignment: a known transcript and its audio become phones with times, and phones become a sync plan.

This is the suite's referee: it knows the words and hears the audio, and neither the draft nor the reasoner sees its
result.

Source: PocketSphinx 5.1.1 with its US English model and the CMU pronouncing dictionary (BSD). Where a transcript can be
read in several ways, a pass over the grammar of all of them chooses one; then two passes: words by ``set_align_text``,
phones of the words found by ``set_alignment``.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import pocketsphinx

from specsync_lib.errors import InputError
from specsync_lib.speech.words import MOST_PLACE_READINGS, Place, each_place, fits, pronounce
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS
from specsync_lib.visemes import PHONE_TO_VISEME, SyncPlan

FORMAT = 2
ALIGNER_FRAMES_PER_SECOND = 100  # 10 ms
# Aligner frame j hears the 410 samples (25.625 ms) from j/100 s on. Where the label changes between two frames, the
# sound changes midway between their centres: half a window less half a hop, 125 samples, after j/100 s. Seen from
# outside, too: without it, /s/ on the human prompts starts and ends a median 11 and 2 ms after its label.
EDGE_DELAY_S = 125 / SAMPLE_RATE_HZ
SHORTEST_AUDIO_S = 0.1
FRAME_SAMPLES = SAMPLE_RATE_HZ // ALIGNER_FRAMES_PER_SECOND
# Of the range between a recording's quiet and loud frames (5th and 95th percentile), and at most this far under loud.
LOUD_SHARE, LOUD_RANGE_DB = 0.35, 30.0
KEPT_PAUSE_FRAMES = 5  # on both sides of a sound
LONGEST_PIECE_S = 60
SHORTEST_PAUSE_FRAMES = 10
LEAST_FIT, LEAST_FIT_ANYWHERE, FIT_WINDOW_FRAMES = -4.0, -6.2, 80  # nats a frame
MOST_UNSAID, UNSAID_WINDOW_FRAMES = 0.75, 40
NATS_PER_SCORE = 1024 * math.log(1.0001)  # PocketSphinx counts in steps of log 1.0001, shifted right by ten bits
# Tightly cut speech has no silence for the aligner to begin and end in: lend it some, one quantum loud, and take it
# back. A few prompts align only without.
LENT_FRAMES = 20
# Nobody says more: the fastest talkers on record reach eleven. Where the readings of all places have more words than
# MOST_GRAMMAR_WORDS (the decoder takes 5 to 7 KiB for each), every place keeps fewer.
MOST_WORDS_A_SECOND, MOST_FIRST_WORDS = 15, 4  # the latter: times as many in the likeliest readings
MOST_GRAMMAR_WORDS = 40_000


@dataclass(frozen=True)
class Phone:
    """One speech sound: its label in ARPAbet (from ``align``) or IPA (Piper's), times in seconds, and its word."""

    label: str
    start_s: float
    end_s: float
    word: str


@dataclass(frozen=True)
class Alignment:
    """A transcript laid on a recording.

    Attributes
    ----------
    phones : sounds and pauses with their times, from 0 s to the recording's end.
    words : the reading that the recording chose among those of the transcript.
    scores : [aligner frames of 10 ms] log-likelihood in nats of what the words want at each instant, less that of the
        best sound among those in play: 0 fits best. One value a phone.
    unsaid : [whole aligner frames] whether the recording is loud where the words pause.
    """

    phones: list[Phone]
    words: str
    scores: np.ndarray
    unsaid: np.ndarray

    def doubt(self) -> str:
        """Why these words are not what is said, or not all of it; empty where they fit.

        The bounds: the scores' mean is under ``LEAST_FIT``, or that of some ``FIT_WINDOW_FRAMES`` under
        ``LEAST_FIT_ANYWHERE``, or more than ``MOST_UNSAID`` of some ``UNSAID_WINDOW_FRAMES`` is sound that no word
        accounts for. Measured on the three clips of data/clips and every second held-out human prompt from 1.5 s on:
        with their own words none of 48 is doubted, nor in white noise at 20 or 10 dB. Doubted or not found at all, of
        the 41 with four words or more: the words of another recording 39, shuffled 37, the first half alone 41, the
        last half alone 35, three quarters 39, the last one or two words missing 36, three words too many 36. One word
        missing in the middle 12, one word exchanged 5: too little to tell. espeak-ng, whose clean robot voice the model
        has never heard: 4 of 21 right transcripts are doubted.
        """
        if self.scores.mean() < LEAST_FIT:
            return f"the words do not fit the sound (fit {self.scores.mean():.1f}, at least {LEAST_FIT:.1f} expected)"
        frame, worst = _lowest_mean(self.scores, FIT_WINDOW_FRAMES)
        if worst < LEAST_FIT_ANYWHERE:
            at_s = frame / ALIGNER_FRAMES_PER_SECOND
            return (
                f"the words do not fit the sound at {at_s:.1f} s (fit {worst:.1f}, {LEAST_FIT_ANYWHERE:.1f} expected)"
            )
        frame, worst = _lowest_mean(-self.unsaid.astype(float), UNSAID_WINDOW_FRAMES)
        if -worst > MOST_UNSAID:
            return f"something is said at {frame / ALIGNER_FRAMES_PER_SECOND:.1f} s that the words do not contain"
        return ""


@dataclass(frozen=True)
class Truth:
    """What the referee knows of a recording: its phones, or why there are none.

    Attributes
    ----------
    phones : as in ``Alignment``; empty where there is no truth.
    words : the reading that was aligned; empty where there is no truth.
    reason : empty where truth stands, else one line for the person who waits.
    """

    phones: list[Phone]
    words: str
    reason: str = ""


class NotHeardError(InputError):
    """Words that cannot be found in the sound. Neither need be wrong in itself: a run can go on without truth."""


def truth(samples: np.ndarray, transcript: str, given: bool) -> Truth:
    """The truth of a recording, as far as there is one.

    samples: [n] float, 16 kHz mono. given: whether a person gave these words. Words that cannot be found in the sound,
    or fit it too badly (``Alignment.doubt``), leave no truth but a reason. Words that nobody gave (heard by Whisper)
    never raise, whatever is in them.

    Raises
    ------
    InputError: given words cannot be said in English (the message names the letter), or there are none.
    """
    try:
        alignment = align_words(samples, transcript)
        reason = alignment.doubt()
    except InputError as error:
        if given and not isinstance(error, NotHeardError):
            raise
        reason = str(error).partition(";")[0]  # without the advice, which is for those who gave the words
    if reason:
        return Truth([], "", f"no truth: {reason}{'; check the transcript' if given else ''}")
    return Truth(alignment.phones, alignment.words)


# ------------------------------------------------------------------------------------------------------- the aligner


# Beams as wide as these keep every path that a voice unlike the model's training speech may need, for a fifth more
# time. The best path through the lattice would undo that: where beams are wide it often finds none.
_WIDE = {"beam": 1e-120, "pbeam": 1e-120, "wbeam": 1e-100, "bestpath": False}
# usual: the aligner as it comes. patient: for what the usual search loses. choosing: which reading was said; without
# fillers, as every sound of a recording without its pauses must belong to a word. With them the model's broad silence
# takes in short words, and the shortest reading always wins.
TRIED = ("usual", "patient")
_SEARCHES: dict[str, dict] = {"usual": {}, "patient": _WIDE, "choosing": {**_WIDE, "fsgusefiller": False}}


@cache
def _decoder(search: str) -> pocketsphinx.Decoder:
    """One decoder a kind for the process (it loads in 0.1 s); ``_hear`` clears what an utterance leaves behind."""
    return pocketsphinx.Decoder(lm=None, samprate=SAMPLE_RATE_HZ, loglevel="FATAL", **_SEARCHES[search])


def align(samples: np.ndarray, transcript: str) -> list[Phone]:
    """Phones of a transcript with their times in a recording, those of :func:`align_words`; so are its errors."""
    return align_words(samples, transcript).phones


def align_words(samples: np.ndarray, transcript: str) -> Alignment:
    """A transcript laid on a recording, in the reading that fits it best.

    samples: [n] float, 16 kHz mono in [-1, 1]. Where the transcript has several readings (``words.spoken``), the word
    pass searches all of them at once. The phones follow each other without gaps from 0 s; pauses, and the silence
    before and after the words, are phones labelled SIL with an empty word. Edges lie on a grid of 10 ms. The same input
    gives the same output, whatever was aligned before.

    Raises
    ------
    NotHeardError: the words cannot be found in the audio.
    InputError: the audio is too short or not finite, or the transcript has no spoken word or a letter that English
    lacks.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or samples.size < SHORTEST_AUDIO_S * SAMPLE_RATE_HZ or not np.isfinite(samples).all():
        raise InputError(
            f"alignment: expected at least {SHORTEST_AUDIO_S} s of finite mono samples, got {samples.shape}"
        )
    places = _places_within(math.ceil(MOST_WORDS_A_SECOND * samples.size / SAMPLE_RATE_HZ), transcript)
    if not any(place[0] for place in places):
        raise InputError(f"alignment: the transcript {transcript[:80]!r} has no spoken word; write what is said")
    words = _heard_reading(samples, places) or [word for place in places for word in place[0]]
    pieces = [_align_piece(samples, start, end, said) for start, end, said in _pieces(samples, words)]
    phones = [phone for phones, _ in pieces for phone in phones]
    is_pause = np.zeros(samples.size // FRAME_SAMPLES, dtype=bool)
    for phone in phones:
        if not phone.word:
            is_pause[slice(*(round(edge * ALIGNER_FRAMES_PER_SECOND) for edge in (phone.start_s, phone.end_s)))] = True
    scores = np.concatenate([scores for _, scores in pieces])
    return Alignment(phones, " ".join(words), scores, _is_loud(samples) & is_pause)


def _places_within(most_words: int, transcript: str) -> list[Place]:
    """The places of a transcript, refused as soon as even their shortest readings have more words than can be said.

    The words of all readings together are bounded, too: then the likeliest of each place stay.
    """
    found: list[Place] = []
    fewest = first = 0
    for place in each_place(transcript):
        found.append(place)
        fewest, first = fewest + min(map(len, place)), first + len(place[0])
        if fewest > most_words or first > MOST_FIRST_WORDS * most_words:  # a place may say nothing, too
            raise _not_heard([word for one in found[:80] for word in one[0]])
    for most_readings in (MOST_PLACE_READINGS, 8, 4, 2, 1):
        if sum(len(reading) for place in found for reading in place[:most_readings]) <= MOST_GRAMMAR_WORDS:
            break
    return [place[:most_readings] for place in found]


def _lowest_mean(values: np.ndarray, frames: int) -> tuple[int, float]:
    """First frame and mean of the lowest stretch of so many frames, or of all where there are fewer."""
    frames = min(frames, values.size)
    means = np.convolve(values, np.ones(frames) / frames, mode="valid")
    return int(means.argmin()), float(means.min())


def _pieces(samples: np.ndarray, words: list[str]) -> list[tuple[int, int, list[str]]]:
    """Start, end (samples) and words of the pieces in which phones are sought; a short recording is one piece.

    The phone pass keeps a table of all its states at all its frames, 1.6 GiB for four minutes: a long recording is cut
    in its pauses after the word pass, which needs no such table.
    """
    if samples.size <= LONGEST_PIECE_S * SAMPLE_RATE_HZ:
        return [(0, samples.size, words)]
    segments = next(filter(None, (_word_pass(search, samples, LENT_FRAMES, words) for search in TRIED)), None)
    if segments is None:
        raise _not_heard(words)
    pieces, start, said = [], 0, []
    for word, first, last in segments:
        middle = int((first + last) / 2 - LENT_FRAMES) * FRAME_SAMPLES
        is_pause = word is None and last - first >= SHORTEST_PAUSE_FRAMES
        if said and is_pause and middle - start >= LONGEST_PIECE_S * SAMPLE_RATE_HZ / 2:
            pieces.append((start, middle, said))
            start, said = middle, []
        said += [word] if word else []
    return (
        [*pieces, (start, samples.size, said)] if said else [*pieces[:-1], (pieces[-1][0], samples.size, pieces[-1][2])]
    )


def _align_piece(samples: np.ndarray, start: int, end: int, words: list[str]) -> tuple[list[Phone], np.ndarray]:
    """Phones of one piece, in times of the whole recording, and the scores of its aligner frames."""
    for search, lent_frames in ((TRIED[0], LENT_FRAMES), (TRIED[0], 0), (TRIED[1], LENT_FRAMES)):
        if _word_pass(search, samples[start:end], lent_frames, words):
            decoder = _decoder(search)
            decoder.set_alignment()
            try:
                _hear(decoder, _pcm(samples[start:end], lent_frames))
                return _read_phones(decoder, lent_frames, start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ)
            except RuntimeError:  # pocketsphinx's word for a search that reached no end
                continue
    raise _not_heard(words)


def _not_heard(words: Sequence[str]) -> "NotHeardError":
    said = " ".join(words)
    return NotHeardError(f"alignment: the audio does not contain the words {said[:80]!r}; check the transcript")


def _teach(decoder: pocketsphinx.Decoder, words: Iterable[str]) -> None:
    """Add what the decoder's dictionary lacks, spelt by rule; its tables are built anew once, with the last word."""
    missing = sorted({word for word in words if decoder.lookup_word(word) is None})
    for word in missing:
        decoder.add_word(word, pronounce(word), word == missing[-1])


def _pcm(samples: np.ndarray, lent_frames: int) -> bytes:
    """16-bit samples between two stretches of lent silence."""
    lent = np.random.default_rng(0).integers(-1, 2, (2, lent_frames * SAMPLE_RATE_HZ // ALIGNER_FRAMES_PER_SECOND))
    speech = (samples.clip(-1, 1) * np.iinfo(np.int16).max).round()
    return np.concatenate([lent[0], speech, lent[1]]).astype("<i2").tobytes()


def _levels_db(samples: np.ndarray) -> np.ndarray:
    """Level of each whole aligner frame, [n / 160]."""
    frames = samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)


def _is_loud(samples: np.ndarray) -> np.ndarray:
    """Whether each aligner frame, [n / 160], is nearer to the recording's loud frames than to its quiet ones."""
    levels = _levels_db(samples)
    quiet, loud = np.percentile(levels, [5, 95])
    return levels >= max(quiet + LOUD_SHARE * (loud - quiet), loud - LOUD_RANGE_DB)


def _without_pauses(samples: np.ndarray) -> np.ndarray:
    """The recording with every pause cut to ``KEPT_PAUSE_FRAMES``."""
    loud = _is_loud(samples)
    near = np.convolve(loud, np.ones(2 * KEPT_PAUSE_FRAMES + 1), mode="same") > 0
    return samples[: loud.size * FRAME_SAMPLES][np.repeat(near, FRAME_SAMPLES)]


def _heard_reading(samples: np.ndarray, places: Sequence[Place]) -> list[str]:
    """The words of the reading that the recording fits best; empty when there is no choice or it fits none.

    One search of a grammar in which every place branches into its readings, so that its cost grows with their number
    and not with that of their combinations.
    """
    if all(len(place) == 1 for place in places):
        return []
    transitions: list[tuple] = []
    state, new_state = 0, itertools.count(1)
    for place in places:
        end = next(new_state)
        ranks = np.arange(1, len(place) + 1)
        for share, reading in zip(1 / ranks / (1 / ranks).sum(), place, strict=True):
            here = state
            for index, word in enumerate(reading):
                there = end if index == len(reading) - 1 else next(new_state)
                transitions.append((here, there, float(share) if index == 0 else 1.0, word))
                here = there
            if not reading:
                transitions.append((state, end, float(share)))
        state = end
    decoder = _decoder("choosing")
    _teach(decoder, (word for place in places for reading in place for word in reading))
    try:
        decoder.add_fsg("readings", decoder.create_fsg("readings", 0, state, transitions))
        decoder.activate_search("readings")
        _hear(decoder, _pcm(_without_pauses(samples), 0))
    except RuntimeError:
        return []
    heard = (_bare(segment.word) for segment in decoder.seg()) if decoder.hyp() else ()
    words = [word for word in heard if not _is_pause(word)]
    return words if fits(places, words) else []  # a search may end before the last place


def _word_pass(
    search: str, samples: np.ndarray, lent_frames: int, words: list[str]
) -> list[tuple[str | None, int, int]]:
    """Words (None for a pause) with their first and last aligner frame; empty when not all are found in their order."""
    decoder = _decoder(search)
    _teach(decoder, words)
    try:
        decoder.set_align_text(" ".join(words))
        _hear(decoder, _pcm(samples, lent_frames))
    except RuntimeError:  # pocketsphinx's word for a search that reached no end
        return []
    heard = ((_bare(segment.word), segment.start_frame, segment.end_frame) for segment in decoder.seg() or ())
    segments = (
        [(None if _is_pause(word) else word, first, last) for word, first, last in heard] if decoder.hyp() else []
    )
    return segments if [word for word, _, _ in segments if word] == words else []


def _is_pause(word: str) -> bool:
    return word.startswith(("<", "[", "(", "+"))


def _hear(decoder: pocketsphinx.Decoder, audio: bytes) -> None:
    decoder.reinit_feat()  # forget the noise estimate of the utterance before
    decoder.start_utt()
    decoder.process_raw(audio, full_utt=True)
    decoder.end_utt()


def _bare(word: str) -> str:
    """A dictionary entry without the number of its pronunciation: dollars(2) → dollars."""
    return re.sub(r"\(\d+\)$", "", word)


def _read_phones(
    decoder: pocketsphinx.Decoder, lent_frames: int, start_s: float, end_s: float
) -> tuple[list[Phone], np.ndarray]:
    """What a phone pass over the sound from start_s to end_s found, without the frames lent to it."""
    frames = decoder.n_frames() - 2 * lent_frames

    def edge_s(frame: int) -> float:
        """Time of the edge before an aligner frame; the first edge is the piece's start and the last one its end."""
        if frame <= 0 or frame >= frames:
            return start_s if frame <= 0 else end_s
        return min(start_s + frame / ALIGNER_FRAMES_PER_SECOND + EDGE_DELAY_S, end_s)

    phones, scores = [], np.zeros(frames + 2 * lent_frames)
    # Entries point into the live alignment: read each one while its iterator stands on it (a list of them crashes).
    for word in decoder.get_alignment():
        name = _bare(word.name)
        for phone in word:
            edges = (phone.start, phone.start + phone.duration)
            scores[slice(*edges)] = NATS_PER_SCORE * phone.score / max(1, phone.duration)
            phone_start_s, phone_end_s = (edge_s(edge - lent_frames) for edge in edges)
            if phone_start_s < phone_end_s:
                label = "SIL" if phone.name.startswith("+") else phone.name
                phones.append(Phone(label, phone_start_s, phone_end_s, word="" if _is_pause(name) else name))
    return phones, scores[lent_frames : lent_frames + frames]


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
