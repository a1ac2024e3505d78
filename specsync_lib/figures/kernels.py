"""The kernels' committed GPU measurements as tables and pictures: what notebook 02 shows on any machine."""

import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.paths import MEASUREMENTS_DIR

CLAIMED_MS = 15.0  # the source report: "kernel overhead under 15 ms"
IMPLEMENTATION_ROLES = {"kernel": "accepted", "compile": "draft", "cublas": "coverage", "eager": "baseline"}
IMPLEMENTATION_NAMES = {
    "kernel": "this kernel",
    "compile": "torch.compile, max-autotune",
    "cublas": "cuBLAS + pointwise",
    "eager": "torch eager",
}


def measurement(kernel: str, gpu: str = "h200") -> dict | None:
    """The committed measurement of a kernel on a GPU, or None when it has not been measured."""
    path = MEASUREMENTS_DIR / f"kernel_{kernel}_{gpu}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def where_from(measured: dict | None) -> str:
    """Machine and date of a measurement, in words."""
    if measured is None:
        return "not measured yet"
    facts = measured["provenance"]
    return f"measured on {facts['gpu']}, {facts['date']}, torch {facts['torch']}, triton {facts['triton']}"


def results_table(measured: dict | None) -> pd.DataFrame:
    """One row per implementation, shape, method and cache state; empty without a measurement."""
    return pd.DataFrame(measured["results"] if measured else [])


def select(table: pd.DataFrame, **conditions: object) -> pd.DataFrame:
    """Rows where every named column has the given value."""
    keep = np.logical_and.reduce([table[name] == value for name, value in conditions.items()])
    return table[keep]


def aims_table(measured: dict | None) -> pd.DataFrame:
    """The aims (720p, 8 slots, H200, cold cache) beside what was measured; empty without a measurement."""
    if measured is None:
        return pd.DataFrame(columns=["aim", "wanted", "measured", "met"])
    here = select(results_table(measured), region="720p", slots=8)
    cold = select(here, method="rotating graph", cache="cold").set_index("implementation")
    copy = measured["copy"][0]["gb_per_s"]
    kernel = cold.loc["kernel"]
    floor_us = kernel["bytes"] / copy / 1e3
    single = select(here, method="single graph", cache="cold", implementation="kernel")["p99_us"].item()
    host = select(here, method="host call to ready", implementation="kernel")["median_us"].item()
    rows = [
        ("share of the copy bandwidth", ">= 0.80", kernel["gb_per_s"] / copy, kernel["gb_per_s"] / copy >= 0.8),
        ("time over the byte floor", "<= 1.3", kernel["median_us"] / floor_us, kernel["median_us"] <= 1.3 * floor_us),
    ]
    for name, wanted in (("compile", 1.5), ("eager", 2.0)):
        if name in cold.index:
            ratio = cold.loc[name, "median_us"] / kernel["median_us"]
            rows.append((f"times as fast as {IMPLEMENTATION_NAMES[name]}", f">= {wanted}", ratio, ratio >= wanted))
    rows += [
        ("p99 inside a CUDA graph, ms", "< 0.1", single / 1e3, single < 100),
        ("host call to result ready, ms", "< 1", host / 1e3, host < 1000),
    ]
    return pd.DataFrame(rows, columns=["aim", "wanted", "measured", "met"])


def versions_table(measured: dict | None) -> pd.DataFrame:
    """Each version's time by slots, the same graph again, and what moved against the version before; may be empty."""
    if measured is None:
        return pd.DataFrame(columns=["name", "slots", "median_us", "again_median_us", "moved_us"])
    versions = pd.DataFrame(measured["versions"])
    return versions.assign(moved_us=versions.groupby("slots")["median_us"].diff())


def profile_table(measured: dict | None) -> pd.DataFrame:
    """The profiler's counters, one column a launch; of several profiled configurations one column each."""
    counters = {name: found for name, found in (measured or {}).get("profile", {}).items() if isinstance(found, dict)}
    several = {
        (name, kernel): values
        for name, kernels in counters.items()
        for kernel, values in kernels.items()
        if isinstance(values, dict)
    }
    return pd.DataFrame(several or counters)


