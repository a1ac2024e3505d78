"""Joined files: every recording in them is heard, one after the other, whatever its codec, rate or channels."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.links import Stretches, links
from tests.toys.sounds import Sound, id3, lag, level_db, resampled, speech, write_sounds

FIRST, SECOND = speech(), speech("narrative")
OPUS = {"codec": "libopus", "sample_format": "flt"}
FLAC = {"codec": "flac", "sample_format": "s16"}
MP3 = {"codec": "libmp3lame", "sample_format": "s16p"}
PCM, PCM_BE = ({"codec": f"pcm_s16{order}", "sample_format": "s16"} for order in ("le", "be"))
WMA = {"codec": "wmav2", "bit_rate": 64_000}


def written(folder, suffix: str, samples, rate_hz: int, options=None, **kind) -> bytes:
    moved = resampled(samples, rate_hz) if rate_hz != 16_000 else samples
    channels = np.tile(moved, (2, 1)) if kind.get("layout") == "stereo" else moved
    return write_sounds(folder / f"one.{suffix}", Sound(channels, rate_hz, **kind), options=options).read_bytes()


def assert_both_are_heard(path, slack_s: float = 0.06):
    recording = load_audio(path)
    assert float(recording.duration) == pytest.approx((len(FIRST) + len(SECOND)) / 16_000, abs=2 * slack_s)
    for begin, part in ((0, FIRST), (len(FIRST), SECOND)):
        heard = recording.samples[begin : begin + len(part)]
        assert abs(lag(heard, part)) <= slack_s * 16_000
        assert level_db(heard) == pytest.approx(level_db(part), abs=1.5)
    return recording


@pytest.mark.parametrize(
    ("suffix", "one", "other"),
    [
        ("opus", (48_000, OPUS), (48_000, OPUS | {"layout": "stereo"})),
        ("ogg", (16_000, FLAC), (48_000, OPUS | {"layout": "stereo"})),
        ("ogg", (16_000, FLAC), (44_100, FLAC | {"layout": "stereo"})),
        ("flac", (16_000, FLAC), (44_100, FLAC | {"layout": "stereo"})),
        ("mkv", (16_000, FLAC), (44_100, {})),
        ("webm", (48_000, OPUS), (48_000, OPUS | {"layout": "stereo"})),
    ],
)
def test_a_chain_of_other_kinds_is_heard_whole(tmp_path, suffix, one, other):
    parts = [written(tmp_path, suffix, x, rate, **kind) for x, (rate, kind) in ((FIRST, one), (SECOND, other))]
    path = tmp_path / f"chain.{suffix}"
    path.write_bytes(b"".join(parts))
    assert "recordings that follow each other" in assert_both_are_heard(path).warning


@pytest.mark.parametrize("start_s", [0.0, len(FIRST) / 16_000])
@pytest.mark.parametrize("kind", [{}, MP3])
def test_a_transport_stream_whose_sound_changes_its_place_is_heard_whole(tmp_path, start_s, kind):
    one = written(tmp_path, "ts", FIRST, 44_100)
    other = written(tmp_path, "ts", SECOND, 44_100, {"mpegts_start_pid": "300"}, start_s=start_s, **kind)
    path = tmp_path / "joined.ts"
    path.write_bytes(one + other)
    # Where its clock goes on nothing is said.
    assert ("follow each other" in assert_both_are_heard(path, 0.1).warning) == (not start_s)


def test_a_film_that_is_attached_to_a_recording_is_none_of_it(tmp_path):
    attached = written(tmp_path, "webm", SECOND, 48_000, **OPUS)
    path = write_sounds(tmp_path / "one.mkv", Sound(FIRST, **FLAC), attached=attached)
    content = path.read_bytes()
    assert attached in content
    recording = load_audio(path)
    assert len(recording.samples) == pytest.approx(len(FIRST), abs=200) and recording.warning == ""
    path.write_bytes(content + b"\xec\x84" + bytes(4) + written(tmp_path, "mkv", SECOND, 44_100))  # filling between
    assert "jump (1 x)" in assert_both_are_heard(path).warning


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("short_first", [False, True])
def test_behind_a_segment_that_was_cut_off_the_next_recording_is_heard(tmp_path, share, short_first):
    """What it states as its length ends within the next one, or behind the file."""
    attached = written(tmp_path, "webm", SECOND[:16_000], 48_000, **OPUS)
    sounds = (Sound(FIRST, **FLAC), Sound(SECOND, 16_000))
    one, other = (
        write_sounds(tmp_path / "one.mkv", sound, attached=attached).read_bytes()
        for sound in (sounds[::-1] if short_first else sounds)
    )
    path = tmp_path / "joined.mkv"
    path.write_bytes(one[: int(share * len(one))] + other)
    with path.open("rb") as file:
        assert [part.read(len(other)) for part in links(file)][1:] == [other]


def test_behind_a_segment_of_open_length_the_next_recording_is_searched_for(tmp_path):
    parts = [written(tmp_path, "mkv", x, 16_000, {"live": "1"}, **FLAC) for x in (FIRST, SECOND)]
    path = tmp_path / "live.mkv"
    path.write_bytes(b"".join(parts))
    with path.open("rb") as file:
        assert len(links(file)) == 2
    assert_both_are_heard(path)


@pytest.mark.parametrize("piece", [300, 301, 377, 4_096])
@pytest.mark.parametrize(("suffix", "kind"), [("opus", OPUS), ("flac", FLAC), ("mkv", FLAC), ("ts", {}), ("mp3", MP3)])
def test_a_file_is_searched_in_pieces_and_no_border_hides_a_mark(tmp_path, monkeypatch, suffix, kind, piece):
    part = written(tmp_path, suffix, FIRST[:8_000], 48_000, {"live": "1"} if suffix == "mkv" else None, **kind)
    moved = written(tmp_path, "ts", FIRST[:8_000], 48_000, {"mpegts_start_pid": "300"}) if suffix == "ts" else part
    tag = id3(500) if suffix == "mp3" else b""
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(part + tag + moved + tag + part)

    def stretches():
        with path.open("rb") as file:
            return [one.read(1 << 20) for one in links(file)]

    expected = stretches()
    monkeypatch.setattr("specsync_lib.speech.links.PIECE_BYTES", piece)
    assert stretches() == expected
    assert len(expected) == (1 if suffix == "mp3" else 3)


@pytest.mark.parametrize("other_hz", [44_100, 22_050])
@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("wav", PCM), ("w64", PCM), ("aiff", PCM_BE), ("caf", PCM_BE), ("m4a", {}), ("flv", {}), ("wma", WMA)],
)
def test_what_players_play_the_first_of_is_heard_whole(tmp_path, suffix, kind, other_hz):
    parts = [written(tmp_path, suffix, x, hz, **kind) for x, hz in ((FIRST, 44_100), (SECOND, other_hz))]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(parts))
    # Where packets are counted there is no clock that could jump.
    assert ("follow each other" in assert_both_are_heard(path, 0.12).warning) == (suffix in ("m4a", "flv", "wma"))


def test_the_last_of_joined_wavs_may_be_cut(tmp_path):
    one, other = (written(tmp_path, "wav", x, 16_000, **PCM) for x in (FIRST, SECOND))
    path = tmp_path / "joined.wav"
    path.write_bytes(one + other[: int(0.6 * len(other))])
    recording = load_audio(path)
    assert float(recording.duration) == pytest.approx((len(FIRST) + 0.6 * len(SECOND)) / 16_000, abs=0.01)
    assert "truncated, in the last of its 2 recordings" in recording.warning


def test_fragments_that_repeat_their_index_go_on(tmp_path):
    """Segments as a browser gets them: each with the header of the whole."""
    options = {"movflags": "+frag_every_frame+empty_moov+default_base_moof"}
    content = written(tmp_path, "mp4", FIRST, 48_000, options)
    begin, first = content.index(b"moof") - 4, content.index(b"moof", len(content) // 2) - 4
    path = tmp_path / "repeated.mp4"
    path.write_bytes(content[:first] + content[:begin] + content[first:])
    recording = load_audio(path)
    whole = load_audio(tmp_path / "one.mp4")
    assert recording.warning == "" and np.array_equal(recording.samples, whole.samples)
    path.write_bytes(content + written(tmp_path, "mp4", SECOND, 44_100, options))
    assert "follow each other" in assert_both_are_heard(path, 0.1).warning


def test_a_recording_of_which_nothing_decodes_is_told(tmp_path):
    one, other = (written(tmp_path, "opus", x, 48_000, **OPUS) for x in (FIRST, SECOND))
    path = tmp_path / "chain.opus"
    path.write_bytes(one + other.replace(b"OpusHead", b"NoneHead"))
    recording = load_audio(path)
    assert len(recording.samples) == pytest.approx(len(FIRST), abs=200)
    assert "nothing decodes of 1 of the 2 recordings" in recording.warning


@pytest.mark.parametrize(("suffix", "kind"), [("opus", OPUS), ("webm", OPUS), ("flac", FLAC)])
def test_the_last_recording_may_be_cut(tmp_path, suffix, kind):
    one, other = (written(tmp_path, suffix, x, 48_000, **kind) for x in (FIRST, SECOND))
    path = tmp_path / f"chain.{suffix}"
    for share in (0.7, 0.3):
        path.write_bytes(one + other[: int(share * len(other))])
        recording = load_audio(path)
        assert float(recording.duration) == pytest.approx((len(FIRST) + share * len(SECOND)) / 16_000, abs=1.1)
        assert "truncated" in recording.warning and "follow each other" in recording.warning


def test_tags_between_mp3_frames_are_stepped_over_whole(tmp_path):
    """A cover picture is full of what looks like frames."""
    parts = [written(tmp_path, "mp3", x, 44_100, **MP3) for x in (FIRST, SECOND)]
    path = tmp_path / "joined.mp3"
    for tags in (id3(300_000), id3(2_000) + id3(100_000), id3(60_000, 4, footer=True)):
        path.write_bytes(tags + parts[0] + tags + parts[1])
        assert assert_both_are_heard(path).warning == ""


def test_a_file_that_is_one_recording_is_read_as_it_is(tmp_path):
    for suffix, kind in (("ogg", OPUS), ("flac", FLAC), ("mp3", MP3), ("ts", {}), ("wav", {"codec": "pcm_s16le"})):
        path = tmp_path / f"one.{suffix}"
        written(tmp_path, suffix, FIRST, 48_000, **({"sample_format": "s16"} | kind if suffix == "wav" else kind))
        with path.open("rb") as file:
            assert links(file) == [file]


# ------------------------------------------------------------------------------------------- transport streams


def packet(pid: int, content: bytes) -> bytes:
    return struct.pack(">BHB", 0x47, 0x4000 | pid, 0x10) + (b"\0" + content).ljust(184, b"\xff")


def section(table: int, body: bytes) -> bytes:
    return struct.pack(">BH", table, 0xB000 | len(body) + 9) + b"\0\1\xc1\0\0" + body + bytes(4)


def programmes(*maps: int) -> bytes:
    return packet(0, section(0, b"".join(struct.pack(">HH", k + 1, 0xE000 | pid) for k, pid in enumerate(maps))))


def programme(pid: int, *streams: tuple) -> bytes:
    """Each stream is its type, its PID and, where it has any, its descriptors."""
    body = b""
    for kind, one, *said in streams:
        described = b"".join(said)
        body += struct.pack(">BHH", kind, 0xE000 | one, 0xF000 | len(described)) + described
    return packet(pid, section(2, b"\xe1\0\xf0\0" + body))


AAC, PICTURE, PRIVATE = 0x0F, 0x1B, 0x06
TELETEXT, LANGUAGE = b"\x56\x05eng\x09\x00", b"\x0a\x04eng\x00"
ONE = programmes(0x1000) + programme(0x1000, (PICTURE, 256), (AAC, 257))
FILLING = 3 * packet(0x1FFF, b"")


@pytest.mark.parametrize(
    ("later", "count"),
    [
        (ONE, 1),
        (programmes(0x1000) + programme(0x1000, (AAC, 257), (AAC, 258)), 1),  # another language comes
        (programmes(0x1000) + programme(0x1000, (PICTURE, 256)), 1),  # no sound for a while
        (programmes(0x1000) + programme(0x1000, (AAC, 300)), 2),
        (programmes(0x1000) + programme(0x1000, (3, 257)), 2),  # another codec in the same place
        (programmes(0x100) + programme(0x100, (AAC, 300)), 2),
        (programmes(0x1000, 0x100) + programme(0x100, (AAC, 300)), 1),  # another programme beside it
        (packet(0, b"\0\xff\xff") + packet(0x1000, b"\2\xff\xff" + bytes(180)) + packet(0x1000, b""), 1),  # damage
    ],
)
@pytest.mark.parametrize("before", [0, 4, 16])
def test_where_the_maps_name_other_sound_another_recording_begins(tmp_path, later, count, before):
    content = ONE + FILLING + later + FILLING + later + FILLING
    wide = b"".join(bytes(before) + content[at : at + 188] for at in range(0, len(content), 188))
    if before == 16:  # the checksum stands behind
        wide = wide[16:] + bytes(16)
    path = tmp_path / "maps.ts"
    path.write_bytes(wide)
    with path.open("rb") as file:
        found = links(file)
        assert len(found) == count
        if count > 1:
            assert found[1].read(188 + before).lstrip(b"\0").startswith(later[:188])


def count_of(path, content: bytes) -> int:
    path.write_bytes(content)
    with path.open("rb") as file:
        return len(links(file))


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (b"\x6a\x01\x00", 2),
        (b"\x7a\x01\x00", 2),
        (b"\x7b\x01\x00", 2),
        (b"\x7c\x02\x51\x00", 2),
        (b"\x7f\x02\x15\x00", 2),
        (b"\x7f\x02\x06\x00", 1),  # supplementary audio: says no codec
        (b"\x7f\x00", 1),
        *((b"\x05\x04" + name, 2) for name in (b"AC-3", b"EAC3", b"DTS1", b"DTS2", b"DTS3", b"Opus", b"BSSD")),
        (b"\x05\x04KLVA", 1),
        (TELETEXT, 1),
        (b"\x59\x08eng\x10\0\1\0\1", 1),  # subtitles
        (b"", 1),
        (b"\x6a", 1),  # damage
    ],
)
def test_private_data_is_sound_only_where_it_says_so(tmp_path, said, count):
    maps = (
        programmes(0x1000) + programme(0x1000, (PICTURE, 256), (PRIVATE, pid, LANGUAGE, said)) for pid in (257, 300)
    )
    assert count_of(tmp_path / "private.ts", b"".join(one + 4 * FILLING for one in maps)) == count


def test_teletext_that_stays_keeps_no_recordings_together(tmp_path):
    text = (PRIVATE, 500, TELETEXT)
    maps = (programmes(0x1000) + programme(0x1000, (PICTURE, 256), (AAC, pid), text) for pid in (257, 300))
    assert count_of(tmp_path / "text.ts", b"".join(one + 4 * FILLING for one in maps)) == 2


def test_sound_that_comes_after_a_map_of_teletext_alone_is_heard(tmp_path):
    text = programmes(0x1000) + programme(0x1000, (PRIVATE, 500, TELETEXT)) + FILLING
    path = tmp_path / "late.ts"
    path.write_bytes(text + written(tmp_path, "ts", FIRST, 44_100))
    assert len(load_audio(path).samples) == pytest.approx(len(FIRST), abs=2_000)


@pytest.mark.parametrize("silent", [1, 2])
def test_leading_recordings_without_sound_are_skipped(tmp_path, silent):
    picture = write_sounds(tmp_path / "picture.mkv", picture_s=1).read_bytes()
    path = tmp_path / "joined.mkv"
    path.write_bytes(silent * picture + written(tmp_path, "mkv", FIRST, 44_100))
    assert len(load_audio(path).samples) == pytest.approx(len(FIRST), abs=2_000)
    path.write_bytes(silent * picture)
    with pytest.raises(InputError, match="has no sound"):
        load_audio(path)


# ------------------------------------------------------------------------------------------------- stretches


@settings(max_examples=50)
@given(
    cuts=st.lists(st.integers(0, 100), min_size=2, max_size=8),
    reads=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 60)), max_size=8),
)
def test_stretches_read_like_a_file_of_their_bytes(cuts, reads):
    content = bytes(range(100))
    ends = sorted(cuts)
    stretches = list(zip(ends[::2], ends[1::2], strict=False))
    expected = io.BytesIO(b"".join(content[begin:end] for begin, end in stretches))
    file = Stretches(io.BytesIO(content), stretches)
    assert file.seek(0, io.SEEK_END) == len(expected.getvalue())
    for at, count in reads:
        file.seek(at)
        expected.seek(at)
        wanted, heard = expected.read(count), b""
        while len(heard) < len(wanted):  # a raw file may give less at a time
            more = file.read(count - len(heard))
            assert more
            heard += more
        assert heard == wanted
    assert file.seek(0) == file.tell() == 0
    assert io.BufferedReader(file).read() == expected.getvalue()


def test_a_read_looks_at_few_of_many_stretches():
    """A tag before every frame makes tens of thousands."""

    class Counted(list):
        seen = 0

        def __iter__(self):
            for one in super().__iter__():
                Counted.seen += 1
                yield one

        def __getitem__(self, index):
            Counted.seen += 1
            return super().__getitem__(index)

    count = 2_000
    file = Stretches(io.BytesIO(bytes(4 * count)), Counted((4 * k, 4 * k + 2) for k in range(count)))
    reads = 0
    while file.read(10):
        file.seek(0, io.SEEK_CUR)
        reads += 1
    assert reads == count and Counted.seen <= 4 * count


def test_more_recordings_than_any_file_has_are_not_counted(tmp_path):
    path = tmp_path / "many.flac"
    path.write_bytes(2_000 * (b"fLaC\0\0\0\x22" + bytes(34)))
    with path.open("rb") as file:
        assert links(file) == [file]


def test_a_later_recording_gets_the_track_of_the_same_place(tmp_path):
    """Two tracks in each: the second one of the first recording goes on with the second one of the second."""
    for name, order in (("a", (FIRST, SECOND)), ("b", (SECOND, FIRST))):
        write_sounds(tmp_path / f"{name}.ogg", *(Sound(resampled(x, 48_000), 48_000, **OPUS) for x in order))
    path = tmp_path / "chain.ogg"
    path.write_bytes((tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes())
    heard = load_audio(path, track=2).samples
    assert abs(lag(heard[: len(SECOND)], SECOND)) <= 16
    assert abs(lag(heard[len(SECOND) :], FIRST)) <= 16


def test_tracks_without_a_decoder_do_not_move_the_place(tmp_path):
    """The first track of three is in a codec that nobody knows: the second goes on with the second."""
    parts = []
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        flac = (Sound(x, 16_000, **FLAC) for x in order)
        path = write_sounds(tmp_path / "one.mkv", Sound(resampled(FIRST, 48_000), 48_000, **OPUS), *flac)
        parts.append(path.read_bytes().replace(b"A_OPUS", b"A_NONE"))
    path = tmp_path / "joined.mkv"
    path.write_bytes(b"".join(parts))
    heard = load_audio(path, track=2).samples
    assert abs(lag(heard[: len(FIRST)], FIRST)) <= 16
    assert abs(lag(heard[len(FIRST) :], SECOND)) <= 16
