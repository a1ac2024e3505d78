"""Both pipelines as discrete events: the rules that really run, in virtual time, on stage times that were measured.

The rules are not modelled again: :mod:`pipeline` itself runs against a :class:`VirtualClock`, with stages that only say
how long they take. A :class:`Setup` holds those times as measured spreads, a :class:`ChunkPattern` per chunk says what
the judge rejects and how many passes it takes. What is modelled is the machine: one drafter, one judge, one generator,
on one chip or two (:class:`SharedChip`), and other chips by their rooflines (:func:`on_chip`).

Everything that comes out of here is labelled *simulated*.

Source: Williams et al., "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.judge.branches import ROOMS, TOKENS_A_FRAME, USUAL_ROOM
from specsync_lib.paths import CLAIMS_FILE, MEASUREMENTS_DIR, display_path
from specsync_lib.pipeline.run import (
    PipelineReport,
    Policy,
    Request,
    Stages,
    Tokens,
    Verdict,
    VirtualClock,
    pieces,
    run_serial,
    run_speculative,
)
from specsync_lib.pipeline.synthetic import (
    StageTimes,
    SyntheticDrafter,
    SyntheticGenerator,
    SyntheticJudge,
    SyntheticTarget,
    SyntheticWork,
)
from specsync_lib.units import CHUNK_SAMPLES, FRAMES_PER_CHUNK, VIDEO_FPS, VISEMES

LABEL = "simulated"
PATTERN_NAME = "acceptance_pattern.json"
STAGES_NAME = "stages_h200.json"
REFERENCE_NAME = "stages_h200_reference.json"
CHUNK_MS = 1000 * FRAMES_PER_CHUNK / VIDEO_FPS  # 400
PIECE_MS = 100
MODES = ("serial", "serial_reasoning", "speculative")
Mode = Literal["serial", "serial_reasoning", "speculative"]
# The speculative pipeline as it is measured: the last step waits for the judge's first pass, because this judge rejects
# most drafts and a rejection after that step costs a generation; or nothing waits; or the judge verifies several plans
# in a pass; or its rule is the lenient one, which decides after one pass.
POLICIES = {
    "speculative": Policy(hold_before="last step"),
    "speculative_eager": Policy(),
    "speculative_branched": Policy(hold_before="last step"),
    "speculative_lenient": Policy(hold_before="last step"),
}
# What becomes of a late verdict, by name: "hold" is the measured speculative pipeline.
LATE_POLICIES = {
    "hold": POLICIES["speculative"],
    "midflight": POLICIES["speculative_eager"],
    "rollback": Policy(late="rollback"),
    "lenient": Policy(late="lenient"),
}
REASONING_TOKENS = 32
CHUNK_TOKENS = TOKENS_A_FRAME * FRAMES_PER_CHUNK
REPEATS = 5  # of every measured chunk, in that check
TOLERANCE = 0.05  # how near the model must come to every measured median
ASSUMED_REJECTION_RATE = 0.3  # where no pattern has been measured


# --- what the judge says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkPattern:
    """What becomes of a chunk's draft: the judge's forward passes, and the frames (0 .. 11) that it rejects.

    guessed: the first pass verifies the probe's guess in place of the draft; the guess is told before. known_after: the
    passes after which what is told is the final plan; None: all but the last, which only confirms it.
    """

    passes: int = 1
    rejected: tuple[int, ...] = ()
    guessed: bool = False
    known_after: int | None = None

    def words(self, tokens: Tokens) -> list[Tokens]:
        """What the judge tells before its final word, given that: the probe's guess if there is one, and what it
        thinks after every pass but the last.

        Where that is not the final plan yet, one frame in the middle, which the measured pattern does not name, stands
        for what is wrong with it.
        """
        known_after = self.passes - 1 if self.known_after is None else self.known_after
        middle = len(tokens) // 2
        wrong = (*tokens[:middle], (tokens[middle] + 1) % len(VISEMES), *tokens[middle + 1 :])
        return [tokens if done >= known_after else wrong for done in range(not self.guessed, self.passes)]


def random_pattern(rate: float, chunks: int, rng: np.random.Generator, passes_on_reject: int = 2) -> list[ChunkPattern]:
    """Chunks of which a share, rounded to whole chunks, is rejected in random places, each at one random frame.

    Raises
    ------
    InputError: a rate outside 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"rejection rate is {rate}: expected 0 to 1")
    rejected = rng.permutation(chunks) < round(rate * chunks)
    frames = rng.integers(FRAMES_PER_CHUNK, size=chunks)
    return [
        ChunkPattern(passes_on_reject, (int(frame),)) if hit else ChunkPattern()
        for hit, frame in zip(rejected, frames, strict=True)
    ]


