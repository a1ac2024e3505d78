"""The latency report's tables and pictures: verdicts follow from files, labels are on everything, sliders move."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from specsync_lib import rows
from specsync_lib.figures import latency as latency_figures
from specsync_lib.figures import sliders
from specsync_lib.measures import claims, latency_tables
from specsync_lib.measures.latency import run_numbers, sound_to_frame_ms, stage_numbers
from specsync_lib.pipeline import simulate, stage_times
from specsync_lib.pipeline.answers import POLICIES, ChunkPattern, random_pattern
from specsync_lib.summary import KEY_PATTERN, record
from specsync_lib.units import ChunkSize


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pattern(rng):
    return random_pattern(0.3, 20, rng)


def write_measured(folder, setup_name, rng, pattern, *, speculative=True, paced=True, chunks=20):
    """A measured file of a full-scale setup, out of a simulation; returns its content."""
    setup = stage_times.reference_setup("384px")
    modes = ("serial", "speculative") if speculative else ("serial",)
    reports = {mode: [simulate.simulate(setup, mode, pattern, rng, chunks=chunks)] for mode in modes}
    result = {
        "steps": 2,
        "runs": {mode: run_numbers(each) for mode, each in reports.items()},
        "stages": {mode: stage_numbers(each) for mode, each in reports.items()},
    }
    if paced:
        result["paced"] = {"latency_ms": [100.0] * 20, "committed_s": [0.1 + 0.4 * k for k in range(20)]}
    content = {"setup": setup_name, "label": "real-shape", "render_parts": 1, "regions": {"384px": result}}
    content["replayed"] = [{"passes": one.passes, "rejected": list(one.rejected)} for one in pattern]
    (folder / f"pipeline_{setup_name}.json").write_text(json.dumps(content))
    return content


def test_short_chunks_stand_beside_the_usual_ones_and_never_for_them(tmp_path, rng, pattern):
    content = write_measured(tmp_path, "h200x2", rng, pattern, paced=False, chunks=6)
    setup = replace(stage_times.reference_setup("384px"), chunk=ChunkSize(1))
    report = simulate.simulate(setup, "speculative", pattern, rng, chunks=6)
    assert report.frame_count == 24 and report.chunk == ChunkSize(1)
    runs = content["regions"]["384px"]["runs"] | {"speculative": run_numbers([report])}
    short = content | {"chunk_slots": 1, "regions": {"384px_1slot": content["regions"]["384px"] | {"runs": runs}}}
    (tmp_path / "pipeline_h200x2_1slot.json").write_text(json.dumps(short))
    numbers = {number["key"]: number["value"] for number in latency_tables.headline_numbers(tmp_path)}
    assert {f"latency.h200x2.speculative_p50_ms{suffix}" for suffix in ("", "_384px_1slot")} <= numbers.keys()
    ages_ms = [sound_to_frame_ms([100.0] * 3, ChunkSize(slots)).max() for slots in (1, 3)]
    assert ages_ms == pytest.approx([100 + 4000 / 30 + 55.833 - 50 / 3, 100 + 400 + 52.5 - 50 / 3], abs=0.01)
    assert latency_tables.headline(tmp_path)[3].name == "pipeline_h200x2.json"
    assert [path.name for path in stage_times.measured_files(tmp_path, ChunkSize(1))] == ["pipeline_h200x2_1slot.json"]
    assert (
        stage_times.measured_setups(tmp_path / "pipeline_h200x2_1slot.json")["384px_1slot"]["serial"].chunk.slots == 1
    )


def test_a_row_of_ones_own_has_keys_of_its_own_whatever_its_name(tmp_path, rng, pattern):
    content = write_measured(tmp_path, "My-row", rng, pattern, paced=False, chunks=6)
    (tmp_path / "pipeline_My-row.json").write_text(json.dumps(content | {"row": {}}))
    keys = [number["key"] for number in latency_tables.headline_numbers(tmp_path)]
    assert "latency.own.serial_p50_ms" in keys and all(map(KEY_PATTERN.fullmatch, keys))


def test_without_files_nothing_is_claimed_to_be_measured(tmp_path):
    table = claims.verdict_table({}, tmp_path).set_index("claim")
    latency = table[table["claimed"].str.contains("645|507|21%")]
    assert len(latency) == 3 and set(latency["verdict"]) == {latency_tables.NOT_MEASURED}
    assert latency_tables.headline_numbers(tmp_path) == []


def test_verdicts_follow_from_the_files(tmp_path, rng, pattern):
    content = write_measured(tmp_path, "h200x2", rng, pattern)
    runs = content["regions"]["384px"]["runs"]
    for serial_ms, verdict in ((700, "holds"), (500, "exceeded"), (800, "missed")):  # claimed: 645
        runs["serial"]["p50_ms"] = serial_ms
        (tmp_path / "pipeline_h200x2.json").write_text(json.dumps(content))
        table = claims.verdict_table({}, tmp_path).set_index("claim")
        assert table.loc["latency of the serial pipeline", "verdict"] == verdict
    assert table.loc["latency of the speculative pipeline", "verdict"] == "exceeded"
    assert table.loc["saved by speculation", "verdict"] == "exceeded"
    assert set(table.loc[table["found"].str.contains("h200x2"), "label"]) == {"real-shape"}
    runs["speculative"]["p50_ms"] = 1.1 * runs["serial"]["p50_ms"]
    (tmp_path / "pipeline_h200x2.json").write_text(json.dumps(content))
    table = claims.verdict_table({}, tmp_path).set_index("claim")
    assert table.loc["saved by speculation", "verdict"] == "missed"
    assert table.loc["latency of the speculative pipeline", "verdict"] == "missed"


def test_acceptance_with_another_judge_is_never_a_plain_yes():
    entry = {"value": 0.95, "unit": "fraction", "label": "measured", "source": "somewhere"}
    by = lambda summary: claims.verdict_table(summary).set_index("claimed").loc["88%"]  # noqa: E731
    assert by({"draft.acceptance_at_085": entry})["verdict"].startswith("in part")
    assert by({"acceptance.at_085": entry, "acceptance.coverage_at_085": entry})["verdict"] == "holds"
    assert by({"acceptance.at_085": entry | {"value": 0.5}})["verdict"] == "missed"


def test_near_perfect_lips_are_in_step_steady_and_follow():
    def verdict(**values):
        summary = {
            f"sync.{name}": {"value": value, "unit": "", "label": "measured", "source": "somewhere"}
            for name, value in values.items()
        }
        return claims.verdict_table(summary).set_index("claimed").loc["no number", "verdict"]

    assert verdict(av_offset_ms=8.0, jitter_ratio=0.9, lip_r=0.97) == "holds"
    assert verdict(av_offset_ms=8.0, jitter_ratio=0.9, lip_r=0.86).startswith("in part")
    assert verdict(av_offset_ms=80.0, jitter_ratio=0.9, lip_r=0.97) == "missed"
    assert verdict(av_offset_ms=8.0, jitter_ratio=2.0, lip_r=0.97) == "missed"
    assert verdict() == latency_tables.NOT_MEASURED


def test_without_a_truth_the_lips_are_not_shown_and_the_table_says_why():
    why = "no referee for this language (de)"
    for row in (None, rows.Row(), rows.read("embedded", {"draft.front": "ears"})):
        by_claim = claims.verdict_table({}, row=row, no_truth=why).set_index("claimed")
        lips = by_claim.loc["no number"]
        assert (lips["verdict"], lips["found"], lips["number"]) == (f"not shown: {why}", why, "")
        assert by_claim["verdict"].str.contains(why, regex=False).sum() == 1


FEW = ("reduction", "sound_to_frame_p50_ms")  # what also few chunks can say


def test_headline_numbers_are_fit_for_the_summary(tmp_path, rng, pattern, monkeypatch):
    monkeypatch.setattr("specsync_lib.summary.SUMMARY_DIR", tmp_path / "summary")
    write_measured(tmp_path, "h200", rng, pattern, paced=False)
    of_few = {number["key"] for number in latency_tables.headline_numbers(tmp_path)}
    assert of_few == {f"latency.h200.{name}" for name in ("serial_p50_ms", "speculative_p50_ms", *FEW)}
    (tmp_path / "pipeline_h200.json").unlink()
    write_measured(tmp_path, "h200x2", rng, pattern, chunks=100)
    numbers = {number["key"]: number for number in latency_tables.headline_numbers(tmp_path)}
    assert set(numbers) == {
        f"latency.h200x2.{name}"
        for name in (
            "serial_p50_ms", "speculative_p50_ms", "speculative_p99_ms", "delivery_jitter_p99_ms", *FEW,
            "sound_to_frame_p99_ms",
        )
    }  # fmt: skip
    for key, number in numbers.items():
        assert KEY_PATTERN.fullmatch(key)
        record(**number, notebook="test")
    assert numbers["latency.h200x2.reduction"]["value"] > 0.5
    assert numbers["latency.h200x2.delivery_jitter_p99_ms"]["value"] == 0
    # of frames whose chunks take about as long: the first one of a chunk waits for the other eleven
    ages, chunk = (
        numbers[f"latency.h200x2.{name}"]["value"] for name in ("sound_to_frame_p99_ms", "speculative_p50_ms")
    )
    assert ages > chunk + 52.5 + 350 and numbers["latency.h200x2.sound_to_frame_p99_ms"]["n"] == 1200


def test_the_triple_is_generation_alone_end_to_end_and_the_first_chunk_after_silence(tmp_path, rng, pattern):
    content = write_measured(tmp_path, "h200x2", rng, pattern, chunks=100)
    (result,) = content["regions"].values()
    result["generation_alone"] = {"latency_ms": [30.0, 31.0, 32.0], "p50_ms": 31.0}
    result["after_silence"] = {"silence_s": 0.5, "latency_ms": [70.0] * 39 + [90.0]}
    (tmp_path / "pipeline_h200x2.json").write_text(json.dumps(content))
    numbers = {number["key"]: number for number in latency_tables.headline_numbers(tmp_path)}
    assert numbers["latency.h200x2.generation_p50_ms"]["value"] == 31
    silence = numbers["latency.h200x2.after_silence_p99_ms"]
    assert 70 < silence["value"] < 90 and silence["n"] == 40 and silence["label"] == "real-shape"


def answers(pattern):
    """The same ones whatever the mode, but for the lenient rule."""
    return dict.fromkeys(("serial", *POLICIES), pattern) | {"speculative_lenient": [ChunkPattern(1)]}


def test_the_comparison_has_every_label_and_adds_up(tmp_path, rng, pattern, monkeypatch):
    write_measured(tmp_path, "h200x2", rng, pattern)
    monkeypatch.setattr(latency_tables, "measured_files", lambda **_: sorted(tmp_path.glob("pipeline_*.json")))
    table = latency_tables.comparison_table(stage_times.reference_setup(), answers(pattern), rng)
    assert set(table["label"]) == {"claimed", "simulated", "real-shape"}
    totals = table.groupby(["setup", "label", "mode"]).agg({"ms": "sum", "p50_ms": "first"})
    assert np.allclose(totals["ms"], totals["p50_ms"], atol=0.5)
    fig, ax = plt.subplots()
    latency_figures.draw_comparison(table, ax)
    shown = [text.get_text() for text in ax.get_legend().get_texts()] + [t.get_text() for t in ax.get_yticklabels()]
    for label in ("claimed", "simulated", "real-shape"):
        assert any(f"({label}" in text or f", {label}" in text for text in shown)
    words = [text.get_text() for text in ax.texts]
    assert sum("(20 chunks)" in text for text in words) == 2  # measured: of so few there is no p99
    assert any("p99" in text for text in words)
    plt.close(fig)


def test_the_gantt_shows_what_was_dropped(rng):
    late = replace(stage_times.reference_setup(), steps=1)
    eager = POLICIES["speculative_eager"]
    report = simulate.simulate(late, "speculative", [ChunkPattern(2, (3,))], rng, chunks=3, policy=eager)
    assert report.counts["rewound"]
    fig, ax = plt.subplots()
    latency_figures.draw_gantt(report.trace.table(), ax, chunks=3, title="speculative, simulated")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"dropped", "verify", "denoise", "decode", "verdict: rejects", "frames out"} <= set(names)
    assert "simulated" in ax.get_title(loc="left") + ax.get_title()
    plt.close(fig)


def test_sliders_change_the_picture(rng):
    setups = [stage_times.reference_setup(), stage_times.reference_setup("512px")]
    late, serial_ms = latency_tables.late_tables(setups, [0, 0.5], rng, chunks=10)
    frames = pd.DataFrame({
        "utterance": np.repeat(["a", "b"], 60), "confidence": rng.random(120), "accepted": rng.random(120) < 0.95,
    })  # fmt: skip
    chunks = latency_tables.chunk_table(frames)
    assert len(chunks) == 10 and chunks["rejected"].isin([0, 1]).all()
    thresholds = latency_tables.threshold_table(chunks, setups[0], [0, 0.5, 1.0], rng, n=10)
    assert thresholds["begun"].iloc[0] == 1 and thresholds["begun"].iloc[-1] == 0
    explorer = sliders.LatencyExplorer(late, serial_ms, thresholds, threshold=0.5)
    by_setup = explorer.rejected.children
    pages = [image.value for stack in by_setup for image in stack.children]
    assert len(by_setup) == 2 and len(pages) == len(set(pages)) == 4  # every setup at every rate
    assert [stack.selected_index for stack in by_setup] == [explorer.rate.index] * 2
    begun = [image.value for image in explorer.begun.children]
    assert len(begun) == len(set(begun)) == 3 and explorer.begun.selected_index == explorer.threshold.index == 1


def test_the_comparison_fits_a_screen_and_its_legend_names_stages(tmp_path, rng, pattern, monkeypatch):
    write_measured(tmp_path, "h200x2", rng, pattern)
    monkeypatch.setattr(latency_tables, "measured_files", lambda **_: sorted(tmp_path.glob("pipeline_*.json")))
    table = latency_tables.comparison_table(stage_times.reference_setup(), answers(pattern), rng)
    figure = latency_figures.comparison_figure(table)
    width, height = figure.get_size_inches()
    assert width / height > 1.6
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [part for part in latency_tables.PARTS if part in set(table["part"])]
    setups = {text.get_text() for ax in figure.axes for text in ax.get_yticklabels()}
    assert any("claimed" in setup for setup in setups) and any("simulated" in setup for setup in setups)
    plt.close(figure)


def test_a_pipeline_slower_than_speech_falls_behind_and_a_faster_one_does_not(rng, pattern):
    runs = latency_figures.live_runs(stage_times.reference_setup(), answers(pattern), rng, chunks=20)
    table = latency_tables.delivery_table(runs).set_index("run")
    assert table.loc["serial", "falls_behind_ms"] > 100  # about 545 ms for every 400 of speech
    assert abs(table.loc["speculative", "falls_behind_ms"]) < 20
    assert table.loc["speculative", "delivery_jitter_p99_ms"] <= 2
    fig, ax = plt.subplots()
    latency_figures.draw_delivery(runs, dict.fromkeys(runs, "simulated"), ax)
    assert all("simulated" in text.get_text() for text in ax.get_legend().get_texts())
    plt.close(fig)
