"""A finished clip measured in one call: every sync measure, the lip classes and the tracks they come from.

    report = sync_report(frames, plan, reference=reference_frames, box_px=(left, top, side), alpha=alpha)
    report.table

Frames are streams: nothing but the crops of one batch is held.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from specsync_lib.errors import InputError
from specsync_lib.measures import sync
from specsync_lib.measures.intervals import Metric, bootstrap_by_group
from specsync_lib.measures.lip_reader import BATCH_FRAMES, PICTURE_MM, LipReader, LipTrack, load_lip_reader
from specsync_lib.units import VIDEO_FPS
from specsync_lib.visemes import SyncPlan

EDGE_ALPHA = 0.02  # the feathered ring lies where EDGE_ALPHA < alpha < 1 - EDGE_ALPHA

# Rows of the report's table, in order, with what each says.
MEANINGS = {
    "av_offset_ms": "lips later than the reference's (interpolated cross-correlation)",
    "lip_r": "correlation of the lips' gap with the reference's",
    "lip_error_px": "mean absolute error of the lips' gap, in pixels of the shown face",
    "lip_error_mm": "the same in millimetres",
    "jitter_ratio": "jerk of the gap over the reference's (root mean square)",
    "motion_ratio": "mean step of the gap over the reference's; 0 is a frozen mouth",
    "silence_motion_ratio": "mean step of the gap in silence over the reference's in speech",
    "closure_rate": "share of p, b, m with lips nearer than 1 mm",
    "lip_class_accuracy": "frames whose lips show the class that truth names",
    "border_flicker_grey": "change between frames of the error in the feathered edge, in grey levels",
    "border_flicker_ratio": "the same over the change inside the edge",
    "reference_silence_motion_ratio": "the reference itself, for comparison",
    "reference_closure_rate": "the reference itself, for comparison",
    "reference_lip_class_accuracy": "the reference itself: what a perfect face would reach",
    "reader_r": "the lip reader on the reference against its exact gap",
    "reader_error_mm": "mean absolute error of the lip reader on the reference, calibrated to the face",
}


@dataclass
class EdgeFlicker:
    """Collects how the picture's error changes from frame to frame, in the feathered edge and inside it.

    The error is the frame minus the reference's frame where there is one (the frame itself otherwise), so that motion
    which the reference shares does not count, nor does a steady difference in tone.

    Parameters
    ----------
    alpha : ndarray [height, width]
        Share of the generated picture in the composite, 0 to 1.
    """

    alpha: Float[np.ndarray, "height width"]
    rows: list[tuple[float, float]] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        alpha = np.asarray(self.alpha)
        self._ring = (alpha > EDGE_ALPHA) & (alpha < 1 - EDGE_ALPHA)
        self._inside = alpha >= 1 - EDGE_ALPHA
        if alpha.ndim != 2 or not self._ring.any() or not self._inside.any():
            raise InputError(f"border flicker: alpha {alpha.shape} has no edge or no inside; give the composite's mask")
        self._before: tuple[int, np.ndarray] | None = None
        self._count = 0

    def push(self, frame: np.ndarray, reference: np.ndarray | None, clip: int) -> None:
        """The next frame [height, width, 3] uint8, with the reference's; the first of a clip has no change."""
        if frame.shape[:2] != self._ring.shape:
            raise InputError(
                f"border flicker: a frame of {frame.shape[:2]}, alpha of {self._ring.shape}; give one size"
            )
        error = frame.astype(np.int16) - (0 if reference is None else reference.astype(np.int16))
        if self._before is not None and self._before[0] == clip:
            change = np.abs(error - self._before[1])
            self.rows.append((float(change[self._ring].mean()), float(change[self._inside].mean())))
            self.frames.append(self._count)
        self._before = (clip, error)
        self._count += 1

    def metrics(self, clips: Int[np.ndarray, " n"], rng: np.random.Generator) -> dict[str, Metric]:
        """Change in the edge in grey levels, and over that inside."""
        if not self.rows:
            raise InputError("border flicker: every clip has one frame; give at least two of one clip")
        groups, kind = sync.resampling_groups(clips)
        rows, groups = np.array(self.rows), groups[self.frames]
        options = {"rng": rng, "resampling_unit": kind}
        return {
            "border_flicker_grey": bootstrap_by_group(rows[:, 0], groups, unit="grey levels", **options),
            "border_flicker_ratio": bootstrap_by_group(rows, groups, lambda s, _: s[..., 0] / s[..., 1], **options),
        }


