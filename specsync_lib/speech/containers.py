"""What a sound file's own bytes say about its end: whether it was cut off, read without decoding anything.

A decoder hides a missing end or guesses a length; the sizes that a container states about itself do neither.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from specsync_lib.speech import adts

# Writers into a pipe leave a placeholder of about 2 or 4 GiB where the size belongs.
RIFF_PLACEHOLDER_BYTES = 0x7FFF0000
# Metadata at the end may be miscounted by this much without any sound being lost.
TOLERANCE_BYTES = 4_096
LARGEST_POSITION = 2**62
# Bytes behind the stated sound that are no chunk: from this share of the file on they are worth a line.
RIFF_HEADER_BYTES, LEAST_BEHIND = 12, 0.1
CHUNK_NAME = re.compile(rb"(?!RIFF)[A-Za-z0-9_ ]{4}")
RF64_STARTS = (b"RF64", b"BW64")  # RIFF whose sizes are 64 bits, in a chunk of their own
W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
AU_PLACEHOLDER_BYTES = 0xFFFFFFFF
CAF_HEADER_BYTES, CAF_CHUNK_BYTES = 8, 12
WAVPACK_HEADER_BYTES = 32
# Bytes of a frame by its mode, the byte that states it included (3GPP TS 26.101 and 26.201; no mode: no sound).
AMR_FRAME_BYTES = {
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6),
}
LARGEST_AMR_BYTES = 2**24  # more than two hours
# Zeros inside the length that an MP3 states: a download that took its room in advance and was stopped.
LEAST_EMPTY_BYTES = 4_096  # no two frames together are as long (1,441 bytes at most)
MOST_ELEMENTS = 1_000_000  # of a file that is walked through
MP3_SEARCH_BYTES, TAIL_BYTES = 65_536, 16_384
CHAIN_FRAMES = 3  # frames that follow each other exactly are no accident
MP3_KBIT_S = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MP3_LOW_KBIT_S = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
OGG_PAGE_BYTES = 65_307  # the largest page that the format allows
SEGMENT = b"\x18\x53\x80\x67"
LARGEST_EBML_HEADER_BYTES = 4_096
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_FIRST_OBJECT, LARGEST_ASF_HEADER_BYTES = 30, 1_048_576
PACK, PROGRAM_END = 0xBA, 0xB9  # start codes of MPEG-PS
LARGEST_PES_BYTES = 65_541


@dataclass(frozen=True)
class Cut:
    """A file without its end: why that is known, and the share of its bytes that is there (None: unknown)."""

    reason: str
    share: float | None = None


def cut(file: BinaryIO) -> Cut | None:
    """Whether a file lost its end, by the sizes and end marks of WAV (RF64, W64), AVI, MP4, Matroska, WebM, Ogg, MP3,
    AAC, CAF, AU, WavPack, AMR, ASF (WMA) and MPEG-PS.

    Parameters
    ----------
    file
        Seekable; its position is kept.

    Returns
    -------
    None where nothing is known to be missing: whole files, other containers, and streams that state no size.
    """
    position = file.tell()
    size = file.seek(0, 2)
    start = read_at(file, 0, 16)
    try:
        if start.startswith(b"RIFF"):
            promised = 8 + int.from_bytes(start[4:8], "little")
            if promised >= RIFF_PLACEHOLDER_BYTES:
                return None
            return _shorter(size, promised) or (_behind_data(file, size) if start[8:12] == b"WAVE" else None)
        if start.startswith(RF64_STARTS):
            return _cut_rf64(file, size)
        if start.startswith(ASF_HEADER):
            return _cut_asf(file, size)
        if start.startswith(b"\0\0\1" + bytes([PACK])):
            return _cut_packs(file, size)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free"):
            return _cut_boxes(file, size)
        if start.startswith(b"\x1aE\xdf\xa3"):
            return _cut_segment(file, size)
        if start.startswith(b"OggS"):
            return _cut_pages(file, size)
        if start.startswith(W64_RIFF):
            return _shorter(size, int.from_bytes(read_at(file, 16, 8), "little"))
        if start.startswith(b"caff"):
            return _cut_chunks(file, size)
        if start.startswith(b".snd"):
            promised = sum(int.from_bytes(start[at : at + 4], "big") for at in (4, 8))
            return _shorter(size, promised) if promised < AU_PLACEHOLDER_BYTES else None
        if start.startswith(b"wvpk"):
            return _cut_wavpack(file, size)
        if start.startswith(b"#!AMR"):
            return _cut_amr(file)
        if adts.frame(start[: adts.HEADER_BYTES])[0]:
            return _cut_chain(file, 0, size, lambda header: adts.frame(header)[0], adts.HEADER_BYTES)
        return _cut_mp3(file, size, start)
    finally:
        file.seek(position)


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Up to so many bytes from a position on; none where no file has one."""
    if position > LARGEST_POSITION:
        return b""  # a length that no file has
    file.seek(position)
    return file.read(count)


