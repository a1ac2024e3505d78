"""Sound as people have it: damaged, cut, joined, tagged. It keeps its time, and one line says what is missing."""

import struct
import tracemalloc
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.speech import decoding
from specsync_lib.speech.audio import load_audio
from tests.toys.sounds import Sound, between, lag, level_db, resampled, speech, write_sounds

SPEECH = speech()
MP3 = {"codec": "libmp3lame", "sample_format": "s16p"}
OPUS = {"codec": "libopus", "sample_format": "flt"}
SECONDS = len(SPEECH) / 16_000


def sound(rate_hz=16_000, **changes) -> Sound:
    return Sound(resampled(SPEECH, rate_hz) if rate_hz != 16_000 else SPEECH, rate_hz, **changes)


@pytest.fixture(scope="module")
def mp3(tmp_path_factory) -> bytes:
    return write_sounds(tmp_path_factory.mktemp("mp3") / "whole.mp3", sound(**MP3)).read_bytes()


@pytest.fixture(scope="module")
def webm(tmp_path_factory) -> bytes:
    return write_sounds(tmp_path_factory.mktemp("webm") / "whole.webm", sound(48_000, **OPUS)).read_bytes()


def loaded(tmp_path, name: str, content: bytes, **options):
    path = tmp_path / name
    path.write_bytes(content)
    return load_audio(path, **options)


def spoilt(content: bytes, start: int, count: int) -> bytes:
    return content[:start] + np.random.default_rng(1).bytes(count) + content[start + count :]


# ------------------------------------------------------------------------------------------------- tags and joints


@pytest.mark.parametrize(
    "tail",
    [
        bytes(4096),
        b"LYRICSBEGININD0000300000LYR" + b"la la la\r\n" * 200 + b"001998LYRICS200",
        b"TAG" + b"a title".ljust(125, b"\0"),
        b"APETAGEX\xd0\x07\0\0" + bytes(500) + b"APETAGEX",
        b"\xff" * 1000,
    ],
    ids=["zeros", "Lyrics3", "ID3v1", "APE", "filling"],
)
def test_what_stands_behind_the_last_frame_of_an_mp3_is_no_sound(tmp_path, mp3, tail):
    recording = loaded(tmp_path, "tagged.mp3", mp3 + tail)
    assert recording.warning == ""
    assert SECONDS - 0.001 <= recording.duration <= SECONDS + 0.04  # the encoder's padding is cut or is not
    assert abs(lag(recording.samples, SPEECH)) <= 2


def test_two_joined_mp3_files_are_one_recording(tmp_path, mp3):
    recording = loaded(tmp_path, "twice.mp3", mp3 + mp3)
    assert recording.warning == ""
    assert float(recording.duration) == pytest.approx(13.97, abs=0.01)
    assert abs(lag(recording.samples[: len(SPEECH)], SPEECH)) <= 2
    assert level_db(recording.samples[-len(SPEECH) :]) == pytest.approx(level_db(SPEECH), abs=1)


def test_joined_mp3_files_may_change_rate_and_channels(tmp_path, mp3):
    both = np.tile(resampled(SPEECH, 44_100), (2, 1))
    stereo = write_sounds(tmp_path / "stereo.mp3", Sound(both, 44_100, layout="stereo", **MP3)).read_bytes()
    recording = loaded(tmp_path, "mixed.mp3", mp3 + stereo)
    assert float(recording.duration) == pytest.approx(2 * SECONDS, abs=0.12)
    second = recording.samples[len(SPEECH) :]
    assert 0 <= lag(second, SPEECH) <= 0.12 * 16_000
    assert level_db(second) == pytest.approx(level_db(SPEECH), abs=1)


@pytest.mark.parametrize("suffix", ["ogg", "webm", "mkv", "ts", "flac"])
def test_a_clock_that_starts_anew_is_a_joint(tmp_path, suffix):
    kind = {"ts": {}, "flac": {"codec": "flac", "sample_format": "s16"}}.get(suffix, OPUS)
    content = write_sounds(tmp_path / f"one.{suffix}", sound(48_000, **kind)).read_bytes()
    recording = loaded(tmp_path, f"two.{suffix}", content + content)
    assert float(recording.duration) == pytest.approx(2 * SECONDS, abs=0.1)
    assert "follow each other" in recording.warning
    half = len(SPEECH) // 2
    assert level_db(recording.samples[-half:]) == pytest.approx(level_db(SPEECH[-half:]), abs=1)