# How the judge comes to its answers: under the exact rule it verifies the draft first, or the probe's guess, or several
# plans a pass (`branches`); or it takes one pass over the draft under the lenient rule.
Way = Literal["exact", "guessed", "branched", "lenient"]
WAYS = {"speculative_branched": "branched", "speculative_lenient": "lenient"}  # of the modes with one of their own


def measured_pattern(
    path: Path | None = None, way: Way = "guessed", frames_a_pass: str = USUAL_ROOM
) -> tuple[list[ChunkPattern], str]:
    """The judge's measured answers, chunk by chunk, and where they come from; drawn at a stated rate where absent.

    frames_a_pass: that several plans share, of `branches.ROOMS`.

    Raises
    ------
    InputError: no answers were measured with so many frames a pass.
    """
    path = path or MEASUREMENTS_DIR / PATTERN_NAME
    if not path.is_file():
        pattern = random_pattern(ASSUMED_REJECTION_RATE, 500, np.random.default_rng(0))
        if way == "lenient":
            pattern = [ChunkPattern(1, answer.rejected) for answer in pattern]
        return pattern, f"drawn: {ASSUMED_REJECTION_RATE:.0%} of chunks rejected ({path.name} is not measured yet)"
    chunks = json.loads(path.read_text(encoding="utf-8"))["chunks"]
    source = f"{display_path(path)}, {way}"
    if way == "lenient":
        return [ChunkPattern(1, tuple(chunk["lenient_rejected_at"])) for chunk in chunks], source
    prefix, guessed = ("", False) if way == "exact" else (f"{way}_", True)
    prefix += f"{frames_a_pass}_" * (way == "branched")
    if chunks and f"{prefix}passes" not in chunks[0]:
        raise InputError(f"{path.name}: no answers of a judge that is {way}, {frames_a_pass} frames a pass")
    return [
        ChunkPattern(chunk[f"{prefix}passes"], tuple(chunk["rejected_at"]), guessed, chunk.get(f"{prefix}known_after"))
        for chunk in chunks
    ], source


Answers = Mapping[str, Sequence[ChunkPattern]]


def measured_answers(path: Path | None = None, frames_a_pass: str = USUAL_ROOM) -> tuple[Answers, str]:
    """The judge's measured answers by mode, and where those of the usual speculative pipeline come from."""
    usual, source = measured_pattern(path)
    ways = {mode: measured_pattern(path, way, frames_a_pass)[0] for mode, way in WAYS.items()}
    return dict.fromkeys(("serial", *POLICIES), usual) | ways, source


def replayed_pattern(content: Mapping, mode: str = "speculative") -> list[ChunkPattern]:
    """The answers that a measured pipeline replayed in a mode, from its file."""
    return [
        ChunkPattern(int(one["passes"]), tuple(one["rejected"]), one.get("guessed", False), one.get("known_after"))
        for one in content[f"replayed_{WAYS[mode]}" if mode in WAYS else "replayed"]
    ]


def written_pattern(pattern: Sequence[ChunkPattern]) -> list[dict]:
    """Answers as a measured pipeline's file holds them: what :func:`replayed_pattern` reads."""
    return [asdict(one) for one in pattern]


def rejection_rate(pattern: Sequence[ChunkPattern]) -> float:
    """Share of chunks of which something is rejected."""
    return float(np.mean([bool(chunk.rejected) for chunk in pattern]))


