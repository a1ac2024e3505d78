"""Measures with their intervals: the bootstrap by group, and what a viewer would notice between sound and picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from specsync_lib.errors import InputError

# Fine grid on which lag is searched; a parabola through the peak then resolves well below it.
LAG_STEP_MS = 1.0


@dataclass(frozen=True)
class Metric:
    """A measured value with its interval.

    Attributes
    ----------
    value, low, high : float or ndarray
        Point estimate and percentile interval, in ``unit``. Arrays when the statistic has many outputs (a curve).
    n : int
        How many resampling units (not frames) the value rests on.
    unit : str
        Physical unit, or "1" for a fraction.
    resampling_unit : str
        What was drawn with replacement for the interval, e.g. "utterance"; "none" for a value without an interval.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    n: int
    unit: str = "1"
    resampling_unit: str = "utterance"

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{self.value:.3g}{unit} [{self.low:.3g}, {self.high:.3g}] (n = {self.n} {self.resampling_unit}s)"


# sums [..., *value shape] over the drawn items and their counts [...] -> the statistic [..., *any shape]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean_of_sums(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean as a statistic of sums and counts; the default of :func:`bootstrap_by_group`."""
    return sums / counts.reshape(counts.shape + (1,) * (sums.ndim - counts.ndim))


def pearson_of_sums(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson's r from sums of the columns :func:`pearson_columns` makes."""
    x, y, xx, yy, xy = np.moveaxis(sums / counts[..., None], -1, 0)
    return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))


def pearson_columns(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 5"]:
    """The per-item columns (x, y, x², y², xy), centred first so that the sums lose no digits."""
    x, y = x - x.mean(), y - y.mean()
    return np.stack([x, y, x * x, y * y, x * y], axis=1)


def bootstrap_by_group(
    values: np.ndarray,
    groups: np.ndarray,
    statistic: Statistic = mean_of_sums,
    n_resamples: int = 1000,
    rng: np.random.Generator | None = None,
    *,
    level: float = 0.95,
    unit: str = "1",
    resampling_unit: str = "utterance",
) -> Metric:
    """Percentile bootstrap that draws whole groups, because frames of one utterance are not independent.

    The statistic works on sums: every resample is a row of multiplicities times the table of per-group sums, so a
    thousand resamples of a million frames cost one small matrix product. Means, ratios, curves over thresholds,
    calibration errors (bins as columns) and correlations (:func:`pearson_columns`) can all be written that way.

    Parameters
    ----------
    values : ndarray [n, *shape]
        Per item (frame) columns to be summed; booleans count.
    groups : ndarray [n]
        The resampling unit's id of every item.
    statistic : callable
        ``(sums [R, *shape], counts [R]) -> [R, ...]``, vectorised over the leading axis. A ratio such as acceptance is
        ``lambda sums, counts: sums[..., 0] / sums[..., 1]``. NaN (an empty denominator) is left out of the interval.
    rng : numpy.random.Generator, optional
        The notebook's generator; a fresh one with seed 0 otherwise.

    Returns
    -------
    Metric
        ``n`` is the number of groups.

    Raises
    ------
    InputError
        No items, lengths that differ, or a level outside (0, 1).
    """
    values, groups = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if len(values) == 0 or len(values) != len(groups):
        raise InputError(
            f"bootstrap_by_group: {len(values)} values, {len(groups)} group ids; give one id per value, at least one"
        )
    if not 0 < level < 1:
        raise InputError(f"bootstrap_by_group: level {level} is not between 0 and 1; give e.g. 0.95")
    rng = np.random.default_rng(0) if rng is None else rng
    ids, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(ids), *values.shape[1:]))
    np.add.at(sums, index, values)
    counts = np.bincount(index, minlength=len(ids)).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic(sums.sum(axis=0)[None], counts.sum()[None])[0]
        draws = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=n_resamples)  # [R, groups]
        resampled = statistic(np.tensordot(draws, sums, axes=1), draws @ counts)
    # an empty denominator gives no number: such draws are left out, and a value without one has no interval
    value, resampled = (np.where(np.isfinite(numbers), numbers, np.nan) for numbers in (value, resampled))
    tail = 100 * (1 - level) / 2
    hopeless = np.isnan(value) | np.isnan(resampled).all(axis=0)
    low, high = np.nanpercentile(np.where(hopeless, 0.0, resampled), [tail, 100 - tail], axis=0)
    low, high = np.where(hopeless, np.nan, low), np.where(hopeless, np.nan, high)
    if np.ndim(value) == 0:
        value, low, high = float(value), float(low), float(high)
    return Metric(value, low, high, len(ids), unit, resampling_unit)


