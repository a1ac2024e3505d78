"""A long recording through the whole system with its real models: the memory of ten minutes beside that of ten seconds.

    python -m workbench.measure.long_run --out data/measurements/long_run_cpu.json

A committed clip is repeated to each length; each length runs in a process of its own, so that its peak is its own. Half
way the part file is read as a player would, and the video at the end.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import torch

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.judge.rules import RUN_RULES, RunRule
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.pipeline.stages import Commit
from specsync_lib.pipeline.system import DEFAULT_RULE, load_system, quantiles
from specsync_lib.provenance import machine
from specsync_lib.speech.audio import load_audio

LENGTHS_S = (10, 600)
CLIP = CLIPS_DIR / "narrative.flac"


def pictures_in(path: Path) -> int:
    """How many pictures a player finds in a video, finished or not."""
    with av.open(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def measure(seconds: float, rule: RunRule) -> dict:
    """Run the system over so many seconds of the repeated clip, in this process.

    Returns
    -------
    Peak resident memory of the process (MiB), what it held after every tenth of the run, latencies of the first and of
    the last tenth of chunks (ms), the time expected beforehand and the time it took (s), pictures in the part file half
    way, when so many frames had been committed, and in the video.
    """
    samples = np.resize(load_audio(CLIP).samples, round(seconds * units.SAMPLE_RATE_HZ))
    frames, process = units.frame_count(len(samples)), psutil.Process()
    chunks = -(-frames // units.FRAMES_PER_CHUNK)
    resident: list[float] = []
    half: dict[str, int] = {}
    system = load_system("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.mp4"

        def watch(commit: Commit) -> None:
            resident.append(process.memory_info().rss / 2**20)
            if commit.index == chunks // 2:
                committed = commit.index * units.FRAMES_PER_CHUNK + len(commit.tokens)
                half.update(committed=committed, in_part_file=pictures_in(path.with_suffix(".part.mp4")))

        expected_s, began = system.expected_s(samples, rule), time.monotonic()
        run = system.run(samples, rule, video=path, watch=watch)
        wall_s, in_video = time.monotonic() - began, pictures_in(path)
    system.head.close()
    own_ms, tenth = 1e3 * run.report.own_latency_s(), max(1, chunks // 10)
    return {
        "seconds": seconds,
        "frames": frames,
        "frames_in_video": in_video,
        "frames_half_way": half,
        "expected_s": round(expected_s, 1),
        "wall_s": round(wall_s, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "rss_mib_by_tenth": [round(resident[k], 1) for k in np.linspace(0, len(resident) - 1, 11).round().astype(int)],
        "latency_ms_first_tenth": quantiles(own_ms[:tenth]),
        "latency_ms_last_tenth": quantiles(own_ms[-tenth:]),
        "counts": run.report.counts,
        "av_end_difference_ms": float(run.video.av_end_difference_ms),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.long_run", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=LENGTHS_S, help="lengths to run, the shortest first"
    )
    parser.add_argument("--rule", choices=RUN_RULES, default=DEFAULT_RULE)
    options = parser.parse_args(arguments)
    if min(options.seconds) < 1:
        print(f"--seconds {min(options.seconds):g}: give at least 1", file=sys.stderr)
        return InputError.EXIT_CODE
    content = {
        "label": "measured",
        "what": "peak resident memory of the whole system, real models, by the length of the recording",
        "command": f"python -m workbench.measure.long_run --out {options.out} --rule {options.rule} --seconds "
        + " ".join(f"{seconds:g}" for seconds in options.seconds),
        "recording": f"data/clips/{CLIP.name}, repeated",
        "rule": options.rule,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "runs": [],
    }
    for seconds in options.seconds:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            content["runs"].append(alone.submit(measure, seconds, options.rule).result())
        print(json.dumps(content["runs"][-1]), flush=True)
    content["peak_ratio"] = round(content["runs"][-1]["peak_rss_mib"] / content["runs"][0]["peak_rss_mib"], 4)
    write_json(options.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
