"""Both pipelines as discrete events: the rules that really run, in virtual time, on stage times that were measured.

The rules are not modelled again: :mod:`pipeline` itself runs against a :class:`VirtualClock`, with stages that only say
how long they take. A :class:`Setup` holds those times as measured spreads, a :class:`ChunkPattern` per chunk says what
the judge rejects and how many passes it takes. What is modelled is the machine: one drafter, one judge, one generator,
on one chip or two (:class:`SharedChip`), and other chips by their rooflines (:func:`on_chip`).

Everything that comes out of here is labelled *simulated*.

Source: Williams et al., "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.pipeline.answers import POLICIES, ChunkPattern, random_pattern, rejection_rate, replayed_pattern
from specsync_lib.pipeline.clock import VirtualClock
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.run import run_speculative
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stage_times import Setup, measured_files, measured_setups
from specsync_lib.pipeline.stages import Plan, Policy, Request, Stages, Verdict
from specsync_lib.pipeline.synthetic import (
    StageTimes,
    SyntheticDrafter,
    SyntheticGenerator,
    SyntheticJudge,
    SyntheticTarget,
    SyntheticWork,
)
from specsync_lib.units import CHUNK, ChunkSize

LABEL = "simulated"
CHUNK_MS = CHUNK.ms  # 400
PIECE_MS = 100
MODES = ("serial", "serial_reasoning", "speculative")
Mode = Literal["serial", "serial_reasoning", "speculative"]
# What becomes of a late verdict, by name: "hold" is the measured speculative pipeline.
LATE_POLICIES = {
    "hold": POLICIES["speculative"],
    "midflight": POLICIES["speculative_eager"],
    "rollback": Policy(late="rollback"),
    "overrule": Policy(late="overrule"),
}
REASONING_TOKENS = 32
REPEATS = 5  # of every measured chunk, in that check
TOLERANCE = 0.05  # how near the model must come to every measured median


# --- how long the stages take -----------------------------------------------------------------------------------------


class SharedChip:
    """Judge and generator on one chip: while both work, each takes ``stretch`` times as long.

    A job's duration is settled when it begins, so the judge reckons with a whole generation beside it, which begins at
    the same moment.
    """

    def __init__(self, clock: VirtualClock, stretch: float, generation_s: float) -> None:
        self._clock, self._stretch, self._generation_s = clock, stretch, generation_s
        self._until = {"judge": -inf, "generator": -inf}

    def spend(self, who: Literal["judge", "generator"], seconds: float) -> None:
        """Work that alone would take so long."""
        other = "generator" if who == "judge" else "judge"
        now = self._clock.now()
        beside_s = max(0.0, self._until[other] - now)
        if who == "judge":
            beside_s = max(beside_s, self._stretch * self._generation_s)
        if seconds * self._stretch <= beside_s:
            seconds *= self._stretch
        else:
            seconds += beside_s * (1 - 1 / self._stretch)
        self._until[who] = now + seconds
        self._clock.sleep(seconds)


class SimulatedJudge(SyntheticJudge):
    """Takes a setup's times and a pattern's passes; answers with the target's tokens."""

    def __init__(
        self,
        clock: VirtualClock,
        setup: Setup,
        target: SyntheticTarget,
        pattern: Sequence[ChunkPattern],
        spend: Callable[[float], None],
        rng: np.random.Generator,
    ) -> None:
        super().__init__(clock, StageTimes(), target)
        self._setup, self._pattern, self._spend, self._rng = setup, pattern, spend, rng

    def verify(self, request: Request, deliver: Callable[[Verdict], None]) -> None:
        """The probe's guess and every pass are told at once; after a rejection the judge's own tokens are verified."""
        index, tokens = request.audio.index, self.answer(request)
        answer = self._pattern[index % len(self._pattern)]
        total_s, spent = self._setup.verify_ms(answer.passes).draw_s(self._rng), 0.0
        whole_ms = max(self._setup.verify_ms(answer.passes).median_ms, 1e-9)
        told = range(not answer.guessed, answer.passes + 1)
        for done, said in zip(told, [*answer.words(tokens), tokens], strict=True):
            until_ms = self._setup.verify_ms(done).median_ms if done else self._setup.guess.median_ms
            share = min(1.0, max(spent, until_ms / whole_ms))
            self._spend((share - spent) * total_s)
            spent = share
            deliver(Verdict(index, said, done, final=done == answer.passes))

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Verdict:
        self._spend(self._setup.plan.draw_s(self._rng))
        self._spend(sum(self._setup.token.draw_s(self._rng) for _ in range(reasoning_tokens)))
        return Verdict(request.audio.index, self.answer(request), request.audio.frames)


