"""Packets to mono sound on the file's own clock: what is damaged or missing becomes silence of the same length.

A container's timestamps say where a decoded block belongs. A hole is filled with silence, an overlap is cut, a late
start is kept; a packet that does not decode is skipped and its time counted. Rate, channels and codec may change on the
way.
"""

import contextlib
import errno
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import BinaryIO

import av
import numpy as np
import soxr
from av.stream import Disposition

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.speech import adts
from specsync_lib.speech.downmix import Downmix
from specsync_lib.values import LONGEST_S

# Demuxers of self-contained files: nothing here follows a reference to another file or address.
DEMUXERS = "wav,w64,aiff,au,caf,flac,mp3,aac,ogg,mov,matroska,avi,mpegts,mpeg,asf,flv,amr,wv"
# These count packets instead of telling their time, so a damaged stretch would be left out of the clock.
UNTIMED = {"mp3", "aac", "amr", "g722", "wav", "w64", "aiff", "au", "caf", "avi"}
# Of these the first packet counts from the start that the header states beside the picture's (a skew of the sound).
STATED_START = {"avi"}
# Between their frames lie tags and filling, which are no sound; elsewhere a packet is what the container says it is.
BARE = {"mp3", "aac"}
# Codecs whose frames carry a checksum that the decoder looks at when asked to.
CHECKED = {"flac", "wavpack", "tta"}
# Sound without a break: what its clock leaves out was damaged, never paused.
UNBROKEN = {"flac"}
# In these the header states the length exactly, so a shorter file has lost its end.
EXACT_LENGTH = {"w64", "aiff", "flac"}
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
# Float files may overshoot full scale a little (that is clipped); beyond this they are not scaled to [-1, 1] at all.
HIGHEST_PEAK = 8.0
OVER_FULL_SCALE = 10 ** (1 / 20)
# Timestamps of some containers are whole milliseconds; half a video frame is left to them. Those of live recorders
# jitter by more: a step counts as far as this many blocks after it confirm it.
CLOCK_TOLERANCE_S = Fraction(1, 60)
CONFIRMING_BLOCKS = 6
# A step back of more than this, or a hole longer than that, is a joint of two recordings: they follow each other.
LONGEST_OVERLAP_S, LONGEST_HOLE_S = 1, 600
# Without a picture the clock of these starts at 0. A later first sound than this was cut out of something longer.
FROM_ZERO = ("mov", "matroska")
LATEST_START_S = 10
MOST_DEMUX_ERRORS = 100
# Decoded samples of all channels: an hour of 5.1 at 192 kHz. More is a small file that unpacks without end.
MOST_SAMPLES = 4_200_000_000
SILENT_BLOCK_SAMPLES = 65_536
# What players and taggers write between and behind MP3 frames.
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS", b"3DI", b"Xing", b"Info")


@dataclass
class Tally:
    """What happened on the way, in seconds of the recording.

    Attributes
    ----------
    heard_s
        Sound that decoded.
    failed
        Packets that did not decode, tags and filling apart.
    lost_s, lost_at_s, losses
        Packets that did not decode: how long, where the first one was, how many stretches.
    hole_s, hole_at_s, holes
        The same for what the timestamps leave out.
    late_s
        Silence before the first sound.
    cut_s, cut_at_s, cuts
        What the timestamps place where there was sound already, and is left out.
    dropped_s
        Time before the first sound that is not kept.
    joints
        How often the clock was set anew.
    unread, links
        Of a joined file's recordings: those of which nothing decodes, and all.
    stuck
        Whether the demuxer gave up before the end.
    promised_s
        Length that the header states exactly, 0: none.
    opposed_s
        Sound of which one channel is heard alone because a mix would have cancelled.
    over_s
        Sound that clipping changes by more than a decibel.
    end_s
        Length of the whole, silence included.
    """

    heard_s: Fraction = Fraction(0)
    failed: int = 0
    lost_s: Fraction = Fraction(0)
    lost_at_s: Fraction | None = None
    losses: int = 0
    hole_s: Fraction = Fraction(0)
    hole_at_s: Fraction | None = None
    holes: int = 0
    late_s: Fraction = Fraction(0)
    cut_s: Fraction = Fraction(0)
    cut_at_s: Fraction | None = None
    cuts: int = 0
    dropped_s: Fraction = Fraction(0)
    joints: int = 0
    unread: int = 0
    links: int = 1
    stuck: bool = False
    promised_s: Fraction = Fraction(0)
    opposed_s: float = 0.0
    over_s: Fraction = Fraction(0)
    end_s: Fraction = Fraction(0)


