"""A pipeline's runs as numbers: what ``data/measurements/pipeline_*.json`` holds and every latency figure reads.

Layout of such a file: setup, label, replayed (per chunk: passes, rejected frames, guessed, known_after: see
`simulate.ChunkPattern`), replayed_branched and replayed_lenient (the same for the modes whose judge answers otherwise),
frames_a_pass (of `branches.ROOMS`), and per region ``steps``, ``render_parts``, ``window_s`` (of sound that the judge's
ears hear with every chunk), ``hold_before`` (by mode), ``runs`` (by mode: see :func:`run_numbers`),
``stages`` (by mode: see :func:`stage_numbers`) and, where there was such a run, ``paced`` (see :func:`paced_numbers`),
``generation_alone`` (:func:`run_numbers` of a pipeline that asks no judge) and ``after_silence`` (latency_ms of the
first chunks of streams that began after ``silence_s``).
Modes: serial, serial_reasoning, speculative, speculative_eager, which never waits for the judge's first pass,
speculative_branched, whose judge verifies several plans a pass, and speculative_lenient, whose judge decides by the
lenient rule after one pass. Times are in ms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from specsync_lib.measures.intervals import resamples
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.sound import samples_for_chunk
from specsync_lib.units import CHUNK, FRAMES_PER_CHUNK, SAMPLE_RATE_HZ, VIDEO_FPS, ChunkSize

QUANTILES = np.linspace(0, 100, 21)
RESAMPLES = 1_000
FEWEST_BLOCKS = 5  # fewer streams than this say nothing about how streams differ: chunks are resampled instead


class Interval(NamedTuple):
    """A value with its 95 % interval; n observations; what was drawn with replacement."""

    value: float
    low: float
    high: float
    n: int
    resampling_unit: str


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, p20, p80, p99 and how many."""
    p20, median, p80, p99 = np.percentile(milliseconds, [20, 50, 80, 99])
    values = {"median_ms": median, "p20_ms": p20, "p80_ms": p80, "p99_ms": p99}
    return {name: round(float(value), 4) for name, value in values.items()} | {"n": len(milliseconds)}


def run_numbers(reports: Sequence[PipelineReport]) -> dict:
    """Every chunk's latency and its block (stream), percentiles over all, and what became of the drafts.

    first_ms: until the first part of the frames was on the host and the chunk's plan decided; the latency, where a
    chunk is decoded as a whole, but for its commit.
    """
    tables = [report.chunks() for report in reports]
    latency_ms = np.concatenate([table["latency_ms"].to_numpy() for table in tables])
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(latency_ms, [50, 95, 99]))
    counts: dict[str, int] = {}
    for report in reports:
        for name, count in report.counts.items():
            counts[name] = counts.get(name, 0) + count
    return {
        "n": len(latency_ms),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "latency_ms": [round(float(value), 3) for value in latency_ms],
        "first_ms": [round(1e3 * value, 3) for report in reports for value in first_frames_s(report)],
        "block": [block for block, table in enumerate(tables) for _ in range(len(table))],
        "counts": counts,
    }


def first_frames_s(report: PipelineReport) -> list[float]:
    """By chunk: from its last sample until the first part of its frames was decoded and its plan decided."""
    decoded_s: dict[tuple[int, int], float] = {}
    for event in report.trace.events:
        if event.what == "render":
            decoded_s.setdefault((event.chunk, event.attempt), event.end_s)
    return [max(decoded_s[one.index, one.attempts], one.decided_s) - one.heard_s for one in report.commits]


def stage_numbers(reports: Sequence[PipelineReport]) -> dict[str, dict]:
    """The spread of every kind of work, as it ran in the pipeline; verifications by their number of passes.

    guess: from the verification's start until the probe's guess was told.
    """
    durations: dict[str, list[float]] = {}
    for report in reports:
        passes = {commit.index: commit.passes for commit in report.commits}
        asked_s = {event.chunk: event.start_s for event in report.trace.events if event.what == "verify"}
        for event in report.trace.events:
            if event.what == "verdict" and event.note == "guessed" and event.chunk in asked_s:
                durations.setdefault("guess", []).append(1e3 * (event.end_s - asked_s[event.chunk]))
            if event.stage == "audio" or event.what in ("verdict", "rolled back", "lost"):
                continue
            what = event.what.split()[0]
            if what == "verify":
                what = f"verify {passes.get(event.chunk, 1)}"
            durations.setdefault(what, []).append(1e3 * (event.end_s - event.start_s))
    return {
        what: spread(values) | {"quantiles_ms": [round(float(q), 4) for q in np.percentile(values, QUANTILES)]}
        for what, values in durations.items()
    }