class SimulatedGenerator(SyntheticGenerator):
    """Takes a setup's times; its frames are digests of what it was told."""

    def __init__(
        self, clock: VirtualClock, setup: Setup, spend: Callable[[float], None], rng: np.random.Generator
    ) -> None:
        super().__init__(clock, StageTimes(steps=setup.steps, render_parts=setup.render_parts))
        self._setup, self._spend, self._rng = setup, spend, rng

    def begin(self, *given: object) -> SyntheticWork:
        self._spend(self._setup.begin.draw_s(self._rng))
        return super().begin(*given)

    def step(self, work: SyntheticWork, plan: Plan) -> None:
        last = self._setup.last_step if work.steps_left == 1 else None
        self._spend((last or self._setup.step).draw_s(self._rng))
        super().step(work, plan)

    def rewind(self, work: SyntheticWork) -> None:
        self._spend(self._setup.rewind.draw_s(self._rng))
        super().rewind(work)

    def render(self, work: SyntheticWork) -> np.ndarray | None:
        last = self._setup.last_render if work.renders_left == 1 else None
        self._spend((last or self._setup.render).draw_s(self._rng))
        return super().render(work)

    def commit(self, work: SyntheticWork) -> None:
        self._spend(self._setup.commit.draw_s(self._rng))
        super().commit(work)


def simulate(
    setup: Setup,
    mode: Mode,
    pattern: Sequence[ChunkPattern],
    rng: np.random.Generator,
    *,
    chunks: int = 200,
    policy: Policy | None = None,
    pace: Literal["fast", "real time"] = "fast",
) -> PipelineReport:
    """One run of one pipeline in virtual time; ``report.chunks()`` has every chunk's latency.

    At the pace "fast" a chunk's sound comes when the chunk before is out, so each is measured by itself; at "real time"
    chunks queue, as in a live stream.

    Raises
    ------
    InputError: an unknown mode, no pattern, no chunk.
    """
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}: expected one of {', '.join(MODES)}")
    if not pattern or chunks < 1:
        raise InputError(f"simulation: {len(pattern)} chunks in the pattern, {chunks} to run; give at least one each")
    clock = VirtualClock()
    judge_spends = generator_spends = clock.sleep
    if setup.stretch > 1 and mode == "speculative":
        chip = SharedChip(clock, setup.stretch, setup.generation_ms / 1000)
        judge_spends, generator_spends = partial(chip.spend, "judge"), partial(chip.spend, "generator")
    target = SyntheticTarget()
    stages = Stages(
        SyntheticDrafter(
            clock,
            StageTimes(draft_s=lambda: setup.draft.draw_s(rng)),
            target,
            lambda index: pattern[index % len(pattern)].rejected,
        ),
        SimulatedJudge(clock, setup, target, pattern, judge_spends, rng),
        SimulatedGenerator(clock, setup, generator_spends, rng),
        setup.chunk,
    )
    source = pieces(np.zeros(setup.chunk.samples(chunks), np.float32), pace=pace, piece_ms=PIECE_MS)
    if mode == "speculative":
        ahead = 1 if pace == "fast" else 4
        return run_speculative(source, stages, policy or POLICIES["speculative"], clock=clock, ahead=ahead)
    return run_serial(source, stages, reasoning_tokens=REASONING_TOKENS * (mode == "serial_reasoning"), clock=clock)


def target_plan(chunks: int, size: ChunkSize = CHUNK) -> np.ndarray:
    """What the simulated judge alone would have written."""
    return np.concatenate(SyntheticTarget().plan([size.frames] * chunks))


def summary_row(report: PipelineReport) -> dict[str, float]:
    """Mean and percentiles of the latency, and the share of committed frames that are not the judge's own."""
    latency_ms = report.chunks()["latency_ms"]
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99])
    plan = report.plan
    return {
        "mean_ms": float(latency_ms.mean()),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "plan_error": float(np.mean(plan != target_plan(len(report.commits), report.chunk)[: len(plan)])),
        "corrected": report.counts.get("corrected mid-flight", 0) / len(report.commits),
        "rewound": report.counts.get("rewound", 0) / len(report.commits),
        "rolled_back": report.counts.get("rolled back", 0) / len(report.commits),
        "n": len(report.commits),
    }


# --- setups from files ------------------------------------------------------------------------------------------------


