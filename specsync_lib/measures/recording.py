"""One recording under every rule and threshold: what is committed, what it costs, how far it ends from the judge.

A single recording has no intervals: its frames are not independent, and there is nothing to resample.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from specsync_lib.judge.rules import RunRule, within_one_frame
from specsync_lib.measures.acceptance import acceptance_table
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.pipeline import simulate
from specsync_lib.pipeline.answers import POLICIES, ChunkPattern
from specsync_lib.pipeline.replay import HeardChunk, ReplayedChunk, Variant
from specsync_lib.pipeline.stage_times import Setup, measured_setups
from specsync_lib.pipeline.stages import Policy
from specsync_lib.units import FRAMES_PER_CHUNK, VIDEO_FPS, VISEMES
from specsync_lib.visemes import SyncPlan, viseme_codes

if TYPE_CHECKING:
    from specsync_lib.face.head.head import Head

SWEPT_SECONDS = 20
# Denser where recalibrated confidences lie; 0.85 is the source report's, 0 asks nobody, 1 asks about every frame.
GATE_THRESHOLDS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
STAGE_TIMES_FILE = MEASUREMENTS_DIR / "pipeline_cpu.json"
SIMULATED_CHUNKS = 25  # of every kind of chunk, drawn from the measured spreads
SWEEP_COLUMNS = (
    "variant", "rule", "threshold", "acceptance", "coverage", "covered_frames", "draft_stands", "agreement_with_judge",
    "accuracy", "unasked_chunks", "passes_a_second", "lip_error_mm_vs_judge", "predicted_ms", "n_frames",
    "n_chunks",
)  # fmt: skip


def variant_name(rule: RunRule, threshold: float | None = None) -> str:
    """``exact``, ``gate_0.85``: a column of the frame table; no two thresholds share one."""
    return rule if threshold is None else f"{rule}_{threshold}"


def variants(own_threshold: float | None = None) -> dict[str, Variant]:
    """Every rule, and the gate at GATE_THRESHOLDS; a run's own threshold takes the nearest one's place."""
    grid = np.array(GATE_THRESHOLDS)
    if own_threshold is not None and own_threshold not in grid:
        grid[1 + np.abs(grid[1:-1] - own_threshold).argmin()] = own_threshold
    rules: list[Variant] = [(rule, None) for rule in ("judge", "exact", "mouth", "lenient")]
    rules += [("gate", float(threshold)) for threshold in np.unique(grid)]
    return {variant_name(*variant): variant for variant in [*rules, ("draft", None)]}


def frame_table(
    heard: Sequence[HeardChunk], plans: Mapping[str, Sequence[ReplayedChunk]], truth: Sequence[str] | None = None
) -> pd.DataFrame:
    """A row a frame: time_s, frame, chunk, draft, confidence, recalibrated, judge, accepted, truth, then a column of
    committed visemes by variant.

    ``judge`` is the plan that the judge alone writes; accepted: it names the draft's viseme within one frame. ``truth``
    is empty where the words are not known.
    """
    names = np.array(VISEMES)
    columns = {name: names[np.concatenate([chunk.tokens for chunk in plan])] for name, plan in plans.items()}
    draft = np.concatenate([chunk.draft.tokens for chunk in heard])
    frame = np.arange(len(draft))
    judge = viseme_codes(pd.Series(columns["judge"]))
    return pd.DataFrame(
        {
            "time_s": frame / VIDEO_FPS,
            "frame": frame,
            "chunk": frame // FRAMES_PER_CHUNK,
            "draft": names[draft],
            "confidence": np.concatenate([chunk.draft.confidence for chunk in heard]),
            "recalibrated": np.concatenate([chunk.draft.recalibrated for chunk in heard]),
            "accepted": within_one_frame(draft, judge),
            "truth": [""] * len(draft) if truth is None else list(truth)[: len(draft)],
            **columns,
        }
    )


def curves(frames: pd.DataFrame) -> pd.DataFrame:
    """Acceptance and coverage of one recording over all thresholds on the recalibrated confidence, without intervals;
    columns threshold, acceptance, coverage, n_frames."""
    one = np.zeros(len(frames), int)
    table = acceptance_table(frames["recalibrated"], frames["accepted"], one, n_resamples=1)
    return table[["threshold", "acceptance", "coverage", "n_frames"]]


def lip_gaps_mm(
    head: "Head", heard: Sequence[HeardChunk], plans: Mapping[str, Sequence[ReplayedChunk]]
) -> dict[str, Float[np.ndarray, " frames"]]:
    """The gap between the lips on the mesh by variant, the mouth alone moving; what is equal is laid on it once."""
    from specsync_lib.face.head.motion import face_tracks

    known: dict[bytes, float] = {}

    def gap(units: np.ndarray) -> float:
        key = units.round(4).tobytes()
        if key not in known:
            known[key] = head.lip_aperture(units)
        return known[key]

    found = {}
    for name, plan in plans.items():
        tokens = np.concatenate([chunk.tokens for chunk in plan])
        openness = np.concatenate([chunk.openness for chunk in plan])
        units = face_tracks(SyncPlan(tokens, openness.astype(np.float32)), still=True).units
        found[name] = np.array([gap(row) for row in units])
    return found


@cache
def stage_times(path: Path = STAGE_TIMES_FILE) -> tuple[Setup, Setup, str]:
    """The measured serial and speculative setups of the embedded models on a CPU, and machine and date in words."""
    (modes,) = measured_setups(path).values()
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts = facts.get("machine") or facts["provenance"]
    return modes["serial"], modes["speculative"], f"{facts['cpu']}, {facts['cores']} cores, {facts['date'][:10]}"


def predicted_latency_ms(
    rule: RunRule, chunks: Sequence[ReplayedChunk], drafts: Sequence[Sequence[int]]
) -> Float[np.ndarray, " chunks"]:
    """A median latency of every chunk of a variant, simulated: the pipeline's own rules in virtual time, on stage times
    that were measured elsewhere (`stage_times`)."""
    return np.array([_chunk_ms(rule, *_pattern(rule, one, draft)) for one, draft in zip(chunks, drafts, strict=True)])


def _pattern(rule: RunRule, one: ReplayedChunk, draft: Sequence[int]) -> tuple[ChunkPattern, bool]:
    rejected = tuple(int(k) for k in np.flatnonzero(np.array(one.tokens) != np.array(draft)))
    known_after = None if rule == "judge" else min(one.known_after, one.passes)
    guessed = rule not in ("lenient", "judge")
    return ChunkPattern(one.passes, rejected, guessed, known_after), rule == "draft" or one.unasked


@cache
def _chunk_ms(rule: RunRule, pattern: ChunkPattern, unasked: bool) -> float:
    serial, speculative, _ = stage_times()
    mode, setup = ("serial", serial) if rule == "judge" else ("speculative", speculative)
    if unasked or rule == "judge":
        pattern = ChunkPattern()
    policy = Policy(gate=0.0) if unasked else POLICIES["speculative"]
    rng = np.random.default_rng(0)
    report = simulate.simulate(setup, mode, [pattern], rng, chunks=SIMULATED_CHUNKS, policy=policy)
    return float(report.chunks()["latency_ms"].median())


def sweep_table(
    frames: pd.DataFrame,
    heard: Sequence[HeardChunk],
    plans: Mapping[str, Sequence[ReplayedChunk]],
    gaps_mm: Mapping[str, np.ndarray],
    kinds: Mapping[str, Variant],
) -> pd.DataFrame:
    """SWEEP_COLUMNS, a row a variant.

    acceptance: of frames at or above the threshold, those that the judge accepts (within one frame); coverage: the
    share of such frames; NaN for rules without a threshold. draft_stands, agreement_with_judge, accuracy: frames
    committed as drafted, as the judge alone would have them, as truth has them (NaN without truth). Lip error: mean
    absolute difference of the gap on the mesh. predicted_ms: mean of `predicted_latency_ms`, simulated.
    """
    drafts = [chunk.draft.tokens for chunk in heard]
    seconds = len(frames) / VIDEO_FPS
    has_truth = (frames["truth"] != "").all()
    rows = []
    for name, (rule, threshold) in kinds.items():
        plan, covered = plans[name], frames["recalibrated"] >= (np.inf if threshold is None else threshold)
        gate = threshold is not None
        rows.append((
            name, rule, threshold,
            frames.loc[covered, "accepted"].mean() if gate else np.nan, covered.mean() if gate else np.nan,
            int(covered.sum()), (frames[name] == frames["draft"]).mean(), (frames[name] == frames["judge"]).mean(),
            (frames[name] == frames["truth"]).mean() if has_truth else np.nan,
            np.mean([chunk.unasked for chunk in plan]), sum(chunk.passes for chunk in plan) / seconds,
            np.abs(gaps_mm[name] - gaps_mm["judge"]).mean(), predicted_latency_ms(rule, plan, drafts).mean(),
            len(frames), len(plan),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=list(SWEEP_COLUMNS))
