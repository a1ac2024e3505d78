"""The generated square: where it lies, that nothing outside of it changes, and that its edge cannot be seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.face import compositing
from specsync_lib.face.compositing import Box, composite, cut, feather
from specsync_lib.face.head.head import CAMERAS
from specsync_lib.face.head.mesh import unit_names
from specsync_lib.face.head.motion import FaceTracks


def picture(height: int = 90, width: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_picture(height: int = 90, width: int = 120) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 17), np.cos(y / 13), np.sin((x + y) / 23)], axis=-1)
    return (127 + 100 * waves).astype(np.uint8)


@given(
    left=st.integers(0, 60),
    top=st.integers(0, 40),
    side=st.integers(4, 50),
    share=st.floats(0, 0.5),
    size=st.integers(4, 64),
)
def test_every_pixel_outside_of_the_box_is_the_frames_own(left, top, side, share, size):
    frame, box = picture(), Box(left, top, side)
    before = frame.copy()
    out = composite(frame, picture(size, size, 1), box, int(share * side))
    outside = np.ones(frame.shape[:2], bool)
    outside[box.slices] = False
    np.testing.assert_array_equal(out[outside], before[outside])
    np.testing.assert_array_equal(frame, before)  # the input is not written to


def test_the_middle_is_the_crops_own_and_the_rim_the_frames():
    frame, crop, box = picture(), picture(40, 40, 1), Box(30, 20, 40)
    out = composite(frame, crop, box, 8)
    np.testing.assert_array_equal(out[28:52, 38:62], crop[8:32, 8:32])
    inside = out[box.slices]
    for rim in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        np.testing.assert_array_equal(inside[rim], frame[box.slices][rim])


@given(side=st.integers(4, 60), share=st.floats(0.05, 0.5))
def test_the_feather_rises_smoothly_from_nothing_to_all(side, share):
    width = max(1, int(share * side))
    mask = feather(side, width)
    assert mask.min() == 0 == mask[0].max() == mask[:, -1].max()
    assert mask[side // 2, side // 2] == 1 or width >= side // 2
    assert np.abs(np.diff(mask, axis=0)).max() <= 1.5 / width + 1e-6  # smoothstep's steepest slope
    np.testing.assert_allclose(mask, mask[::-1, ::-1])
    np.testing.assert_allclose(mask, mask.T)


def test_the_same_content_leaves_no_trace():
    frame, box = picture(), Box(30, 20, 40)
    np.testing.assert_array_equal(composite(frame, cut(frame, box, 40), box, 6), frame)
    # resampled down and up again: what the generator's size costs, on content as smooth as skin
    frame = smooth_picture()
    out = composite(frame, cut(frame, box, 32), box, 6)
    assert np.abs(out.astype(int) - frame).max() <= 2


def test_a_brighter_crop_has_an_edge_without_a_feather_and_none_with_it():
    """The largest step between neighbours across the box's rim, on a flat frame under a crop 24 levels brighter."""
    frame, crop, box = np.full((90, 120, 3), 100, np.uint8), np.full((40, 40, 3), 124, np.uint8), Box(30, 20, 40)

    def largest_step(feather_px: int) -> int:
        out = composite(frame, crop, box, feather_px).astype(int)
        return max(np.abs(np.diff(out, axis=axis)).max() for axis in (0, 1))

    assert largest_step(0) == 24
    assert largest_step(16) <= 3


def test_the_reports_box_lies_in_the_middle_of_the_frame():
    box = compositing.FACE_BOX
    assert (box.left, box.top, box.side) == (480, 200, 320)
    frame = np.zeros((720, 1280, 3), np.uint8)
    frame[200:520, 480:800] = 255
    assert cut(frame, box, 256).min() == 255


def test_another_cameras_view_is_found_in_the_frame():
    box = compositing.view_box(CAMERAS["face"], CAMERAS["portrait"], (1280, 720))
    assert box == Box(428, 118, 423)  # 0.235 m at 1800 px/m, 17 mm higher than the frame's centre
    assert compositing.view_box(CAMERAS["portrait"], CAMERAS["portrait"], (1280, 720)) == Box(280, 0, 720)


@pytest.mark.parametrize(
    ("frame", "crop", "box", "feather_px", "word"),
    [
        (picture(), picture(8, 8), Box(100, 0, 40), 4, "does not lie"),
        (picture(), picture(8, 8), Box(0, 60, 40), 4, "does not lie"),
        (picture(), picture(8, 8), Box(-1, 0, 40), 4, "does not lie"),
        (picture(), picture(8, 9), Box(0, 0, 40), 4, "expected uint8"),
        (picture().astype(np.float32), picture(8, 8), Box(0, 0, 40), 4, "expected uint8"),
        (picture(), picture(8, 8), Box(0, 0, 40), 21, "give 0 to 20"),
    ],
)
def test_what_does_not_fit_is_one_line(frame, crop, box, feather_px, word):
    with pytest.raises(InputError, match=word) as error:
        composite(frame, crop, box, feather_px)
    assert "\n" not in str(error.value)


def test_idle_columns_are_those_that_no_viseme_moves():
    names = np.array(unit_names())
    idle = names[list(compositing.IDLE_COLUMNS)]
    assert all(name.startswith(("brow", "cheek", "eye", "nose")) for name in idle)
    rest = np.delete(names, list(compositing.IDLE_COLUMNS))
    assert all(name.startswith(("jaw", "mouth", "tongue")) for name in rest)


def test_the_idle_motion_is_the_same_under_every_mouth():
    idle = compositing.idle_tracks(40, seed=3)
    mouth = FaceTracks(np.random.default_rng(0).random((40, 52)).astype(np.float32), np.ones((40, 3), np.float32))
    tracks = compositing.speaking_tracks(mouth, idle)
    columns = list(compositing.IDLE_COLUMNS)
    np.testing.assert_array_equal(tracks.pose, idle.pose)
    np.testing.assert_array_equal(tracks.units[:, columns], idle.units[:, columns])
    np.testing.assert_array_equal(np.delete(tracks.units, columns, 1), np.delete(mouth.units, columns, 1))
    longer = compositing.idle_tracks(70, seed=3)  # nor does it depend on how much is still to be said
    np.testing.assert_allclose(longer.pose[:40], idle.pose, atol=1e-6)
    np.testing.assert_allclose(longer.units[:40], idle.units, atol=1e-6)
    with pytest.raises(InputError, match="40 and 5 frames"):
        compositing.speaking_tracks(mouth, compositing.idle_tracks(5, seed=3))


def test_frames_under_the_crops_keep_the_mouth_at_rest():
    class Recorder:
        def __init__(self):
            self.seen = []

        def render(self, units, pose):
            self.seen.append((units, pose))
            return np.zeros((2, 2, 3), np.uint8)

    idle, recorder = compositing.idle_tracks(30, seed=1), Recorder()
    noisy = FaceTracks(np.maximum(idle.units, 0.3), idle.pose)
    assert len(list(compositing.resting_frames(recorder, noisy))) == 30
    units = np.array([seen[0] for seen in recorder.seen])
    assert np.delete(units, list(compositing.IDLE_COLUMNS), 1).max() == 0
    np.testing.assert_array_equal(np.array([seen[1] for seen in recorder.seen]), idle.pose)
