"""Joined files: where one recording ends and the next one begins, and what lies between frames that is no sound.

A demuxer opens the first recording of a chain and loses the later ones where their codec, channels or streams are
others. So each is opened by itself.
"""

import io
import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import BinaryIO

import numpy as np

from specsync_lib.speech.containers import (
    ASF_HEADER,
    MOST_ELEMENTS,
    RIFF_HEADER_BYTES,
    SEGMENT,
    W64_RIFF,
    box,
    element,
    mp3_frame_bytes,
    read_at,
)

# The first page of an Ogg stream; those of one recording's streams stand together.
OGG_FIRST_PAGE = re.compile(rb"OggS\0[\x02\x03\x06\x07]")
OGG_HEADER_BYTES = 27
# What FLAC, FLV, ASF (WMA), W64, CAF and AIFF begin with, and nothing else holds.
STARTS = (
    re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    re.compile(rb"FLV\x01[\x00-\x05]\x00{3}\x09\x00{4}"),
    re.compile(re.escape(ASF_HEADER)),
    re.compile(re.escape(W64_RIFF)),
    re.compile(rb"caff\x00\x01\x00\x00desc"),
    re.compile(rb"FORM.{4}AIF[CF](?:COMM|FVER)", re.DOTALL),
)
WAV_START = re.compile(rb"RIFF.{4}WAVE", re.DOTALL)
MATROSKA_START = re.compile(rb"\x1aE\xdf\xa3.{1,60}?B\x82.(?:webm|matroska)", re.DOTALL)
# A header, and what a segment consists of (RFC 9559, section 5), itself included.
MATROSKA_PART = re.compile(
    rb"\x1aE\xdf\xa3|\x18S\x80g|\x11M\x9bt|\x15I\xa9f|\x16T\xaek|\x1fC\xb6u|\x1cS\xbbk|\x19A\xa4i|\x10C\xa7p|\x12T\xc3g"
)
FILLING, MOST_FILLINGS = b"\xec", 8
FRAGMENT_HEAD_BYTES = 16_384  # more than an index without samples and the first fragment's own
ID3_TAG = re.compile(rb"ID3[\x02-\x04]\x00[\x00-\xff][\x00-\x7f]{4}")
ID3_HEADER_BYTES = 10
MP3_TABLE = re.compile(rb"Xing|Info")
MOST_LINKS = 1_000  # recordings in one file
LONGEST_MARK_BYTES = 128  # more than any of the patterns matches
# A file is searched piece by piece: it may be hours of video. Mapped into memory, one that another program shortens
# meanwhile would end this process.
PIECE_BYTES = 1 << 20
TS_SYNC, TS_PACKET_BYTES = 0x47, (188, 192, 204)
TS_PROBED_PACKETS = 8
PMT_TABLE = 2
# Picture, sections and marks for cutting (ISO/IEC 13818-1, Table 2-34, and what is registered beside it).
NO_SOUND = {0x01, 0x02, 0x05, 0x0D, 0x10, 0x15, 0x1B, 0x20, 0x21, 0x24, 0x33, 0x86, 0xD1, 0xEA}
# Private data is teletext and subtitles too: sound only where a descriptor says so (ETSI EN 300 468, tables 12 and 109:
# AC-3, E-AC-3, DTS, AAC; in the extension DTS-HD and AC-4; the registered names of other sound).
PRIVATE, REGISTRATION, EXTENSION = 0x06, 0x05, 0x7F
SOUND_DESCRIPTORS, SOUND_EXTENSIONS = {0x6A, 0x7A, 0x7B, 0x7C}, {0x0E, 0x15}
SOUND_NAMES = {b"AC-3", b"EAC3", b"DTS1", b"DTS2", b"DTS3", b"Opus", b"BSSD"}


