"""What a decoder costs: a chunk of 12 frames (or of 4 or 8), a row a decoder, precision, size and way to run it.

    python -m workbench.measure.decoders --out FILE [--regions 256] [--slots 3] [--decoder FILE] [--vae wan-mini]

On a CPU every call is eager; beside the time from call to result stand the processor time that it used, which a busy
machine changes little, and the machine's load. On CUDA a call is replayed from a graph, plain and compiled, after its
frames were compared with the eager ones. Rows: the VAE's own decoder (on a CPU; `workbench.measure.wan_chunk` has it on
CUDA), the small one in ``--decoder`` (label measured), and each size of workbench.train.decoder and the public TAEHV
shape with random weights (label real-shape: what they cost, not what they show).
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from specsync_lib import provenance
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.decoders.networks import Portrait, Taehv, Told
from specsync_lib.face.decoders.rows import load_network
from specsync_lib.files import write_json
from specsync_lib.units import LATENT_CHANNELS, PIXELS_PER_LATENT
from workbench.measure.shapes import captured
from workbench.train.decoder import SIZES

WARM_UPS = 3


def networks(vae_source: str, decoder: Path | None) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, label and network of every small decoder to time."""
    if decoder is not None:
        yield "tiny", "measured", load_network(decoder, wan.load_vae(vae_source))
    torch.manual_seed(0)
    for name, size in SIZES.items():
        if name != "toy":
            yield name, "real-shape", Portrait(size)
    yield "taehv", "real-shape", Taehv()


def chunk_call(network: nn.Module, slots: int, region_px: int, like: Tensor) -> Callable[[], Tensor]:
    """A chunk in the middle of a stream to uint8 frames, by a network on its device."""
    side, device = region_px // PIXELS_PER_LATENT, like.device
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(slots, LATENT_CHANNELS, side, side, generator=generator).to(device)
    rest = torch.rand(1, 3, region_px, region_px, generator=generator).to(device) * 2 - 1
    told = Told(z[:1], rest)
    memory = network.blank(told.latents)

    @torch.no_grad()
    def call() -> Tensor:
        signal, _ = network(z, memory, told)
        return ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    return call


def wan_call(vae_source: str, slots: int, region_px: int, device: torch.device, dtype: torch.dtype) -> Callable:
    """The same by the VAE's own decoder, chunk by chunk with its cache."""
    vae = wan.load_vae(vae_source, device=device)
    wan.channels_innermost(vae)
    for part in (vae.post_quant_conv, vae.decoder):
        part.to(dtype)
    side = region_px // PIXELS_PER_LATENT
    z = torch.randn(1, LATENT_CHANNELS, slots, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    stream = wan.ChunkDecoder(vae)
    stream.push(z[:, :, :1])
    place = stream.state()

    def call() -> Tensor:
        stream.restore(place)
        return wan.to_frames(stream.push(z))

    return call


def timed(call: Callable[[], Tensor], device: torch.device, rounds: int) -> dict[str, float]:
    """Median, p20 and p80 of a call in milliseconds, and on a CPU the median of its processor time."""
    wall, used = [], []
    for turn in range(WARM_UPS + rounds):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began, began_used = time.perf_counter(), time.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= WARM_UPS:
            wall.append(1e3 * (time.perf_counter() - began))
            used.append(1e3 * (time.process_time() - began_used))
    shares = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    low, median, high = torch.quantile(torch.tensor(wall, dtype=torch.float64), shares).tolist()
    found = {"median_ms": median, "p20_ms": low, "p80_ms": high, "n": rounds}
    if device.type == "cpu":
        found["processor_ms"] = torch.tensor(used, dtype=torch.float64).median().item()
        found["load"] = round(os.getloadavg()[0], 1)  # processes that wanted a core in the last minute
    return found


def rows_of(
    name: str, label: str, call: Callable[[], Tensor], facts: dict, device: torch.device, rounds: int
) -> Iterator[dict]:
    """One row a way to run a call; on CUDA only what agrees with the eager frames is timed."""
    row = {"decoder": name, "label": label} | facts
    if device.type == "cpu":
        yield row | {"mode": "eager"} | timed(call, device, rounds)
        return
    expected = call().float()
    for mode, run in (("graph", call), ("compiled graph", torch.compile(call, dynamic=False))):
        for _ in range(WARM_UPS):
            run()
        replay = captured(run, device)
        difference = (replay().float() - expected).abs().mean().item()
        agrees = difference < 1.0
        yield (
            row
            | {"mode": mode, "grey_difference": difference, "agrees": agrees}
            | (timed(replay, device, rounds) if agrees else {})
        )


def measure(
    out: Path,
    regions: list[int],
    slots: list[int],
    vae_source: str,
    decoder: Path | None,
    precisions: list[str],
    rounds: int,
    commit: str = "",
) -> dict:
    """Time everything; write and return the measurement, anew after each row."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 4096  # each network and shape is one; past the limit torch runs eager code
    facts = provenance.machine() | {"unit": "ms, host to result", "threads": torch.get_num_threads()}
    facts["command"] = shlex.join(["python", "-m", "workbench.measure.decoders", *sys.argv[1:]])
    content = {"provenance": facts | ({"commit": commit} if commit else {}), "rows": []}

    def keep(name: str, label: str, call: Callable, shape: dict) -> None:
        for row in rows_of(name, label, call, shape, device, rounds):
            content["rows"].append(row)
            print(json.dumps(row), flush=True)
            write_json(out, content)

    for precision in precisions:
        dtype = getattr(torch, precision)
        for region in regions:
            for count in slots:
                shape = {"region_px": region, "slots": count, "precision": precision}
                for name, label, network in networks(vae_source, decoder):
                    network = network.to(device, dtype).eval().requires_grad_(False)
                    wan.channels_innermost(network)
                    parameters = sum(parameter.numel() for parameter in network.parameters())
                    call = chunk_call(network, count, region, next(network.parameters()))
                    keep(name, label, call, shape | {"parameters": parameters})
                if device.type == "cpu":
                    keep("wan", "measured", wan_call(vae_source, count, region, device, dtype), shape)
    return content


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.decoders", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--regions", type=int, nargs="+", default=[256], help="sides in px, multiples of 16")
    parser.add_argument("--slots", type=int, nargs="+", choices=(1, 2, 3), default=[3])
    parser.add_argument("--vae", default="wan-mini")
    parser.add_argument("--decoder", type=Path, help="a trained small decoder of that VAE's latents")
    parser.add_argument("--precisions", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--commit", default="", help="recorded as the project's commit")
    given = parser.parse_args(arguments)
    try:
        odd = [side for side in given.regions if side < 32 or side % 16]
        if odd:
            raise InputError(f"decoders: region {odd[0]} px; give multiples of 16 from 32 on")
        measure(
            given.out,
            given.regions,
            given.slots,
            given.vae,
            given.decoder,
            given.precisions,
            given.rounds,
            given.commit,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
