"""The draft: audio alone to a sync plan with a calibrated confidence, through the sync kernel.

log-mel → causal level and channel normalisation → 18-frame window → one tanh layer (kernels/project_latents).
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.signal import lfilter

from kernels.project_latents.reference import ProjectionWeights, project_latents
from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR

if TYPE_CHECKING:  # a bare GPU machine lacks the packages of the features and of the plans' tables
    from specsync_lib.visemes import SyncPlan

MODEL_DIR = MODELS_DIR / "draft"
FRAMES_PER_CALL = 4096  # bounds the windows' memory to about 25 MB whatever the recording's length

# The normaliser subtracts a running mean spectrum: a voice's and a channel's long-term average, heard so far.
FORGETTING_SECONDS = 6.0
# Before anything is heard the mean is that of close speech, and counts like this much speech at PRIOR_LEVEL.
PRIOR_SECONDS = 2.0
PRIOR_LEVEL = 0.1
# Speech must weigh more than pauses, at any recording level: weights are exponential in a frame's level (its mean over
# the bands, 40 dB a unit), so that a ratio of levels becomes a ratio of weights. 2.0: a factor e per 20 dB.
LEVEL_WEIGHT = 2.0
SPREAD = 0.3  # typical standard deviation of a band of speech, in Whisper's units of 40 dB
# Long-term average of close-talked speech at every fifth mel band (our training voices, weighted as above).
PRIOR_KNOTS = (0.15, 0.92, 0.77, 0.62, 0.53, 0.38, 0.34, 0.32, 0.31, 0.25, 0.27, 0.25, 0.17, 0.03, -0.06, -0.12, -0.30)
PRIOR_MEAN = np.interp(np.arange(units.MEL_BANDS), np.linspace(0, units.MEL_BANDS - 1, len(PRIOR_KNOTS)), PRIOR_KNOTS)
FORGETTING_FACTOR = float(np.exp(-1 / (FORGETTING_SECONDS * units.MEL_FRAMES_PER_SECOND)))
PRIOR_WEIGHT = PRIOR_SECONDS * units.MEL_FRAMES_PER_SECOND


class CausalNormaliser:
    """Level and channel normalisation as a stream: every row sees itself and what came before, never later.

    The mean of band ``b`` at row ``t`` is ``Σ λ^(t-i) w_i x_ib / Σ λ^(t-i) w_i`` over the rows ``i ≤ t`` and the prior,
    with ``w_i = exp(LEVEL_WEIGHT (level_i - PRIOR_LEVEL))``. It is a linear recurrence run row by row, so that any
    chunking gives the same bits. Rows that are not finite pass through and leave no trace in the mean.
    """

    def __init__(self) -> None:
        weighted_sums = np.append(PRIOR_WEIGHT * PRIOR_MEAN, PRIOR_WEIGHT)  # [81]: bands, then the weights
        self._state = (FORGETTING_FACTOR * weighted_sums)[None]  # [1, 81], scipy's form

    def push(self, mel: Float[np.ndarray, "rows 80"]) -> Float32[np.ndarray, "rows 80"]:
        """The next rows of log-mel, normalised: 0 = the running mean, 1 = SPREAD above it.

        Raises
        ------
        InputError: rows of another width.
        """
        mel = np.ascontiguousarray(mel, dtype=np.float64)
        if mel.ndim != 2 or mel.shape[1] != units.MEL_BANDS:
            raise InputError(f"log-mel: expected shape [rows, {units.MEL_BANDS}], got {list(mel.shape)}")
        if not len(mel):
            return np.zeros((0, units.MEL_BANDS), np.float32)
        finite = np.isfinite(mel).all(axis=1, keepdims=True)
        heard = np.where(finite, mel, 0.0)
        weight = np.where(finite, np.exp(LEVEL_WEIGHT * (heard.mean(axis=1, keepdims=True) - PRIOR_LEVEL)), 0.0)
        terms = np.concatenate([weight * heard, weight], axis=1)
        sums, self._state = lfilter([1.0], [1.0, -FORGETTING_FACTOR], terms, axis=0, zi=self._state)
        return ((mel - sums[:, :-1] / sums[:, -1:]) / SPREAD).astype(np.float32)


def normalise(mel: Float[np.ndarray, "mel_frames 80"]) -> Float32[np.ndarray, "mel_frames 80"]:
    """Causally normalised log-mel of a whole recording: what :class:`CausalNormaliser` gives in any chunking."""
    return CausalNormaliser().push(mel)


@dataclass(frozen=True)
class DraftPlan:
    """What the draft says about every video frame.

    probabilities: [frames, 15] float32, calibrated; confidence: [frames], their maximum (0 where the audio is broken);
    openness: [frames] in [0, 1].
    """

    probabilities: np.ndarray
    confidence: np.ndarray
    openness: np.ndarray

    @property
    def plan(self) -> "SyncPlan":
        """The most probable viseme of every frame, with the openness head's openness."""
        from specsync_lib.visemes import SyncPlan

        return SyncPlan(self.probabilities.argmax(axis=1).astype(np.int8), self.openness)


