"""Any recording goes on: truth where the referee can give it, else one line that says why there is none."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.door.parameters import LANGUAGES
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.speech import whisper_base
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import clips
from specsync_lib.speech.level import at_level
from specsync_lib.speech.truth import find_truth
from specsync_lib.speech.whisper_base import Heard, Word
from specsync_lib.units import SAMPLE_RATE_HZ
from tests.toys.sounds import pink

CLIP = at_level(load_audio(CLIPS_DIR / "closures.flac").samples)
SAID = next(clip.transcript for clip in clips() if clip.name == "closures")


def heard(text, language="en", *, given=False):
    words = [Word(word, 0.0, 0.1, 0.9) for word in text.split()]
    return Heard(words, text, language, 0.9, given)


def test_the_words_that_are_said_give_the_truth_wherever_they_come_from():
    given_words = find_truth(CLIP, SAID, heard("something else"))
    by_whisper = find_truth(CLIP, "", heard(SAID))
    assert (given_words.words_from, by_whisper.words_from) == ("given", "whisper")
    assert given_words.phones == by_whisper.phones
    assert given_words.phones
    assert given_words.absent == by_whisper.absent == ""


@pytest.mark.parametrize(
    ("transcript", "hears", "says"),
    [
        ("", heard(""), "nobody gave the words, and Whisper hears no speech"),
        ("", heard("guten Tag", "de"), "no referee for this language (de)"),
        ("guten Tag", heard("guten Tag", "de"), "no referee for this language (de)"),
        ("bonjour", heard("", "fr", given=True), "no referee for this language (fr)"),
        ("", heard(SAID, "ja", given=True), "no referee for this language (ja)"),
        ("...", heard(SAID), "alignment: the transcript '...' has no spoken word"),
        ("", heard("♪ ♪"), "alignment: the transcript '♪ ♪' has no spoken word"),
        ("привет", heard(SAID), "transcript: 'п' (cyrillic small letter pe)"),
        (" ".join(["all work and no play makes jack a dull boy"] * 20), heard(SAID), "alignment: the audio does not"),
        ("this is not at all what anyone says in here today", heard(SAID), "the words do not fit the sound"),
        (SAID[: len(SAID) // 2].rsplit(" ", 1)[0], heard(SAID), ""),
    ],
)
def test_without_a_truth_one_line_says_why(transcript, hears, says):
    truth = find_truth(CLIP, transcript, hears)
    assert truth.absent
    assert truth.absent.startswith(says)
    assert "\n" not in truth.absent
    assert not truth.phones


@settings(max_examples=25)
@given(
    transcript=st.text(max_size=40),
    said=st.text(max_size=40),
    language=st.sampled_from(LANGUAGES[1:]),
    given_language=st.booleans(),
    sound=st.sampled_from(["speech", "noise", "silence"]),
)
def test_whatever_was_written_and_heard_nothing_stops_a_run(transcript, said, language, given_language, sound):
    count = 2 * SAMPLE_RATE_HZ
    noise = np.random.default_rng(0).standard_normal(count).astype(np.float32) / 20
    samples = {"speech": CLIP[:count], "noise": noise, "silence": np.zeros(count, np.float32)}[sound]
    truth = find_truth(samples, transcript, heard(said, language, given=given_language))
    assert bool(truth.absent) != bool(truth.phones)
    assert "\n" not in truth.absent


@pytest.fixture(scope="module")
def whisper():
    return whisper_base.load_whisper()


def music(count):
    """A melody of plucked tones."""
    second = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    notes = (
        0.5 * np.sin(2 * np.pi * hz * second) * np.exp(-3 * second) for hz in itertools.cycle((262, 330, 392, 523))
    )
    return np.concatenate(list(itertools.islice(notes, count // len(second)))).astype(np.float32)


@pytest.mark.parametrize("sound", ["noise", "music", "silence"])
def test_no_words_are_heard_where_nobody_speaks(whisper, sound):
    # In four seconds of noise it hears one word over and over, as many as it can: SPECSYNC_LONG_TESTS=1 has it do so.
    count = (4 if os.environ.get("SPECSYNC_LONG_TESTS") else 2) * SAMPLE_RATE_HZ
    samples = {
        "noise": pink(count, np.random.default_rng(3)),
        "music": music(count),
        "silence": np.zeros(count, np.float32),
    }
    hears = whisper_base.hear(whisper, at_level(samples[sound]))
    assert hears.words == []
    assert find_truth(samples[sound], "", hears).absent == "nobody gave the words, and Whisper hears no speech"


def test_two_seconds_of_silence_before_speech_change_nothing(whisper):
    led = np.concatenate([np.zeros(2 * SAMPLE_RATE_HZ, np.float32), CLIP])
    hears = whisper_base.hear(whisper, led)
    assert hears.language == "en"
    assert hears.probability > 0.9
    truth = find_truth(led, "", hears)
    assert truth.absent == ""
    first = next(phone for phone in truth.phones if phone.word)
    assert 1.9 < first.start_s < 2.4
    assert hears.words[0].start_s > 1.5
    assert hears.text.split() == [word.text for word in hears.words]


def test_the_language_may_be_given(whisper):
    hears = whisper_base.hear(whisper, CLIP[: 2 * SAMPLE_RATE_HZ], "de")
    assert (hears.language, hears.language_given) == ("de", True)
    assert hears.probability < 0.1
    assert find_truth(CLIP, "", hears).absent == "no referee for this language (de)"


@pytest.mark.parametrize(("name", "given", "language"), [("german", "auto", "de"), ("french", "fr", "fr")])
def test_speech_in_another_language_is_told_and_has_no_referee(whisper, name, given, language):
    """Four seconds of espeak-ng each; nobody gave the words. Its French Whisper base must be told: it hears Thai."""
    samples = at_level(load_audio(Path(__file__).parents[1] / "toys" / f"{name}.opus").samples)
    hears = whisper_base.hear(whisper, samples, given)
    assert hears.language == language
    assert hears.words
    assert find_truth(samples, "", hears).absent == f"no referee for this language ({language})"
    if given != "auto":  # whatever it takes it for, no run is stopped and nothing is measured against invented words
        assert find_truth(samples, "", whisper_base.hear(whisper, samples)).absent.startswith("no referee for")
