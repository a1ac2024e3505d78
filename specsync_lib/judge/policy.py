"""From the draft alone: how likely the judge is to accept it, and how sure one can be of what a threshold lets through.

The draft's own confidence says how likely a frame is to be *right*. What a pipeline asks before the judge has spoken is
another thing: will the judge *let it stand*? `AcceptancePolicy` answers that for a frame (the lenient rule) and for a
chunk (no rejection at all under the exact rule), from features of the draft, by logistic regression on validation
speech. After SpecDec++ (Huang et al., 2405.19715), which predicts rejection to decide how far to draft.

It must be known as soon as a chunk is drafted, so its features look at the chunk and its past alone: `LiveConfidence`
gives chunk by chunk what `frame_features` of the whole recording gives.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import minimize
from scipy.special import expit

from specsync_lib.draft.plan import MODEL_DIR, DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES

POLICY_FILE = MODEL_DIR / "acceptance_policy.json"
NEIGHBOURS = 2  # frames looked at to either side
SMALLEST = 1e-6  # keeps logarithms and odds finite
RIDGE = 30.0  # pull of standardised weights towards 0; of 3, 30, 100 the likeliest in cross-validation by utterance

FRAME_FEATURES = (
    "log_odds", "margin", "entropy", "confidence_2_before", "confidence_1_before", "confidence_1_after",
    "confidence_2_after", "same_viseme_before", "same_viseme_after", "run_before", "run_after", "energy",
    "energy_change", "frames_after", *(f"is_{viseme}" for viseme in VISEMES),
)  # fmt: skip
CHUNK_FEATURES = ("log_all_agree", "least_log_odds", "least_confidence", "mean_confidence", "mean_entropy", "changes")


def frame_features(
    draft: DraftPlan, energy: Float[np.ndarray, " t"], past: int = 0, chunk_frames: int = FRAMES_PER_CHUNK
) -> Float[np.ndarray, "t-past features"]:
    """FRAME_FEATURES of every frame of a draft, chunk by chunk.

    log_odds of the confidence; margin over the second viseme; entropy in nats; the confidence of two frames to either
    side; the probability of this frame's viseme in the next ones; how many of the two frames before and after continue
    its run; the frame's loudness (`log_mel.frame_energy`) and its change; how many of the two frames after are of its
    chunk; the viseme. Frames after a chunk's last are not known when it is drafted: there, as at a recording's ends,
    the last one repeats itself.

    Parameters
    ----------
    draft, energy : of a recording from its start, or of ``past`` frames and the chunks that follow them.
    past : leading frames that are only looked at.
    chunk_frames : of every chunk but the last.

    Raises
    ------
    InputError : energy of another length.
    """
    rows, confidence = draft.probabilities.astype(np.float64), draft.confidence.astype(np.float64)
    if len(energy) != len(rows):
        raise InputError(f"frame features: expected the energy of {len(rows)} frames, got {len(energy)}")
    if not len(rows):
        return np.zeros((0, len(FRAME_FEATURES)))
    tokens = rows.argmax(axis=1)
    second, best = np.sort(rows, axis=1)[:, -2:].T
    frames = np.arange(len(rows))
    last = (past + chunk_frames * ((frames - past) // chunk_frames + 1) - 1).clip(max=len(rows) - 1)  # of its chunk
    at = {shift: (frames + shift).clip(0, last) for shift in range(-NEIGHBOURS, NEIGHBOURS + 1)}
    same = {shift: tokens[at[shift]] == tokens for shift in at}
    columns = [
        _log_odds(confidence),
        best - second,
        -(rows * np.log(rows.clip(SMALLEST))).sum(axis=1),
        *(confidence[at[shift]] for shift in (-2, -1, 1, 2)),
        rows[at[-1], tokens],
        rows[at[1], tokens],
        same[-1] * (1.0 + same[-2]),
        same[1] * (1.0 + same[2]),
        energy,
        energy - np.asarray(energy)[at[-1]],
        (last - frames).clip(max=NEIGHBOURS),
    ]
    return np.column_stack([*columns, np.eye(len(VISEMES))[tokens]])[past:]


def chunk_of(frames: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The chunk that each frame of a recording belongs to."""
    return np.asarray(frames) // FRAMES_PER_CHUNK


def chunk_features(
    features: Float[np.ndarray, "n features"], agrees: Float[np.ndarray, " n"], chunks: Shaped[np.ndarray, " n"]
) -> pd.DataFrame:
    """CHUNK_FEATURES by chunk, in order of appearance.

    Parameters
    ----------
    features : from `frame_features`.
    agrees : a frame's probability to agree with the judge exactly.
    chunks : any id of each frame's chunk.
    """
    table = pd.DataFrame(features[:, :13], columns=list(FRAME_FEATURES[:13]))
    table = table.assign(
        log_agree=np.log(agrees.clip(SMALLEST)), confidence=expit(table["log_odds"]), changed=table["run_before"] == 0
    )
    groups = table.groupby(chunks, sort=False)
    return pd.DataFrame(
        {
            "log_all_agree": groups["log_agree"].sum(),
            "least_log_odds": groups["log_odds"].min(),
            "least_confidence": groups["confidence"].min(),
            "mean_confidence": groups["confidence"].mean(),
            "mean_entropy": groups["entropy"].mean(),
            "changes": groups["changed"].sum(),
        }
    )


