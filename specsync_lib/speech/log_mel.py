"""What the draft and the reasoner hear: a streaming log-mel, and its band energies."""

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32
from whisper.audio import mel_filters

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.units import centre_mel_frame

if TYPE_CHECKING:
    import pandas as pd

# Whisper clamps its log-mel to (the clip's maximum - 8), which a stream cannot know. Here the maximum is a constant, in
# decades of power: the median over the English corpus' 553 spoken prompts (measured 1.49; 5 to 95 %: 1.14 to 1.71).
REFERENCE_MAXIMUM = 1.5
DYNAMIC_RANGE = 8.0  # decades of power, Whisper's own
POWER_FLOOR = 1e-10  # Whisper's own
OFFLINE_PIECE_SAMPLES = 10 * units.SAMPLE_RATE_HZ
HALF_WINDOW_SAMPLES = units.STFT_SAMPLES // 2


class StreamingLogMel:
    """Whisper's log-mel as a stream: the same samples in any chunking give the same bits.

    Frame ``j`` is centred on ``j/100`` s and needs the 12.5 ms after it. Every step (framing, one FFT a frame, the mel
    bands summed bin by bin, the logarithm) treats a frame by itself and in a fixed order, so that neither the number
    of frames at hand nor a BLAS can change its value. The ends are mirrored, as in Whisper.

    After ``flush`` a new recording may begin.
    """

    def __init__(self) -> None:
        self._samples = np.zeros(0)  # [n] float64: what later frames still need
        self._taken = 0  # samples pushed
        self._given = 0  # frames returned

    def push(self, samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "new_frames 80"]:
        """Take samples (16 kHz mono in [-1, 1], any number of them) and return the frames they complete."""
        self._samples = np.concatenate([self._samples, samples])
        started = self._taken > HALF_WINDOW_SAMPLES
        self._taken += len(samples)
        if self._taken <= HALF_WINDOW_SAMPLES:
            return np.zeros((0, units.MEL_BANDS), np.float32)
        if not started:
            self._mirror_start()
        return self._complete((len(self._samples) - units.STFT_SAMPLES) // units.HOP_SAMPLES + 1)

    def flush(self) -> Float32[np.ndarray, "rest 80"]:
        """End the recording: the last frames, so that ``n`` samples gave ``n // 160`` frames in all."""
        rest = self._taken // units.HOP_SAMPLES - self._given
        if rest > 0:
            if self._taken <= HALF_WINDOW_SAMPLES:
                self._mirror_start()
            needed = (rest - 1) * units.HOP_SAMPLES + units.STFT_SAMPLES
            self._samples = np.pad(self._samples, (0, max(0, needed - len(self._samples))), mode="reflect")
        frames = self._complete(rest)
        self.__init__()
        return frames

    def _mirror_start(self) -> None:
        self._samples = np.pad(self._samples, (HALF_WINDOW_SAMPLES, 0), mode="reflect")

    def _complete(self, count: int) -> Float32[np.ndarray, "count 80"]:
        """The next ``count`` frames; the samples that no later frame needs are dropped."""
        if count <= 0:
            return np.zeros((0, units.MEL_BANDS), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._samples, units.STFT_SAMPLES)
        spectrum = np.fft.rfft(windows[: count * units.HOP_SAMPLES : units.HOP_SAMPLES] * _HANN)  # [count, 201]
        power = spectrum.real**2 + spectrum.imag**2
        mel = np.zeros((count, units.MEL_BANDS))
        for bins, weights in zip(_BAND_BINS, _BAND_WEIGHTS, strict=True):
            mel += power[:, bins] * weights
        self._samples = self._samples[count * units.HOP_SAMPLES :].copy()
        self._given += count
        log_power = np.log10(np.maximum(mel, POWER_FLOOR))
        return _scale(np.maximum(log_power, REFERENCE_MAXIMUM - DYNAMIC_RANGE)).astype(np.float32)


def _scale(log_power: np.ndarray) -> np.ndarray:
    """Whisper's scaling of log10 power to about [-1, 1]."""
    return (log_power + 4) / 4


def _band_tables() -> tuple[np.ndarray, np.ndarray]:
    """Whisper's mel filters as (bins, weights), both [widest band, 80]: the i-th bin of every band and its weight."""
    filters = mel_filters("cpu", units.MEL_BANDS).numpy().astype(np.float64)  # [80, 201]
    first = (filters > 0).argmax(axis=1)
    widest = (filters > 0).sum(axis=1).max()
    bins = np.minimum(first + np.arange(widest)[:, None], filters.shape[1] - 1)
    weights = filters[np.arange(units.MEL_BANDS), bins]
    # A bin counted twice at the upper end would count double.
    weights[1:][bins[1:] == bins[:-1]] = 0
    return bins, weights


_HANN = torch.hann_window(units.STFT_SAMPLES, dtype=torch.float64).numpy()  # [400], periodic
_BAND_BINS, _BAND_WEIGHTS = _band_tables()


def log_mel(samples: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "mel_frames 80"]:
    """The offline pass: what :class:`StreamingLogMel` gives for the whole recording, bit for bit.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono in [-1, 1].

    Returns
    -------
    [n // 160, 80] float32; frame ``j`` is centred on ``j/100`` s. Values are Whisper's ``(log10 power + 4) / 4``, not
    below ``(REFERENCE_MAXIMUM - 8 + 4) / 4``; where a clip's own maximum is REFERENCE_MAXIMUM they are Whisper's.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv 2212.04356, section 2.2;
    openai-whisper's ``log_mel_spectrogram`` and mel filters.
    """
    stream = StreamingLogMel()
    # In pieces, because a spectrum of the whole would take far more memory than its log-mel; the bits are the same.
    pieces = np.split(samples, range(OFFLINE_PIECE_SAMPLES, len(samples), OFFLINE_PIECE_SAMPLES))
    return np.concatenate([*[stream.push(piece) for piece in pieces], stream.flush()])


def measure_stream(samples: Float[np.ndarray, " n"], passes: int) -> "pd.DataFrame":
    """Time the stream, one hop of 160 samples after the other, as live sound would come.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono; at least one hop.
    passes
        How often the recording is streamed, after one pass that only warms up.

    Returns
    -------
    One row a hop: pass_index, hop, latency_ms (from the hop's arrival to its frame; the 12.5 ms of sound that a frame
    needs after its centre come on top).
    """
    import pandas as pd

    hops = np.split(samples, range(units.HOP_SAMPLES, len(samples), units.HOP_SAMPLES))
    rows = []
    for pass_index in range(-1, passes):
        stream = StreamingLogMel()
        for hop, chunk in enumerate(hops):
            begin = time.perf_counter()
            stream.push(chunk)
            rows.append((pass_index, hop, 1000 * (time.perf_counter() - begin)))
    table = pd.DataFrame(rows, columns=["pass_index", "hop", "latency_ms"])
    return table[table["pass_index"] >= 0].reset_index(drop=True)


def energy_envelopes(
    mel: Float32[np.ndarray, "mel_frames 80"], bands: int = 8
) -> Float32[np.ndarray, "mel_frames {bands}"]:
    """Energy over time in a few bands of neighbouring mel filters.

    Parameters
    ----------
    mel
        [mel_frames, 80] from :func:`log_mel`.
    bands
        Number of bands, 1 to 80, as even as can be, low to high.

    Returns
    -------
    [mel_frames, bands] in dB: 10 log10 of the mean mel power in the band (0 dB: mean mel power 1).

    Raises
    ------
    InputError: fewer than 1 band or more than 80.
    """
    if not 1 <= bands <= units.MEL_BANDS:
        raise InputError(f"bands is {bands}: give 1 to {units.MEL_BANDS}")
    power = 10 ** (4 * mel.astype(np.float64) - 4)
    means = [group.mean(axis=1) for group in np.array_split(power, bands, axis=1)]
    return 10 * np.log10(np.stack(means, axis=1)).astype(np.float32)


def frame_energy(samples: Float[np.ndarray, " n"], frames: int) -> Float[np.ndarray, " frames"]:
    """Mean log-mel at the centre of each video frame: loudness in Whisper's scale, silence near -1."""
    loudness = log_mel(samples).mean(axis=1)
    centres = [min(centre_mel_frame(frame), len(loudness) - 1) for frame in range(frames)]
    return loudness[centres]