def open_container(file: BinaryIO, *, raw_g722: bool = False) -> av.container.InputContainer:
    """Open from the start; neither a name in the file nor an address is ever followed."""
    file.seek(0)
    options = {"format_whitelist": "g722" if raw_g722 else DEMUXERS, "protocol_whitelist": "file"}
    return av.open(_Sought(file), format="g722" if raw_g722 else None, options=options)


class _Sought:
    """A file whose wild seeks (a damaged header's) fail as FFmpeg's own do: an exception would be printed by PyAV."""

    def __init__(self, file: BinaryIO) -> None:
        self._seek, self.read, self.tell = file.seek, file.read, file.tell

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError):
            return -errno.EINVAL


def mono_blocks(
    files: Sequence[BinaryIO],
    container: av.container.InputContainer,
    stream: av.AudioStream,
    name: str,
    max_seconds: float,
    tally: Tally,
    *,
    timed: bool = True,
) -> Iterator[np.ndarray]:
    """Decode one track: [n] float32 blocks at 16 kHz whose sample ``k`` belongs to ``k / 16000`` s.

    Parameters
    ----------
    files
        The recordings that follow each other (:func:`specsync_lib.speech.links.links`), most often one.
    container, stream
        The first of them, freshly opened, and one of its tracks that has a decoder.
    name
        The file's, for errors.
    max_seconds
        A longer recording is refused.
    tally
        Filled on the way, complete after the last block.
    timed
        False: whatever its timestamps say, the sound is taken in the order in which it comes.

    Raises
    ------
    InputError
        An impossible sample rate, NaN or unscaled samples in uncompressed sound, too long.
    """
    clock = _Clock(container, stream, tally, timed)
    sound = _Resampled(name, max_seconds, tally)
    kind = None
    for item, following in _with_following(_decoded(files, container, stream, name, tally)):
        block = None if isinstance(item, av.Packet) else _believed(item, kind, following)
        if block is None:
            clock.skip(item if isinstance(item, av.Packet) else item.packet)
            continue
        kind = block.kind
        silent_s, cut_s = clock.place(block, following, sound.end_s)
        yield from sound.silence(silent_s, block.rate_hz)
        yield from sound.push(block.channels[round(cut_s * block.rate_hz) :], block.names, block.rate_hz)
    yield from sound.silence(clock.rest(sound.end_s), sound.rate_hz)
    yield from sound.finish()
    tally.end_s = sound.end_s


@dataclass(frozen=True)
class _Block:
    """Decoded sound, [n, channels] float32, with its channels' names, its rate, the time that it states, its packet.

    clock: which of a joined file's clocks the time is of.
    """

    channels: np.ndarray
    names: tuple[str, ...]
    rate_hz: int
    time_s: Fraction | None
    packet: av.Packet
    clock: int

    @property
    def kind(self) -> tuple[tuple[str, ...], int]:
        """What changes where another recording was joined on."""
        return self.names, self.rate_hz

    @property
    def seconds(self) -> Fraction:
        return Fraction(len(self.channels), self.rate_hz)


