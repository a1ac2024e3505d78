"""Wan 2.1 as a shape: transformer, VAE decoder, and the small decoder that can stand in the VAE's place."""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from specsync_lib.face.decoders.networks import Taehv, Told
from specsync_lib.units import FRAMES_PER_SLOT, LATENT_CHANNELS, PIXELS_PER_LATENT, VISEMES
from workbench.measure.shapes import Shapes, captured, fill

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

ConvMethod = Literal["3d", "2d"]
DecoderName = Literal["wan", "tiny"]


def build_transformer(
    shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> "WanTransformer3DModel":
    """Wan's diffusion transformer; the parts that diffusers keeps in float32 stay so."""
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    with init_empty_weights(include_buffers=False):
        transformer = WanTransformer3DModel(**shapes.transformer)
    fill(transformer, device, dtype, frozenset(transformer._keep_in_fp32_modules))
    return transformer


def build_vae(shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> "AutoencoderKLWan":
    """Wan's VAE, decoder only."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLWan

    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKLWan(**shapes.vae)
    del vae.encoder
    fill(vae, device, dtype)
    return vae


def build_tiny_decoder(shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Taehv:
    """The decoder of a TAEHV file for Wan 2.1 (9.8 M parameters at full size)."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        decoder = Taehv(shapes.tiny_decoder)
    fill(decoder, device, dtype)
    return decoder


class ShapeDenoiser:
    """Wan's transformer on the slots of a chunk: Euler steps of the flow from a noised draft.

    ``latents`` is the chunk's state. A corrected plan is a new condition between two steps.
    """

    def __init__(
        self,
        transformer: "WanTransformer3DModel",
        shapes: Shapes,
        height_px: int,
        width_px: int,
        *,
        steps: int,
        graphs: bool = True,
    ) -> None:
        like = transformer.proj_out.weight
        self.device, self.steps = like.device, steps
        size = (1, LATENT_CHANNELS, shapes.chunk.slots, height_px // PIXELS_PER_LATENT, width_px // PIXELS_PER_LATENT)
        self.latents = torch.zeros(size, device=like.device, dtype=like.dtype)
        self._noise, self._before = torch.randn_like(self.latents), torch.zeros_like(self.latents)
        text_dim = shapes.transformer["text_dim"]
        self._words = torch.randn(len(VISEMES), text_dim, device=like.device, dtype=like.dtype)
        self._condition = torch.randn(1, shapes.condition_tokens, text_dim, device=like.device, dtype=like.dtype)
        self._noise_levels = torch.linspace(1, 0, steps + 1, device=like.device)
        self._level = torch.ones(1, device=like.device)
        self._transformer = transformer
        self._run = captured(self._step, like.device) if graphs else self._step

    @torch.no_grad()
    def _step(self) -> Tensor:
        velocity = self._transformer(self.latents, self._level * 1000, self._condition, return_dict=False)[0]
        self.latents.sub_(velocity, alpha=1 / self.steps)
        return self.latents

    def condition(self, visemes: Int[Tensor, " frames"]) -> None:
        """The plan that the next steps follow: one token a frame at the head of the cross-attention's text."""
        self._condition[0, : len(visemes)] = self._words.index_select(0, visemes)

    def start(self, drafted: Float[Tensor, "slots latent"] | None) -> None:
        """Noise, moved halfway to drafted latents where there are any."""
        self.latents.copy_(self._noise)
        if drafted is not None:
            slots = drafted.view(-1, LATENT_CHANNELS, *self.latents.shape[3:]).transpose(0, 1)
            self.latents[0].lerp_(slots.to(self.latents.dtype), 0.5)

    def step(self, index: int) -> None:
        """Step ``index`` of ``steps``."""
        self._before.copy_(self.latents)
        self._level.copy_(self._noise_levels[index : index + 1])
        self._run()

    def undo(self) -> None:
        """Back before the last step."""
        self.latents.copy_(self._before)


def _stacked_time_conv(
    conv: nn.Conv3d, past: Float[Tensor, "1 channels 2 h w"], x: Float[Tensor, "1 channels frames h w"]
) -> Float[Tensor, "1 out frames h w"]:
    """A causal 3x3x3 convolution as one 3x3 convolution over three frames' channels: 2D engines are the better tuned.

    Channels lie innermost throughout, so that stacking copies whole lines and the result needs no other layout.
    """
    frames = torch.cat([past, x], dim=2)[0].permute(1, 2, 3, 0)  # [2 + t, h, w, c]
    stacked = torch.cat([frames[tap : tap + x.shape[2]] for tap in range(conv.kernel_size[0])], dim=-1)
    if not hasattr(conv, "stacked_weight"):  # [out, taps x channels, 3, 3]
        conv.stacked_weight = conv.weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    y = F.conv2d(stacked.permute(0, 3, 1, 2), conv.stacked_weight, conv.bias, padding=conv.kernel_size[1] // 2)
    return y.transpose(0, 1)[None]


def lean_convolutions(vae: "AutoencoderKLWan", method: ConvMethod) -> None:
    """Let the decoder's causal convolutions pad in space inside the convolution: no padded copy of every activation.

    Results are the same. "2d": those with taps in time and space run as two-dimensional ones over stacked frames.
    """

    def forward(conv: nn.Conv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        taps, side = conv.kernel_size[:2]
        if taps > 1:
            past = x.new_zeros(*x.shape[:2], taps - 1, *x.shape[3:]) if cache_x is None else cache_x
            missing = taps - 1 - past.shape[2]
            if missing:
                past = torch.cat([x.new_zeros(*x.shape[:2], missing, *x.shape[3:]), past], dim=2)
            if method == "2d" and side > 1:
                return _stacked_time_conv(conv, past, x)
            x = torch.cat([past, x], dim=2)
        return F.conv3d(x, conv.weight, conv.bias, padding=(0, side // 2, side // 2))

    for module in vae.modules():
        if type(module).__name__ == "WanCausalConv3d":
            module.forward = MethodType(forward, module)


class ShapeDecoder:
    """Wan's decoder on the slots of a chunk, with its causal cache in place, and the pasted picture.

    ``run`` gives a chunk's frames, or those of one of ``parts`` equal parts, in order, and the cache as it would be
    after them; ``commit`` makes that the cache. Decoding again before a commit starts from the same past, so a rejected
    chunk leaves no trace.
    """

    def __init__(
        self,
        network: nn.Module,
        shapes: Shapes,
        latents: Float[Tensor, "1 16 slots h w"],
        *,
        graphs: bool = True,
        compiled: bool = False,
        parts: int = 1,
    ) -> None:
        self._network, self.latents, self.parts = network, latents, parts
        self.device = latents.device
        height, width = shapes.picture
        self.picture_shape = (FRAMES_PER_SLOT * latents.shape[2], height, width, 3)
        self._background = torch.zeros(self.picture_shape, dtype=torch.uint8, device=latents.device)
        self._cache = self._warm_cache()
        self._decode = torch.compile(self._decode_plain, dynamic=False) if compiled else self._decode_plain
        self._places = [self._cache] * (parts + 1)  # the cache before every part, and after the last
        self._runs: list[Callable[[], tuple[Tensor, list[Tensor]]]] = []
        for part in range(parts):
            run = partial(self._run, part)
            self._runs.append(captured(run, latents.device) if graphs else run)
            self._runs[-1]()  # the next part's graph reads what this one's leaves behind

    def run(self, part: int = 0) -> tuple[UInt8[Tensor, "frames H W 3"], list[Tensor]]:
        """Decode a part whose predecessors have been decoded."""
        return self._runs[part]()

    @torch.no_grad()
    def _warm_cache(self) -> list[Tensor]:
        """The cache after the reference slot and one chunk."""
        vae = self._network
        cache: list[Tensor | str | None] = [None] * vae._cached_conv_counts["decoder"]
        slots = vae.post_quant_conv(self.latents)
        vae.decoder(slots[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
        vae.decoder(slots, feat_cache=cache, feat_idx=[0], first_chunk=False)
        return [entry.contiguous(memory_format=torch.channels_last_3d) for entry in cache if entry is not None]

    def _decode_plain(self, latents: Tensor, cache: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        signal, after = self._signal(latents, cache)
        return ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), after

    def _signal(self, latents: Tensor, cache: list[Tensor]) -> tuple[Float[Tensor, "frames h w 3"], list[Tensor]]:
        after = list(cache)
        signal = self._network.decoder(self._network.post_quant_conv(latents), feat_cache=after, feat_idx=[0])
        return signal[0].float().permute(1, 2, 3, 0), after

    @torch.no_grad()
    def _run(self, part: int) -> tuple[UInt8[Tensor, "frames H W 3"], list[Tensor]]:
        face, after = self._decode(self.latents.chunk(self.parts, dim=2)[part], self._places[part])
        self._places[part + 1] = after
        top, left = (
            (whole - part) // 2 for whole, part in zip(self._background.shape[1:3], face.shape[1:3], strict=True)
        )
        picture = self._background[: len(face)].clone()
        picture[:, top : top + face.shape[1], left : left + face.shape[2]] = face
        return picture, after

    def commit(self, after: list[Tensor]) -> None:
        """The past of the next chunk is this one."""
        torch._foreach_copy_(self._cache, after)


class ShapeTinyDecoder(ShapeDecoder):
    """The same calls with a small decoder in TAEHV's layout, whose blocks keep one frame each."""

    @torch.no_grad()
    def _warm_cache(self) -> list[Tensor]:
        return self._signal(self.latents, list(self._network.blank(self.latents[:, :, 0])))[1]

    def _signal(self, latents: Tensor, cache: list[Tensor]) -> tuple[Float[Tensor, "frames h w 3"], list[Tensor]]:
        first = latents[:, :, 0]
        signal, after = self._network(latents[0].transpose(0, 1), tuple(cache), Told(first, first))
        return signal, list(after)


DECODERS: dict[DecoderName, type[ShapeDecoder]] = {"wan": ShapeDecoder, "tiny": ShapeTinyDecoder}
