"""The trace: a table for the Gantt, and JSON in Chrome's format."""

import json

import numpy as np
import pytest

from specsync_lib.pipeline.clock import VirtualClock
from specsync_lib.pipeline.run import run_speculative
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Policy
from specsync_lib.pipeline.synthetic import StageTimes, synthetic_stages
from specsync_lib.pipeline.trace import STAGES, Trace, TraceEvent

TIMES = StageTimes(
    draft_s=0.001, verify_s=0.05, token_s=0.04, begin_s=0.002, step_s=0.02, render_s=0.09, commit_s=0.001
)


def report(run=run_speculative, **options):
    clock = VirtualClock()
    stages = synthetic_stages(clock, TIMES, rejected=lambda index: (1,) if index == 2 else ())
    return run(pieces(np.zeros(5 * 6400), pace="fast"), stages, clock=clock, **options)


@pytest.mark.parametrize("run", [run_speculative, run_serial])
def test_perfetto_json_is_well_formed(run, tmp_path):
    trace = report(run).trace
    trace.write_perfetto(tmp_path / "trace.json", "a run")
    content = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    assert set(content) == {"traceEvents", "displayTimeUnit"} and content["displayTimeUnit"] == "ms"
    names = {}
    last_end = {}
    for event in content["traceEvents"]:
        assert event["ph"] in "MXi" and event["pid"] == 1
        if event["ph"] == "M":
            names[event.get("tid"), event["name"]] = event["args"]
            continue
        assert event["ts"] >= 0 and isinstance(event["name"], str) and event["cat"] in STAGES
        assert set(event["args"]) == {"chunk", "attempt", "queue_wait_ms", "note"}
        assert event["args"]["queue_wait_ms"] >= 0
        if event["ph"] == "X":
            # a stage does one thing at a time: complete events of a row must not overlap
            assert event["dur"] > 0
            assert event["ts"] >= last_end.get(event["tid"], 0) - 1e-3
            last_end[event["tid"]] = event["ts"] + event["dur"]
        else:
            assert event["s"] == "t"
    assert [names[row, "thread_name"]["name"] for row in range(len(STAGES))] == list(STAGES)
    assert names[None, "process_name"] == {"name": "a run"}


def test_the_table_shows_what_hides_behind_what():
    table = report(ahead=1).trace.table()
    assert list(table.columns) == [*TraceEvent._fields, "duration_ms"]
    assert table["start_s"].is_monotonic_increasing
    first = table[table["chunk"] == 0].set_index("what")
    # verification runs while the chunk is generated
    assert first.loc["begin", "start_s"] == first.loc["verify", "start_s"]
    assert first.loc["verify", "end_s"] < first.loc["commit", "start_s"]
    assert first.loc["step 2", "duration_ms"] == pytest.approx(20)
    third = table[table["chunk"] == 2]
    assert (third["what"] == "rewind").sum() == 1
    assert third["attempt"].max() == 2
    assert set(table.loc[table["what"] == "verdict", "note"]) == {"accepting", "rejecting", "not final"}


def test_queue_wait_is_counted_from_when_a_job_could_have_run():
    table = report(ahead=4).trace.table()
    begins = table[table["what"] == "begin"].drop_duplicates("chunk")
    verify = table[table["what"] == "verify"]
    assert (begins["wait_s"] < 1e-9).all()  # each begins the moment the chunk before is out
    assert (verify["wait_s"] < 1e-9).all()
    # a decided, rendered chunk goes out at once
    assert (table.loc[table["what"] == "commit", "wait_s"] < 1e-9).all()


def test_silence_shows_in_the_trace():
    clock = VirtualClock()
    stages = synthetic_stages(clock, StageTimes(verify_s=10.0))
    policy = Policy(on_silence="draft", deadline_s=0.1)
    run = run_speculative(pieces(np.zeros(6400), pace="fast"), stages, policy, clock=clock)
    assert run.chunks()["how"].tolist() == ["unverified"]


def test_only_the_last_events_are_kept_when_asked():
    trace = Trace(keep=3)
    for index in range(10):
        trace.add(TraceEvent("draft", "draft", index, index, index + 0.5))
    assert [event.chunk for event in trace.events] == [7, 8, 9]
    assert trace.perfetto()["traceEvents"][-1]["ts"] == pytest.approx(2e6)


def test_an_empty_trace_is_a_trace():
    assert Trace().table().empty
    assert all(event["ph"] == "M" for event in Trace().perfetto()["traceEvents"])
