"""How much of a draft a judge accepts, at which confidence, and how sure one can be of that.

Vocabulary
----------
draft       the viseme that the kernel proposes for a frame, with a confidence in [0, 1]
judge       whatever decides about a frame: forced-alignment truth, or a reasoner; any rule that gives one bool a frame
covered     a frame with confidence >= threshold: the draft is used, the judge only confirms it
coverage    share of all frames that are covered
acceptance  share of the covered frames that the judge accepts; undefined (NaN) where no frame is covered

Frames of one utterance are strongly dependent, so every interval comes from resampling whole utterances (Efron and
Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 8), never single frames. A frame without a confidence
(NaN) is never covered, and a frame without a verdict (NaN) is never accepted; both stay in the denominators.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from specsync_lib.errors import InputError
from specsync_lib.judge.rules import runs
from specsync_lib.measures.intervals import Metric, Statistic, bootstrap_by_group
from specsync_lib.units import VISEMES

THRESHOLDS = np.arange(201) / 200  # every 0.005, each the float nearest to its decimal, so that 0.85 is 0.85
RESAMPLES = 2_000
CALIBRATION_BINS = 15  # Guo et al. 1706.04599
# A float32 softmax may exceed 1 by a rounding error; anything further out is not a probability.
PROBABILITY_SLACK = 1e-5


def acceptance_table(
    confidence: Float[np.ndarray, " n"],
    accepted: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    thresholds: Float[np.ndarray, " t"] = THRESHOLDS,
    *,
    n_resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Acceptance and coverage at every threshold, with 95 % bootstrap intervals by utterance.

    Parameters
    ----------
    confidence : in [0, 1] or NaN.
    accepted : the judge's verdict, bool, or 0/1/NaN.
    groups : utterance of each frame.
    thresholds : strictly rising.

    Returns
    -------
    One row a threshold: threshold, acceptance, acceptance_low, acceptance_high, coverage, coverage_low, coverage_high,
    n_frames and n_utterances (covered ones). Acceptance is NaN where no frame is covered; its interval is taken over
    those resamples in which some frame is covered, and says nothing about the others.

    Raises
    ------
    InputError
        On no frames, different lengths, confidences outside [0, 1], verdicts other than 0/1/NaN, or thresholds that do
        not rise.
    """
    confidence, accepted, groups = _checked(confidence, accepted, groups)
    thresholds = np.asarray(thresholds, dtype=float)
    if not (np.diff(thresholds) > 0).all() or not np.isfinite(thresholds).all() or not len(thresholds):
        raise InputError(f"thresholds: expected finite, strictly rising values, got {thresholds}")

    # A frame is covered by its first `level` thresholds; per-utterance counts by level, summed from the top, are counts
    # of covered frames by threshold.
    level = np.searchsorted(thresholds, confidence, side="right")
    level[np.isnan(confidence)] = 0
    covered = _count(groups, level, len(thresholds) + 1)[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # [utterances, t]
    right = _count(groups, level, len(thresholds) + 1, accepted)[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    frames = np.bincount(groups)[:, None]  # [utterances, 1]

    def shares(sums: np.ndarray, _) -> np.ndarray:  # [..., 3, t] -> [..., 2, t]
        covered, right, all_frames = np.moveaxis(sums, -2, 0)
        return np.stack([right / covered, covered / all_frames], axis=-2)

    sums = np.stack([covered, right, np.broadcast_to(frames, covered.shape)], axis=1)  # [utterances, 3, t]
    (acceptance, coverage), (acceptance_low, coverage_low), (acceptance_high, coverage_high) = _bootstrap(
        sums, shares, n_resamples, rng
    )
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "acceptance": acceptance,
            "acceptance_low": acceptance_low,
            "acceptance_high": acceptance_high,
            "coverage": coverage,
            "coverage_low": coverage_low,
            "coverage_high": coverage_high,
            "n_frames": covered.sum(0).astype(int),
            "n_utterances": (covered > 0).sum(0),
        }
    )


