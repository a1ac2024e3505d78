"""Packets of a bare AAC stream (ADTS), with what lies damaged between them.

FFmpeg's own reader drops a damaged stretch without a trace, and everything after it comes too early.
"""

import mmap
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av

HEADER_BYTES = 7
SYNC = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")
# After so many bytes without two frames that follow each other there is no more sound.
LARGEST_GAP_BYTES = 16 * 2**20
FRAME_SAMPLES = 1024
RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def packets(file: BinaryIO, stream: av.AudioStream) -> Iterator[av.Packet]:
    """Every frame as a packet, every stretch without one as a packet that does not decode, an empty one last.

    Parameters
    ----------
    file
        On disk; its position does not matter.
    stream
        The track that the packets belong to.
    """
    rate_hz = 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = begin = 0
        while 0 <= at <= len(content) - HEADER_BYTES:
            length, stated_hz = frame(content[at : at + HEADER_BYTES])
            after = content[at + length : at + length + HEADER_BYTES]
            # A header right behind a frame is one; elsewhere only if another follows it.
            if length and at + length <= len(content) and ((at == begin and rate_hz) or not after or frame(after)[0]):
                if begin < at and rate_hz:
                    yield _packet(content[begin:at], stream, rate_hz)
                rate_hz = stated_hz
                yield _packet(content[at : at + length], stream, rate_hz)
                at = begin = at + length
            else:
                found = SYNC.search(content, at + 1, begin + LARGEST_GAP_BYTES)
                at = found.start() if found else -1
    yield _packet(b"", stream, rate_hz or RATES_HZ[0])


def frame(header: bytes) -> tuple[int, int]:
    """Bytes of the frame that begins with these seven, and its rate in Hz; 0, 0: none does."""
    if len(header) < HEADER_BYTES or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return 0, 0
    rate, length = header[2] >> 2 & 15, (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return (length, RATES_HZ[rate]) if rate < len(RATES_HZ) and length > HEADER_BYTES else (0, 0)


def _packet(content: bytes, stream: av.AudioStream, rate_hz: int) -> av.Packet:
    packet = av.Packet(content)
    packet.stream, packet.time_base, packet.duration = stream, Fraction(1, rate_hz), FRAME_SAMPLES
    return packet