def _decoded(
    files: Sequence[BinaryIO],
    container: av.container.InputContainer,
    stream: av.AudioStream,
    name: str,
    tally: Tally,
) -> Iterator[_Block | av.Packet]:
    """The track's blocks, and in their place the packets that do not decode; of later recordings the same track."""
    place = _able(container).index(stream)
    tally.links = len(files)
    yield from _decoded_one(files[0], container, stream, name, 0, tally)
    for number, file in enumerate(files[1:], start=1):
        heard = False
        with contextlib.suppress(av.FFmpegError), open_container(file) as later:
            able = _able(later)
            for one in able[place : place + 1] or able[-1:]:
                for item in _decoded_one(file, later, one, name, number, tally):
                    heard = heard or isinstance(item, _Block)
                    yield item
        tally.unread += not heard


def _able(container: av.container.InputContainer) -> list[av.AudioStream]:
    """The sound tracks that have a decoder."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _decoded_one(
    file: BinaryIO,
    container: av.container.InputContainer,
    stream: av.AudioStream,
    name: str,
    number: int,
    tally: Tally,
) -> Iterator[_Block | av.Packet]:
    """The same of one recording, the ``number``-th of the file."""
    if container.format.name in EXACT_LENGTH and stream.duration:
        tally.promised_s += stream.duration * stream.time_base
    # A transport stream's clock goes on where its sound changes its place.
    decode = _Decoder(name, stream, 0 if container.format.name == "mpegts" else number)
    bare = container.format.name == "aac"
    for packet in adts.packets(file, stream) if bare else _packets(container, stream, tally):
        blocks = decode(packet)
        yield from [packet] if blocks is None else blocks


def _believed(block: _Block, kind: tuple | None, following: Iterable) -> _Block | None:
    """A block of another kind than the one before it: itself if the next ones confirm that, None if it is damage.

    The first block of a joined recording may carry the rate of the one before: it gets its own.
    """
    if kind is None or block.kind == kind:
        return block
    kinds = [block.kind, *(later.kind for later in following if isinstance(later, _Block))]
    settled = next((one for one, other in pairwise(kinds) if one == other), kinds[-1])
    if settled == kind:
        return None
    return replace(block, rate_hz=settled[1]) if settled[0] == block.names else block


def _with_following(items: Iterator[_Block | av.Packet]) -> Iterator[tuple[_Block | av.Packet, deque]]:
    """Each item and the few that come after it."""
    window = deque()
    for item in items:
        window.append(item)
        if len(window) > CONFIRMING_BLOCKS:
            yield window.popleft(), window
    while window:
        yield window.popleft(), window


def _packets(container: av.container.InputContainer, stream: av.AudioStream, tally: Tally) -> Iterator[av.Packet]:
    """All packets of a track, the empty one that flushes the decoder last; the demuxer may stumble and go on."""
    errors = 0
    while errors < MOST_DEMUX_ERRORS:
        try:
            yield from container.demux(stream)
            return
        except av.FFmpegError:
            errors += 1
        except IndexError:
            # A packet of a stream that began after the file was opened: PyAV 18.1 looks it up and does not know it.
            continue
    tally.stuck = True


class _Decoder:
    """Packets to blocks of float samples."""

    def __init__(self, name: str, stream: av.AudioStream, clock: int) -> None:
        self._name, self._clock = name, clock
        self._exact = stream.codec_context.name.startswith("pcm_")
        if stream.codec_context.name in CHECKED:
            # Without it a damaged frame comes out as full-scale noise.
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        self._kind: tuple | None = None
        self._names: tuple[str, ...] = ()
        self._to_float: av.AudioResampler | None = None
        self._heard_s = Fraction(0)
        self._samples = 0

    def __call__(self, packet: av.Packet) -> list[_Block] | None:
        """The packet's blocks; None: it does not decode."""
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            return None
        blocks = []
        for frame in frames:
            block = self._block(frame, packet)
            if block is None:
                return None
            blocks.append(block)
        return blocks

    def _block(self, frame: av.AudioFrame, packet: av.Packet) -> _Block | None:
        rate_hz = frame.sample_rate
        if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
            raise InputError(
                f"{self._name} states a sample rate of {rate_hz} Hz: give one between {LOWEST_RATE_HZ} and "
                f"{HIGHEST_RATE_HZ}"
            )
        kind = frame.format.name, frame.layout.name, frame.layout.nb_channels, rate_hz
        if kind != self._kind:
            # Interleaved: PyAV 18.1 reads past the end of a planar frame's pointers from 8 channels on.
            self._kind, self._to_float = kind, av.AudioResampler(format="flt")
            names = tuple(channel.name for channel in frame.layout.channels)
            self._names = names if len(names) == frame.layout.nb_channels else ("",) * frame.layout.nb_channels
        time_s = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        count = frame.layout.nb_channels
        arrays = [part.to_ndarray().reshape(-1, count) for part in self._to_float.resample(frame)]
        channels = np.concatenate(arrays) if arrays else np.zeros((0, count), np.float32)
        peak = np.abs(channels).max(initial=0)
        if not np.isfinite(peak) or peak > HIGHEST_PEAK:
            if not self._exact:
                return None  # a codec's answer to damage
            where = f"near {float(self._heard_s):.2f} s"
            if not np.isfinite(peak):
                raise InputError(f"{self._name} holds NaN or infinite samples {where}: export it again")
            raise InputError(f"{self._name} has samples up to {peak:g} {where}, full scale is 1: scale it to [-1, 1]")
        self._samples += channels.size
        if self._samples > MOST_SAMPLES:
            raise InputError(f"{self._name} unpacks to more than {MOST_SAMPLES} samples: cut it, or lower its rate")
        self._heard_s += Fraction(len(channels), rate_hz)
        return _Block(channels, self._names, rate_hz, time_s, packet, self._clock)