def at_threshold(table: pd.DataFrame, threshold: float) -> pd.Series:
    """The row of an acceptance table whose threshold is nearest."""
    return table.iloc[int(np.abs(table["threshold"].to_numpy() - threshold).argmin())]


def reliability_table(
    confidence: Float[np.ndarray, " n"],
    correct: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    bins: int = CALIBRATION_BINS,
    n_resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Accuracy against mean confidence in equal-width bins of confidence, with 95 % bootstrap intervals by utterance.

    Frames without a confidence are left out. Empty bins have NaN means.

    Returns
    -------
    One row a bin: bin_low, bin_high, n_frames, mean_confidence, accuracy, accuracy_low, accuracy_high.
    """
    sums = _calibration_sums(*_checked(confidence, correct, groups), bins)  # [utterances, 3, bins]
    n_frames, confident, _ = sums.sum(0)
    accuracy, low, high = _bootstrap(sums, lambda sums, _: sums[..., 2, :] / sums[..., 0, :], n_resamples, rng)
    edges = np.arange(bins + 1) / bins
    return pd.DataFrame(
        {
            "bin_low": edges[:-1],
            "bin_high": edges[1:],
            "n_frames": n_frames.astype(int),
            "mean_confidence": _ratio(confident, n_frames),
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
        }
    )


def expected_calibration_error(
    confidence: Float[np.ndarray, " n"],
    correct: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    bins: int = CALIBRATION_BINS,
    n_resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> Metric:
    """Expected calibration error over equal-width bins: sum over bins of (frames / all frames) |accuracy - confidence|.

    Frames without a confidence are left out. The interval resamples utterances; resampling adds noise to every bin, so
    it leans high, and it is widened downwards to the estimate where needed.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 1706.04599, equation 3.
    """
    sums = _calibration_sums(*_checked(confidence, correct, groups), bins)  # [utterances, 3, bins]

    def error(sums: np.ndarray, _) -> np.ndarray:
        n_frames, confident, right = np.moveaxis(sums, -2, 0)
        return np.abs(right - confident).sum(-1) / n_frames.sum(-1)

    value, low, high = _bootstrap(sums, error, n_resamples, rng)
    return Metric(float(value), float(low), float(high), n=len(sums))


def viseme_table(
    confidence: Float[np.ndarray, " n"],
    draft: Int[np.ndarray, " n"],
    judged: Shaped[np.ndarray, " n"],
    accepted: Shaped[np.ndarray, " n"],
    threshold: float,
) -> pd.DataFrame:
    """The draft's quality viseme by viseme.

    Returns
    -------
    One row a viseme v: n_judged (frames the judge names v), recall (share of them drafted as v), n_drafted (frames
    drafted as v), coverage (share of those with confidence >= threshold), acceptance (share of the covered ones that
    the judge accepts). Shares of nothing are NaN.
    """
    draft, judged = _same_length(draft=draft, judged=judged)
    confidence, accepted, _ = _checked(confidence, accepted, np.zeros(len(draft), dtype=int))
    visemes = np.arange(len(VISEMES))[:, None]
    is_judged, is_drafted = judged == visemes, draft == visemes  # [visemes, n]
    covered = is_drafted & (confidence >= threshold)
    return pd.DataFrame(
        {
            "viseme": VISEMES,
            "n_judged": is_judged.sum(1),
            "recall": _ratio((is_judged & is_drafted).sum(1), is_judged.sum(1)),
            "n_drafted": is_drafted.sum(1),
            "coverage": _ratio(covered.sum(1), is_drafted.sum(1)),
            "acceptance": _ratio((covered & accepted).sum(1), covered.sum(1)),
        }
    )


def confusion_matrix(draft: Int[np.ndarray, " n"], judged: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, "v v"]:
    """Frames by judged viseme (row) and drafted viseme (column); frames without a verdict are left out."""
    draft, judged = _same_length(draft=draft, judged=judged)
    known = (judged >= 0) & (judged < len(VISEMES)) & (draft >= 0) & (draft < len(VISEMES))
    cell = judged[known].astype(int) * len(VISEMES) + draft[known].astype(int)
    return np.bincount(cell, minlength=len(VISEMES) ** 2).reshape(len(VISEMES), len(VISEMES))


def accepted_run_lengths(
    confidence: Float[np.ndarray, " n"],
    accepted: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    threshold: float,
) -> Int[np.ndarray, " runs"]:
    """Lengths in frames of the unbroken runs of covered and accepted frames, none of which crosses an utterance's end.

    Raises
    ------
    InputError
        If the lengths differ, or the frames of an utterance do not stand together.
    """
    utterance = runs(groups)
    confidence, accepted, _ = _checked(confidence, accepted, groups)
    kept = accepted & (confidence >= threshold)
    # A run starts where a kept frame follows nothing kept in its utterance.
    starts = kept.copy()
    starts[1:] &= ~(kept[:-1] & (utterance[1:] == utterance[:-1]))
    return np.bincount(np.cumsum(starts)[kept])[1:]


def _same_length(**arrays) -> list[np.ndarray]:
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    if len({values.shape for values in arrays.values()}) != 1 or next(iter(arrays.values())).ndim != 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise InputError(f"frames: expected one value a frame in each array, got {shapes}")
    return list(arrays.values())


def _checked(confidence, accepted, groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences in [0, 1] or NaN; verdicts as bool, NaN being no acceptance; groups numbered from 0."""
    confidence, accepted, groups = _same_length(confidence=confidence, accepted=accepted, groups=groups)
    if not len(confidence):
        raise InputError("frames: expected at least one, got none")
    confidence = confidence.astype(float)
    if (confidence < 0).any() or (confidence > 1 + PROBABILITY_SLACK).any():
        worst = confidence[np.nanargmax(np.abs(confidence - 0.5))]
        raise InputError(f"confidence: expected values in [0, 1] or NaN, got {worst}")
    if accepted.dtype != bool:
        verdict = pd.to_numeric(pd.Series(accepted)).to_numpy(dtype=float, na_value=np.nan)
        if not np.isin(verdict[~np.isnan(verdict)], (0.0, 1.0)).all():
            raise InputError("accepted: expected verdicts of 0, 1 or NaN, got other values")
        accepted = verdict == 1.0
    return np.minimum(confidence, 1.0), accepted, pd.factorize(groups, sort=True, use_na_sentinel=False)[0]


def _count(groups: np.ndarray, bins: np.ndarray, n_bins: int, values: np.ndarray | None = None) -> np.ndarray:
    """Sums of ``values`` (default: counts) by utterance and bin, float [utterances, n_bins]."""
    shape = (groups.max() + 1, n_bins)
    return np.bincount(groups * n_bins + bins, values, minlength=shape[0] * n_bins).reshape(shape).astype(float)


def _calibration_sums(confidence, correct, groups, bins: int) -> np.ndarray:
    """Frames, summed confidence and correct frames, by utterance and equal-width bin [utterances, 3, bins]."""
    known = ~np.isnan(confidence)
    if not known.any():
        raise InputError("confidence: expected at least one frame with a confidence, got none")
    confidence, correct, groups = confidence[known], correct[known], np.unique(groups[known], return_inverse=True)[1]
    bin_index = np.minimum((confidence * bins).astype(int), bins - 1)
    return np.stack([_count(groups, bin_index, bins, values) for values in (None, confidence, correct)], axis=1)


def _bootstrap(
    sums: np.ndarray, statistic: Statistic, n_resamples: int, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, low and high of a statistic of per-utterance sums; the interval always holds the estimate."""
    metric = bootstrap_by_group(sums, np.arange(len(sums)), statistic, n_resamples, rng)
    return metric.value, np.fmin(metric.low, metric.value), np.fmax(metric.high, metric.value)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part of a whole; NaN where the whole is nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part, dtype=float) / np.asarray(whole, dtype=float)