# --- how long the stages take -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A stage's times as quantiles: ``values_ms`` at ``shares`` of 0 to 1, straight lines between them."""

    shares: tuple[float, ...]
    values_ms: tuple[float, ...]

    @classmethod
    def of(cls, row: Mapping[str, object]) -> "Spread":
        """From a measured row: its ``quantiles_ms`` at equal steps and its p99, without which one outlier would stretch
        over the last twentieth; or what it has of median, p20, p80 and p99.

        Raises
        ------
        InputError: the row has no median.
        """
        if "quantiles_ms" in row:
            values = row["quantiles_ms"]
            known = dict(zip(np.linspace(0, 1, len(values)), values, strict=True))
            known |= {0.99: row["p99_ms"]} if "p99_ms" in row else {}
            return cls(*zip(*sorted(known.items()), strict=True))
        if "median_ms" not in row:
            raise InputError(f"stage times: a row without median_ms: {dict(row)}")
        median = row["median_ms"]
        points = {0.2: row.get("p20_ms", median), 0.5: median, 0.8: row.get("p80_ms", median)}
        points |= {0.0: points[0.2], 1.0: row.get("p99_ms", points[0.8])}
        return cls(tuple(sorted(points)), tuple(points[share] for share in sorted(points)))

    @property
    def median_ms(self) -> float:
        return float(np.interp(0.5, self.shares, self.values_ms))

    def draw_s(self, rng: np.random.Generator) -> float:
        """One duration in seconds."""
        return float(np.interp(rng.random(), self.shares, self.values_ms)) / 1000

    def split(self, share: float) -> tuple["Spread", "Spread"]:
        """The fastest share of the times, and the others."""

        def part(low: float, high: float) -> Spread:
            inner = [known for known in self.shares if low < known < high]
            shares = np.array([low, *inner, high])
            values = np.interp(shares, self.shares, self.values_ms)
            return Spread(tuple(map(float, (shares - low) / (high - low))), tuple(map(float, values)))

        return part(0.0, share), part(share, 1.0)

    def times(self, factor: float) -> "Spread":
        """The same spread, faster or slower."""
        return replace(self, values_ms=tuple(factor * value for value in self.values_ms))

    def plus(self, milliseconds: float) -> "Spread":
        """The same spread, later by so much."""
        return replace(self, values_ms=tuple(value + milliseconds for value in self.values_ms))


NOTHING = Spread((0.0, 1.0), (0.0, 0.0))


def exactly(milliseconds: float) -> Spread:
    """A time without a spread."""
    return Spread((0.0, 1.0), (milliseconds, milliseconds))


