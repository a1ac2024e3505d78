"""The VAE at work: clips to latents and back, in one pass (training) or as the suite's coder of stills and films."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from specsync_lib.face import wan

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

PAST_TAPS = 2  # a causal kernel of 3 sees two past frames


class Coder(Protocol):
    """Pictures to normalised latents and back: Wan's VAE, or a stand-in in tests."""

    def encode(self, frames: np.ndarray) -> Float[Tensor, "16 slots h w"]:
        """Of frames [4 k + 1, px, px, 3] uint8; on the CPU, float32."""

    def decode(self, latents: Float[Tensor, "batch 16 slots h w"]) -> np.ndarray:
        """Frames [batch, 4 k + 1, px, px, 3] uint8."""

    def still(self, picture: np.ndarray) -> tuple[Float[Tensor, "16 h w"], Float[Tensor, "16 h w"]]:
        """Of a resting face [px, px, 3]: z0, where later slots settle, and the reference slot's latents."""


class WanCoder:
    """Wan's VAE over whole clips as 2-D convolutions, in another precision if wanted.

    bfloat16, which the VAE is trained in, halves a CPU's time and moves pixels by less than a grey level.
    """

    def __init__(self, vae: "AutoencoderKLWan", dtype: torch.dtype = torch.float32) -> None:
        pass

        self.vae, self.device = vae, next(vae.parameters()).device
        self._folded = FoldedVae(vae, dtype, compiled=False)

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Float[Tensor, "16 slots h w"]:
        """See :class:`Coder`."""
        wan.slot_count(len(frames))
        signal = torch.from_numpy(frames)[None].to(self.device).float() / 127.5 - 1
        mean = self._folded.encode(signal)[0].permute(0, 4, 1, 2, 3)
        return wan.normalise_latents(mean, self.vae)[0].float().cpu()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch 16 slots h w"]) -> np.ndarray:
        """See :class:`Coder`; clip after clip, to hold one in memory."""
        clips = []
        for clip in latents.split(1):
            wide = wan.denormalise_latents(clip.to(self.device), self.vae)
            signal = self._folded.decode(wide.permute(0, 2, 3, 4, 1))
            clips.append(wan.to_frames(signal.permute(0, 4, 1, 2, 3)).cpu())
        return torch.cat(clips).numpy()

    def still(self, picture: np.ndarray) -> tuple[Float[Tensor, "16 h w"], Float[Tensor, "16 h w"]]:
        """See :class:`Coder`."""
        from specsync_lib.face import generation  # its plans need pandas, which a drafting machine may lack

        z0, first = generation.still_latents(self.vae, picture, self.device)
        return z0.cpu(), first.cpu()


