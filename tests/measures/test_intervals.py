"""Intervals, lags and the flash-and-beep check, against known answers and injected faults."""

import numpy as np
import pytest

from specsync_lib.errors import InputError
from specsync_lib.face.video import make_beep_flash_clip
from specsync_lib.measures.intervals import bootstrap_by_group, pearson_columns, pearson_of_sums
from specsync_lib.measures.pictures import beep_flash_offset_ms


def test_mean_and_its_interval_by_group():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(200), 30)
    values = rng.normal(5, 1, 200)[groups] + rng.normal(0, 0.1, len(groups))
    metric = bootstrap_by_group(values, groups, n_resamples=2000, rng=rng)
    assert metric.value == pytest.approx(values.mean()) and metric.n == 200
    # frames of a group move together: the interval is that of 200 draws, not of 6000
    assert metric.high - metric.low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.15)


def test_ratio_and_curve_statistics():
    groups = np.repeat(np.arange(10), 4)
    kept = np.tile([1, 1, 0, 1], 10)
    right = np.tile([1, 0, 0, 1], 10)
    columns = np.stack([right * kept, kept, np.zeros(40)], axis=1)
    ratio = bootstrap_by_group(columns, groups, lambda sums, _: sums[..., 0] / sums[..., 1])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2 / 3,) * 3)
    empty = bootstrap_by_group(columns, groups, lambda sums, _: sums[..., 0] / sums[..., 2])
    assert np.isnan([empty.value, empty.low, empty.high]).all()
    curve = bootstrap_by_group(columns, groups, lambda sums, counts: sums[..., :2] / counts[..., None])
    assert curve.value == pytest.approx([0.5, 0.75]) and curve.low.shape == (2,)


def test_correlation_equals_numpy():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(500) + 100
    y = 0.7 * x + rng.standard_normal(500)
    metric = bootstrap_by_group(pearson_columns(x, y), np.arange(500) // 10, pearson_of_sums, rng=rng)
    assert metric.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    assert metric.low < metric.value < metric.high


@pytest.mark.parametrize("values, groups", [([], []), ([1.0, 2.0], [0])])
def test_bootstrap_refuses_what_does_not_fit(values, groups):
    with pytest.raises(InputError, match="one id per value"):
        bootstrap_by_group(np.array(values), np.array(groups))


@pytest.mark.parametrize("shift_ms", [0, 40, -30])
def test_beep_is_heard_where_it_was_put(tmp_path, shift_ms):
    clip = make_beep_flash_clip(tmp_path / "clip.mp4", shift_ms=shift_ms)
    assert beep_flash_offset_ms(clip.path) == pytest.approx(shift_ms, abs=5)


def test_beep_check_names_a_file_without_beeps(tmp_path):
    from specsync_lib.face.video import write_video

    frames = (np.zeros((36, 64, 3), np.uint8) for _ in range(30))
    path = write_video(tmp_path / "dark.mp4", frames, np.zeros(16000, np.float32)).path
    with pytest.raises(InputError, match="0 flashes and 0 beeps"):
        beep_flash_offset_ms(path)
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    with pytest.raises(InputError, match="cannot be decoded"):
        beep_flash_offset_ms(tmp_path / "no.mp4")
