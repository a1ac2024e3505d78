"""The reference head: co-articulation that keeps its promises, determinism, frames that show a face."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face.head import look, mesh
from specsync_lib.face.head.head import Head
from specsync_lib.face.head.mesh import weights_vector
from specsync_lib.face.head.motion import face_tracks
from specsync_lib.visemes import VISEME_TO_ARKIT, SyncPlan

PP, FF, AA = (units.VISEMES.index(name) for name in ("PP", "FF", "aa"))
CLOSED_MM = 0.3  # lips that touch: a third of a pixel in the 720p picture


@pytest.fixture(scope="module")
def head():
    with Head(size_px=(128, 128), camera="face", threads=1) as head:
        yield head


def plan_of(visemes: list[int], openness: list[float] | None = None) -> SyncPlan:
    names = [units.VISEMES[k] for k in visemes]
    plan = SyncPlan.from_names(names)
    return plan if openness is None else SyncPlan(plan.visemes, np.array(openness, np.float32))


@st.composite
def plans(draw):
    runs = draw(st.lists(st.tuples(st.integers(0, 14), st.integers(1, 8)), min_size=1, max_size=12))
    visemes = [viseme for viseme, length in runs for _ in range(length)]
    openness = draw(st.lists(st.floats(0, 1, width=32), min_size=len(visemes), max_size=len(visemes)))
    return plan_of(visemes, openness)


@settings(max_examples=60)
@given(plan=plans(), seed=st.integers(0, 2**32 - 1))
def test_weights_stay_in_range(plan, seed):
    tracks = face_tracks(plan, seed)
    assert tracks.units.shape == (len(plan), 52) and tracks.pose.shape == (len(plan), 3)
    assert tracks.units.min() >= 0 and tracks.units.max() <= 1
    assert np.isfinite(tracks.pose).all() and np.abs(tracks.pose).max() < 0.5


@settings(max_examples=40)
@given(plan=plans())
def test_lips_meet_in_every_frame_of_pp(head, plan):
    tracks = face_tracks(plan, still=True)
    for weights in tracks.units[plan.visemes == PP]:
        assert head.lip_aperture(weights) < CLOSED_MM


def test_lips_meet_between_the_widest_vowels(head):
    plan = plan_of([AA] * 10 + [PP] + [AA] * 10, [1.0] * 21)
    gap = [head.lip_aperture(weights) for weights in face_tracks(plan, still=True).units]
    assert gap[10] < CLOSED_MM < 10 < gap[3]
    assert gap[3] > gap[9] > gap[10] < gap[11] < gap[17]


def test_lower_lip_reaches_the_teeth_on_ff(head):
    plan = plan_of([AA] * 8 + [FF] * 3 + [AA] * 8)
    weights = face_tracks(plan, still=True).units[9]
    assert weights == pytest.approx(weights_vector(VISEME_TO_ARKIT["FF"]), abs=0.02)
    assert head.lip_aperture(weights) < 3


@pytest.mark.parametrize("wide", [1.0, 1.6, 4.0])
def test_a_mouth_with_few_vertices_has_a_gap(head, monkeypatch, wide):
    """A wide mouth, or one whose vertices leave a column of the middle empty: the nearest ones stand for it."""
    points = head._lip_points(head._weights({"jawOpen": 0.5})) * [wide, 1, 1]
    assert head._gap_mm(points) == pytest.approx(head.lip_aperture({"jawOpen": 0.5}), rel=0.25)
    few = np.array([[0.0, 0, 0.004], [0.02, 0, 0.004], [0.0, 0, 0.001]])
    monkeypatch.setattr(head, "_upper_count", 2)
    assert head._gap_mm(few) == pytest.approx(3.0)


def test_silence_is_rest(head):
    still = face_tracks(plan_of([0] * 60), still=True)
    assert not still.units.any() and not still.pose.any()
    mouth = [k for k, name in enumerate(mesh.unit_names()) if name.startswith(("mouth", "jaw", "tongue", "cheek"))]
    alive = face_tracks(plan_of([0] * 300), seed=5)
    assert not alive.units[:, mouth].any()
    assert head.lip_aperture({}) < CLOSED_MM


def test_every_viseme_reaches_its_target_when_held():
    for k, name in enumerate(units.VISEMES):
        middle = face_tracks(plan_of([k] * 21), still=True).units[10]
        assert middle == pytest.approx(weights_vector(VISEME_TO_ARKIT[name]), abs=0.02), name


def test_neighbours_blend():
    jaw = mesh.unit_names().index("jawOpen")
    track = face_tracks(plan_of([0] * 15 + [AA] * 15), still=True).units[:, jaw]
    assert (np.diff(track) >= -1e-6).all()
    moving = np.flatnonzero((track > 0.05 * track.max()) & (track < 0.95 * track.max()))
    assert 2 <= len(moving) <= 6  # 70 to 200 ms from closed to open


def test_blinks_come_every_few_seconds_and_last_150_ms():
    lid = mesh.unit_names().index("eyeBlinkLeft")
    shut = face_tracks(plan_of([0] * 30 * 120), seed=1).units[:, lid]
    starts = np.flatnonzero((shut > 0) & (np.concatenate([[0], shut[:-1]]) == 0))
    gaps_s = np.diff(starts) / units.VIDEO_FPS
    assert 20 <= len(starts) <= 60 and gaps_s.min() > 1.9 and gaps_s.max() < 6.2
    assert (shut > 0).sum() / len(starts) == pytest.approx(0.15 * units.VIDEO_FPS, abs=0.6)


def test_the_seed_decides_everything_beside_the_mouth():
    plan, other = plan_of([0, 1, 10, 10, 4] * 20), plan_of([0, 2, 11, 3, 4] * 20)
    same, again, different = face_tracks(plan, 7), face_tracks(plan, 7), face_tracks(plan, 8)
    assert np.array_equal(same.units, again.units) and np.array_equal(same.pose, again.pose)
    assert not np.array_equal(same.pose, different.pose)
    lid = mesh.unit_names().index("eyeBlinkLeft")
    assert np.array_equal(same.units[:, lid], face_tracks(other, 7).units[:, lid])


def test_an_empty_plan_has_no_frames():
    empty = SyncPlan(np.zeros(0, np.int8), np.zeros(0, np.float32))
    assert face_tracks(empty).units.shape == (0, 52)


def test_frames_show_an_opening_mouth(head):
    closed, opened = head.render({}), head.render(VISEME_TO_ARKIT["aa"])
    assert closed.shape == (128, 128, 3) and closed.dtype == np.uint8
    change = np.abs(closed.astype(int) - opened).sum(axis=2)
    rows, columns = np.nonzero(change > 60)
    assert len(rows) > 60 and 50 < columns.mean() < 78 and rows.mean() > 64
    assert change[:40].max() < 12  # forehead and hair stay


def test_same_state_same_bits(head):
    first = head.render({"jawOpen": 0.3}, (0.1, 0.0, 0.0))
    head.render({"jawOpen": 0.9}, (-0.1, 0.1, 0.0))
    assert np.array_equal(first, head.render({"jawOpen": 0.3}, (0.1, 0.0, 0.0)))
    with Head(size_px=(128, 128), camera="face", threads=2) as twin:
        assert np.array_equal(first, twin.render({"jawOpen": 0.3}, (0.1, 0.0, 0.0)))


@pytest.mark.parametrize("name", sorted(look.IDENTITIES))
def test_every_identity_closes_and_opens_its_mouth(name):
    with Head(name, size_px=(64, 64), camera="face", threads=1, smooth_edges=False) as head:
        assert head.lip_aperture(VISEME_TO_ARKIT["PP"]) < CLOSED_MM
        assert head.lip_aperture({}) < CLOSED_MM
        assert 9 < head.lip_aperture(VISEME_TO_ARKIT["aa"]) < 25
        assert head.render({}).std() > 20


@pytest.mark.parametrize("studio", sorted(look.STUDIOS))
def test_every_studio_lights_the_face(studio):
    with Head(size_px=(64, 64), camera="face", studio=studio, threads=1, smooth_edges=False) as head:
        face = head.render({})[20:44, 20:44]
    assert 60 < face.mean() < 235 and (face[..., 0] > face[..., 2]).mean() > 0.8


@pytest.mark.parametrize(
    "options, words",
    [
        ({"identity": "nobody"}, "unknown identity"),
        ({"size_px": (127, 128)}, "even"),
        ({"size_px": (0, 0)}, "even"),
        ({"studio": "disco"}, "unknown studio"),
        ({"camera": "drone"}, "unknown camera"),
        ({"identity": look.Identity(shape={"horns": 1.0})}, "unknown shape slider"),
    ],
)
def test_unknown_options_are_named(options, words):
    with pytest.raises(InputError, match=words):
        Head(**options)


@pytest.mark.parametrize("bad", [{"jawWide": 0.5}, np.zeros(51), np.full(52, np.nan)])
def test_bad_weights_are_named(head, bad):
    with pytest.raises(InputError, match="unit"):
        head.render(bad)


def test_subdivision_keeps_flat_things_flat_and_borders_on_the_border():
    quads = np.array([[0, 1, 4, 3], [1, 2, 5, 4]])
    points = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]], float)
    matrix, finer = mesh.catmull_clark(quads, 6)
    fine = matrix @ points
    assert len(finer) == 8 and np.allclose(matrix.sum(axis=1), 1)
    assert fine.min() >= 0 and fine[:, 0].max() <= 2 and fine[:, 1].max() <= 1
    assert np.allclose(np.sort(fine[6 + 7 :], axis=0), [[0.5, 0.5], [1.5, 0.5]])
