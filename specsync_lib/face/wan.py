"""Wan 2.1's latent space: strict loading of its parts, exact geometry, chunk-wise coding with the causal cache.

Two rows share one code path (:data:`MODELS`): ``wan-mini``, our own small model in ``data/models/wan_mini``, and the
real checkpoints by hub id or local directory. Both are directories in diffusers' layout: ``vae/`` and ``transformer/``
with ``config.json`` and safetensors, whole or sharded.

Glossary: a *slot* is one latent frame. The first slot of a clip holds 1 video frame, every later one 4.

Source
------
Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, section 4.1 (Wan-VAE, feature cache);
diffusers' ``AutoencoderKLWan`` and ``WanTransformer3DModel``.
"""

from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from specsync_lib.devices import multiplies_bfloat16
from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face.adapter import AdaptedTransformer, adapter_folder, load_adapter
from specsync_lib.paths import MODELS_DIR
from specsync_lib.rows import NONE, Video
from specsync_lib.tensors import check_hashes, read_checked, read_object, weight_files
from specsync_lib.units import FRAMES_PER_SLOT, LATENT_CHANNELS, PIXELS_PER_LATENT

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel


Part = Literal["vae", "transformer"]


@dataclass(frozen=True)
class WanModel:
    """One row of the model table.

    source: a local directory or a hub id; dtype: what the weights are cast to; region_px: side of the generated face.
    """

    source: str
    dtype: torch.dtype
    region_px: int


MODELS: dict[str, WanModel] = {
    "wan-mini": WanModel(str(MODELS_DIR / "wan_mini"), torch.float32, 256),
    "wan-1.3b": WanModel("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", torch.bfloat16, 512),
    "wan-14b": WanModel("Wan-AI/Wan2.1-T2V-14B-Diffusers", torch.bfloat16, 512),
}


# --- geometry ---------------------------------------------------------------------------------------------------------


def slot_count(frames: int) -> int:
    """Slots behind a clip of 4k + 1 video frames: k + 1.

    Raises
    ------
    InputError: the count is not 4k + 1; diffusers would change it silently.
    """
    if frames < 1 or (frames - 1) % FRAMES_PER_SLOT:
        below = max(1, frames - (frames - 1) % FRAMES_PER_SLOT)
        raise InputError(
            f"Wan clip: {frames} frames, expected 4k + 1; pad or trim to {below} or {below + FRAMES_PER_SLOT}"
        )
    return 1 + (frames - 1) // FRAMES_PER_SLOT


def clip_frames(slots: int) -> int:
    """Video frames of a clip of ``slots`` slots: 1 + 4 (slots - 1).

    Raises
    ------
    InputError: no slot.
    """
    if slots < 1:
        raise InputError(f"Wan clip: {slots} slots, expected at least 1")
    return 1 + FRAMES_PER_SLOT * (slots - 1)


