"""The protocol of decoders, Wan's own behind it, and the small ones.

    decoder.start(first, picture)          # slot 0 is the person at rest; it is told and not shown
    frames = decoder.push(latents)         # uint8 [4 slots, height, width, 3]
    place = decoder.state()
    decoder.push(guessed)
    decoder.restore(place)                 # the guess was wrong: nothing of it is left

Whoever pushes in pieces of any size gets the frames of the whole.
"""

import copy
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.decoders.networks import COLOURS, Told
from specsync_lib.units import LATENT_CHANNELS, PIXELS_PER_LATENT

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


class Decoder(Protocol):
    """A stream of slots to frames. All latents are normalised ones (:func:`wan.normalise_latents`)."""

    row: str  # of rows.ROWS
    label: str  # "real-shape" where weights are random
    parameters: int

    def start(self, first: Float[Tensor, "16 h w"], picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Begin anew with the person at rest: slot 0 and the picture it stands for."""

    def push(self, latents: Float[Tensor, "16 slots h w"]) -> UInt8[Tensor, "frames height width 3"]:
        """The 4 frames of each of the next slots.

        Raises
        ------
        InputError: latents of another shape, or nothing was started.
        """

    def state(self) -> object:
        """This place in the stream; cheap, and what is pushed later never changes it."""

    def restore(self, state: object) -> None:
        """Go back to a place that :meth:`state` gave."""

    def fresh(self) -> "Decoder":
        """Another stream by the same weights, not started."""


class WanDecoder:
    """Wan's VAE decoder, slot by slot with its causal cache."""

    def __init__(self, vae: "AutoencoderKLWan", row: str = "wan", label: str = "measured") -> None:
        self._vae, self.row, self.label = vae, row, label
        self._stream: wan.ChunkDecoder | None = None
        self.parameters = sum(p.numel() for part in (vae.post_quant_conv, vae.decoder) for p in part.parameters())

    def start(self, first: Float[Tensor, "16 h w"], picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """See :class:`Decoder`; the picture is not looked at."""
        self._stream = wan.ChunkDecoder(self._vae)
        self.push(first[:, None])

    def push(self, latents: Float[Tensor, "16 slots h w"]) -> UInt8[Tensor, "frames height width 3"]:
        """See :class:`Decoder`."""
        _check(latents, self._stream is not None)
        return wan.to_frames(self._stream.push(wan.denormalise_latents(latents[None], self._vae)))[0]

    def state(self) -> object:
        """See :class:`Decoder`."""
        return self._stream.state()

    def restore(self, state: object) -> None:
        """See :class:`Decoder`."""
        self._stream.restore(state)

    def fresh(self) -> "WanDecoder":
        """See :class:`Decoder`."""
        return WanDecoder(self._vae, self.row, self.label)


class TinyDecoder:
    """A network of :mod:`networks`, in its own precision."""

    row, label = "tiny", "measured"

    def __init__(self, network: nn.Module) -> None:
        self._network, self._told, self._memory = network, None, ()
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    def start(self, first: Float[Tensor, "16 h w"], picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """See :class:`Decoder`.

        Raises
        ------
        InputError: the picture is not of the latents' size.
        """
        sides = tuple(PIXELS_PER_LATENT * side for side in first.shape[1:])
        if picture.shape != (*sides, COLOURS) or picture.dtype != np.uint8:
            raise InputError(
                f"decoder: a picture {picture.shape} of {picture.dtype}, expected uint8 {(*sides, COLOURS)} for "
                f"latents {tuple(first.shape)}"
            )
        signal = torch.tensor(picture, device=first.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        self._told = Told(first[None], signal)
        self._memory = self._network.blank(first[None])
        self.push(first[:, None])

    @torch.no_grad()
    def push(self, latents: Float[Tensor, "16 slots h w"]) -> UInt8[Tensor, "frames height width 3"]:
        """See :class:`Decoder`."""
        _check(latents, self._told is not None)
        signal, self._memory = self._network(latents.transpose(0, 1), self._memory, self._told)
        return ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def state(self) -> object:
        """See :class:`Decoder`; memories are replaced and never written to."""
        return self._told, self._memory

    def restore(self, state: object) -> None:
        """See :class:`Decoder`."""
        self._told, self._memory = state

    def fresh(self) -> "TinyDecoder":
        """See :class:`Decoder`."""
        other = copy.copy(self)
        other._told, other._memory = None, ()
        return other


def _check(latents: Tensor, started: bool) -> None:
    if latents.ndim != 4 or latents.shape[0] != LATENT_CHANNELS or latents.shape[1] < 1:
        raise InputError(f"decoder: latents {tuple(latents.shape)}, expected [{LATENT_CHANNELS}, slots >= 1, h, w]")
    if not started:
        raise InputError("decoder: no stream was started; call start with the person at rest")