def paced_numbers(report: PipelineReport) -> dict[str, list[float]]:
    """A run at the pace of speech: each chunk's latency, and when it was out, from when the first one was heard."""
    table = report.chunks()
    return {
        "latency_ms": [round(float(value), 3) for value in table["latency_ms"]],
        "committed_s": [round(float(value), 5) for value in table["committed_s"] - table["heard_s"].iloc[0]],
    }


def sound_to_frame_ms(latency_ms: Sequence[float], size: ChunkSize = CHUNK) -> Float[np.ndarray, " frames"]:
    """How old each frame of whole chunks is when it can be shown, from the sound at its centre, by sum: the rest of the
    chunk that had to be spoken, the draft's look-ahead, and the chunk's latency."""
    chunks = np.arange(len(latency_ms))
    heard_s = np.array([samples_for_chunk(chunk, size) for chunk in chunks]) / SAMPLE_RATE_HZ
    centres_s = (chunks[:, None] * size.frames + np.arange(size.frames) + 0.5) / VIDEO_FPS
    return (np.asarray(latency_ms, float)[:, None] + 1e3 * (heard_s[:, None] - centres_s)).ravel()


def who_waits(trace: pd.DataFrame, ages: pd.DataFrame) -> pd.Series:
    """Who waits for whom in a run, by its trace (`Trace.table`) and ages (`outcome.frame_ages`): means of a chunk.

    In ms, how long judge and generator worked, how long frames waited for the judge alone, and the share of the judge's
    work that was hidden behind others'.
    """
    chunks = ages["chunk"].nunique()
    busy = trace.groupby("stage")["duration_ms"].sum().reindex(["judge", "generator"]) / chunks
    waited = ages.groupby("chunk")["judge_ms"].first().mean()
    judge = busy.fillna(0.0)["judge"]
    return pd.Series(
        {
            "judge works": judge,
            "generator works": busy["generator"],
            "waits for the judge": waited,
            "hidden share of the judge": max(0.0, 1 - waited / judge) if judge else float("nan"),
        }
    )


def percentile_interval(
    latency_ms: Sequence[float], blocks: Sequence[int], share: float, rng: np.random.Generator
) -> Interval:
    """A percentile with its 95 % bootstrap interval, resampling whole streams where there are enough of them."""
    values, blocks = np.asarray(latency_ms, float), np.asarray(blocks)
    unit = "stream"
    if len(np.unique(blocks)) < FEWEST_BLOCKS:
        blocks, unit = np.arange(len(values)), "chunk"
    draws = [np.percentile(values[index], share) for index in resamples(blocks, RESAMPLES, rng)]
    value = float(np.percentile(values, share))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value), len(values), unit)


def playout(
    committed_s: Float[np.ndarray, " chunks"], buffer_s: float, *, frames: int = FRAMES_PER_CHUNK
) -> pd.DataFrame:
    """What a viewer sees: a picture every 1/30 s, ``buffer_s`` behind the sound; a picture that is late is waited for.

    Parameters
    ----------
    committed_s : when each chunk was out, from when the first chunk's last sample was heard.

    Returns
    -------
    One row a frame: due_s (the first frame ``buffer_s`` after the origin), shown_s (not before it is there, nor before
    the frame before it), late_ms, and step_ms, the time since the frame before: 33.3 where nothing is late.
    """
    there_s = np.repeat(np.asarray(committed_s, float), frames)
    due_s = buffer_s + np.arange(len(there_s)) / VIDEO_FPS
    shown_s = np.maximum.accumulate(np.maximum(due_s, there_s))
    steps_ms = np.diff(shown_s, prepend=shown_s[0] - 1 / VIDEO_FPS) * 1000
    return pd.DataFrame({"due_s": due_s, "shown_s": shown_s, "late_ms": 1000 * (shown_s - due_s), "step_ms": steps_ms})


def buffer_for(
    committed_s: Float[np.ndarray, " chunks"], share: float = 1.0, *, frames: int = FRAMES_PER_CHUNK
) -> float:
    """The shortest playout buffer, in seconds, behind which this share of chunks is in time."""
    nominal_s = np.arange(len(committed_s)) * frames / VIDEO_FPS
    return float(np.quantile(np.asarray(committed_s, float) - nominal_s, share))
