"""Measures with their intervals: the bootstrap by group, and what a viewer would notice between sound and picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
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


def drawn_unit(table: pd.DataFrame, talker: str = "talker", recording: str = "utterance") -> str:
    """The column whose groups a bootstrap draws: who speaks, where the table names two at least and one for every row
    (utterances of one person are not independent); else the recording."""
    if talker not in table:
        return recording
    people = table[talker]
    return talker if people.notna().all() and people.ne("").all() and len(people.unique()) > 1 else recording


def drawn_groups(table: pd.DataFrame) -> np.ndarray:
    """The group of every row: `drawn_unit`'s."""
    return table[drawn_unit(table)].to_numpy()


def resampling_unit(table: pd.DataFrame) -> str:
    """What `drawn_unit`'s groups are, as :class:`Metric` names them: "speaker" or "utterance"."""
    return "speaker" if drawn_unit(table) == "talker" else "utterance"


def resamples(groups: np.ndarray, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of the items of whole groups drawn with replacement, for statistics that are no function of sums."""
    codes = np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    for _ in range(count):
        yield np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])


def interval(name: str, metric: Metric) -> dict[str, float]:
    """``name``, ``name_low`` and ``name_high``."""
    ends = {"": metric.value, "_low": metric.low, "_high": metric.high}
    return {f"{name}{end}": round(float(value), 5) for end, value in ends.items()}