@dataclass(frozen=True)
class SyncReport:
    """What :func:`sync_report` measured.

    Attributes
    ----------
    table : DataFrame
        One row a measure: measure, value, low, high, n, unit, resampling_unit, label, meaning.
    confusion, reference_confusion : DataFrame
        Lip classes in frames, truth by row; the second of the reference render (None without one).
    tracks : DataFrame
        clip, frame, time_s, viseme, gap_px, reference_gap_px.
    lips : LipTrack
        Everything that was read of the measured frames.
    """

    table: pd.DataFrame
    confusion: pd.DataFrame
    reference_confusion: pd.DataFrame | None
    tracks: pd.DataFrame
    lips: LipTrack

    def value(self, measure: str) -> float:
        """The point estimate of one row.

        Raises
        ------
        KeyError: the measure is not in the table.
        """
        return float(self.table.set_index("measure").loc[measure, "value"])


def sync_report(
    frames: Iterable[np.ndarray],
    plan: SyncPlan,
    *,
    reference: Iterable[np.ndarray] | None = None,
    reference_gap_mm: Float[np.ndarray, " n"] | None = None,
    box_px: tuple[int, int, int] | None = None,
    alpha: Float[np.ndarray, "height width"] | None = None,
    clips: Int[np.ndarray, " n"] | None = None,
    reader: LipReader | None = None,
    rng: np.random.Generator | None = None,
) -> SyncReport:
    """Measure a clip, or several one after the other, against truth.

    Parameters
    ----------
    frames
        The clip's frames [height, width, 3] uint8.
    plan
        Truth's visemes, one a frame.
    reference
        Frames of the reference render, in step with ``frames``; the same reader reads both.
    reference_gap_mm
        [n] the reference's exact gap (``Head.lip_aperture``): stands for the reference where there are no frames of it;
        beside them it calibrates the reader to this face (:func:`calibrated`) and tells its remaining error.
    box_px
        left, top and side of the face's square in the frames; the whole frame otherwise. It must show
        ``lip_reader.PICTURE_MM`` at the face's distance.
    alpha
        The composite's mask, for the edge's flicker; left out without it.
    clips
        [n] clip of each frame; one clip otherwise.
    reader
        Default: the committed one.

    Raises
    ------
    InputError: neither a reference nor its gap; counts that differ; frames that the reader refuses.
    """
    if reference is None and reference_gap_mm is None:
        raise InputError("sync report: no reference; give its frames or its exact gap in mm")
    reader, rng = reader or load_lip_reader(), np.random.default_rng(0) if rng is None else rng
    n = len(plan)
    clips = np.zeros(n, int) if clips is None else np.asarray(clips)
    flicker = None if alpha is None else EdgeFlicker(alpha)
    lips, truth_lips = _read_both(frames, reference, box_px, clips, flicker, reader)
    for name, track in {"frames": lips, "reference": truth_lips, "reference_gap_mm": reference_gap_mm}.items():
        if track is not None and len(track) != n:
            raise InputError(f"sync report: {len(track)} {name}, a plan of {n} frames; give one of each a frame")
    gap_mm = lips.gap_mm.astype(np.float64)
    exact_mm = None if reference_gap_mm is None else np.asarray(reference_gap_mm, np.float64)
    truth_mm = exact_mm if truth_lips is None else truth_lips.gap_mm.astype(np.float64)
    if truth_lips is not None and exact_mm is not None:
        gap_mm, truth_mm = calibrated((gap_mm, truth_mm), truth_mm, exact_mm)
    px_per_mm = lips.picture_px / PICTURE_MM
    pair, rest = (truth_mm, gap_mm), (clips, rng)
    confusion = sync.viseme_confusion(lips.units, plan.visemes, reader.spread, *rest)
    found = {
        "av_offset_ms": sync.av_offset(*pair, *rest),
        "lip_r": sync.lip_correlation(*pair, *rest),
        "lip_error_px": sync.lip_error(truth_mm * px_per_mm, gap_mm * px_per_mm, *rest),
        "lip_error_mm": sync.lip_error(*pair, *rest, unit="mm"),
        "jitter_ratio": sync.jitter_ratio(*pair, *rest),
        "motion_ratio": sync.motion_ratio(*pair, *rest),
        "silence_motion_ratio": sync.silence_motion(*pair, plan.visemes, *rest),
        "closure_rate": sync.closure_rate(gap_mm, plan.visemes, *rest),
        "lip_class_accuracy": confusion.accuracy,
        "reference_silence_motion_ratio": sync.silence_motion(truth_mm, truth_mm, plan.visemes, *rest),
        "reference_closure_rate": sync.closure_rate(truth_mm, plan.visemes, *rest),
    }
    truth_confusion = None
    if truth_lips is not None:
        truth_confusion = sync.viseme_confusion(truth_lips.units, plan.visemes, reader.spread, *rest)
        found["reference_lip_class_accuracy"] = truth_confusion.accuracy
        if exact_mm is not None:
            found["reader_r"] = sync.lip_correlation(exact_mm, truth_mm, *rest)
            found["reader_error_mm"] = sync.lip_error(exact_mm, truth_mm, *rest, unit="mm")
    if flicker is not None:
        found |= flicker.metrics(clips, rng)
    return SyncReport(
        metrics_table(found, MEANINGS),
        confusion.table,
        None if truth_confusion is None else truth_confusion.table,
        pd.DataFrame(
            {
                "clip": clips,
                "frame": np.arange(n),
                "time_s": np.arange(n) / VIDEO_FPS,
                "viseme": plan.names,
                "gap_px": gap_mm * px_per_mm,
                "reference_gap_px": truth_mm * px_per_mm,
            }
        ),
        lips,
    )


