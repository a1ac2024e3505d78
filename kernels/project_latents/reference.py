"""The Speculative Sync Kernel in plain torch: log-mel windows to visemes, openness and drafted latents.

This is the definition. The Triton version beside it has the same signature and layout; README.md has the derivation.
It runs on any device and in any floating dtype (float64 for checks), is differentiable, and never imports triton.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# The time base, as in specsync_lib.units (a test holds the two equal; kernels import nothing from above them).
MEL_BANDS = 80
MEL_FRAMES_PER_SECOND = 100
VIDEO_FPS = 30
FRAMES_PER_SLOT = 4
WINDOW_BACK_MEL_FRAMES = 11
WINDOW_MEL_FRAMES = 18
VISEMES = 15

# Normalised log-mel lies within a few units of 0. Anything past this limit (NaN and Inf too) is broken input,
# and the limit keeps what passes inside float16's range.
MEL_LIMIT = 1e4


@dataclass(frozen=True)
class ProjectionWeights:
    """Weights of the draft: one wide tanh layer, two heads and a latent basis.

    Shapes: bands F <= 80, hidden H, coefficients K, latent size D = 16 x h x w.
    ``w_coef`` and ``basis`` come together, or are both None while no latent basis has been fitted.
    """

    band_pool: Float[Tensor, "80 bands"]
    w1: Float[Tensor, "18*bands hidden"]  # row j * bands + f: window row j (oldest first), band f
    b1: Float[Tensor, " hidden"]
    w_viseme: Float[Tensor, "hidden 15"]
    b_viseme: Float[Tensor, "15"]
    temperature: Float[Tensor, ""]
    w_open: Float[Tensor, "hidden 1"]
    b_open: Float[Tensor, "1"]
    w_coef: Float[Tensor, "hidden coef"] | None = None
    basis: Float[Tensor, "coef latent"] | None = None

    def __post_init__(self):
        bands, hidden = self.band_pool.shape[-1], self.w1.shape[-1]
        expected = {
            "band_pool": (MEL_BANDS, bands),
            "w1": (WINDOW_MEL_FRAMES * bands, hidden),
            "b1": (hidden,),
            "w_viseme": (hidden, VISEMES),
            "b_viseme": (VISEMES,),
            "temperature": (),
            "w_open": (hidden, 1),
            "b_open": (1,),
        }
        if (self.w_coef is None) != (self.basis is None):
            raise ValueError("w_coef and basis: expected both or neither, got one; give the other or drop it")
        if self.w_coef is not None and self.basis is not None:
            expected["w_coef"] = (hidden, self.w_coef.shape[-1])
            expected["basis"] = (self.w_coef.shape[-1], self.basis.shape[-1])
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name}: expected shape {list(shape)}, got {list(getattr(self, name).shape)}; "
                    "see ProjectionWeights for the layout"
                )

    def to(self, *args, **kwargs) -> "ProjectionWeights":
        """A copy with every tensor moved or cast, as ``Tensor.to``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(*args, **kwargs) for name, t in tensors.items() if t is not None})


@dataclass(frozen=True)
class ProjectionOutput:
    """What the kernel says about ``frames`` video frames and, when z0 was given, their T = frames / 4 latent slots."""

    logits: Float[Tensor, "frames 15"]  # divided by the temperature; 0 for a broken frame
    confidence: Float[Tensor, " frames"]  # max softmax(logits) in [1/15, 1]; 0 for a broken frame
    openness: Float[Tensor, " frames"]  # in [0, 1]; 0 for a broken frame
    coefficients: Float[Tensor, "slots coef"] | None = None
    latents: Float[Tensor, "slots latent"] | None = None


