"""Sound of any common file to 16 kHz mono, decoded as a stream.

The file is opened here and handed to the demuxer as bytes, so a name is never read as an address, an option or a
command; the demuxers are an allow-list of plain containers, so a playlist can not make it open anything else.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path
from specsync_lib.speech.containers import Cut, cut
from specsync_lib.speech.decoding import Tally, mono_blocks, open_container
from specsync_lib.speech.links import links
from specsync_lib.speech.tracks import Track, ordered, tracks
from specsync_lib.values import LONGEST_S

READABLE = "wav, flac, mp3, m4a, ogg, opus or a video file with sound"
TRUNCATION_TOLERANCE_S = 0.1
# The least share of the sound with which a run goes on.
LEAST_SHARE = 0.5
# Timestamps that would cut more of the sound than this are no clock: segments that all begin at 0, a clock that creeps.
MOST_CUT = 0.25
# A track that never exceeds the last bit but one of 16 is silent.
SILENT_PEAK = 2**-14
# Of several tracks one gives way that is no louder (-60 dB: the hiss of an input with nothing plugged in) or is shorter
# (a recorder's first packet).
FAINT_PEAK, SHORTEST_TRACK_S = 2**-10, 1
# Raw G.722 has no header to recognise: it is taken by its suffix, unless the file begins like a container.
CONTAINER_STARTS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"\x1aE\xdf\xa3")
# What a text begins with, in small letters, without a byte order mark and blank lines before it.
PLAYLIST_STARTS = (b"#ext", b"ffconcat", b"[playlist]", b"<asx", b"<?wpl")
XML_START = b"<?xml"
BIG_ENDIAN_WAV = b"RIFX"  # FFmpeg 8 reads its header and takes its samples for little-endian: noise
PAGE_STARTS = (b"<!doctype", b"<html")
PROTECTED_TAGS = ("drms", "enca", "aavd")
LONGEST_SHOWN_NAME = 200
FLAC_BLOCK_SAMPLES = 4096
# Less silence than this in all is not worth a line: an encoder's delay, a rounded timestamp.
SHOWN_SILENCE_S = 0.1
# Codecs overshoot a little where speech was loud; above this share it was recorded beyond full scale.
SHOWN_CLIPPED = 0.001


@dataclass(frozen=True)
class Recording:
    """Mono speech at 16 kHz.

    Attributes
    ----------
    samples
        [n] float32 in [-1, 1].
    source
        The name to show for it.
    warning
        One line on what was damaged, missing or out of the ordinary; empty for most files.
    """

    samples: np.ndarray
    source: str
    warning: str = ""

    @property
    def duration(self) -> Fraction:
        """Length in seconds, exact."""
        return Fraction(len(self.samples), units.SAMPLE_RATE_HZ)

    @property
    def frame_count(self) -> int:
        """Video frames at 30 fps: round(duration x 30)."""
        return units.frame_count(len(self.samples))


def load_audio(path: str | Path, *, max_seconds: float = LONGEST_S, track: int = 0) -> Recording:
    """Decode a sound or video file of any rate and channel count to 16 kHz mono.

    Sound keeps its time: what is damaged, missing in the timestamps or before a late start is silent for as long.
    Recordings that are joined in one file follow each other (:mod:`specsync_lib.speech.links`); timestamps that would
    cut more than a quarter of the sound are not followed.
    Channels are mixed by what they are for and never cancel (:mod:`specsync_lib.speech.downmix`); samples beyond full
    scale are clipped. The level stays as it is. Memory grows with the result alone.

    Parameters
    ----------
    path
        A local file: wav, flac, mp3, m4a, ogg, opus, raw G.722 (by its suffix) or a video file with sound; ``~`` is
        the home folder.
    max_seconds
        A longer recording is refused.
    track
        Which sound track, from 1; 0: the best that decodes (:mod:`specsync_lib.speech.tracks`).

    Returns
    -------
    Recording of at least one video frame (round(duration x 30) >= 1). Silence is valid.

    Raises
    ------
    InputError
        If the file is missing, is not such a file, has lost more than half of its sound, holds NaN or infinite samples,
        no sound, no such track or less than one video frame, or is longer than ``max_seconds``.
    """
    path, name = local_file(path)
    with _open(path, name) as file:
        start = file.read(64)
        text = start.removeprefix(BOM_UTF8).lstrip().lower()
        if text.startswith(PLAYLIST_STARTS):
            raise InputError(f"{name} is a playlist: give the sound file itself ({READABLE})")
        if text.startswith(XML_START):
            raise InputError(f"{name} is XML (a playlist, or what a failed download left): give the sound file itself")
        if text.startswith(PAGE_STARTS):
            raise InputError(f"{name} is a web page, not the sound it should be: download it again")
        if start.startswith(BIG_ENDIAN_WAV):
            raise InputError(
                f"{name} is a WAV of big-endian samples (RIFX), which is not read here: save it as wav or flac"
            )
        raw_g722 = (
            path.name.lower().endswith(".g722") and not start.startswith(CONTAINER_STARTS) and start[4:8] != b"ftyp"
        )
        missing = None
        try:
            files = [file] if raw_g722 else links(file)
            missing = None if raw_g722 else _cut_last(file, files)
            if missing is not None and missing.share is not None and missing.share < LEAST_SHARE:
                raise InputError(f"{name} is truncated: {missing.reason}; copy or export it again")
            files, found = _from_sound(files, raw_g722)
            if not found:
                raise InputError(f"{name} has no sound: give {READABLE}")
            samples, warning = _first_heard(
                ordered(found, files[0], name, track),
                name,
                lambda one: _decode(files, one, name, max_seconds, missing, raw_g722),
            )
        except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            detail = getattr(error, "strerror", None) or str(error)
            hint = "it is damaged, or no sound; " if missing is None else f"it is truncated: {missing.reason}; "
            if not start[:16].strip(b"\0"):
                hint = "it begins with zeros only, as an unfinished copy or download does; "
            raise InputError(f"{name} cannot be decoded ({detail}): {hint}give {READABLE}") from error
    recording = Recording(samples, shown_name(path.name), warning)
    if recording.frame_count < 1:
        raise InputError(
            f"{name} holds {1000 * float(recording.duration):.2f} ms of sound: give at least one video frame (33 ms)"
        )
    return recording


def local_file(path: str | Path) -> tuple[Path, str]:
    """A path as a person writes it: the file (``~`` expanded unless a file is called so), and the name to show.

    Raises
    ------
    InputError
        It is an address.
    """
    given = str(path)
    name = repr(given if len(given) <= LONGEST_SHOWN_NAME else f"…{given[-LONGEST_SHOWN_NAME:]}")
    path = Path(path)
    try:
        if path.exists():
            return path, name
    except (OSError, ValueError):
        return path, name  # opening it says why
    if re.match(r"[a-z][a-z0-9+.-]+:/", given, re.IGNORECASE):
        raise InputError(f"{name} is an address: download it and give the file")
    try:
        return path.expanduser(), name
    except RuntimeError as error:
        raise InputError(f"{name} begins with ~ and this account has no such home: write the whole path") from error


def shown_name(name: str) -> str:
    """A file's name as text that every encoding can carry: bytes that are no UTF-8 become a replacement sign."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


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


