"""The Speculative Sync Kernel behind one door: check everything, then run the backend that was asked for."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from kernels.checks import require, require_finite
from kernels.project_latents import reference
from kernels.project_latents.reference import ProjectionOutput, ProjectionWeights

__all__ = ["ProjectionOutput", "ProjectionWeights", "project_latents"]


def project_latents(
    mel: Float[Tensor, "mel_frames 80"],
    frames: int,
    z0: Float[Tensor, "slots latent"] | None,
    weights: ProjectionWeights,
    *,
    backend: Literal["torch", "triton"],
    first_frame: int = 0,
    first_mel_frame: int = 0,
    allow_broken: bool = False,
) -> ProjectionOutput:
    """Draft visemes, openness and latents: `reference.project_latents`, checked, on an explicit backend.

    ``allow_broken`` lets NaN and Inf in the mel through to the kernel, which gives their frames confidence 0 and keeps
    z0 in a slot without a usable frame. Otherwise they are an error before any launch.

    Raises
    ------
    ValueError
        One line: what was expected, what came, what to do.
    """
    require(mel, "mel", (None, reference.MEL_BANDS), mel.dtype, weights.w1.device)
    if not mel.dtype.is_floating_point:
        raise ValueError(f"mel: expected a floating dtype, got {mel.dtype}; cast it first")
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    if z0 is not None:
        latent = None if weights.basis is None else weights.basis.shape[1]
        require(z0, "z0", (None, latent), z0.dtype, mel.device)
    if not allow_broken:
        require_finite(mel, "mel")
    if backend == "torch":
        run = reference.project_latents
    elif backend == "triton":
        from kernels.project_latents.triton_impl import project_latents as run
    else:
        raise ValueError(f"backend: expected 'torch' or 'triton', got {backend!r}")
    return run(mel, frames, z0, weights, first_frame=first_frame, first_mel_frame=first_mel_frame)