# ------------------------------------------------------------------------------------------------------- damage


def test_damage_inside_an_mp3_is_silence_of_its_length(tmp_path, mp3):
    recording = loaded(tmp_path, "damaged.mp3", spoilt(mp3, len(mp3) // 2, 600))
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.04)
    assert "do not decode and are silent" in recording.warning
    assert recording.warning.count("\n") == 0
    # What comes after the damage is where it was.
    late = slice(int(4.5 * 16_000), int(6.5 * 16_000))
    assert abs(lag(recording.samples[late], SPEECH[late])) <= 2


@settings(max_examples=25)
@example(at=0.5637242058170688, count=50, suffix="mp3")  # what looks like a frame of another layer
@given(at=st.floats(0.2, 0.6), count=st.integers(50, 2_500), suffix=st.sampled_from(["mp3", "aac", "flac", "ogg"]))
def test_damage_anywhere_leaves_what_follows_in_its_place(tmp_path_factory, at, count, suffix):
    kind = {"mp3": MP3, "ogg": OPUS, "flac": {"codec": "flac", "sample_format": "s16"}}.get(suffix, {})
    path = tmp_path_factory.mktemp("damage") / f"whole.{suffix}"
    content = write_sounds(path, sound(48_000 if suffix == "ogg" else 16_000, **kind)).read_bytes()
    whole = load_audio(path).samples
    recording = loaded(path.parent, f"damaged.{suffix}", spoilt(content, int(at * len(content)), count))
    # Where frames differ in size and hold no time (a bare AAC stream), what was lost is told by its bytes alone.
    slack = 4 * 1_024 if suffix == "aac" else 600 if suffix == "mp3" else 2
    assert abs(len(recording.samples) - len(whole)) <= slack + 600
    late = slice(int(5.3 * 16_000), int(6.6 * 16_000))
    assert abs(lag(recording.samples[late], whole[late])) <= slack
    assert np.abs(recording.samples).max() < 1.5 * np.abs(whole).max()  # no burst of noise


@pytest.mark.parametrize(("size", "heard"), [(2**62, True), (-(2**40), False)])
def test_a_wild_size_in_a_header_is_no_traceback(tmp_path, capfd, size, heard):
    """FFmpeg seeks by it; what a file's seek raises PyAV prints, whatever becomes of the file."""
    content = write_sounds(tmp_path / "whole.caf", sound(16_000, codec="pcm_s16le", sample_format="s16")).read_bytes()
    at = content.index(b"info") + 4
    wild = content[:at] + size.to_bytes(8, "big", signed=True) + content[at + 8 :]
    if heard:
        assert abs(len(loaded(tmp_path, "wild.caf", wild).samples) - len(SPEECH)) <= 1
    else:
        with pytest.raises(InputError, match="cannot be decoded"):
            loaded(tmp_path, "wild.caf", wild)
    assert capfd.readouterr().err == ""


def test_a_damaged_block_of_wavpack_is_silence_and_no_noise(tmp_path):
    path = write_sounds(tmp_path / "whole.wv", sound(44_100, codec="wavpack", sample_format="s16p"))
    whole, content = load_audio(path), path.read_bytes()
    recording = loaded(tmp_path, "damaged.wv", spoilt(content, len(content) // 2, 40))
    assert len(recording.samples) == len(whole.samples)
    assert np.abs(recording.samples).max() < 1.1 * np.abs(whole.samples).max()
    assert np.array_equal(recording.samples[-16_000:], whole.samples[-16_000:])
    assert "do not decode and are silent" in recording.warning


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "kind"),
    [("m4a", 44_100, {}), ("mkv", 44_100, {}), ("webm", 48_000, OPUS), ("ts", 44_100, {}), ("mov", 16_000, {})],
)
@pytest.mark.parametrize("fault", ["lose", "spoil"])
def test_missing_packets_are_silence_of_their_length(tmp_path, suffix, rate_hz, kind, fault):
    if fault == "spoil" and kind is OPUS:
        pytest.skip("every byte string is Opus: what a damaged packet sounds like is the codec's affair")
    path = write_sounds(tmp_path / f"hole.{suffix}", sound(rate_hz, **kind, **{fault: between(2.0, 2.6)}))
    recording = load_audio(path)
    whole = load_audio(write_sounds(tmp_path / f"whole.{suffix}", sound(rate_hz, **kind)))  # a TS keeps its priming
    assert abs(len(recording.samples) - len(whole.samples)) <= 16
    late = slice(int(3.5 * 16_000), int(6.5 * 16_000))
    assert abs(lag(recording.samples[late], whole.samples[late])) <= 16  # 1 ms
    assert level_db(recording.samples[int(2.2 * 16_000) : int(2.4 * 16_000)]) < -60
    assert "do not decode" in recording.warning if fault == "spoil" else "timestamps leave out" in recording.warning


def test_zeros_where_a_container_says_that_a_packet_is_are_lost_sound(tmp_path):
    """Not filling, as between the frames of a bare stream: a download with a hole, in which packets count the time."""
    path = write_sounds(tmp_path / "whole.caf", sound(codec="alac", sample_format="s16p"))
    assert load_audio(path).warning == ""  # its last packet is not full
    content = path.read_bytes()
    hole = slice(int(0.45 * len(content)), int(0.6 * len(content)))
    recording = loaded(
        tmp_path, "hole.caf", content[: hole.start] + bytes(hole.stop - hole.start) + content[hole.stop :]
    )
    assert len(recording.samples) == len(SPEECH)
    assert np.abs(recording.samples - SPEECH)[int(5.3 * 16_000) :].max() < 1e-3
    assert "do not decode and are silent" in recording.warning and "truncated" not in recording.warning


def test_lost_packets_at_the_end_keep_the_length(tmp_path):
    path = write_sounds(tmp_path / "end.m4a", sound(spoil=between(6.0, 9.0)))
    recording = load_audio(path)
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.07)
    assert not recording.samples[-8_000:].any()


