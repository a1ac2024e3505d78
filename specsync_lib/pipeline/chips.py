"""The same pipelines on other chips, by roofline scaling of measured stages; all simulated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.pipeline.answers import ChunkPattern
from specsync_lib.pipeline.simulate import CHUNK_MS, LABEL, break_even_rate, simulate, summary_row
from specsync_lib.pipeline.stage_times import Setup, Spread, exactly
from specsync_lib.units import FRAMES_PER_CHUNK


@dataclass(frozen=True)
class Chip:
    """Peak figures of a chip as its vendor publishes them; dense, tensor cores, 32-bit sums. Vendors' GB are GiB."""

    name: str
    gb_per_s: float
    bf16_tflops: float
    fp8_tflops: float
    memory_gib: float
    source: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("H100 SXM", 3350, 989, 1979, 80, "NVIDIA H100 datasheet"),
        Chip("H200 SXM", 4800, 989, 1979, 141, "NVIDIA H200 datasheet"),
        Chip("B200 (HGX)", 8000, 2250, 4500, 180, "NVIDIA Blackwell (HGX B200) datasheet"),
        Chip("RTX PRO 6000 Blackwell (sm_120)", 1792, 503.8, 1007.6, 96, "NVIDIA RTX Blackwell PRO whitepaper"),
        Chip("RTX 5090", 1792, 209.5, 419, 32, "NVIDIA RTX Blackwell whitepaper"),
        Chip("RTX 4090", 1008, 165.2, 330.3, 24, "NVIDIA Ada whitepaper"),
    )
}
HERE = "H200 SXM"
REASONER_PARAMETERS = 70.55e9
REASONER_GB = {"bf16": 141.1, "fp8": 72.8}  # moved by a pass; layers in FP8, embedding and head in bf16
REASONER_GIB = {precision: gigabytes * 1e9 / 2**30 for precision, gigabytes in REASONER_GB.items()}
USABLE = 0.96  # of a chip's memory; the rest is the driver's, caches and activations
# Arithmetic of a chunk in TFLOP, counted by torch's FlopCounterMode on the models without storage (a test repeats it).
TFLOP = {
    "encoder": 2.274,
    "denoise": {"256px": 2.256, "384px": 5.189, "512px": 9.867, "720p": 49.69},
    "decode": {"256px": 6.646, "384px": 14.97, "512px": 26.64, "720p": 94.35},
}
TRANSFORMER_GB, ENCODER_GB = 2.84, 1.27
LAUNCH_BOUND_ABOVE = 12.0  # times the roofline's floor: neither memory nor arithmetic explains such a stage
Bound = Literal["memory", "compute", "launch"]


@dataclass(frozen=True)
class StageWork:
    """A stage's time on the reference chip, and what it moves and computes."""

    stage: str
    time_ms: float
    gigabytes: float
    tflop: float
    fp8: bool = False

    def floor_ms(self, chip: Chip) -> tuple[float, float]:
        """Least time by memory, and by arithmetic."""
        peak = chip.fp8_tflops if self.fp8 else chip.bf16_tflops
        return 1e3 * self.gigabytes / chip.gb_per_s, 1e3 * self.tflop / peak

    def bound(self, chip: Chip) -> Bound:
        """What holds the stage back on the chip where it was timed."""
        memory, compute = self.floor_ms(chip)
        if self.time_ms > LAUNCH_BOUND_ABOVE * max(memory, compute):
            return "launch"
        return "memory" if memory >= compute else "compute"

    def on(self, here: Chip, there: Chip) -> float:
        """Its time on another chip: scaled by what holds it back; launches cost what they cost."""
        memory, compute = zip(self.floor_ms(here), self.floor_ms(there), strict=True)
        match self.bound(here):
            case "memory":
                return self.time_ms * memory[1] / memory[0]
            case "compute":
                return self.time_ms * compute[1] / compute[0]
            case _:
                return self.time_ms