class Stretches(io.RawIOBase):
    """Stretches of a file, read as one file.

    Parameters
    ----------
    file
        Seekable; its position moves.
    stretches
        (begin, end) in bytes, in order.
    """

    def __init__(self, file: BinaryIO, stretches: list[tuple[int, int]]) -> None:
        self._file, self._stretches, self._at = file, stretches, 0
        # Where each begins in the whole, and where the whole ends.
        self._offsets = [0, *accumulate(end - begin for begin, end in stretches)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._offsets[-1]}[whence]
        self._at = max(0, offset + start)
        return self._at

    def readinto(self, buffer: bytearray) -> int:
        if self._at >= self._offsets[-1]:
            return 0
        # By bisection: an MP3 may have a tag before every frame.
        index = bisect_right(self._offsets, self._at) - 1
        begin, left = self._stretches[index][0], self._offsets[index + 1] - self._at
        self._file.seek(begin + self._at - self._offsets[index])
        content = self._file.read(min(len(buffer), left))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def links(file: BinaryIO) -> list[BinaryIO]:
    """The recordings of a file, in order: chained Ogg, joined FLAC, WAV, W64, AIFF, CAF, MP4, Matroska and WebM, FLV,
    ASF, MPEG-TS whose sound goes on in other streams.

    Parameters
    ----------
    file
        On disk, not empty; its position moves.

    Returns
    -------
    The file itself where it is one recording. An MP3 is one, without the tags between its frames: a cover picture in
    them would be taken for damaged sound.
    """
    size = file.seek(0, io.SEEK_END)
    head = read_at(file, 0, TS_PROBED_PACKETS * max(TS_PACKET_BYTES))
    if head.startswith(b"OggS"):
        found = _ogg_links(file)
    elif start := next((one for one in STARTS if one.match(head)), None):
        found = _found(file, start)
    elif MATROSKA_START.match(head):
        found = _matroska_links(file, size)
    elif WAV_START.match(head):
        found = _wav_links(file)
    elif head[4:8] == b"ftyp":
        found = _box_links(file, size)
    elif head.startswith(b"ID3") or mp3_frame_bytes(head[:4]):
        sound = _without_tags(file, size)
        return [file if len(sound) == 1 else Stretches(file, sound)]
    else:
        found = _ts_links(file, head)
    begins = list(islice(found, MOST_LINKS + 1))
    if not 1 < len(begins) <= MOST_LINKS:
        return [file]
    return [Stretches(file, [stretch]) for stretch in zip(begins, [*begins[1:], size], strict=True)]


def _found(file: BinaryIO, pattern: re.Pattern, at: int = 0) -> Iterator[int]:
    """Where a pattern is found from a position on."""
    while piece := read_at(file, at, PIECE_BYTES + LONGEST_MARK_BYTES):
        for found in pattern.finditer(piece):
            if found.start() < PIECE_BYTES:
                yield at + found.start()
        at += PIECE_BYTES


def _wav_links(file: BinaryIO) -> Iterator[int]:
    """Where a WAV stands right behind the end that the one before it states."""
    at = 0
    while WAV_START.match(header := read_at(file, at, RIFF_HEADER_BYTES)):
        yield at
        length = int.from_bytes(header[4:8], "little")
        at += 8 + length + length % 2


def _box_links(file: BinaryIO, size: int) -> Iterator[int]:
    """Where an MP4 or MOV begins again behind one with its index; fragments may repeat theirs, and go on."""
    at, names = 0, set()
    yield 0
    for _ in range(MOST_ELEMENTS):
        name, length = box(file, at)
        if name == b"ftyp" and b"moov" in names and (b"moof" not in names or _from_time_0(file, at)):
            yield at
            names = set()
        names.add(name)
        at += length
        if not length or at >= size:
            return


def _from_time_0(file: BinaryIO, at: int) -> bool:
    """Whether the first fragment behind a position begins at time 0 (tfdt: a version, flags and 4 or 8 bytes)."""
    head = read_at(file, at, FRAGMENT_HEAD_BYTES)
    found = head.find(b"tfdt")
    return found >= 0 and not any(head[found + 8 : found + (16 if head[found + 4] else 12)])


def _ogg_links(file: BinaryIO) -> Iterator[int]:
    """Where first pages stand that do not follow right behind another stream's first page."""
    after = -1
    for at in _found(file, OGG_FIRST_PAGE):
        header = read_at(file, at, OGG_HEADER_BYTES)
        if len(header) < OGG_HEADER_BYTES:
            return
        sizes = read_at(file, at + OGG_HEADER_BYTES, header[-1])
        if at != after:
            yield at
        after = at + OGG_HEADER_BYTES + len(sizes) + sum(sizes)


def _matroska_links(file: BinaryIO, size: int) -> Iterator[int]:
    """Where headers stand that are no part of a segment: one inside is a file that is attached to the recording.

    A segment's stated length is believed where the file or the next recording fits it. Otherwise it was cut off before
    another one was joined on, or never stated its length: its parts are walked through, and behind the last one that
    is whole the next header is searched for.
    """
    at = 0
    for _ in range(MOST_ELEMENTS):
        head = read_at(file, at, LONGEST_MARK_BYTES)
        if MATROSKA_START.match(head):
            yield at
        content, length = element(file, at)
        following = None if length is None else _matroska_part(file, content + length, size)
        if head.startswith(SEGMENT) and content > at and following is None:
            following = content
        if following is None:
            following = next(_found(file, MATROSKA_START, max(content, at + 1)), size)
        if following >= size:
            return
        at = following


def _matroska_part(file: BinaryIO, at: int, size: int) -> int | None:
    """Where the part that a position begins with stands, behind filling; the file's end is one. None: it is none."""
    for _ in range(MOST_FILLINGS):
        if read_at(file, at, 1) != FILLING:
            break
        content, length = element(file, at)
        at = content + (length or 0)
    return at if at == size or MATROSKA_PART.match(read_at(file, at, 4)) else None