def load_draft(name: str = "draft") -> ProjectionWeights:
    """The weights of ``data/models/draft/<name>.safetensors`` (or of a path), as float32, checked.

    Raises
    ------
    InputError: the file is absent or cut short; a tensor is missing, unknown, misshapen or not finite; the temperature
    is not positive.
    """
    path = Path(name) if Path(name).suffix == ".safetensors" else MODEL_DIR / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(f"draft weights {path}: no such file; expected one of {MODEL_DIR}, or train them")
    try:
        tensors = {key: tensor.float() for key, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"draft weights {path}: not a safetensors file ({error}); restore it") from error
    expected = {field.name for field in fields(ProjectionWeights)}
    required = expected - {"w_coef", "basis"}
    if odd := (required - tensors.keys()) | (tensors.keys() - expected):
        raise InputError(f"draft weights {path}: tensor {min(odd)!r} is missing or unknown; restore the file")
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"draft weights {path}: tensor {key!r} holds values that are not finite; restore the file")
    try:
        weights = ProjectionWeights(**tensors)
    except ValueError as error:
        raise InputError(f"draft weights {path}: tensor {error}") from error
    if weights.temperature <= 0:
        raise InputError(f"draft weights {path}: tensor 'temperature' is {weights.temperature:.3g}, expected above 0")
    return weights


@torch.inference_mode()
def draft_plan(
    samples: Float[np.ndarray, " n"], weights: ProjectionWeights, *, backend: Literal["torch", "triton"] = "torch"
) -> DraftPlan:
    """Draft the sync plan of a recording.

    Parameters
    ----------
    samples
        [n] floats, 16 kHz mono in [-1, 1].
    weights
        From :func:`load_draft`; the backend runs where they lie.
    backend
        ``torch``: the reference; ``triton``: the kernel. Chosen, never guessed.
    """
    from specsync_lib.speech.log_mel import log_mel

    mel = torch.from_numpy(normalise(log_mel(samples))).to(weights.w1.device)
    frames = units.frame_count(len(samples))
    kernel = _kernel(backend)
    pieces = [
        kernel(mel, min(FRAMES_PER_CALL, frames - first), None, weights, first_frame=first)
        for first in range(0, frames, FRAMES_PER_CALL)
    ]
    if not pieces:
        return DraftPlan(np.zeros((0, len(units.VISEMES)), np.float32), *np.zeros((2, 0), np.float32))
    logits, confidence, openness = (
        torch.cat([getattr(piece, name) for piece in pieces]).float().cpu()
        for name in ("logits", "confidence", "openness")
    )
    return DraftPlan(logits.softmax(dim=1).numpy(), confidence.numpy(), openness.numpy())


def _kernel(backend: str):
    if backend == "torch":
        return project_latents
    if backend == "triton":
        from kernels.project_latents import triton_impl

        return triton_impl.project_latents
    raise InputError(f"backend is {backend!r}: expected 'torch' or 'triton'")