def lag_ms(
    reference: Float[np.ndarray, " n"],
    measured: Float[np.ndarray, " n"],
    *,
    fps: float = 30.0,
    max_lag_ms: float = 300.0,
) -> tuple[float, float]:
    """How much later ``measured`` moves than ``reference``, and the correlation there.

    Both signals are splined to a 1 ms grid; at every lag the overlapping parts alone are correlated; a parabola through
    the best three gives the peak. Positive: ``measured`` is late.

    Returns
    -------
    tuple of float
        Lag in ms, Pearson's r at that lag.

    Raises
    ------
    InputError
        Lengths that differ, fewer than 12 frames, a constant or non-finite signal.
    """
    from scipy.interpolate import CubicSpline

    reference, measured = np.asarray(reference, np.float64), np.asarray(measured, np.float64)
    if reference.shape != measured.shape or reference.ndim != 1 or len(reference) < 12:
        raise InputError(
            f"lag_ms: shapes {reference.shape} and {measured.shape}; give two equal signals, 12 frames or more"
        )
    if not (np.isfinite(reference).all() and np.isfinite(measured).all()):
        raise InputError("lag_ms: a signal holds NaN or infinite values; leave those frames out")
    if reference.std() < 1e-9 or measured.std() < 1e-9:
        raise InputError("lag_ms: a signal is constant, so no lag can be found; give one that moves")
    times_ms = np.arange(len(reference)) * 1000 / fps
    grid_ms = np.arange(0, times_ms[-1], LAG_STEP_MS)
    reference, measured = (CubicSpline(times_ms, signal)(grid_ms) for signal in (reference, measured))
    # never let the overlap fall under half of the signal
    reach = int(min(max_lag_ms, grid_ms[-1] / 2) / LAG_STEP_MS)
    lags = np.arange(-reach, reach + 1)
    correlation = np.array(
        [
            np.corrcoef(
                reference[max(0, -k) : len(grid_ms) - max(0, k)], measured[max(0, k) : len(grid_ms) + min(0, k)]
            )[0, 1]
            for k in lags
        ]
    )
    best = int(np.nanargmax(correlation))
    shift = 0.0
    if 0 < best < len(lags) - 1:
        before, peak, after = correlation[best - 1 : best + 2]
        bend = before - 2 * peak + after
        shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float((lags[best] + shift) * LAG_STEP_MS), float(correlation[best])


def av_offset_ms(reference: np.ndarray, measured: np.ndarray, *, fps: float = 30.0, max_lag_ms: float = 300.0) -> float:
    """Lag of one lip-aperture track behind another in ms (positive: late); see :func:`lag_ms`."""
    return lag_ms(reference, measured, fps=fps, max_lag_ms=max_lag_ms)[0]


def beep_flash_offset_ms(path: str | Path) -> float:
    """How much later the sound comes than the picture in a flash-and-beep clip, by decoding it.

    Every dark-to-bright frame is paired with the nearest start of a tone; the median of the differences is returned.
    Decoded timestamps are used as a player would, edit lists and encoder priming included. Positive: the sound is late.

    Raises
    ------
    InputError
        The file cannot be decoded or holds no flash or no beep.
    """
    import av  # machines that only train have no decoder

    try:
        with av.open(str(path)) as container:
            flashes_s, was_bright = [], False
            for frame in container.decode(video=0):
                bright = frame.to_ndarray(format="gray").mean() > 127
                if bright and not was_bright:
                    flashes_s.append(float(frame.pts * frame.time_base))
                was_bright = bright
        with av.open(str(path)) as container:
            blocks, first_s, rate = [], None, 0
            for frame in container.decode(audio=0):
                first_s = float(frame.pts * frame.time_base) if first_s is None else first_s
                rate = frame.sample_rate
                blocks.append(np.atleast_2d(frame.to_ndarray()).astype(np.float64).mean(axis=0))
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(
            f"{path}: cannot be decoded as a clip with picture and sound ({error}); give an MP4"
        ) from error
    level = np.abs(np.concatenate(blocks)) if blocks else np.zeros(1)
    window = max(1, rate // 500)  # 2 ms: covers a period of any beep above 500 Hz
    envelope = np.maximum.reduceat(level, np.arange(0, len(level), window))
    loud = envelope > 0.5 * envelope.max() if level.max() > 1e-3 else np.zeros(len(envelope), bool)
    starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    if not flashes_s or len(starts) == 0:
        raise InputError(f"{path}: {len(flashes_s)} flashes and {len(starts)} beeps found; give a clip that has both")
    # inside the window, the first loud sample is the start
    beeps_s = np.array(
        [first_s + (k * window + np.argmax(level[k * window :][:window] > 0.4 * level.max())) / rate for k in starts]
    )
    return float(np.median([1000 * (beeps_s - flash)[np.argmin(np.abs(beeps_s - flash))] for flash in flashes_s]))
