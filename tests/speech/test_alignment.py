"""The time base is exact, text becomes words, and the aligner agrees with speech whose phone times are known."""

from difflib import SequenceMatcher
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.speech.alignment import (
    Phone,
    align,
    exact_seconds,
    normalise_text,
    number_words,
    plan_from_phones,
    pronounce,
)
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import clips
from specsync_lib.units import VIDEO_FPS, frame_count
from specsync_lib.visemes import ARPABET_TO_VISEME, PHONE_TO_VISEME

labels = st.sampled_from(sorted(ARPABET_TO_VISEME))


@given(st.integers(0, 10**8), st.sampled_from([1, 30, 60, 100, 16_000, 22_050, 44_100, 48_000]))
def test_a_float_time_stands_for_the_rational_it_came_from(ticks, rate_hz):
    ticks %= 3600 * rate_hz
    assert exact_seconds(ticks / rate_hz) == Fraction(ticks, rate_hz)


@given(st.lists(st.tuples(labels, st.integers(0, 60)), max_size=30), st.integers(0, 200))
def test_each_frame_takes_the_phone_at_its_exact_centre(timed, frames):
    edges = np.cumsum([0, *(ticks for _, ticks in timed)]).tolist()  # in ticks of 10 ms
    phones = [
        Phone(label, start / 100, end / 100, "w")
        for (label, _), start, end in zip(timed, edges, edges[1:], strict=False)
    ]
    expected = []
    for frame in range(frames):
        centre = (frame + Fraction(1, 2)) / VIDEO_FPS
        spans = zip(timed, edges, edges[1:], strict=False)
        covering = [label for (label, _), start, end in spans if start <= 100 * centre < end]
        expected.append(ARPABET_TO_VISEME[covering[0]] if covering else "sil")
    assert plan_from_phones(phones, frames).names == expected


def test_a_boundary_on_a_frame_centre_gives_the_frame_to_the_later_phone():
    # 55/100 s is the centre of frame 16, and the float 0.55 lies above it.
    phones = [Phone("AA", 0.0, 0.55, "a"), Phone("S", 0.55, 0.7, "a")]
    assert plan_from_phones(phones, 18).names[15:] == ["aa", "SS", "SS"]


def test_frames_outside_the_phones_are_silent():
    assert plan_from_phones([Phone("AA", 0.1, 0.2, "a")], 9).names == ["sil"] * 3 + ["aa"] * 3 + ["sil"] * 3
    assert plan_from_phones([], 3).names == ["sil"] * 3


@pytest.mark.parametrize(
    ("phones", "says"),
    [
        ([Phone("QQ", 0.0, 1.0, "q")], "'QQ' has no viseme"),
        ([Phone("AA", 0.5, 0.2, "a")], "must rise"),
        ([Phone("AA", 0.0, 0.5, "a"), Phone("S", 0.4, 0.6, "a")], "must rise"),
        ([Phone("AA", 0.0, float("nan"), "a")], "finite"),
    ],
)
def test_times_and_labels_that_are_no_sequence_are_refused(phones, says):
    with pytest.raises(InputError, match=says):
        plan_from_phones(phones, 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Please press 1, or 2!", "please press one or two"),
        ("At 10:30 A.M. on May 3rd, 1984", "at ten thirty a m on may third nineteen eighty four"),
        ("1,234.5", "one thousand two hundred thirty four point five"),
        ("3000017", "three million seventeen"),
        ("dial 500, then 07", "dial five hundred then zero seven"),
        ("the 40th, 12th and 21st", "the fortieth twelfth and twenty first"),
        ("www.asterisk.org", "w w w dot asterisk dot org"),
        ("[beep] (quietly) don't <noise> touch * or #", "don't touch star or pound"),
        ("IAX2 and PBX", "i a x two and p b x"),
        ("“Goodbye” – it’s Joe", "goodbye it's joe"),
        ("[sound of monkeys]", ""),
    ],
)  # fmt: skip
def test_text_becomes_spoken_words(text, words):
    assert " ".join(normalise_text(text)) == words


@given(st.integers(0, 10**15 - 1))
def test_number_words_mean_their_number(number):
    ones = {word: value for value, word in enumerate(map(lambda n: number_words(n)[0], range(20)))}
    tens = {number_words(value)[0]: value for value in range(20, 100, 10)}
    scales = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
    total = group = 0
    for word in number_words(number):
        if word in scales:
            total, group = total + group * scales[word], 0
        else:
            group = group * 100 if word == "hundred" else group + (ones | tens)[word]
    assert total + group == number


