"""What every stage takes: measured spreads, and the setups made of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.judge.branches import ROOMS, TOKENS_A_FRAME, USUAL_ROOM
from specsync_lib.paths import MEASUREMENTS_DIR, display_path
from specsync_lib.units import CHUNK, FRAMES_PER_CHUNK, SLOTS_PER_CHUNK, ChunkSize

STAGES_NAME = "stages_h200.json"
CHUNK_TOKENS = TOKENS_A_FRAME * FRAMES_PER_CHUNK
REFERENCE_NAME = "stages_h200_reference.json"


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

    plan: the judge's tokens of a chunk one by one; token: one more token; verify: by number of passes; guess: until the
    probe's guess is there, within the verification; step: one of ``steps`` denoising steps; rewind: undoing the last;
    render: one of ``render_parts`` calls that decode a chunk to frames on the host. label: of the times that went in.
    stretch: how much slower judge and generator run while both work: 1 on two chips. last_step, last_render: where the
    last of its kind in a chunk is known to take another time. branches_ms: how much longer a chunk's first pass and
    each later one take over several plans. chunk: what all of it is of.
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
    chunk: ChunkSize = CHUNK

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


def stages_path() -> Path:
    """The file of single stage times: the suite's own measurement, or, where it is missing, the exploratory medians."""
    measured = MEASUREMENTS_DIR / STAGES_NAME
    return measured if measured.is_file() else MEASUREMENTS_DIR / REFERENCE_NAME


def reference_setup(region: str = "384px", *, steps: int = 2) -> Setup:
    """Two H200s from medians of single stages (label real-shape): the reasoner in bf16 alone on the second.

    Every pass reads a chunk's evidence with the plan that it verifies.

    Raises
    ------
    InputError: the region has not been measured.
    """
    path = stages_path()
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


def size_of(content: Mapping) -> ChunkSize:
    """What a measured file's chunks hold; one that does not say is of three slots."""
    return ChunkSize(content.get("chunk_slots", SLOTS_PER_CHUNK))


def measured_files(directory: Path | None = None, size: ChunkSize | None = None) -> list[Path]:
    """The measured pipelines' files, by name: those with runs by region (see `latency_numbers`). size: only those of
    such chunks."""
    found = []
    for path in sorted((directory or MEASUREMENTS_DIR).glob("pipeline_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "regions" in content and size in (None, size_of(content)):
            found.append(path)
    return found


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
                chunk=size_of(content),
            )
    return found


def renders_by_part(stages: Mapping[str, Mapping]) -> tuple[Spread, Spread]:
    """Of a run's stage times, where a chunk is decoded in parts: the renders of all parts but the last, and the last's.

    One render in every committed chunk was its last, and those took longest.
    """
    return Spread.of(stages["render"]).split(1 - stages["commit"]["n"] / stages["render"]["n"])
