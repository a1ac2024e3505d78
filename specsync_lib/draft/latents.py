"""Sound to drafted latents: the basis of the face's motion, and the drafter that calls the kernel chunk by chunk.

All latents here are *normalised* ones: what the transformer sees.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from kernels import project_latents as kernel
from kernels.project_latents.reference import ProjectionOutput, ProjectionWeights
from specsync_lib import units
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR
from specsync_lib.tensors import read_checked
from specsync_lib.units import FRAMES_PER_CHUNK, SLOTS_PER_CHUNK

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

MODEL_DIR = MODELS_DIR / "latent_basis"
WEIGHTS, CONFIG, METRICS, RIVALS = "latent_basis.safetensors", "config.json", "metrics.json", "rivals.safetensors"


ALWAYS = 20.0  # tanh of it is 1 in every floating type


@dataclass(frozen=True)
class LatentBasis:
    """A fitted basis; latents are normalised ones.

    Attributes
    ----------
    basis : [K, 16 h w] float32, orthonormal rows
    w_coef : [H + 1, K] float32; the last row belongs to the unit that always says 1
    z0 : [16, h, w] float32, the reference person's resting face
    draft_sha256, vae_sha256 : str
        Of the hidden layer and of the VAE that it was fitted on (:func:`hidden_sha256`, :func:`vae_sha256`).
    """

    basis: Float[Tensor, "coef latent"]
    w_coef: Float[Tensor, "hidden coef"]
    z0: Float[Tensor, "16 h w"]
    draft_sha256: str
    vae_sha256: str

    def weights(self, draft: ProjectionWeights) -> ProjectionWeights:
        """The sync kernel's weights: the draft's, with the constant unit, this head and this basis.

        Raises
        ------
        InputError: the draft's hidden layer is not the one that the head was fitted on.
        """
        if hidden_sha256(draft) != self.draft_sha256:
            raise InputError(
                "latent basis: fitted on another draft's hidden layer; run workbench.train.latent_basis again"
            )
        device = draft.w1.device
        return replace(with_constant_unit(draft), w_coef=self.w_coef.to(device), basis=self.basis.to(device))

    def check(self, vae: "AutoencoderKLWan", region_px: int) -> None:
        """Refuse a VAE or a region that these latents do not belong to.

        Raises
        ------
        InputError: latents of another size, or another VAE's.
        """
        side = region_px // units.PIXELS_PER_LATENT
        if self.z0.shape[1:] != (side, side):
            h, w = self.z0.shape[1:]
            raise InputError(
                f"latent basis: made for {h}x{w} latents, a region of {region_px} px has {side}x{side}; "
                f"use {h * units.PIXELS_PER_LATENT} px or fit another basis"
            )
        if vae_sha256(vae) != self.vae_sha256:
            raise InputError("latent basis: fitted on another VAE's latents; run workbench.train.latent_basis again")


def with_constant_unit(draft: ProjectionWeights) -> ProjectionWeights:
    """The same draft with one more hidden unit, which says 1 in every usable frame and which no head listens to."""
    return replace(
        draft,
        w1=F.pad(draft.w1, (0, 1)),
        b1=F.pad(draft.b1, (0, 1), value=ALWAYS),
        w_viseme=F.pad(draft.w_viseme, (0, 0, 0, 1)),
        w_open=F.pad(draft.w_open, (0, 0, 0, 1)),
    )


def hidden_sha256(draft: ProjectionWeights) -> str:
    """Digest of what the hidden layer is made of; heads and temperature may change."""
    return _digest([draft.band_pool, draft.w1, draft.b1])


def vae_sha256(vae: "AutoencoderKLWan") -> str:
    """Digest of what makes a VAE's latents, as float32: its encoder and its statistics. The decoder may improve."""
    statistics = [torch.tensor(getattr(vae.config, name)) for name in ("latents_mean", "latents_std")]
    encoder = {
        name: tensor for name, tensor in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))
    }
    return _digest([*(tensor for _, tensor in sorted(encoder.items())), *statistics])


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_latent_basis(folder: str | Path = MODEL_DIR) -> LatentBasis:
    """The committed basis, or one from a folder that :func:`save` wrote; checked tensor by tensor.

    Raises
    ------
    InputError: a file is absent or cut short; a tensor is missing, unknown, misshapen or not finite.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        count, hidden, latent = config["coefficients"], config["hidden"], tuple(config["latent"])
        sources = {name: str(config[name]) for name in ("draft_sha256", "vae_sha256")}
        expected = {"basis": (count, int(np.prod(latent))), "w_coef": (hidden, count), "z0": latent}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG}: not readable ({error}); run workbench.train.latent_basis") from error
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: absent; restore it or run workbench.train.latent_basis")
    state = read_checked([folder / WEIGHTS], expected)
    return LatentBasis(**{name: tensor.float() for name, tensor in state.items()}, **sources)


@dataclass(frozen=True)
class ChunkDraft:
    """What the kernel says about one chunk: 12 frames of plan, and the latents of their 3 slots."""

    plan: DraftPlan
    coefficients: Float[Tensor, "3 coef"]
    latents: Float[Tensor, "16 3 h w"]


def chunk_mel_frames(chunk: int) -> range:
    """The log-mel rows that a chunk's windows need; before 0 there are none."""
    first, last = FRAMES_PER_CHUNK * chunk, FRAMES_PER_CHUNK * (chunk + 1) - 1
    return range(
        max(0, units.window_start_mel_frame(first)), units.window_start_mel_frame(last) + units.WINDOW_MEL_FRAMES
    )


