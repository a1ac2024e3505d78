"""Sync measures against clips with known faults: shifted, frozen, noisy, restless in silence, a flickering edge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.measures import sync
from specsync_lib.measures.intervals import Metric
from specsync_lib.measures.lip_reader import PICTURE_MM, UNITS, LipTrack
from specsync_lib.measures.sync_report import EdgeFlicker, sync_report
from specsync_lib.units import VISEMES
from specsync_lib.visemes import VISEME_INDEX, VISEME_TO_ARKIT, SyncPlan

SPREAD = np.full(len(UNITS), 0.05)
SPEECH, SILENCE = VISEME_INDEX["aa"], VISEME_INDEX["sil"]


def mouth(times_s: np.ndarray, seed: int = 1) -> np.ndarray:
    """A band-limited signal like a lip gap in mm: syllables of up to 6 Hz around 5 mm."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal() * np.sin(2 * np.pi * f * times_s + rng.uniform(0, 6)) for f in np.linspace(0.7, 6, 14)]
    return 5 + 0.4 * np.sum(parts, axis=0)


def utterances(count: int, frames: int = 60) -> np.ndarray:
    return np.repeat(np.arange(count), frames)


def spoken(count: int, shift_ms: float = 0.0, frames: int = 60) -> np.ndarray:
    """Gaps of several utterances, each later by ``shift_ms``."""
    times_s = np.arange(frames) / 30 - shift_ms / 1000
    return np.concatenate([mouth(times_s, seed) for seed in range(count)])


def inside(metric: Metric, truth: float, slack: float = 0.0) -> bool:
    return metric.low - slack <= truth <= metric.high + slack


# --- shifted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift_ms", [0, 10, 40, 120, -40])
@pytest.mark.parametrize("noise_mm", [0.0, 0.3])
def test_a_shift_is_found_to_five_ms_with_its_interval(shift_ms, noise_mm):
    measured = spoken(8, shift_ms) + noise_mm * np.random.default_rng(3).standard_normal(480)
    metric = sync.av_offset(spoken(8), measured, utterances(8))
    assert metric.value == pytest.approx(shift_ms, abs=2.5)
    assert inside(metric, shift_ms, slack=1.0)
    assert metric.high - metric.low < 10
    assert (metric.n, metric.unit, metric.resampling_unit) == (8, "ms", "utterance")


@settings(max_examples=20)
@given(st.floats(-150, 150))
def test_any_shift_of_one_clip_is_found(shift_ms):
    times_s = np.arange(180) / 30
    metric = sync.av_offset(mouth(times_s), mouth(times_s - shift_ms / 1000))
    assert metric.value == pytest.approx(shift_ms, abs=2.5)
    assert (metric.n, metric.resampling_unit) == (6, "1-second block")


def test_clips_are_never_compared_across_their_borders():
    reference, measured = spoken(6, frames=30), spoken(6, 40, frames=30)
    order = np.random.default_rng(0).permutation(6)
    shuffled = [np.concatenate([np.split(track, 6)[k] for k in order]) for track in (reference, measured)]
    one = sync.av_offset(reference, measured, utterances(6, 30))
    two = sync.av_offset(*shuffled, utterances(6, 30))
    assert one.value == pytest.approx(two.value, abs=1e-6)
    assert one.value == pytest.approx(40, abs=5)


def test_correlation_and_error_follow_what_was_added():
    reference, clips = spoken(40), utterances(40)
    noise = np.random.default_rng(0).standard_normal(len(reference))
    measured = reference + noise
    r = sync.lip_correlation(reference, measured, clips)
    assert r.value == pytest.approx(reference.std() / np.hypot(reference.std(), 1), abs=0.02)
    assert inside(r, reference.std() / np.hypot(reference.std(), 1), 0.01)
    error = sync.lip_error(reference, measured, clips)
    assert error.value == pytest.approx(np.sqrt(2 / np.pi), rel=0.05)
    assert error.unit == "px"
    assert sync.lip_error(reference, reference - 2.5, clips).value == pytest.approx(2.5)


# --- frozen -----------------------------------------------------------------------------------------------------------


