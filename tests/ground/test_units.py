"""The time base: chunks of 4, 8 and 12 frames begin and end where the recording's frames do, for an hour and longer."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.pipeline.sound import samples_for_chunk
from specsync_lib.units import ChunkSize

SIZES = [ChunkSize(slots) for slots in units.CHUNK_SLOTS]
HOUR_S = 3600
sizes = st.sampled_from(SIZES)


@pytest.mark.parametrize(
    ("slots", "frames", "samples", "rows"), [(1, 4, 2133, 13), (2, 8, 4266, 26), (3, 12, 6400, 40)]
)
def test_a_chunks_length_is_exact(slots, frames, samples, rows):
    size = ChunkSize(slots)
    assert size.frames == frames and size.seconds == Fraction(frames, 30)
    # 4 frames are 2,133 1/3 samples and 13 1/3 rows (6 2/3 of the ears' positions)
    assert size.seconds * units.SAMPLE_RATE_HZ == samples + Fraction(slots % 3, 3)
    assert size.seconds * units.MEL_FRAMES_PER_SECOND == rows + Fraction(slots % 3, 3)


@pytest.mark.parametrize("size", SIZES)
def test_an_hour_of_chunks_has_no_drift(size):
    chunks = HOUR_S / size.seconds
    assert chunks.denominator == 1 and size.samples(int(chunks)) == HOUR_S * units.SAMPLE_RATE_HZ
    assert size.first_frame(int(chunks)) == HOUR_S * units.VIDEO_FPS


@given(size=sizes, index=st.integers(0, 4 * HOUR_S * 8))
def test_a_chunk_ends_with_its_last_frame_and_is_heard_a_fixed_time_after(size, index):
    """What a chunk waits for lies 49 to 56 ms after its last frame's end, in the first chunk as after hours."""
    ends = Fraction(size.first_frame(index + 1), units.VIDEO_FPS)
    assert size.first_frame(index + 1) - size.first_frame(index) == size.frames
    assert 0 <= size.samples(index + 1) - ends * units.SAMPLE_RATE_HZ < 1
    assert units.frame_count(size.samples(index + 1)) == size.first_frame(index + 1)
    late = Fraction(samples_for_chunk(index, size), units.SAMPLE_RATE_HZ) - ends
    assert Fraction(49, 1000) < late < Fraction(56, 1000)
    whole = units.SLOTS_PER_CHUNK
    if (index + 1) * size.slots % whole == 0:  # it ends with a chunk of three slots, and is heard with it
        assert samples_for_chunk(index, size) == samples_for_chunk((index + 1) * size.slots // whole - 1)


@pytest.mark.parametrize("slots", [0, 4, -1, 1.5, None])
def test_a_chunk_that_does_not_exist_is_one_line(slots):
    with pytest.raises(InputError, match=r"chunk_slots is .*: expected 1, 2 or 3 slots") as refused:
        ChunkSize(slots)
    assert "\n" not in str(refused.value)
