"""Latency as tables: claimed, simulated and measured rows, late verdicts, delivery, thresholds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from specsync_lib.claims import claims
from specsync_lib.measures.latency import (
    Interval,
    buffer_for,
    percentile_interval,
    playout,
    sound_to_frame_ms,
    who_waits,
)
from specsync_lib.pipeline.answers import WAYS, Answers, ChunkPattern, random_pattern
from specsync_lib.pipeline.outcome import PipelineReport
from specsync_lib.pipeline.simulate import LABEL, REASONING_TOKENS, late_verdicts, simulate, summary_row
from specsync_lib.pipeline.stage_times import Setup, exactly, measured_files, measured_setups, size_of
from specsync_lib.units import CHUNK, FRAMES_PER_CHUNK, ChunkSize

MODE_NAMES = {
    "serial": "serial",
    "serial_reasoning": "serial, reasoning first",
    "speculative": "speculative",
    "speculative_branched": "speculative, several plans a pass",
    "speculative_lenient": "speculative, lenient",
    "speculative_mouth": "speculative, exact on mouth shapes",
}
# bars of a setup, and their hatches
COMPARED = {"serial": "", "speculative": "//", "speculative_branched": "xx", "speculative_lenient": ".."}
SHORTEST_SHOWN_MS = 0.05
FEWEST_FOR_P99 = 100  # chunks: of fewer, p99 is only the slowest
EXACT = ("speculative_branched", "speculative")  # the speculative modes that keep the judge's plan, the surest first
OTHER_STEPS = r"_\d+steps$"  # a region measured with another number of denoising steps too: in the table alone
PACED_REGIONS = ("384px", "720p")  # at the pace of speech, in the figure: the headline's face, and the whole frame


# What a chunk's latency is made of, in the order in which it passes; each has its colour everywhere.
PARTS = {
    "not broken down": "claimed",
    "draft": "draft",
    "reasoner writes": "target",
    "denoise": "accepted",
    "decode": "coverage",
    "verdict and roll-back": "rejected",
}


NOT_MEASURED = "not measured yet"
OWN_SETUP = "own"  # in the keys of a row that is not the default one, whatever its name


def parts_of(stages: Mapping[str, Mapping], p50_ms: float, steps: int, render_parts: int) -> dict[str, float]:
    """A median latency by parts: medians of the stages that a chunk must pass, and the rest, spent on the verdict."""
    median = {what: row["median_ms"] for what, row in stages.items()}
    parts = {
        "draft": median.get("draft", 0.0),
        "reasoner writes": median.get("plan", 0.0),
        "denoise": median.get("begin", 0.0) + steps * median.get("step", 0.0),
        "decode": render_parts * median.get("render", 0.0) + median.get("commit", 0.0),
    }
    return parts | {"verdict and roll-back": max(0.0, p50_ms - sum(parts.values()))}


def claimed_rows() -> list[dict]:
    """The source report's two totals."""
    said = claims()
    return [
        {"setup": "source report", "label": "claimed", "mode": mode, "part": "not broken down",
         "ms": said[f"{mode}_ms"]["value"], "p50_ms": said[f"{mode}_ms"]["value"]}
        for mode in ("serial", "speculative")
    ]  # fmt: skip


def simulated_run(
    setup: Setup,
    mode: str,
    answers: Answers,
    rng: np.random.Generator,
    chunks: int,
    pace: Literal["fast", "real time"] = "fast",
) -> PipelineReport:
    """A mode of the measured pipelines, simulated."""
    judged = setup.branched if WAYS.get(mode) == "branched" else setup
    ran = "serial" if mode == "serial" else "speculative"
    return simulate(judged, ran, answers[mode], rng, chunks=chunks, pace=pace)


