"""What a viewer would notice of a talking face, against the truth it should follow: one Metric each.

Tracks are arrays [n], one value a frame, clips one after the other; ``clips`` [n] tells them apart. Intervals come from
drawing whole clips (utterances); of a single clip, blocks of one second are drawn.

:func:`specsync_lib.measures.sync_report.sync_report` measures a finished clip's frames with all of them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from specsync_lib.errors import InputError
from specsync_lib.measures.intervals import Metric, bootstrap_by_group, pearson_columns, pearson_of_sums
from specsync_lib.measures.lip_reader import UNITS
from specsync_lib.units import VIDEO_FPS, VISEMES
from specsync_lib.visemes import VISEME_INDEX, VISEME_TO_ARKIT

UTTERANCE, BLOCK = "utterance", "1-second block"
LAG_STEP_MS = 5.0  # a parabola through the best three lags resolves well below the step
MAX_LAG_MS = 300.0
LEAST_FRAMES = 12  # of a clip worth comparing with truth: fewer hold no lag, and hardly a mouth that opens and shuts
JERK = np.array([1.0, -3.0, 3.0, -1.0])  # third difference; independent noise of deviation s gives sqrt(20) s
SILENCE_MARGIN_FRAMES = 3  # co-articulation moves the lips this far into a silence
CLOSED_MM = 1.0  # lips nearer than this look shut at 256 px (1.1 px)

# Lips do not tell 15 visemes apart: tongue and throat make most of the difference inside a class.
LIP_CLASSES: dict[str, tuple[str, ...]] = {
    "rest": ("sil",),
    "pressed": ("PP",),
    "lip to teeth": ("FF",),
    "narrow": ("TH", "DD", "kk", "SS", "nn", "ih"),
    "rounded": ("CH", "RR", "oh", "ou"),
    "open": ("aa", "E"),
}
CLASS_NAMES = tuple(LIP_CLASSES)
CLASS_OF_VISEME = np.array(
    [next(k for k, group in enumerate(LIP_CLASSES.values()) if name in group) for name in VISEMES]
)


# --- what is drawn for an interval ------------------------------------------------------------------------------------


def resampling_groups(clips: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], str]:
    """The resampling unit's id of every frame, and its name: the clip, or one-second blocks of a single clip."""
    clips = np.asarray(clips)
    if len(np.unique(clips)) > 1:
        return clips, UTTERANCE
    blocks = max(1, len(clips) // VIDEO_FPS)
    return np.minimum(np.arange(len(clips)) // VIDEO_FPS, blocks - 1), BLOCK


def _tracks(measure: str, clips: np.ndarray | None, **tracks: np.ndarray) -> tuple[np.ndarray, ...]:
    """The tracks as float64 and the clip ids, after checking that they are finite and equally long."""
    arrays = {name: np.asarray(track, np.float64) for name, track in tracks.items()}
    lengths = {len(array) for array in arrays.values()}
    if any(array.ndim != 1 for array in arrays.values()) or len(lengths) != 1 or 0 in lengths:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"{measure}: {shapes}; give one value a frame in each, at least one")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{measure}: {name} holds NaN or infinite values; leave those frames out")
    n = lengths.pop()
    clips = np.zeros(n, int) if clips is None else np.unique(np.asarray(clips), return_inverse=True)[1]
    if len(clips) != n:
        raise InputError(f"{measure}: {len(clips)} clip ids for {n} frames; give one a frame")
    if (np.flatnonzero(np.diff(clips)) + 1).size != clips.max():
        raise InputError(f"{measure}: frames of a clip must stand together; sort them by clip")
    return (*arrays.values(), clips)


def _metric(values: np.ndarray, groups: np.ndarray, unit: str, kind: str, statistic=None, rng=None) -> Metric:
    chosen = {} if statistic is None else {"statistic": statistic}
    return bootstrap_by_group(values, groups, rng=rng, unit=unit, resampling_unit=kind, **chosen)


def _ratio(sums: np.ndarray, _: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _root_ratio(sums: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.sqrt(sums[..., 0] / sums[..., 1])


def _within_clips(track: np.ndarray, clips: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A difference of a track, and the last frame each value belongs to; none reaches over a clip's border."""
    values = np.convolve(track, kernel, mode="valid")
    last = np.arange(len(kernel) - 1, len(track))
    whole = clips[last] == clips[last - len(kernel) + 1] if len(last) else np.zeros(0, bool)
    return values[whole], last[whole]


# --- lips against lips ------------------------------------------------------------------------------------------------


def av_offset(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Metric:
    """How much later ``measured`` moves than ``reference``, in ms: the peak of their interpolated cross-correlation.

    The reference is splined inside each clip and read at every lag of a 5 ms grid; all clips together give one
    correlation a lag; a parabola through the best three gives the peak. NaN where a track does not move.

    Raises
    ------
    InputError: tracks that do not fit each other, or a clip shorter than 4 frames.
    """
    from scipy.interpolate import CubicSpline

    reference, measured, clips = _tracks("av_offset", clips, reference=reference, measured=measured)
    lags_ms = np.arange(-MAX_LAG_MS, MAX_LAG_MS + LAG_STEP_MS / 2, LAG_STEP_MS)
    groups, kind = resampling_groups(clips)
    ids, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(ids), len(lags_ms), 6))
    for clip in np.unique(clips):
        rows = np.flatnonzero(clips == clip)
        if len(rows) < 4:
            raise InputError(f"av_offset: a clip of {len(rows)} frames; give {LEAST_FRAMES} for a lag of any worth")
        x, y = (_centred(track[rows]) for track in (reference, measured))
        times_ms = np.arange(len(rows)) * 1000 / VIDEO_FPS
        wanted = times_ms[:, None] - lags_ms  # [frames, lags]
        # the overlap never falls under half of the clip
        inside = (wanted >= 0) & (wanted <= times_ms[-1]) & (np.abs(lags_ms) <= times_ms[-1] / 2)
        x = np.where(inside, CubicSpline(times_ms, x)(wanted.clip(0, times_ms[-1])), 0.0)
        y = np.where(inside, y[:, None], 0.0)
        np.add.at(sums, index[rows], np.stack([x, y, x * x, y * y, x * y, inside], axis=-1))
    return _metric(sums, ids, "ms", kind, lambda totals, _: _peak_ms(totals, lags_ms), rng)


def _centred(track: np.ndarray) -> np.ndarray:
    """Without its mean; exactly zero where it does not move but for rounding."""
    centred = track - track.mean()
    return np.where(np.abs(centred).max() > 1e-6 * max(1.0, np.abs(track).max()), centred, 0.0)


def _peak_ms(totals: np.ndarray, lags_ms: np.ndarray) -> np.ndarray:
    """Lag of the highest correlation [...] from sums [..., lags, 6]."""
    r = pearson_of_sums(totals[..., :5], totals[..., 5])
    r = np.where(np.isfinite(r), r, -np.inf)
    best = r.argmax(axis=-1)[..., None]
    before, peak, after = (
        np.take_along_axis(r, (best + step).clip(0, len(lags_ms) - 1), axis=-1)[..., 0] for step in (-1, 0, 1)
    )
    bend = before - 2 * peak + after
    shift = np.where(np.isfinite(bend) & (bend < 0), 0.5 * (before - after) / bend, 0.0).clip(-0.5, 0.5)
    return np.where(np.isfinite(peak), lags_ms[best[..., 0]] + shift * LAG_STEP_MS, np.nan)


def lip_correlation(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Metric:
    """Pearson's r of two aperture tracks over all frames, at no lag; NaN where a track does not move."""
    reference, measured, clips = _tracks("lip_correlation", clips, reference=reference, measured=measured)
    groups, kind = resampling_groups(clips)
    columns = pearson_columns(_centred(reference), _centred(measured))
    return _metric(columns, groups, "1", kind, pearson_of_sums, rng)


def lip_error(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
    *,
    unit: str = "px",
) -> Metric:
    """Mean absolute difference of two aperture tracks, in their own unit."""
    reference, measured, clips = _tracks("lip_error", clips, reference=reference, measured=measured)
    groups, kind = resampling_groups(clips)
    return _metric(np.abs(measured - reference), groups, unit, kind, rng=rng)


def jitter_ratio(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Metric:
    """Root mean square jerk (third difference) of the measured aperture over the reference's; 1: as smooth as truth."""
    return _motion("jitter_ratio", JERK, np.square, _root_ratio, reference, measured, clips, rng)


def motion_ratio(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Metric:
    """Mean absolute step of the measured aperture over the reference's: 0 is frozen, 1 moves as much as truth."""
    return _motion("motion_ratio", np.array([1.0, -1.0]), np.abs, _ratio, reference, measured, clips, rng)


def _motion(measure: str, kernel, size, statistic, reference, measured, clips, rng) -> Metric:
    reference, measured, clips = _tracks(measure, clips, reference=reference, measured=measured)
    groups, kind = resampling_groups(clips)
    (moved, last), (truth, _) = (_within_clips(track, clips, kernel) for track in (measured, reference))
    if not len(last):
        raise InputError(f"{measure}: every clip is shorter than {len(kernel)} frames; give longer ones")
    return _metric(np.stack([size(moved), size(truth)], axis=1), groups[last], "1", kind, statistic, rng)


def silence_motion(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    visemes: Int[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Metric:
    """Mean absolute step of the measured aperture in silence over the reference's in speech; 0 is a mouth at rest.

    A frame is silent if truth says ``sil`` there and three frames around it, because lips prepare and follow speech.
    NaN without such frames, or without speech.
    """
    reference, measured, clips = _tracks("silence_motion", clips, reference=reference, measured=measured)
    groups, kind = resampling_groups(clips)
    silent = deep_silence(visemes, clips)
    step = np.array([1.0, -1.0])
    (moved, last), (truth, _) = (_within_clips(np.asarray(t), clips, step) for t in (measured, reference))
    quiet = silent[last] & silent[last - 1]
    speech = np.asarray(visemes)[last] != VISEME_INDEX["sil"]
    columns = np.stack([np.abs(moved) * quiet, quiet, np.abs(truth) * speech, speech], axis=1)

    def statistic(sums: np.ndarray, _: np.ndarray) -> np.ndarray:
        return (sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3])

    return _metric(columns, groups[last], "1", kind, statistic, rng)


def deep_silence(visemes: Int[np.ndarray, " n"], clips: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Frames whose neighbours within ``SILENCE_MARGIN_FRAMES`` of the same clip are all silent too."""
    speech = np.asarray(visemes) != VISEME_INDEX["sil"]
    loud = speech.copy()
    for step in range(1, SILENCE_MARGIN_FRAMES + 1):
        same = clips[step:] == clips[:-step]
        loud[step:] |= speech[:-step] & same
        loud[:-step] |= speech[step:] & same
    return ~loud


def closure_rate(
    gap_mm: Float[np.ndarray, " n"],
    visemes: Int[np.ndarray, " n"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Metric:
    """Share of p, b, m (runs of PP in truth) in which the lips come nearer than 1 mm; NaN without any."""
    gap_mm, clips = _tracks("closure_rate", clips, gap_mm=gap_mm)
    groups, kind = resampling_groups(clips)
    closing = np.asarray(visemes) == VISEME_INDEX["PP"]
    starts = closing & ~np.concatenate([[False], closing[:-1] & (clips[1:] == clips[:-1])])
    run = np.cumsum(starts) - 1  # id of the run a closing frame belongs to
    nearest = np.full(max(1, starts.sum()), np.inf)
    np.minimum.at(nearest, run[closing], gap_mm[closing])
    columns = np.zeros((len(gap_mm), 2))
    columns[starts] = np.stack([nearest[: starts.sum()] < CLOSED_MM, np.ones(starts.sum())], axis=1)
    return _metric(columns, groups, "1", kind, _ratio, rng)


# --- lip shapes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """Lip classes that truth names (rows) and that were seen (columns), in frames; accuracy over all frames."""

    table: pd.DataFrame
    accuracy: Metric


def classify_lips(units: Float[np.ndarray, "n 11"], spread: Float[np.ndarray, " 11"]) -> Int[np.ndarray, " n"]:
    """Index into ``LIP_CLASSES`` of lip weights (order of ``lip_reader.UNITS``): the class of the nearest viseme.

    Distance to each viseme's table weights, each weight in units of how far its reading scatters.
    """
    table = [
        [np.mean([weights.get(unit, 0.0) for unit in names]) for names in UNITS.values()]
        for weights in (VISEME_TO_ARKIT[viseme] for viseme in VISEMES)
    ]
    scale = np.maximum(np.asarray(spread, float), 0.02)
    distance = ((units[:, None] - np.array(table)[None]) / scale) ** 2
    return CLASS_OF_VISEME[distance.sum(axis=-1).argmin(axis=1)]


def viseme_confusion(
    units: Float[np.ndarray, "n 11"],
    visemes: Int[np.ndarray, " n"],
    spread: Float[np.ndarray, " 11"],
    clips: Int[np.ndarray, " n"] | None = None,
    rng: np.random.Generator | None = None,
) -> Confusion:
    """Truth's visemes against the lips, both as lip classes.

    Even a perfect face does not reach 1: co-articulation blends neighbours, and short sounds never reach their mouth.
    Read the number beside the one of the reference render.
    """
    seen = classify_lips(np.asarray(units, float), spread)
    said, clips = _tracks("viseme_confusion", clips, visemes=visemes)
    if len(seen) != len(said):
        raise InputError(f"viseme_confusion: {len(seen)} frames of lips, {len(said)} visemes; give one of each a frame")
    said = CLASS_OF_VISEME[said.astype(int)]
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    np.add.at(counts, (said, seen), 1)
    groups, kind = resampling_groups(clips)
    table = pd.DataFrame(counts, index=pd.Index(CLASS_NAMES, name="truth"), columns=CLASS_NAMES)
    return Confusion(table, _metric((said == seen).astype(float), groups, "1", kind, rng=rng))
