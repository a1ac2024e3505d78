"""A measuring session on a device: what it writes after every group, its time limits, its timers."""

import faulthandler
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.measures.latency import spread
from workbench.measure.shapes import WARM_UPS, Shapes

LABEL = "real-shape"


SILENCE_S = 240  # a device that says nothing for so long hangs; the file has what came before


class Case(NamedTuple):
    """One of the cases that the pipelines are measured in; parts: calls that decode a chunk, 0: :func:`parts_for`."""

    name: str
    region: str
    steps: int
    chunks: int
    parts: int


@dataclass
class Session:
    """One command: its clock, its devices, and the file that it fills."""

    shapes: Shapes
    path: Path
    content: dict
    seconds: float
    repeats: int
    regions: dict[str, tuple[int, int]]
    started: float = field(default_factory=time.monotonic)

    def log(self, line: str) -> None:
        """Print a line; when none comes for long, every thread's stack is printed instead and the command ends."""
        faulthandler.dump_traceback_later(SILENCE_S, exit=True, file=sys.__stderr__)
        print(f"[{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def left(self) -> float:
        """Seconds until the command should be done."""
        return self.seconds - (time.monotonic() - self.started)

    def save(self) -> None:
        self.content["wall_s"] = round(time.monotonic() - self.started, 1)
        write_json(self.path, self.content)

    def row(self, stage: str, timing: dict[str, float], **facts: object) -> None:
        """Keep one stage's times and write the file."""
        self.content["stages"].append({"stage": stage, **facts, **timing})
        self.save()
        shown = ", ".join(str(value) for value in facts.values())
        self.log(f"{stage} ({shown}): {timing['median_ms']:.3f} ms, p99 {timing['p99_ms']:.3f}")


def synchronise(device: torch.device) -> None:
    """Wait for a device; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    call: Callable[[], object], device: torch.device, repeats: int, *, at_most_s: float = 8.0
) -> dict[str, float]:
    """From the host's call until the result is there, as a pipeline sees it; fewer repeats of a slow call."""
    for _ in range(WARM_UPS):
        call()
    synchronise(device)
    seen: list[float] = []
    end = time.perf_counter() + at_most_s
    while len(seen) < repeats and (len(seen) < 5 or time.perf_counter() < end):
        start = time.perf_counter()
        call()
        synchronise(device)
        seen.append(1e3 * (time.perf_counter() - start))
    return spread(seen)


def free(device: torch.device) -> None:
    """Give the memory of what nobody holds any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def devices(setup: str, tiny: bool) -> tuple[torch.device, torch.device]:
    """Where generation and reasoning run.

    Raises
    ------
    InputError: the setup needs more GPUs than there are.
    """
    if tiny:
        return torch.device("cpu"), torch.device("cpu")
    wanted = 2 if "x2" in setup else 1
    if torch.cuda.device_count() < wanted:
        raise InputError(f"setup {setup}: needs {wanted} GPUs, {torch.cuda.device_count()} found; --tiny needs none")
    return torch.device("cuda", 0), torch.device("cuda", wanted - 1)


def provenance(commit: str, arguments: Sequence[str], tiny: bool) -> dict[str, object]:
    """Where the numbers come from."""
    if tiny:
        from specsync_lib.provenance import machine

        facts: dict[str, object] = {"machine": machine()}
    else:
        from kernels import timing

        facts = timing.provenance(commit) | {"gpus": torch.cuda.device_count()}
    return facts | {"label": LABEL, "command": " ".join(["python", "-m", "workbench.measure.pipelines", *arguments])}