class LatentDrafter:
    """Drafts chunk after chunk from streaming log-mel: one kernel call gives the plan and the latents.

    Parameters
    ----------
    basis, draft
        From :func:`load_latent_basis` and :func:`specsync_lib.draft.plan.load_draft`.
    backend
        ``torch``: the reference; ``triton``: the kernel (a plan is made once). Chosen, never guessed.
    z0
        [16, h, w] normalised latents of another person's resting face (:func:`generation.still_latents`); default: the
        basis' own.
    dtype
        Of basis, z0 and latents.
    """

    def __init__(
        self,
        basis: LatentBasis,
        draft: ProjectionWeights,
        *,
        backend: Literal["torch", "triton"],
        z0: Float[Tensor, "16 h w"] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        z0 = basis.z0 if z0 is None else z0
        if z0.shape != basis.z0.shape:
            raise InputError(
                f"latent basis: z0 has shape {tuple(z0.shape)}, the basis was made for {tuple(basis.z0.shape)}"
            )
        self.shape = tuple(z0.shape)
        self.z0 = z0.flatten().to(device, dtype).expand(SLOTS_PER_CHUNK, -1).contiguous()
        self.weights = basis.weights(draft.to(device))
        self._run = self._torch
        if backend == "triton":
            from kernels.project_latents.triton_impl import ProjectionPlan

            self._run = ProjectionPlan(self.weights, FRAMES_PER_CHUNK, dtype=dtype, device=device)
        elif backend != "torch":
            raise InputError(f"backend is {backend!r}: expected 'torch' or 'triton'")

    def _torch(self, mel: Tensor, z0: Tensor, **where: int) -> ProjectionOutput:
        return kernel.project_latents(
            mel, FRAMES_PER_CHUNK, z0, self.weights, backend="torch", allow_broken=True, **where
        )

    @torch.inference_mode()
    def draft(self, mel: Float[Tensor, "rows 80"], chunk: int, *, first_mel_frame: int = 0) -> ChunkDraft:
        """Frames 12 c .. 12 c + 11, slots 1 + 3 c .. 3 + 3 c of the clip.

        Parameters
        ----------
        mel
            Causally normalised log-mel (:class:`specsync_lib.draft.plan.CausalNormaliser`), float32, on the drafter's
            device: at least the rows :func:`chunk_mel_frames`; rows that are not there count as the mean level.
        first_mel_frame
            Absolute index of ``mel[0]``.
        """
        said = self._run(mel, self.z0, first_frame=FRAMES_PER_CHUNK * chunk, first_mel_frame=first_mel_frame)
        # copies all: a triton plan writes over its own buffers at the next call
        probabilities = said.logits.float().softmax(dim=1).cpu().numpy()
        plan = DraftPlan(probabilities, *(np.array(x.float().cpu()) for x in (said.confidence, said.openness)))
        latents = said.latents.view(SLOTS_PER_CHUNK, *self.shape).transpose(0, 1).clone()
        return ChunkDraft(plan, said.coefficients.clone(), latents)