def test_a_frozen_mouth_has_no_lag_no_correlation_and_no_motion():
    reference, clips = spoken(4), utterances(4)
    frozen = np.full(len(reference), 1 / 3)
    for measure in (sync.av_offset, sync.lip_correlation):
        metric = measure(reference, frozen, clips)
        assert np.isnan([metric.value, metric.low, metric.high]).all()
    for measure in (sync.motion_ratio, sync.jitter_ratio):
        assert measure(reference, frozen, clips).value == pytest.approx(0, abs=1e-9)
    assert sync.motion_ratio(reference, 0.5 * reference, clips).value == pytest.approx(0.5)


# --- noisy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_mm", [0.1, 0.5])
def test_jitter_grows_by_the_jerk_of_the_noise(noise_mm):
    reference, clips = spoken(40), utterances(40)
    measured = reference + noise_mm * np.random.default_rng(0).standard_normal(len(reference))
    jerks = np.concatenate([np.diff(part, n=3) for part in np.split(reference, 40)])
    expected = np.sqrt(1 + 20 * noise_mm**2 / np.mean(jerks**2))
    metric = sync.jitter_ratio(reference, measured, clips)
    assert metric.value == pytest.approx(expected, rel=0.06)
    assert sync.jitter_ratio(reference, reference, clips).value == pytest.approx(1)


def test_chatter_in_silence_is_measured_against_speech():
    frames, count = 90, 20
    visemes = np.tile(np.repeat([SPEECH, SILENCE, SPEECH], 30), count)
    clips, times_s = utterances(count, frames), np.arange(frames * count) / 30
    reference = np.where(visemes == SPEECH, mouth(times_s), 0.0)
    chatter = 0.2 * np.random.default_rng(0).standard_normal(len(reference))
    quiet = sync.silence_motion(reference, reference, visemes, clips)
    assert quiet.value == 0
    metric = sync.silence_motion(reference, reference + chatter, visemes, clips)
    steps = np.abs(np.diff(reference.reshape(count, frames), axis=1))
    in_speech = steps[:, visemes[1:frames] == SPEECH].mean()
    assert metric.value == pytest.approx(0.2 * 2 / np.sqrt(np.pi) / in_speech, rel=0.08)
    assert np.isnan(sync.silence_motion(reference, reference, np.full(len(visemes), SPEECH), clips).value)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 59))
def test_deep_silence_is_silence_away_from_speech_of_its_own_clip(loud, cut):
    visemes = np.where(loud, SPEECH, SILENCE)
    clips = (np.arange(len(loud)) >= cut).astype(int)
    found = sync.deep_silence(visemes, clips)
    for k in range(len(loud)):
        near = [j for j in range(len(loud)) if abs(j - k) <= sync.SILENCE_MARGIN_FRAMES and clips[j] == clips[k]]
        assert found[k] == (not any(loud[j] for j in near))


def test_closures_count_once_a_run_and_need_one_shut_frame():
    pp, aa = VISEME_INDEX["PP"], SPEECH
    visemes = np.array([aa, pp, pp, aa, pp, aa, pp, aa])
    gap_mm = np.array([9.0, 3.0, 0.2, 9.0, 2.0, 9.0, 0.0, 9.0])
    assert sync.closure_rate(gap_mm, visemes).value == pytest.approx(2 / 3)
    # one run that goes over a clip's border is two
    assert sync.closure_rate(gap_mm[:4], visemes[:4], np.array([0, 0, 1, 1])).value == pytest.approx(0.5)
    assert np.isnan(sync.closure_rate(gap_mm, np.full(8, aa)).value)


# --- lip shapes -------------------------------------------------------------------------------------------------------


def table_units(visemes: np.ndarray) -> np.ndarray:
    rows = [VISEME_TO_ARKIT[VISEMES[k]] for k in visemes]
    return np.array([[np.mean([row.get(unit, 0.0) for unit in names]) for names in UNITS.values()] for row in rows])


def test_every_viseme_in_its_pure_form_is_its_own_class():
    visemes = np.arange(len(VISEMES))
    confusion = sync.viseme_confusion(table_units(visemes), visemes, SPREAD, np.arange(len(visemes)))
    assert confusion.accuracy.value == 1
    assert np.array_equal(confusion.table.to_numpy(), np.diag([1, 1, 1, 6, 4, 2]))
    assert sorted(name for group in sync.LIP_CLASSES.values() for name in group) == sorted(VISEMES)


