"""wan-mini: the suite's own small Wan, made anew, with its draft and its step counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from specsync_lib import units
from specsync_lib.face.vae import PAST_TAPS
from specsync_lib.rows import Drafting

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from specsync_lib.face.generation import FaceGenerator


def new_vae(base_dim: int, seed: int, num_res_blocks: int = 2) -> "AutoencoderKLWan":
    """A random Wan VAE whose kernels ignore the past: it acts frame by frame, a slot on its newest frame."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(seed)
    vae = AutoencoderKLWan(base_dim=base_dim, z_dim=units.LATENT_CHANNELS, num_res_blocks=num_res_blocks)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
                module.weight[:, :, :PAST_TAPS] = 0
                module.weight[:, :, PAST_TAPS] *= 3**0.5  # a third of the inputs is left: keep the output's variance
            elif isinstance(module, nn.Conv3d) and module.kernel_size == (3, 1, 1):
                module.weight.zero_()
                module.bias.zero_()
                eye = torch.eye(module.in_channels)
                module.weight[:, :, PAST_TAPS, 0, 0] = eye.repeat(module.out_channels // module.in_channels, 1)
    return vae


@dataclass(frozen=True)
class Size:
    """wan-mini's transformer: 4.0 M parameters, 7.6 MiB in fp16."""

    heads: int = 4
    head_dim: int = 48
    layers: int = 6
    ffn: int = 768


def new_transformer(size: Size, seed: int) -> "WanTransformer3DModel":
    """A random transformer of wan-mini's kind that predicts the resting face: its output layer is zero."""
    from diffusers import WanTransformer3DModel

    from specsync_lib.face import generation

    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        in_channels=generation.INPUT_CHANNELS,
        out_channels=units.LATENT_CHANNELS,
        text_dim=generation.TOKEN_FEATURES,
        freq_dim=128,
        ffn_dim=size.ffn,
        num_layers=size.layers,
        rope_max_seq_len=64,  # 1,024 px
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


Drafts = Callable[[int], Tensor]  # a chunk's number to its drafted latents [16, slots, h, w]


@dataclass(frozen=True)
class Method:
    """A way to a chunk's latents: 0 steps decode the draft as it is; without a draft it starts from noise alone."""

    name: str
    steps: int
    noise_level: float
    drafted: bool


NOISE_LEVEL = 0.6
UNDENOISED = Method("the kernel's draft itself", 0, NOISE_LEVEL, True)  # the claim's own case
IN_USE = Method("2 steps from the draft", 2, NOISE_LEVEL, True)
METHODS = (
    UNDENOISED,
    Method("1 step from the draft", 1, NOISE_LEVEL, True),
    IN_USE,
    Method("4 steps from the draft", 4, NOISE_LEVEL, True),
    Method("1 step from noise", 1, 1.0, False),
    Method("2 steps from noise", 2, 1.0, False),
    Method("4 steps from noise", 4, 1.0, False),
)


def kernel_drafts(samples: np.ndarray, face: "FaceGenerator", part: Drafting | None = None) -> Drafts:
    """The sync kernel's latents for every chunk of a recording, on the face that the generator shows.

    ``part``: a row's front and basis; None: the default one's.

    Raises
    ------
    InputError: the basis is absent, or belongs to another VAE, draft or size.
    """
    from specsync_lib.draft.front import FrontStream, front_path, load_draft_front
    from specsync_lib.draft.front_weights import features_sha256
    from specsync_lib.draft.latents import FrontLatents, basis_folder, load_latent_basis
    from specsync_lib.draft.plan import normalise
    from specsync_lib.speech.log_mel import log_mel

    part = Drafting() if part is None else part
    basis = load_latent_basis(basis_folder(part.basis))
    basis.check(face.vae, face.px)
    basis.check_draft(features_sha256(front_path(part.front)))
    latents, stream = FrontLatents(basis, z0=face.still), FrontStream(load_draft_front(part.front))
    mel = normalise(log_mel(samples))
    drafted = []

    def of(number: int) -> torch.Tensor:
        while len(drafted) <= number:
            said = stream.draft(mel if not drafted else mel[:0], face.size.frames, ended=True)
            drafted.append(latents.draft(said.plan, said.hidden, face.size.slots).latents)
        return drafted[number]

    return of