def test_more_than_half_lost_is_refused(tmp_path):
    path = write_sounds(tmp_path / "most.m4a", sound(spoil=between(1.0, 6.0)))
    with pytest.raises(InputError, match="less than half of its sound is left") as caught:
        load_audio(path)
    assert "\n" not in str(caught.value)


def test_nothing_that_decodes_says_so(tmp_path):
    path = write_sounds(tmp_path / "none.m4a", sound(spoil=between(-1.0, 9.0)))
    with pytest.raises(InputError, match="nothing decodes; copy or export it again"):
        load_audio(path)


@settings(max_examples=25)
@given(
    holes=st.lists(st.tuples(st.floats(0.3, 6.0), st.floats(0.05, 0.8)), min_size=1, max_size=3),
    late_s=st.floats(0, 1.5),
    suffix=st.sampled_from(["mp4", "mkv"]),
)
def test_sound_keeps_its_time_against_the_picture(tmp_path_factory, holes, late_s, suffix):
    """Whatever is lost, and however late it starts: what is left lies where its timestamps say, within half a frame."""
    path = tmp_path_factory.mktemp("clock") / f"film.{suffix}"

    def lose(time_s: float) -> bool:
        return any(start <= time_s < start + length for start, length in holes)

    write_sounds(path, sound(lose=lose, start_s=late_s), picture_s=9)
    recording = load_audio(path)
    whole = write_sounds(path.with_stem("whole"), sound(start_s=late_s), picture_s=9)
    expected = load_audio(whole).samples
    # Every stretch of half a second that lost nothing is the same sound at the same place.
    for begin in np.arange(0, SECONDS + late_s - 0.5, 0.25):
        inside = begin - late_s
        untouched = all(start - 0.2 > inside + 0.5 or start + length + 0.2 < inside for start, length in holes)
        piece = slice(round(begin * 16_000), round((begin + 0.5) * 16_000))
        if untouched and inside > 0.1 and level_db(expected[piece]) > -40:
            assert abs(lag(recording.samples[piece], expected[piece])) <= 16_000 / 60 + 1


