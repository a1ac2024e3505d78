"""How sure one can be: temperatures, and upper bounds on what a threshold lets through."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from specsync_lib.errors import InputError
from specsync_lib.judge.policy import SMALLEST
from specsync_lib.measures.intervals import resamples


def fit_temperature(logits: Float[np.ndarray, "n v"], correct: Int[np.ndarray, " n"]) -> float:
    """The temperature at which logits are likeliest to give the correct tokens; above 1 they were overconfident.

    logits : up to a constant by row, so logarithms of probabilities will do.

    Source: Guo et al., 1706.04599, section 4.2.
    """
    logits = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(logits))

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[rows, correct].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def logits_of(probabilities: Float[np.ndarray, "n v"]) -> Float[np.ndarray, "n v"]:
    """Their logarithms, kept finite."""
    return np.log(np.asarray(probabilities, dtype=np.float64).clip(SMALLEST))


def at_temperature(probabilities: Float[np.ndarray, "n v"], temperature: float) -> Float[np.ndarray, "n v"]:
    """The same distributions, flattened (temperature above 1) or sharpened."""
    return np.exp(log_softmax(logits_of(probabilities) / temperature, axis=1))


@dataclass(frozen=True)
class Bound:
    """An upper bound on a share: with ``confidence`` it is not exceeded.

    value: the share seen; bound; n_frames and n_utterances it rests on; n_effective: independent frames that would tell
    as much.
    """

    value: float
    bound: float
    confidence: float
    n_frames: int
    n_utterances: int
    n_effective: float


def bad_accept_bound(
    bad: Bool[np.ndarray, " n"],
    covered: Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    confidence: float = 0.95,
) -> Bound:
    """Upper Clopper-Pearson bound on the share of covered frames that are bad, for frames that depend by utterance.

    The exact binomial bound holds for independent frames. Here the frames count for as many as would give the variance
    that is seen between utterances (the design effect of the ratio, never under 1).

    Raises
    ------
    InputError : nothing is covered, or a single utterance.

    Source: Clopper and Pearson (1934); Korn and Graubard, "Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data", Survey Methodology 24 (1998).
    """
    codes = pd.factorize(np.asarray(groups)[covered])[0]
    n_frames, n_utterances = len(codes), int(codes.max(initial=-1)) + 1
    if n_utterances < 2:
        raise InputError(f"bound: expected covered frames of two utterances or more, got {n_utterances}")
    bad = np.asarray(bad)[covered].astype(float)
    share = bad.mean()
    excess = np.bincount(codes, bad - share)  # what each utterance adds to the share's numerator beyond its part
    variance = n_utterances / (n_utterances - 1) * (excess**2).sum() / n_frames**2
    independent = share * (1 - share) / n_frames
    n_effective = n_frames * min(1.0, independent / variance) if variance > 0 else float(n_frames)
    seen = share * n_effective
    bound = stats.beta.ppf(confidence, seen + 1, n_effective - seen) if seen < n_effective else 1.0
    return Bound(float(share), float(bound), confidence, n_frames, n_utterances, float(n_effective))


def conformal_threshold(
    bad: Bool[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    risk: float,
    thresholds: Float[np.ndarray, " t"],
) -> float:
    """The lowest threshold at which a new utterance's expected share of bad accepts stays within ``risk``.

    The loss of an utterance is the share of ALL its frames that are covered and bad, which can only fall as the
    threshold rises; the guarantee is over utterances like the n given: (n R + 1) / (n + 1) <= risk. 1 if none will do.

    Source: Angelopoulos et al., "Conformal Risk Control", 2208.02814, theorem 1.
    """
    codes = pd.factorize(np.asarray(groups))[0]
    frames = np.bincount(codes)
    n = len(frames)
    for threshold in np.sort(thresholds):
        loss = np.bincount(codes, np.asarray(bad) & (confidence >= threshold), minlength=n) / frames
        if (loss.sum() + 1) / (n + 1) <= risk:
            return float(threshold)
    return 1.0


def ranking_skill(
    score: Float[np.ndarray, " n"],
    hit: Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    rng: np.random.Generator,
    n_resamples: int = 300,
) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95 % bootstrap interval by utterance (how well a score tells hits)."""

    def area(index: np.ndarray) -> float:
        hits, misses = score[index][hit[index]], score[index][~hit[index]]
        if not len(hits) or not len(misses):
            return np.nan
        return stats.mannwhitneyu(hits, misses).statistic / (len(hits) * len(misses))

    low, high = np.nanpercentile([area(index) for index in resamples(groups, n_resamples, rng)], [2.5, 97.5])
    return float(area(np.arange(len(score)))), float(low), float(high)