def simulated_rows(setup: Setup, answers: Answers, rng: np.random.Generator, chunks: int = 200) -> list[dict]:
    """A setup's pipelines, simulated, with what the judge says in each mode."""
    rows = []
    for mode in COMPARED:
        latency_ms = simulated_run(setup, mode, answers, rng, chunks).chunks()["latency_ms"]
        stages = {
            name: {"median_ms": getattr(setup, name).median_ms}
            for name in ("draft", "begin", "step", "render", "commit", *(("plan",) if mode == "serial" else ()))
        }
        interval = percentile_interval(latency_ms, np.zeros(len(latency_ms)), 50, rng)
        parts = parts_of(stages, interval.value, setup.steps, setup.render_parts)
        rows += _rows(setup.name, LABEL, mode, parts, interval, np.percentile(latency_ms, 99))
    return rows


def measured_rows(path: Path, rng: np.random.Generator) -> list[dict]:
    """Every region of a measured pipeline's file; label measured or real-shape, as the file says."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for region, result in content["regions"].items():
        for mode in COMPARED:
            if mode in result["runs"]:
                run = result["runs"][mode]
                interval = percentile_interval(run["latency_ms"], run["block"], 50, rng)
                steps = result.get("steps", content.get("steps"))
                renders = result.get("render_parts", content.get("render_parts", 1))
                parts = parts_of(result["stages"][mode], interval.value, steps, renders)
                rows += _rows(f"{content['setup']} {region}", content["label"], mode, parts, interval, run["p99_ms"])
    return rows


def _rows(
    setup: str, label: str, mode: str, parts: Mapping[str, float], interval: Interval, p99_ms: float
) -> list[dict]:
    shared = {
        "setup": setup, "label": label, "mode": mode, "p50_ms": interval.value, "p50_low_ms": interval.low,
        "p50_high_ms": interval.high, "p99_ms": p99_ms, "n": interval.n, "resampling_unit": interval.resampling_unit,
    }  # fmt: skip
    return [shared | {"part": part, "ms": ms} for part, ms in parts.items() if ms > SHORTEST_SHOWN_MS]


def two_gpus_first(path: Path) -> tuple[bool, str]:
    """Sorts measured files: the headline's setup before others."""
    return "x2" not in path.stem, path.stem


def comparison_table(setup: Setup, answers: Answers, rng: np.random.Generator) -> pd.DataFrame:
    """One row a part: claimed, simulated, then every measured file of chunks of three slots that exists."""
    rows = claimed_rows() + simulated_rows(setup, answers, rng)
    for path in sorted(measured_files(size=CHUNK), key=two_gpus_first):
        rows += measured_rows(path, rng)
    return pd.DataFrame(rows)


def chunk_table(frames: pd.DataFrame) -> pd.DataFrame:
    """Chunks of a frame table (utterance, confidence, accepted): mean confidence, and whether a frame is rejected."""
    number = frames.groupby("utterance", sort=False).cumcount() // FRAMES_PER_CHUNK
    grouped = frames.assign(chunk=number).groupby(["utterance", "chunk"], sort=False)
    return pd.DataFrame(
        {"confidence": grouped["confidence"].mean(), "rejected": 1 - grouped["accepted"].min().astype(float)}
    ).reset_index()


def threshold_table(
    chunks: pd.DataFrame, setup: Setup, thresholds: Sequence[float], rng: np.random.Generator, n: int = 100
) -> pd.DataFrame:
    """Latency over a threshold on a chunk's mean confidence, under which it is not begun before its verdict.

    A chunk that waits has nothing to roll back: its latency is draft, verification, generation. The others are
    simulated at their own rejection rate. Columns threshold, begun (share), rejected (of those begun), mean_ms.
    """
    rows = []
    for threshold in thresholds:
        begun = chunks[chunks["confidence"] >= threshold]
        waits = chunks[chunks["confidence"] < threshold]
        total = 0.0
        if len(begun):
            pattern = random_pattern(float(begun["rejected"].mean()), n, rng, frames=setup.chunk.frames)
            report = simulate(setup, "speculative", pattern, rng, chunks=n)
            total += len(begun) * summary_row(report)["mean_ms"]
        if len(waits):
            passes = 1 + waits["rejected"]
            verify = sum(setup.verify_ms(int(count)).median_ms for count in passes)
            total += verify + len(waits) * (setup.draft.median_ms + setup.generation_ms + setup.commit.median_ms)
        rejected = float(begun["rejected"].mean()) if len(begun) else float("nan")
        rows.append((threshold, len(begun) / len(chunks), rejected, total / len(chunks)))
    return pd.DataFrame(rows, columns=["threshold", "begun", "rejected", "mean_ms"]).assign(label=LABEL)