class _Clock:
    """Where the next block belongs, by the container's timestamps or, where it has none, by what was skipped."""

    def __init__(
        self, container: av.container.InputContainer, stream: av.AudioStream, tally: Tally, timed: bool
    ) -> None:
        self._timed = timed and container.format.name not in UNTIMED
        self._unbroken = container.format.name in UNBROKEN
        self._bare = container.format.name in BARE
        self._stated = container.format.name in STATED_START
        self._zero_s = _presentation_start(container, stream) if self._timed else Fraction(0)
        self._tally = tally
        if self._timed and self._zero_s and container.format.name.startswith("mov") and not container.streams.video:
            tally.dropped_s = max(self._zero_s, Fraction(0))
        self._started = self._cutting = False
        self._clock = 0
        self._skipped_s = Fraction(0)  # untimed: what the packets since the last sound would have lasted
        self._failed = False  # whether a packet failed since the last sound
        self._failed_end_s: Fraction | None = None
        self._good_bytes = 0.0  # of one packet that decodes, running mean

    def skip(self, packet: av.Packet) -> None:
        """A packet did not decode."""
        if self._timed:
            if packet.pts is not None and packet.duration and self._zero_s is not None:
                self._failed_end_s = (packet.pts + packet.duration) * packet.time_base - self._zero_s
            self._failed = True
            self._tally.failed += 1
            return
        content = bytes(packet)
        if self._bare and (content.startswith(TAGS) or not content.strip(content[:1])):
            return
        self._failed = True
        self._tally.failed += 1
        frame_s = (packet.duration or 0) * packet.time_base
        # One packet may hold many frames that could not be told apart: their number by their bytes.
        whole = adts.frame(content[: adts.HEADER_BYTES])[0] == len(content) or not self._good_bytes
        frames = 1 if whole else max(1, round(len(content) / self._good_bytes))
        self._skipped_s += frames * frame_s

    def place(self, block: _Block, following: Iterable, now_s: Fraction) -> tuple[Fraction, Fraction]:
        """When the sound has reached ``now_s``: silence in s before a block, and what to cut off its start."""
        silent_s = cut_s = Fraction(0)
        if not self._timed:
            late_s = block.time_s if self._stated and not self._started else None
            silent_s = max(self._skipped_s, late_s if late_s and late_s <= LATEST_START_S else 0)
            self._good_bytes = (7 * (self._good_bytes or block.packet.size) + block.packet.size) / 8
        elif block.time_s is not None:
            if self._zero_s is None:
                self._zero_s = block.time_s
            if block.clock != self._clock:
                self._clock, self._zero_s = block.clock, block.time_s - now_s
                self._tally.joints += 1
            lead_s = self._lead_s(block, following, now_s)
            tolerance_s = CLOCK_TOLERANCE_S if self._started else 0
            if lead_s < -LONGEST_OVERLAP_S or lead_s > LONGEST_HOLE_S:
                self._zero_s = block.time_s - now_s
                self._tally.joints += 1
            elif lead_s > tolerance_s:
                silent_s = lead_s
            elif lead_s < -tolerance_s:
                cut_s = min(-lead_s, block.seconds)
        if silent_s:
            self._count(silent_s, now_s)
        if self._started and cut_s:
            self._count_cut(cut_s, now_s)
        self._cutting = bool(cut_s)
        self._started = self._started or cut_s < block.seconds  # what lies before time 0 is no overlap
        self._failed, self._skipped_s, self._failed_end_s = False, Fraction(0), None
        return silent_s, cut_s

    def _lead_s(self, block: _Block, following: Iterable, now_s: Fraction) -> Fraction:
        """How far the timestamps are ahead of the sound, as far as the blocks after this one confirm it."""
        lead_s = block.time_s - self._zero_s - now_s
        if not self._started:
            return lead_s
        at_s = now_s + block.seconds
        for later in following:
            if isinstance(later, av.Packet) or later.clock != block.clock:
                break
            if later.time_s is not None:
                other_s = later.time_s - self._zero_s - at_s
                if abs(other_s - lead_s) > LONGEST_OVERLAP_S:
                    break  # the next hole or joint
                lead_s = (
                    max(min(lead_s, other_s), Fraction(0)) if lead_s > 0 else min(max(lead_s, other_s), Fraction(0))
                )
            at_s += later.seconds
        return lead_s

    def rest(self, now_s: Fraction) -> Fraction:
        """Silence for packets at the end that did not decode: of those that state their time."""
        if self._failed_end_s is None or not 0 < self._failed_end_s - now_s <= LONGEST_HOLE_S:
            return Fraction(0)
        self._count(self._failed_end_s - now_s, now_s)
        return self._failed_end_s - now_s

    def _count_cut(self, cut_s: Fraction, now_s: Fraction) -> None:
        tally = self._tally
        tally.cut_s, tally.cuts = tally.cut_s + cut_s, tally.cuts + (not self._cutting)
        tally.cut_at_s = now_s if tally.cut_at_s is None else tally.cut_at_s

    def _count(self, silent_s: Fraction, now_s: Fraction) -> None:
        tally = self._tally
        if self._failed or (self._unbroken and self._started):
            tally.lost_s, tally.losses = tally.lost_s + silent_s, tally.losses + 1
            tally.lost_at_s = now_s if tally.lost_at_s is None else tally.lost_at_s
        elif not self._started:
            tally.late_s = silent_s
        else:
            tally.hole_s, tally.holes = tally.hole_s + silent_s, tally.holes + 1
            tally.hole_at_s = now_s if tally.hole_at_s is None else tally.hole_at_s


