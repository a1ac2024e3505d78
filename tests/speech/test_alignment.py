"""The time base is exact, text becomes words, and the aligner agrees with speech whose phone times are known."""

import shutil
import subprocess
from difflib import SequenceMatcher
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.speech import alignment
from specsync_lib.speech.alignment import (
    LONGEST_PIECE_S,
    NotHeardError,
    Phone,
    align,
    align_words,
    exact_seconds,
    plan_from_phones,
    truth,
)
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import clips
from specsync_lib.speech.words import LONGEST_TRANSCRIPT, normalise_text
from specsync_lib.units import SAMPLE_RATE_HZ, VIDEO_FPS, frame_count
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


@pytest.mark.parametrize("written", ["1234567 ", "9:30 $5.99 3/4 ", "word ", "* ", "(so ", "a/b "])
def test_more_words_than_anyone_can_say_are_refused_before_the_decoder_is_asked(monkeypatch, written):
    monkeypatch.setattr(alignment, "_decoder", lambda search: pytest.fail("asked"))
    with pytest.raises(NotHeardError, match="the audio does not contain the words") as refusal:
        align(np.zeros(2 * SAMPLE_RATE_HZ, np.float32), (written * 100_000)[:LONGEST_TRANSCRIPT])
    assert "\n" not in str(refusal.value)


def test_the_readings_of_a_long_transcript_are_bounded_together(monkeypatch):
    text = "1,234,567 people " * 20
    everything = alignment._places_within(1000, text)
    monkeypatch.setattr(alignment, "MOST_GRAMMAR_WORDS", 700)
    fewer = alignment._places_within(1000, text)
    assert [place[0] for place in fewer] == [place[0] for place in everything]
    assert sum(len(reading) for place in fewer for reading in place) <= 700
    assert sum(len(reading) for place in everything for reading in place) > 700


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
        (np.zeros(16_000, np.float32), "こんにちは", "hiragana letter ko"),
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


# ------------------------------------------------------------------------------------------ readings, doubt and truth

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def say(text, folder):
    path = folder / "said.wav"
    subprocess.run(["espeak-ng", "-v", "en-us+f3", "-s", "160", "-w", path, text], check=True)
    return load_audio(path).samples


@needs_espeak
@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "It costs $5.99, or 25% of $20, at 9:30.",
            "it costs five dollars and ninety nine cents or twenty five percent of twenty dollars at nine thirty",
        ),
        (
            "It costs $5.99, or 25% of $20, at 9:30.",
            "it costs five ninety nine or twenty five percent of twenty dollars at half past nine",
        ),
        ("In 1999 we met on May 3.", "in one thousand nine hundred and ninety nine we met on may the third"),
        ("In 1999 we met on May 3.", "in nineteen ninety nine we met on may third"),
        ("Alice: Prices rose by 5%-10%.\nBob: We sold 100s.", "prices rose by five to ten percent we sold hundreds"),
        ("MIX THE EGGS ON MAY 5 AT 12:00.", "mix the eggs on may fifth at noon"),
        (
            "About 1 250 000 people in Act II, scene iii.",
            "about one million two hundred and fifty thousand people in act two scene three",
        ),
        ("Call 555-1200 (now) at 10:45.", "call five five five twelve hundred at a quarter to eleven"),
        ("It cost US$5 million in the end.", "it cost five million u s dollars in the end"),
        ("She came on 3. June at 17h30.", "she came on the third of june at seventeen thirty"),
        ("If x<y then z>1 is true.", "if x less than y then z greater than one is true"),
        ("Over a 100 people came in June.", "over a hundred people came in june"),
        ("Host 1: our team lost 0-3\nJohn [00:05]: last night", "our team lost nil three last night"),
    ],
)
def test_the_reading_that_was_said_is_the_one_that_is_aligned(written, said, tmp_path):
    known = truth(say(said, tmp_path), written, given=True)
    assert known.reason == ""
    assert known.words == said
    words = [phone.word for phone in known.phones if phone.word]
    assert [word for word, before in zip(words, [None, *words], strict=False) if word != before] == [
        word for word, before in zip(said.split(), [None, *said.split()], strict=False) if word != before
    ]


def wrong_transcripts(clip, other):
    words = clip.transcript.split()
    return {
        "another's": other.transcript,
        "backwards": " ".join(reversed(words)),
        "first half": " ".join(words[: len(words) // 2]),
        "last half": " ".join(words[len(words) // 2 :]),
        "end missing": " ".join(words[:-2]),
        "more": f"{clip.transcript} and this is never said",
    }


def test_wrong_and_partial_transcripts_are_noticed_and_right_ones_stand():
    shipped = clips()
    rng = np.random.default_rng(0)
    for clip, other in zip(shipped, [*shipped[1:], shipped[0]], strict=True):
        samples = load_audio(clip.path).samples
        noise = rng.standard_normal(samples.size) * np.sqrt(np.mean(samples**2) / 100)  # 20 dB
        for sound in (samples, (samples + noise).astype(np.float32)):
            known = truth(sound, clip.transcript, given=True)
            assert known.reason == ""
            assert known.phones
        for kind, transcript in wrong_transcripts(clip, other).items():
            known = truth(samples, transcript, given=True)
            assert known.reason.startswith("no truth: "), (clip.name, kind)
            assert known.phones == []
            assert "\n" not in known.reason


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=60))
def test_words_that_nobody_gave_never_stop_a_run(heard):
    known = truth(np.zeros(8000, np.float32), heard, given=False)
    assert bool(known.phones) != bool(known.reason)


def test_given_words_that_english_cannot_say_are_refused_but_words_not_found_are_not():
    samples = load_audio(clips()[0].path).samples
    with pytest.raises(InputError, match="cyrillic capital letter pe"):
        truth(samples, "Привет", given=True)
    assert "cyrillic" in truth(samples, "Привет", given=False).reason
    with pytest.raises(NotHeardError):
        align(samples[:4000], clips()[0].transcript)


def test_a_long_recording_is_aligned_piece_by_piece_as_its_parts_are(aligned_clips):
    repeats = 4
    sounds = [recording.samples for _, recording, _ in aligned_clips] * repeats
    assert sum(map(len, sounds)) > LONGEST_PIECE_S * SAMPLE_RATE_HZ
    whole = align_words(np.concatenate(sounds), " ".join(clip.transcript for clip, _, _ in aligned_clips * repeats))
    assert all(before.end_s == after.start_s for before, after in pairwise(whole.phones))
    assert whole.phones[-1].end_s == pytest.approx(sum(map(len, sounds)) / SAMPLE_RATE_HZ)
    assert whole.doubt() == ""
    starts = np.cumsum([0, *map(len, sounds)]) / SAMPLE_RATE_HZ
    parts = [phones for _, _, phones in aligned_clips * repeats]
    expected = [p.start_s + start for start, phones in zip(starts, parts, strict=False) for p in phones if p.word]
    found = [phone.start_s for phone in whole.phones if phone.word]
    assert abs(len(found) - len(expected)) <= 0.01 * len(expected)  # a word may be pronounced in another way
    nearest = np.abs(np.subtract.outer(found, expected)).min(axis=1)
    assert np.percentile(nearest, 95) <= 0.03
