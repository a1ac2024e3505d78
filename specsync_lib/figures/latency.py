"""What notebook 05 shows of latency: claimed, simulated, real-shape and measured side by side, and who hides what.

Everything is read from files: ``data/claims.json``, ``data/measurements/`` and the run's summary. What a file would
hold that is not there is called "not measured yet", never filled in.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from specsync_lib.figures.drawing import Drawing
from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.measures.latency_tables import COMPARED, FEWEST_FOR_P99, MODE_NAMES, OTHER_STEPS, PARTS, simulated_run
from specsync_lib.pipeline.answers import Answers
from specsync_lib.pipeline.simulate import CHUNK_MS, LABEL
from specsync_lib.pipeline.stage_times import Setup
from specsync_lib.pipeline.trace import STAGES
from specsync_lib.units import VIDEO_FPS

HEADLINE_REGION = "384px"
SCREEN_IN = (13, 7.3)  # 16 to 9: a figure that is read without scrolling
POLICY_ROLES = {"hold": "accepted", "midflight": "corrected", "rollback": "rejected", "overrule": "draft"}
POLICY_NAMES = {
    "hold": "last step waits for a pass",
    "midflight": "corrected mid-flight",
    "rollback": "always rolled back",
    "overrule": "overrule: the draft stands",
}
GANTT_ROLES = {"draft": "draft", "plan": "target", "verify": "target", "step": "accepted", "render": "coverage"}
GANTT_NAMES = {"plan": "write the plan", "step": "denoise", "render": "decode"}
AGE_ROLES = {
    "chunk_wait_ms": "baseline", "look_ahead_ms": "draft", "judge_ms": "target", "generation_ms": "accepted",
    "decoding_ms": "coverage",
}  # fmt: skip
# The judge's word: colour and legend by how the pipeline took it.
VERDICT_ROLES = {
    "guessed": ("draft", "the probe's guess"),
    "not final": ("corrected", "first opinion"),
    "accepting": ("accepted", "verdict: accepts"),
    "rejecting": ("rejected", "verdict: rejects"),
}


# --- latency, side by side --------------------------------------------------------------------------------------------


def comparison_figure(table: pd.DataFrame) -> Figure:
    """`draw_comparison` on one screen: of the full-size setups those of the headline's region, with the usual number of
    steps; those on a CPU, ten times slower, on an axis of their own. The other regions are in the table."""
    table = table[~table["setup"].str.contains(OTHER_STEPS)]
    on_cpu = table["setup"].str.startswith("cpu")
    headline = table["setup"].str.contains(HEADLINE_REGION) | (table["label"] == "claimed")
    groups = [part for part in (table[~on_cpu & headline], table[on_cpu]) if len(part)]
    counts = [len(part[["setup", "label"]].drop_duplicates()) for part in groups]
    figure = plt.figure(figsize=SCREEN_IN, layout="constrained")
    axes = figure.subplots(len(groups), 1, height_ratios=[count + 0.6 for count in counts], squeeze=False)[:, 0]
    for part, ax in zip(groups, axes, strict=True):
        draw_comparison(part, ax)
        ax.get_legend().remove()
    shown = [part for part in PARTS if part in set(pd.concat(groups)["part"])]
    figure.legend(*stage_handles(shown), loc="outside lower center", ncols=len(shown))
    return figure


def stage_handles(parts: Sequence[str]) -> tuple[list[Patch], list[str]]:
    """Legend of what a latency is made of; where a bar's numbers come from stands at its setup."""
    return [Patch(color=ROLE_COLOURS[PARTS[part]]) for part in parts], list(parts)


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
    ax.legend(*stage_handles(shown), loc="upper left", bbox_to_anchor=(1, 1))
    ax.grid(axis="y", visible=False)


# --- who hides behind whom --------------------------------------------------------------------------------------------


def draw_gantt(table: pd.DataFrame, ax: Axes, *, first: int = 0, chunks: int = 4, title: str) -> None:
    """Some chunks of a run's trace (`Trace.table`) as bars over time, one row a stage; a bar's number is its chunk."""
    shown = table[table["chunk"].between(first, first + chunks - 1)]
    origin_s = shown["start_s"].min()
    handles: dict[str, Artist] = {}
    for row in shown.itertuples():
        place, start_ms = STAGES.index(row.stage), 1000 * (row.start_s - origin_s)
        kind = row.what.split()[0]
        if kind in GANTT_ROLES:
            dropped = row.stage == "generator" and _dropped(table, row)
            style = {"facecolor": ROLE_COLOURS[GANTT_ROLES[kind]], "edgecolor": "white"}
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
    ax.set(title=title)
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


