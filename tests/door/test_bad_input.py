"""Files as they come: each gives the right result or one clear line (what, where, what to do), never a traceback."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.door.inputs import heard, resolved, seen_and_heard
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.errors import InputError
from specsync_lib.speech.audio import Recording, load_audio, write_flac

RATE_HZ = 16_000
TONE = 0.5 * np.sin(2 * np.pi * 200 * np.arange(RATE_HZ) / RATE_HZ)
PCM16 = (TONE * 2**15).astype("<i2").tobytes()
MAKERS = {}  # file name -> (function that gives its bytes, what the error says; None: it decodes)


def wav(data: bytes, *, rate_hz=RATE_HZ, channels=1, bits=16, tag=1, data_bytes=None, align=None) -> bytes:
    """A WAV file with whatever its header is told to say."""
    align = channels * bits // 8 if align is None else align
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * align & 0xFFFFFFFF, align, bits)
    size = len(data) if data_bytes is None else data_bytes
    riff_bytes = min(20 + len(form) + size, 0xFFFFFFFF)
    return (
        b"RIFF"
        + struct.pack("<I", riff_bytes)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + (b"data" + struct.pack("<I", size) + data)
    )


def floats(values: np.ndarray, dtype: str = "<f4") -> bytes:
    return wav(values.astype(dtype).tobytes(), bits=np.dtype(dtype).itemsize * 8, tag=3)


def with_value(value: float) -> np.ndarray:
    samples = TONE.copy()
    samples[RATE_HZ // 2] = value
    return samples


def flac(folder) -> bytes:
    write_flac(folder / "whole.flac", TONE)
    return (folder / "whole.flac").read_bytes()


def pcm24() -> bytes:
    return (TONE * 2**31).astype("<i4").view("u1").reshape(-1, 4)[:, 1:].tobytes()


GOOD = {
    "16-bit.wav": lambda _: wav(PCM16),
    "8-bit.wav": lambda _: wav((128 + 127 * TONE).astype("u1").tobytes(), bits=8),
    "24-bit.wav": lambda _: wav(pcm24(), bits=24),
    "float64.wav": lambda _: floats(TONE, "<f8"),
    "eight channels.wav": lambda _: wav(np.repeat((TONE * 2**15).astype("<i2"), 8).tobytes(), channels=8),
    "1 kHz.wav": lambda _: wav((TONE[::16] * 2**15).astype("<i2").tobytes(), rate_hz=1_000),
    "384 kHz.wav": lambda _: wav(
        (0.5 * np.sin(2 * np.pi * 200 * np.arange(384_000) / 384_000) * 2**15).astype("<i2").tobytes(), rate_hz=384_000
    ),
    "silence.wav": lambda _: wav(bytes(2 * RATE_HZ)),
    "one video frame.wav": lambda _: wav(PCM16[: 2 * 534]),
    "wrong extension.mp3": lambda _: wav(PCM16),
    "wrong extension.txt": lambda _: wav(PCM16),
    "no extension": flac,
    "flac named wav.wav": flac,
    "with spaces.wav": lambda _: wav(PCM16),
    "quote' and \" double.wav": lambda _: wav(PCM16),
    "a; touch injected; .wav": lambda _: wav(PCM16),
    "$(touch injected).wav": lambda _: wav(PCM16),
    "-y.wav": lambda _: wav(PCM16),
    "concat:a|b.wav": lambda _: wav(PCM16),
    "new\nline.wav": lambda _: wav(PCM16),
    "größe 音声.wav": lambda _: wav(PCM16),
    "streamed, length unknown.wav": lambda _: wav(PCM16, data_bytes=0xFFFFFFFF),
}
BAD = {
    "empty.wav": (lambda _: b"", "is empty"),
    "one sample.wav": (lambda _: wav(PCM16[:2]), "0.06 ms"),
    "header only.wav": (lambda _: wav(b""), None),
    "cut header.wav": (lambda _: wav(PCM16)[:30], None),
    "truncated.wav": (lambda _: wav(PCM16)[:12_000], "truncated"),
    "truncated.flac": (lambda folder: flac(folder)[:6_000], None),
    "header promises more.wav": (lambda _: wav(PCM16, data_bytes=10 * len(PCM16)), "truncated"),
    "no channels.wav": (lambda _: wav(PCM16, channels=0, align=2), None),
    "65535 channels.wav": (lambda _: wav(PCM16, channels=60_000, align=2), None),
    "rate 0.wav": (lambda _: wav(PCM16, rate_hz=0), None),
    "rate 4 GHz.wav": (lambda _: wav(PCM16, rate_hz=0xFFFFFFFF), None),
    "unknown codec.wav": (lambda _: wav(PCM16, tag=0x1234), None),
    "nan.wav": (lambda _: floats(with_value(np.nan)), "NaN"),
    "inf.wav": (lambda _: floats(with_value(np.inf)), "NaN or infinite"),
    "inf double.wav": (lambda _: floats(with_value(-np.inf), "<f8"), "NaN or infinite"),
    "nan throughout.wav": (lambda _: floats(np.full(RATE_HZ, np.nan)), "NaN"),
    "integers as floats.wav": (lambda _: floats(TONE * 2**15), "full scale"),
    "page.mp3": (lambda _: b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "film without index.mp4": (lambda _: b"\0\0\0\x18ftypisom" + bytes(12) + b"\0\0\xff\xffmdat" + bytes(900), "index"),
    "box without end.mp4": (lambda _: b"\0\0\0\x10ftypisom" + bytes(4) + b"\0\0\0\1free" + b"\xff" * 90, None),
    "512 channels.wav": (lambda _: wav(PCM16, channels=512, align=1024, rate_hz=10**9), None),
    "text.wav": (lambda _: b"not a sound at all\n" * 100, "cannot be decoded"),
    "zeros.mp3": (lambda _: bytes(50_000), "unfinished copy"),
    "noise.mp3": (lambda _: np.random.default_rng(0).bytes(50_000), None),
    "picture.png": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100), None),
    "list.m3u": (lambda _: b"#EXTM3U\n16-bit.wav\n", "playlist"),
    "bare list.m3u": (lambda _: b"16-bit.wav\n", None),
    "stream.m3u8": (
        lambda _: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "playlist",
    ),
    "hidden stream.wav": (lambda _: b"\n#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", None),
    "list.ffconcat": (lambda _: b"ffconcat version 1.0\nfile '/etc/passwd'\n", "playlist"),
    "manifest.mpd": (lambda _: b"<?xml version='1.0'?><MPD profiles='urn:mpeg:dash:profile'></MPD>", "playlist"),
    "marked stream.m3u8": (lambda _: b"\xef\xbb\xbf\r\n#EXTM3U\n#EXTINF:1,\na.ts\n", "playlist"),
    "capitals.pls": (lambda _: b"[Playlist]\nFile1=16-bit.wav\n", "playlist"),
    "denied.mp3": (lambda _: b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "failed download"),
    "page behind blank lines.mp3": (lambda _: b"\r\n\r\n<!DOCTYPE html><html></html>", "web page"),
    "session.sdp": (lambda _: b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n", None),
    "big-endian.wav": (lambda _: b"RIFX" + wav(PCM16)[4:], "big-endian"),
    "list.pls": (lambda _: b"[playlist]\nFile1=16-bit.wav\n", "playlist"),
}


def one_line(error: InputError) -> str:
    line = str(error)
    assert "\n" not in line
    assert 10 < len(line) < 600
    return line


@pytest.mark.parametrize("name", GOOD)
def test_odd_but_valid_files_decode(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(GOOD[name](tmp_path))
    before = set(tmp_path.iterdir())
    recording = load_audio(name)  # relative: a leading "-" must not be an option
    assert recording.source == name
    assert recording.samples.dtype == np.float32
    if "silence" in name:
        assert not recording.samples.any()
    elif name != "one video frame.wav":
        assert len(recording.samples) == RATE_HZ
        assert np.abs(recording.samples[4_000:12_000] - TONE[4_000:12_000]).max() < 0.02
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_line(tmp_path, capfd, name):
    make, expected = BAD[name]
    path = tmp_path / name
    path.write_bytes(make(tmp_path))
    with pytest.raises(InputError) as caught:
        load_audio(path)
    line = one_line(caught.value)
    assert name in line
    assert expected is None or expected in line
    assert capfd.readouterr() == ("", "")  # the decoder's own chatter is not for the user


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing.wav", "does not exist"),
        ("", "is a directory"),
        (".", "is a directory"),
        ("https://example.com/a.wav", "is an address"),
        ("rtsp://127.0.0.1/a", "is an address"),
        ("concat:a.wav|b.wav", "does not exist"),
        ("pipe:0", "does not exist"),
        ("a\0b.wav", "does not exist|not a path"),
        ("x" * 5_000, "cannot be read"),
        ("/dev/zero", "not a regular file"),
    ],
)
def test_what_is_not_a_file_gives_one_line(tmp_path, monkeypatch, path, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=expected) as caught:
        load_audio(path)
    one_line(caught.value)


@pytest.mark.parametrize("path", ["missing.wav", ".", "x" * 5_000, "/dev/zero"])
def test_a_run_looks_at_a_recording_before_it_hears_it_and_leaves_the_line_to_hearing(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        seen_and_heard(parse_arguments(["-p", f"audio={path}"]))
    one_line(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_gives_one_line(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(wav(PCM16))
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        load_audio(path)


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_files_give_a_recording_or_one_line(tmp_path_factory, data):
    """Any cut and any few flipped bytes of a WAV or FLAC: a finite recording, or an InputError, nothing else."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = {"wav": wav(PCM16[:4_000]), "float": floats(TONE[:2_000]), "flac": flac(folder)}
    content = bytearray(whole[data.draw(st.sampled_from(sorted(whole)))])
    for position in data.draw(st.lists(st.integers(0, min(len(content), 200) - 1), max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    path = folder / "damaged.bin"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        recording = load_audio(path)
    except InputError as error:
        one_line(error)
    else:
        assert isinstance(recording, Recording)
        assert np.isfinite(recording.samples).all()
        assert np.abs(recording.samples).max() <= 1


def test_the_door_tells_what_is_odd_and_passes_the_whole_path_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cut.wav").write_bytes(wav(PCM16)[:22_000])
    options = parse_arguments(["-p", "audio=~/cut.wav", "-p", "track=1", "-p", "device=cpu"])
    assert resolved(options).values["audio"] == str(tmp_path / "cut.wav")
    digest, seconds = heard(options)
    assert len(digest) == 64
    assert 0.6 < seconds < 0.7
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("specsync: '~/cut.wav': it is truncated")
    with pytest.raises(InputError, match="has no track 2, it has 1 sound track: 1"):
        heard(parse_arguments(["-p", "audio=~/cut.wav", "-p", "track=2"]))


def test_there_are_enough_bad_inputs():
    assert len(GOOD) + len(BAD) >= 30
