"""The kernel's measured tables: results, aims, versions, profile."""

import json

import numpy as np
import pandas as pd

from specsync_lib.paths import MEASUREMENTS_DIR

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
    return f"{facts['label']} on {facts['gpu']}, {facts['date']}, torch {facts['torch']}, triton {facts['triton']}"


def results_table(measured: dict | None) -> pd.DataFrame:
    """One row per implementation, shape, method and cache state, with its label; empty without a measurement."""
    if measured is None:
        return pd.DataFrame()
    return pd.DataFrame(measured["results"]).assign(label=measured["provenance"]["label"])


def front_table(measured: dict | None) -> pd.DataFrame:
    """The causal front's rows: shape, frames of the chunk, what, cache (warm, or cold after a sweep), p50_us, p99_us.

    The tiles that lost are left out; empty without a measurement.
    """
    columns = ["shape", "frames", "what", "cache", "p50_us", "p99_us", "label"]
    if measured is None:
        return pd.DataFrame(columns=columns)
    rows = pd.DataFrame(measured["rows"])
    return rows.loc[~rows["what"].str.contains("columns"), columns].reset_index(drop=True)


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
    moved = versions.groupby("slots")["median_us"].diff()
    return versions.assign(moved_us=moved, label=measured["provenance"]["label"])


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
