"""Excerpts: the recording's own samples, edges on the time base, one line where there is no such part."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.speech.alignment import Phone, phone_at_frames
from specsync_lib.speech.audio import load_audio, write_flac
from specsync_lib.speech.excerpt import cut, load_excerpt, phones_within, sample_range
from specsync_lib.units import SAMPLE_RATE_HZ, frame_count

CLIP = CLIPS_DIR / "closures.flac"


@given(start_ms=st.integers(0, 3_600_000), duration_ms=st.integers(1, 3_600_000))
def test_edges_are_exact_on_the_sample_clock(start_ms, duration_ms):
    """Milliseconds are whole samples here, so no rounding may show; the float that was read must not either."""
    first, end = sample_range(10**9, float(f"{start_ms / 1000:.3f}"), float(f"{duration_ms / 1000:.3f}"))
    assert first == start_ms * SAMPLE_RATE_HZ // 1000
    assert end - first == duration_ms * SAMPLE_RATE_HZ // 1000


@given(frame=st.integers(0, 100_000), frames=st.integers(1, 300))
def test_an_excerpt_at_a_frames_edge_has_that_many_frames(frame, frames):
    first, end = sample_range(10**9, frame / 30, frames / 30)
    assert abs(first - Fraction(frame, 30) * SAMPLE_RATE_HZ) <= Fraction(1, 2) + Fraction(1, 60)
    assert frame_count(end - first) == frames


def test_the_samples_are_the_recordings_own():
    whole = load_audio(CLIP)
    part = load_excerpt(CLIP, start_s=1.5, duration_s=2.1)
    assert np.array_equal(part.samples, whole.samples[24_000:57_600])
    assert np.array_equal(load_excerpt(CLIP, start_s=5).samples, whole.samples[80_000:])
    assert np.array_equal(load_excerpt(CLIP).samples, whole.samples)
    assert load_excerpt(CLIP, duration_s=float(whole.duration)).frame_count == whole.frame_count


@pytest.mark.parametrize(
    ("start_s", "duration_s"), [(100, 0), (7, 0), (5, 3), (0, 60), (6.91, 0), (1, 0.01), (1, 1e-9), (3600, 3600)]
)
def test_an_excerpt_that_is_not_there_is_one_line(start_s, duration_s):
    with pytest.raises(InputError, match=r"no excerpt of .closures\.flac., which has 6\.920 s") as refusal:
        load_excerpt(CLIP, start_s=start_s, duration_s=duration_s)
    assert "\n" not in str(refusal.value)
    late = start_s < 6.9 and start_s + duration_s > 6.92
    assert ("a duration_s of 0 goes to its end" in str(refusal.value)) == late


def test_samples_are_cut_as_a_file_is():
    whole = load_audio(CLIP).samples
    part = load_excerpt(CLIP, start_s=0.25, duration_s=0.5).samples
    assert len(part) == 8000 and np.array_equal(cut(whole, 0.25, 0.5), part)
    assert np.array_equal(cut(whole, 0.0, 0.0), whole)


def test_phones_keep_their_place_in_an_excerpt():
    phones = [
        Phone("SIL", 0.0, 0.5, ""),
        Phone("AA", 0.5, 0.9, "a"),
        Phone("B", 0.9, 1.4, "b"),
        Phone("SIL", 1.4, 2.0, ""),
    ]
    inside = phones_within(phones, Fraction(3, 5), Fraction(3, 5))
    assert [(phone.label, phone.start_s, phone.end_s) for phone in inside] == [
        ("AA", 0.0, pytest.approx(0.3)),
        ("B", pytest.approx(0.3), 0.6),
    ]
    whole = [phone.label for phone in phone_at_frames(phones, 60)]
    assert [phone.label for phone in phone_at_frames(inside, 18)] == whole[18:36]


def test_a_long_recordings_excerpt_is_cut_before_anything_hears_it(tmp_path):
    write_flac(tmp_path / "long.flac", np.zeros(60 * SAMPLE_RATE_HZ, np.float32))
    assert load_excerpt(tmp_path / "long.flac", start_s=59.5).frame_count == 15
