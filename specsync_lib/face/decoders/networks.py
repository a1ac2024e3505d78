"""Small decoders of 2-D convolutions: the past is one frame that each block keeps of its own input.

Inside, tensors are [frames x clips, channels, h, w], channels last, *frames outermost*: the frame before each one is
then the same tensor shifted by the number of clips, with the block's memory in front, whatever the number of slots.

:class:`Portrait` is wan-mini's. It also looks at the picture of the person at rest, which slot 0 stands for and which
whoever decodes knows: the latents say where each place of it has moved (a flow, as fine as the blocks of a frame: lips
are thinner than a latent), what they add and how far the moved picture is to be trusted; pores, strands and cloth come
from the picture. Blocks work at 1/8 and 1/4 of the frame's side; a pixel shuffle lies between them, another one after
them, and no convolution sees full resolution.

:class:`Taehv` has the layout of TAEHV's decoder for Wan 2.1, so that such a file loads.

Source
------
Boer Bohan, "Tiny AutoEncoder for Hunyuan Video" (TAEHV), 2025, for blocks with a memory of one frame; Shi et al.,
"Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural network", 2016;
Siarohin et al., "First order motion model for image animation", 2019, for a picture that is moved by a flow.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from specsync_lib.units import FRAMES_PER_SLOT, LATENT_CHANNELS

COLOURS = 3
Memory = tuple[Tensor, ...]  # what each block keeps: the last frame [clips, channels, h, w] that came in


def conv(inputs: int, outputs: int, side: int = 3, **options) -> nn.Conv2d:
    """A convolution that keeps the picture's size."""
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, **options)


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before it, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts = (conv(2 * channels, channels), conv(channels, channels), conv(channels, channels))
        self.conv = nn.Sequential(parts[0], nn.ReLU(), parts[1], nn.ReLU(), parts[2])
        self.channels = channels

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Of frames [frames x clips, c, h, w] and the frame [clips, c, h, w] before them; and what to keep of them."""
        before = torch.cat([past, x[: -len(past)]])
        return F.relu(self.conv(torch.cat([x, before], dim=1)) + x), x[-len(past) :]


def unfolded(x: Tensor, clips: int, frames: int, side: int) -> Tensor:
    """Channels as frames and as side x side pixels: [n, frames x side x side x c, h, w] to [n x frames, c, ...]."""
    n, channels, h, w = x.shape
    c = channels // (frames * side * side)
    x = x.permute(0, 2, 3, 1).reshape(n // clips, clips, h, w, frames, side, side, c).permute(0, 4, 1, 2, 5, 3, 6, 7)
    return x.reshape(n * frames, h * side, w * side, c).permute(0, 3, 1, 2)


def folded(x: Float[Tensor, "n c height width"], side: int) -> Float[Tensor, "n sidesidec h w"]:
    """The inverse of :func:`unfolded` within a picture: squares of pixels as channels."""
    n, c, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, height // side, side, width // side, side, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // side, width // side, side * side * c).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Size:
    """Channels and blocks at 1/8 of the side (once a slot) and at 1/4 (once a frame); pictured: whether it looks at
    the picture at rest."""

    slot_width: int = 128
    slot_blocks: int = 2
    frame_width: int = 64
    frame_blocks: int = 2
    pictured: bool = True


@dataclass(frozen=True)
class Told:
    """What a whole stream is told: the latents and the picture of the person at rest."""

    latents: Float[Tensor, "clips 16 h w"]
    picture: Float[Tensor, "clips 3 height width"]


class Portrait(nn.Module):
    """wan-mini's small decoder: latents and the picture at rest to frames."""

    GROWN = 48  # channels between the two pixel shuffles; with a moved picture's 48 a multiple of 32, as engines like
    REACH = 0.1  # a flow of 1 is this share of half the frame

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        cell = 4 * 4  # pixels that one place at 1/4 of the side paints
        self.stem = conv(2 * LATENT_CHANNELS, size.slot_width)
        self.slot_blocks = nn.ModuleList(MemoryBlock(size.slot_width) for _ in range(size.slot_blocks))
        self.grow = conv(size.slot_width, FRAMES_PER_SLOT * 2 * 2 * self.GROWN, side=1)
        self.merge = conv(self.GROWN + cell * COLOURS * size.pictured, size.frame_width)
        self.frame_blocks = nn.ModuleList(MemoryBlock(size.frame_width) for _ in range(size.frame_blocks))
        self.paint = conv(size.frame_width, cell * COLOURS + cell * size.pictured)
        if size.pictured:
            self.flow = conv(self.GROWN, 2)
            nn.init.zeros_(self.flow.weight)
            nn.init.zeros_(self.flow.bias)
            nn.init.constant_(self.paint.bias[cell * COLOURS :], 2.0)  # at first the picture is believed

    def blank(self, latents: Float[Tensor, "clips 16 h w"]) -> Memory:
        """The memory before the first slot."""
        sides = [(block, 1) for block in self.slot_blocks] + [(block, 2) for block in self.frame_blocks]
        return _blank(sides, latents, self.stem.weight.dtype)

    def forward(
        self, latents: Float[Tensor, "slotsclips 16 h w"], memory: Memory, told: Told
    ) -> tuple[Float[Tensor, "framesclips height width 3"], Memory]:
        """Frames in [-1, 1], not clamped, and the memory behind them."""
        clips, dtype, kept = len(told.latents), self.stem.weight.dtype, []
        rest = told.latents.repeat(len(latents) // clips, 1, 1, 1)
        x = torch.cat([latents, rest], dim=1).to(dtype, memory_format=torch.channels_last)
        x = F.relu(self.stem(x))
        for block, past in zip(self.slot_blocks, memory, strict=False):
            x, last = block(x, past)
            kept.append(last)
        seen = F.relu(unfolded(self.grow(x), clips, FRAMES_PER_SLOT, 2))
        if self.size.pictured:
            moved = self._moved(self.flow(seen), told.picture)
            seen = torch.cat([seen, moved.to(seen.dtype)], dim=1)
        x = F.relu(self.merge(seen))
        for block, past in zip(self.frame_blocks, memory[len(kept) :], strict=True):
            x, last = block(x, past)
            kept.append(last)
        signal = self.paint(x).float()
        if self.size.pictured:
            signal, trust = signal.split([moved.shape[1], moved.shape[1] // COLOURS], dim=1)
            signal = signal + moved * trust.contiguous().sigmoid().repeat_interleave(COLOURS, dim=1)
        return unfolded(signal, clips, 1, 4).permute(0, 2, 3, 1), tuple(kept)

    def _moved(self, flow: Tensor, picture: Tensor) -> Float[Tensor, "framesclips 48 2h 2w"]:
        """The picture where the flow says that each place comes from, in float32: bfloat16 cannot name a pixel."""
        clips, height, width = len(picture), *picture.shape[2:]
        rows, columns = ((torch.arange(side, device=flow.device) * 2 + 1) / side - 1 for side in (height, width))
        here = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1)
        flow = F.interpolate(flow.float().contiguous(), (height, width), mode="bilinear", align_corners=False)
        there = here + self.REACH * flow.permute(0, 2, 3, 1)
        source = picture.float().repeat(len(flow) // clips, 1, 1, 1)
        return folded(F.grid_sample(source, there, padding_mode="border", align_corners=False), 4)


def _blank(sides: list[tuple[MemoryBlock, int]], latents: Tensor, dtype: torch.dtype) -> Memory:
    clips, _, h, w = latents.shape
    return tuple(
        torch.zeros(clips, block.channels, h * side, w * side, dtype=dtype, device=latents.device).to(
            memory_format=torch.channels_last
        )
        for block, side in sides
    )


# --- TAEHV's layout ---------------------------------------------------------------------------------------------------


class SoftClamp(nn.Module):
    """Keeps latents within 3 smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Grow(nn.Module):
    """One frame to several."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels * frames, side=1, bias=False)
        self.frames = frames

    def forward(self, x: Tensor, clips: int) -> Tensor:
        return unfolded(self.conv(x), clips, self.frames, 1)


class Taehv(nn.Module):
    """The decoder of a TAEHV file for Wan 2.1: 9.8 M parameters with its own widths."""

    WIDTHS = (256, 128, 64, 64)

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        layers = [SoftClamp(), conv(LATENT_CHANNELS, widths[0]), nn.ReLU()]
        for width, wider, frames in zip(widths, widths[1:], (1, 2, 2), strict=False):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), Grow(width, frames), conv(width, wider, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), conv(widths[-1], COLOURS))

    def blank(self, latents: Float[Tensor, "clips 16 h w"]) -> Memory:
        """The memory before the first slot."""
        blocks = [layer for layer in self.decoder if isinstance(layer, MemoryBlock)]
        return _blank([(block, 2 ** (k // 3)) for k, block in enumerate(blocks)], latents, self.decoder[1].weight.dtype)

    def forward(
        self, latents: Float[Tensor, "slotsclips 16 h w"], memory: Memory, told: Told
    ) -> tuple[Float[Tensor, "framesclips height width 3"], Memory]:
        """Frames in [-1, 1], not clamped, and the memory behind them."""
        x = latents.to(self.decoder[1].weight.dtype, memory_format=torch.channels_last)
        kept, clips = [], len(told.latents)
        for layer in self.decoder:
            if isinstance(layer, MemoryBlock):
                x, last = layer(x, memory[len(kept)])
                kept.append(last)
            else:
                x = layer(x, clips) if isinstance(layer, Grow) else layer(x)
        return 2 * x.permute(0, 2, 3, 1).float() - 1, tuple(kept)


def taehv_encoder() -> nn.Sequential:
    """The other half of such a file, for its names and shapes alone."""

    def pool(frames: int) -> nn.ModuleDict:
        return nn.ModuleDict({"conv": conv(64 * frames, 64, side=1, bias=False)})

    layers: list[nn.Module] = [conv(COLOURS, 64), nn.ReLU()]
    for frames in (2, 2, 1):
        layers += [pool(frames), conv(64, 64, stride=2, bias=False), *(MemoryBlock(64) for _ in range(3))]
    return nn.Sequential(*layers, conv(64, LATENT_CHANNELS))