def delivery_table(runs: Mapping[str, Sequence[float]], size: ChunkSize = CHUNK) -> pd.DataFrame:
    """Per run (name to committed_s): the buffer that makes all but one chunk in a hundred punctual, and what is left.

    delivery_jitter_p99_ms: lateness of a picture behind that buffer. motion_jitter_ms: standard deviation of the time
    between pictures, 0 when motion is even. frozen: share of pictures that stand longer than one and a half of theirs.
    falls_behind_ms: how much later each further chunk is; above 0 no buffer is enough.
    """
    rows = []
    for name, committed_s in runs.items():
        committed_s = np.asarray(committed_s, float)
        buffer_s = buffer_for(committed_s, 0.99, frames=size.frames)
        seen = playout(committed_s, buffer_s, frames=size.frames)
        trend_ms = 1000 * np.polyfit(np.arange(len(committed_s)), committed_s, 1)[0] - size.ms
        rows.append({
            "run": name, "buffer_ms": 1000 * buffer_s,
            "delivery_jitter_p99_ms": float(np.percentile(seen["late_ms"], 99)),
            "motion_jitter_ms": float(seen["step_ms"].std()), "frozen": float((seen["step_ms"] > 50).mean()),
            "falls_behind_ms": float(trend_ms), "n_chunks": len(committed_s),
        })  # fmt: skip
    return pd.DataFrame(rows)


def paced_runs() -> list[tuple[str, str, list[float]]]:
    """Measured runs at the pace of speech, in chunks of three slots, of the headline's face and of the whole frame.

    Returns
    -------
    Name, label and committed_s of each; the last chunk is left out, because it waits for no sound.
    """
    found = []
    for path in measured_files(size=CHUNK):
        content = json.loads(path.read_text(encoding="utf-8"))
        for region, result in content["regions"].items():
            if "paced" in result and region in PACED_REGIONS:
                mode = MODE_NAMES[result["paced"].get("mode", "speculative")]
                name = f"{mode}, {content['setup']} {region}"
                found.append((name, content["label"], result["paced"]["committed_s"][:-1]))
    return found


def headline(directory: Path | None = None) -> tuple[dict, str, dict, Path] | None:
    """The full-scale measurement that the headline rests on: two GPUs before one, 384 px before others, three slots."""
    for path in sorted(measured_files(directory, CHUNK), key=two_gpus_first):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "h200" in content["setup"]:
            for region, result in sorted(content["regions"].items(), key=lambda item: not item[0].startswith("384")):
                if {"serial", "speculative"} <= set(result["runs"]):
                    return content, region, result["runs"], path
    return None


def headline_setup() -> Setup | None:
    """The stage times of the headline's measurement, None where there is none: those of the speculative run, with the
    serial run's plan."""
    measured = headline()
    if measured is None:
        return None
    _, region, _, path = measured
    setups = measured_setups(path)[region]
    plan = setups["serial"].plan
    token = plan.times(1 / FRAMES_PER_CHUNK)
    if "serial_reasoning" in setups:
        added_ms = setups["serial_reasoning"].plan.median_ms - plan.median_ms
        token = exactly(max(0.0, added_ms) / REASONING_TOKENS)
    return replace(setups["speculative"], plan=plan, token=token)