def draw_not_measured(ax: Axes) -> None:
    """An honest blank."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not measured yet", ha="center", va="center", transform=ax.transAxes)


def draw_latency(table: pd.DataFrame, region: str, ax: Axes) -> None:
    """Device time per call against slots, cold cache, one line per implementation, p20 to p80 shaded."""
    if table.empty:
        return draw_not_measured(ax)
    rows = select(table, region=region, method="rotating graph", cache="cold")
    if rows.empty:
        return draw_not_measured(ax)
    for name, role in IMPLEMENTATION_ROLES.items():
        line = select(rows, implementation=name).sort_values("slots")
        if line.empty:
            continue
        style = {"color": ROLE_COLOURS[role], "marker": ROLE_MARKERS[role]}
        ax.plot(line["slots"], line["median_us"], label=labelled(IMPLEMENTATION_NAMES[name], "measured"), **style)
        ax.fill_between(line["slots"], line["p20_us"], line["p80_us"], color=ROLE_COLOURS[role], alpha=0.2, lw=0)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="slots T (133 ms of video each)",
        ylabel="device time per call (µs)",
        title=region,
    )
    ax.set_xticks(sorted(rows["slots"].unique()), [str(s) for s in sorted(rows["slots"].unique())])
    ax.minorticks_off()


def draw_roofline(table: pd.DataFrame, copy: list[dict], ax: Axes) -> None:
    """Achieved bandwidth against the bytes a call must move, under the copy bandwidth of the same run."""
    if table.empty:
        return draw_not_measured(ax)
    ceiling = pd.DataFrame(copy).sort_values("bytes")
    ax.plot(ceiling["bytes"] / 1e6, ceiling["gb_per_s"], color=ROLE_COLOURS["target"], marker=ROLE_MARKERS["target"],
            label=labelled("device copy of as many bytes", "measured"))  # fmt: skip
    rows = select(table, method="rotating graph", cache="cold")
    for name, role in IMPLEMENTATION_ROLES.items():
        dots = select(rows, implementation=name).sort_values("bytes")
        ax.plot(dots["bytes"] / 1e6, dots["gb_per_s"], ls="", color=ROLE_COLOURS[role], marker=ROLE_MARKERS[role],
                label=labelled(IMPLEMENTATION_NAMES[name], "measured"))  # fmt: skip
    ax.set(xscale="log", xlabel="fewest bytes a call must move (MB)", ylabel="achieved bandwidth (GB/s)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="center right", fontsize="small")


def draw_versions(versions: pd.DataFrame, floor_us: float, ax: Axes) -> None:
    """Time of each version at one number of slots as a bar, the byte floor as a line."""
    if versions.empty:
        return draw_not_measured(ax)
    ax.barh(versions["name"], versions["median_us"], color=ROLE_COLOURS["accepted"],
            xerr=[versions["median_us"] - versions["p20_us"], versions["p80_us"] - versions["median_us"]],
            label=labelled(f"720p, {versions['slots'].iloc[0]} slots, cold cache", "measured"))  # fmt: skip
    ax.axvline(floor_us, color=ROLE_COLOURS["target"], ls="--", label="bytes over the copy bandwidth")
    ax.invert_yaxis()
    ax.set(xlabel="device time per call (µs)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="small")


def draw_claim(measured: dict | None, ax: Axes) -> None:
    """The claimed kernel overhead beside the measured time from the host's call until the latents are ready."""
    if measured is None:
        return draw_not_measured(ax)
    here = select(results_table(measured), region="720p", slots=8, implementation="kernel")
    host = select(here, method="host call to ready")["median_us"].item() / 1e3
    graph = select(here, method="rotating graph", cache="cold")["median_us"].item() / 1e3
    rows = [
        ("kernel overhead, at most", CLAIMED_MS, "claimed", "claimed"),
        ("host call to result", host, "accepted", "measured"),
        ("device time", graph, "coverage", "measured"),
    ]
    for name, value, role, label in rows:
        ax.barh(labelled(name, label), value, color=ROLE_COLOURS[role])
        ax.annotate(f" {value:.3g} ms", (value, labelled(name, label)), va="center")
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="milliseconds, 720p, 8 slots")
    ax.margins(x=0.2)