# ------------------------------------------------------------------------------------------------------ the clock


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_late_start_is_kept_as_silence(tmp_path, suffix):
    path = write_sounds(tmp_path / f"late.{suffix}", sound(start_s=0.7), picture_s=8)
    recording = load_audio(path)
    on_time = load_audio(write_sounds(tmp_path / f"on_time.{suffix}", sound(), picture_s=8))
    assert lag(recording.samples, on_time.samples) == pytest.approx(0.7 * 16_000, abs=17)  # Matroska counts whole ms
    assert "its sound begins at 0.6" in recording.warning or "its sound begins at 0.7" in recording.warning
    assert on_time.warning == ""


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "kind"),
    [("m4a", 44_100, {}), ("mp3", 44_100, MP3), ("opus", 48_000, OPUS), ("webm", 48_000, OPUS), ("mkv", 44_100, {})],
)
def test_priming_and_padding_are_cut(tmp_path, suffix, rate_hz, kind):
    recording = load_audio(write_sounds(tmp_path / f"whole.{suffix}", sound(rate_hz, **kind)))
    assert abs(lag(recording.samples, SPEECH)) <= 16  # 1 ms
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.025)
    assert recording.warning == ""


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_jitter_of_a_live_recorder_is_no_hole(tmp_path, suffix):
    jitter = np.random.default_rng(0).uniform(0, 0.03, 200)
    path = write_sounds(
        tmp_path / f"live.{suffix}", sound(jitter=lambda time_s: jitter[int(time_s * 15) % 200]), picture_s=8
    )
    recording = load_audio(path)
    whole = load_audio(write_sounds(tmp_path / f"whole.{suffix}", sound(), picture_s=8))
    assert recording.warning == ""
    start = lag(recording.samples, whole.samples)
    assert 0 <= start <= 0.03 * 16_000  # the first timestamp is believed
    both = min(len(recording.samples) - start, len(whole.samples))
    assert np.allclose(recording.samples[start : start + both], whole.samples[:both], atol=1e-4)


def test_drift_is_followed(tmp_path):
    """A camera whose sound is clocked 1 % slow: at its end the sound is where the picture is."""
    path = write_sounds(tmp_path / "drift.mkv", sound(jitter=lambda time_s: 0.01 * time_s), picture_s=8)
    recording = load_audio(path)
    whole = load_audio(write_sounds(tmp_path / "whole.mkv", sound(), picture_s=8))
    end = slice(int(5.5 * 16_000), int(6.5 * 16_000))
    assert lag(recording.samples[end], whole.samples[end]) == pytest.approx(0.06 * 16_000, abs=16_000 / 60)


@pytest.mark.parametrize("suffix", ["m4a", "mov", "mkv", "webm"])
def test_a_late_start_without_a_picture_is_kept_too(tmp_path, suffix):
    kind = OPUS if suffix == "webm" else {}
    recording = load_audio(write_sounds(tmp_path / f"late.{suffix}", sound(48_000, start_s=0.7, **kind)))
    assert lag(recording.samples, SPEECH) == pytest.approx(0.7 * 16_000, abs=17)


def with_edits(content: bytes, *edits: tuple[float, float]) -> bytes:
    """An M4A at 16 kHz whose edit list plays these stretches (start, length in s)."""
    at = content.index(b"elst") - 4
    length = int.from_bytes(content[at : at + 4], "big")
    first = int.from_bytes(content[at + 20 : at + 24], "big")  # the encoder's delay
    rows = b"".join(struct.pack(">IiI", round(1000 * n), first + round(16_000 * s), 0x10000) for s, n in edits)
    box = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    before = bytearray(content[:at])
    for name in (b"edts", b"trak", b"moov"):
        size = before.rindex(name) - 4
        total = int.from_bytes(before[size : size + 4], "big") + len(box) - length
        before[size : size + 4] = total.to_bytes(4, "big")
    return bytes(before) + box + content[at + length :]


@pytest.mark.parametrize("edits", [[(1.0, 5.9)], [(0.5, 5.0)], [(0.013, 6.9)], [(0.0, 2.0), (4.0, 2.0)]])
def test_an_edit_list_cuts_where_it_says(tmp_path, edits):
    content = write_sounds(tmp_path / "whole.m4a", sound()).read_bytes()
    recording = loaded(tmp_path, "edited.m4a", with_edits(content, *edits))
    expected = np.concatenate([SPEECH[round(16_000 * s) :][: round(16_000 * n)] for s, n in edits])
    assert abs(len(recording.samples) - len(expected)) <= 1_024  # the last AAC frame is played whole or is not
    begin = 0
    for _, seconds in edits:
        piece = slice(begin, begin + round(16_000 * seconds))
        # The first edit is cut to the sample, the joint of two lies within a video frame.
        assert abs(lag(recording.samples[piece], expected[piece])) <= (16_000 / 30 if begin else 1)
        begin = piece.stop
    assert recording.warning == ""


