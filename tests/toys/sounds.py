"""Sound files with every kind of fault, written with PyAV: lost and damaged packets, late starts, several tracks."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from specsync_lib.paths import DATA_DIR
from specsync_lib.speech.audio import load_audio

PICTURE_FPS = 25


def on_time(_: float) -> float:
    """No jitter."""
    return 0.0


def never(_: float) -> bool:
    """No packet."""
    return False


@dataclass(frozen=True)
class Sound:
    """One sound track.

    samples: [n] or [channels, n] floats at ``rate_hz``; lose, spoil: told a packet's time in s, whether it is left out
    or its bytes are overwritten; start_s: what its timestamps begin with; jitter: told the time, what the timestamp is
    off by in s; bit_rate: bits/s, 0: the codec's own choice.
    """

    samples: np.ndarray
    rate_hz: int = 16_000
    codec: str = "aac"
    sample_format: str = "fltp"
    layout: str = "mono"
    language: str = ""
    default: bool = False
    lose: Callable[[float], bool] = never
    spoil: Callable[[float], bool] = never
    start_s: float = 0.0
    jitter: Callable[[float], float] = on_time
    bit_rate: int = 0


def write_sounds(
    path: Path, *sounds: Sound, picture_s: float = 0, options: dict | None = None, attached: bytes = b""
) -> Path:
    """Write tracks into the container that the path's suffix names, with ``picture_s`` of still picture before them.

    attached: a WebM file to attach (Matroska).
    """
    with av.open(str(path), "w", options=options or {}) as container:
        picture = container.add_stream("mpeg4", rate=PICTURE_FPS) if picture_s else None
        streams = [_stream(container, sound) for sound in sounds]
        if picture:
            picture.width = picture.height = 64
            for pts in range(round(picture_s * PICTURE_FPS)):
                image = av.VideoFrame(64, 64, "yuv420p")
                image.pts, image.time_base = pts, Fraction(1, PICTURE_FPS)
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        if attached:
            container.add_attachment("attached.webm", "video/webm", attached)
        for stream, sound in zip(streams, sounds, strict=True):
            for packet in _packets(stream, sound):
                container.mux(packet)
    return path


def _stream(container: av.container.OutputContainer, sound: Sound) -> av.AudioStream:
    stream = container.add_stream(sound.codec, rate=sound.rate_hz, layout=sound.layout, format=sound.sample_format)
    if sound.bit_rate:
        stream.bit_rate = sound.bit_rate
    if sound.language:
        stream.metadata["language"] = sound.language
    stream.disposition = Disposition.default if sound.default else Disposition(0)
    return stream


def _packets(stream: av.AudioStream, sound: Sound) -> list[av.Packet]:
    """Encoded, with the losses that the track asks for; noise in spoilt ones is the same in every run."""
    rng = np.random.default_rng(0)
    channels = np.atleast_2d(sound.samples).astype(np.float32)  # [channels, n]
    frame = av.AudioFrame.from_ndarray(channels.T.reshape(1, -1), format="flt", layout=sound.layout)
    frame.sample_rate, frame.pts, frame.time_base = sound.rate_hz, 0, Fraction(1, sound.rate_hz)
    resampler = av.AudioResampler(
        sound.sample_format, sound.layout, sound.rate_hz, frame_size=stream.codec_context.frame_size or 1024
    )
    packets = []
    for piece in (*resampler.resample(frame), *resampler.resample(None), None):
        for packet in stream.encode(piece):
            time_s = float(packet.pts * packet.time_base)
            if sound.lose(time_s):
                continue
            if sound.spoil(time_s):
                spoilt = av.Packet(rng.bytes(packet.size))
                for name in ("stream", "pts", "dts", "duration", "time_base"):
                    setattr(spoilt, name, getattr(packet, name))
                packet = spoilt
            shift = round((sound.start_s + sound.jitter(time_s)) / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packets.append(packet)
    return packets


def between(start_s: float, end_s: float) -> Callable[[float], bool]:
    """Packets of this time."""
    return lambda time_s: start_s <= time_s < end_s


def id3(size: int, version: int = 3, footer: bool = False) -> bytes:
    """An ID3v2 tag with a picture of so many bytes."""
    frame = b"APIC" + struct.pack(">IH", size, 0) + b"\0image/jpeg\0\3\0" + b"\xff\xd8\xff\xfb\x90\x64" * (size // 6)
    body = frame[: size + 10].ljust(size + 10, b"\0")
    length = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    head = bytes((version, 0, 0x10 if footer else 0)) + length
    return b"ID3" + head + body + (b"3DI" + head if footer else b"")


def speech(name: str = "closures") -> np.ndarray:
    """[n] float32, 16 kHz: one of the shipped clips."""
    return load_audio(DATA_DIR / "clips" / f"{name}.flac").samples


def resampled(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """16 kHz to another rate."""
    import soxr

    return soxr.resample(samples, 16_000, rate_hz)


def lag(samples: np.ndarray, reference: np.ndarray) -> int:
    """Samples by which ``samples`` comes after ``reference``: the peak of their correlation."""
    size = 1 << (len(samples) + len(reference)).bit_length()
    product = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(reference, size))
    at = int(np.fft.irfft(product, size).argmax())
    return at if at < size // 2 else at - size


def level_db(samples: Sequence[float]) -> float:
    """Root mean square in dB re full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


def pink(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise [count] whose power falls with frequency, in [-0.3, 0.3]."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, count)
    return (0.3 * noise / np.abs(noise).max()).astype(np.float32)
