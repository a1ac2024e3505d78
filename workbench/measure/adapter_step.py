"""What a step of the adapter's training costs beside Wan 2.1's 1.3B: the trainer's own step on random latents.

    python -m workbench.measure.adapter_step --out data/measurements/adapter_step_h200.json [--pixels 384] [--batch 8]

The transformer has its full shape and random weights (label real-shape), in bfloat16; latents are random as well. A
step is drawing a batch, forward, backward, the optimiser and the average. ``--tiny``: the same at a toy's size.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from specsync_lib import provenance
from specsync_lib.errors import InputError
from specsync_lib.face.generation import IDLE_FEATURES
from specsync_lib.files import write_json
from specsync_lib.units import FRAMES_PER_SLOT, LATENT_CHANNELS, PIXELS_PER_LATENT, SLOTS_PER_CHUNK, VISEMES
from workbench.measure.shape_wan import build_transformer
from workbench.measure.shapes import FULL, TINY, Shapes
from workbench.train.adapter import Learner, Options
from workbench.train.transformer import Latents

ROWS, SLOTS = 8, SLOTS_PER_CHUNK + 3  # of random latents
WARM_UPS = 3


def random_latents(pixels: int, device: torch.device) -> Latents:
    """Clips of noise with a random plan, in fp16 as they are stored."""
    side, frames = pixels // PIXELS_PER_LATENT, ROWS * (1 + FRAMES_PER_SLOT * (SLOTS - 1))
    begins = 1 + torch.arange(ROWS, device=device) * (frames // ROWS)
    return Latents(
        z=torch.randn(ROWS, SLOTS, LATENT_CHANNELS, side, side, device=device).half(),
        still=torch.randn(ROWS, LATENT_CHANNELS, side, side, device=device).half(),
        mouth=torch.rand(ROWS, SLOTS, side, side, device=device) < 0.1,
        begins=begins,
        ends=begins + frames // ROWS - 1,
        visemes=torch.randint(len(VISEMES), (frames,), device=device),
        openness=torch.rand(frames, device=device),
        idle=torch.randn(frames, IDLE_FEATURES, device=device),
        clip=torch.arange(ROWS, device=device),
    )


def measure(shapes: Shapes, pixels: int, options: Options, device: torch.device, steps: int) -> dict:
    """Times of so many steps in milliseconds, and the most memory that they took.

    Raises
    ------
    InputError : the GPU's memory does not hold it.
    """
    from accelerate import Accelerator

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    times = []
    try:
        transformer = build_transformer(shapes, device, dtype)
        data = random_latents(pixels, device)
        learner = Learner(transformer, data, data, options, Accelerator(cpu=device.type != "cuda"))
        for number in range(WARM_UPS + steps):
            began = time.perf_counter()
            learner.step().item()  # waits for the device
            if number >= WARM_UPS:
                times.append(1e3 * (time.perf_counter() - began))
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(
            f"adapter step: the GPU's memory does not hold {options.batch} chunks of {pixels} px; lower --batch, or "
            "give --checkpointed"
        ) from error
    p20, median, p80 = np.percentile(times, [20, 50, 80]).round(2).tolist()
    gib = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "transformer": shapes.name, "dtype": str(dtype).removeprefix("torch."), "pixels": pixels,
        "batch": options.batch, "checkpointed": options.checkpointed, "compiled": options.compiled,
        "trained_parameters": sum(parameter.numel() for parameter in learner.adapter.parameters()),
        "step_ms": {"median": median, "p20": p20, "p80": p80, "n": steps},
        "chunk_ms": round(median / options.batch, 2),
        "peak_gib": gib and round(gib, 1),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = ["python", "-m", "workbench.measure.adapter_step"]
    parser = argparse.ArgumentParser(prog=shlex.join(program), description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pixels", type=int, default=384)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--checkpointed", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a toy's size, to see that it runs")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = replace(Options(), batch=given.batch, checkpointed=given.checkpointed, compiled=given.compile)
    try:
        row = measure(TINY if given.tiny else FULL, given.pixels, options, device, given.steps)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    content = {"label": "real-shape", "command": shlex.join([*program, *arguments]), "step": row}
    write_json(given.out, content | {"machine": provenance.machine()})
    print(json.dumps(row, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
