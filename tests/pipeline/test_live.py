"""A stream at the pace of speech, on toy models: what is shown, what falling behind costs, sources that misbehave."""

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.pipeline.live import Pace, run_live
from specsync_lib.pipeline.sound import LONGEST_GAP_S, AudioPiece, pieces
from specsync_lib.pipeline.system import System
from tests.pipeline.test_system import FRAMES, system  # noqa: F401 (a fixture)
from tests.toys.systems import SPEECH

PATIENT = Pace(fewer_steps_s=600, hold_s=600, deadline_s=600)


def streamed(system, source=None, rule="exact", threshold=None, **options):  # noqa: F811
    shown = []
    source = pieces(SPEECH, pace="fast") if source is None else source
    live = run_live(system, source, rule, threshold, show=shown.append, **{"pace": PATIENT} | options)
    return live, shown


def test_a_stream_that_is_in_time_is_the_rules_own_plan_and_every_frame_is_shown_once(system):  # noqa: F811
    live, shown = streamed(system, pieces(SPEECH))
    assert [frame.index for frame in shown] == list(range(FRAMES))
    assert live.report.plan.tolist() == system.run(SPEECH, "exact", progress=False).report.plan.tolist()
    assert live.same_plan and live.report.ended == "complete"
    table = live.frames()
    assert set(table["kept_up"]) == {"all steps"} and set(table["by"]) == {"judge"}
    assert all(frame.picture.shape == (720, 1280, 3) for frame in shown)
    # a frame waits for its chunk to fill and for the look-ahead: none can be younger
    assert table["age_ms"].min() > 0 and (table["age_ms"] <= 1e3 * max(frame.age_s for frame in shown) + 1e-6).all()


def test_a_late_chunk_takes_a_step_less(system):  # noqa: F811
    live, _ = streamed(system, pace=Pace(fewer_steps_s=-1, hold_s=600, deadline_s=600))
    assert min(commit.steps for commit in live.chunks) == system.models.steps - 1 == 1  # a correction adds some
    assert set(live.frames()["kept_up"]) == {"fewer"} and live.same_plan


def test_a_chunk_that_is_too_late_holds_the_mouth_and_is_the_policys(system):  # noqa: F811
    live, shown = streamed(system, pace=Pace(fewer_steps_s=-1, hold_s=-1, deadline_s=600))
    table = live.frames()
    assert set(table["kept_up"]) == {"held"} and set(table["by"]) == {"policy"} and set(table["viseme"]) == {"sil"}
    assert not live.same_plan and not live.hurried
    assert all(np.array_equal(frame.picture, shown[0].picture) for frame in shown)
    assert len(shown) == FRAMES


def test_a_silent_judge_loses_the_chunk_to_the_draft(system):  # noqa: F811
    live, _ = streamed(system, pace=Pace(fewer_steps_s=600, hold_s=600, deadline_s=1e-9))
    assert set(live.frames()["by"]) == {"policy"} and not live.same_plan


def test_a_stop_ends_it_and_what_was_shown_is_kept(system):  # noqa: F811
    stop, shown = threading.Event(), []

    def show(frame):
        shown.append(frame.index)
        if frame.index == units.FRAMES_PER_CHUNK - 1:
            stop.set()

    live = run_live(system, pieces(SPEECH, pace="fast"), show=show, stop=stop, pace=PATIENT)
    assert shown == list(range(units.FRAMES_PER_CHUNK)) == live.frames()["frame"].tolist()


def test_a_source_that_stutters_goes_on_and_one_that_jumps_ends_with_one_line(system):  # noqa: F811
    whole = list(pieces(SPEECH, pace="fast"))
    lost = [*whole[:10], *whole[12:]]  # 80 ms are missing
    live, shown = streamed(system, iter(lost))
    assert live.report.counts["samples filled"] == sum(len(piece.samples) for piece in whole[10:12])
    assert len(shown) == FRAMES
    jump = round((LONGEST_GAP_S + 1) * units.SAMPLE_RATE_HZ)
    jumping = [AudioPiece(p.first_sample + jump * (k > 20), p.samples) for k, p in enumerate(whole)]
    with pytest.raises(InputError, match="clock jumped") as caught:
        streamed(system, iter(jumping))
    assert "\n" not in str(caught.value)


def test_a_source_that_breaks_says_so_after_what_it_gave(system):  # noqa: F811
    def broken():
        yield from list(pieces(SPEECH, pace="fast"))[:20]
        raise OSError("unplugged")

    shown = []
    with pytest.raises(InputError, match="unplugged"):
        run_live(system, broken(), show=shown.append, pace=PATIENT)
    assert [frame.index for frame in shown] == list(range(len(shown))) and len(shown) >= units.FRAMES_PER_CHUNK


def test_frames_come_in_order_under_every_rule(system):  # noqa: F811
    for rule, threshold in (("gate", 0.6), ("lenient", None), ("mouth", None), ("draft", None)):
        live, shown = streamed(system, rule=rule, threshold=threshold)
        assert all(a.index + 1 == b.index for a, b in pairwise(shown)), rule
        assert live.report.frame_count == FRAMES


def test_the_judge_alone_is_refused(system):  # noqa: F811
    with pytest.raises(InputError, match="rule=judge"):
        run_live(system, pieces(SPEECH), "judge")


def test_short_chunks_stream_and_are_held_as_long_ones_are(system):  # noqa: F811
    short = System(replace(system.models, face=system.models.face.fresh(units.ChunkSize(1))), system.head, "cpu")
    live, shown = streamed(short, rule="gate", threshold=0.6)
    assert [frame.index for frame in shown] == list(range(FRAMES)) == live.frames()["frame"].tolist()
    assert len(live.chunks) == -(-FRAMES // 4) and live.same_plan
    live, shown = streamed(short, pace=Pace(fewer_steps_s=-1, hold_s=-1, deadline_s=600))
    assert len(shown) == FRAMES and set(live.frames()["kept_up"]) == {"held"}
