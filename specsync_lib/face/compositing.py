"""From the 1280x720 frame to the square that is generated, and back with a feathered edge.

The generated region is a fixed square of the reference head's frame (:data:`FACE_BOX`): what moves inside it, the
head's sway included, is part of the generated picture, so nothing is tracked or warped. The frame around it is drawn by
the reference head from the same idle track (pose, lids, brows) with the mouth at rest. Both sides of the feather
therefore show the same hair, neck and backdrop at the same moment, and the mouth, whose motion ends inside the square,
comes from the generator alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.units import VIDEO_HEIGHT_PX, VIDEO_WIDTH_PX

if TYPE_CHECKING:
    from specsync_lib.face.head.head import Camera, Head
    from specsync_lib.face.head.motion import FaceTracks

# Columns of a head's 52 ARKit units that a plan never drives: brows, cheeks, eyes, nose. The others are the mouth's.
IDLE_COLUMNS = (*range(22), 49, 50)
FEATHER_PX = 16


@dataclass(frozen=True)
class Box:
    """A square of a frame in px: columns ``left`` .. ``left + side``, rows ``top`` .. ``top + side``."""

    left: int
    top: int
    side: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a frame with."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)

    def check(self, frame: np.ndarray) -> None:
        """Raise InputError unless the frame is uint8 [height, width, 3] and holds the whole box."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(f"compositing: a frame {frame.shape} of {frame.dtype}, expected uint8 [height, width, 3]")
        height, width = frame.shape[:2]
        if min(self.left, self.top) < 0 or self.side < 2 or self.left + self.side > width:
            raise InputError(f"compositing: {self} does not lie in a frame of {width} x {height} px")
        if self.top + self.side > height:
            raise InputError(f"compositing: {self} does not lie in a frame of {width} x {height} px")


# The middle 320 px of the frame: 178 mm at the face, from above the brows to under the collar. On the reference head
# every viseme at every sway changes pixels by more than 2 grey levels only inside rows 226..499 and columns 515..766.
FACE_BOX = Box((VIDEO_WIDTH_PX - 320) // 2, (VIDEO_HEIGHT_PX - 320) // 2, 320)


def view_box(camera: "Camera", frame_camera: "Camera", size_px: tuple[int, int]) -> Box:
    """The square of a frame of ``size_px`` (width, height) that shows about what ``camera`` shows, to the next pixel.

    Exact at the distance of the face; nearer and farther points lie a pixel or two aside, because the two cameras stand
    at different heights. For readers that were trained on another view than the generator's.
    """
    width, height = size_px
    px_per_m = height / frame_camera.height_m
    side = round(camera.height_m * px_per_m)
    drop = (camera.centre_below_eyes_m - frame_camera.centre_below_eyes_m) * px_per_m
    box = Box(round((width - side) / 2), round((height - side) / 2 + drop), side)
    box.check(np.empty((height, width, 3), np.uint8))
    return box


def reader_box() -> Box:
    """What the lip reader looks at in a frame of the video: the view that it was trained on, around the face's box."""
    from specsync_lib.face.head.head import CAMERAS

    return view_box(CAMERAS["face"], CAMERAS["portrait"], (VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX))


def inside(box: Box, outer: Box) -> Box:
    """A box of a frame as a box of the part of it that ``outer`` cuts."""
    return Box(box.left - outer.left, box.top - outer.top, box.side)


def cut(frame: np.ndarray, box: Box, size_px: int) -> np.ndarray:
    """The box of a frame as a crop [size, size, 3] uint8, resampled with an antialiasing Lanczos filter."""
    box.check(frame)
    return _resized(frame[box.slices], size_px)


def feather(side_px: int, feather_px: int) -> np.ndarray:
    """Weight [side, side] of a pasted square: 0 on its outermost pixels, 1 from ``feather_px`` inwards, smooth between.

    Raises
    ------
    InputError: the feather is negative, or wider than half of the square.
    """
    if not 0 <= feather_px <= side_px // 2:
        raise InputError(
            f"compositing: a feather of {feather_px} px in a square of {side_px}; give 0 to {side_px // 2}"
        )
    if feather_px == 0:
        return np.ones((side_px, side_px), np.float32)
    inwards = np.minimum(np.arange(side_px), np.arange(side_px)[::-1])
    ramp = np.clip(inwards / feather_px, 0, 1).astype(np.float32)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.minimum(ramp[:, None], ramp[None, :])


def composite(frame: np.ndarray, crop: np.ndarray, box: Box, feather_px: int = FEATHER_PX) -> np.ndarray:
    """A copy of a frame with a crop laid into its box; every pixel outside of the box is the frame's own.

    Parameters
    ----------
    frame : ndarray [height, width, 3] uint8
    crop : ndarray [size, size, 3] uint8
        Resampled to the box's side where it differs.
    box : Box
    feather_px : int
        Width of the blend, inside the box.

    Raises
    ------
    InputError: shapes, types or the box do not fit.
    """
    box.check(frame)
    if crop.ndim != 3 or crop.shape[0] != crop.shape[1] or crop.shape[2] != 3 or crop.dtype != np.uint8:
        raise InputError(f"compositing: a crop {crop.shape} of {crop.dtype}, expected uint8 [size, size, 3]")
    weight = feather(box.side, feather_px)[..., None]
    under, over = frame[box.slices].astype(np.float32), _resized(crop, box.side).astype(np.float32)
    out = frame.copy()
    out[box.slices] = (under + weight * (over - under)).round().astype(np.uint8)
    return out


def _resized(picture: np.ndarray, size_px: int) -> np.ndarray:
    from PIL import Image

    if picture.shape[:2] == (size_px, size_px):
        return picture.copy()
    return np.asarray(Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.LANCZOS))


def idle_tracks(frames: int, seed: int) -> "FaceTracks":
    """A living face that says nothing: sway, blinks, gaze and brows from the seed alone, so no plan can change them."""
    from specsync_lib.face.head.motion import face_tracks
    from specsync_lib.visemes import SyncPlan

    return face_tracks(SyncPlan(np.zeros(frames, np.int8), np.zeros(frames, np.float32)), seed)


def speaking_tracks(mouth: "FaceTracks", idle: "FaceTracks") -> "FaceTracks":
    """The mouth of one track on the idle motion of another: what the generated video is compared with."""
    from specsync_lib.face.head.motion import FaceTracks

    if len(mouth.units) != len(idle.units):
        raise InputError(f"compositing: tracks of {len(mouth.units)} and {len(idle.units)} frames; give equal lengths")
    units = mouth.units.copy()
    units[:, IDLE_COLUMNS] = idle.units[:, IDLE_COLUMNS]
    return FaceTracks(units, idle.pose.copy())


def resting_frames(head: "Head", idle: "FaceTracks") -> Iterator[np.ndarray]:
    """Frames [height, width, 3] uint8 of a head that moves idly with its mouth at rest: what lies under the crops."""
    units = np.zeros_like(idle.units)
    units[:, IDLE_COLUMNS] = idle.units[:, IDLE_COLUMNS]
    for weights, pose in zip(units, idle.pose, strict=True):
        yield head.render(weights, pose)
