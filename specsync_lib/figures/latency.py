"""What notebook 05 shows of latency: claimed, simulated, real-shape and measured side by side, and who hides what.

Everything is read from files: ``data/claims.json``, ``data/measurements/`` and the run's summary. What a file would
hold that is not there is called "not measured yet", never filled in.
"""

import fnmatch
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Literal

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from specsync_lib.figures.kernels import measurement, results_table, select
from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.measures.latency import Interval, buffer_for, percentile_interval, playout
from specsync_lib.paths import display_path
from specsync_lib.pipeline.run import PipelineReport
from specsync_lib.pipeline.simulate import (
    CHUNK_MS,
    LABEL,
    REASONING_TOKENS,
    WAYS,
    Answers,
    ChunkPattern,
    Setup,
    claims,
    exactly,
    late_verdicts,
    measured_files,
    measured_setups,
    random_pattern,
    simulate,
    summary_row,
)
from specsync_lib.pipeline.trace import STAGES
from specsync_lib.units import FRAMES_PER_CHUNK

MODE_NAMES = {
    "serial": "serial",
    "serial_reasoning": "serial, reasoning first",
    "speculative": "speculative",
    "speculative_branched": "speculative, several plans a pass",
    "speculative_lenient": "speculative, lenient",
}
FEWEST_FOR_P99 = 100  # chunks: of fewer, p99 is only the slowest
EXACT = ("speculative_branched", "speculative")  # the speculative modes that keep the judge's plan, the surest first
OTHER_STEPS = r"_\d+steps$"  # a region measured with another number of denoising steps too: in the table alone
# bars of a setup, and their hatches
COMPARED = {"serial": "", "speculative": "//", "speculative_branched": "xx", "speculative_lenient": ".."}
# What a chunk's latency is made of, in the order in which it passes; each has its colour everywhere.
PARTS = {
    "not broken down": "claimed",
    "draft": "draft",
    "reasoner writes": "target",
    "denoise": "accepted",
    "decode": "coverage",
    "verdict and roll-back": "rejected",
}
POLICY_ROLES = {"hold": "accepted", "midflight": "corrected", "rollback": "rejected", "lenient": "draft"}
POLICY_NAMES = {
    "hold": "last step waits for a pass",
    "midflight": "corrected mid-flight",
    "rollback": "always rolled back",
    "lenient": "lenient: the draft stands",
}
NOT_MEASURED = "not measured yet"
NOTICED_OFFSET_MS, STEADY_RATIO, NEAR_PERFECT_R = 45.0, 1.5, 0.95
SHORTEST_SHOWN_MS = 0.05
GANTT_ROLES = {"draft": "draft", "plan": "target", "verify": "target", "step": "accepted", "render": "coverage"}
GANTT_NAMES = {"plan": "write the plan", "step": "denoise", "render": "decode"}
# The judge's word: colour and legend by how the pipeline took it.
VERDICT_ROLES = {
    "guessed": ("draft", "the probe's guess"),
    "not final": ("corrected", "first opinion"),
    "accepting": ("accepted", "verdict: accepts"),
    "rejecting": ("rejected", "verdict: rejects"),
}


# --- latency, side by side --------------------------------------------------------------------------------------------


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


