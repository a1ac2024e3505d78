"""The kernels' committed GPU measurements as tables and pictures: what notebook 02 shows on any machine."""

import pandas as pd
from matplotlib.axes import Axes

from specsync_lib.claims import CLAIMED_KERNEL_MS
from specsync_lib.figures.style import ROLE_COLOURS, ROLE_MARKERS, labelled
from specsync_lib.measures.kernels import IMPLEMENTATION_NAMES, results_table, select

IMPLEMENTATION_ROLES = {"kernel": "accepted", "compile": "draft", "cublas": "coverage", "eager": "baseline"}


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
        label = labelled(IMPLEMENTATION_NAMES[name], line["label"].iloc[0])
        ax.plot(line["slots"], line["median_us"], label=label, **style)
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
                label=labelled(IMPLEMENTATION_NAMES[name], dots["label"].iloc[0]))  # fmt: skip
    ax.set(xscale="log", xlabel="fewest bytes a call must move (MB)", ylabel="achieved bandwidth (GB/s)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="center right", fontsize="small")


def draw_versions(versions: pd.DataFrame, floor_us: float, ax: Axes) -> None:
    """Time of each version at one number of slots as a bar, the byte floor as a line."""
    if versions.empty:
        return draw_not_measured(ax)
    label = labelled(f"720p, {versions['slots'].iloc[0]} slots, cold cache", versions["label"].iloc[0])
    ax.barh(versions["name"], versions["median_us"], color=ROLE_COLOURS["accepted"],
            xerr=[versions["median_us"] - versions["p20_us"], versions["p80_us"] - versions["median_us"]],
            label=label)  # fmt: skip
    ax.axvline(floor_us, color=ROLE_COLOURS["target"], ls="--", label="bytes over the copy bandwidth")
    ax.invert_yaxis()
    ax.set(xlabel="device time per call (µs)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="small")


def draw_claim(measured: dict | None, ax: Axes) -> None:
    """The claimed kernel overhead beside the time from the host's call until the latents are ready."""
    if measured is None:
        return draw_not_measured(ax)
    here = select(results_table(measured), region="720p", slots=8, implementation="kernel")
    host = select(here, method="host call to ready")["median_us"].item() / 1e3
    graph = select(here, method="rotating graph", cache="cold")["median_us"].item() / 1e3
    label = here["label"].iloc[0]
    rows = [
        ("kernel overhead, at most", CLAIMED_KERNEL_MS, "claimed", "claimed"),
        ("host call to result", host, "accepted", label),
        ("device time", graph, "coverage", label),
    ]
    for name, value, role, origin in rows:
        ax.barh(labelled(name, origin), value, color=ROLE_COLOURS[role])
        ax.annotate(f" {value:.3g} ms", (value, labelled(name, origin)), va="center")
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="milliseconds, 720p, 8 slots")
    ax.margins(x=0.2)