def measured_policies() -> pd.DataFrame:
    """Measured runs of the policies for late verdicts: setup, label, policy, rate, mean_ms, plan_error, n."""
    rows = []
    for path in measured_files():
        content = json.loads(path.read_text(encoding="utf-8"))
        for region, result in content["regions"].items():
            shared = {"setup": f"{content['setup']} {region}", "label": content["label"]}
            rows += [shared | row for row in result.get("policies", ())]
    columns = ["setup", "label", "policy", "rate", "mean_ms", "plan_error", "n"]
    return pd.DataFrame(rows, columns=columns)


def measured_break_even() -> pd.DataFrame:
    """Where serial would win, out of measured latencies: chunks that were accepted, that were rejected, and serial's.

    break_even: share of rejected chunks at which the means meet; inf where even a rejected chunk is faster than serial.
    """
    rows = []
    for path in measured_files():
        content = json.loads(path.read_text(encoding="utf-8"))
        answers = [bool(one["rejected"]) for one in content["replayed"]]
        for region, result in content["regions"].items():
            if not {"serial", "speculative"} <= set(result["runs"]):
                continue
            latency_ms = np.asarray(result["runs"]["speculative"]["latency_ms"])
            rejected = np.resize(answers, len(latency_ms))
            serial = float(np.mean(result["runs"]["serial"]["latency_ms"]))
            if not 0 < rejected.sum() < len(rejected):
                continue
            right, wrong = (float(latency_ms[rejected == kind].mean()) for kind in (False, True))
            rate = np.inf if wrong <= serial else max(0.0, (serial - right) / (wrong - right))
            rows.append((f"{content['setup']} {region}", content["label"], right, wrong, serial, rate, len(rejected)))
    columns = ["setup", "label", "accepted_mean_ms", "rejected_mean_ms", "serial_mean_ms", "break_even", "n"]
    return pd.DataFrame(rows, columns=columns)


def headline_numbers(directory: Path | None = None) -> list[dict]:
    """``latency.SETUP.*`` of every measured file, as keyword arguments of `summary.record`."""
    rng = np.random.default_rng(0)
    numbers = []
    for path in measured_files(directory):
        content = json.loads(path.read_text(encoding="utf-8"))
        regions, size = content["regions"], size_of(content)
        for region, result in regions.items():
            suffix = f"_{region}" if len(regions) > 1 or size != CHUNK else ""
            setup, runs = OWN_SETUP if "row" in content else content["setup"].lower(), result["runs"]
            shared = {"label": content["label"], "source": path}
            for mode, share in (
                ("serial", 50), ("speculative", 50), ("speculative", 99), ("speculative_branched", 50),
                ("speculative_branched", 99), ("speculative_lenient", 50), ("speculative_lenient", 99),
                ("speculative_mouth", 50), ("speculative_mouth", 99),
            ):  # fmt: skip
                if mode in runs and (share == 50 or runs[mode]["n"] >= FEWEST_FOR_P99):
                    seen = percentile_interval(runs[mode]["latency_ms"], runs[mode]["block"], share, rng)
                    key = f"latency.{setup}.{mode.removeprefix('speculative_')}_p{share}_ms{suffix}"
                    numbers.append(shared | {"key": key, "unit": "ms"} | _with_ends(seen))
            if {"serial", "speculative"} <= set(runs):
                best = runs[first_measured(EXACT, runs)]
                saved, key = 1 - best["p50_ms"] / runs["serial"]["p50_ms"], f"latency.{setup}.reduction{suffix}"
                numbers.append(shared | {"key": key, "value": saved, "unit": "fraction", "n": best["n"]})
                ages_ms = sound_to_frame_ms(best["latency_ms"], size)
                for share in (50, 99) if best["n"] >= FEWEST_FOR_P99 else (50,):
                    key = f"latency.{setup}.sound_to_frame_p{share}_ms{suffix}"
                    age_ms = float(np.percentile(ages_ms, share))
                    numbers.append(shared | {"key": key, "value": age_ms, "unit": "ms", "n": len(ages_ms)})
            for name, share, seen in (
                ("generation", 50, result.get("generation_alone", {})),
                ("after_silence", 99, result.get("after_silence", {})),
            ):
                if latency_ms := seen.get("latency_ms"):
                    value = percentile_interval(latency_ms, np.zeros(len(latency_ms)), share, rng)
                    key = f"latency.{setup}.{name}_p{share}_ms{suffix}"
                    numbers.append(shared | {"key": key, "unit": "ms"} | _with_ends(value))
            if "paced" in result:
                committed_s = np.asarray(result["paced"]["committed_s"])
                jitter = delivery_table({"speculative": committed_s}, size)["delivery_jitter_p99_ms"].item()
                key = f"latency.{setup}.delivery_jitter_p99_ms{suffix}"
                numbers.append(shared | {"key": key, "value": jitter, "unit": "ms", "n": len(committed_s)})
    return numbers


