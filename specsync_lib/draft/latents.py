"""Sound to drafted latents: the basis of the face's motion, and what reads its coefficients off the draft's features.

All latents here are *normalised* ones: what the transformer sees.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from kernels.project_latents.reference import move_latents
from specsync_lib import units
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR
from specsync_lib.tensors import read_checked
from specsync_lib.units import FRAMES_PER_SLOT, SLOTS_PER_CHUNK

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

MODEL_DIR = MODELS_DIR / "latent_basis"
WEIGHTS, CONFIG, METRICS, RIVALS = "latent_basis.safetensors", "config.json", "metrics.json", "rivals.safetensors"


@dataclass(frozen=True)
class LatentBasis:
    """A fitted basis; latents are normalised ones.

    Attributes
    ----------
    basis : [K, 16 h w] float32, orthonormal rows
    w_coef : [H + 1, K] float32; the last row belongs to the unit that always says 1
    z0 : [16, h, w] float32, the reference person's resting face
    draft_sha256, vae_sha256 : str
        Of what the features follow from (`front_weights.features_sha256`) and of the VAE (:func:`vae_sha256`) that it
        was fitted on.
    """

    basis: Float[Tensor, "coef latent"]
    w_coef: Float[Tensor, "hidden coef"]
    z0: Float[Tensor, "16 h w"]
    draft_sha256: str
    vae_sha256: str

    def check_draft(self, features_sha256: str) -> None:
        """Refuse a draft whose features are not those that the head was fitted on.

        Raises
        ------
        InputError: another draft's.
        """
        if features_sha256 != self.draft_sha256:
            raise InputError(
                "latent basis: fitted on another draft's hidden layer; run workbench.train.latent_basis again"
            )

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
                f"use {h * units.PIXELS_PER_LATENT} px, fit one with workbench.train.latent_basis, or give none"
            )
        if vae_sha256(vae) != self.vae_sha256:
            raise InputError(
                "latent basis: fitted on another VAE's latents; fit one with workbench.train.latent_basis, or give none"
            )


def vae_sha256(vae: "AutoencoderKLWan") -> str:
    """Digest of what makes a VAE's latents, as float32: its encoder and its statistics. The decoder may improve.

    Of a VAE in another precision it is what the stored weights gave (``stored_sha256``, set by `wan.load_vae`).
    """
    if stored := getattr(vae, "stored_sha256", None):
        return stored
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


def basis_folder(name: str) -> Path:
    """Where a basis lies: ``data/models/<name>``, or the path that was given."""
    return Path(MODELS_DIR, name)


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
    """What the kernel says about one chunk: its frames' plan, and the latents of its slots."""

    plan: DraftPlan
    coefficients: Float[Tensor, "slots coef"]
    latents: Float[Tensor, "16 slots h w"]


class FrontLatents:
    """The latents of a chunk from the causal front's features.

    Parameters
    ----------
    basis
        From :func:`load_latent_basis`; fitted on this front's features (:meth:`LatentBasis.check_draft`).
    z0
        [16, h, w] normalised latents of another person's resting face (:func:`generation.still_latents`); default: the
        basis' own.
    """

    def __init__(
        self,
        basis: LatentBasis,
        *,
        z0: Float[Tensor, "16 h w"] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        z0 = checked_z0(basis, z0)
        self.shape = tuple(z0.shape)
        self.z0 = z0.flatten().to(device, torch.float32).expand(SLOTS_PER_CHUNK, -1).contiguous()
        self._w_coef, self._basis = basis.w_coef.to(device), basis.basis.to(device, torch.float32)

    @torch.inference_mode()
    def draft(
        self, plan: DraftPlan, hidden: Float[Tensor, "frames hidden"], slots: int = SLOTS_PER_CHUNK
    ) -> ChunkDraft:
        """The chunk's latents: 1 to 3 slots, of which those without a usable frame rest; a last chunk may be short."""
        pad = FRAMES_PER_SLOT * slots - len(hidden)
        usable = F.pad(torch.from_numpy(plan.confidence > 0), (0, pad)).to(self.z0.device)
        features = F.pad(hidden.to(self.z0.device, self._w_coef.dtype), (0, 1, 0, pad), value=1.0)
        coefficients, latents = move_latents(features, usable, self.z0[:slots], self._w_coef, self._basis)
        return ChunkDraft(plan, coefficients, latents.view(slots, *self.shape).transpose(0, 1))


def checked_z0(basis: LatentBasis, z0: Float[Tensor, "16 h w"] | None) -> Float[Tensor, "16 h w"]:
    """A person's resting latents, or the basis' own.

    Raises
    ------
    InputError: of another shape than the basis'.
    """
    z0 = basis.z0 if z0 is None else z0
    if z0.shape != basis.z0.shape:
        raise InputError(
            f"latent basis: z0 has shape {tuple(z0.shape)}, the basis was made for {tuple(basis.z0.shape)}"
        )
    return z0
