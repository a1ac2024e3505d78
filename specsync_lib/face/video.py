"""Frames and sound to an MP4 whose clocks agree, and back: streamed, atomic, exact in its frame count."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from specsync_lib import units
from specsync_lib.errors import InputError, advice
from specsync_lib.files import atomic_path

# Of a part file: every frame a fragment of its own, on the disk as soon as the next one comes.
PART_OPTIONS = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
CRF = 18  # libx264's quality; lower is better
AUDIO_BLOCK_SAMPLES = 1024  # one AAC frame; anything else would make the encoder re-block and lose the exact end


@dataclass(frozen=True)
class VideoInfo:
    """What a decoder sees in a video file.

    Attributes
    ----------
    frame_count : int
        Decoded pictures.
    width_px, height_px : int
    fps : Fraction
        Nominal rate in the container.
    strictly_rising : bool
        Whether each picture's timestamp lies after the one before it, in presentation order.
    video_end_s, audio_end_s : Fraction
        Where the last picture and the last sample end. ``audio_end_s`` is 0 without sound.
    audio_start_s : Fraction
        Time of the first decoded sample.
    """

    path: Path
    frame_count: int
    width_px: int
    height_px: int
    fps: Fraction
    strictly_rising: bool
    video_end_s: Fraction
    audio_start_s: Fraction
    audio_end_s: Fraction
    codec: str

    @property
    def av_end_difference_ms(self) -> float:
        """End of the sound minus end of the picture, in ms."""
        return float(1000 * (self.audio_end_s - self.video_end_s))


class GrowingVideo:
    """An MP4 that is written while its frames are made, and gets its name when all of them are there.

    Frames go into a *part file* beside the target, ``name.part.mp4``: H.264 alone, in fragments of one frame, so that
    it can be played whenever the writing stops. :meth:`finish` copies the pictures, adds the sound and moves the whole
    to the target; :meth:`stop` closes the part file and leaves it to its last frame. A process that is killed leaves it
    without the last frame at most. Nothing partial ever has the target's name. Memory does not grow with its length.

    Parameters
    ----------
    path : path
        Ends in ``.mp4``.
    preset
        libx264's effort.

    Raises
    ------
    InputError
        A wrong suffix, or a file that cannot be written.
    """

    def __init__(self, path: str | Path, *, preset: str = "veryfast") -> None:
        self.path, self.frame_count = Path(path), 0
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"{path}: videos are MP4 files; give a name that ends in .mp4")
        self.part = self.path.with_name(f"{self.path.stem}.part.mp4")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._disk():
            self._container = av.open(str(self.part), "w", options=PART_OPTIONS)
        # no frame waits for a later one inside the encoder
        options = {"crf": str(CRF), "preset": preset, "tune": "zerolatency"}
        self._picture = self._container.add_stream("libx264", rate=units.VIDEO_FPS, options=options)
        self._picture.pix_fmt = "yuv420p"
        self._picture.codec_context.time_base = Fraction(1, units.VIDEO_FPS)
        self._picture.codec_context.color_range = 1  # limited ("mpeg") range, what every player assumes for yuv420p
        self._size: tuple[int, int] | None = None

    def push(self, frame: np.ndarray) -> None:
        """The next frame [height, width, 3] uint8, of an even size that does not change.

        Raises
        ------
        InputError
            Another frame than that, or the disk is full.
        """
        if self._size is None:
            self._size = self._picture.height, self._picture.width = _even_size(frame, self.path)
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise InputError(
                f"{self.path}: frame {self.frame_count} is {frame.dtype} {frame.shape}, the first "
                f"{(*self._size, 3)}; keep one size"
            )
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        image.pts, image.time_base = self.frame_count, Fraction(1, units.VIDEO_FPS)
        with self._disk():
            self._container.mux(self._picture.encode(image))
        self.frame_count += 1

    def stop(self) -> Path | None:
        """Close the part file, which then plays to the last frame pushed; None, and no file, without a frame."""
        if self._container is not None:
            container, self._container = self._container, None
            with self._disk():
                if self.frame_count:
                    container.mux(self._picture.encode(None))
                container.close()
        if not self.frame_count:
            self.part.unlink(missing_ok=True)
        return self.part if self.frame_count else None

    def finish(self, samples: np.ndarray) -> VideoInfo:
        """Give the frames their sound [n], 16 kHz mono in [-1, 1], and the file its name; the part file goes.

        Raises
        ------
        InputError
            Another number of frames than ``round(duration x 30)``, sound that is not finite, or a full disk.
        """
        expected = _frames_of(samples, self.path)
        if self.frame_count != expected:
            raise InputError(f"{self.path}: {self.frame_count} frames for sound of {expected}; render the whole plan")
        if self.stop() is None:
            raise InputError(f"{self.path}: no frame to encode; check the renderer")
        with (
            self._disk(),
            atomic_path(self.path) as temporary,
            av.open(str(self.part)) as made,
            av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container,
        ):
            _with_sound(made, container, samples)
        self.part.unlink()
        return video_info(self.path)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            why = error.strerror or str(error)
            raise InputError(f"{self.path}: cannot be written ({why}); {advice(error, 'another folder')}") from error


def _with_sound(made, container, samples: np.ndarray) -> None:
    """Copy the pictures of one container into another, and encode sound beside them."""
    picture = container.add_stream_from_template(made.streams.video[0])
    sound = container.add_stream("aac", rate=units.SAMPLE_RATE_HZ, layout="mono")
    sound.bit_rate = 128_000
    blocks = _audio_frames(np.asarray(samples, np.float32))
    block = next(blocks, None)
    for packet in made.demux(video=0):
        if packet.dts is None:  # the end
            continue
        end_s = (packet.pts + packet.duration) * packet.time_base
        packet.stream = picture
        container.mux(packet)
        # sound follows the picture closely, so the muxer never has to hold much of either
        while block is not None and block.pts < end_s * units.SAMPLE_RATE_HZ:
            container.mux(sound.encode(block))
            block = next(blocks, None)
    while block is not None:
        container.mux(sound.encode(block))
        block = next(blocks, None)
    container.mux(sound.encode(None))


def write_video(
    path: str | Path, frames: Iterable[np.ndarray], samples: np.ndarray, *, preset: str = "veryfast"
) -> VideoInfo:
    """Encode frames and sound into an MP4 (H.264 yuv420p, AAC, index first), holding one frame at a time.

    Parameters
    ----------
    path : path
        Ends in ``.mp4``; replaced as a whole or not at all.
    frames : iterable of ndarray [height, width, 3] uint8
        Exactly ``round(duration x 30)`` of them, all of one even size.
    samples : ndarray [n] float
        16 kHz mono, in [-1, 1].
    preset
        libx264's effort.

    Raises
    ------
    InputError
        No samples, NaN, frames too few, too many or of changing or odd size, a wrong suffix. Nothing is left behind.
    """
    expected = _frames_of(samples, path)
    video = GrowingVideo(path, preset=preset)
    try:
        for frame in frames:
            if video.frame_count == expected:
                raise InputError(f"{path}: more than the {expected} frames that the sound lasts; cut the frames to fit")
            video.push(frame)
        if video.frame_count < expected:
            raise InputError(f"{path}: frames ran out after {video.frame_count} of {expected}; render the whole plan")
        return video.finish(samples)
    finally:
        video.stop()
        video.part.unlink(missing_ok=True)


def _frames_of(samples: np.ndarray, path: str | Path) -> int:
    """How many frames a sound lasts."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
        raise InputError(f"{path}: sound must be a finite mono signal, got shape {samples.shape}; check the recording")
    return units.frame_count(len(samples))


