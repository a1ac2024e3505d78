"""What notebook 02 says of a measurement: numbers from a small made-up one, and honest blanks without any."""

import matplotlib.pyplot as plt
import pytest

from specsync_lib.figures import kernels
from specsync_lib.measures.kernels import (
    aims_table,
    measurement,
    profile_table,
    results_table,
    versions_table,
    where_from,
)


@pytest.fixture
def measured():
    """40 MB a call: the kernel 10 µs (4,000 GB/s), eager three times as long, under a copy of 4,000 GB/s."""
    times = {"kernel": 10.0, "eager": 30.0, "cublas": 14.0, "compile": 16.0}
    methods = [("rotating graph", "cold"), ("single graph", "cold"), ("host call to ready", "warm")]
    rows = [
        {"slots": slots, "region": "720p", "bytes": 40_000_000,
         "implementation": name, "method": method, "cache": cache, "n": 40, "gb_per_s": 40_000 / us,
         "median_us": us, "p20_us": us - 1, "p80_us": us + 1, "p99_us": us + 2}
        for slots in (1, 8) for name, us in times.items() for method, cache in methods
    ]  # fmt: skip
    return {
        "provenance": {"gpu": "NVIDIA Test", "date": "2026-01-01", "torch": "2", "triton": "3", "label": "real-shape"},
        "copy": [{"bytes": 1 << 32, "gb_per_s": 4000.0}],
        "results": rows,
    }


def test_aims_are_ratios_of_what_was_measured(measured):
    aims = aims_table(measured).set_index("aim")
    assert aims.loc["share of the copy bandwidth", "measured"] == pytest.approx(1.0)
    assert aims.loc["time over the byte floor", "measured"] == pytest.approx(1.0)
    assert aims.loc["times as fast as torch.compile, max-autotune", "measured"] == pytest.approx(1.6)
    assert aims.loc["times as fast as torch eager", "measured"] == pytest.approx(3.0)
    assert aims.loc["p99 inside a CUDA graph, ms", "measured"] == pytest.approx(0.012)
    assert aims["met"].all()


def test_a_missed_aim_says_so(measured):
    for row in measured["results"]:
        if row["implementation"] == "kernel":
            row.update(median_us=20.0, gb_per_s=2000.0)
    aims = aims_table(measured).set_index("aim")
    assert not aims.loc["share of the copy bandwidth", "met"] and not aims.loc["time over the byte floor", "met"]


def test_without_a_measurement_everything_says_so():
    assert measurement("project_latents", gpu="none") is None
    assert where_from(None) == "not measured yet"
    empty = results_table(None)
    assert empty.empty and aims_table(None).empty
    fig, axes = plt.subplots(1, 4)
    kernels.draw_latency(empty, "720p", axes[0])
    kernels.draw_roofline(empty, [], axes[1])
    kernels.draw_versions(empty, 0, axes[2])
    kernels.draw_claim(None, axes[3])
    assert [ax.texts[0].get_text() for ax in axes] == ["not measured yet"] * 4
    plt.close(fig)


def test_versions_move_against_the_one_before_at_the_same_slots(measured):
    rows = [("v1", 8, 20.0), ("v2", 8, 16.0), ("v1", 32, 40.0), ("v2", 32, 41.0)]
    shared = {"p20_us": 0.0, "p80_us": 99.0}
    measured["versions"] = [{"name": name, "slots": slots, "median_us": us, **shared} for name, slots, us in rows]
    versions = versions_table(measured)
    assert versions["moved_us"].dropna().tolist() == [-4.0, 1.0]
    fig, ax = plt.subplots()
    kernels.draw_versions(versions[versions["slots"] == 32], 9.0, ax)
    assert [bar.get_width() for bar in ax.patches] == [40.0, 41.0]
    assert "720p, 32 slots, cold cache (real-shape)" in ax.get_legend_handles_labels()[1]
    plt.close(fig)


def test_counters_of_one_configuration_or_of_several_make_one_table(measured):
    counters = {"draft_kernel": {"registers": "192"}, "latents_kernel": {"registers": "48"}}
    one = profile_table(measured | {"profile": counters})
    assert one.loc["registers"].tolist() == ["192", "48"]
    several = {"default": counters, "c4 copy engine": {"stream_kernel": {"registers": "72"}}, "c1": {"missing": "ncu"}}
    many = profile_table(measured | {"profile": several})
    assert many.loc["registers"].tolist() == ["192", "48", "72"] and many.columns[2] == (
        "c4 copy engine",
        "stream_kernel",
    )
    assert profile_table(None).empty


def test_curves_show_the_measured_medians(measured):
    table = results_table(measured)
    fig, (left, middle, right) = plt.subplots(1, 3)
    kernels.draw_latency(table, "720p", left)
    kernels.draw_roofline(table, measured["copy"], middle)
    kernels.draw_claim(measured, right)
    kernel_line = next(line for line in left.lines if line.get_label() == "this kernel (real-shape)")
    assert kernel_line.get_ydata().tolist() == [10.0, 10.0]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([15.0, 0.010, 0.010])
    plt.close(fig)
