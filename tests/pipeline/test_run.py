"""The pipeline with its threads: real clocks, bad stages, bad sound, cancels; what it leaves behind."""

import asyncio
import gc
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.face.video import GrowingVideo, video_info
from specsync_lib.pipeline.clock import RealClock, VirtualClock
from specsync_lib.pipeline.commit_log import CommitLog, corrections, read_log, replay
from specsync_lib.pipeline.run import Pipeline, run_speculative, run_speculative_async
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.sound import AudioPiece, ChunkAssembler, pieces, samples_for_chunk
from specsync_lib.pipeline.stages import Draft, Policy, Stages, Verdict
from specsync_lib.pipeline.synthetic import (
    StageTimes,
    SyntheticGenerator,
    SyntheticJudge,
    SyntheticTarget,
    synthetic_stages,
)
from specsync_lib.units import CHUNK_SAMPLES
from tests.toys.streams import BAD_JUDGES, QUICK, SPEECH, TARGET_PLAN, Bad, cancelled_run, fast, no_threads_left, stages
from tests.toys.waiting import LONG_S, HeldClock, wait_for_end

RATE_HZ = units.SAMPLE_RATE_HZ
GO_ON = Policy(on_silence="draft", deadline_s=0.05)


# --- both pipelines run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["midflight", "rollback"])
def test_speculative_commits_what_serial_commits(late):
    serial = run_serial(fast(), stages())
    speculative = run_speculative(fast(), stages(), Policy(late=late))
    assert serial.ended == speculative.ended == "complete"
    assert speculative.plan.tolist() == serial.plan.tolist() == TARGET_PLAN
    assert [commit.how for commit in speculative.commits] == ["accepted", "corrected"] * 2 + ["accepted"]
    assert speculative.frame_count == 60 == len(list(speculative.frames()))
    if late == "rollback":
        assert all(np.array_equal(a, b) for a, b in zip(serial.frames(), speculative.frames(), strict=True))
    assert no_threads_left()


def test_each_station_computes_on_its_own_threads():
    seen = {}

    class Seated:
        def __init__(self, part, name):
            self._part, self._name = part, name

        def __getattr__(self, what):
            if what in ("draft", "verify", "step"):
                seen.setdefault(self._name, set()).add(torch.get_num_threads())
            return getattr(self._part, what)

    before = torch.get_num_threads()
    made = stages()
    watched = Stages(Seated(made.drafter, "draft"), Seated(made.judge, "judge"), Seated(made.generator, "generator"))
    report = run_speculative(fast(), watched, threads={"draft": 1, "judge": 2, "generator": 3})
    torch.set_num_threads(before)
    assert report.ended == "complete" and no_threads_left()
    assert seen["judge"] == {2} and seen["generator"] == {3}
    assert seen["draft"] == {1}


def test_overruling_commits_the_draft_and_says_so():
    clock = VirtualClock()
    report = run_speculative(fast(), stages(StageTimes(verify_s=0.02), clock), Policy(late="overrule"), clock=clock)
    assert report.ended == "complete"
    assert all(commit.tokens == commit.drafted for commit in report.commits)
    assert not Policy(late="overrule").exact and "overruled" in report.guarantee


def test_reasoning_tokens_cost_time_and_change_nothing_here():
    clock = VirtualClock()
    times = StageTimes(token_s=1.0)
    plain = run_serial(fast(), stages(times, clock), clock=clock)
    clock = VirtualClock()
    thinking = run_serial(fast(), stages(times, clock), clock=clock, reasoning_tokens=20)
    assert (plain.wall_s, thinking.wall_s) == (60.0, 160.0)
    assert plain.plan.tolist() == thinking.plan.tolist()
    assert thinking.mode == "serial with 20 reasoning tokens"


def test_what_hides_behind_what():
    """Stage times of full scale: the judge's time disappears behind generation, and a rejection costs one more."""
    times = StageTimes(verify_s=0.05, token_s=0.045, step_s=0.02, render_s=0.09, steps=2)
    clock = VirtualClock()
    serial = run_serial(fast(), stages(times, clock), clock=clock)
    clock = VirtualClock()
    speculative = run_speculative(fast(), stages(times, clock), clock=clock, ahead=1)
    by_how = speculative.chunks().groupby("how")["latency_ms"].median()
    assert serial.chunks()["latency_ms"].median() == pytest.approx(12 * 45 + 130)
    assert by_how["accepted"] == pytest.approx(130)
    # told after 50 ms, in the middle of the first of three parts of the decode (40 to 70 ms): 70 + the last step + 90
    assert by_how["corrected"] == pytest.approx(180)
    assert speculative.counts["rewound"] == 2 and "rolled back" not in speculative.counts