@dataclass(frozen=True)
class Setup:
    """Stage times of one machine and model set.

    plan: the judge's 12 tokens one by one; token: one more token; verify: by number of passes; guess: until the probe's
    guess is there, within the verification; step: one of ``steps`` denoising steps; rewind: undoing the last; render:
    one of ``render_parts`` calls that decode a chunk to frames on the host. label: of the times that went in. stretch:
    how much slower judge and generator run while both work: 1 on two chips. last_step, last_render: where the last of
    its kind in a chunk is known to take another time. branches_ms: how much longer a chunk's first pass and each
    later one take over several plans.
    """

    name: str
    label: str
    source: str
    draft: Spread
    plan: Spread
    token: Spread
    verify: Mapping[int, Spread]
    begin: Spread
    step: Spread
    render: Spread
    commit: Spread
    steps: int
    render_parts: int = 1
    stretch: float = 1.0
    guess: Spread = NOTHING
    rewind: Spread = NOTHING
    last_step: Spread | None = None
    last_render: Spread | None = None
    branches_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def branched(self) -> "Setup":
        """The same machine where every pass verifies several plans."""
        first, later = self.branches_ms
        verify = {passes: spread.plus(first + (passes - 1) * later) for passes, spread in self.verify.items()}
        return replace(self, verify=verify)

    @property
    def job_ms(self) -> list[float]:
        """The generator's jobs for a chunk, one after the other, in medians."""
        steps, renders = self.steps * [self.step], self.render_parts * [self.render]
        steps[-1], renders[-1] = self.last_step or self.step, self.last_render or self.render
        return [spread.median_ms for spread in (self.begin, *steps, *renders)]

    @property
    def generation_ms(self) -> float:
        """A chunk from its plan to its frames, in medians."""
        return sum(self.job_ms)

    def verify_ms(self, passes: int) -> Spread:
        """Times of a verification of so many passes: measured, or the nearest measured one plus or minus passes."""
        if passes in self.verify:
            return self.verify[passes]
        nearest = min(self.verify, key=lambda known: abs(known - passes))
        ordered = sorted(self.verify)
        slope = 0.0
        if len(ordered) > 1:
            first, last = ordered[0], ordered[-1]
            slope = (self.verify[last].median_ms - self.verify[first].median_ms) / (last - first)
        return self.verify[nearest].plus((passes - nearest) * slope)


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

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Tokens:
        self._spend(self._setup.plan.draw_s(self._rng))
        self._spend(sum(self._setup.token.draw_s(self._rng) for _ in range(reasoning_tokens)))
        return self.answer(request)


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

    def step(self, work: SyntheticWork, tokens: Tokens) -> None:
        last = self._setup.last_step if work.steps_left == 1 else None
        self._spend((last or self._setup.step).draw_s(self._rng))
        super().step(work, tokens)

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
    )
    source = pieces(np.zeros(chunks * CHUNK_SAMPLES, np.float32), pace=pace, piece_ms=PIECE_MS)
    if mode == "speculative":
        ahead = 1 if pace == "fast" else 4
        return run_speculative(source, stages, policy or POLICIES["speculative"], clock=clock, ahead=ahead)
    return run_serial(source, stages, reasoning_tokens=REASONING_TOKENS * (mode == "serial_reasoning"), clock=clock)


def target_plan(chunks: int) -> np.ndarray:
    """What the simulated judge alone would have written."""
    return np.concatenate(SyntheticTarget().plan([FRAMES_PER_CHUNK] * chunks))


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
        "plan_error": float(np.mean(plan != target_plan(len(report.commits))[: len(plan)])),
        "corrected": report.counts.get("corrected mid-flight", 0) / len(report.commits),
        "rewound": report.counts.get("rewound", 0) / len(report.commits),
        "rolled_back": report.counts.get("rolled back", 0) / len(report.commits),
        "n": len(report.commits),
    }


# --- setups from files ------------------------------------------------------------------------------------------------


def stages_path(directory: Path | None = None) -> Path:
    """The file of single stage times: the suite's own measurement, or, where it is missing, the exploratory medians."""
    directory = directory or MEASUREMENTS_DIR
    measured = directory / STAGES_NAME
    return measured if measured.is_file() else directory / REFERENCE_NAME


def reference_setup(region: str = "384px", *, steps: int = 2, path: Path | None = None) -> Setup:
    """Two H200s from medians of single stages (label real-shape): the reasoner in bf16 alone on the second.

    Every pass reads a chunk's evidence with the plan that it verifies.

    Raises
    ------
    InputError: the region has not been measured.
    """
    path = path or stages_path()
    rows = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["stages"])

    def median(stage: str, **facts: object) -> float:
        known = {name: value for name, value in facts.items() if name in rows}
        found = rows[(rows["stage"] == stage) & np.logical_and.reduce([rows[k] == v for k, v in known.items()])]
        if found.empty:
            regions = ", ".join(sorted(rows["region"].dropna().unique()))
            raise InputError(f"{path.name}: no {stage} with {facts}; known regions: {regions}")
        return float(found["median_ms"].min())  # a graph's where there is one

    def score(tokens: int) -> float:
        counts = sorted(rows.loc[(rows["stage"] == "verify") & (rows["precision"] == "bf16"), "tokens"].unique())
        return float(np.interp(tokens, counts, [median("verify", tokens=n, precision="bf16") for n in counts]))

    token, encoder = median("token", tokens=1, precision="bf16"), median("encoder", window_s=30)
    decoded = rows.loc[rows["stage"] == "decode", "frames"].iloc[0] if "frames" in rows else FRAMES_PER_CHUNK
    first = encoder + score(CHUNK_TOKENS)
    return Setup(
        name=f"h200x2 {region}, {steps} steps",
        label="real-shape",
        source=display_path(path),
        draft=exactly(median("features", window_s=30)),
        plan=exactly(encoder + FRAMES_PER_CHUNK * token),
        token=exactly(token),
        verify={1: exactly(first), 2: exactly(first + score(CHUNK_TOKENS))},
        branches_ms=tuple(score(TOKENS_A_FRAME * frames) - score(CHUNK_TOKENS) for frames in ROOMS[USUAL_ROOM]),
        guess=exactly(encoder),
        begin=NOTHING,
        step=exactly(median("denoise", region=region, steps=1, slots=3.0)),
        render=exactly(median("decode", region=region) * FRAMES_PER_CHUNK / float(decoded)),
        commit=NOTHING,
        steps=steps,
    )


