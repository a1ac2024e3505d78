"""Of several sound tracks the best one that decodes is taken; a number chooses, and a wrong one is one line."""

import re

import numpy as np
import pytest

from specsync_lib.errors import InputError
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.tracks import speech_score
from tests.toys.sounds import Sound, between, level_db, speech, write_sounds

SPEECH = speech()
OTHER = speech("narrative")
RNG = np.random.default_rng(0)
TIME_S = np.arange(len(SPEECH)) / 16_000
MUSIC = sum(0.1 * np.sin(2 * np.pi * hz * TIME_S) for hz in (220, 277, 330)) * (1 + 0.2 * np.sin(2 * np.pi * TIME_S))
SOUNDS = {"speech": SPEECH, "other": OTHER, "music": MUSIC, "hiss": 0.1 * RNG.standard_normal(len(SPEECH))}
SILENCE = np.zeros(len(SPEECH), np.float32)


def which(samples: np.ndarray) -> str:
    """The sound whose level over time this is."""
    count = min(len(samples), *map(len, SOUNDS.values())) // 1600
    shape = np.log(np.square(samples[: count * 1600]).reshape(count, -1).mean(axis=1) + 1e-8)
    near = {
        name: np.abs(shape - np.log(np.square(x[: count * 1600]).reshape(count, -1).mean(axis=1) + 1e-8)).mean()
        for name, x in SOUNDS.items()
    }
    return min(near, key=near.get)


def film(path, *tracks) -> str:
    """What is heard of a film whose tracks are (sound, options)."""
    sounds = [Sound(SOUNDS[name], **options) for name, options in tracks]
    return which(load_audio(write_sounds(path, *sounds)).samples)


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
@pytest.mark.parametrize(
    ("tracks", "heard"),
    [
        ([("other", {"language": "fra"}), ("speech", {"language": "eng"})], "speech"),
        ([("other", {"language": "fra", "default": True}), ("speech", {"language": "eng"})], "speech"),
        ([("other", {"language": "eng"}), ("speech", {"language": "eng", "default": True})], "speech"),
        ([("music", {}), ("speech", {})], "speech"),
        ([("hiss", {}), ("speech", {})], "speech"),
        ([("speech", {}), ("hiss", {}), ("music", {})], "speech"),
        ([("speech", {}), ("other", {"default": True})], "other"),
        ([("music", {"language": "fra"}), ("speech", {"language": "fra"})], "speech"),
    ],
)
def test_language_then_default_then_speech(tmp_path, suffix, tracks, heard):
    if suffix == "mov" and not any("default" in options for _, options in tracks):
        tracks = [(name, options | {"default": True}) for name, options in tracks]  # a MOV has at least one
    assert film(tmp_path / f"film.{suffix}", *tracks) == heard


@pytest.mark.parametrize("language", ["en-US", "en-GB", "EN", "eng", "English", "en_AU"])
def test_a_region_does_not_make_a_language_foreign(tmp_path, language):
    other = ("other", {"language": "fra", "default": True})
    assert film(tmp_path / "film.mkv", other, ("speech", {"language": language})) == "speech"


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("language", ["eng", "fra"])
def test_a_silent_track_gives_way_and_that_is_told(tmp_path, suffix, language):
    silent, heard = Sound(SILENCE, language="eng", default=True), Sound(SPEECH, language=language)
    recording = load_audio(write_sounds(tmp_path / f"film.{suffix}", silent, heard))
    assert which(recording.samples) == "speech"
    assert "its track 1 is silent, track 2 is taken" in recording.warning
    asked = load_audio(tmp_path / f"film.{suffix}", track=1)
    assert not asked.samples.any() and asked.warning == ""


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        (0.1 * RNG.standard_normal(800), "0.[01][0-9] s long"),
        (np.clip(2e-4 * RNG.standard_normal(len(SPEECH)), -1e-3, 1e-3), "all but silent"),
    ],
)
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_track_of_nothing_gives_way_and_that_is_told(tmp_path, suffix, samples, what):
    """A recorder's first packet; the hiss of an input where nothing is plugged in."""
    nothing = Sound(samples, language="eng", default=True)
    recording = load_audio(write_sounds(tmp_path / f"film.{suffix}", nothing, Sound(SPEECH, language="fra")))
    assert which(recording.samples) == "speech"
    assert re.search(f"its track 1 is {what}, track 2 is taken", recording.warning)
    asked = load_audio(tmp_path / f"film.{suffix}", track=1)
    assert asked.samples.any() and asked.warning == ""