def test_a_tape_without_a_picture_begins_with_its_first_sound(tmp_path):
    path = write_sounds(tmp_path / "from_the_middle.mkv", sound(start_s=500.0))
    recording = load_audio(path)
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.07)
    assert recording.warning == ""


@pytest.mark.parametrize("skew_s", [0.0, 0.8, 3.0])
def test_a_skew_that_an_avi_states_is_kept_as_silence(tmp_path, skew_s):
    """VirtualDub's displacement of the sound: the start in the stream's header (dwStart)."""
    pcm = sound(codec="pcm_s16le", sample_format="s16")
    content = bytearray(write_sounds(tmp_path / "whole.avi", pcm, picture_s=8).read_bytes())
    header = content.index(b"auds")
    scale, rate = struct.unpack_from("<II", content, header + 20)
    struct.pack_into("<I", content, header + 28, round(skew_s * rate / scale))
    recording = loaded(tmp_path, "skew.avi", bytes(content))
    assert len(recording.samples) == len(SPEECH) + round(16_000 * skew_s)
    assert lag(recording.samples, SPEECH) == round(16_000 * skew_s)
    assert (f"its sound begins at {skew_s:.2f} s, kept as silence" in recording.warning) == bool(skew_s)


def test_sound_before_time_0_is_left_out_without_a_word():
    """A song cut out of an Ogg file without encoding it: the packets before the cut come with it."""
    stream = SimpleNamespace(start_time=0, time_base=Fraction(1, 16_000), disposition=0)
    container = SimpleNamespace(format=SimpleNamespace(name="ogg"), streams=SimpleNamespace(video=[]))
    tally = decoding.Tally()
    clock = decoding._Clock(container, stream, tally, True)
    now_s, cuts = Fraction(0), []
    for number in range(6):
        time_s = Fraction(number, 10) - Fraction(1, 4)
        block = decoding._Block(np.zeros((1_600, 1), np.float32), ("FC",), 16_000, time_s, None, 0)
        silent_s, cut_s = clock.place(block, [], now_s)
        cuts.append(float(cut_s))
        now_s += silent_s + block.seconds - cut_s
    assert cuts == [0.1, 0.1, 0.05, 0, 0, 0]
    assert tally.cut_s == tally.late_s == tally.hole_s == 0


def test_a_start_that_is_not_kept_is_told(tmp_path):
    """An edit list that begins with 20 s of nothing: longer than a late start, so the sound begins at once."""
    recording = load_audio(write_sounds(tmp_path / "late.m4a", sound(start_s=20.0)))
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.13)
    assert "s, taken for its start" in recording.warning


@pytest.mark.parametrize("suffix", ["ogg", "webm"])
def test_a_long_pause_in_the_timestamps_is_silence_and_no_loss(tmp_path, suffix):
    recording = load_audio(write_sounds(tmp_path / f"pause.{suffix}", sound(48_000, **OPUS, lose=between(1.0, 5.5))))
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.03)
    assert "timestamps leave out 4.50 s in one place (first at 1.0" in recording.warning
    assert level_db(recording.samples[int(1.5 * 16_000) : int(5.4 * 16_000)]) < -60


def test_an_overlap_is_cut_and_told(tmp_path):
    parts = [write_sounds(tmp_path / "one.ts", sound(44_100, start_s=at)).read_bytes() for at in (0.0, SECONDS - 0.5)]
    recording = loaded(tmp_path, "two.ts", b"".join(parts))
    assert float(recording.duration) == pytest.approx(2 * SECONDS - 0.5, abs=0.1)
    assert "its timestamps overlap: 0.5" in recording.warning and "are left out" in recording.warning


@pytest.mark.parametrize("slow", [0.4, 0.9, 0.999])
def test_a_clock_that_would_cut_most_of_the_sound_is_not_followed(tmp_path, slow):
    recording = load_audio(write_sounds(tmp_path / "slow.mkv", sound(44_100, jitter=lambda time_s: -slow * time_s)))
    assert float(recording.duration) == pytest.approx(SECONDS, abs=0.07)
    assert abs(lag(recording.samples, SPEECH)) <= 1_024
    assert "its timestamps are no clock: its sound is taken in the order in which it comes" in recording.warning


