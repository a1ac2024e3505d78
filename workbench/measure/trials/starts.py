"""Speech that starts after silence: its first frames come in time, and are those of the whole recording.

A stream of silences (0.2 to 1.6 s: zeros, hiss or room) and bits of speech (0.3 to 0.9 s, cut out of the shipped clips
at random) at the pace of speech in virtual time: the shipped draft and its log-mel as they run, an agreeing judge and a
generator with stage times of full scale. A start is lost where a frame of its first chunk is not the frame that the
draft gives for the whole recording, or where it comes later than steady speech's p99 and one chunk.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from specsync_lib import units
from specsync_lib.draft.front import front_plan, load_draft_front
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.pipeline.clock import VirtualClock
from specsync_lib.pipeline.models import SpeechDrafter
from specsync_lib.pipeline.run import Pipeline
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Policy, Stages, Verdict
from specsync_lib.pipeline.synthetic import StageTimes, SyntheticGenerator
from specsync_lib.speech.audio import load_audio
from workbench.measure.trials.outcome import Outcome, batch_names, batch_of, require

STREAMS, EACH, SHORT_EACH = 100, 100, 10
RATE_HZ, CHUNK_S = units.SAMPLE_RATE_HZ, units.FRAMES_PER_CHUNK / units.VIDEO_FPS
TIMES = StageTimes(begin_s=0.002, step_s=0.02, render_s=0.09, steps=2)  # of full scale, as in docs/limits.md
VERIFY_S = 0.05
RIGHT_AND_IN_TIME = "its frames are the whole recording's, in time"
SETTLED_S = 0.3  # after the end of speech a mouth should rest


def names(short: bool) -> list[str]:
    """Streams by their seed."""
    return batch_names(short, STREAMS, EACH, SHORT_EACH)


def clips() -> list[np.ndarray]:
    """The shipped clips."""
    return [load_audio(path).samples for path in sorted(CLIPS_DIR.glob("*.flac"))]


def bit_of(sounds: list[np.ndarray], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """So much of a clip, from somewhere that is not quiet."""
    while True:
        sound = sounds[int(rng.integers(len(sounds)))]
        count = round(seconds * RATE_HZ)
        first = int(rng.integers(max(1, len(sound) - count)))
        bit = sound[first : first + count]
        if np.abs(bit[: RATE_HZ // 10]).max(initial=0) > 0.05:
            return bit


def silence(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Zeros, hiss at -70 dB, or a hum at -60 dB."""
    count = round(seconds * RATE_HZ)
    kind = int(rng.integers(3))
    hum = np.sin(2 * np.pi * 50 * np.arange(count) / RATE_HZ)
    return [np.zeros(count), 10**-3.5 * rng.standard_normal(count), 10**-3 * hum][kind].astype(np.float32)


class Agreeing:
    """A judge that lets everything stand after a pass."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def verify(self, request, deliver) -> None:
        """One pass."""
        self._clock.sleep(VERIFY_S)
        deliver(Verdict(request.audio.index, request.draft.tokens))


def stream(samples: np.ndarray, weights) -> list:
    """The commits of a recording at the pace of speech."""
    clock = VirtualClock()
    stages = Stages(SpeechDrafter(weights), Agreeing(clock), SyntheticGenerator(clock, TIMES))
    return Pipeline(pieces(samples, piece_ms=20), stages, Policy(deadline_s=60), clock=clock).run().commits


def attempt(name: str, folder: Path) -> Outcome:
    """One stream."""
    torch.set_num_threads(1)
    seed, count = batch_of(name)
    rng, sounds, weights = np.random.default_rng(seed), clips(), load_draft_front()
    parts, begins, ends, at = [], [], [], 0
    for _ in range(count):
        for part in (silence(rng.uniform(0.2, 1.6), rng), bit_of(sounds, rng.uniform(0.3, 0.9), rng)):
            parts.append(part)
            at += len(part)
        begins.append(at - len(parts[-1]))
        ends.append(at)
    samples = np.concatenate([*parts, silence(1.0, rng)])
    commits = stream(samples, weights)
    whole = front_plan(samples, weights)
    plan = np.concatenate([commit.tokens for commit in commits])
    require(len(plan) == units.frame_count(len(samples)), f"{len(plan)} frames of {units.frame_count(len(samples))}")
    require([commit.index for commit in commits] == list(range(len(commits))), "out of order")
    latency_s = np.array([commit.latency_s for commit in commits])
    first = [int(begin / RATE_HZ / CHUNK_S) for begin in begins]
    steady = np.ones(len(commits), bool)
    steady[first] = False
    bound_s = float(np.percentile(latency_s[steady], 99)) + CHUNK_S
    outcome, frames = Outcome(Counter()), units.FRAMES_PER_CHUNK
    for number, chunk in enumerate(first):
        piece = slice(chunk * frames, (chunk + 1) * frames)
        wrong = int((plan[piece] != whole.plan.visemes[piece]).sum())
        if wrong:
            outcome.lost.append(f"start {number}: {wrong} frames are not the whole recording's")
        elif latency_s[chunk] > bound_s:
            outcome.lost.append(f"start {number}: {1000 * latency_s[chunk]:.0f} ms, bound {1000 * bound_s:.0f}")
        else:
            outcome.how[RIGHT_AND_IN_TIME] += 1
    still = np.zeros(len(plan), bool)
    for end, begin in zip(ends, [*begins[1:], len(samples)], strict=True):
        still[
            round((end / RATE_HZ + SETTLED_S) * units.VIDEO_FPS) : round((begin / RATE_HZ - 0.1) * units.VIDEO_FPS)
        ] = True
    outcome.facts = {"frames of silence": int(still.sum()), "of them not at rest": int((plan[still] != 0).sum())}
    return outcome