def test_a_correction_takes_effect_between_two_steps():
    times = StageTimes(verify_s=0.05, step_s=0.04, steps=3)
    clock = VirtualClock()
    report = run_speculative(fast(), stages(times, clock), Policy(late="midflight"), clock=clock, ahead=1)
    assert report.counts["corrected mid-flight"] == 2
    assert "rolled back" not in report.counts
    assert report.chunks()["steps"].tolist() == [3] * 5


@pytest.mark.parametrize(("hold", "accepted_ms", "corrected_ms"), [
    ("nothing", 130, 180),  # see test_what_hides_behind_what
    ("decode", 50 + 90, 50 + 20 + 90),  # all steps are done when the judge speaks after 50 ms: the last one again
    ("last step", 50 + 20 + 90, 50 + 20 + 90),  # a correction costs no more than the wait
])  # fmt: skip
def test_holding_trades_the_usual_chunk_for_the_corrected_one(hold, accepted_ms, corrected_ms):
    times = StageTimes(verify_s=0.05, step_s=0.02, render_s=0.09, steps=2)
    clock = VirtualClock()
    report = run_speculative(fast(), stages(times, clock), Policy(hold_before=hold), clock=clock, ahead=1)
    by_how = report.chunks().groupby("how")["latency_ms"].median()
    assert by_how["accepted"] == pytest.approx(accepted_ms)
    assert by_how["corrected"] == pytest.approx(corrected_ms)
    assert report.plan.tolist() == TARGET_PLAN


def test_a_chunk_that_the_draft_is_unsure_of_waits_for_its_verdict():
    class Unsure:
        def __init__(self, drafter):
            self._drafter = drafter

        def draft(self, audio):
            draft = self._drafter.draft(audio)
            return Draft(draft.tokens, np.full(audio.frames, 0.4 if audio.index % 2 else 0.9), draft.openness)

    clock = VirtualClock()
    made = stages(StageTimes(verify_s=0.5, step_s=0.01), clock)
    made = Stages(Unsure(made.drafter), made.judge, made.generator)
    report = run_speculative(fast(), made, Policy(start_confidence=0.5), clock=clock, ahead=1)
    table = report.chunks()
    assert "rolled back" not in report.counts
    assert ((table["begun_s"] >= table["decided_s"]) == (table["index"] % 2 == 1)).all()


def test_virtual_and_real_time_do_the_same():
    clock = VirtualClock()
    virtual = run_speculative(fast(), stages(clock=clock), clock=clock)
    real = run_speculative(fast(), stages())
    assert virtual.plan.tolist() == real.plan.tolist()
    assert [c.how for c in virtual.commits] == [c.how for c in real.commits]


def test_real_time_sound_is_heard_when_it_is_spoken():
    clock = VirtualClock()
    report = run_speculative(pieces(SPEECH, piece_ms=20), stages(clock=clock), clock=clock)
    table = report.chunks()
    due_s = np.array([samples_for_chunk(index) / RATE_HZ for index in range(5)]).clip(max=len(SPEECH) / RATE_HZ)
    # a chunk is heard with the piece that holds its last sample
    assert (table["heard_s"] >= due_s - 1e-9).all() and (table["heard_s"] < due_s + 0.02).all()
    assert (table["latency_ms"] > 0).all()
    assert samples_for_chunk(0) / RATE_HZ - 12 / 30 == pytest.approx(0.0525)


def test_a_running_event_loop_does_not_mind():
    async def notebook_cell():
        plain = run_speculative(fast(), stages())
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(tick())
        free = await run_speculative_async(fast(), stages(StageTimes(verify_s=0.01)))
        ticking.cancel()
        return plain, free, ticks

    plain, free, ticks = asyncio.run(notebook_cell())
    assert plain.ended == free.ended == "complete" and ticks > 1
    assert plain.plan.tolist() == free.plan.tolist()


def test_cancelling_the_task_cancels_the_run():
    judge = Hanging()

    async def cell():
        task = asyncio.ensure_future(run_speculative_async(fast(), stages(judge=judge)))
        assert await asyncio.to_thread(judge.entered.wait, LONG_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cell())
    assert no_threads_left()