def measured_files(directory: Path | None = None) -> list[Path]:
    """The measured pipelines' files, by name: those with runs by region (see `latency_numbers`)."""
    paths = sorted((directory or MEASUREMENTS_DIR).glob("pipeline_*.json"))
    return [path for path in paths if "regions" in json.loads(path.read_text(encoding="utf-8"))]


def measured_setups(path: Path) -> dict[str, dict[str, Setup]]:
    """Setups by region and mode from a measured pipeline's file: the stage times of that mode's own run.

    So contention between judge and generator is in the speculative run's times, and the model adds none. The file holds
    the times of all steps together, and of all renders; two things are known of their order. Where the last step waits
    for the judge's first pass, the steps before it shared the machine with that pass, so the last ones are the fastest.
    The last part of a chunk that is decoded in parts brings the frames to the host, so it is the slowest of the serial
    run, where nothing works beside the generator; every mode's last part takes as long as there, and parts that a
    rejection dropped were not the last.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Setup]] = {}
    for region, result in content["regions"].items():
        for mode, stages in result["stages"].items():
            spreads = {what: Spread.of(row) for what, row in stages.items()}
            verify = {int(what.split()[1]): spread for what, spread in spreads.items() if what.startswith("verify ")}
            plan, token = spreads.get("plan", NOTHING), NOTHING
            steps = result.get("steps", content.get("steps"))
            parts = result.get("render_parts", content.get("render_parts", 1))
            held = result.get("hold_before", {}).get(mode) == "last step" and steps > 1
            last_step, step = spreads["step"].split(1 / steps) if held else (None, spreads["step"])
            last_render, render = None, spreads["render"]
            if parts > 1:
                render, _ = renders_by_part(stages)
                _, last_render = renders_by_part(result["stages"].get("serial", stages))
            found.setdefault(region, {})[mode] = Setup(
                name=f"{content['setup']} {region}".strip(),
                label=content["label"],
                source=display_path(path),
                draft=spreads["draft"],
                plan=plan,
                token=token,
                verify=verify or {1: spreads.get("verify", NOTHING)},
                begin=spreads["begin"],
                step=step,
                render=render,
                commit=spreads["commit"],
                steps=steps,
                render_parts=parts,
                last_step=last_step,
                last_render=last_render,
                guess=spreads.get("guess", NOTHING),
                rewind=spreads.get("rewind", NOTHING),
            )
    return found


def renders_by_part(stages: Mapping[str, Mapping]) -> tuple[Spread, Spread]:
    """Of a run's stage times, where a chunk is decoded in parts: the renders of all parts but the last, and the last's.

    One render in every committed chunk was its last, and those took longest.
    """
    return Spread.of(stages["render"]).split(1 - stages["commit"]["n"] / stages["render"]["n"])


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
    if policy == "lenient":
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
        pattern = random_pattern(rate, chunks, rng)
        report = simulate(setup, "speculative", pattern, rng, chunks=chunks, policy=LATE_POLICIES[policy])
        ends.append(summary_row(report)["mean_ms"])
    return _crossing(serial, *ends)


def late_verdicts(
    setup: Setup,
    rates: Sequence[float],
    rng: np.random.Generator,
    *,
    policies: Sequence[str] = tuple(LATE_POLICIES),
    chunks: int = 200,
) -> pd.DataFrame:
    """What each policy costs over rejection rates: latency, and frames whose committed viseme is not the judge's."""
    rows = []
    for rate in rates:
        pattern = random_pattern(rate, chunks, rng)
        for policy in policies:
            report = simulate(setup, "speculative", pattern, rng, chunks=chunks, policy=LATE_POLICIES[policy])
            by_hand = {"expected_ms": expected_ms(setup, rejection_rate(pattern), "speculative", policy)}
            rows.append({"setup": setup.name, "policy": policy, "rate": rate} | summary_row(report) | by_hand)
    return pd.DataFrame(rows).assign(label=LABEL)