def padded_frames(frames: int) -> int:
    """The smallest 4k + 1 that holds ``frames``."""
    return clip_frames(1 + -(-(frames - 1) // FRAMES_PER_SLOT))


def slot_of_frame(frame: int) -> int:
    """The slot that holds a video frame: 0 for frame 0, then 1 + (frame - 1) // 4."""
    return 0 if frame == 0 else 1 + (frame - 1) // FRAMES_PER_SLOT


def latent_shape(frames: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
    """Latents [16, slots, height / 8, width / 8] of a clip.

    Raises
    ------
    InputError: frames are not 4k + 1, or a side is not a positive multiple of 8.
    """
    for name, side in (("height", height_px), ("width", width_px)):
        if side < PIXELS_PER_LATENT or side % PIXELS_PER_LATENT:
            raise InputError(f"Wan clip: {name} {side} px, expected a positive multiple of {PIXELS_PER_LATENT}")
    return (
        LATENT_CHANNELS,
        slot_count(frames),
        height_px // PIXELS_PER_LATENT,
        width_px // PIXELS_PER_LATENT,
    )


# --- strict loading ---------------------------------------------------------------------------------------------------


def load_vae(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str = "main",
) -> "AutoencoderKLWan":
    """Wan's VAE, checked tensor by tensor, in eval mode and without gradients.

    Parameters
    ----------
    source
        A row of :data:`MODELS`, a directory in diffusers' layout, or a hub id (offline settings are honoured).
    dtype
        Default: the row's, else float32.
    revision
        Of a hub id.

    Raises
    ------
    InputError
        The checkpoint is absent or unfit; the line names the file and the tensor.
    """
    from diffusers import AutoencoderKLWan  # 4 s to import: only those who load a model pay

    model = _load_part(AutoencoderKLWan, source, "vae", torch.float32, device, revision)
    config = model.config
    if config.z_dim != LATENT_CHANNELS or len(config.latents_mean) != len(config.latents_std):
        raise InputError(f"{source}/vae/config.json: z_dim {config.z_dim}, Wan 2.1 has {LATENT_CHANNELS} channels")
    if list(config.temperal_downsample) != [False, True, True] or len(config.dim_mult) != 4 or config.is_residual:
        raise InputError(f"{source}/vae/config.json: not Wan 2.1's geometry (8x8 in space, 4x in time, plain blocks)")
    if not all(std > 0 for std in config.latents_std):
        raise InputError(f"{source}/vae/config.json: latents_std must be positive in every channel")
    row = MODELS.get(str(source))
    dtype = dtype or (row.dtype if row else torch.float32)
    if dtype != torch.float32:
        model.stored_sha256 = vae_sha256(model)  # what is stored decides, not what it is rounded to
        model.to(dtype)
    convolve_by_onednn(model)
    return model


KNOWN_SLOTS = "chunk_slots"  # in a transformer's config: the chunks that it was trained on; without it three slots


def load_transformer(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str = "main",
) -> "WanTransformer3DModel":
    """Wan's diffusion transformer; parameters and errors as for :func:`load_vae`."""
    from diffusers import WanTransformer3DModel

    return _load_part(WanTransformer3DModel, source, "transformer", dtype, device, revision)


def load_video(part: Video, device: str) -> "tuple[AutoencoderKLWan, WanTransformer3DModel | AdaptedTransformer]":
    """The VAE and the transformer of a row, with its adapter if it has one, on a device.

    Raises
    ------
    InputError: as for :func:`load_vae` and :func:`adapter.load_adapter`.
    """
    options = {"device": device, "revision": part.revision}
    vae = load_vae(part.source, dtype=getattr(torch, part.vae_dtype), **options)
    transformer = load_transformer(part.source, dtype=getattr(torch, part.transformer_dtype), **options)
    if part.adapter == NONE:
        return vae, transformer
    return vae, AdaptedTransformer(transformer, load_adapter(adapter_folder(part.adapter), transformer, vae))


def checkpoint_dir(source: str | Path, part: Part, revision: str = "main") -> Path:
    """The local root directory of a checkpoint: itself, or the hub's snapshot of one part (only JSON and safetensors).

    Raises
    ------
    InputError: neither a directory nor reachable on (or cached from) the hub.
    """
    root = Path(source)
    if root.is_dir():
        return root
    if root.is_absolute() or str(source).count("/") != 1 or str(source).startswith("."):
        raise InputError(f"{source}: no such checkpoint directory; give a directory in diffusers' layout or a hub id")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = [f"{part}/*.json", f"{part}/*.safetensors"]
        return Path(huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{source}: not a local directory, and the hub did not give it ({reason})") from error


def _load_part(
    kind: type, source: str | Path, part: Part, dtype: torch.dtype | None, device: str | torch.device, revision: str
) -> nn.Module:
    from accelerate import init_empty_weights

    row = MODELS.get(str(source))
    root = checkpoint_dir(row.source if row else source, part, revision)
    dtype = dtype or (row.dtype if row else torch.float32)
    folder = root / part
    check_hashes(root, part)
    config = read_object(folder / "config.json")
    if config.get("_class_name") != kind.__name__:
        raise InputError(
            f"{folder / 'config.json'}: it describes a {config.get('_class_name')!r}, expected {kind.__name__!r}"
        )
    known_slots = config.pop(KNOWN_SLOTS, None)  # not diffusers' own
    try:
        with init_empty_weights(include_buffers=False):  # rotary tables are buffers outside the checkpoint
            model = kind.from_config(config)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{folder / 'config.json'}: cannot describe a {kind.__name__} ({error})") from error
    if known_slots is not None:
        model.register_to_config(**{KNOWN_SLOTS: known_slots})
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = read_checked(weight_files(folder), expected)
    precise = set(model._keep_in_fp32_modules or ())  # diffusers' own list: norms and time embedding
    for name, tensor in state.items():
        keep = not precise.isdisjoint(name.split("."))
        state[name] = tensor.to(device, torch.float32 if keep else dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.to(device).eval().requires_grad_(False)


def channels_innermost(model: nn.Module) -> None:
    """Lay a model's convolutions out channels last, in place: the layout that the fast engines of any device want."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def convolve_by_onednn(model: nn.Module) -> None:
    """Give a model's convolutions over space and time to oneDNN, in place, where a CPU takes them in float32.

    torch 2.13 gives it all bfloat16, but float32 only where batch x channels x slots x rows exceed 20,480
    (ATen/native/Convolution.cpp, ``use_mkldnn``): a chunk's slots stay below, in a loop that is several times slower.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and isinstance(module.padding, tuple) and module.padding_mode == "zeros":
            module._conv_forward = MethodType(_conv_forward, module)


def _conv_forward(conv: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)  # oneDNN's own call has no gradient
    if x.device.type != "cpu" or x.dtype != torch.float32 or learns:
        return nn.Conv3d._conv_forward(conv, x, weight, bias)
    sizes = list(conv.padding), list(conv.stride), list(conv.dilation)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *sizes, conv.groups, "none", [], "")


def lean_decoder(vae: "AutoencoderKLWan") -> "AutoencoderKLWan":
    """The VAE with a faster decoder, changed in place: channels last, and in bfloat16 on a CPU that multiplies it.

    The encoder stays as it is, so latents are the same; frames differ by 0.14 grey levels on average (57 dB).
    """
    channels_innermost(vae)
    on_cpu = vae.post_quant_conv.weight.device.type == "cpu"
    if on_cpu and multiplies_bfloat16():
        for part in (vae.post_quant_conv, vae.decoder):
            part.to(torch.bfloat16)
    return vae


# --- pixels, latents and the normalised latents that the transformer sees --------------------------------------------


def to_signal(frames: Tensor) -> Float[Tensor, "batch 3 frames height width"]:
    """uint8 frames [batch, frames, height, width, 3] to the VAE's range [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def to_frames(signal: Float[Tensor, "batch 3 frames height width"]) -> Tensor:
    """The inverse of :func:`to_signal`, rounded and clipped to uint8 [batch, frames, height, width, 3]."""
    return ((signal.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)


def normalise_latents(latents: Tensor, vae: "AutoencoderKLWan") -> Tensor:
    """Latents [batch, 16, slots, h, w] to zero mean and unit variance per channel, with the VAE's stored statistics."""
    mean, std = _statistics(latents, vae)
    return (latents - mean) / std


def denormalise_latents(latents: Tensor, vae: "AutoencoderKLWan") -> Tensor:
    """The inverse of :func:`normalise_latents`, of the same shape."""
    mean, std = _statistics(latents, vae)
    return latents * std + mean


def _statistics(latents: Tensor, vae: "AutoencoderKLWan") -> tuple[Tensor, Tensor]:
    mean, std = (
        latents.new_tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


# --- coding: whole clips at once, or chunk by chunk ------------------------------------------------------------------


def encode_clip(vae: "AutoencoderKLWan", signal: Tensor) -> Tensor:
    """Posterior mean and log-variance [batch, 32, slots, h, w] of clips [batch, 3, 4k + 1, height, width], in one pass.

    Equal to ``vae.encode``, which loops over slots with a cache: one pass needs fewer launches and more memory.
    """
    slot_count(signal.shape[2])
    encoder = vae.encoder
    x = encoder.conv_in(signal)
    for layer in encoder.down_blocks:
        x = _resample_clip(layer, x) if hasattr(layer, "resample") else layer(x)
    x = encoder.mid_block(x)
    return vae.quant_conv(encoder.conv_out(encoder.nonlinearity(encoder.norm_out(x))))


def decode_clip(vae: "AutoencoderKLWan", latents: Tensor) -> Tensor:
    """Clips [batch, 3, 4k + 1, height, width] in [-1, 1] of latents [batch, 16, slots, h, w], in one pass.

    Equal to ``vae.decode``; see :func:`encode_clip`.
    """
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(_unquantised(vae, latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = resnet(x)
        for layer in block.upsamplers or ():
            x = _resample_clip(layer, x)
    return decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x))).clamp(-1, 1)


def _unquantised(vae: "AutoencoderKLWan", latents: Tensor) -> Tensor:
    """The decoder's input, in the decoder's own precision."""
    return vae.post_quant_conv(latents.to(vae.post_quant_conv.weight.dtype))


def _resample_clip(layer: nn.Module, x: Tensor) -> Tensor:
    """A resampling layer over a whole clip: as with the cache, the first frame skips the temporal convolution."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        # the cache starts with zeros for the second slot, so it does not see the first
        pairs = layer.time_conv(x[:, :, 1:]).unflatten(1, (2, x.shape[1]))  # [b, 2, c, t - 1, h, w]
        x = torch.cat([x[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
    batch = x.shape[0]
    x = layer.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x


class ChunkDecoder:
    """Decodes latents slot by slot with the causal cache, so that a chunk never changes when the next one comes.

    ``state`` and ``restore`` rewind it: after a wrong draft, decode again from the last good slot.
    """

    def __init__(self, vae: "AutoencoderKLWan") -> None:
        self.vae = vae
        self._cache: list[Tensor | str | None] = [None] * vae._cached_conv_counts["decoder"]
        self.slots = 0

    @torch.no_grad()
    def push(self, latents: Float[Tensor, "batch 16 slots h w"]) -> Float[Tensor, "batch 3 frames height width"]:
        """Frames in [-1, 1] of the next slots: 1 for the clip's first slot, 4 for every other.

        Raises
        ------
        InputError: latents of another shape, or no slot.
        """
        if latents.ndim != 5 or latents.shape[1] != LATENT_CHANNELS or latents.shape[2] < 1:
            raise InputError(f"Wan decoder: latents {tuple(latents.shape)}, expected [batch, 16, slots >= 1, h, w]")
        pieces = []
        for slot in _unquantised(self.vae, latents).split(1, dim=2):
            pieces.append(self.vae.decoder(slot, feat_cache=self._cache, feat_idx=[0], first_chunk=self.slots == 0))
            self.slots += 1
        return torch.cat(pieces, dim=2).clamp(-1, 1)

    def state(self) -> tuple[int, list[Tensor | str | None]]:
        """The decoder's place; cheap, because cached tensors are replaced and never written to."""
        return self.slots, list(self._cache)

    def restore(self, state: tuple[int, list[Tensor | str | None]]) -> None:
        """Go back to a place that :meth:`state` gave."""
        self.slots, self._cache = state[0], list(state[1])