def test_a_slow_consumer_holds_the_stages_back():
    drafted = []

    class Counting:
        def __init__(self, drafter):
            self._drafter = drafter

        def draft(self, audio):
            drafted.append(audio.index)
            return self._drafter.draft(audio)

    made = stages(StageTimes())
    taken = 0
    for _ in Pipeline(fast(), Stages(Counting(made.drafter), made.judge, made.generator), ahead=2).commits():
        time.sleep(0.01)
        # the last chunks come together, when the sound ends
        assert len(drafted) <= taken + 1 + 2 or drafted[-1] == 4
        taken += 1
    assert taken == 5


def test_a_pipeline_runs_once():
    pipeline = Pipeline(fast(), stages())
    pipeline.run()
    with pytest.raises(InputError, match="make a new one"):
        pipeline.run()


@pytest.mark.parametrize(
    "options",
    [{"late": "never"}, {"on_silence": "guess"}, {"deadline_s": 0}, {"deadline_s": float("nan")},
     {"start_confidence": 2}, {"hold_before": "lunch"}, {"min_steps_left": 0},
     {"generator_retries": -1}, {"judge_backlog": 0}],
)  # fmt: skip
def test_a_policy_outside_its_range_is_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Policy(**options)


# --- cancels and what is left ----------------------------------------------------------------------------------------


class Hanging:
    """A judge that never answers, but leaves when nobody waits any more."""

    def __init__(self):
        self.entered = threading.Event()

    def verify(self, request, deliver):
        self.entered.set()
        request.stop.wait()


class StopsAt(SyntheticGenerator):
    """Sets an event in the so manieth call and says what is called afterwards."""

    def __init__(self, stop, at):
        super().__init__(RealClock(), QUICK, size_px=(16, 16))
        self._stop, self._at, self._calls, self.afterwards = stop, at, 0, []

    def _count(self, what):
        if self._stop.is_set():
            self.afterwards.append(what)
        self._calls += 1
        if self._calls == self._at:
            self._stop.set()

    def step(self, work, plan):
        self._count("step")
        super().step(work, plan)

    def render(self, work):
        self._count("render")
        return super().render(work)


@pytest.mark.parametrize("run", [run_speculative, run_serial])
@pytest.mark.parametrize("at", range(1, 8))
def test_a_stop_is_taken_after_the_call_in_hand(run, at):
    stop = threading.Event()
    generator = StopsAt(stop, at)
    report = run(fast(), stages(generator=generator), stop=stop)
    assert report.ended == "cancelled" and generator.afterwards == []
    assert report.frame_count < len(TARGET_PLAN)


def test_nothing_is_left_of_a_thousand_cancelled_runs():
    rng = np.random.default_rng(1)
    assert [cancelled_run(rng) for _ in range(1000)].count("cancelled") > 500
    assert no_threads_left()