# --- other chips ------------------------------------------------------------------------------------------------------


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
OTHERS_GIB = 9.0  # Whisper, Wan 1.3B, its VAE, their activations
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


def chips_for_reasoner(chip: Chip, precision: Literal["bf16", "fp8"], beside_gib: float = 0.0) -> int:
    """How many of a chip it takes to hold the reasoner, and what stands beside it on the first."""
    return max(1, ceil((REASONER_GIB[precision] + beside_gib) / (USABLE * chip.memory_gib)))


def on_chip(
    setup: Setup, region: str, chip: str, precision: Literal["bf16", "fp8"], *, shared: bool = False
) -> tuple[Setup, int]:
    """The setup on other chips, and how many of them: one for generation and as many as the reasoner's weights need.

    ``shared``: everything on one chip, judge and generator each at half speed while both work. Where the reasoner takes
    several chips its passes are split over them without any loss, so the prediction flatters that chip.

    Raises
    ------
    InputError: an unknown chip.
    """
    if chip not in CHIPS:
        raise InputError(f"chip {chip!r}: known are {', '.join(CHIPS)}")
    here, there = CHIPS[HERE], CHIPS[chip]
    works = stage_works(setup, region, precision)
    scaled = {name: work.on(here, there) for name, work in works.items()}
    holders = chips_for_reasoner(there, precision, OTHERS_GIB if shared else 0.0)
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
        stretch=2.0 if shared else 1.0,
    ), holders + (not shared)


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


# --- what the claim would need ----------------------------------------------------------------------------------------


def claims(path: Path | None = None) -> dict[str, dict]:
    """The source report's claims by key; label claimed."""
    content = json.loads((path or CLAIMS_FILE).read_text(encoding="utf-8"))
    return {claim["key"]: claim | {"label": content["label"]} for claim in content["claims"]}


def needed_by_claim(setup: Setup) -> pd.DataFrame:
    """Which stage times the claimed latencies would need, beside this setup's; columns what, needed, here, unit.

    Speculation can hide the reasoner and nothing else, so the claimed difference is all of the reasoner's time, and the
    claimed speculative latency is everything else.
    """
    claimed = claims()
    serial, speculative = claimed["serial_ms"]["value"], claimed["speculative_ms"]["value"]
    hidden = serial - speculative
    token = hidden / FRAMES_PER_CHUNK
    copy_gb_per_s = 4270.0
    rows = [
        ("the reasoner's visible time, a chunk", hidden, setup.plan.median_ms, "ms"),
        ("one token of the plan, 12 a chunk", token, setup.token.median_ms, "ms"),
        ("tokens a chunk at this token's time", hidden / setup.token.median_ms, FRAMES_PER_CHUNK, "tokens"),
        ("reasoner in bf16 at this memory's pace", copy_gb_per_s * token / 2e3, REASONER_PARAMETERS / 1e9, "B weights"),
        ("everything but the reasoner", speculative, setup.draft.median_ms + setup.generation_ms, "ms"),
        ("video that must come out meanwhile", speculative, CHUNK_MS, "ms"),
    ]
    return pd.DataFrame(rows, columns=["what", "needed", "here", "unit"]).assign(label=LABEL, setup=setup.name)