def _shorter(size: int, promised: int, tolerance: int = TOLERANCE_BYTES) -> Cut | None:
    if size + tolerance >= promised:
        return None
    return Cut(f"its header promises {promised} bytes, it holds {size}", size / promised)


def _behind_data(file: BinaryIO, size: int) -> Cut | None:
    """WAV: sound goes on behind the length that a recorder stated before it was switched off."""
    at = RIFF_HEADER_BYTES
    for _ in range(MOST_ELEMENTS):
        header = read_at(file, at, 8)
        length = int.from_bytes(header[4:], "little")
        at += 8 + length
        if len(header) < 8 or at > size:
            break
        if header.startswith(b"data"):
            following = read_at(file, at, 5)[at % 2 :]
            behind = size - at
            if length and behind > LEAST_BEHIND * size and not CHUNK_NAME.match(following):
                return Cut(
                    f"its header states {length} bytes of sound, behind which lie {behind} more that are not read"
                )
            break
        at += at % 2
    return None


def _cut_rf64(file: BinaryIO, size: int) -> Cut | None:
    """RF64: the first chunk (ds64) states the bytes of the whole and of the sound; both are written last."""
    if read_at(file, 12, 4) != b"ds64":
        return None
    whole, sound = (int.from_bytes(read_at(file, at, 8), "little") for at in (20, 28))
    if not sound:
        return Cut("its header was never finished, it states no length", 0.0)
    return _shorter(size, 8 + whole)


def _cut_boxes(file: BinaryIO, size: int) -> Cut | None:
    """MP4 and MOV: the boxes of the top level follow each other up to the file's end, the index (moov) among them."""
    position, names = 0, set()
    for _ in range(MOST_ELEMENTS):
        name, length = box(file, position)
        if not length:
            names.add(name)
            break
        position += length
        if position > size and name in (b"mdat", b"moof", b"moov"):
            if b"moof" in names:
                return Cut("it ends in the middle of a fragment")  # of how many nobody says
            return _shorter(size, position, 0) if b"moov" in names else _no_index()
        names.add(name)
    return None if names & {b"moov", b"moof"} else _no_index()


def box(file: BinaryIO, position: int) -> tuple[bytes, int]:
    """Name and length of an MP4's box; 0: it goes up to the file's end, or is none."""
    header = read_at(file, position, 16)
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        length = int.from_bytes(header[8:16], "big")
    return header[4:8], length if length >= 8 else 0


def _no_index() -> Cut:
    return Cut("its index (moov), which is written last, is missing", 0.0)


