"""Quiet speech is raised to the level that the ears were made for, causally; speech at level stays as it is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.speech import level
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import clips, human_prompts
from specsync_lib.speech.level import StreamingLevel, at_level
from tests.toys.sounds import level_db, speech

SPEECH = np.concatenate([speech("narrative"), speech("vowels")])
CLIPS = [load_audio(clip.path).samples for clip in clips()]


def quieter(samples: np.ndarray, db: float) -> np.ndarray:
    """Turned down, and kept in 16 bits as a recorder would."""
    return (np.round(samples * 10 ** (-db / 20) * 2**15) / 2**15).astype(np.float32)


@pytest.mark.parametrize("samples", CLIPS, ids=[clip.name for clip in clips()])
def test_a_clip_at_level_is_untouched_to_the_bit(samples):
    assert np.array_equal(at_level(samples), samples)
    assert np.array_equal(at_level(np.tile(samples, 5)), np.tile(samples, 5))


def test_the_corpus_is_untouched_to_the_bit():
    try:
        prompts = human_prompts("test")
    except InputError as error:
        pytest.skip(str(error))
    changed = [
        prompt.name for prompt in prompts if not np.array_equal(at_level(x := load_audio(prompt.path).samples), x)
    ]
    assert not changed


@settings(max_examples=40)
@given(
    db=st.floats(0, 60),
    seed=st.integers(0, 2**32 - 1),
    pieces=st.integers(1, 400),
    short=st.booleans(),
    offset=st.sampled_from([0, 0.01, -0.3]),
)
def test_the_stream_is_the_offline_pass_to_the_bit(db, seed, pieces, short, offset):
    rng = np.random.default_rng(seed)
    samples = np.clip(quieter(SPEECH[: 40_000 if short else None], db) + np.float32(offset), -1, 1)
    cuts = np.sort(rng.integers(0, len(samples), pieces))
    stream = StreamingLevel()
    streamed = [stream.push(piece) for piece in np.split(samples, cuts)]
    assert [len(piece) for piece in streamed] == np.diff([0, *cuts, len(samples)]).tolist()  # nothing waits
    assert np.array_equal(np.concatenate(streamed), at_level(samples))


@settings(max_examples=40)
@given(
    db=st.floats(0, 60),
    at=st.integers(0, len(SPEECH) - 1),
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0, 0.01, -0.3]),
)
def test_the_future_has_no_say(db, at, seed, offset):
    samples = np.clip(quieter(SPEECH, db) + np.float32(offset), -1, 1)
    other = samples.copy()
    other[at:] = np.random.default_rng(seed).uniform(-1, 1, len(other) - at)
    assert np.array_equal(at_level(samples)[:at], at_level(other)[:at])


@settings(max_examples=40)
@given(
    samples=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4_000)), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_comes_the_result_is_finite_and_in_range(samples, seed):
    rng = np.random.default_rng(seed)
    noise = np.concatenate([amplitude * rng.uniform(-1, 1, count) for amplitude, count in samples]).astype(np.float32)
    raised = at_level(noise)
    assert raised.dtype == np.float32
    assert np.isfinite(raised).all()
    assert np.abs(raised).max() <= 1
    assert (np.abs(raised) >= np.abs(noise) * (1 - 1e-6)).all()  # nothing is turned down


@pytest.mark.parametrize("db", [20, 30, 40])
def test_quiet_speech_comes_to_level(db):
    raised = at_level(quieter(SPEECH, db))
    settled = slice(16_000, None)
    assert level_db(raised[settled]) == pytest.approx(level_db(SPEECH[settled]), abs=3)


def test_speech_a_little_under_level_is_left_alone():
    assert np.array_equal(at_level(quieter(SPEECH, 3)), quieter(SPEECH, 3))


def test_noise_and_silence_are_not_raised():
    rng = np.random.default_rng(0)
    for amplitude in (0, 1e-5, 1e-3, 1e-2):
        noise = (amplitude * rng.standard_normal(80_000)).astype(np.float32)
        assert np.array_equal(at_level(noise), noise)


@pytest.mark.parametrize("db", [20, 30, 40])
@pytest.mark.parametrize("offset", [0.005, 0.05, -0.3, 0.9])
def test_a_constant_offset_is_not_loudness(db, offset):
    """It is neither heard as loud nor raised to full scale: what comes out is the speech."""
    raised = at_level(quieter(SPEECH, db) + np.float32(offset))
    plain = at_level(quieter(SPEECH, db))
    assert np.abs(raised - plain)[16_000:].max() < level.LEFT_OFFSET + 0.02
    assert np.mean(np.abs(raised) >= 1) < 1e-3


def test_an_offset_beside_speech_at_level_stays():
    """Nothing is raised, so nothing has to be taken out: the samples are as they are, to the bit."""
    samples = quieter(SPEECH, 3) + np.float32(0.2)
    assert np.array_equal(at_level(samples), samples)


def test_after_loud_speech_the_gain_is_one_again():
    whole = np.concatenate([quieter(SPEECH, 35), SPEECH])
    stream = StreamingLevel()
    raised = stream.push(whole)
    assert stream.largest_gain_db > 20
    assert np.array_equal(raised[-64_000:], SPEECH[-64_000:])


def test_the_gain_has_a_limit():
    stream = StreamingLevel()
    stream.push(quieter(SPEECH, 58))
    assert 0 < stream.largest_gain_db <= level.LARGEST_GAIN_DB


def test_what_quiet_speech_costs_is_measured():
    """Nothing at level is changed, 20 dB less costs two points at most, and from 30 dB on the gain gains."""
    content = json.loads((MEASUREMENTS_DIR / "level.json").read_text(encoding="utf-8"))
    right = {(row["quieter_db"], row["at_level"]): row["accuracy"] for row in content["rows"]}
    assert content["corpus"]["changed_by_the_gain"] == []
    assert content["corpus"]["most_soft_hops"] < level.HEARD_HOPS
    assert content["corpus"]["lowest_db"] > level.UNTOUCHED_DB + 2
    assert abs(content["corpus"]["median_db"] - level.TARGET_DB) < 1
    assert right[0, True] == right[0, False]
    assert right[20, True] > right[0, False] - 0.02
    assert right[30, True] > right[30, False] + 0.02
    assert right[40, True] > right[40, False] + 0.2
