"""What the reasoner reads (words, times, loudness, the probe's best visemes, as text), and its answers' letters."""

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.speech.words import normalise_text, pronounce
from specsync_lib.visemes import ARPABET_TO_VISEME, VISEME_INDEX

# One letter a viseme, chosen to say what it means; X is the mouth at rest.
VISEME_LETTERS = dict(zip(units.VISEMES, "XPFTDKCSNRAEIOU", strict=True))
WORD_LEAD_FRAMES = 1  # a word is announced this much before its time; Whisper's times are themselves 2 frames early
FRAMES_A_LINE = units.FRAMES_PER_CHUNK  # whatever a chunk holds: the judge reads the same text
SURE = 0.95  # from this probability on the probe's best viseme stands alone
ENERGY_RANGE = (-0.65, 0.6)  # `evaluation.frame_energy` of silence and of loud speech: digits 0 to 9 in equal steps
# More than anyone says in 400 ms; what a broken recogniser adds is left out.
MOST_WORDS_A_CHUNK, MOST_TOKENS_A_WORD, MOST_VISEMES_A_WORD = 8, 8, 16


INSTRUCTION = (
    "You write what a speaker's mouth does, one letter a video frame: X at rest, P lips closed (p b m), F (f v), "
    "T (th), D (t d), K (k g), C (ch sh j), S (s z), N (n l), R (r), A (a), E (e), I (i), O (o), U (u w). Before each "
    "letter stand the loudness (0-9), the letter that a listener heard and, where it is not sure, how sure it is "
    "(tenths) and its second guess. A word in brackets begins there: it lasts that many frames and is spoken with "
    "those letters.\n"
)