def _even_size(frame: np.ndarray, path: Path) -> tuple[int, int]:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.shape[0] % 2 or frame.shape[1] % 2:
        raise InputError(
            f"{path}: frames must be uint8 [even height, even width, 3], got {frame.dtype} {frame.shape}; resize them"
        )
    return frame.shape[0], frame.shape[1]


def _audio_frames(samples: np.ndarray) -> Iterator[av.AudioFrame]:
    for start in range(0, len(samples), AUDIO_BLOCK_SAMPLES):
        block = np.ascontiguousarray(np.clip(samples[None, start : start + AUDIO_BLOCK_SAMPLES], -1, 1))
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = units.SAMPLE_RATE_HZ, start
        frame.time_base = Fraction(1, units.SAMPLE_RATE_HZ)
        yield frame


def video_info(path: str | Path) -> VideoInfo:
    """Decode a whole file and report its counts and clocks; memory does not grow with its length.

    Raises
    ------
    InputError
        The file is missing or holds no picture.
    """
    path = Path(path)
    count, rising, last_pts, audio_start, audio_end = 0, True, None, None, Fraction(0)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: no picture in this file; give a video")
            picture = container.streams.video[0]
            picture.thread_type = "AUTO"
            fps = Fraction(picture.average_rate or 0)
            for frame in container.decode(*container.streams.video[:1], *container.streams.audio[:1]):
                if isinstance(frame, av.VideoFrame):
                    count += 1
                    rising &= last_pts is None or frame.pts > last_pts
                    last_pts = frame.pts
                    last_end = (frame.pts + (frame.duration or 0)) * frame.time_base
                else:
                    start = frame.pts * frame.time_base
                    audio_start = start if audio_start is None else audio_start
                    audio_end = start + Fraction(frame.samples, frame.sample_rate)
            if container.streams.audio and audio_start is not None:
                # the last AAC block is padded; the track's own duration says where a player stops
                track = container.streams.audio[0]
                audio_end = min(audio_end, (track.start_time + track.duration) * track.time_base)
            size = picture.width, picture.height
            codec = picture.codec_context.name
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a video ({error}); give an MP4") from error
    if count == 0:
        raise InputError(f"{path}: no picture could be decoded; give a video")
    return VideoInfo(path, count, *size, fps, rising, last_end, audio_start or Fraction(0), audio_end, codec)


def make_beep_flash_clip(path: str | Path, *, shift_ms: float = 0.0) -> VideoInfo:
    """Four seconds to test by: at every half second past the full one a white picture of 3 frames and a tone of 100 ms.

    ``shift_ms`` delays the sound on purpose, to show that :func:`beep_flash_offset_ms` of measures sees it.
    """
    rate, fps, seconds = units.SAMPLE_RATE_HZ, units.VIDEO_FPS, 4
    samples = np.zeros(seconds * rate, np.float32)
    flash = np.zeros(seconds * fps, bool)
    tone = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(rate // 10) / rate + np.pi / 2)
    for second in range(seconds):
        start = second * rate + rate // 2 + round(shift_ms * rate / 1000)
        samples[start : start + len(tone)] = tone[: len(samples) - start]
        flash[second * fps + fps // 2 :][:3] = True
    return write_video(path, (np.full((180, 320, 3), 255 if lit else 0, np.uint8) for lit in flash), samples)