def _simulated(
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
        latency_ms = _simulated(setup, mode, answers, rng, chunks).chunks()["latency_ms"]
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
    """One row a part: claimed, simulated, then every measured file that exists."""
    rows = claimed_rows() + simulated_rows(setup, answers, rng)
    for path in sorted(measured_files(), key=two_gpus_first):
        rows += measured_rows(path, rng)
    return pd.DataFrame(rows)


def comparison_figure(table: pd.DataFrame) -> Figure:
    """`draw_comparison` of the setups with the usual number of steps; those on a CPU, ten times slower, on an axis of
    their own."""
    table = table[~table["setup"].str.contains(OTHER_STEPS)]
    on_cpu = table["setup"].str.startswith("cpu")
    groups = [part for part in (table[~on_cpu], table[on_cpu]) if len(part)]
    counts = [len(part[["setup", "label"]].drop_duplicates()) for part in groups]
    figure = plt.figure(figsize=(11, 1.6 * len(groups) + 1 + 1.3 * sum(counts)))
    axes = figure.subplots(len(groups), 1, height_ratios=[count + 0.4 for count in counts], squeeze=False)[:, 0]
    for part, ax in zip(groups, axes, strict=True):
        draw_comparison(part, ax)
    return figure


def draw_comparison(table: pd.DataFrame, ax: Axes) -> None:
    """Serial against speculative for every setup, stage by stage, intervals of the median as whiskers; in words p99, or
    how few chunks there are."""
    pairs = table[["setup", "label", "mode"]].drop_duplicates()
    setups = pairs[["setup", "label"]].drop_duplicates().reset_index(drop=True)
    for place, (setup, label) in enumerate(setups.itertuples(index=False)):
        here = table[(table["setup"] == setup) & (table["label"] == label)]
        ran = [mode for mode in COMPARED if mode in set(here["mode"])]
        for index, mode in enumerate(ran):
            offset, hatch = 0.22 * (index - (len(ran) - 1) / 2), COMPARED[mode]
            bar, left = here[here["mode"] == mode], 0.0
            for part, ms in zip(bar["part"], bar["ms"], strict=True):
                ax.barh(place + offset, ms, 0.19, left, color=ROLE_COLOURS[PARTS[part]], hatch=hatch, edgecolor="white")
                left += ms
            total = end = bar["p50_ms"].iloc[0]
            if "p50_low_ms" in bar and np.isfinite(bar["p50_low_ms"].iloc[0]):
                end = bar["p50_high_ms"].iloc[0]
                ends = [[total - bar["p50_low_ms"].iloc[0]], [end - total]]
                ax.errorbar(total, place + offset, xerr=ends, color="black", capsize=3, lw=1.2)
            text = f"  {MODE_NAMES[mode]} {total:,.0f} ms"
            if "p99_ms" in bar and np.isfinite(bar["p99_ms"].iloc[0]):
                few = bar["n"].iloc[0] < FEWEST_FOR_P99
                text += f" ({bar['n'].iloc[0]:.0f} chunks)" if few else f" (p99 {bar['p99_ms'].iloc[0]:,.0f})"
            ax.annotate(text, (end, place + offset), va="center", fontsize=9)
    ax.set_yticks(range(len(setups)), [labelled(setup, label) for setup, label in setups.itertuples(index=False)])
    ax.set_ylim(len(setups) - 0.5, -0.75)
    ax.axvline(CHUNK_MS, color=ROLE_COLOURS["baseline"], ls=":", lw=1.2)
    ax.annotate(" a chunk of video", (CHUNK_MS, -0.62), fontsize=8.5, color=ROLE_COLOURS["baseline"], va="center")
    longest = table[[column for column in ("p50_ms", "p50_high_ms") if column in table]].max().max()
    ax.set(xlim=(0, 1.6 * longest), xlabel="median latency of a chunk, last sample to frames (ms)")
    shown = [part for part in PARTS if part in set(table["part"])]
    labels = {part: sorted(set(table.loc[table["part"] == part, "label"])) for part in shown}
    ax.legend(
        [Patch(color=ROLE_COLOURS[PARTS[part]]) for part in shown],
        [f"{part} ({', '.join(labels[part])})" for part in shown],
        loc="upper left", bbox_to_anchor=(1, 1),
    )  # fmt: skip
    ax.grid(axis="y", visible=False)


# --- who hides behind whom --------------------------------------------------------------------------------------------


def draw_gantt(report: PipelineReport, ax: Axes, *, first: int = 0, chunks: int = 4, label: str = "measured") -> None:
    """Some chunks of a run as bars over time, one row a stage; the number in a bar is its chunk."""
    table = report.trace.table()
    shown = table[table["chunk"].between(first, first + chunks - 1)]
    origin_s = shown["start_s"].min()
    handles: dict[str, Artist] = {}
    for row in shown.itertuples():
        place, start_ms = STAGES.index(row.stage), 1000 * (row.start_s - origin_s)
        kind = row.what.split()[0]
        if kind in GANTT_ROLES:
            dropped = row.stage == "generator" and _dropped(table, row)
            style = {"color": ROLE_COLOURS[GANTT_ROLES[kind]], "edgecolor": "white"}
            ax.barh(place, row.duration_ms, 0.7, start_ms, lw=0.8, hatch="xx" if dropped else None, **style)
            if kind in ("verify", "plan", "render"):
                ax.annotate(
                    str(row.chunk), (start_ms + row.duration_ms / 2, place), ha="center", va="center", color="w"
                )
            name = GANTT_NAMES.get(kind, kind)
            handles[name] = Patch(**style, label=name)
            if dropped:
                handles["dropped"] = Patch(facecolor="grey", edgecolor="white", hatch="xx", label="dropped")
        elif row.what == "verdict" and row.note in VERDICT_ROLES:
            role, name = VERDICT_ROLES[row.note]
            (handles[name],) = ax.plot(
                start_ms, place + 0.42, "^", color=ROLE_COLOURS[role], ms=8, ls="", label=name, clip_on=False
            )
        elif row.what == "heard":
            style = {"color": ROLE_COLOURS["baseline"], "ms": 8, "ls": "", "label": "last sample heard"}
            (handles["heard"],) = ax.plot(start_ms, place, ">", **style)
        elif row.what == "commit":
            style = {"color": ROLE_COLOURS["target"], "ms": 8, "ls": "", "label": "frames out"}
            (handles["out"],) = ax.plot(1000 * (row.end_s - origin_s), place, "s", **style)
    ax.set_yticks(range(len(STAGES)), STAGES)
    ax.invert_yaxis()
    ax.set(title=labelled(report.mode, label))
    ax.grid(axis="y", visible=False)
    ax.legend(handles=list(handles.values()), loc="upper left", bbox_to_anchor=(1, 1))


def _dropped(table: pd.DataFrame, job: tuple) -> bool:
    """Whether a generator's job was for nothing: its chunk was begun anew later, or rewound over it."""
    later = table[(table["stage"] == "generator") & (table["chunk"] == job.chunk) & (table["start_s"] >= job.end_s)]
    kinds = later["what"].str.split().str[0].tolist()
    if {"rolled", "generation"} & set(kinds):
        return True
    undone = [kind for kind in kinds if kind in ("step", "rewind")][:1] == ["rewind"]
    return undone if job.what.startswith("step") else job.what == "render" and "rewind" in kinds


# --- late verdicts ----------------------------------------------------------------------------------------------------


def draw_late_latency(table: pd.DataFrame, serial_ms: float, ax: Axes, measured: pd.DataFrame | None = None) -> None:
    """Mean latency over the rejection rate by policy: lines by hand, marks simulated, large hollow ones measured."""
    for policy, rows in table.groupby("policy", sort=False):
        role = POLICY_ROLES[policy]
        ax.plot(rows["rate"], rows["mean_ms"], ROLE_MARKERS[role], ls="", color=ROLE_COLOURS[role],
                label=labelled(POLICY_NAMES[policy], LABEL))  # fmt: skip
        ax.plot(rows["rate"], rows["expected_ms"], color=ROLE_COLOURS[role], lw=1)
    for (policy, label), rows in () if measured is None else measured.groupby(["policy", "label"], sort=False):
        role = POLICY_ROLES[policy]
        ax.plot(rows["rate"], rows["mean_ms"], ROLE_MARKERS[role], ls="", color=ROLE_COLOURS[role], mfc="none", ms=13,
                label=labelled(POLICY_NAMES[policy], label))  # fmt: skip
    ax.axhline(serial_ms, color=ROLE_COLOURS["target"], ls="--", label=labelled("serial", LABEL))
    ax.set(xlabel="share of chunks rejected", ylabel="mean latency of a chunk (ms)", ylim=(0, None))
    ax.legend(loc="best", fontsize="small")


def draw_late_error(table: pd.DataFrame, ax: Axes, mm_per_wrong_frame: float | None = None) -> None:
    """Frames that went out with a viseme that is not the judge's, over the rejection rate; on the right, where it is
    known what such a frame costs (`late_lips`), the mean lip error in mm."""
    for policy, rows in table.groupby("policy", sort=False):
        role = POLICY_ROLES[policy]
        ax.plot(rows["rate"], rows["plan_error"], ROLE_MARKERS[role], ls="-", color=ROLE_COLOURS[role],
                label=labelled(POLICY_NAMES[policy], LABEL))  # fmt: skip
    ax.set(xlabel="share of chunks rejected", ylabel="frames not as the judge wants", ylim=(-0.005, None))
    ax.legend(fontsize="small")
    if mm_per_wrong_frame:
        lips = ax.secondary_yaxis(
            "right", functions=(lambda share: share * mm_per_wrong_frame, lambda mm: mm / mm_per_wrong_frame)
        )
        lips.set_ylabel("mean lip error (mm)")


# --- confidence threshold ---------------------------------------------------------------------------------------------


def chunk_table(frames: pd.DataFrame, frames_per_chunk: int = FRAMES_PER_CHUNK) -> pd.DataFrame:
    """Chunks of a frame table (utterance, confidence, accepted): mean confidence, and whether a frame is rejected."""
    number = frames.groupby("utterance", sort=False).cumcount() // frames_per_chunk
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
            pattern = random_pattern(float(begun["rejected"].mean()), n, rng)
            report = simulate(setup, "speculative", pattern, rng, chunks=n)
            total += len(begun) * summary_row(report)["mean_ms"]
        if len(waits):
            passes = 1 + waits["rejected"]
            verify = sum(setup.verify_ms(int(count)).median_ms for count in passes)
            total += verify + len(waits) * (setup.draft.median_ms + setup.generation_ms + setup.commit.median_ms)
        rejected = float(begun["rejected"].mean()) if len(begun) else float("nan")
        rows.append((threshold, len(begun) / len(chunks), rejected, total / len(chunks)))
    return pd.DataFrame(rows, columns=["threshold", "begun", "rejected", "mean_ms"]).assign(label=LABEL)


# --- the slider -------------------------------------------------------------------------------------------------------


class LatencyExplorer:
    """Sliders over the rejection rate and the threshold, on tables computed before; ``widget`` is what is displayed.

    Parameters
    ----------
    late : from `late_verdicts`, several setups in one table (column setup).
    serial_ms : each setup's serial latency.
    thresholds : from `threshold_table`, or None: then there is no such panel.
    """

    def __init__(
        self, late: pd.DataFrame, serial_ms: Mapping[str, float], thresholds: pd.DataFrame | None = None
    ) -> None:
        self._late, self._serial_ms, self._thresholds = late, serial_ms, thresholds
        rates = sorted(late["rate"].unique())
        self.setup = ipywidgets.Dropdown(options=list(serial_ms), description="setup")
        self.rate = ipywidgets.SelectionSlider(
            options=[(f"{rate:.0%}", rate) for rate in rates], value=rates[len(rates) // 2], description="rejected"
        )
        self.threshold = ipywidgets.FloatSlider(value=0.85, min=0, max=1, step=0.05, description="threshold")
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        knobs = [self.setup, self.rate] + ([] if thresholds is None else [self.threshold])
        self.widget = ipywidgets.VBox([ipywidgets.HBox(knobs), self.image])
        for knob in knobs:
            knob.observe(lambda change: self.draw(), names="value")
        self.draw()

    def draw(self) -> None:
        """The picture for where the knobs stand."""
        figure = Figure(figsize=(12, 4.2), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2 if self._thresholds is None else 3)
        rows = self._late[self._late["setup"] == self.setup.value]
        serial_ms = self._serial_ms[self.setup.value]
        draw_late_latency(rows, serial_ms, axes[0])
        axes[0].axvline(self.rate.value, color=ROLE_COLOURS["target"], ls=":")
        here = rows[np.isclose(rows["rate"], self.rate.value)]
        names = ["serial", *[POLICY_NAMES[policy] for policy in here["policy"]]]
        colours = [ROLE_COLOURS[role] for role in ("target", *[POLICY_ROLES[policy] for policy in here["policy"]])]
        values = [serial_ms, *here["mean_ms"]]
        axes[1].barh(names, values, color=colours)
        for name, value in zip(names, values, strict=True):
            axes[1].annotate(f" {value:,.0f} ms", (value, name), va="center")
        axes[1].invert_yaxis()
        axes[1].set(xlim=(0, 1.3 * max(values)), xlabel="mean latency (ms)", title=f"{self.rate.value:.0%} rejected")
        if self._thresholds is not None:
            draw_threshold(self._thresholds, self.threshold.value, axes[2])
        canvas.draw()
        png = io.BytesIO()
        figure.savefig(png, format="png")
        self.image.value = png.getvalue()


def draw_threshold(table: pd.DataFrame, threshold: float, ax: Axes) -> None:
    """Mean latency over the confidence under which a chunk is not begun before its verdict, and the share begun."""
    style = {"color": ROLE_COLOURS["accepted"], "marker": ROLE_MARKERS["accepted"]}
    ax.plot(table["threshold"], table["mean_ms"], label=labelled("mean latency", LABEL), **style)
    ax.axvline(threshold, color=ROLE_COLOURS["target"], ls=":")
    ax.set(xlabel="threshold on a chunk's mean confidence", ylabel="mean latency (ms)", ylim=(0, None))
    shares = ax.twinx()
    shares.plot(table["threshold"], table["begun"], color=ROLE_COLOURS["coverage"], ls="--",
                label=labelled("chunks begun at once", "measured"))  # fmt: skip
    shares.set(ylim=(0, 1.05), ylabel="share of chunks")
    shares.grid(visible=False)
    handles = [*ax.get_legend_handles_labels()[0], *shares.get_legend_handles_labels()[0]]
    ax.legend(handles=handles, loc="lower left", fontsize="small")


# --- delivery and motion jitter ---------------------------------------------------------------------------------------


def delivery_table(runs: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Per run (name to committed_s): the buffer that makes all but one chunk in a hundred punctual, and what is left.

    delivery_jitter_p99_ms: lateness of a picture behind that buffer. motion_jitter_ms: standard deviation of the time
    between pictures, 0 when motion is even. frozen: share of pictures that stand longer than one and a half of theirs.
    falls_behind_ms: how much later each further chunk is; above 0 no buffer is enough.
    """
    rows = []
    for name, committed_s in runs.items():
        committed_s = np.asarray(committed_s, float)
        seen = playout(committed_s, buffer_for(committed_s, 0.99))
        trend_ms = 1000 * np.polyfit(np.arange(len(committed_s)), committed_s, 1)[0] - CHUNK_MS
        rows.append({
            "run": name, "buffer_ms": 1000 * buffer_for(committed_s, 0.99),
            "delivery_jitter_p99_ms": float(np.percentile(seen["late_ms"], 99)),
            "motion_jitter_ms": float(seen["step_ms"].std()), "frozen": float((seen["step_ms"] > 50).mean()),
            "falls_behind_ms": float(trend_ms), "n_chunks": len(committed_s),
        })  # fmt: skip
    return pd.DataFrame(rows)


def draw_delivery(runs: Mapping[str, Sequence[float]], labels: Mapping[str, str], ax: Axes) -> None:
    """How long after its own sound each chunk of a live stream is out."""
    simulated, ran = cycle(("accepted", "coverage")), cycle(("corrected", "draft", "rejected"))
    for name, committed_s in runs.items():
        measured = labels[name] != LABEL
        role = "target" if name.startswith("serial") else next(ran if measured else simulated)
        late_ms = 1000 * np.asarray(committed_s) - CHUNK_MS * np.arange(len(committed_s))
        style = {"color": ROLE_COLOURS[role], "marker": ROLE_MARKERS[role], "ls": "--" if measured else "-"}
        ax.plot(late_ms, ms=4, label=labelled(name, labels[name]), **style)
    ax.set(xlabel="chunk of a live stream", ylabel="out, after its sound (ms)", yscale="log")
    ax.legend()


def paced_runs(directory: Path | None = None) -> list[tuple[str, str, list[float]]]:
    """Measured runs at the pace of speech: name, label, committed_s, the last chunk left out: it waits for no sound."""
    found = []
    for path in measured_files(directory):
        content = json.loads(path.read_text(encoding="utf-8"))
        for region, result in content["regions"].items():
            if "paced" in result:
                mode = MODE_NAMES[result["paced"].get("mode", "speculative")]
                name = f"{mode}, {content['setup']} {region}"
                found.append((name, content["label"], result["paced"]["committed_s"][:-1]))
    return found


def draw_chips(table: pd.DataFrame, ax: Axes) -> None:
    """Both pipelines on every chip, with the length of a chunk of video."""
    places = np.arange(len(table))
    for offset, mode, role in ((-0.19, "serial", "target"), (0.19, "speculative", "accepted")):
        values = table[f"{mode}_p50_ms"]
        ax.barh(places + offset, values, 0.36, color=ROLE_COLOURS[role], label=labelled(mode, LABEL))
        for place, value in zip(places, values, strict=True):
            ax.annotate(f" {value:,.0f}", (value, place + offset), va="center", fontsize=9)
    names = [f"{row.chips} x {row.chip}, {row.reasoner}" for row in table.itertuples()]
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.axvline(CHUNK_MS, color=ROLE_COLOURS["baseline"], ls=":", label="a chunk of video")
    ax.set(xlabel="median latency of a chunk (ms)")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=3)


# --- claims -----------------------------------------------------------------------------------------------------------


def verdict_table(summary: Mapping[str, Mapping], directory: Path | None = None) -> pd.DataFrame:
    """The source report's claims, what this suite found, and a verdict computed from files.

    Parameters
    ----------
    summary : the run's recorded numbers (`summary.merged`).

    Returns
    -------
    Columns claim, claimed, found, label, verdict, source. Verdicts: holds, does not hold, exceeded, in part, or "not
    measured yet" where the file is absent.
    """
    said = claims()
    rows = [
        _latency_verdict(said["serial_ms"], ("serial",), directory),
        _latency_verdict(said["speculative_ms"], EXACT, directory),
        _reduction_verdict(said["reduction"], directory),
        _acceptance_verdict(said["acceptance_at_085"], summary),
        _kernel_verdict(said["kernel_overhead_ms"]),
        _summary_verdict(
            said["video"], summary, ("video.frame_count_error", "video.av_end_difference_ms"), {"video.*ms": 34.0}
        ),
        _lip_sync_verdict(said["lip_sync"], summary),
        _sm120_verdict(said["sm_120"], summary),
    ]
    return pd.DataFrame(rows, columns=["claim", "claimed", "found", "label", "verdict", "source"])


def _said(claim: Mapping) -> str:
    value = claim["value"]
    if value is None:
        return "no number"
    return f"{value:.0%}" if claim["unit"] == "fraction" else f"{value:g} {claim['unit']}"


def _row(claim: Mapping, found: str, label: str, verdict: str, source: str) -> tuple:
    return claim["what"], _said(claim), found, label, verdict, source


def _absent(claim: Mapping) -> tuple:
    return _row(claim, NOT_MEASURED, "", NOT_MEASURED, "")


def _headline(directory: Path | None) -> tuple[dict, str, dict, Path] | None:
    """The full-scale measurement that the headline rests on: two GPUs before one, 384 px before others."""
    for path in sorted(measured_files(directory), key=two_gpus_first):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "h200" in content["setup"]:
            for region, result in sorted(content["regions"].items(), key=lambda item: not item[0].startswith("384")):
                if {"serial", "speculative"} <= set(result["runs"]):
                    return content, region, result["runs"], path
    return None


def headline_setup(directory: Path | None = None) -> Setup | None:
    """The stage times of the headline's measurement, None where there is none: those of the speculative run, with the
    serial run's plan."""
    measured = _headline(directory)
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


def measured_policies(directory: Path | None = None) -> pd.DataFrame:
    """Measured runs of the policies for late verdicts: setup, label, policy, rate, mean_ms, plan_error, n."""
    rows = []
    for path in measured_files(directory):
        content = json.loads(path.read_text(encoding="utf-8"))
        for region, result in content["regions"].items():
            shared = {"setup": f"{content['setup']} {region}", "label": content["label"]}
            rows += [shared | row for row in result.get("policies", ())]
    columns = ["setup", "label", "policy", "rate", "mean_ms", "plan_error", "n"]
    return pd.DataFrame(rows, columns=columns)


def measured_break_even(directory: Path | None = None) -> pd.DataFrame:
    """Where serial would win, out of measured latencies: chunks that were accepted, that were rejected, and serial's.

    break_even: share of rejected chunks at which the means meet; inf where even a rejected chunk is faster than serial.
    """
    rows = []
    for path in measured_files(directory):
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


def _latency_verdict(claim: Mapping, modes: Sequence[str], directory: Path | None) -> tuple:
    measured = _headline(directory)
    if measured is None:
        return _absent(claim)
    content, region, runs, path = measured
    found = runs[_first(modes, runs)]["p50_ms"]
    verdict = "holds" if abs(found / claim["value"] - 1) <= 0.1 else "exceeded" if found < claim["value"] else "missed"
    return _row(claim, f"{found:,.0f} ms, {content['setup']}, {region}", content["label"], verdict, display_path(path))


def _first(modes: Sequence[str], runs: Mapping) -> str:
    """The first of some modes that was run."""
    return next(mode for mode in modes if mode in runs)


def _reduction_verdict(claim: Mapping, directory: Path | None) -> tuple:
    measured = _headline(directory)
    if measured is None:
        return _absent(claim)
    content, region, runs, path = measured
    found = 1 - runs[_first(EXACT, runs)]["p50_ms"] / runs["serial"]["p50_ms"]
    verdict = "exceeded" if found > claim["value"] + 0.02 else "holds" if found >= claim["value"] - 0.02 else "missed"
    return _row(claim, f"{found:.0%}, {content['setup']}, {region}", content["label"], verdict, display_path(path))


def _acceptance_verdict(claim: Mapping, summary: Mapping[str, Mapping]) -> tuple:
    for key, coverage_key, judge in (
        ("acceptance.at_085", "acceptance.coverage_at_085", "language model"),
        ("draft.acceptance_at_085", "draft.coverage_at_085", "truth, not a reasoner"),
    ):
        if key in summary:
            entry, coverage = summary[key], summary.get(coverage_key)
            kept = f" of the {coverage['value']:.0%} of frames kept" if coverage else ""
            if judge == "language model":
                verdict = "holds" if entry["value"] >= claim["value"] else "missed"
            else:
                verdict = "in part: the judge is another"
            return _row(claim, f"{entry['value']:.0%}{kept}; judge: {judge}", entry["label"], verdict, entry["source"])
    return _absent(claim)


def _kernel_verdict(claim: Mapping) -> tuple:
    measured = measurement("project_latents")
    if measured is None:
        return _absent(claim)
    rows = select(results_table(measured), region="720p", slots=8, implementation="kernel", method="host call to ready")
    found = rows["median_us"].item() / 1e3
    verdict = "exceeded" if found < claim["value"] / 10 else "holds" if found <= claim["value"] else "missed"
    source = "data/measurements/kernel_project_latents_h200.json"
    return _row(claim, f"{found:.3f} ms, host call to result, H200, 720p", "measured", verdict, source)


def _summary_verdict(
    claim: Mapping, summary: Mapping[str, Mapping], keys: Sequence[str], limits: Mapping[str, float]
) -> tuple:
    """A claim that holds where recorded numbers are small: 0 is wanted, up to the limit of a key's pattern is fine."""
    found = {key: summary[key] for key in keys if key in summary}
    if not found:
        return _absent(claim)
    text = ", ".join(f"{key} {entry['value']:.3g} {entry['unit']}" for key, entry in found.items())
    within = all(
        abs(entry["value"]) <= next((limit for pattern, limit in limits.items() if fnmatch.fnmatch(key, pattern)), 0)
        for key, entry in found.items()
    )
    entry = next(iter(found.values()))
    complete = len(found) == len(keys)
    verdict = ("holds" if within else "missed") if complete else f"in part: {NOT_MEASURED} are the others"
    return _row(claim, text, entry["label"], verdict, entry["source"])


def _lip_sync_verdict(claim: Mapping, summary: Mapping[str, Mapping]) -> tuple:
    """In step and steady, by limits that a viewer would set; near-perfect only if the lips also follow truth's.

    Source of the offset's limit: ITU-R BT.1359-1, where viewers begin to notice sound that comes early.
    """
    timing = ("sync.av_offset_ms", "sync.jitter_ratio")
    found = _summary_verdict(claim, summary, timing, {"sync.*_ms": NOTICED_OFFSET_MS, "sync.*_ratio": STEADY_RATIO})
    lips = summary.get("sync.lip_r")
    if found[4] != "holds" or lips is None:
        return found
    verdict = "holds" if lips["value"] >= NEAR_PERFECT_R else "in part: in step and steady, the lips not near-perfect"
    return _row(claim, f"{found[2]}, sync.lip_r {lips['value']:.3g}", lips["label"], verdict, lips["source"])


def _sm120_verdict(claim: Mapping, summary: Mapping[str, Mapping]) -> tuple:
    entry = summary.get("kernel.sm120_max_shared_kib")
    if entry is None:
        return _absent(claim)
    fits = entry["value"] <= 99
    found = f"compiles ahead of time, {entry['value']:.0f} of 99 KiB shared memory; run on sm_90 alone"
    return _row(claim, found, entry["label"], "in part: never run there" if fits else "missed", entry["source"])


# --- summary ----------------------------------------------------------------------------------------------------------


def headline_numbers(directory: Path | None = None) -> list[dict]:
    """``latency.SETUP.*`` of every measured file, as keyword arguments of `summary.record`."""
    rng = np.random.default_rng(0)
    numbers = []
    for path in measured_files(directory):
        content = json.loads(path.read_text(encoding="utf-8"))
        regions = content["regions"]
        for region, result in regions.items():
            suffix = f"_{region}" if len(regions) > 1 else ""
            setup, runs = content["setup"].lower(), result["runs"]
            shared = {"label": content["label"], "source": path}
            for mode, share in (
                ("serial", 50), ("speculative", 50), ("speculative", 99), ("speculative_branched", 50),
                ("speculative_branched", 99), ("speculative_lenient", 50), ("speculative_lenient", 99),
            ):  # fmt: skip
                if mode in runs and (share == 50 or runs[mode]["n"] >= FEWEST_FOR_P99):
                    value = percentile_interval(runs[mode]["latency_ms"], runs[mode]["block"], share, rng)
                    key = f"latency.{setup}.{mode.removeprefix('speculative_')}_p{share}_ms{suffix}"
                    numbers.append(shared | {"key": key, "value": value.value, "unit": "ms", "low": value.low,
                                             "high": value.high, "n": value.n})  # fmt: skip
            if {"serial", "speculative"} <= set(runs):
                best = runs[_first(EXACT, runs)]
                saved, key = 1 - best["p50_ms"] / runs["serial"]["p50_ms"], f"latency.{setup}.reduction{suffix}"
                numbers.append(shared | {"key": key, "value": saved, "unit": "fraction", "n": best["n"]})
            if "paced" in result:
                committed_s = np.asarray(result["paced"]["committed_s"])
                jitter = delivery_table({"speculative": committed_s})["delivery_jitter_p99_ms"].item()
                key = f"latency.{setup}.delivery_jitter_p99_ms{suffix}"
                numbers.append(shared | {"key": key, "value": jitter, "unit": "ms", "n": len(committed_s)})
    return numbers


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


def live_runs(setup: Setup, answers: Answers, rng: np.random.Generator, chunks: int = 60) -> dict[str, list[float]]:
    """Both pipelines at the pace of speech, simulated: when each chunk was out, from when the first was heard."""
    runs = {}
    for mode in ("serial", "speculative", "speculative_branched"):
        report = _simulated(setup, mode, answers, rng, chunks, "real time")
        table = report.chunks()[:-1]  # the last chunk waits for no look-ahead
        runs[MODE_NAMES[mode]] = list(table["committed_s"] - table["heard_s"].iloc[0])
    return runs