def test_segments_that_all_begin_at_the_same_time_follow_each_other(tmp_path):
    pieces = np.split(SPEECH[: 8 * 12_800], 8)
    parts = [write_sounds(tmp_path / "one.ts", Sound(piece)).read_bytes() for piece in pieces]
    recording = loaded(tmp_path, "segments.ts", b"".join(parts))
    assert 6.4 <= float(recording.duration) <= 6.4 + 8 * 0.13  # each with its encoder's priming and padding
    assert "its timestamps are no clock" in recording.warning
    assert level_db(recording.samples) == pytest.approx(level_db(SPEECH), abs=1)


def test_a_hole_longer_than_the_limit_is_too_long(tmp_path):
    path = write_sounds(tmp_path / "paused.mkv", sound(start_s=0.0), picture_s=1)
    late = write_sounds(tmp_path / "late.mkv", sound(start_s=100.0), picture_s=1)
    assert load_audio(path, max_seconds=10).warning == ""
    with pytest.raises(InputError, match="longer than 60 s"):
        load_audio(late, max_seconds=60)


# ---------------------------------------------------------------------------------------------------------- cut files


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "kind", "options"),
    [
        ("mp3", 44_100, MP3, {}),
        ("mp3", 44_100, MP3, {"write_xing": "0"}),
        ("ogg", 48_000, OPUS, {}),
        ("opus", 48_000, OPUS, {}),
        ("webm", 48_000, OPUS, {}),
        ("webm", 48_000, OPUS, {"live": "1"}),
        ("mkv", 44_100, {}, {}),
        ("aac", 44_100, {}, {}),
        ("flac", 16_000, {"codec": "flac", "sample_format": "s16"}, {}),
        ("wav", 16_000, {"codec": "pcm_s16le", "sample_format": "s16"}, {}),
        ("w64", 16_000, {"codec": "pcm_s16le", "sample_format": "s16"}, {}),
        ("caf", 16_000, {"codec": "pcm_s16be", "sample_format": "s16"}, {}),
        ("au", 16_000, {"codec": "pcm_s16be", "sample_format": "s16"}, {}),
        ("wv", 44_100, {"codec": "wavpack", "sample_format": "s16p"}, {}),
        ("amr", 8_000, {"codec": "libopencore_amrnb", "sample_format": "s16"}, {}),
        ("wma", 44_100, {"codec": "wmav2", "bit_rate": 64_000}, {}),
        ("mpg", 44_100, {"codec": "mp2", "sample_format": "s16"}, {}),
        ("m4a", 16_000, {}, {"movflags": "+faststart"}),
        ("mp4", 16_000, {}, {"movflags": "+frag_keyframe+empty_moov", "frag_duration": "500000"}),
    ],
)
def test_a_cut_file_is_noticed_and_what_is_there_is_taken(tmp_path, suffix, rate_hz, kind, options):
    path = write_sounds(tmp_path / f"whole.{suffix}", sound(rate_hz, **kind), options=options)
    assert "truncated" not in load_audio(path).warning
    content = path.read_bytes()
    recording = loaded(tmp_path, f"cut.{suffix}", content[: int(0.75 * len(content)) + 5])
    assert "truncated" in recording.warning
    assert 0.5 * SECONDS < float(recording.duration) < 0.9 * SECONDS
    # Priming that nothing in the file states is heard: LAME's without its tag, AAC's without an edit list.
    unstated = {"write_xing": 401, "frag_duration": 1024, "aac": 372, "amr": 160, "wma": 1024, "mpg": 481}
    assert abs(lag(recording.samples, SPEECH)) <= max(16, *(unstated.get(key, 0) for key in (suffix, *options)))