def _presentation_start(container: av.container.InputContainer, stream: av.AudioStream) -> Fraction | None:
    """Time 0 in the container's clock: where picture or sound begins, the first of both; None: with the first block."""
    starts = [
        one.start_time * one.time_base
        for one in (stream, *container.streams.video)
        if one.start_time is not None and not Disposition.attached_pic & one.disposition
    ]
    if not starts:
        return None
    start = min(starts)
    from_zero = container.format.name.startswith(FROM_ZERO) and 0 < start <= LATEST_START_S
    return Fraction(0) if from_zero else start


class _Resampled:
    """Channels at any rate to mono at 16 kHz, its length exact."""

    def __init__(self, name: str, max_seconds: float, tally: Tally) -> None:
        self._name, self._limit_s, self._tally = name, max_seconds, tally
        self.rate_hz = units.SAMPLE_RATE_HZ
        self._names: tuple[str, ...] | None = None
        self._downmix: Downmix | None = None
        self._resampler: soxr.ResampleStream | None = None
        self._before_s = Fraction(0)  # stretches at other rates
        self._taken = 0  # samples of this stretch
        self._given = 0  # samples at 16 kHz in all

    @property
    def end_s(self) -> Fraction:
        """Where the next sample belongs."""
        return self._before_s + Fraction(self._taken, self.rate_hz)

    def push(self, channels: np.ndarray, names: tuple[str, ...], rate_hz: int) -> Iterator[np.ndarray]:
        if not len(channels):
            return
        if self._resampler is None or rate_hz != self.rate_hz:
            yield from self._change_rate(rate_hz)
        if names != self._names:
            yield from self._change_layout(names)
        self._taken += len(channels)
        self._check_length()
        self._tally.heard_s += Fraction(len(channels), rate_hz)
        for mono in self._downmix.push(channels):
            yield self._resample(mono)

    def silence(self, seconds: Fraction, rate_hz: int) -> Iterator[np.ndarray]:
        if not seconds:
            return
        if self._resampler is None:
            yield from self._change_rate(rate_hz)
        count = round(seconds * self.rate_hz)
        self._taken += count
        self._check_length()
        if self._downmix is not None:
            yield from map(self._resample, self._downmix.flush())
        for begin in range(0, count, SILENT_BLOCK_SAMPLES):
            yield self._resample(np.zeros(min(SILENT_BLOCK_SAMPLES, count - begin), np.float32))

    def finish(self) -> Iterator[np.ndarray]:
        """End the stretch: what filters still hold, to the exact length (the filter's own may be a sample off)."""
        if self._resampler is None:
            return
        yield from self._change_layout(())
        end = self.end_s * units.SAMPLE_RATE_HZ
        rest = int(end + Fraction(1, 2)) - self._given
        tail = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)[: max(rest, 0)]
        self._given += max(rest, 0)
        yield np.pad(tail, (0, max(rest - len(tail), 0)))

    def _change_rate(self, rate_hz: int) -> Iterator[np.ndarray]:
        yield from self.finish()
        self._before_s, self._taken, self.rate_hz = self.end_s, 0, rate_hz
        self._resampler = soxr.ResampleStream(rate_hz, units.SAMPLE_RATE_HZ, 1, dtype="float32")

    def _change_layout(self, names: tuple[str, ...]) -> Iterator[np.ndarray]:
        if self._downmix is not None:
            yield from map(self._resample, self._downmix.flush())
            self._tally.opposed_s += self._downmix.opposed_s
        self._names, self._downmix = names, Downmix(names, self.rate_hz) if names else None

    def _resample(self, mono: np.ndarray) -> np.ndarray:
        block = self._resampler.resample_chunk(mono)
        self._given += len(block)
        self._tally.over_s += Fraction(int(np.count_nonzero(np.abs(mono) > OVER_FULL_SCALE)), self.rate_hz)
        return block

    def _check_length(self) -> None:
        if self.end_s > self._limit_s:
            more = "" if self._limit_s >= LONGEST_S else ", or raise max_seconds"
            raise InputError(f"{self._name} is longer than {self._limit_s:g} s: cut it{more}")