def _from_sound(files: list[BinaryIO], raw_g722: bool) -> tuple[list[BinaryIO], list[Track]]:
    """Joined recordings without the leading ones that hold no sound, and the first one's tracks; none: no sound."""
    for number, file in enumerate(files):
        with open_container(file, raw_g722=raw_g722) as container:
            if found := tracks(container):
                return files[number:], found
    return files, []


def _cut_last(file: BinaryIO, files: list[BinaryIO]) -> Cut | None:
    """Whether the end is missing; of joined recordings the last one's, whose share says nothing of the whole."""
    if len(files) == 1:
        return cut(file)
    missing = cut(files[-1])
    return missing and Cut(f"in the last of its {len(files)} recordings {missing.reason}")


def _first_heard(
    found: list[Track], name: str, decode: Callable[[Track], tuple[np.ndarray, list[str]]]
) -> tuple[np.ndarray, str]:
    """The first track that decodes to sound, [n] float32 in [-1, 1], or else what lacks least; and the warning line.

    Raises
    ------
    InputError
        None decodes: what is wrong with the first.
    """
    refusal = best = first = None
    for track in found:
        try:
            samples, said = decode(track)
        except InputError as error:
            refusal = refusal or error
            continue
        lack, what = _lack(samples)
        first = first or f"its track {track.number} is {what}"
        if best is None or lack < best[0]:
            said = [f"{first}, track {track.number} is taken", *said] if best else said
            best = lack, samples, said
        if not lack:
            break
    if best is None:
        raise refusal
    _, samples, said = best
    return samples, f"{name}: {'; '.join(said)}" if said else ""


def _lack(samples: np.ndarray) -> tuple[int, str]:
    """How much a track [n] lacks to be taken before another, 0: nothing; and what is wrong with it."""
    seconds = len(samples) / units.SAMPLE_RATE_HZ
    peak = max(samples.max(initial=0), -samples.min(initial=0))  # without a copy of an hour
    if peak < SILENT_PEAK:
        return 3, "silent"
    if peak < FAINT_PEAK:
        return 2, "all but silent"
    return int(seconds < SHORTEST_TRACK_S), f"{seconds:.2f} s long"