def rf64(sound_bytes: int, whole_bytes: int, content: bytes, name: bytes = b"RF64") -> bytes:
    """16 kHz, mono, 16 bit, with these sizes in its header."""
    sizes = b"ds64" + struct.pack("<IQQQI", 28, whole_bytes, sound_bytes, 0, 0)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    return name + b"\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff" + content


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_the_64_bit_sizes_of_a_wav_are_read(tmp_path, name):
    pcm = (SPEECH * 2**15).astype("<i2").tobytes()
    whole = (len(pcm), len(pcm) + 72)
    assert loaded(tmp_path, "whole.wav", rf64(*whole, pcm, name)).warning == ""
    cut = loaded(tmp_path, "cut.wav", rf64(*whole, pcm[: len(pcm) // 5 * 3], name))
    assert "truncated" in cut.warning and float(cut.duration) == pytest.approx(0.6 * SECONDS, abs=0.01)
    with pytest.raises(InputError, match="truncated: its header promises"):
        loaded(tmp_path, "cut.wav", rf64(*whole, pcm[: len(pcm) // 5], name))
    with pytest.raises(InputError, match="its header was never finished"):
        loaded(tmp_path, "off.wav", rf64(0, 0, pcm, name))


def test_a_flac_that_was_cut_without_encoding_it_is_taken_however_short(tmp_path):
    """It ends with a whole frame, and its header still has the old length."""
    path = write_sounds(tmp_path / "whole.flac", sound(codec="flac", sample_format="s16"))
    content = path.read_bytes()
    with av.open(str(path)) as container:
        frames = [packet.pos for packet in container.demux() if packet.pts is not None]
    third = frames[len(frames) // 3]
    recording = loaded(tmp_path, "cut.flac", content[:third])
    assert float(recording.duration) == pytest.approx(SECONDS / 3, abs=0.3)
    assert "its header promises 6.92 s" in recording.warning
    with pytest.raises(InputError, match="less than half of its sound is left"):
        loaded(tmp_path, "truncated.flac", content[: third + 200])


def test_a_cut_film_of_fragments_names_no_size_of_the_whole(tmp_path):
    options = {"movflags": "+frag_keyframe+empty_moov", "frag_duration": "500000"}
    content = write_sounds(tmp_path / "whole.mp4", sound(), options=options).read_bytes()
    recording = loaded(tmp_path, "cut.mp4", content[: len(content) * 3 // 4])
    assert "it ends in the middle of a fragment" in recording.warning


def test_a_cut_file_of_less_than_half_is_refused(tmp_path, mp3, webm):
    for name, content in (("cut.mp3", mp3), ("cut.webm", webm)):
        with pytest.raises(InputError, match="truncated: its header promises"):
            loaded(tmp_path, name, content[: len(content) // 3])


def test_room_that_a_download_never_filled_is_missing(tmp_path, mp3):
    """A file that took its whole length in advance: what was not written is zeros, and the header's length fits."""
    for share, missing in ((0.7, "truncated"), (0.999, "")):
        recording = loaded(tmp_path, "stopped.mp3", mp3[: int(share * len(mp3))].ljust(len(mp3), b"\0"))
        assert missing in recording.warning and float(recording.duration) == pytest.approx(share * SECONDS, abs=0.2)
    with pytest.raises(InputError, match="are zeros"):
        loaded(tmp_path, "stopped.mp3", mp3[: len(mp3) // 3].ljust(len(mp3), b"\0"))


def test_a_segment_that_ends_in_zeros_is_missing_its_end(tmp_path, webm):
    recording = loaded(tmp_path, "stopped.webm", webm[: int(0.7 * len(webm))].ljust(len(webm), b"\0"))
    assert "are zeros" in recording.warning and float(recording.duration) == pytest.approx(0.7 * SECONDS, abs=0.3)
    with pytest.raises(InputError, match="are zeros"):
        loaded(tmp_path, "stopped.webm", webm[: len(webm) // 3].ljust(len(webm), b"\0"))
    # Room that a tagger left is an element of its own; a hole in the middle is no missing end.
    room = b"\xec" + (0x10000000 | 9_000).to_bytes(4, "big") + bytes(9_000)
    at = webm.index(b"\x18S\x80g") + 4
    size = int.from_bytes(webm[at : at + 8], "big") & ((1 << 56) - 1)
    roomy = webm[:at] + ((1 << 56) | size + len(room)).to_bytes(8, "big") + webm[at + 8 :] + room
    assert loaded(tmp_path, "roomy.webm", roomy).warning == ""
    hole = webm[: len(webm) // 2] + bytes(len(webm) // 5) + webm[len(webm) // 2 + len(webm) // 5 :]
    assert "truncated" not in loaded(tmp_path, "hole.webm", hole).warning


def test_sound_behind_the_length_that_a_wav_states_is_told(tmp_path):
    """A recorder that writes its header now and then, and was switched off."""
    content = write_sounds(tmp_path / "whole.wav", sound(codec="pcm_s16le", sample_format="s16")).read_bytes()
    at = content.index(b"data") + 4
    half = content[:at] + (len(SPEECH) & ~1).to_bytes(4, "little") + content[at + 4 :]
    behind = loaded(tmp_path, "half.wav", half)
    assert float(behind.duration) == pytest.approx(SECONDS / 2, abs=0.001)
    assert "behind which lie" in behind.warning and behind.warning.count("\n") == 0
    for tail in (b"LIST" + (60_000).to_bytes(4, "little") + bytes(60_000), np.random.default_rng(0).bytes(9_000)):
        assert loaded(tmp_path, "tail.wav", content + tail).warning == ""


def test_a_film_without_its_index_says_so(tmp_path):
    path = write_sounds(tmp_path / "whole.m4a", sound())
    content = path.read_bytes()
    with pytest.raises(InputError, match="truncated: its index"):
        loaded(tmp_path, "cut.m4a", content[: int(0.8 * len(content))])


def test_junk_behind_a_container_does_not_make_it_truncated(tmp_path, webm):
    whole = write_sounds(tmp_path / "whole.m4a", sound()).read_bytes()
    for name, content in (("junk.m4a", whole), ("junk.webm", webm)):
        for junk in (bytes(3_000), b"TAG" + bytes(125), b"some words that are no box at all" * 9):
            assert loaded(tmp_path, name, content + junk).warning == ""


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "kind"),
    [
        ("avi", 44_100, {}),
        ("wav", 16_000, {"codec": "flac", "sample_format": "s16"}),
        ("wav", 16_000, {"codec": "g722", "sample_format": "s16"}),
    ],
)
def test_a_codec_whose_tag_is_no_text_is_taken(tmp_path, suffix, rate_hz, kind):
    recording = load_audio(write_sounds(tmp_path / f"tag.{suffix}", sound(rate_hz, **kind)))
    assert recording.warning == ""
    assert abs(lag(recording.samples, SPEECH)) <= 0.08 * 16_000
    assert level_db(recording.samples) == pytest.approx(level_db(SPEECH), abs=1)


# -------------------------------------------------------------------------------------------------- hostile files


def claim(content: bytes, **fields: int) -> bytes:
    """A WAV header that states other numbers: rate, channels."""
    at = content.index(b"fmt ") + 8
    changed = bytearray(content)
    if "channels" in fields:
        changed[at + 2 : at + 4] = fields["channels"].to_bytes(2, "little")
    if "rate_hz" in fields:
        changed[at + 4 : at + 8] = fields["rate_hz"].to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize("channels", [1, 255, 512, 65_535])
@pytest.mark.parametrize("rate_hz", [1, 999, 1_000, 768_000, 10**9, 2**32 - 1])
def test_a_header_that_claims_too_much_is_cheap(tmp_path, channels, rate_hz):
    path = write_sounds(tmp_path / "plain.wav", sound(codec="pcm_s16le", sample_format="s16"))
    content = claim(path.read_bytes(), channels=channels, rate_hz=rate_hz)
    tracemalloc.start()
    try:
        loaded(tmp_path, "claims.wav", content)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_silence_that_unpacks_without_end_is_too_long(tmp_path):
    hour = np.zeros(16_000 * 70, np.float32)
    path = write_sounds(tmp_path / "bomb.flac", Sound(hour, codec="flac", sample_format="s16"))
    with pytest.raises(InputError, match="longer than 60 s"):
        load_audio(path, max_seconds=60)


def test_memory_grows_with_the_result_alone(tmp_path):
    long = np.tile(SPEECH, 20)
    path = write_sounds(tmp_path / "long.flac", Sound(long, codec="flac", sample_format="s16"))
    tracemalloc.start()
    samples = load_audio(path).samples
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == len(long)
    assert peak < 1.3 * samples.nbytes + 4 * 2**20


class Stumbling:
    """A demuxer that fails between packets, as PyAV does when a stream begins after the file was opened."""

    def __init__(self, errors: list[Exception]) -> None:
        self.left = [*errors, "last"]

    def demux(self, stream):
        while self.left:
            item = self.left.pop(0)
            if isinstance(item, Exception):
                raise item
            yield item


def test_a_demuxer_that_stumbles_goes_on_and_one_that_is_stuck_ends():
    later = [IndexError()] * 500
    tally = decoding.Tally()
    assert list(decoding._packets(Stumbling(later), None, tally)) == ["last"]
    damaged = [av.InvalidDataError(1, "damaged")] * (decoding.MOST_DEMUX_ERRORS - 1)
    assert list(decoding._packets(Stumbling(damaged), None, tally)) == ["last"]
    assert not tally.stuck
    assert list(decoding._packets(Stumbling([*damaged, *damaged]), None, tally)) == []
    assert tally.stuck
