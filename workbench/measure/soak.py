"""A long run of the pipeline with its threads: does its memory grow, does it get slower, does it stand still?

    python -m workbench.measure.soak --out soak.json

The stages are synthetic, a millisecond each in real time, so that 10,000 chunks (67 minutes of sound) take a minute or
two and what is measured is the pipeline's own. Every third draft is rejected, and now and then the judge or the
generator fails as it would in life.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.pipeline.clock import RealClock
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.sound import AudioPiece
from specsync_lib.pipeline.stages import Policy, Stages
from specsync_lib.pipeline.synthetic import StageTimes, SyntheticGenerator, SyntheticTarget, synthetic_stages
from specsync_lib.provenance import machine

CHUNKS = 10_000
PIECE_SAMPLES = 1600  # 100 ms
HISTORY = 1_000  # entries of log and trace kept
STAGE_S = 0.001
WARM_SHARE = 0.1  # memory is compared from here on: allocators and caches have settled
FAILS_EVERY = 97  # a generation in so many runs out of memory and is begun again


class FailingGenerator(SyntheticGenerator):
    """Raises at every so manieth step."""

    _steps = 0

    def step(self, work, plan) -> None:
        """One step, or the failure."""
        self._steps += 1
        if self._steps % FAILS_EVERY == 0:
            raise MemoryError("out of memory, as a test")
        super().step(work, plan)


def soak(chunks: int) -> dict:
    """Run so many chunks and measure.

    Returns
    -------
    Latencies of the first and the last tenth (p50, p99, in ms), their ratio, the processor's time a chunk (which other
    work on the machine does not change as it does latencies), resident memory at the end of the warm-up
    and at the end, its growth, chunks committed, whether the plan was the target's, and the counts of the run.
    """
    clock, target = RealClock(), SyntheticTarget(1)
    times = StageTimes(verify_s=STAGE_S, step_s=STAGE_S, render_s=STAGE_S, steps=2, render_parts=1)
    made = synthetic_stages(clock, times, target=target, rejected=lambda index: (index % 12,) if index % 3 == 0 else ())
    stages = Stages(made.drafter, made.judge, FailingGenerator(clock, times))
    silence = np.zeros(PIECE_SAMPLES, np.float32)
    total = chunks * units.SAMPLE_RATE_HZ * units.FRAMES_PER_CHUNK // units.VIDEO_FPS
    sound = (AudioPiece(first, silence) for first in range(0, total, PIECE_SAMPLES))
    pipeline = Pipeline(sound, stages, Policy(late="rollback", deadline_s=60), ahead=1, history=HISTORY)
    latency_s, resident, cpu_s = np.full(chunks, np.nan), np.zeros(chunks, np.int64), np.zeros(chunks)
    expected, right = iter(target.plan([units.FRAMES_PER_CHUNK] * chunks)), 0
    process = psutil.Process()
    began = time.monotonic()
    for commit in pipeline.commits():
        latency_s[commit.index] = commit.latency_s
        resident[commit.index] = process.memory_info().rss
        cpu_s[commit.index] = time.process_time()
        right += commit.tokens == next(expected)
    report = pipeline.report()
    tenth = chunks // 10
    first, last = latency_s[:tenth], latency_s[-tenth:]
    warm, end = resident[int(WARM_SHARE * chunks)], resident[-1]
    return {
        "chunks": int(np.isfinite(latency_s).sum()),
        "ended": report.ended,
        "error": report.error,
        "plan_is_the_targets": right == chunks,
        "wall_s": round(time.monotonic() - began, 1),
        "first_tenth_p50_ms": _percentile_ms(first, 50),
        "last_tenth_p50_ms": _percentile_ms(last, 50),
        "first_tenth_p99_ms": _percentile_ms(first, 99),
        "last_tenth_p99_ms": _percentile_ms(last, 99),
        "first_tenth_cpu_ms_per_chunk": round(1000 * float(np.diff(cpu_s[:tenth]).mean()), 4),
        "last_tenth_cpu_ms_per_chunk": round(1000 * float(np.diff(cpu_s[-tenth:]).mean()), 4),
        "p99_ratio": round(float(np.percentile(last, 99) / np.percentile(first, 99)), 4),
        "rss_warm_mib": round(warm / 2**20, 2),
        "rss_end_mib": round(end / 2**20, 2),
        "rss_growth": round(float(end / warm - 1), 5),
        "counts": report.counts,
    }


def _percentile_ms(seconds: np.ndarray, percent: float) -> float:
    return round(1000 * float(np.percentile(seconds, percent)), 3)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    options = parser.parse_args(arguments)
    if options.chunks < 100:
        print(f"--chunks is {options.chunks}: give at least 100", file=sys.stderr)
        return InputError.EXIT_CODE
    result = soak(options.chunks)
    content = {
        "label": "measured",
        "what": "the pipeline's own memory and latency over a long run, with threads in real time",
        "stages": f"synthetic, {1000 * STAGE_S:g} ms each; every third draft rejected; 1 step in {FAILS_EVERY} fails",
        "machine": machine(),
    }
    write_text(options.out, json.dumps(content | result, indent=1) + "\n")
    for name in ("ended", "chunks", "wall_s", "first_tenth_p99_ms", "last_tenth_p99_ms", "p99_ratio", "rss_growth"):
        print(f"{name}: {result[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