def _cut_segment(file: BinaryIO, size: int) -> Cut | None:
    """Matroska and WebM: the segment's size, filled to its end, or, where a live recorder left it open, the last
    element's.
    """
    head = read_at(file, 0, LARGEST_EBML_HEADER_BYTES)
    found = head.find(SEGMENT)
    if found < 0:
        return None
    position, length = element(file, found)
    promised = None if length is None else position + length
    if promised is not None and (missing := _shorter(size, promised, 0)):
        return missing
    for _ in range(MOST_ELEMENTS):
        start = position
        if start >= (size if promised is None else promised):
            return None
        position, length = element(file, start)
        if position == start:  # no element: what follows was never written, or something else is appended
            return None if promised is None else _unfilled(file, promised)
        if position > size or (length is not None and position + length > size):
            return Cut("it ends in the middle of a block") if promised is None else None
        # What is left open (a cluster) is walked into.
        position += length or 0
    return None


def element(file: BinaryIO, position: int) -> tuple[int, int | None]:
    """Where an EBML element's content begins and its length, None if it is left open; the same place: no element."""
    header = read_at(file, position, 16)
    if not header or not header[0] & 0xF0:
        return position, None
    name = 9 - header[0].bit_length()
    if len(header) <= name or not header[name]:
        return position, None
    width = 9 - header[name].bit_length()  # the first set bit tells how many bytes the number takes
    open_ended = (1 << 7 * width) - 1
    length = int.from_bytes(header[name : name + width], "big") & open_ended
    return position + name + width, None if length == open_ended else length


def _cut_asf(file: BinaryIO, size: int) -> Cut | None:
    """ASF: its file properties state the bytes of the whole, unless it was sent live."""
    head = read_at(file, 0, LARGEST_ASF_HEADER_BYTES)
    at = ASF_FIRST_OBJECT
    while at + 92 <= len(head):
        length = int.from_bytes(head[at + 16 : at + 24], "little")
        if head.startswith(ASF_FILE_PROPERTIES, at):
            live = head[at + 88] & 1
            return None if live else _shorter(size, int.from_bytes(head[at + 40 : at + 48], "little"))
        at += max(length, 24)
    return None


def _cut_packs(file: BinaryIO, size: int) -> Cut | None:
    """MPEG-PS: its packets state their lengths; the last one is whole. It states no length of its own."""
    tail = read_at(file, max(0, size - 2 * LARGEST_PES_BYTES), 2 * LARGEST_PES_BYTES)
    at = tail.find(b"\0\0\1" + bytes([PACK]))
    while 0 <= at < len(tail):
        head = tail[at : at + 14].ljust(14, b"\0")
        if not head.startswith(b"\0\0\1"):
            return None  # filled up, or something else is appended
        if head[3] == PACK:
            at += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12  # MPEG-2 or MPEG-1
        elif head[3] == PROGRAM_END:
            at += 4
        else:
            at += 6 + int.from_bytes(head[4:6], "big")
    return Cut("it ends in the middle of a packet") if at > len(tail) else None


def _cut_pages(file: BinaryIO, size: int) -> Cut | None:
    """Ogg: the last page is whole and says that it is the last one."""
    start = max(0, size - 2 * OGG_PAGE_BYTES)
    tail = read_at(file, start, 2 * OGG_PAGE_BYTES)
    page = tail.rfind(b"OggS")
    if page < 0:
        return None  # something else is appended: not a cut
    segments = tail[page + 26] if page + 26 < len(tail) else None
    sizes = tail[page + 27 : page + 27 + (segments or 0)]
    whole = segments is not None and len(sizes) == segments and page + 27 + segments + sum(sizes) <= len(tail)
    return None if whole and tail[page + 5] & 4 else Cut("its last page is missing")


def _cut_mp3(file: BinaryIO, size: int, start: bytes) -> Cut | None:
    """MP3: the byte count in the first frame (Xing or Info), or a last frame that is not whole."""
    begin = 0
    if start.startswith(b"ID3"):
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    head = read_at(file, begin, MP3_SEARCH_BYTES)
    frame = head.find(b"\xff")
    if frame < 0 or not mp3_frame_bytes(head[frame : frame + 4]):
        return None
    tag = next((at for name in (b"Xing", b"Info") if (at := head.find(name, frame, frame + 64)) >= 0), None)
    if tag is not None and head[tag + 7] & 2:
        stated = int.from_bytes(head[tag + 8 + 4 * (head[tag + 7] & 1) :][:4], "big")
        return _shorter(size, begin + frame + stated, 0) or _unfilled(file, begin + frame + stated)
    return _cut_chain(file, begin, size, mp3_frame_bytes, 4)