def _with_ends(found: Interval) -> dict[str, float]:
    """An interval, as `summary.record` takes it."""
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def run_table(chunks: pd.DataFrame, ages: pd.DataFrame, trace: pd.DataFrame) -> pd.DataFrame:
    """Runs over one recording in ms, a row a run: a chunk's own latency, a frame's age, and who waited for whom.

    Parameters: the tables that `pipeline.system.write_latency` wrote, with their column ``run``.
    """
    rows = {}
    for name, part in chunks.groupby("run", sort=False):
        age, latency = ages[ages["run"] == name], part["own_latency_ms"]
        rows[name] = {
            "chunks": len(part), "p50_ms": latency.median(), "p99_ms": np.percentile(latency, 99),
            "worst_ms": latency.max(), "sound_to_frame_p50_ms": age["age_ms"].median(),
            "sound_to_frame_p99_ms": np.percentile(age["age_ms"], 99), "sound_to_frame_worst_ms": age["age_ms"].max(),
            **who_waits(trace[trace["run"] == name], age),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run").reset_index()


def measured_elsewhere(directory: Path | None = None) -> pd.DataFrame:
    """Committed measurements of whole pipelines: setup, label, machine, date, and in ms the medians of serial and
    speculative, a frame's age (by sum), and what makes speculative's median a triple: generation alone and the first
    chunk after silence."""
    rows = []
    for path in measured_files(directory):
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = content.get("machine") or content["provenance"]
        machine = facts.get("gpu") or f"{facts['cpu']}, {facts['cores']} cores"
        for region, result in content["regions"].items():
            runs = result["runs"]
            if {"serial", "speculative"} <= set(runs):
                best = runs[first_measured(EXACT, runs)]
                p50, p99 = np.percentile(sound_to_frame_ms(best["latency_ms"], size_of(content)), [50, 99])
                started_ms = result.get("after_silence", {}).get("latency_ms")
                rows.append({
                    "setup": f"{content['setup']} {region}", "label": content["label"], "machine": machine,
                    "date": facts.get("date", "not recorded")[:10], "chunks": best["n"],
                    "serial_p50_ms": runs["serial"]["p50_ms"], "speculative_p50_ms": best["p50_ms"],
                    "generation_p50_ms": result.get("generation_alone", {}).get("p50_ms"),
                    "after_silence_p99_ms": np.percentile(started_ms, 99) if started_ms else None,
                    "sound_to_frame_p50_ms": p50, "sound_to_frame_p99_ms": p99 if best["n"] >= FEWEST_FOR_P99 else None,
                })  # fmt: skip
    return pd.DataFrame(rows)


def late_tables(
    setups: Sequence[Setup], rates: Sequence[float], rng: np.random.Generator, chunks: int = 100
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Late verdicts of several setups in one table, and each one's serial latency."""
    late = pd.concat([late_verdicts(setup, rates, rng, chunks=chunks) for setup in setups], ignore_index=True)
    serial = {
        setup.name: summary_row(simulate(setup, "serial", [ChunkPattern()], rng, chunks=20))["mean_ms"]
        for setup in setups
    }
    return late, serial


def first_measured(modes: Sequence[str], runs: Mapping) -> str:
    """The first of some modes that was run."""
    return next(mode for mode in modes if mode in runs)
