"""A speaker cut off: another utterance begins within a chunk, and no frame of the one before comes after that.

One run after the other on the same models, as a conversation has it: the shipped draft, a toy judge and ears, a toy
face of Wan's geometry, with their threads in real time. Each utterance is cancelled at a random moment and the next one
begins at once. A frame is *stale* that is not, bit for bit, the frame that its utterance has when it is alone, or that
comes from a run after its end.
"""

import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch

from specsync_lib.judge.rules import EXACT
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Policy
from specsync_lib.units import CHUNK_SAMPLES
from workbench.measure.trials.judges import system, threads_end
from workbench.measure.trials.outcome import Outcome, batch_names, batch_of, require
from workbench.measure.trials.starts import bit_of, clips

BATCHES, EACH, SHORT_EACH = 20, 50, 4
UTTERANCES, CHUNKS = 4, 2
ALONE = Policy(late="rollback", deadline_s=600)  # frames of a generation under the final plan from the start


def names(short: bool) -> list[str]:
    """Conversations by their seed."""
    return batch_names(short, BATCHES, EACH, SHORT_EACH)


def pipeline_of(samples: np.ndarray) -> Pipeline:
    """A new stream on the shared models."""
    return Pipeline(pieces(samples, pace="fast"), system().models.stages(options=EXACT), ALONE, ahead=2)


@cache
def alone() -> tuple[list[np.ndarray], list[list[bytes]], float]:
    """The utterances, the frames of each when nobody interrupts, and how long one takes."""
    torch.set_num_threads(1)
    rng, sounds = np.random.default_rng(7), clips()
    utterances = [bit_of(sounds, CHUNKS * CHUNK_SAMPLES / 16_000, rng) for _ in range(UTTERANCES)]
    frames = []
    for samples in utterances:
        started = time.monotonic()
        report = pipeline_of(samples).run()
        require(report.ended == "complete", f"alone, it ended {report.ended}: {report.error}")
        frames.append([commit.frames.tobytes() for commit in report.commits])
    require(len({chunks[0] for chunks in frames}) == UTTERANCES, "two utterances look alike: nothing could be seen")
    return utterances, frames, time.monotonic() - started


def attempt(name: str, folder: Path) -> Outcome:
    """A conversation of so many interruptions."""
    seed, count = batch_of(name)
    utterances, expected, whole_s = alone()
    rng, outcome = np.random.default_rng(seed), Outcome(Counter(), facts={"stale frames": 0, "frames seen": 0})
    before: Pipeline | None = None
    for number in range(count):
        which = int(rng.integers(UTTERANCES))
        pipeline = pipeline_of(utterances[which])
        began = time.monotonic()
        cut = threading.Timer(float(rng.random()) * whole_s, pipeline.cancel)
        cut.start()
        commits = list(pipeline.commits())
        cut.cancel()
        late_s = time.monotonic() - began
        stale = sum(
            len(commit.frames)
            for commit in commits
            if commit.index >= len(expected[which]) or commit.frames.tobytes() != expected[which][commit.index]
        )
        stale += 0 if before is None else sum(len(one.frames) for one in before._conductor.out)
        outcome.facts["stale frames"] += stale
        outcome.facts["frames seen"] += sum(len(commit.frames) for commit in commits)
        ended = pipeline.report().ended
        if stale or ended not in ("cancelled", "complete") or not threads_end():
            outcome.lost.append(f"interruption {number}: {stale} stale frames, ended {ended} after {late_s:.1f} s")
        else:
            outcome.how[f"{ended}, no stale frame"] += 1
        before = pipeline
    return outcome