def calibrated(
    tracks: tuple[np.ndarray, ...], read: Float[np.ndarray, " n"], exact: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, ...]:
    """Gaps [n] that were read, on the scale of this face: the line that brings ``read`` nearest to ``exact``.

    The reader is a little off in the same way in every frame of one face; a line cannot hide an error in time. Left as
    they are where the reference hardly moves.
    """
    if np.std(read) < 1e-3:
        return tracks
    slope, offset = np.polyfit(read, exact, 1)
    return tuple(np.maximum(slope * track + offset, 0.0) for track in tracks)


def metrics_table(found: dict[str, Metric], meanings: dict[str, str]) -> pd.DataFrame:
    """Measures as rows, in the order of their meanings."""
    columns = ("value", "low", "high", "n", "unit", "resampling_unit")
    rows = [
        {
            "measure": name,
            **{key: getattr(found[name], key) for key in columns},
            "label": "measured",
            "meaning": meanings[name],
        }
        for name in meanings
        if name in found
    ]
    return pd.DataFrame(rows)


def _read_both(
    frames: Iterable[np.ndarray],
    reference: Iterable[np.ndarray] | None,
    box_px: tuple[int, int, int] | None,
    clips: np.ndarray,
    flicker: EdgeFlicker | None,
    reader: LipReader,
) -> tuple[LipTrack, LipTrack | None]:
    """Lips of the frames and of the reference, in one pass over both streams."""
    stretches: list[LipTrack] = []
    truths: list[LipTrack] = []
    for batch in _batches(frames, reference, clips, flicker, box_px):
        for parts, crops in zip((stretches, truths), batch, strict=True):
            if crops:
                parts.append(reader.read(crops))
    if not stretches:
        raise InputError("sync report: no frames; give at least one")
    return LipTrack.joined(stretches), LipTrack.joined(truths) if truths else None


def _batches(
    frames: Iterable[np.ndarray],
    reference: Iterable[np.ndarray] | None,
    clips: np.ndarray,
    flicker: EdgeFlicker | None,
    box_px: tuple[int, int, int] | None,
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    crops: list[np.ndarray] = []
    truths: list[np.ndarray] = []
    end = object()
    pairs = ((frame, None) for frame in frames) if reference is None else zip_longest(frames, reference, fillvalue=end)
    for k, (frame, truth) in enumerate(pairs):
        if frame is end or truth is end or k >= len(clips):
            raise InputError(f"sync report: frames, reference and plan end apart near frame {k}; give as many of each")
        if flicker is not None:
            flicker.push(frame, truth, clips[k])
        crops.append(cut(frame, box_px))
        if truth is not None:
            truths.append(cut(truth, box_px))
        if len(crops) == BATCH_FRAMES:
            yield crops, truths
            crops, truths = [], []
    if crops:
        yield crops, truths


def cut(frame: np.ndarray, box_px: tuple[int, int, int] | None) -> np.ndarray:
    """The face's square of a frame (a copy, so that the frame can go).

    Raises
    ------
    InputError: the square does not lie inside the frame.
    """
    if box_px is None:
        return np.array(frame)
    left, top, side = box_px
    height, width = frame.shape[:2]
    if min(left, top) < 0 or side < 1 or left + side > width or top + side > height:
        raise InputError(f"sync report: box {box_px} (left, top, side) leaves the {width} x {height} frame")
    return frame[top : top + side, left : left + side].copy()