def check_measured(rng: np.random.Generator, directory: Path | None = None) -> pd.DataFrame:
    """The model beside every measured run, over the same chunks: setup, region, mode, both p50, relative error.

    Empty where nothing has been measured. ``max_relative_error`` of the summary is the largest in the last column.
    """
    rows = []
    for path in measured_files(directory):
        content = json.loads(path.read_text(encoding="utf-8"))
        for region, setups in measured_setups(path).items():
            for mode, setup in setups.items():
                # A measured plan with reasoning already holds its reasoning tokens.
                ran = "serial" if mode.startswith("serial") else "speculative"
                pattern = replayed_pattern(content, mode)
                held = content["regions"][region].get("hold_before", {})
                policy = Policy(hold_before=held.get(mode, "nothing"))
                run = content["regions"][region]["runs"][mode]
                # the chunks that were measured, several times over: the model's own chance is not its error
                report = simulate(setup, ran, pattern[: run["n"]], rng, chunks=REPEATS * run["n"], policy=policy)
                measured_ms = run["p50_ms"]
                p50_ms = summary_row(report)["p50_ms"]
                rows.append((content["setup"], region, mode, measured_ms, p50_ms, abs(p50_ms / measured_ms - 1)))
    return pd.DataFrame(rows, columns=["setup", "region", "mode", "measured_ms", "simulated_ms", "relative_error"])


# --- in closed form ---------------------------------------------------------------------------------------------------


def expected_ms(setup: Setup, rate: float, mode: Literal["serial", "speculative"], policy: str = "hold") -> float:
    """Mean latency of a chunk by hand, from medians: what the simulation is held against.

    serial: draft + plan + generation + commit. Speculative, accepted: draft + the longer of generation and one pass.
    Rejected: the judge's own tokens are known after one pass and final after two. If a denoising step is still to begin
    after the first and the policy corrects mid-flight, generation goes on under them; otherwise the last step (or,
    where the policy rolls back, the whole generation) begins anew as soon as the running job is done. A held chunk
    begins its last step when the first pass is done, and not before. In any case the frames wait for the second pass.
    Chips that are shared are left to the simulation.
    """
    generation = setup.generation_ms
    ends = setup.draft.median_ms + setup.commit.median_ms
    if mode == "serial":
        return ends + setup.plan.median_ms + generation
    if policy == "overrule":
        return ends + generation
    guessed, final = setup.verify_ms(1).median_ms, setup.verify_ms(2).median_ms
    starts = np.cumsum([0.0, *setup.job_ms])  # of every job, and the end
    accepted_frames = generation
    if policy == "hold":
        accepted_frames = frames = max(starts[setup.steps], guessed) + generation - starts[setup.steps]
    elif policy == "midflight" and guessed <= starts[setup.steps]:
        frames = generation
    else:
        again = generation
        if policy == "midflight":
            again = setup.rewind.median_ms + generation - starts[setup.steps]
        frames = float(min(starts[starts >= guessed], default=guessed)) + again
    accepted = ends + max(accepted_frames, guessed)
    rejected = ends + max(frames, final)
    return (1 - rate) * accepted + rate * rejected


def break_even_rate(setup: Setup, policy: str = "hold") -> float:
    """The share of rejected chunks above which the serial pipeline is faster on average; inf where none is.

    A mean over accepted (A) and rejected (B) chunks meets the serial latency S at r = (S - A) / (B - A).
    """
    serial = expected_ms(setup, 0, "serial")
    accepted, rejected = (expected_ms(setup, rate, "speculative", policy) for rate in (0, 1))
    return _crossing(serial, accepted, rejected)


def _crossing(serial: float, accepted: float, rejected: float) -> float:
    """The share of rejected chunks at which the mean of the other two is the first."""
    if rejected <= serial:
        return inf
    return 0.0 if accepted >= serial else (serial - accepted) / (rejected - accepted)


def simulated_break_even(setup: Setup, rng: np.random.Generator, *, policy: str = "hold", chunks: int = 400) -> float:
    """The same rate out of the simulation: where the mean latencies of two rates cross the serial one's."""
    serial = summary_row(simulate(setup, "serial", [ChunkPattern()], rng, chunks=chunks))["mean_ms"]
    ends = []
    for rate in (0.0, 1.0):
        pattern = random_pattern(rate, chunks, rng, frames=setup.chunk.frames)
        report = simulate(setup, "speculative", pattern, rng, chunks=chunks, policy=LATE_POLICIES[policy])
        ends.append(summary_row(report)["mean_ms"])
    return _crossing(serial, *ends)


def late_verdicts(setup: Setup, rates: Sequence[float], rng: np.random.Generator, *, chunks: int = 200) -> pd.DataFrame:
    """What each policy costs over rejection rates: latency, and frames whose committed viseme is not the judge's."""
    rows = []
    for rate in rates:
        pattern = random_pattern(rate, chunks, rng, frames=setup.chunk.frames)
        for policy, late in LATE_POLICIES.items():
            report = simulate(setup, "speculative", pattern, rng, chunks=chunks, policy=late)
            by_hand = {"expected_ms": expected_ms(setup, rejection_rate(pattern), "speculative", policy)}
            rows.append({"setup": setup.name, "policy": policy, "rate": rate} | summary_row(report) | by_hand)
    return pd.DataFrame(rows).assign(label=LABEL)