def stage_works(setup: Setup, region: str, precision: Literal["bf16", "fp8"] = "bf16") -> dict[str, StageWork]:
    """The setup's stages with their work; in FP8 the reasoner's passes move half the bytes in half the time."""
    moved, fp8 = REASONER_GB[precision], precision == "fp8"
    share = moved / REASONER_GB["bf16"]
    tflop = 2 * REASONER_PARAMETERS / 1e12
    encoder = StageWork("encoder", setup.guess.median_ms, ENCODER_GB, TFLOP["encoder"])
    score = setup.verify_ms(2).median_ms - setup.verify_ms(1).median_ms
    return {
        "draft": StageWork("draft", setup.draft.median_ms, 0.0, 0.0),
        "encoder": encoder,
        "token": StageWork("token", share * setup.token.median_ms, moved, tflop, fp8),
        "verify": StageWork("verify", share * score, moved, FRAMES_PER_CHUNK * tflop, fp8),
        "step": StageWork("step", setup.step.median_ms, TRANSFORMER_GB, TFLOP["denoise"][region]),
        "render": StageWork("render", setup.render.median_ms, 0.0, TFLOP["decode"][region]),
    }


def chips_for_reasoner(chip: Chip, precision: Literal["bf16", "fp8"]) -> int:
    """How many of a chip it takes to hold the reasoner."""
    return max(1, ceil(REASONER_GIB[precision] / (USABLE * chip.memory_gib)))


def on_chip(setup: Setup, region: str, chip: str, precision: Literal["bf16", "fp8"]) -> tuple[Setup, int]:
    """The setup on other chips, and how many of them: one for generation and as many as the reasoner's weights need.

    Where the reasoner takes several chips its passes are split over them without any loss, so the prediction flatters
    that chip.

    Raises
    ------
    InputError: an unknown chip.
    """
    if chip not in CHIPS:
        raise InputError(f"chip {chip!r}: known are {', '.join(CHIPS)}")
    here, there = CHIPS[HERE], CHIPS[chip]
    works = stage_works(setup, region, precision)
    scaled = {name: work.on(here, there) for name, work in works.items()}
    holders = chips_for_reasoner(there, precision)
    token = scaled["token"] / holders
    slower = token / setup.token.median_ms
    pass_slower = scaled["verify"] / holders / (setup.verify_ms(2).median_ms - setup.verify_ms(1).median_ms)

    def judged(alone: Spread, factor: float) -> Spread:
        """The encoder, and behind it passes of the reasoner."""
        return exactly(scaled["encoder"] + factor * (alone.median_ms - works["encoder"].time_ms))

    return replace(
        setup,
        name=f"{chip}, {precision}",
        label=LABEL,
        draft=exactly(scaled["draft"]),
        plan=judged(setup.plan, slower),
        token=exactly(token),
        verify={passes: judged(setup.verify_ms(passes), pass_slower) for passes in (1, 2)},
        guess=exactly(scaled["encoder"]),
        step=exactly(scaled["step"]),
        render=exactly(scaled["render"]),
        last_step=None,
        last_render=None,
        stretch=1.0,
    ), holders + 1


def chip_table(
    setup: Setup, region: str, pattern: Sequence[ChunkPattern], rng: np.random.Generator, *, chunks: int = 100
) -> pd.DataFrame:
    """Both pipelines on every chip, in the precision that takes fewest of them; all simulated."""
    rows = []
    for name, chip in CHIPS.items():
        precision = min(("bf16", "fp8"), key=lambda one: (chips_for_reasoner(chip, one), one != "bf16"))
        there, chips = on_chip(setup, region, name, precision)
        serial = summary_row(simulate(there, "serial", pattern, rng, chunks=chunks))
        speculative = summary_row(simulate(there, "speculative", pattern, rng, chunks=chunks))
        rows.append({
            "chip": name, "chips": chips, "reasoner": precision, "region": region,
            "serial_p50_ms": serial["p50_ms"], "speculative_p50_ms": speculative["p50_ms"],
            "speculative_p99_ms": speculative["p99_ms"],
            "reduction": 1 - speculative["p50_ms"] / serial["p50_ms"],
            "real_time": speculative["p99_ms"] <= CHUNK_MS,
            "break_even_rate": break_even_rate(there), "source": chip.source,
        })  # fmt: skip
    return pd.DataFrame(rows).assign(label=LABEL)


def bound_table(setup: Setup, region: str) -> pd.DataFrame:
    """What holds every stage back on the chip where it was timed, and the least time the chip's peaks allow."""
    rows = []
    for work in stage_works(setup, region).values():
        memory, compute = work.floor_ms(CHIPS[HERE])
        rows.append((work.stage, work.time_ms, memory, compute, work.bound(CHIPS[HERE])))
    return pd.DataFrame(rows, columns=["stage", "time_ms", "memory_floor_ms", "compute_floor_ms", "bound"])
