"""From a sync plan to the face's motion: ARKit units and pose, frame by frame."""

from dataclasses import dataclass

import numpy as np

from specsync_lib import units as time_base
from specsync_lib.face.head import mesh
from specsync_lib.face.head.mesh import weights_vector
from specsync_lib.visemes import VISEME_OPENNESS, VISEME_TO_ARKIT, SyncPlan

# Co-articulation. A viseme pulls on its neighbours with a strength (how little the sound tolerates another mouth shape)
# and over a time (rounding is prepared early); after Cohen and Massaro, "Modeling coarticulation in synthetic visual
# speech", 1993. The widths are Gaussian deviations in frames: 1.2 is 94 ms at half height.
STRENGTH = {
    "sil": 0.9, "PP": 2.5, "FF": 2.2, "TH": 1.2, "DD": 0.7, "kk": 0.6, "CH": 1.5, "SS": 1.1, "nn": 0.7, "RR": 1.0,
    "aa": 1.2, "E": 1.0, "ih": 0.9, "oh": 1.4, "ou": 1.5,
}  # fmt: skip
EYE_YAW_RAD, EYE_PITCH_RAD = 0.50, 0.45  # turn of the eyeball at weight 1
WIDTH_FRAMES = {name: 1.2 for name in time_base.VISEMES} | {"CH": 1.5, "oh": 1.6, "ou": 1.7, "PP": 0.9, "FF": 0.9}
# A closure reaches this far into the two frames before and after it.
CLOSURE_RAMP = np.array([0.12, 0.5, 1.0, 0.5, 0.12])
OPENING_UNITS = ("jawOpen", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight")
BLINK_EVERY_S = (2.0, 6.0)
BLINK_CLOSING_S, BLINK_SHUT_S, BLINK_OPENING_S = 0.05, 0.02, 0.08  # 150 ms in all


@dataclass(frozen=True)
class FaceTracks:
    """What the face does in every frame.

    Attributes
    ----------
    units : ndarray [frames, 52] float32
        ARKit weights in [0, 1], in the order of ``head_mesh.unit_names()``.
    pose : ndarray [frames, 3] float32
        Yaw, pitch, roll of the head in radians.
    """

    units: np.ndarray
    pose: np.ndarray


def face_tracks(plan: SyncPlan, seed: int = 0, *, still: bool = False) -> FaceTracks:
    """A plan as face units with co-articulation, and a living face around the mouth.

    The mouth follows the plan alone. Blinks, gaze, brows and the head's sway come from the seed (and the sway nods a
    little with the openness), so two plans under one seed differ in the mouth and in that nod only. Lips meet fully in
    every frame of PP; the lower lip reaches the teeth in every frame of FF.

    Parameters
    ----------
    plan : SyncPlan
    seed : int
    still : bool
        The mouth alone: no blinks, no gaze, no sway.
    """
    names = mesh.unit_names()
    targets = np.array([weights_vector(VISEME_TO_ARKIT[name]) for name in time_base.VISEMES])  # [15, 52]
    units, emphasis = _mouth(plan, targets)
    frames = len(units)
    pose = np.zeros((frames, 3), np.float32)
    if not still and frames:
        blink_rng, sway_rng, brow_rng, gaze_rng = np.random.default_rng(seed).spawn(4)
        pose = _sway(frames, sway_rng) * [0.040, 0.022, 0.020] + emphasis[:, None] * [0.0, 0.030, 0.0]
        lids = _blinks(frames, blink_rng)
        brows = np.maximum(_sway(frames, brow_rng)[:, 0], 0) * 0.35 + 0.25 * np.maximum(emphasis, 0)
        for name, values in {
            "eyeBlinkLeft": lids, "eyeBlinkRight": lids, "browInnerUp": brows,
            "browOuterUpLeft": 0.8 * brows, "browOuterUpRight": 0.8 * brows,
        }.items():  # fmt: skip
            units[:, names.index(name)] += values
        # the eyes stay on the viewer while the head moves, and wander a little
        gaze = _fixations(frames, gaze_rng) - pose[:, :2]
        right, down = gaze[:, 0] / EYE_YAW_RAD, gaze[:, 1] / EYE_PITCH_RAD
        for name, values in {
            "eyeLookOutLeft": right, "eyeLookInRight": right, "eyeLookInLeft": -right, "eyeLookOutRight": -right,
            "eyeLookDownLeft": down, "eyeLookDownRight": down, "eyeLookUpLeft": -down, "eyeLookUpRight": -down,
        }.items():  # fmt: skip
            units[:, names.index(name)] += np.maximum(values, 0)
    return FaceTracks(np.clip(units, 0, 1).astype(np.float32), pose.astype(np.float32))


def _mouth(plan: SyncPlan, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mouth units [frames, 52] of a plan, and its emphasis [frames]: slow openness against its own mean."""
    from scipy.ndimage import convolve1d, gaussian_filter1d

    names = mesh.unit_names()
    frames = len(plan.visemes)
    if frames == 0:
        return np.zeros((0, len(names)), np.float32), np.zeros(0)
    active = np.eye(len(time_base.VISEMES))[plan.visemes]  # [frames, 15]
    pull = np.stack(
        [
            STRENGTH[name] * gaussian_filter1d(active[:, k], WIDTH_FRAMES[name], mode="nearest", truncate=3.0)
            for k, name in enumerate(time_base.VISEMES)
        ],
        axis=1,
    )
    pull /= pull.sum(axis=1, keepdims=True)
    units = pull @ targets
    # the plan's openness against what its visemes open on their own
    own = pull @ np.array([VISEME_OPENNESS[name] for name in time_base.VISEMES])
    wanted = gaussian_filter1d(plan.openness.astype(float), 0.7, mode="nearest")
    scale = np.clip((wanted + 0.08) / (own + 0.08), 0.5, 1.4)
    opening = [names.index(name) for name in OPENING_UNITS]
    units[:, opening] *= scale[:, None]
    for name in ("FF", "PP"):  # PP last: it may not be opened by anything
        k = time_base.VISEMES.index(name)
        closed = convolve1d(active[:, k], CLOSURE_RAMP, mode="constant").clip(0, 1)[:, None]
        closed = np.maximum(closed * (1 - active[:, [time_base.VISEMES.index("PP")]]), active[:, [k]])
        units += closed * (targets[k] - units)
    slow = gaussian_filter1d(plan.openness.astype(float), 4.0, mode="nearest")
    return units, slow - slow.mean()


def _sway(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Slow random motion [frames, 3], deviation about 1: white noise under a Gaussian of half a second."""
    from scipy.ndimage import gaussian_filter1d

    deviation = 0.5 * time_base.VIDEO_FPS
    margin = int(4 * deviation)
    noise = gaussian_filter1d(rng.standard_normal((frames + 2 * margin, 3)), deviation, axis=0)
    return noise[margin : margin + frames] * np.sqrt(2 * deviation * np.sqrt(np.pi))


def _blinks(frames: int, rng: np.random.Generator) -> np.ndarray:
    """How far the lids are shut [frames], from blinks every 2 to 6 s of 150 ms."""
    times = (np.arange(frames) + 0.5) / time_base.VIDEO_FPS
    shut = np.zeros(frames)
    start = rng.uniform(0.6, BLINK_EVERY_S[1] / 2)
    while start < times[-1]:
        since = times - start
        closing = since / BLINK_CLOSING_S
        opening = 1 - (since - BLINK_CLOSING_S - BLINK_SHUT_S) / BLINK_OPENING_S
        shut = np.maximum(shut, np.clip(np.minimum(closing, opening), 0, 1))
        start += rng.uniform(*BLINK_EVERY_S)
    return shut


def _fixations(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where the eyes rest, yaw and pitch [frames, 2] in radians: near the camera, in jumps every 0.4 to 1.8 s."""
    gaze = np.zeros((frames, 2))
    start = 0
    while start < frames:
        end = start + int(time_base.VIDEO_FPS * rng.uniform(0.4, 1.8))
        gaze[start:end] = rng.normal(0, 1, 2) * [0.030, 0.015]
        start = end
    return gaze
