"""Decoding: right samples from every container, rate and channel count, and files written whole."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.speech import audio
from specsync_lib.speech.audio import Recording, load_audio, local_file, shown_name, write_flac
from tests.toys.sounds import Sound, write_sounds


def tone(rate_hz: int, seconds: float = 1.0, hz: float = 200.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate_hz * seconds)) / rate_hz)


def encode(path, samples, rate_hz, codec, sample_format, layout="mono", picture_s=0) -> None:
    """Write [channels, n] samples, with a still picture if asked to."""
    sound = Sound(samples, rate_hz, codec, sample_format, layout)
    write_sounds(path, sound, picture_s=picture_s)


def amplitude_and_phase(samples: np.ndarray, hz: float = 200.0) -> complex:
    """The complex amplitude of a sine at ``hz`` (0.5 for :func:`tone`), from the middle half of the recording."""
    time_s = np.arange(len(samples)) / 16_000
    middle = slice(len(samples) // 4, len(samples) // 4 + 8_000)
    return 2j * np.mean(samples[middle] * np.exp(-2j * np.pi * hz * time_s[middle]))


@pytest.mark.parametrize(
    ("suffix", "codec", "sample_format", "tolerance"),
    [
        (".wav", "pcm_u8", "u8", 1e-2),
        (".wav", "pcm_s16le", "s16", 1e-3),
        (".wav", "pcm_s24le", "s32", 1e-3),
        (".wav", "pcm_f32le", "flt", 1e-3),
        (".wav", "pcm_f64le", "dbl", 1e-3),
        (".flac", "flac", "s16", 1e-3),
        (".mp3", "libmp3lame", "s16p", 3e-2),
        (".m4a", "aac", "fltp", 2e-2),
        (".ogg", "libopus", "flt", 5e-2),
        (".opus", "libopus", "flt", 5e-2),
    ],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_every_container_gives_the_same_tone(tmp_path, suffix, codec, sample_format, tolerance, layout):
    path = tmp_path / f"tone{suffix}"
    encode(path, np.tile(tone(48_000, 2.0), (2 if layout == "stereo" else 1, 1)), 48_000, codec, sample_format, layout)
    recording = load_audio(path)
    assert abs(recording.duration - 2) < Fraction(6, 100)  # lossy codecs pad to their frame
    assert abs(abs(amplitude_and_phase(recording.samples)) - 0.5) < tolerance


@pytest.mark.parametrize("rate_hz", [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 96_000, 384_000])
def test_every_rate_keeps_time_and_level(tmp_path, rate_hz):
    path = tmp_path / "tone.wav"
    encode(path, tone(rate_hz, 2.0)[None], rate_hz, "pcm_f32le", "flt")
    recording = load_audio(path)
    assert len(recording.samples) == 32_000
    assert recording.frame_count == 60
    assert abs(amplitude_and_phase(recording.samples) - 0.5) < 2e-3  # a shift of one sample would turn it by 0.04


def test_sound_of_a_video(tmp_path):
    path = tmp_path / "film.mp4"
    encode(path, tone(44_100, 1.0)[None], 44_100, "aac", "fltp", picture_s=1)
    assert abs(abs(amplitude_and_phase(load_audio(path).samples)) - 0.5) < 2e-2


def test_raw_g722_is_decoded_by_its_suffix(tmp_path):
    path = tmp_path / "prompt.g722"
    encode(path, tone(16_000)[None], 16_000, "g722", "s16")
    recording = load_audio(path)
    assert len(recording.samples) == 16_000
    assert abs(abs(amplitude_and_phase(recording.samples)) - 0.5) < 2e-2


def test_a_container_named_g722_is_decoded_as_what_it_is(tmp_path):
    write_flac(tmp_path / "tone.flac", tone(16_000))
    renamed = (tmp_path / "tone.flac").rename(tmp_path / "tone.g722")
    assert load_audio(renamed).samples == pytest.approx(tone(16_000), abs=2**-15)


def test_slight_overshoot_is_clipped(tmp_path):
    path = tmp_path / "hot.wav"
    encode(path, 3 * tone(16_000)[None], 16_000, "pcm_f32le", "flt")
    recording = load_audio(path)
    assert recording.samples.max() == 1
    assert recording.samples.min() == -1
    assert "of its samples lie beyond full scale and are clipped" in recording.warning


@pytest.mark.parametrize(("peak", "codec", "sample_format"), [(1.02, "pcm_f32le", "flt"), (9.0, "pcm_s16le", "s16")])
def test_what_overshoots_a_little_or_was_clipped_before_is_no_news(tmp_path, peak, codec, sample_format):
    path = tmp_path / "hot.wav"
    encode(path, 2 * peak * tone(44_100)[None], 44_100, codec, sample_format)
    assert load_audio(path).warning == ""


@settings(max_examples=20)
@given(pcm=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=300, max_size=9_000))
def test_flac_returns_sixteen_bit_sound_bit_for_bit(tmp_path_factory, pcm):
    path = tmp_path_factory.mktemp("flac") / "x.flac"
    samples = np.array(pcm, np.float32) / 2**15
    write_flac(path, samples)
    assert np.array_equal(load_audio(path).samples, samples)


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "x.flac"
    write_flac(path, tone(16_000))
    before = path.read_bytes()
    monkeypatch.setattr(audio.av.AudioFrame, "from_ndarray", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_flac(path, tone(16_000))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_limit_on_length(tmp_path):
    path = tmp_path / "two.flac"
    write_flac(path, tone(16_000, 2.0))
    assert len(load_audio(path, max_seconds=2).samples) == 32_000
    with pytest.raises(InputError, match="longer than"):
        load_audio(path, max_seconds=1.5)


def test_duration_and_frames_are_exact():
    recording = Recording(np.zeros(16_001, np.float32), "x")
    assert recording.duration == Fraction(16_001, 16_000)
    assert recording.frame_count == 30


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_flac(tmp_path / "mine.flac", tone(16_000))
    assert len(load_audio("~/mine.flac").samples) == 16_000
    assert local_file("~/mine.flac")[0] == tmp_path / "mine.flac"
    with pytest.raises(InputError, match=r"'~/missing\.flac' does not exist"):
        load_audio("~/missing.flac")
    with pytest.raises(InputError, match="this account has no such home"):
        load_audio("~nobody_of_this_name/x.flac")


@pytest.mark.parametrize("name", ["~", "~x.flac", "http:/a.flac", "x:/y/z.flac"])
def test_a_file_that_is_there_is_taken_whatever_it_is_called(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_flac(tmp_path / "tone.flac", tone(16_000))
    (tmp_path / "tone.flac").rename(name)
    assert len(load_audio(name).samples) == 16_000


def test_a_name_that_is_no_text_can_be_shown(tmp_path):
    name = b"caf\xe9.flac".decode(errors="surrogateescape")
    write_flac(tmp_path / "tone.flac", tone(16_000))
    (tmp_path / "tone.flac").rename(tmp_path / name)
    assert load_audio(tmp_path / name).source == shown_name(name) == "caf\ufffd.flac"
    with pytest.raises(InputError) as caught:
        load_audio(tmp_path / name, max_seconds=0.5)
    str(caught.value).encode("ascii", errors="strict")
