"""The rows of decoders by name, and files of small ones, read strictly.

A file that :func:`save_network` wrote says in its header which network it holds and which latent space it reads: the
digest of the VAE's encoder and statistics (:func:`draft.latents.vae_sha256`). A TAEHV file says neither. It is known by
its tensors, and it is taken for Wan 2.1's latent space alone, whose public statistics a VAE must then have.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from specsync_lib.devices import multiplies_bfloat16
from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.decoders.networks import Portrait, Size, Taehv, taehv_encoder
from specsync_lib.face.decoders.streams import Decoder, TinyDecoder, WanDecoder
from specsync_lib.paths import TINY_DECODER
from specsync_lib.tensors import read_checked, read_header

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

ROWS = ("wan", "light", "tiny")
LIGHT_SHARE = 4  # a light decoder has this share of the channels
DEFAULT = "tiny"
NETWORK, SPACE = "network", "latent_space"  # keys of a file's header


def load_decoder(
    row: str, vae: "AutoencoderKLWan", path: str | Path = TINY_DECODER, dtype: torch.dtype | None = None
) -> Decoder:
    """A decoder of a VAE's latents, on the VAE's device.

    Parameters
    ----------
    row
        ``wan``: the VAE's own, in the precision that the VAE has. ``light``: one of its kind with a quarter of the
        channels and random weights, label "real-shape". ``tiny``: the network in a file.
    path
        Of a small one: ours for wan-mini, or a safetensors file in TAEHV's layout.
    dtype
        Of a small one; None: bfloat16 where the processor multiplies it, else float32.

    Raises
    ------
    InputError: no such row; the file is absent, damaged, of another layout or of another latent space.
    """
    if row == "wan":
        return WanDecoder(vae)
    if row == "light":
        return WanDecoder(light_vae(vae), row="light", label="real-shape")
    if row != "tiny":
        raise InputError(f"decoder is {row!r}: expected one of {', '.join(ROWS)}")
    device = vae.quant_conv.weight.device
    network = load_network(Path(path), vae).to(device, dtype or _quick_dtype(device))
    wan.channels_innermost(network)
    return TinyDecoder(network)


def light_vae(vae: "AutoencoderKLWan", seed: int = 0) -> "AutoencoderKLWan":
    """A VAE of the same latents, without its encoder, whose random decoder has a quarter of this one's channels.

    Raises
    ------
    InputError: this VAE's decoder has too few channels for that.
    """
    base = vae.config.decoder_base_dim or vae.config.base_dim
    if base % LIGHT_SHARE or base < 2 * LIGHT_SHARE:
        raise InputError(f"decoder is 'light': a decoder of base_dim {base} has no {LIGHT_SHARE}th; choose another row")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {name: value for name, value in vae.config.items() if not name.startswith("_")}
        light = type(vae)(**options | {"decoder_base_dim": base // LIGHT_SHARE}).eval().requires_grad_(False)
    light.encoder = light.quant_conv = None  # nobody asks it for latents
    own = vae.post_quant_conv.weight
    for part in (light.post_quant_conv, light.decoder):
        part.to(own.device, own.dtype)
    wan.convolve_by_onednn(light)
    wan.channels_innermost(light)
    return light


def _quick_dtype(device: torch.device) -> torch.dtype:
    native = multiplies_bfloat16() if device.type == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def load_network(path: Path, vae: "AutoencoderKLWan") -> nn.Module:
    """The network in a file, in float32 on the CPU, for the latents of a VAE.

    Raises
    ------
    InputError: see :func:`load_decoder`.
    """
    if not path.is_file():
        raise InputError(f"{path}: absent; train one with workbench.train.decoder or give the path of another")
    shapes, facts = read_header(path)
    if NETWORK in facts:
        try:
            network = Portrait(Size(**json.loads(facts[NETWORK])))
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: its header describes no decoder ({error}); copy it again") from error
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        state = read_checked([path], expected)
        if facts.get(SPACE) != vae_sha256(vae):
            raise InputError(
                f"{path}: made for another VAE's latents ({facts.get(SPACE, 'unsaid')[:12]}…, this one's digest is "
                f"{vae_sha256(vae)[:12]}…); train one with workbench.train.decoder"
            )
    else:
        network = Taehv()
        state = _taehv_state(path, network, shapes)
        _check_wan_space(path, vae)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network.eval().requires_grad_(False)


def _taehv_state(path: Path, network: Taehv, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The decoder's tensors of a whole TAEHV file, or of one that holds only its decoder."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    # a file may grow the first level in time too: its newest frame is the one that Wan's slots need
    first_grow = next(name for name, shape in expected.items() if shape == (network.WIDTHS[0], network.WIDTHS[0], 1, 1))
    rows = shapes.get(first_grow, (0,))[0]
    whole = expected | {first_grow: (rows, *expected[first_grow][1:])} if rows == 2 * network.WIDTHS[0] else expected
    if any(name.startswith("encoder.") for name in shapes):
        encoder = {f"encoder.{name}": tuple(tensor.shape) for name, tensor in taehv_encoder().state_dict().items()}
        whole = whole | encoder
    state = read_checked([path], whole)
    state[first_grow] = state[first_grow][-network.WIDTHS[0] :]
    return {name: state[name] for name in expected}


def _check_wan_space(path: Path, vae: "AutoencoderKLWan") -> None:
    """Refuse a VAE whose statistics are not Wan 2.1's public ones, which are diffusers' defaults."""
    import inspect

    defaults = inspect.signature(type(vae).__init__).parameters
    for name in ("latents_mean", "latents_std"):
        if list(getattr(vae.config, name)) != list(defaults[name].default):
            raise InputError(
                f"{path}: a TAEHV file reads Wan 2.1's latents, and this VAE has another {name}; give one for these"
            )


def save_network(path: Path, network: Portrait, space: str) -> None:
    """Write a network's weights as fp16, with what it is and the digest of the latents that it reads."""
    from safetensors.torch import save_file

    from specsync_lib.files import atomic_path

    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={NETWORK: json.dumps(asdict(network.size)), SPACE: space})
