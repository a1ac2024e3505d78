"""Quiet speech to the level that the draft and Whisper were made for: a causal gain, the same bits in any chunking.

The gain of a hop (10 ms) comes from the hops before it alone, so nothing waits, and it is exactly 1 for speech at the
level of the corpus. Only what stands out of the background counts as sound: noise and silence are never raised by
themselves.
"""

import math

import numpy as np
from jaxtyping import Float, Float32

from specsync_lib import units

# The level is a slow maximum over hops of sound, in dB re full scale. Measured (data/measurements/level.json): corpus
# median -11.2 (5 to 95 %: -13.8 to -9.6), never below -19.5. Turned down by 10, 20, 30, 40 dB the draft is right in
# 87.1, 86.5, 77.6, 24.9 % of frames (87.3 % as it is); at level in 87.0, 85.8, 80.9, 75.1 %. The gain was chosen for
# the window network (75.2 to 77.9 % at 20 dB); the front, trained down to 25 dB less, would do without it there.
TARGET_DB, UNTOUCHED_DB = -12.0, -22.0
# From -22 to -32 dB the gain grows twice as fast as the level falls; from there on the target is met.
KNEE_SLOPE = 2.0
LARGEST_GAIN_DB = 40.0
# A hop is sound when it is above both: this much over the background, and the hiss of a 16-bit recorder.
OVER_BACKGROUND_DB, HISS_DB = 9.0, -72.0
BACKGROUND_RISE_DB = 0.02  # per hop: 2 dB a second
LOWEST_BACKGROUND_DB = -90.0
# Speech begins softly: the level is believed after this many hops of sound. The corpus is loud after at most 25.
HEARD_HOPS = 30
ATTACK = 0.5  # of the way up to a louder hop
DECAY_DB = 0.01  # per hop of sound: 1 dB a second
PIECE_SAMPLES = 10 * units.SAMPLE_RATE_HZ
RISE = 0.15  # of the way to a higher gain, per hop; a lower gain holds at once
# What a gain would make of a recorder's constant offset is taken out beside it; without a gain nothing is. The running
# mean forgets over this many hops (0.64 s), and this much of it, after the gain, is left to speech itself: by so much
# a voice at level leans to one side without any offset, and what was measured without an offset stays as it is.
OFFSET_HOPS = 64
LEFT_OFFSET = 0.05

_RAMP = (np.arange(1, units.HOP_SAMPLES + 1) / units.HOP_SAMPLES).astype(np.float32)


class StreamingLevel:
    """The gain as a stream: samples in, as many out at once.

    Attributes
    ----------
    largest_gain_db
        The largest gain so far, in dB; 0 if nothing was changed.
    level_db
        How loud the sound is: a slow maximum over hops, dB re full scale.
    heard_hops
        Hops of sound so far.
    """

    def __init__(self) -> None:
        self.largest_gain_db = 0.0
        self.level_db = -math.inf
        self.heard_hops = 0
        self._hop = np.zeros(0)  # [< 160] float64: the beginning of a hop that is not whole yet
        self._from_gain = self._to_gain = np.float32(1)  # at the ends of the present hop
        self._from_offset = self._to_offset = np.float32(0)  # after the gain, to be taken out
        self._mean, self._hops = 0.0, 0  # running, and of how many hops so far
        self._gain_db = 0.0
        self._background_db = math.inf

    def push(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Take samples (16 kHz mono in [-1, 1], any number of them) and give them at level, within [-1, 1]."""
        samples = np.asarray(samples, np.float32)
        levelled = np.empty_like(samples)
        # In pieces, because whole it would take several times its own memory; the bits are the same.
        for begin in range(0, len(samples), PIECE_SAMPLES):
            levelled[begin : begin + PIECE_SAMPLES] = self._push(samples[begin : begin + PIECE_SAMPLES])
        return levelled

    def _push(self, samples: np.ndarray) -> np.ndarray:
        joined = np.concatenate([self._hop, samples])
        whole = len(joined) // units.HOP_SAMPLES
        levels, means = _levels_db(joined[: whole * units.HOP_SAMPLES])
        # Gain and offset at both ends of each hop; within it they go straight from one to the other.
        starts, ends = np.empty((whole + 1, 2), np.float32), np.empty((whole + 1, 2), np.float32)
        for hop in range(whole + 1):
            starts[hop], ends[hop] = (self._from_gain, self._from_offset), (self._to_gain, self._to_offset)
            if hop < whole:
                self._hear(float(levels[hop]), float(means[hop]))
        steps = ends - starts
        place = np.arange(len(self._hop), len(joined))
        hop, within = np.divmod(place, units.HOP_SAMPLES)
        self._hop = joined[whole * units.HOP_SAMPLES :]
        gain, offset = (starts[hop, k] + _RAMP[within] * steps[hop, k] for k in range(2))
        return np.clip(samples * gain - offset, -1, 1)

    def _hear(self, hop_db: float, mean: float) -> None:
        """One hop has ended: gain and offset at the end of the next one."""
        self._background_db = max(min(hop_db, self._background_db + BACKGROUND_RISE_DB), LOWEST_BACKGROUND_DB)
        if hop_db > max(self._background_db + OVER_BACKGROUND_DB, HISS_DB):
            self.heard_hops += 1
            louder = hop_db > self.level_db
            if louder and self.level_db > -math.inf:
                self.level_db += ATTACK * (hop_db - self.level_db)
            else:
                self.level_db = hop_db if louder else self.level_db - DECAY_DB
        wanted_db = _gain_db(self.level_db) if self.heard_hops >= HEARD_HOPS else 0.0
        self._gain_db = min(wanted_db, self._gain_db + RISE * (wanted_db - self._gain_db))
        self.largest_gain_db = max(self.largest_gain_db, self._gain_db)
        self._from_gain, self._to_gain = self._to_gain, np.float32(10 ** (self._gain_db / 20))
        self._hops = min(self._hops + 1, OFFSET_HOPS)
        self._mean += (mean - self._mean) / self._hops
        self._from_offset, self._to_offset = self._to_offset, np.float32(_offset(self._mean, float(self._to_gain)))


def _gain_db(level_db: float) -> float:
    return max(0.0, min(KNEE_SLOPE * (UNTOUCHED_DB - level_db), TARGET_DB - level_db, LARGEST_GAIN_DB))


def _offset(mean: float, gain: float) -> float:
    """What to take off after a gain: all of a large offset from a gain of 2 on, nothing at a gain of 1."""
    return math.copysign(max(0.0, gain * abs(mean) - LEFT_OFFSET), mean) * min(1.0, gain - 1)


def _levels_db(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[hops] level of each hop, a constant offset left out, and its mean; summed in a fixed order, however many."""
    hops = samples.reshape(-1, units.HOP_SAMPLES)
    means = _mean(hops)
    variance = _mean(hops**2) - means**2
    return 10 * np.log10(np.maximum(variance, 1e-12)), means


def _mean(hops: np.ndarray) -> np.ndarray:
    while hops.shape[1] % 2 == 0:
        half = hops.shape[1] // 2
        hops = hops[:, :half] + hops[:, half:]
    total = hops[:, 0]
    for column in range(1, hops.shape[1]):
        total = total + hops[:, column]
    return total / units.HOP_SAMPLES


def at_level(samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """The offline pass: what :class:`StreamingLevel` gives for the whole recording, bit for bit.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono in [-1, 1].

    Returns
    -------
    [n] float32 in [-1, 1]; the samples themselves where they are at level already.
    """
    return StreamingLevel().push(samples)