def _without_tags(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """The stretches between the ID3v2 tags that stand among MP3 frames; tags that lead are the demuxer's."""
    stretches, begin, after = [], 0, 0
    while ID3_TAG.match(tag := read_at(file, after, ID3_HEADER_BYTES)):
        after += _tag_bytes(tag)
    for at in _found(file, ID3_TAG, after):
        if at < after:
            continue
        end = at + _tag_bytes(read_at(file, at, ID3_HEADER_BYTES))
        following = read_at(file, end, ID3_HEADER_BYTES)
        length = mp3_frame_bytes(following[:4])
        if length or ID3_TAG.match(following):
            stretches.append((begin, at))
            # The first frame of a recording may be its table of contents, which holds no sound either.
            table = MP3_TABLE.search(read_at(file, end, length))
            begin = after = min(end + (length if table else 0), size)
    return [*stretches, (begin, size)]


def _tag_bytes(header: bytes) -> int:
    """Length of the ID3v2 tag that begins with these ten bytes."""
    size = sum(byte << shift for byte, shift in zip(header[6:10], (21, 14, 7, 0), strict=True))
    return ID3_HEADER_BYTES * (2 if header[5] & 0x10 else 1) + size  # a footer repeats the header


def _ts_links(file: BinaryIO, head: bytes) -> Iterator[int]:
    """Where a transport stream's programme maps no longer name any sound that they named before.

    A map that keeps one of its streams goes on: a second language may come and go.
    """
    grids = ((size, start) for size in TS_PACKET_BYTES for start in range(size))
    syncs = bytes([TS_SYNC]) * TS_PROBED_PACKETS
    grid = next(((size, start) for size, start in grids if head[start::size][:TS_PROBED_PACKETS] == syncs), None)
    if grid is None:
        return
    yield 0
    named, table = {}, 0  # named: by the map's PID, since the last link began
    for at, pid, packet in _ts_tables(file, *grid):
        if pid == 0:
            table, sounds, listed = at, set(), _programmes(packet)
            changed = bool(named and listed) and named.keys().isdisjoint(listed)
        else:
            sounds, before = _sounds(packet), named.get(pid, set())
            changed = bool(sounds and before) and sounds.isdisjoint(before)
        if changed:
            yield table
            named = {}
        if sounds:
            named[pid] = named.get(pid, set()) | sounds


def _ts_tables(file: BinaryIO, size: int, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Where a packet begins, its PID and its bytes: those that begin an association table or a map that one names."""
    maps, at = set(), start
    while content := read_at(file, at, PIECE_BYTES // size * size):
        packets = np.frombuffer(content, np.uint8, len(content) // size * size).reshape(-1, size)
        pids = (packets[:, 1] & 0x1F).astype(np.uint16) << 8 | packets[:, 2]
        begins = (packets[:, 0] == TS_SYNC) & (packets[:, 1] & 0x40 > 0)
        maps.update(pid for packet in packets[begins & (pids == 0)] for pid in _programmes(packet.tobytes()))
        for row in np.flatnonzero(begins & np.isin(pids, [0, *maps])):
            yield int(at + row * size), int(pids[row]), packets[row].tobytes()
        at += len(content)


def _table(packet: bytes) -> bytes:
    """The table that begins in a transport packet, without its checksum; empty: not a whole one."""
    at = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
    at += 1 + packet[at] if at < len(packet) else 0
    table = packet[at:188]
    length = 3 + int.from_bytes(table[1:3], "big") % 4096
    return table[: length - 4] if 4 < length <= len(table) else b""


def _programmes(packet: bytes) -> list[int]:
    """The PIDs of the programme maps that a programme association table names."""
    table = _table(packet)
    if not table.startswith(b"\0"):
        return []
    return [
        int.from_bytes(table[at + 2 : at + 4], "big") % 8192
        for at in range(8, len(table) - 3, 4)
        if any(table[at : at + 2])  # 0: the network's
    ]


def _sounds(packet: bytes) -> set[tuple[int, int]]:
    """(type, PID) of the streams in a programme map that may be sound."""
    table, found = _table(packet), set()
    if len(table) < 12 or table[0] != PMT_TABLE:
        return found
    at = 12 + int.from_bytes(table[10:12], "big") % 4096
    while at + 5 <= len(table):
        end = at + 5 + int.from_bytes(table[at + 3 : at + 5], "big") % 4096
        if table[at] not in NO_SOUND and (table[at] != PRIVATE or _describes_sound(table[at + 5 : end])):
            found.add((table[at], int.from_bytes(table[at + 1 : at + 3], "big") % 8192))
        at = end
    return found


def _describes_sound(descriptors: bytes) -> bool:
    """Whether one of a private stream's descriptors is sound's."""
    at = 0
    while at + 2 <= len(descriptors):
        tag, body = descriptors[at], descriptors[at + 2 : at + 2 + descriptors[at + 1]]
        if tag in SOUND_DESCRIPTORS or (tag == REGISTRATION and body[:4] in SOUND_NAMES):
            return True
        if tag == EXTENSION and body[:1] and body[0] in SOUND_EXTENSIONS:
            return True
        at += 2 + descriptors[at + 1]
    return False
