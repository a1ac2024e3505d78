"""Sound as it arrives, cut into the pipeline's chunks: any piece size, gaps, bursts, repeats and jumps of the clock.

A chunk is 12 video frames (3 slots), or 8 or 4. It is complete when the last sample is there that its draft listens to:
52.5 ms after 12 frames' end (the draft's look-ahead; 49.2 to 55.8 ms where a chunk ends within a row of log-mel).
Chunks depend on the samples alone, never on how they came.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from specsync_lib import units
from specsync_lib.errors import InputError

SHORTEST_PIECE_MS, LONGEST_PIECE_MS = 20, 100
LONGEST_GAP_S = 5.0  # more lost or repeated sound than this is no hiccup: the stream ends


@dataclass(frozen=True)
class AudioPiece:
    """Samples (16 kHz mono) and the place of the first one in the stream.

    due_s: when the piece arrives, in seconds from the stream's start; None: as soon as there is room for it.
    """

    first_sample: int
    samples: np.ndarray
    due_s: float | None = None


@dataclass(frozen=True)
class ChunkAudio:
    """The sound that one chunk adds.

    samples: [n] from the last sample that the chunk before listened to, to the last that this one listens to;
    frames: video frames of this chunk, ``size.frames`` but for the last; heard_s: clock time of the last sample's
    arrival; ended: no sound follows; size: of every chunk of the stream.
    """

    index: int
    frames: int
    samples: np.ndarray
    heard_s: float
    ended: bool = False
    size: units.ChunkSize = units.CHUNK

    @property
    def first_frame(self) -> int:
        """Index of the chunk's first video frame in the recording."""
        return self.size.first_frame(self.index)


def samples_for_chunk(index: int, size: units.ChunkSize = units.CHUNK) -> int:
    """Samples from the recording's start that the draft of a whole chunk listens to: look-ahead included."""
    last_frame = size.first_frame(index + 1) - 1
    last_mel_frame = units.centre_mel_frame(last_frame) + units.WINDOW_AHEAD_MEL_FRAMES
    return last_mel_frame * units.HOP_SAMPLES + units.STFT_SAMPLES // 2


def pieces(
    samples: Float[np.ndarray, " n"],
    *,
    pace: Literal["real time", "fast"] = "real time",
    piece_ms: int | None = 40,
    rng: np.random.Generator | None = None,
) -> Iterator[AudioPiece]:
    """A recording as a stream of pieces.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono.
    pace
        ``real time``: a piece is due when its last sample would have been spoken; ``fast``: whenever there is room.
    piece_ms
        Length of a piece; None: random, 20 to 100 ms, drawn from ``rng``.

    Raises
    ------
    InputError: the pace is unknown, the length is outside 20 to 100 ms, or random lengths were asked for without rng.
    """
    if pace not in ("real time", "fast"):
        raise InputError(f"audio pace is {pace!r}: expected 'real time' or 'fast'")
    if piece_ms is None and rng is None:
        raise InputError("audio pieces: random lengths need a generator; give rng, or a length in piece_ms")
    if piece_ms is not None and not SHORTEST_PIECE_MS <= piece_ms <= LONGEST_PIECE_MS:
        raise InputError(f"piece_ms is {piece_ms}: expected {SHORTEST_PIECE_MS} to {LONGEST_PIECE_MS}")
    return _cut(samples, pace, piece_ms, rng)


def _cut(samples: np.ndarray, pace: str, piece_ms: int | None, rng: np.random.Generator | None) -> Iterator[AudioPiece]:
    first = 0
    while first < len(samples):
        length_ms = piece_ms or int(rng.integers(SHORTEST_PIECE_MS, LONGEST_PIECE_MS, endpoint=True))
        piece = samples[first : first + length_ms * units.SAMPLE_RATE_HZ // 1000]
        due_s = (first + len(piece)) / units.SAMPLE_RATE_HZ if pace == "real time" else None
        yield AudioPiece(first, piece, due_s)
        first += len(piece)


class ChunkAssembler:
    """Cuts a stream of pieces into chunks.

    A gap up to LONGEST_GAP_S is filled with silence and a repeat of up to as much is dropped, both counted in
    ``filled_samples`` and ``dropped_samples``; more of either is an error.
    """

    def __init__(self, size: units.ChunkSize = units.CHUNK) -> None:
        self._size = size
        self.filled_samples = self.dropped_samples = 0
        self._waiting: list[np.ndarray] = []  # samples that no chunk has taken
        self._taken = 0  # samples that chunks have taken
        self._heard = 0  # samples heard
        self._next = 0  # the next chunk

    def push(self, piece: AudioPiece, now_s: float) -> list[ChunkAudio]:
        """Take a piece that arrived at ``now_s`` (the pipeline's clock) and return the chunks it completes.

        Raises
        ------
        InputError: the piece is not a row of numbers, or the stream's clock jumped too far.
        """
        samples = np.asarray(piece.samples)
        if samples.ndim != 1 or samples.dtype.kind not in "fiu":
            raise InputError(f"audio: a piece of {samples.dtype} {samples.shape}; give mono samples [n]")
        shift_s = (piece.first_sample - self._heard) / units.SAMPLE_RATE_HZ
        if abs(shift_s) > LONGEST_GAP_S:
            raise InputError(
                f"audio: the source's clock jumped by {shift_s:+.1f} s at {self._heard / units.SAMPLE_RATE_HZ:.1f} s; "
                f"up to {LONGEST_GAP_S:.0f} s is bridged; start the stream again"
            )
        gap = piece.first_sample - self._heard
        if gap > 0:
            self._take(np.zeros(gap, np.float32))
            self.filled_samples += gap
        repeated = min(max(0, -gap), len(samples))
        self.dropped_samples += repeated
        self._take(samples[repeated:])
        chunks = []
        while self._heard >= (until := samples_for_chunk(self._next, self._size)):
            new = self._give(until - self._taken)
            chunks.append(ChunkAudio(self._next, self._size.frames, new, now_s, size=self._size))
            self._next += 1
        return chunks

    def finish(self, now_s: float) -> list[ChunkAudio]:
        """The stream has ended, mid-word or not: the chunks that still hold a video frame."""
        frames = units.frame_count(self._heard)
        chunks = []
        while (left := frames - self._size.first_frame(self._next)) > 0:
            new = self._give(self._heard - self._taken)
            chunks.append(ChunkAudio(self._next, min(left, self._size.frames), new, now_s, True, self._size))
            self._next += 1
        return chunks

    def _take(self, samples: np.ndarray) -> None:
        self._waiting.append(samples)
        self._heard += len(samples)

    def _give(self, count: int) -> Float32[np.ndarray, " {count}"]:
        joined = np.concatenate([np.zeros(0, np.float32), *self._waiting])
        self._waiting = [joined[count:]]
        self._taken += count
        given = joined[:count].astype(np.float32)
        given.flags.writeable = False  # draft and judge hear the same array
        return given