def _unfilled(file: BinaryIO, promised: int) -> Cut | None:
    """Room that was taken in advance and never filled: zeros up to the stated end."""
    filled = promised
    while filled > 0:
        block = read_at(file, max(0, filled - TAIL_BYTES), min(TAIL_BYTES, filled))
        rest = len(block.rstrip(b"\0"))
        filled -= len(block) - rest
        if rest:
            break
    if promised - filled < LEAST_EMPTY_BYTES:
        return None
    return Cut(
        f"of the {promised} bytes that its header promises the last {promised - filled} are zeros", filled / promised
    )


def _cut_chunks(file: BinaryIO, size: int) -> Cut | None:
    """CAF: the chunks follow each other up to the file's end; sound of unstated length (-1) ends with the file."""
    position = CAF_HEADER_BYTES
    for _ in range(MOST_ELEMENTS):
        header = read_at(file, position, CAF_CHUNK_BYTES)
        length = int.from_bytes(header[4:], "big", signed=True)
        if len(header) < CAF_CHUNK_BYTES or length < 0:
            break
        position += CAF_CHUNK_BYTES + length
        if header.startswith(b"data") and (missing := _shorter(size, position, 0)):
            return missing
    return None


def _cut_wavpack(file: BinaryIO, size: int) -> Cut | None:
    """WavPack: every block states its bytes, its samples and how many there are in all."""
    position = end = total = 0
    for _ in range(MOST_ELEMENTS):
        header = read_at(file, position, WAVPACK_HEADER_BYTES)
        if len(header) < WAVPACK_HEADER_BYTES or not header.startswith(b"wvpk"):
            break
        length, total, first, count = (int.from_bytes(header[at : at + 4], "little") for at in (4, 12, 16, 20))
        position += 8 + length
        if position > size:
            break
        end = first + count
    if not total or total == 0xFFFFFFFF or end >= total:
        return Cut("it ends in the middle of a block") if position > size else None
    return Cut(f"its header promises {total} samples, it holds {end}", end / total)


def _cut_amr(file: BinaryIO) -> Cut | None:
    """AMR: each frame's first byte tells its length; the last one is whole."""
    content = read_at(file, 0, LARGEST_AMR_BYTES)
    for magic, lengths in AMR_FRAME_BYTES.items():
        if content.startswith(magic):
            at = len(magic)
            while at < len(content):
                mode = content[at] >> 3 & 15
                at += lengths[mode] if mode < len(lengths) else 1
            return Cut("it ends in the middle of a frame") if at > len(content) < LARGEST_AMR_BYTES else None
    return None


def _cut_chain(
    file: BinaryIO, begin: int, size: int, frame_bytes: Callable[[bytes], int], header_bytes: int
) -> Cut | None:
    """Frames that follow each other up to the file's end, of which the last one is not whole."""
    tail = read_at(file, max(begin, size - TAIL_BYTES), TAIL_BYTES)
    for start in range(len(tail) - header_bytes):
        at, frames = start, 0
        while length := frame_bytes(tail[at : at + header_bytes]):
            at, frames = at + length, frames + 1
        if frames > CHAIN_FRAMES:
            return Cut("it ends in the middle of a frame") if at > len(tail) else None
    return None


def mp3_frame_bytes(header: bytes) -> int:
    """Length of the layer III frame that begins with these four bytes; 0: none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bit_rate, rate, padding = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or rate == 3 or bit_rate in (0, 15):
        return 0
    first = version == 3  # MPEG 1; 2 and 2.5 have half the rates and half the samples
    rate_hz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbit_s = (MP3_KBIT_S if first else MP3_LOW_KBIT_S)[bit_rate - 1]
    return (144 if first else 72) * kbit_s * 1000 // rate_hz + padding