def test_wrong_mouths_land_in_the_column_of_what_was_shown():
    said = np.repeat(np.arange(len(VISEMES)), 10)
    shown = said.copy()
    shown[said == VISEME_INDEX["PP"]] = VISEME_INDEX["aa"]  # lips that do not close
    confusion = sync.viseme_confusion(table_units(shown), said, SPREAD)
    assert confusion.table.loc["pressed", "open"] == 10
    assert confusion.table.loc["pressed", "pressed"] == 0
    assert confusion.accuracy.value == pytest.approx(14 / 15)


# --- the edge ---------------------------------------------------------------------------------------------------------


def feathered(size: int = 48) -> np.ndarray:
    distance = np.minimum.reduce(np.meshgrid(*[np.minimum(np.arange(size), np.arange(size)[::-1])] * 2))
    return np.clip((distance - 6) / 8, 0, 1)


def edge_metrics(frames, reference, alpha) -> dict[str, Metric]:
    flicker = EdgeFlicker(alpha)
    for k, frame in enumerate(frames):
        flicker.push(frame, None if reference is None else reference[k], 0)
    return flicker.metrics(np.zeros(len(frames), int), np.random.default_rng(0))


@pytest.mark.parametrize("grey", [1, 4])
def test_a_flickering_edge_is_measured_in_grey_levels(grey):
    alpha, rng = feathered(), np.random.default_rng(0)
    ring = (alpha > 0.02) & (alpha < 0.98)
    reference = np.repeat(rng.integers(60, 180, (1, 48, 48, 3)), 60, axis=0).astype(np.uint8)
    frames = reference.copy()
    frames[::2, ring] += np.uint8(grey)  # every other frame is brighter in the ring
    frames[:, alpha >= 0.98] += rng.integers(0, 2, (60, (alpha >= 0.98).sum(), 3)).astype(np.uint8)
    found = edge_metrics(frames, reference, alpha)
    assert found["border_flicker_grey"].value == pytest.approx(grey)
    assert found["border_flicker_ratio"].value == pytest.approx(grey / 0.5, rel=0.03)
    assert found["border_flicker_grey"].resampling_unit == "1-second block"


def test_a_steady_seam_and_shared_motion_do_not_flicker():
    alpha = feathered()
    moving = np.stack([np.full((48, 48, 3), 80 + 3 * k, np.uint8) for k in range(20)])
    seam = moving.copy()
    seam[:, alpha > 0.02] += 9
    assert edge_metrics(seam, moving, alpha)["border_flicker_grey"].value == 0
    assert edge_metrics(seam, None, alpha)["border_flicker_grey"].value == pytest.approx(3)
    with pytest.raises(InputError, match="no edge"):
        EdgeFlicker(np.ones((4, 4)))


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tracks, message",
    [
        ((np.zeros(5), np.zeros(6)), "one value a frame"),
        ((np.zeros(0), np.zeros(0)), "at least one"),
        ((np.zeros(5), np.full(5, np.nan)), "measured holds NaN"),
        ((np.zeros(4), np.zeros(4), np.array([0, 1, 0, 1])), "stand together"),
        ((np.zeros(4), np.zeros(4), np.zeros(3)), "3 clip ids for 4 frames"),
    ],
)
def test_tracks_that_do_not_fit_are_refused(tracks, message):
    for measure in (sync.av_offset, sync.lip_correlation, sync.jitter_ratio):
        with pytest.raises(InputError, match=message):
            measure(*tracks)


# --- a whole clip -----------------------------------------------------------------------------------------------------