def window_start_mel_frame(frame: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """First log-mel frame of a video frame's window: floor((k + 1/2) x 100/30) - 11, exact in integers."""
    centre = torch.div((2 * frame + 1) * MEL_FRAMES_PER_SECOND, 2 * VIDEO_FPS, rounding_mode="floor")
    return centre - WINDOW_BACK_MEL_FRAMES


def gather_windows(
    mel: Float[Tensor, "mel_frames 80"], frames: int, *, first_frame: int = 0, first_mel_frame: int = 0
) -> Float[Tensor, "frames 18 80"]:
    """The 18 log-mel rows (110 ms back, 60 ms ahead) around each video frame's centre; zeros where there is none."""
    frame = torch.arange(first_frame, first_frame + frames, device=mel.device)
    row = window_start_mel_frame(frame)[:, None] + torch.arange(WINDOW_MEL_FRAMES, device=mel.device) - first_mel_frame
    inside = (row >= 0) & (row < len(mel))
    padded = F.pad(mel, (0, 0, 0, 1))  # row -1 holds zeros
    return padded[torch.where(inside, row, -1)]


def project_latents(
    mel: Float[Tensor, "mel_frames 80"],
    frames: int,
    z0: Float[Tensor, "slots latent"] | None,
    weights: ProjectionWeights,
    *,
    first_frame: int = 0,
    first_mel_frame: int = 0,
) -> ProjectionOutput:
    """Draft visemes, openness and latents for ``frames`` consecutive video frames.

    Parameters
    ----------
    mel
        Causally normalised log-mel, one row per 10 ms, 0 = the recording's mean level.
    frames
        Video frames to draft, at 30 fps. With z0 it must be 4 x slots.
    z0
        Latents to move, one row per slot ([16, h, w] flattened); None leaves coefficients and latents out.
    first_frame, first_mel_frame
        Absolute indices of the first drafted video frame and of ``mel[0]``: a stream passes its tail.
        Mel rows that are not there count as 0. Frames before 0 (the causal VAE's first slot holds frame 0 alone:
        pass -3) have confidence 0 and stay out of their slot's mean.

    A frame is *broken* when its window holds a NaN, an Inf or a value past ``MEL_LIMIT``: logits, openness and
    confidence are 0, so it is never committed, and it stays out of its slot's mean. A slot with no usable frame keeps
    z = z0.

    Source: the derivation in README.md beside this file.
    """
    if z0 is not None and weights.basis is None:
        raise ValueError("z0: given, but the weights hold no latent basis; pass z0=None or weights with a basis")
    if z0 is not None and frames != FRAMES_PER_SLOT * len(z0):
        raise ValueError(f"frames: expected 4 x slots = {FRAMES_PER_SLOT * len(z0)}, got {frames}; pass whole slots")
    window = gather_windows(mel, frames, first_frame=first_frame, first_mel_frame=first_mel_frame)  # [4T, 18, 80]
    frame = torch.arange(first_frame, first_frame + frames, device=mel.device)
    usable = (window.abs() <= MEL_LIMIT).all(dim=(1, 2)) & (frame >= 0)  # [4T]; a comparison with NaN is False
    window = torch.where(usable[:, None, None], window, 0)

    envelopes = window.to(weights.w1.dtype) @ weights.band_pool  # [4T, 18, F]
    hidden = torch.tanh(envelopes.flatten(1) @ weights.w1 + weights.b1)  # [4T, H]
    logits = (hidden @ weights.w_viseme + weights.b_viseme) / weights.temperature  # [4T, 15]
    openness = torch.sigmoid(hidden @ weights.w_open + weights.b_open).squeeze(1)  # [4T]
    output = ProjectionOutput(
        logits=torch.where(usable[:, None], logits, 0),
        confidence=torch.where(usable, logits.softmax(dim=1).amax(dim=1), 0),
        openness=torch.where(usable, openness, 0),
    )
    if z0 is None:
        return output
    coefficients, latents = move_latents(hidden, usable, z0, weights.w_coef, weights.basis)
    return replace(output, coefficients=coefficients, latents=latents)


def move_latents(
    hidden: Float[Tensor, "frames hidden"],
    usable: Bool[Tensor, " frames"],
    z0: Float[Tensor, "slots latent"],
    w_coef: Float[Tensor, "hidden coef"],
    basis: Float[Tensor, "coef latent"],
) -> tuple[Float[Tensor, "slots coef"], Float[Tensor, "slots latent"]]:
    """Hidden features, of this layer or of the causal front, to coefficients and latents z0 + c B.

    A slot's features are the mean over its usable frames; one with none keeps z0.
    """
    share = usable.view(-1, FRAMES_PER_SLOT).to(hidden.dtype)  # [T, 4]
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    pooled = (hidden.view(-1, FRAMES_PER_SLOT, hidden.shape[1]) * share[:, :, None]).sum(dim=1)  # [T, H]
    coefficients = pooled @ w_coef  # [T, K]
    return coefficients, z0 + (coefficients.to(basis.dtype) @ basis).to(z0.dtype)