def _decode(
    files: list[BinaryIO], track: Track, name: str, max_seconds: float, missing: Cut | None, raw_g722: bool
) -> tuple[np.ndarray, list[str]]:
    """One track whole: [n] float32 in [-1, 1], and what is worth a line."""
    for timed in (True, False):
        tally = Tally()
        with open_container(files[0], raw_g722=raw_g722) as container:
            stream = container.streams[track.index]
            samples = _gather(mono_blocks(files, container, stream, name, max_seconds, tally, timed=timed))
            protected = _protected(stream)
        if tally.cut_s <= Fraction(MOST_CUT) * (tally.heard_s + tally.cut_s):
            break
    if missing is None and tally.end_s < tally.promised_s - Fraction(TRUNCATION_TOLERANCE_S):
        reason = f"its header promises {float(tally.promised_s):.2f} s, it holds {float(tally.end_s):.2f} s"
        # A FLAC that ends with a whole frame was cut without encoding it, which leaves the length in its header.
        trimmed = track.codec == "flac" and not tally.failed
        missing = Cut(reason, None if trimmed else float(tally.end_s / tally.promised_s))
    if not tally.heard_s and (tally.failed or missing):
        if protected:
            raise InputError(f"{name} is copy-protected: give a file without protection")
        why = f"is truncated: {missing.reason}" if missing else f"holds {track.codec} sound of which nothing decodes"
        raise InputError(f"{name} {why}; copy or export it again")
    share = float(tally.heard_s / (tally.heard_s + tally.lost_s)) if tally.heard_s else 1.0
    said = _said(tally, missing, timed)
    if share * (1.0 if missing is None or missing.share is None else missing.share) < LEAST_SHARE:
        raise InputError(f"{name}: {'; '.join(said)}: less than half of its sound is left; copy or export it again")
    return np.clip(samples, -1, 1, out=samples), said


def _protected(stream: av.AudioStream) -> bool:
    """Whether the track's tag is one of copy protection; a tag of AVI, WAV or TS is a number and no text at all."""
    try:
        return stream.codec_context.codec_tag in PROTECTED_TAGS
    except UnicodeDecodeError:
        return False


def _gather(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Blocks to one array without a second copy of all of them."""
    held = bytearray()
    for block in blocks:
        held += memoryview(np.ascontiguousarray(block, np.float32)).cast("B")
    return np.frombuffer(held, np.float32)


def _said(tally: Tally, missing: Cut | None, timed: bool) -> list[str]:
    """What is worth a line, in the order in which it weighs."""
    said = []
    cut_last = missing is not None and tally.losses == 1 and tally.lost_at_s + tally.lost_s == tally.end_s
    if tally.unread:
        said.append(f"nothing decodes of {tally.unread} of the {tally.links} recordings that are joined in it")
    if tally.stuck:
        said.append(f"it can not be read on after {float(tally.end_s):.2f} s")
    if tally.lost_s and not cut_last:
        said.append(f"{_places(tally.lost_s, tally.losses, tally.lost_at_s)} do not decode and are silent")
    if missing is not None:
        said.append(f"it is truncated, {missing.reason}")
    if not timed:
        said.append("its timestamps are no clock: its sound is taken in the order in which it comes")
    if tally.cut_s >= SHOWN_SILENCE_S:
        said.append(f"its timestamps overlap: {_places(tally.cut_s, tally.cuts, tally.cut_at_s)} are left out")
    if tally.hole_s >= SHOWN_SILENCE_S:
        said.append(f"its timestamps leave out {_places(tally.hole_s, tally.holes, tally.hole_at_s)}, kept as silence")
    if tally.late_s >= SHOWN_SILENCE_S:
        said.append(f"its sound begins at {float(tally.late_s):.2f} s, kept as silence")
    if tally.dropped_s:
        said.append(f"its sound begins at {float(tally.dropped_s):.2f} s, taken for its start")
    if tally.joints:
        said.append(f"its timestamps jump ({tally.joints} x): taken as recordings that follow each other")
    if tally.opposed_s >= SHOWN_SILENCE_S:
        said.append(
            f"its channels would cancel (opposite in phase, or one late) for {tally.opposed_s:.2f} s, one of them is "
            "heard alone"
        )
    if tally.over_s > SHOWN_CLIPPED * tally.heard_s:
        share = float(tally.over_s / tally.heard_s)
        said.append(f"{share:.1%} of its samples lie beyond full scale and are clipped: export it at a lower level")
    return said


def _places(total_s: Fraction, count: int, first_s: Fraction) -> str:
    places = "one place" if count == 1 else f"{count} places"
    return f"{float(total_s):.2f} s in {places} (first at {float(first_s):.2f} s)"


def write_flac(path: str | Path, samples: np.ndarray) -> None:
    """Write mono 16-bit FLAC, whole or not at all.

    Parameters
    ----------
    path
        The file to write, ending in ``.flac``.
    samples
        [n] floats in [-1, 1] at 16 kHz; what came from 16-bit sound returns bit for bit.
    """
    pcm = np.clip(np.round(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    with atomic_path(path) as temporary, av.open(temporary, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=units.SAMPLE_RATE_HZ, layout="mono")
        for begin in range(0, len(pcm), FLAC_BLOCK_SAMPLES):
            frame = av.AudioFrame.from_ndarray(
                pcm[None, begin : begin + FLAC_BLOCK_SAMPLES], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = units.SAMPLE_RATE_HZ, begin
            frame.time_base = Fraction(1, units.SAMPLE_RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
