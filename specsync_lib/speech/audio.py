"""Sound of any common file to 16 kHz mono, decoded as a stream.

The file is opened here and handed to the demuxer as bytes, so a name is never read as an address, an option or a
command; the demuxers are an allow-list of plain containers, so a playlist can not make it open anything else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soxr

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path

READABLE = "wav, flac, mp3, m4a, ogg, opus or a video file with sound"
# Demuxers of self-contained files: nothing here follows a reference to another file or address.
DEMUXERS = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,mov,matroska,avi,mpegts,mpeg,asf,flv,amr,wv"
# In these the header states the length exactly, so a shorter file has lost its end.
EXACT_LENGTH = {"w64", "aiff", "flac", "caf", "mov,mp4,m4a,3gp,3g2,mj2"}
TRUNCATION_TOLERANCE_S = 0.1
# For WAV the decoder hides it: the RIFF header's size is compared with the file's. Writers into a pipe leave a
# placeholder of about 2 or 4 GiB there.
RIFF_TOLERANCE_BYTES, RIFF_PLACEHOLDER_BYTES = 4_096, 0x7FFF0000
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
# Float files may overshoot full scale a little (that is clipped); beyond this they are not scaled to [-1, 1] at all.
HIGHEST_PEAK = 8.0
# Raw G.722 has no header to recognise: it is taken by its suffix, unless the file begins like a container.
CONTAINER_STARTS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"\x1aE\xdf\xa3")
PLAYLIST_STARTS = (b"#EXT", b"ffconcat", b"[playlist]", b"<?xml", b"<asx")
LONGEST_SHOWN_NAME = 200
FLAC_BLOCK_SAMPLES = 4096


@dataclass(frozen=True)
class Recording:
    """Mono speech at 16 kHz.

    Attributes
    ----------
    samples
        [n] float32 in [-1, 1].
    source
        The name to show for it.
    """

    samples: np.ndarray
    source: str

    @property
    def duration(self) -> Fraction:
        """Length in seconds, exact."""
        return Fraction(len(self.samples), units.SAMPLE_RATE_HZ)

    @property
    def frame_count(self) -> int:
        """Video frames at 30 fps: round(duration x 30)."""
        return units.frame_count(len(self.samples))


def load_audio(path: str | Path, *, max_seconds: float = 3600) -> Recording:
    """Decode a sound or video file of any rate and channel count to 16 kHz mono.

    Channels are averaged; samples beyond full scale are clipped. Memory grows with the result alone.

    Parameters
    ----------
    path
        A local file: wav, flac, mp3, m4a, ogg, opus, raw G.722 (by its suffix) or a video file with sound.
    max_seconds
        A longer recording is refused.

    Returns
    -------
    Recording of at least one video frame (round(duration x 30) >= 1). Silence is valid.

    Raises
    ------
    InputError
        If the file is missing, is not such a file, is damaged or truncated, holds NaN or infinite samples, no sound or
        less than one video frame, or is longer than ``max_seconds``.
    """
    given = str(path)
    name = repr(given if len(given) <= LONGEST_SHOWN_NAME else f"…{given[-LONGEST_SHOWN_NAME:]}")
    if re.match(r"[a-z][a-z0-9+.-]+:/", given, re.IGNORECASE):
        raise InputError(f"{name} is an address: download it and give the file")
    path = Path(path)
    with _open(path, name) as file:
        start = file.read(16)
        file.seek(0)
        if start.startswith(PLAYLIST_STARTS):
            raise InputError(f"{name} is a playlist: give the sound file itself ({READABLE})")
        if start.startswith(b"RIFF"):
            _check_riff_size(start, path, name)
        raw_g722 = (
            path.name.lower().endswith(".g722") and not start.startswith(CONTAINER_STARTS) and start[4:8] != b"ftyp"
        )
        # Without these options a demuxer could follow a name inside the file.
        options = {"format_whitelist": "g722" if raw_g722 else DEMUXERS, "protocol_whitelist": "file"}
        try:
            with av.open(file, format="g722" if raw_g722 else None, options=options) as container:
                blocks = list(_mono_blocks(container, name, max_seconds))
        except (av.FFmpegError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            detail = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{name} cannot be decoded ({detail}): give {READABLE}") from error
    samples = np.concatenate(blocks)
    recording = Recording(np.clip(samples, -1, 1, out=samples), path.name)
    if recording.frame_count < 1:
        raise InputError(
            f"{name} holds {1000 * float(recording.duration):.2f} ms of sound: give at least one video frame (33 ms)"
        )
    return recording


def _open(path: Path, name: str) -> BinaryIO:
    try:
        if path.is_dir():
            raise InputError(f"{name} is a directory: give one sound file")
        if not path.exists():
            raise InputError(f"{name} does not exist: check the path")
        if not path.is_file():
            raise InputError(f"{name} is not a regular file: give one sound file")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty: give {READABLE}")
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}): check the path") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not a path ({error}): check it") from error


def _check_riff_size(start: bytes, path: Path, name: str) -> None:
    promised, held = 8 + int.from_bytes(start[4:8], "little"), path.stat().st_size
    if held + RIFF_TOLERANCE_BYTES < promised < RIFF_PLACEHOLDER_BYTES:
        raise InputError(
            f"{name} is truncated: its header promises {promised} bytes, it holds {held}; copy or export it again"
        )


def _mono_blocks(container: av.container.InputContainer, name: str, max_seconds: float) -> Iterator[np.ndarray]:
    """Decode, average the channels and resample, block by block: [n] float32 at 16 kHz."""
    stream = container.streams.best("audio")
    if stream is None:
        raise InputError(f"{name} has no sound: give {READABLE}")
    if stream.codec_context is None:
        raise InputError(f"{name} is in a codec that cannot be decoded here: give {READABLE}")
    rate_hz = stream.codec_context.sample_rate
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise InputError(
            f"{name} states a sample rate of {rate_hz} Hz: give one between {LOWEST_RATE_HZ} and {HIGHEST_RATE_HZ}"
        )
    resampler = soxr.ResampleStream(rate_hz, units.SAMPLE_RATE_HZ, 1, dtype="float32")
    # Interleaved: PyAV 18.1 reads past the end of a planar frame's pointers from 8 channels on.
    to_float = av.AudioResampler(format="flt")
    taken = given = 0  # samples at the file's rate, samples at 16 kHz
    for decoded in container.decode(stream):
        if decoded.sample_rate != rate_hz:
            raise InputError(f"{name} changes its sample rate at {taken / rate_hz:.2f} s: re-encode it at one rate")
        for frame in to_float.resample(decoded):
            channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)  # [n, channels]
            peak = np.abs(channels).max(initial=0)
            if not np.isfinite(peak):
                raise InputError(f"{name} holds NaN or infinite samples near {taken / rate_hz:.2f} s: export it again")
            if peak > HIGHEST_PEAK:
                raise InputError(f"{name} has samples up to {peak:g}, full scale is 1: scale it to [-1, 1]")
            taken += len(channels)
            if taken > max_seconds * rate_hz:
                raise InputError(f"{name} is longer than {max_seconds:g} s: cut it, or raise max_seconds")
            block = resampler.resample_chunk(channels.mean(axis=1))
            given += len(block)
            yield block
    if container.format.name in EXACT_LENGTH and stream.duration is not None:
        promised_s = float(stream.duration * stream.time_base)
        if taken / rate_hz < promised_s - TRUNCATION_TOLERANCE_S:
            raise InputError(
                f"{name} is truncated: its header promises {promised_s:.2f} s, it holds {taken / rate_hz:.2f} s; "
                "copy or export it again"
            )
    # The resampler's tail may be a sample off; the length of the result is exact by definition.
    rest = (2 * taken * units.SAMPLE_RATE_HZ + rate_hz) // (2 * rate_hz) - given
    tail = resampler.resample_chunk(np.zeros(0, np.float32), last=True)[: max(rest, 0)]
    yield np.pad(tail, (0, max(rest - len(tail), 0)))


def write_flac(path: str | Path, samples: np.ndarray, sample_rate_hz: int = units.SAMPLE_RATE_HZ) -> None:
    """Write mono 16-bit FLAC, whole or not at all.

    Parameters
    ----------
    path
        The file to write, ending in ``.flac``.
    samples
        [n] floats in [-1, 1]; what came from 16-bit sound returns bit for bit.
    sample_rate_hz
        Its rate.
    """
    pcm = np.clip(np.round(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    with atomic_path(path) as temporary, av.open(temporary, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=sample_rate_hz, layout="mono")
        for begin in range(0, len(pcm), FLAC_BLOCK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(
                pcm[None, begin : begin + FLAC_BLOCK_SAMPLES], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, begin, Fraction(1, sample_rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
