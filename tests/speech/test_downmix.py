"""Channels to one: by layout, at the level of mono, and never so that speech cancels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.downmix import BLOCK_S, Downmix, weights
from tests.toys.sounds import Sound, lag, level_db, speech, write_sounds

SPEECH = speech()
BLOCK = round(BLOCK_S * 16_000)
WAV = {"codec": "pcm_f32le", "sample_format": "flt"}
FIVE_ONE = ("FL", "FR", "FC", "LFE", "BL", "BR")


def mixed(channels: np.ndarray, names: tuple[str, ...], cuts: list[int] | None = None) -> np.ndarray:
    """[channels, n] to mono in pieces."""
    mixer = Downmix(names, 16_000)
    pieces = np.split(channels.T.astype(np.float32), sorted(cuts or []))
    return np.concatenate([*(block for piece in pieces for block in mixer.push(piece)), *mixer.flush()])


@pytest.mark.parametrize("layout", ["5.1", "5.1(side)", "7.1"])
def test_speech_in_the_centre_comes_out_at_mono_level(tmp_path, layout):
    channels = np.zeros((8 if layout == "7.1" else 6, len(SPEECH)))
    channels[2] = SPEECH  # FL FR FC LFE ...
    recording = load_audio(write_sounds(tmp_path / "film.wav", Sound(channels, layout=layout, **WAV)))
    assert np.abs(recording.samples - SPEECH).max() < 1e-6
    assert recording.warning == ""
    coded = load_audio(write_sounds(tmp_path / "film.m4a", Sound(channels, layout=layout)))
    assert level_db(coded.samples) == pytest.approx(level_db(SPEECH), abs=0.5)


def test_the_low_frequency_channel_is_not_heard():
    rumble = 0.9 * np.sin(2 * np.pi * 50 * np.arange(len(SPEECH)) / 16_000)
    quiet = np.zeros_like(SPEECH)
    assert np.array_equal(mixed(np.stack([quiet, quiet, SPEECH, rumble, quiet, quiet]), FIVE_ONE), SPEECH)


@pytest.mark.parametrize(("layout", "count", "low"), [("5.1", 6, 3), ("2.1", 3, 2), ("7.1", 8, 3)])
def test_speech_that_lies_in_the_low_frequency_channel_alone_is_heard(tmp_path, layout, count, low):
    channels = np.zeros((count, len(SPEECH)))
    channels[low] = SPEECH
    recording = load_audio(write_sounds(tmp_path / "film.wav", Sound(channels, layout=layout, **WAV)))
    assert np.abs(recording.samples - SPEECH).max() < 1e-6
    assert recording.warning == ""


def test_a_channel_that_is_late_is_told_as_what_it_may_be(tmp_path):
    channels = np.stack([SPEECH, np.concatenate([np.zeros(16), SPEECH[:-16]])])
    recording = load_audio(write_sounds(tmp_path / "late.wav", Sound(channels, layout="stereo", **WAV)))
    assert "would cancel (opposite in phase, or one late)" in recording.warning


def test_the_centre_is_heard_before_fronts_and_surrounds():
    order = [weights(("FL", "FR", "FC", "LFE", "SL", "SR"))[at] for at in (2, 0, 4, 3)]
    assert order == sorted(order, reverse=True)
    assert order[-1] == 0


@pytest.mark.parametrize("count", [3, 4, 8])
def test_the_same_sound_in_all_of_many_channels_keeps_its_level(count):
    """Discrete microphones, a 7.1 made of mono: neither a sum that clips nor an average that drowns."""
    named = ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR") if count == 8 else ("",) * count
    result = mixed(np.tile(SPEECH, (count, 1)), named)
    assert level_db(result) == pytest.approx(level_db(SPEECH), abs=0.3)
    one = mixed(np.stack([SPEECH, *np.zeros((count - 1, len(SPEECH)))]), ("",) * count)
    assert level_db(one) == pytest.approx(level_db(SPEECH), abs=0.3)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_mono_and_stereo_are_averaged(tmp_path, layout):
    count = 2 if layout == "stereo" else 1
    channels = np.stack([SPEECH, 0.25 * SPEECH[::-1]])[:count]
    recording = load_audio(write_sounds(tmp_path / "plain.wav", Sound(channels, layout=layout, **WAV)))
    assert np.abs(recording.samples - channels.mean(axis=0)).max() < 1e-6
    assert recording.warning == ""


@pytest.mark.parametrize("share", [1.0, 0.98, 0.9, 0.5, 0.2])
@pytest.mark.parametrize("inverted", [0, 1])
def test_an_inverted_channel_does_not_cancel_speech(tmp_path, share, inverted):
    channels = np.stack([SPEECH, SPEECH])
    channels[inverted] *= -share
    recording = load_audio(write_sounds(tmp_path / "inverted.wav", Sound(channels, layout="stereo", **WAV)))
    assert level_db(recording.samples) == pytest.approx(level_db(SPEECH), abs=0.1)
    assert lag(np.abs(recording.samples), np.abs(SPEECH)) == 0
    assert recording.warning.count("opposite in phase") == 1


@pytest.mark.parametrize("offset", [0.05, 0.3])
def test_a_constant_offset_does_not_hide_that_channels_cancel(tmp_path, offset):
    channels = np.stack([SPEECH + offset, offset - SPEECH])
    recording = load_audio(write_sounds(tmp_path / "offset.wav", Sound(channels, layout="stereo", **WAV)))
    heard = recording.samples - recording.samples.mean()
    assert abs(np.corrcoef(heard, SPEECH)[0, 1]) > 0.999
    assert level_db(heard) == pytest.approx(level_db(SPEECH), abs=0.1)
    assert "opposite in phase" in recording.warning


def test_speech_in_the_middle_of_opposite_music_is_kept():
    """A difference of the channels would be loud and hold no word."""
    rng = np.random.default_rng(0)
    music = 3 * SPEECH.std() * rng.standard_normal(len(SPEECH))
    result = mixed(np.stack([SPEECH + music, SPEECH - music]), ("FL", "FR"))
    later = slice(2 * BLOCK, None)  # speech prevails in the first block
    assert np.abs((result - SPEECH - music)[later]).max() < 1e-5
    assert result @ SPEECH / (SPEECH @ SPEECH) == pytest.approx(1, abs=0.1)


def test_a_part_that_is_inverted_is_heard_like_the_rest():
    channels = np.stack([SPEECH, SPEECH])
    channels[1, 40_000:80_000] *= -1
    result = mixed(channels, ("FL", "FR"))
    assert level_db(result) == pytest.approx(level_db(SPEECH), abs=0.1)
    assert level_db(result[40_000:80_000]) == pytest.approx(level_db(SPEECH[40_000:80_000]), abs=0.3)


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), count=st.sampled_from([2, 2, 3, 6, 8]))
def test_a_mix_never_cancels(data, seed, count):
    """Any gains, signs and noise, changing on the way: every block keeps a fixed part of what its channels hold."""
    rng = np.random.default_rng(seed)
    names = {2: ("FL", "FR"), 3: ("", "", ""), 6: FIVE_ONE, 8: ("",) * 8}[count]
    blocks, channels = 8, []
    for _ in range(blocks):
        source = rng.standard_normal(BLOCK) * 10 ** rng.uniform(-3, -1)
        gains = [data.draw(st.sampled_from([0.0, 1.0, -1.0, -0.98, 0.5, -0.3, 0.05])) for _ in range(count)]
        noise = rng.standard_normal((count, BLOCK)) * source.std() * data.draw(st.sampled_from([0, 0.01, 0.3]))
        channels.append(np.outer(gains, source) + noise)
    channels = np.concatenate(channels, axis=1)
    result = mixed(channels, names)
    assert len(result) == channels.shape[1]
    for begin in range(0, channels.shape[1], BLOCK):
        piece = slice(begin, begin + BLOCK)
        heard = weights(names)
        loudest = max((channels[at, piece] ** 2).mean() for at in range(count) if heard[at] > 0)
        kept = (result[piece] ** 2).mean()
        assert kept >= loudest / 40, f"{10 * np.log10(kept / loudest):.1f} dB of the loudest channel is left"


@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(0, len(SPEECH)), max_size=20),
    names=st.sampled_from([("FC",), ("FL", "FR"), ("", "", "")]),
)
def test_how_the_sound_is_cut_does_not_matter(cuts, names):
    channels = np.stack([SPEECH, -0.9 * SPEECH, SPEECH[::-1]])[: len(names)]
    assert np.array_equal(mixed(channels, names, cuts), mixed(channels, names))