class DarkMouthReader:
    """Reads faces that are a grey square with a dark mouth: the mouth's dark rows are the gap."""

    spread = SPREAD

    def read(self, frames) -> LipTrack:
        frames = np.stack(list(frames)).astype(float)
        side = frames.shape[1]
        gap = (200 - frames[:, :, side // 2].mean(axis=-1)).sum(axis=1) / 160
        units = dict.fromkeys(UNITS, np.zeros(len(frames)))
        return LipTrack(gap / side * PICTURE_MM, gap, **units | {"jaw": gap / 60}, picture_px=side)


def dark_mouths(gap_px: np.ndarray, side: int = 64) -> np.ndarray:
    """Faces whose mouth is open by a fraction of a pixel's accuracy: rows are partly dark at the mouth's ends."""
    rows = np.abs(np.arange(side) - side / 2)[None, :]
    dark = np.clip(gap_px[:, None] / 2 + 0.5 - rows, 0, 1)
    picture = np.repeat((200 - 160 * dark)[:, :, None, None], side, axis=2)
    return np.repeat(picture, 3, axis=3).round().astype(np.uint8)


@pytest.fixture(scope="module")
def plan() -> SyncPlan:
    visemes = np.resize(np.repeat([0, 0, 10, 1, 11, 8, 1, 13], 5), 150).astype(np.int8)
    return SyncPlan(visemes, np.zeros(150, np.float32))


def report_of(frames, plan, **options):
    return sync_report(frames, plan, reader=DarkMouthReader(), **options)


@pytest.mark.parametrize("shift_ms", [10, 40, 120])
def test_the_report_finds_a_shift_of_drawn_frames(plan, shift_ms):
    times_s = np.arange(150) / 30
    reference, late = (dark_mouths(3 * mouth(t)) for t in (times_s, times_s - shift_ms / 1000))
    report = report_of(late, plan, reference=reference)
    assert report.value("av_offset_ms") == pytest.approx(shift_ms, abs=5)
    assert report.value("motion_ratio") == pytest.approx(1, abs=0.05)
    assert list(report.tracks.columns) == ["clip", "frame", "time_s", "viseme", "gap_px", "reference_gap_px"]
    assert report.tracks["gap_px"].to_numpy() == pytest.approx(3 * mouth(times_s - shift_ms / 1000), abs=0.2)
    assert set(report.table["label"]) == {"measured"}
    assert report.confusion.to_numpy().sum() == 150


def test_the_report_reads_a_box_of_streamed_frames_and_its_edge(plan):
    gap_px = 3 * mouth(np.arange(150) / 30)
    faces = dark_mouths(gap_px)
    alpha = np.zeros((80, 100))
    alpha[8:72, 20:84] = feathered(64)

    def stream(flicker: int):
        for k, face in enumerate(faces):
            frame = np.full((80, 100, 3), 90, np.uint8)
            frame[8:72, 20:84] = face
            frame[(alpha > 0.02) & (alpha < 0.98)] += np.uint8(flicker * (k % 2))
            yield frame

    options = {"box_px": (20, 8, 64), "alpha": alpha, "reference_gap_mm": gap_px / 64 * PICTURE_MM}
    report = report_of(stream(3), plan, reference=stream(0), **options)
    assert report.value("border_flicker_grey") == pytest.approx(3)
    assert report.value("reader_error_mm") < 0.5
    assert report.value("lip_r") > 0.99
    with pytest.raises(InputError, match="leaves the 100 x 80 frame"):
        report_of(stream(0), plan, reference=stream(0), box_px=(40, 8, 64))


def test_a_reader_that_is_off_for_a_face_is_calibrated_by_its_reference(plan):
    gap_px = 3 * mouth(np.arange(150) / 30)
    exact_mm = gap_px / 64 * PICTURE_MM
    reference, half = dark_mouths(0.7 * gap_px + 2), dark_mouths(0.7 * 0.5 * gap_px + 2)
    report = report_of(half, plan, reference=reference, reference_gap_mm=exact_mm)
    assert report.value("reader_error_mm") < 0.3
    assert report.value("motion_ratio") == pytest.approx(0.5, abs=0.03)  # the line does not hide a weak mouth
    assert report.value("lip_error_mm") == pytest.approx(0.5 * exact_mm.mean(), rel=0.05)


def test_the_report_of_a_frozen_clip_says_so(plan):
    gap_mm = mouth(np.arange(150) / 30)
    frozen = np.repeat(dark_mouths(np.array([12.0])), 150, axis=0)
    report = report_of(frozen, plan, reference_gap_mm=gap_mm)
    assert report.value("motion_ratio") == 0
    assert np.isnan(report.value("av_offset_ms"))
    assert report.reference_confusion is None


def test_the_report_refuses_what_does_not_belong_together(plan):
    frames = dark_mouths(np.full(150, 9.0))
    with pytest.raises(InputError, match="no reference"):
        report_of(frames, plan)
    with pytest.raises(InputError, match="end apart near frame 149"):
        report_of(frames, plan, reference=frames[:149])
    with pytest.raises(InputError, match="149 frames, a plan of 150"):
        report_of(frames[:149], plan, reference_gap_mm=np.ones(150))