def test_a_word_outside_the_dictionary_is_pronounced_by_rule():
    assert pronounce("hello") == "HH AH L OW"
    assert pronounce("zube") == "Z UW B"
    assert pronounce("blorptiction") == "B L AO R P T IH K SH AH N"
    with pytest.raises(InputError, match="'日本'"):
        pronounce("日本")


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12))
def test_every_spelling_has_a_pronunciation_in_arpabet(word):
    phones = pronounce(word).split()
    assert phones
    assert set(phones) <= ARPABET_TO_VISEME.keys()


@pytest.fixture(scope="module")
def aligned_clips():
    return [(clip, load_audio(clip.path), align(load_audio(clip.path).samples, clip.transcript)) for clip in clips()]


def test_alignment_agrees_with_the_exact_times_of_piper_speech(aligned_clips):
    def onsets(phones):
        return [(PHONE_TO_VISEME[p.label], p.start_s) for p in phones if PHONE_TO_VISEME[p.label] != "sil"]

    errors_s = []
    for clip, _, phones in aligned_clips:
        exact, found = onsets(clip.phones), onsets(phones)
        matcher = SequenceMatcher(None, [v for v, _ in exact], [v for v, _ in found], autojunk=False)
        errors_s += [
            found[j + k][1] - exact[i + k][1] for i, j, size in matcher.get_matching_blocks() for k in range(size)
        ]
    assert len(errors_s) >= 130
    assert np.median(np.abs(errors_s)) <= 0.025
    assert abs(np.median(errors_s)) <= 0.015  # no lag: half a video frame is 17 ms
    assert np.percentile(np.abs(errors_s), 90) <= 0.08


def test_an_alignment_covers_the_recording_without_gaps_and_says_the_words(aligned_clips):
    for clip, recording, phones in aligned_clips:
        assert phones[0].start_s == 0
        assert phones[-1].end_s == pytest.approx(float(recording.duration), abs=0.02)
        assert all(before.end_s == after.start_s for before, after in pairwise(phones))
        spoken = [phone.word for phone in phones if phone.word]
        words = [word for word, before in zip(spoken, [None, *spoken], strict=False) if word != before]
        assert words == normalise_text(clip.transcript)
        assert all((phone.word == "") == (phone.label == "SIL") for phone in phones)


def test_an_alignment_does_not_depend_on_what_was_aligned_before(aligned_clips):
    clip, recording, phones = aligned_clips[0]
    align(*(lambda other: (load_audio(other.path).samples, other.transcript))(clips()[1]))
    assert align(recording.samples, clip.transcript) == phones


def test_shifted_speech_shifts_the_alignment(aligned_clips):
    clip, recording, phones = aligned_clips[2]
    lead = np.zeros(8000, dtype=np.float32)
    shifted = align(np.concatenate([lead, recording.samples]), clip.transcript)
    at = {phone.word: phone.start_s for phone in reversed(shifted) if phone.word}
    was = {phone.word: phone.start_s for phone in reversed(phones) if phone.word}
    assert np.median([at[word] - was[word] for word in was]) == pytest.approx(0.5, abs=0.0101)


@pytest.mark.parametrize(
    ("samples", "transcript", "says"),
    [
        (np.zeros(100, np.float32), "hello", "at least 0.1 s"),
        (np.full(16_000, np.nan, np.float32), "hello", "finite"),
        (np.zeros((16_000, 2), np.float32), "hello", "mono"),
        (np.zeros(16_000, np.float32), "", "no spoken word"),
        (np.zeros(16_000, np.float32), "[beep]", "no spoken word"),
        (np.zeros(16_000, np.float32), "こんにちは", "'こんにちは'"),
        (
            np.zeros(4_000, np.float32),
            "far too many words to be said in a quarter of a second by anyone",
            "does not contain",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused_in_one_line(samples, transcript, says):
    with pytest.raises(InputError, match=says) as refusal:
        align(samples, transcript)
    assert "\n" not in str(refusal.value)


def test_the_clips_say_their_words_and_last_as_long_as_their_phones():
    shipped = clips()
    assert len(shipped) >= 3
    for clip in shipped:
        recording = load_audio(clip.path)
        assert 4 <= recording.duration <= 8
        assert clip.phones[-1].end_s == pytest.approx(float(recording.duration), abs=0.002)
        spoken = [phone.word for phone in clip.phones if phone.word]
        words = [word for word, before in zip(spoken, [None, *spoken], strict=False) if word != before]
        assert " ".join(words).lower() == " ".join(normalise_text(clip.transcript))
        plan = plan_from_phones(clip.phones, frame_count(recording.samples.size))
        assert len(plan) == recording.frame_count
        assert len(set(plan.names)) >= 11