class HeardWord(Protocol):
    """What a recogniser gives: `features.Word` is one."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class TimedWord:
    """A word and the frames that it sounds in, both ends included."""

    text: str
    first_frame: int
    last_frame: int


@dataclass(frozen=True)
class ChunkEvidence:
    """What the reasoner is told of a chunk: up to 12 frames.

    Attributes
    ----------
    first_frame : the chunk's first frame.
    words : those that sound in the chunk or begin up to WORD_LEAD_FRAMES after it.
    energy : [frames] int8, a digit 0 to 9.
    probe : [frames, 15] float32, the probe's probabilities; uniform rows say nothing.
    """

    first_frame: int
    words: tuple[TimedWord, ...]
    energy: np.ndarray
    probe: np.ndarray

    def __len__(self) -> int:
        return len(self.energy)

    def without_words(self) -> "ChunkEvidence":
        """The same chunk heard, and nothing known of the words."""
        return replace(self, words=())

    def without_probe(self) -> "ChunkEvidence":
        """The same chunk with a probe that says nothing: words, times and loudness alone."""
        return replace(self, probe=np.full_like(self.probe, 1 / len(units.VISEMES)))


def energy_digits(samples: Float[np.ndarray, " n"], frames: int) -> Int[np.ndarray, " frames"]:
    """Loudness of each frame as a digit 0 (silence) to 9."""
    from specsync_lib.speech.log_mel import frame_energy

    return loudness_digits(frame_energy(samples, frames) if frames else np.zeros(0))


def loudness_digits(loudness: Float[np.ndarray, " frames"]) -> Int[np.ndarray, " frames"]:
    """The digits of frames whose mean log-mel is known (`log_mel.frame_energy`)."""
    low, high = ENERGY_RANGE
    return np.clip(np.floor((loudness - low) / (high - low) * 10), 0, 9).astype(np.int8)


def timed_words(words: Sequence[HeardWord], frames: int) -> list[TimedWord]:
    """Words in the order of their times, on the frames of a recording; blank ones are left out.

    Raises
    ------
    InputError: a time is not a finite number.
    """
    timed = []
    for word in words:
        if not np.isfinite([word.start_s, word.end_s]).all():
            raise InputError(f"word {word.text!r}: times must be finite seconds, got {word.start_s} … {word.end_s}")
        first = min(max(0, int(np.floor(word.start_s * units.VIDEO_FPS))), max(0, frames - 1))
        last = min(max(first, int(np.ceil(word.end_s * units.VIDEO_FPS)) - 1), max(0, frames - 1))
        if word.text.strip():
            timed.append(TimedWord(word.text.strip(), first, last))
    return sorted(timed, key=lambda word: word.first_frame)


def gather_evidence(
    samples: Float[np.ndarray, " n"],
    words: Sequence[HeardWord],
    probe_probabilities: Float[np.ndarray, "frames 15"],
) -> list[ChunkEvidence]:
    """What the reasoner is told of a recording, chunk by chunk.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono in [-1, 1].
    words
        From `features.transcribe`; may be empty.
    probe_probabilities
        [frames, 15], from `draft_evaluation.teacher_plan` or any other listener.

    Raises
    ------
    InputError: the probabilities are not one row of probabilities a frame, or a word's time is not finite.
    """
    frames = units.frame_count(len(samples))
    probe = np.asarray(probe_probabilities, dtype=np.float32)
    if probe.shape != (frames, len(units.VISEMES)):
        raise InputError(f"probe: expected [{frames}, {len(units.VISEMES)}] probabilities, got {list(probe.shape)}")
    # Negated, so that NaN fails too.
    if frames and not ((probe >= 0).all() and (np.abs(probe.sum(axis=1) - 1) < 1e-3).all()):
        raise InputError("probe: expected rows of probabilities that sum to 1, got others; apply a softmax first")
    return chunk_evidence(timed_words(words, frames), energy_digits(samples, frames), probe)


def chunk_evidence(
    words: Sequence[TimedWord],
    energy: Int[np.ndarray, " frames"],
    probe: Float[np.ndarray, "frames 15"],
    chunk_frames: int = units.FRAMES_PER_CHUNK,
) -> list[ChunkEvidence]:
    """Words, digits and probabilities of a whole recording, cut into chunks."""
    chunks = []
    for first in range(0, len(energy), chunk_frames):
        part = slice(first, first + chunk_frames)
        beyond = first + chunk_frames + WORD_LEAD_FRAMES
        near = tuple(word for word in words if word.first_frame < beyond and word.last_frame >= first)
        chunks.append(ChunkEvidence(first, near, energy[part], probe[part]))
    return chunks


class Script:
    """How evidence and plans are spelled in one tokenizer: the alphabet, the digits, and what is said of a word.

    Attributes
    ----------
    alphabet : [15] int64, the token of each viseme.

    Raises
    ------
    InputError: a letter or a digit is not a single token here, or two of them share one.
    """

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        letters = [
            self._single([f" {letter}", letter], f"viseme {viseme}") for viseme, letter in VISEME_LETTERS.items()
        ]
        self.digits = [self._single([str(digit)], f"digit {digit}") for digit in range(10)]
        if len({*letters, *self.digits}) != len(letters) + len(self.digits):
            raise InputError(f"tokenizer of {self._name}: two visemes or digits share a token; choose another model")
        self.alphabet = torch.tensor(letters)
        self._letters = letters
        self._newline, self._open, self._close = (self.encode(mark) for mark in ("\n", "(", ")"))
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.start = [] if start is None else [start]
        self.end = tokenizer.eos_token_id
        self._word_tokens = lru_cache(maxsize=4096)(self._word_tokens)

    @property
    def _name(self) -> str:
        return str(getattr(self._tokenizer, "name_or_path", "") or "this model")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without marks of its beginning or end."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens: what a person, or another engine, would read."""
        return self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    def _single(self, spellings: Sequence[str], meaning: str) -> int:
        for spelling in spellings:
            tokens = self.encode(spelling)
            if len(tokens) == 1 and tokens[0] != self._tokenizer.unk_token_id:
                return tokens[0]
        raise InputError(
            f"tokenizer of {self._name}: {spellings[0]!r} ({meaning}) is not a single token; one frame must be one "
            "token: choose another model"
        )

    def letter(self, viseme: int) -> int:
        """The token of a viseme index."""
        return self._letters[viseme]

    def _word_tokens(self, text: str, frames: int) -> tuple[int, ...]:
        """A word in brackets: its spelling, its length in frames and its visemes."""
        spelled = self.encode(f" {text.lower().strip(string.punctuation)}"[:64])[:MOST_TOKENS_A_WORD]
        length = [self.digits[int(digit)] for digit in str(min(frames, 99))]
        visemes = [self._letters[viseme] for viseme in spoken_visemes(text)]
        return (*self._open, *spelled, *length, *visemes, *self._close)

    def lines(self, evidence: ChunkEvidence, announced: set[tuple[str, int]]) -> list[list[int]]:
        """For each frame the tokens before its plan token; words not in ``announced`` are told, and added to it."""
        lines: list[list[int]] = [[] for _ in range(len(evidence))]
        told = 0
        for word in evidence.words:
            place = max(0, word.first_frame - WORD_LEAD_FRAMES - evidence.first_frame)
            key = (word.text, word.first_frame)
            if place < len(lines) and key not in announced and told < MOST_WORDS_A_CHUNK:
                lines[place] += self._word_tokens(word.text, word.last_frame - word.first_frame + 1)
                announced.add(key)
                told += 1
        for line, frame in zip(lines, range(evidence.first_frame, evidence.first_frame + len(lines)), strict=True):
            if frame % FRAMES_A_LINE == 0:
                line[:0] = self._newline
        two_best = np.argsort(-evidence.probe, axis=1, kind="stable")[:, :2]
        for line, energy, (best, second), row in zip(lines, evidence.energy, two_best, evidence.probe, strict=True):
            tenths = int(10 * row[best])
            line.append(self.digits[energy])
            if row[best] >= SURE:
                line.append(self._letters[best])
            elif tenths:
                line += [self._letters[best], self.digits[tenths], self._letters[second]]
        return lines


@lru_cache(maxsize=8192)
def spoken_visemes(text: str) -> tuple[int, ...]:
    """Viseme indices of a word as the dictionary or the spelling rules pronounce it, none twice in a row.

    Empty for what has no English pronunciation.
    """
    try:
        words = normalise_text(text[:64])
    except InputError:  # letters of another script: the word is told without sounds
        return ()
    visemes: list[int] = []
    for word in words:
        for phone in pronounce(word).split():
            viseme = VISEME_INDEX[ARPABET_TO_VISEME[phone]]
            if visemes[-1:] != [viseme]:
                visemes.append(viseme)
    return tuple(visemes[:MOST_VISEMES_A_WORD])