class FoldedVae:
    """An ``AutoencoderKLWan`` run over whole clips as 2-D convolutions, for training; equal to diffusers' own result.

    Tensors inside are channels-last: [clips x frames, h, w, c].

    Parameters
    ----------
    vae
        Its parameters are used in place (gradients flow to them).
    dtype
        What activations and weights are computed in.
    compiled
        Compile :func:`prepare` for each shape (CUDA).
    """

    def __init__(self, vae: "AutoencoderKLWan", dtype: torch.dtype, compiled: bool) -> None:
        self.vae, self.dtype = vae, dtype
        self.prepare: Callable = torch.compile(prepare, dynamic=False) if compiled else prepare

    def encode(self, signal: Float[Tensor, "clips frames h w 3"]) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each [clips, slots, h / 8, w / 8, 16]."""
        frames, encoder = signal.shape[1], self.vae.encoder
        x = self._conv(encoder.conv_in, signal.to(self.dtype).flatten(0, 1), None, frames)
        for layer in encoder.down_blocks:
            if hasattr(layer, "resample"):
                x, frames = self._resample(layer, x, frames)
            else:
                x = self._residual(layer, x, frames)
        x = self._middle(encoder.mid_block, x, frames)
        x = self._conv(encoder.conv_out, x, encoder.norm_out.gamma, frames)
        mean, log_variance = self._conv(self.vae.quant_conv, x, None, 1).float().unflatten(0, (-1, frames)).chunk(2, -1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents: Float[Tensor, "clips slots h w 16"]) -> Float[Tensor, "clips frames height width 3"]:
        """Clips, not clamped (a clamped pixel would get no gradient)."""
        frames, decoder = latents.shape[1], self.vae.decoder
        x = self._conv(self.vae.post_quant_conv, latents.to(self.dtype).flatten(0, 1), None, 1)
        x = self._middle(decoder.mid_block, self._conv(decoder.conv_in, x, None, frames), frames)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = self._residual(resnet, x, frames)
            for layer in block.upsamplers or ():
                x, frames = self._resample(layer, x, frames)
        x = self._conv(decoder.conv_out, x, decoder.norm_out.gamma, frames)
        return x.float().unflatten(0, (-1, frames))

    def _conv(self, conv: nn.Conv3d, x: Tensor, gamma: Tensor | None, frames: int) -> Tensor:
        weight = conv.weight.to(self.dtype)  # [out, in, taps, kh, kw]
        if conv.kernel_size[0] == 1:
            x = x if gamma is None else self.prepare(x, gamma, 1)
            weight = weight[:, :, 0]
        elif frames == 1:
            x = self.prepare(x, gamma, 1)
            weight = weight[:, :, -1]  # the past is zero
        else:
            x = self.prepare(x, gamma, frames)
            weight = weight.transpose(1, 2).flatten(1, 2)  # [out, taps x in, kh, kw]
        return self._conv2d(x, weight, conv.bias, padding=(conv._padding[2], conv._padding[0]))

    def _conv2d(self, x: Tensor, weight: Tensor, bias: Tensor, **options) -> Tensor:
        weight = weight.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias.to(self.dtype), **options).permute(0, 2, 3, 1)

    def _residual(self, block: nn.Module, x: Tensor, frames: int) -> Tensor:
        h = self._conv(block.conv1, x, block.norm1.gamma, frames)
        h = self._conv(block.conv2, h, block.norm2.gamma, frames)
        shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else self._conv(block.conv_shortcut, x, None, 1)
        return h + shortcut

    def _middle(self, block: nn.Module, x: Tensor, frames: int) -> Tensor:
        x = self._residual(block.resnets[0], x, frames)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            x = self._residual(resnet, self._attend(attention, x), frames)
        return x

    def _attend(self, block: nn.Module, x: Tensor) -> Tensor:
        wide = x.float() if self.dtype in (torch.bfloat16, torch.float16) else x
        gamma = block.norm.gamma.flatten()
        normed = (F.normalize(wide, dim=-1) * (gamma.numel() ** 0.5 * gamma)).to(self.dtype)
        qkv = F.linear(normed, block.to_qkv.weight.flatten(1).to(self.dtype), block.to_qkv.bias.to(self.dtype))
        q, k, v = qkv.flatten(1, 2).unsqueeze(1).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1).unflatten(1, x.shape[1:3])
        return x + F.linear(out, block.proj.weight.flatten(1).to(self.dtype), block.proj.bias.to(self.dtype))

    def _resample(self, layer: nn.Module, x: Tensor, frames: int) -> tuple[Tensor, int]:
        if layer.mode == "upsample3d" and frames > 1:
            clips = x.unflatten(0, (-1, frames))
            taps = stack_past(clips[:, 1:].flatten(0, 1), frames - 1)
            pairs = self._over_time(layer.time_conv, taps).unflatten(0, (-1, frames - 1)).unflatten(-1, (2, -1))
            later = pairs.movedim(-2, 2).flatten(1, 2)  # [clips, 2 (frames - 1), h, w, c]
            frames = 2 * frames - 1
            x = torch.cat([clips[:, :1], later], dim=1).flatten(0, 1)
        conv = layer.resample[1]
        if layer.mode.startswith("up"):
            x = x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
            x = self._conv2d(x, conv.weight, conv.bias, padding=1)
        else:
            x = self._conv2d(F.pad(x, (0, 0, 0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
        if layer.mode == "downsample3d" and frames > 1:
            clips = x.unflatten(0, (-1, frames))
            taps = torch.cat([clips[:, :-2:2], clips[:, 1:-1:2], clips[:, 2::2]], dim=-1)
            frames = (frames + 1) // 2
            x = torch.cat([clips[:, :1], self._over_time(layer.time_conv, taps)], dim=1).flatten(0, 1)
        return x, frames

    def _over_time(self, conv: nn.Conv3d, taps: Tensor) -> Tensor:
        weight = conv.weight[..., 0, 0].to(self.dtype).transpose(1, 2).flatten(1)  # [out, taps x in]
        return F.linear(taps, weight, conv.bias.to(self.dtype))


def normalise_activate(x: Tensor, gamma: Tensor) -> Tensor:
    """Wan's RMS norm and SiLU over the last axis: silu(x / ||x|| x sqrt(C) x gamma), in at least float32."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return F.silu(F.normalize(wide, dim=-1) * (gamma.numel() ** 0.5 * gamma)).to(x.dtype)


def stack_past(x: Float[Tensor, "clips_frames h w c"], frames: int) -> Float[Tensor, "clips_frames h w 3c"]:
    """Each frame with its two past ones before it along the channels; zeros before the clip's start."""
    clips = x.unflatten(0, (-1, frames))
    padded = F.pad(clips, (0, 0, 0, 0, 0, 0, PAST_TAPS, 0))
    taps = [padded[:, tap : tap + frames] for tap in range(PAST_TAPS + 1)]
    return torch.cat(taps, dim=-1).flatten(0, 1)


def prepare(x: Tensor, gamma: Tensor | None, frames: int) -> Tensor:
    """What stands before a causal convolution: norm and activation (if ``gamma`` is given), then the stack of taps."""
    x = x if gamma is None else normalise_activate(x, gamma.flatten())
    return x if frames == 1 else stack_past(x, frames)