def draw_ages(ages: pd.DataFrame, ax: Axes, *, title: str) -> None:
    """The parts of every frame's age (`outcome.frame_ages`) over its place in the recording, stacked."""
    times_s = (ages["frame"] + 0.5) / VIDEO_FPS
    ax.stackplot(
        times_s,
        [ages[part] for part in AGE_ROLES],
        colors=[ROLE_COLOURS[role] for role in AGE_ROLES.values()],
        labels=[part.removesuffix("_ms").replace("_", " ") for part in AGE_ROLES],
        step="mid",
    )
    ax.set(title=title, ylabel="age of a frame (ms)", xlim=(0, times_s.max()), ylim=(0, None))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


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


# --- sliders ----------------------------------------------------------------------------------------------------------


def draw_threshold(table: pd.DataFrame, threshold: float, ax: Axes) -> Drawing:
    """Mean latency over the confidence under which a chunk is not begun before its verdict, and the share begun."""
    style = {"color": ROLE_COLOURS["accepted"], "marker": ROLE_MARKERS["accepted"]}
    ax.plot(table["threshold"], table["mean_ms"], label=labelled("mean latency", LABEL), **style)
    line = ax.axvline(threshold, color=ROLE_COLOURS["target"], ls=":")
    ax.set(xlabel="threshold on a chunk's mean confidence", ylabel="mean latency (ms)", ylim=(0, None))
    shares = ax.twinx()
    shares.plot(table["threshold"], table["begun"], color=ROLE_COLOURS["coverage"], ls="--",
                label=labelled("chunks begun at once", "measured"))  # fmt: skip
    shares.set(ylim=(0, 1.05), ylabel="share of chunks")
    shares.grid(visible=False)
    handles = [*ax.get_legend_handles_labels()[0], *shares.get_legend_handles_labels()[0]]
    ax.legend(handles=handles, loc="lower left", fontsize="small")
    return Drawing((line,), lambda threshold: line.set_xdata([threshold, threshold]))


def draw_rejected(rows: pd.DataFrame, serial_ms: float, axes: Sequence[Axes]) -> Drawing:
    """`draw_late_latency` with a line at a rejection rate, and beside it every policy's mean latency there as a bar; it
    moves with the rate."""
    draw_late_latency(rows, serial_ms, axes[0])
    line = axes[0].axvline(0.0, color=ROLE_COLOURS["target"], ls=":")
    policies = list(rows["policy"].unique())
    names = ["serial", *[POLICY_NAMES[policy] for policy in policies]]
    colours = [ROLE_COLOURS[role] for role in ("target", *[POLICY_ROLES[policy] for policy in policies])]
    bars = axes[1].barh(names, [serial_ms] * len(names), color=colours)
    texts = [axes[1].text(0, place, "", va="center") for place in range(len(names))]
    title = axes[1].set_title(" ", loc="left")
    axes[1].invert_yaxis()
    longest = max(serial_ms, rows["mean_ms"].max())
    axes[1].set(xlim=(0, 1.3 * longest), xlabel=f"mean latency (ms, {LABEL})")

    def move(rate: float) -> None:
        here = rows[np.isclose(rows["rate"], rate)].set_index("policy")["mean_ms"]
        line.set_xdata([rate, rate])
        title.set_text(f"{rate:.0%} rejected")
        for bar, text, value in zip(bars, texts, [serial_ms, *here.loc[policies]], strict=True):
            bar.set_width(value)
            text.set(x=value, text=f" {value:,.0f} ms")

    move(rows["rate"].min())
    return Drawing((line, *bars, *texts, title), move)


# --- delivery and motion jitter ---------------------------------------------------------------------------------------


def draw_delivery(runs: Mapping[str, Sequence[float]], labels: Mapping[str, str], ax: Axes) -> None:
    """How long after its own sound each chunk of a live stream is out."""
    simulated, ran = cycle(("accepted", "coverage")), cycle(("corrected", "draft", "rejected", "claimed"))
    for name, committed_s in runs.items():
        measured = labels[name] != LABEL
        role = "target" if name.startswith("serial") else next(ran if measured else simulated)
        late_ms = 1000 * np.asarray(committed_s) - CHUNK_MS * np.arange(len(committed_s))
        style = {"color": ROLE_COLOURS[role], "marker": ROLE_MARKERS[role], "ls": "--" if measured else "-"}
        ax.plot(late_ms, ms=4, label=labelled(name, labels[name]), **style)
    ax.set(xlabel="chunk of a live stream", ylabel="out, after its sound (ms)", yscale="log")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


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


# --- summary ----------------------------------------------------------------------------------------------------------


def live_runs(setup: Setup, answers: Answers, rng: np.random.Generator, chunks: int = 60) -> dict[str, list[float]]:
    """Both pipelines at the pace of speech, simulated: when each chunk was out, from when the first was heard."""
    runs = {}
    for mode in ("serial", "speculative", "speculative_branched"):
        report = simulated_run(setup, mode, answers, rng, chunks, "real time")
        table = report.chunks()[:-1]  # the last chunk waits for no look-ahead
        runs[MODE_NAMES[mode]] = list(table["committed_s"] - table["heard_s"].iloc[0])
    return runs