def test_of_tracks_of_nothing_the_one_that_lacks_least_is_taken(tmp_path):
    sounds = (Sound(SILENCE, default=True), Sound(5e-4 * SPEECH / np.abs(SPEECH).max()), Sound(SPEECH[:12_000]))
    recording = load_audio(write_sounds(tmp_path / "three.mka", *sounds))
    assert float(recording.duration) == pytest.approx(0.75, abs=0.1)
    assert "its track 1 is silent, track 3 is taken" in recording.warning
    faint = load_audio(write_sounds(tmp_path / "two.mka", *sounds[:2]))
    assert faint.samples.any() and "its track 1 is silent, track 2 is taken" in faint.warning


def test_silence_in_all_tracks_is_the_first_ones(tmp_path):
    path = write_sounds(tmp_path / "film.mkv", Sound(SILENCE), Sound(SILENCE[:20_000], default=True))
    recording = load_audio(path)
    assert not recording.samples.any() and recording.warning == ""
    assert float(recording.duration) == pytest.approx(1.25, abs=0.07)


def test_a_track_that_does_not_decode_gives_way(tmp_path):
    spoilt = ("other", {"language": "eng", "default": True, "spoil": between(-1, 99)})
    assert film(tmp_path / "film.mov", spoilt, ("speech", {"language": "fra"})) == "speech"


def test_a_codec_without_decoder_gives_way(tmp_path):
    """Spatial audio of a phone: two default tracks, of which the first has no decoder anywhere."""
    raw = {"codec": "pcm_s16le", "sample_format": "s16", "default": True}
    path = write_sounds(tmp_path / "phone.mov", Sound(SPEECH, **raw), Sound(OTHER, default=True))
    path.write_bytes(path.read_bytes().replace(b"sowt", b"apac"))
    recording = load_audio(path)
    assert which(recording.samples) == "other"
    assert recording.warning == ""
    write_sounds(path, Sound(SPEECH, **raw))
    path.write_bytes(path.read_bytes().replace(b"sowt", b"apac"))
    with pytest.raises(InputError, match="is in a codec that cannot be decoded here"):
        load_audio(path)
    with pytest.raises(InputError, match="is in a codec that cannot be decoded here"):
        load_audio(path, track=1)


def test_a_number_chooses(tmp_path):
    path = write_sounds(tmp_path / "film.mkv", Sound(SPEECH, language="eng"), Sound(OTHER, language="fra"))
    assert [which(load_audio(path, track=number).samples) for number in (0, 1, 2)] == ["speech", "speech", "other"]


def test_a_wrong_number_is_one_line_that_lists_what_is_there(tmp_path):
    path = write_sounds(tmp_path / "film.mkv", Sound(SPEECH, language="eng"), Sound(OTHER, language="fra"))
    with pytest.raises(InputError) as caught:
        load_audio(path, track=3)
    line = str(caught.value)
    assert "has no track 3, it has 2 sound tracks: 1 (eng, aac), 2 (fra, aac); give one of these" in line
    assert "\n" not in line


def test_speech_moves_at_the_pace_of_syllables():
    scores = {name: speech_score(samples) for name, samples in SOUNDS.items()}
    assert min(scores["speech"], scores["other"]) > 2 * max(scores["music"], scores["hiss"])
    assert speech_score(np.zeros(32_000)) == 0
    assert speech_score(np.zeros(10)) == 0
    assert level_db(SOUNDS["hiss"]) > level_db(SPEECH)  # it is not loudness that decides
