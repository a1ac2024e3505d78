"""A long recording through what hears it: level, log-mel, Whisper, alignment; seconds and memory of each.

    python -m workbench.measure.long_sound --minutes 5 15 60 --out data/measurements/long_sound.json

The committed clips are repeated with gaps between them, in a process of its own for each length. Whisper's words are
aligned as those of a person's own recording are; a stage that takes longer than ``--most-minutes`` is stopped, and the
file says so.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.provenance import machine
from specsync_lib.speech import log_mel, whisper_base
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.level import at_level
from specsync_lib.speech.truth import find_truth

MINUTES = (5, 15, 60)
MOST_MINUTES = 60.0
GAP_S = (0.5, 4.0)  # between two sentences
CLIPS = ("closures", "narrative", "vowels")


def talk(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """[n] floats, 16 kHz mono: the clips in random order with gaps, cut at so many seconds."""
    clips, parts, wanted = [load_audio(CLIPS_DIR / f"{name}.flac").samples for name in CLIPS], [], 0
    while wanted < seconds * units.SAMPLE_RATE_HZ:
        gap = np.zeros(int(rng.uniform(*GAP_S) * units.SAMPLE_RATE_HZ), np.float32)
        parts += [clips[rng.integers(len(clips))], gap]
        wanted += parts[-2].size + gap.size
    return np.concatenate(parts)[: round(seconds * units.SAMPLE_RATE_HZ)]


def hear(minutes: float, tell: Connection) -> None:
    """Each stage's name, seconds, processor seconds and the process' peak memory so far (MiB), as it is done."""
    samples = talk(60 * minutes, np.random.default_rng(0))

    def timed(name: str, work: Callable, count: Callable = len) -> object:
        began, spent = time.monotonic(), time.process_time()
        made = work()
        tell.send({
            "stage": name,
            "wall_s": round(time.monotonic() - began, 2),
            "processor_s": round(time.process_time() - spent, 2),
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
            "made": count(made),
        })  # fmt: skip
        return made

    level = timed("level", lambda: at_level(samples))
    timed("log-mel", lambda: log_mel.log_mel(level))
    model = whisper_base.load_whisper()
    heard = timed("whisper", lambda: whisper_base.hear(model, level), lambda one: f"{len(one.words)} words")
    timed("encoder features", lambda: whisper_base.encoder_features(model, level))
    timed("alignment", lambda: find_truth(level, "", heard), lambda one: one.absent or f"{len(one.phones)} phones")


def measure(minutes: float, most_s: float) -> dict:
    """The stages of one length; ``stopped`` names the one that took too long or failed."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=hear, args=(minutes, send))
    process.start()
    send.close()
    stages = []
    try:
        while receive.poll(most_s):
            stages.append(receive.recv())
            print(json.dumps({"minutes": minutes} | stages[-1]), flush=True)
        stopped = f"after {stages[-1]['stage'] if stages else 'the start'}: more than {most_s:g} s"
    except EOFError:
        process.join()
        stopped = "" if process.exitcode == 0 else f"exit code {process.exitcode}"
    process.kill()
    return {"minutes": minutes, "stages": stages, "stopped": stopped}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.long_sound", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write, after every length")
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES, help="lengths, the shortest first")
    parser.add_argument("--most-minutes", type=float, default=MOST_MINUTES, help="stop a stage after so long")
    options = parser.parse_args(arguments)
    if min(options.minutes) < 0.5:
        print(f"--minutes {min(options.minutes):g}: give at least 0.5", file=sys.stderr)
        return InputError.EXIT_CODE
    content = {
        "label": "measured",
        "what": "what hears a long recording: seconds and memory of each stage, by the recording's length",
        "command": f"python -m workbench.measure.long_sound --out {options.out} --minutes "
        + " ".join(f"{minutes:g}" for minutes in options.minutes),
        "recording": "data/clips, repeated with gaps of 0.5 to 4 s",
        "threads": torch.get_num_threads(),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "machine": machine(),
        "runs": [],
    }
    for minutes in options.minutes:
        content["runs"].append(measure(minutes, 60 * options.most_minutes))
        write_json(options.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
