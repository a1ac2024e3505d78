"""Random weights and inputs with the statistics of real ones: for tests, benchmarks and the notebook's live check."""

import torch
from torch import Tensor

from kernels.project_latents.reference import FRAMES_PER_SLOT, MEL_BANDS, VISEMES, WINDOW_MEL_FRAMES, ProjectionWeights


def random_weights(
    hidden: int, coefficients: int, latent: int, generator: torch.Generator, *, bands: int = MEL_BANDS
) -> ProjectionWeights:
    """Weights that keep every stage near unit scale, float32. ``coefficients`` 0: no basis."""

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device) * scale

    pooled = bands < MEL_BANDS
    band_pool = torch.eye(MEL_BANDS, bands, device=generator.device)
    if pooled:
        band_pool = normal(MEL_BANDS, bands, scale=MEL_BANDS**-0.5)
    return ProjectionWeights(
        band_pool=band_pool,
        w1=normal(WINDOW_MEL_FRAMES * bands, hidden, scale=(WINDOW_MEL_FRAMES * bands) ** -0.5),
        b1=normal(hidden, scale=0.1),
        w_viseme=normal(hidden, VISEMES, scale=3 * hidden**-0.5),
        b_viseme=normal(VISEMES),
        temperature=torch.tensor(1.3, device=generator.device),
        w_open=normal(hidden, 1, scale=hidden**-0.5),
        b_open=normal(1),
        w_coef=normal(hidden, coefficients, scale=hidden**-0.5) if coefficients else None,
        basis=normal(coefficients, latent, scale=coefficients**-0.5) if coefficients else None,
    )


def random_inputs(
    slots: int, latent: int, generator: torch.Generator, dtype: torch.dtype, *, mel_frames: int | None = None
) -> tuple[Tensor, Tensor]:
    """Normalised log-mel that covers the slots' frames, and z0 of unit scale."""
    mel_frames = mel_frames or slots * FRAMES_PER_SLOT * 10 // 3 + WINDOW_MEL_FRAMES
    mel = torch.randn(mel_frames, MEL_BANDS, generator=generator, device=generator.device)
    z0 = torch.randn(slots, latent, generator=generator, device=generator.device).to(dtype)
    return mel, z0
