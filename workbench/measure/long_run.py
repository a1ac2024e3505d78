"""A long recording through the whole system with its real models: the memory of ten minutes beside that of ten seconds.

    python -m workbench.measure.long_run --out data/measurements/long_run_cpu.json

A committed clip is repeated to each length; each length runs in a process of its own, so that its peak is its own. The
part file is read as a player would, early and late, and the video at the end. A length that takes longer than
``--most-minutes`` is stopped, and the file says how far it came.
"""

import argparse
import contextlib
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
MOST_MINUTES = 240.0
LOOK_EVERY = 25  # chunks, 10 s: how often the part file is read
CLIP = CLIPS_DIR / "narrative.flac"


def pictures_in(path: Path) -> int:
    """How many pictures a player finds in a video, finished or not."""
    with av.open(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


class _Enough(Exception):
    """The time for a length is up."""


def measure(seconds: float, rule: RunRule, most_s: float) -> dict:
    """Run the system over so many seconds of the repeated clip, in this process, for at most so long.

    Returns
    -------
    Seconds asked for and committed; peak resident memory of the process (MiB), and what it held after every tenth of
    the run; latencies of the first and of the last tenth of chunks (ms); the time expected beforehand and the time it
    took (s); pictures committed and found in the part file after a second of sound and at the last look; whether the
    video was finished.
    """
    samples = np.resize(load_audio(CLIP).samples, round(seconds * units.SAMPLE_RATE_HZ))
    frames, process = units.frame_count(len(samples)), psutil.Process()
    resident: list[float] = []
    latency_s: list[float] = []
    looks: list[dict[str, int]] = []
    system = load_system("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.mp4"
        done = 0

        def watch(commit: Commit) -> None:
            nonlocal done
            done += len(commit.tokens)
            resident.append(process.memory_info().rss / 2**20)
            latency_s.append(commit.latency_s)
            if commit.index % LOOK_EVERY == LOOK_EVERY // 8:
                looks.append({"committed": done, "in_part_file": pictures_in(path.with_suffix(".part.mp4"))})
            if time.monotonic() - began > most_s and done < frames:
                raise _Enough

        expected_s, began = system.expected_s(samples, rule), time.monotonic()
        with contextlib.suppress(_Enough):
            system.run(samples, rule, video=path, watch=watch)
        wall_s = time.monotonic() - began
        pictures = pictures_in(path if done == frames else path.with_suffix(".part.mp4"))
    system.head.close()
    tenth = max(1, len(resident) // 10)
    return {
        "seconds": seconds,
        "seconds_committed": round(done / units.VIDEO_FPS, 1),
        "video_finished": done == frames,
        "pictures": pictures,
        "part_file": [looks[0], looks[-1]],
        "expected_s": round(expected_s, 1),
        "wall_s": round(wall_s, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "rss_mib_by_tenth": [round(resident[k], 1) for k in np.linspace(0, len(resident) - 1, 11).round().astype(int)],
        "latency_ms_first_tenth": quantiles(1e3 * np.array(latency_s[:tenth])),
        "latency_ms_last_tenth": quantiles(1e3 * np.array(latency_s[-tenth:])),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.long_run", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=LENGTHS_S, help="lengths to run, the shortest first"
    )
    parser.add_argument("--most-minutes", type=float, default=MOST_MINUTES, help="stop a length after so long")
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
            content["runs"].append(alone.submit(measure, seconds, options.rule, 60 * options.most_minutes).result())
        print(json.dumps(content["runs"][-1]), flush=True)
    content["peak_ratio"] = round(content["runs"][-1]["peak_rss_mib"] / content["runs"][0]["peak_rss_mib"], 4)
    write_json(options.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