@pytest.mark.gpu
def test_cancels_leave_no_gpu_memory():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    class OnGpu(SyntheticGenerator):
        def begin(self, audio, draft, plan):
            work = super().begin(audio, draft, plan)
            work.latents = torch.zeros(1 << 20, device="cuda")
            return work

    gc.collect()
    before = torch.cuda.memory_allocated()
    for count in range(1000):
        for _ in Pipeline(fast(), stages(generator=OnGpu(RealClock, QUICK, (16, 16)))).commits():
            if count % 3 == 0:
                break
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_a_long_run_keeps_a_bounded_memory():
    """The short form of the soak: 600 chunks; what is in flight, logged and traced does not grow."""
    clock = VirtualClock()
    sound = (AudioPiece(n * 1600, np.zeros(1600, np.float32)) for n in range(600 * CHUNK_SAMPLES // 1600))
    pipeline = Pipeline(sound, stages(clock=clock), clock=clock, history=100)
    held = [len(pipeline._conductor._chunks) for _ in pipeline.commits()]
    report = pipeline.report()
    assert len(held) == 600 and max(held) <= 6
    assert len(report.log.entries) == len(report.trace.events) == 100
    assert report.commits == ()


# --- bad stages ------------------------------------------------------------------------------------------------------


SILENT = {"hangs", "drips", "lies", "says nothing"}  # only their deadline tells


@pytest.mark.parametrize("name", BAD_JUDGES)
def test_with_a_bad_judge_the_stream_goes_on_under_the_draft(name):
    policy = GO_ON if name in SILENT else replace(GO_ON, deadline_s=600)
    report = run_speculative(fast(), stages(judge=Bad(BAD_JUDGES[name])), policy)
    assert report.ended == "complete" and report.frame_count == 60
    assert {commit.how for commit in report.commits} == {"unverified"}
    assert all(commit.tokens == commit.drafted for commit in report.commits)
    assert all(np.isfinite(commit.openness).all() for commit in report.commits)
    if name in ("dies", "exits", "spoils the sound", "spoils the draft"):
        (note,) = report.notes
        assert note.startswith("the judge failed at chunk 0") and "\n" not in note
    assert no_threads_left()


@pytest.mark.parametrize("name", BAD_JUDGES)
def test_or_ends_with_one_clear_line(name):
    def good_once(request, deliver):
        if request.audio.index:
            clock.let_go()
            BAD_JUDGES[name](request, deliver)
        else:
            deliver(Verdict(0, TARGET_PLAN[:12]))

    clock, policy = HeldClock(), Policy(deadline_s=0.2 if name in SILENT else 600)
    report = run_speculative(fast(), stages(judge=Bad(good_once)), policy, clock=clock)
    assert report.ended == "failed"
    assert report.plan.tolist() == TARGET_PLAN[:12]
    assert report.error.startswith("chunk 1: ") and report.error.endswith("the policy is to stop")
    assert "\n" not in report.error


def test_a_judge_that_hangs_for_good_does_not_hold_the_caller():
    release = threading.Event()
    judge = Bad(lambda request, deliver: release.wait())
    report = Pipeline(fast(), stages(judge=judge), GO_ON, grace_s=1.0).run()
    assert report.ended == "complete"
    assert report.notes == ("the judge is still inside a call; its thread ends when that returns",)
    release.set()
    wait_for_end(*(thread for thread in threading.enumerate() if thread.name == "specsync-judge"))
    assert no_threads_left()


def test_a_judge_that_falls_behind_is_given_up():
    report = run_speculative(
        fast(np.zeros(12 * CHUNK_SAMPLES)),
        stages(judge=Hanging()),
        Policy(on_silence="draft", deadline_s=0.01, judge_backlog=2),
    )
    assert report.ended == "complete"
    assert report.notes == ("the judge is more than 2 chunks behind",)


def test_a_late_verdict_changes_the_context_and_no_frame():
    """Chunk 0 goes out unverified; the judge's tokens for it, too late, are still what chunk 1 is judged on."""
    clock = VirtualClock()
    target = SyntheticTarget()
    settled = []

    class Late(SyntheticJudge):
        def verify(self, request, deliver):
            settled.extend(one.tokens for one in request.settled)
            clock.sleep(0.5 if request.audio.index == 0 else 0.0)
            deliver(Verdict(request.audio.index, self.answer(request)))

    made = synthetic_stages(clock, StageTimes(), rejected=lambda index: (0,), target=target)
    made = Stages(made.drafter, Late(clock, StageTimes(), target), made.generator)
    policy = Policy(on_silence="draft", deadline_s=0.2)
    report = run_speculative(pieces(SPEECH[: 2 * CHUNK_SAMPLES]), made, policy, clock=clock)
    own = target.plan([12, 12])
    assert report.counts["verdicts late"] == 1
    assert [commit.how for commit in report.commits] == ["unverified", "corrected"]
    assert report.commits[0].tokens == report.commits[0].drafted != own[0]
    assert settled == [own[0]]
    assert report.commits[1].tokens == own[1]


class OutOfMemory(SyntheticGenerator):
    """Raises at the given calls of ``step``, counted over the run."""

    def __init__(self, at):
        super().__init__(RealClock, QUICK, (16, 16))
        self._at, self._calls = at, 0

    def step(self, work, plan):
        self._calls += 1
        if self._calls in self._at:
            raise MemoryError("CUDA out of memory\nTried to allocate 20 GiB")
        super().step(work, plan)


def test_out_of_memory_once_costs_a_retry():
    report = run_speculative(fast(), stages(generator=OutOfMemory({4})), Policy(late="rollback"))
    assert report.ended == "complete" and report.plan.tolist() == TARGET_PLAN
    assert report.counts["generation failed"] == 1
    whole = run_serial(fast(), stages())
    assert all(np.array_equal(a, b) for a, b in zip(report.frames(), whole.frames(), strict=True))


@pytest.mark.parametrize("run", [run_speculative, run_serial])
def test_out_of_memory_for_good_ends_the_stream_and_what_was_committed_plays(run, tmp_path):
    right_draft = Stages(**vars(synthetic_stages(RealClock, QUICK)) | {"generator": OutOfMemory(set(range(5, 99)))})
    report = run(fast(), right_draft)
    assert report.ended == "failed" and report.frame_count == 24
    assert "chunk 2" in report.error and "out of memory" in report.error.lower() and "\n" not in report.error
    video = GrowingVideo(tmp_path / "talk.mp4")
    for commit in report.commits:
        for frame in commit.frames:
            video.push(frame)
    assert video_info(video.stop()).frame_count == 24


@pytest.mark.parametrize(
    "wrong", [np.zeros((12, 16, 16, 3)), np.zeros((5, 16, 16, 3), np.uint8), np.zeros((12, 16, 16), np.uint8), "frames"]
)
def test_frames_that_are_none_never_go_out(wrong):
    class Wrong(SyntheticGenerator):
        def render(self, work):
            return wrong

    report = run_speculative(fast(), stages(generator=Wrong(RealClock, QUICK)))
    assert report.ended == "failed" and not report.commits and "uint8 frames" in report.error


def test_a_broken_draft_ends_the_stream_behind_what_was_drafted():
    class Broken:
        def __init__(self, drafter):
            self._drafter = drafter

        def draft(self, audio):
            draft = self._drafter.draft(audio)
            return draft if audio.index < 2 else Draft(draft.tokens[:3], draft.confidence, draft.openness)

    made = stages()
    report = run_speculative(fast(), Stages(Broken(made.drafter), made.judge, made.generator))
    assert report.ended == "failed" and report.frame_count == 24
    assert report.error == "draft of chunk 2: gave no viseme for each of 12 frames"


def test_a_committed_frame_cannot_be_written_to():
    held = []

    class Keeps(SyntheticGenerator):
        def render(self, work):
            held.append(super().render(work))
            return held[-1]

    report = run_speculative(
        fast(), stages(StageTimes(render_parts=1), generator=Keeps(RealClock, StageTimes(), (4, 4)))
    )
    before = [commit.frames.copy() for commit in report.commits]
    for frames in held:
        if frames is not None:
            frames[:] = 0  # the generator reuses its buffer
    assert all(np.array_equal(commit.frames, was) for commit, was in zip(report.commits, before, strict=True))
    with pytest.raises(ValueError, match="read-only"):
        report.commits[0].frames[0] = 0


@pytest.mark.parametrize("run", [run_speculative, run_serial])
def test_a_clock_that_jumps_back_stands_still(run):
    class Jumping(RealClock):
        calls = 0

        @classmethod
        def now(cls):
            cls.calls += 1
            return time.monotonic() - (3600 if cls.calls % 7 == 0 else 0)

    report = run(fast(), stages(), clock=Jumping)
    assert report.ended == "complete" and report.plan.tolist() == TARGET_PLAN
    assert (report.chunks()["latency_ms"] >= 0).all()
    assert all(event.end_s >= event.start_s for event in report.trace.events)


# --- sound -----------------------------------------------------------------------------------------------------------


def chunks_of(sound, size=units.CHUNK) -> list:
    assembler = ChunkAssembler(size)
    chunks = [chunk for piece in sound for chunk in assembler.push(piece, 0.0)]
    return chunks + assembler.finish(0.0)


@settings(max_examples=200)
@given(st.integers(0, 4 * CHUNK_SAMPLES), st.integers(0, 2**32 - 1), st.sampled_from(units.CHUNK_SLOTS))
def test_chunks_do_not_depend_on_the_pieces(samples, seed, slots):
    rng, size = np.random.default_rng(seed), units.ChunkSize(slots)
    sound = rng.normal(size=samples).astype(np.float32)
    chunks = chunks_of(pieces(sound, pace="fast", piece_ms=None, rng=rng), size)
    whole = chunks_of([AudioPiece(0, sound)], size)
    assert sum(chunk.frames for chunk in chunks) == units.frame_count(samples)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.samples.tobytes() for chunk in chunks] == [chunk.samples.tobytes() for chunk in whole]
    assert np.array_equal(np.concatenate([np.zeros(0), *[chunk.samples for chunk in chunks]]), sound[: sum(
        len(chunk.samples) for chunk in chunks)])  # fmt: skip
    # every chunk but those at the end hears its look-ahead
    heard = np.cumsum([len(chunk.samples) for chunk in chunks])
    assert all(chunk.ended or heard[chunk.index] == samples_for_chunk(chunk.index, size) for chunk in chunks)
    assert all(chunk.first_frame == size.frames * chunk.index for chunk in chunks)


def test_a_gap_is_filled_and_a_repeat_dropped():
    one, two = SPEECH[:1000], SPEECH[1000:3000]
    assembler = ChunkAssembler()
    assembler.push(AudioPiece(0, one), 0.0)
    assembler.push(AudioPiece(1500, two), 0.0)  # 500 lost
    assembler.push(AudioPiece(3000, np.ones(1000)), 0.0)  # 500 of them known
    (chunk,) = assembler.finish(0.0)
    assert (assembler.filled_samples, assembler.dropped_samples) == (500, 500)
    assert np.array_equal(chunk.samples, np.concatenate([one, np.zeros(500), two, np.ones(500)]))


@pytest.mark.parametrize("run", [run_speculative, run_serial])
@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_source_whose_clock_jumps_ends_with_one_line(run, jump_s):
    def sound():
        yield from fast(SPEECH[: 2 * CHUNK_SAMPLES])
        yield AudioPiece(2 * CHUNK_SAMPLES + jump_s * RATE_HZ, SPEECH[:100])

    report = run(sound(), stages())
    assert report.ended == "failed" and report.frame_count == 24
    assert report.error.startswith(f"audio: the source's clock jumped by {jump_s:+.1f} s at 0.8 s")


@pytest.mark.parametrize("run", [run_speculative, run_serial])
def test_a_source_that_breaks_ends_with_one_line(run):
    def sound():
        yield AudioPiece(0, SPEECH[:CHUNK_SAMPLES])
        raise OSError("microphone unplugged\nreally")

    report = run(sound(), stages())
    assert report.ended == "failed" and report.frame_count == 12
    assert report.error == "audio source: OSError: microphone unplugged really"


@pytest.mark.parametrize("run", [run_speculative, run_serial])
@pytest.mark.parametrize("samples", [0, 1, 266, 267, 7000, CHUNK_SAMPLES + 800])
def test_sound_may_end_anywhere(run, samples):
    report = run(fast(SPEECH[:samples]), stages())
    assert report.ended == "complete" and report.frame_count == units.frame_count(samples)
    assert report.plan.tolist() == [t for chunk in SyntheticTarget().plan(
        [len(commit.tokens) for commit in report.commits]) for t in chunk]  # fmt: skip


@pytest.mark.parametrize("piece", [np.zeros((2, 5)), np.array(["a"]), None])
def test_a_piece_that_is_no_sound_ends_with_one_line(piece):
    report = run_speculative([AudioPiece(0, SPEECH[:CHUNK_SAMPLES]), AudioPiece(CHUNK_SAMPLES, piece)], stages())
    assert report.ended == "failed" and report.frame_count == 12 and report.error.startswith("audio: a piece of")


def test_odd_piece_lengths_are_refused():
    for options in ({"piece_ms": 10}, {"piece_ms": 200}, {"pace": "slow"}, {"piece_ms": None}):
        with pytest.raises(InputError):
            pieces(SPEECH, **options)


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_survives_a_file(tmp_path):
    report = run_speculative(fast(), stages())
    report.log.write(tmp_path / "log.jsonl")
    assert read_log(tmp_path / "log.jsonl") == report.log.entries
    assert replay(read_log(tmp_path / "log.jsonl")) == [commit.tokens for commit in report.commits]


@pytest.mark.parametrize(
    "lines",
    [
        [("committed", 0)],
        [("drafted", 0), ("committed", 0)],
        [("drafted", 0), ("judged", 0), ("judged", 0)],
        [("drafted", 0), ("drafted", 0)],
        [("drafted", 0), ("unverified", 0), ("committed", 0), ("committed", 0)],
        [("drafted", 1), ("judged", 1), ("committed", 1)],
        [("drafted", 0), ("judged", 0), ("committed", 0), ("drafted", 0)],
    ],
)
def test_a_log_that_breaks_the_rules_is_no_plan(lines):
    log = CommitLog()
    for kind, chunk in lines:
        log.add(0.0, kind, chunk, tokens=(1, 2))
    with pytest.raises(InputError, match="the log is damaged"):
        replay(log.entries)


def test_corrections_lead_from_draft_to_plan():
    assert corrections((1, 2, 3), (1, 5, 3)) == ((1, 5),)
    with pytest.raises(ValueError):
        corrections((1, 2), (1,))