def _log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.log(clipped / (1 - clipped))


@dataclass(frozen=True)
class Logistic:
    """A logistic regression: probability = expit(bias + features · weights)."""

    weights: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, features: Float[np.ndarray, "n features"], hits: Bool[np.ndarray, " n"]) -> "Logistic":
        """The weights of largest likelihood with a ridge on the standardised ones."""
        mean, scale = features.mean(axis=0), features.std(axis=0)
        standard = np.column_stack([(features - mean) / np.where(scale > 0, scale, 1), np.ones(len(features))])
        sign = np.where(hits, 1.0, -1.0)
        pull = np.r_[np.full(features.shape[1], RIDGE), 0.0]

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            margin = sign * (standard @ weights)
            gradient = -standard.T @ (sign * expit(-margin)) + pull * weights
            return np.logaddexp(0, -margin).sum() + 0.5 * (pull * weights**2).sum(), gradient

        *weights, bias = minimize(loss, np.zeros(standard.shape[1]), jac=True, method="L-BFGS-B").x
        weights = np.array(weights) / np.where(scale > 0, scale, 1)
        return cls(tuple(map(float, weights)), float(bias - mean @ weights))

    def __call__(self, features: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
        """The probability of each row."""
        return expit(np.asarray(features) @ np.array(self.weights) + self.bias)


@dataclass(frozen=True)
class AcceptancePolicy:
    """What the judge will make of a draft, before it is asked.

    lenient: a frame will be accepted within ±1 frame; exact: the judge will name the same viseme for the same frame;
    chunk: the judge will reject at least one frame of the chunk under the exact rule.
    """

    lenient: Logistic
    exact: Logistic
    chunk: Logistic

    @classmethod
    def fit(
        cls,
        features: Float[np.ndarray, "n features"],
        lenient: Bool[np.ndarray, " n"],
        exact: Bool[np.ndarray, " n"],
        chunks: Shaped[np.ndarray, " n"],
    ) -> "AcceptancePolicy":
        """Fit all three to the judge's verdicts on validation speech; arguments by frame."""
        exact_model = Logistic.fit(features, exact)
        by_chunk = chunk_features(features, exact_model(features), chunks)
        rejected = ~pd.Series(exact).groupby(chunks, sort=False).all().to_numpy()
        return cls(Logistic.fit(features, lenient), exact_model, Logistic.fit(by_chunk.to_numpy(float), rejected))

    def any_rejection(
        self, features: Float[np.ndarray, "n features"], chunks: Shaped[np.ndarray, " n"]
    ) -> Float[np.ndarray, " chunks"]:
        """The probability that the judge rejects some frame of each chunk, in order of appearance."""
        return self.chunk(chunk_features(features, self.exact(features), chunks).to_numpy(float))

    def save(self, path: Path = POLICY_FILE, **facts: object) -> None:
        """Write as JSON, with where it comes from."""
        content = {"frame_features": FRAME_FEATURES, "chunk_features": CHUNK_FEATURES, **asdict(self), **facts}
        write_text(path, json.dumps(content, indent=1) + "\n")


class LiveConfidence:
    """The recalibrated confidence of a recording that is still being drafted: how likely the judge is to accept.

    One a recording. Chunk by chunk it gives what `AcceptancePolicy.lenient` gives of the whole recording's features.
    """

    def __init__(self, policy: AcceptancePolicy) -> None:
        self._policy = policy
        self._past: tuple[DraftPlan, np.ndarray] | None = None  # the last frames drafted, as many as are looked at

    def of(self, draft: DraftPlan, energy: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """That of the next chunk's frames, from its draft and its loudness (`log_mel.frame_energy`)."""
        past = 0
        if self._past is not None:
            before, energy_before = self._past
            past = len(energy_before)
            joined = zip(vars(before).values(), vars(draft).values(), strict=True)
            draft = DraftPlan(*(np.concatenate(values) for values in joined))
            energy = np.concatenate([energy_before, energy])
        tail = slice(-NEIGHBOURS, None)
        self._past = DraftPlan(*(values[tail] for values in vars(draft).values())), energy[tail]
        return self._policy.lenient(frame_features(draft, energy, past, max(1, len(energy) - past)))


def load_policy(path: Path = POLICY_FILE) -> AcceptancePolicy:
    """The policy of a file.

    Raises
    ------
    InputError : the file is absent, or was fitted to other features than this version computes.
    """
    if not path.is_file():
        raise InputError(f"acceptance policy {path}: no such file; make it with python -m workbench.measure.referee")
    content = json.loads(path.read_text(encoding="utf-8"))
    known = [*FRAME_FEATURES], [*CHUNK_FEATURES]
    if (content.get("frame_features"), content.get("chunk_features")) != known:
        raise InputError(
            f"acceptance policy {path}: fitted to other features; make it with python -m workbench.measure.referee"
        )
    return AcceptancePolicy(
        **{
            name: Logistic(tuple(content[name]["weights"]), content[name]["bias"])
            for name in ("lenient", "exact", "chunk")
        }
    )
