"""The whole system on toy models: rules and their files, deciders, ages, interruptions, memory."""

import os
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

import specsync_lib
from specsync_lib import devices, units
from specsync_lib.devices import SPIN_VARIABLE, resolve
from specsync_lib.errors import InputError
from specsync_lib.face.generation import FaceGenerator
from specsync_lib.face.video import video_info
from specsync_lib.files import write_json
from specsync_lib.judge.rules import RUN_RULES
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.pipeline import system as whole
from specsync_lib.pipeline.clock import RealClock
from specsync_lib.pipeline.models import FaceStage, Models, ReasonerJudge
from specsync_lib.pipeline.outcome import AGE_PARTS
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Stopped
from specsync_lib.pipeline.synthetic import StageTimes, synthetic_stages
from specsync_lib.speech import whisper_base
from specsync_lib.speech.audio import load_audio, write_flac
from specsync_lib.speech.ears import listen
from specsync_lib.units import CHUNK_SAMPLES, ChunkSize
from tests.toys.fronts import toy_draft, toy_ears
from tests.toys.generation import toy_models, toy_reference
from tests.toys.sounds import pink
from tests.toys.systems import SPEECH, ToyHead, ToyReasoner, ToyStream, log_odds_policy

FRAMES = units.frame_count(len(SPEECH))  # 3 chunks and 8 frames


class BrokenReasoner(ToyReasoner):
    """A judge that cannot be asked."""

    def stream(self):
        stream = super().stream()
        stream.fail = True
        return stream


@pytest.fixture(scope="module")
def system():
    face = FaceGenerator(*toy_models(), toy_reference())
    models = Models(toy_draft(), toy_ears(), ToyReasoner(), face, policy=log_odds_policy())
    return whole.System(models, ToyHead(), "cpu")


@pytest.fixture(scope="module")
def runs(system, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    video = {"exact": folder / "talk.mp4"}
    quiet = {"progress": False}
    done = {"exact": system.run(SPEECH, "exact", video=video["exact"], **quiet)}
    under = done["exact"].under
    rules = (("judge", None), ("draft", None), ("lenient", None), ("gate", 0.3), ("gate", 0.95), ("mouth", None))
    for rule, threshold in rules:
        name = rule if threshold is None else f"{rule} {threshold}"
        done[name] = system.run(SPEECH, rule, threshold, under=under, **quiet)
    return done


@pytest.mark.parametrize("slots", [1, 2])
def test_a_system_of_short_chunks_says_the_same_of_its_frames(system, slots, tmp_path):
    size = ChunkSize(slots)
    short = whole.System(replace(system.models, face=system.models.face.fresh(size)), system.head, "cpu")
    exact = short.run(SPEECH, "exact", video=tmp_path / "talk.mp4", progress=False)
    judge = short.run(SPEECH[: len(SPEECH) // 2], "judge", under=exact.under, progress=False)
    same, compared = whole.agreement(exact, judge)
    assert same == 1 and compared % size.frames == 0 and compared > FRAMES // 2 - 2 * size.frames
    table, facts = exact.frames(), exact.facts()
    assert table["frame"].tolist() == list(range(FRAMES)) and exact.video.frame_count == FRAMES
    assert table["chunk"].tolist() == [frame // size.frames for frame in range(FRAMES)]
    assert facts["chunk_slots"] == slots and facts["chunks"] == -(-FRAMES // size.frames)
    assert whole.compared_samples(size) >= size.samples(300 // size.frames)


def test_exact_commits_what_the_judge_alone_writes(runs):
    assert runs["exact"].report.plan.tolist() == runs["judge"].report.plan.tolist()
    assert whole.agreement(runs["exact"], runs["judge"]) == (1.0, FRAMES)
    assert {how for run in ("exact", "judge") for how in runs[run].report.counts} <= {
        "accepted", "corrected", "written", "rewound", "corrected mid-flight", "samples filled", "samples dropped",
        *(f"verdicts {kind}" for kind in ("accepting", "rejecting", "not final", "guessed")),
    }  # fmt: skip
    assert set(runs["exact"].frames()["by"]) == {"judge"}


def test_a_video_has_every_frame_its_sound_and_no_part_left(runs):
    info = runs["exact"].video
    assert info.frame_count == FRAMES and info.strictly_rising and (info.width_px, info.height_px) == (1280, 720)
    assert abs(info.av_end_difference_ms) <= 1000 / units.VIDEO_FPS
    assert [path.name for path in info.path.parent.iterdir()] == ["talk.mp4"]
    assert len(runs["exact"].shown) == len(runs["judge"].shown) == FRAMES
    assert not np.array_equal(runs["draft"].shown[20], runs["judge"].shown[20])


def test_what_watches_can_end_a_run_and_the_next_one_is_whole(system, runs, tmp_path):
    seen = []

    def watch(commit):
        seen.append(commit.index)
        if len(seen) == 2:
            raise KeyboardInterrupt

    for rule in ("exact", "judge"):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            system.run(SPEECH, rule, video=tmp_path / "cut.mp4", progress=False, say=lambda line: None, watch=watch)
        assert seen == [0, 1] and not (tmp_path / "cut.mp4").exists()
    again = system.run(SPEECH, "exact", progress=False, watch=lambda commit: seen.append(commit.index))
    assert again.report.plan.tolist() == runs["exact"].report.plan.tolist() and seen[2:] == [0, 1, 2, 3]


@pytest.mark.parametrize("rule", ["exact", "judge"])
@pytest.mark.parametrize("where", ["denoising step", "judge's pass", "decoded slot", "picture drawn", "picture laid"])
def test_a_run_is_stopped_between_any_two_of_its_steps(system, tmp_path, monkeypatch, where, rule):
    stop, requests, calls = threading.Event(), [], []
    owner, name = {
        "denoising step": (FaceStage, "step"),
        "judge's pass": (ToyStream, "score" if rule == "exact" else "plan"),
        "decoded slot": (FaceStage, "render"),
        "picture drawn": (ToyHead, "render"),
        "picture laid": (whole, "composite"),
    }[where]
    real, listen = getattr(owner, name), ReasonerJudge._read_up_to

    def noted(*arguments):
        calls.append(stop.is_set())
        if len(calls) == 15:
            stop.set()
            if where == "judge's pass" and rule == "exact":  # what the pipeline tells its judge comes a moment later
                assert requests[-1].stop.wait(20)
        return real(*arguments)

    def asked(judge, request):
        requests.append(request)
        return listen(judge, request)

    monkeypatch.setattr(owner, name, noted)
    monkeypatch.setattr(ReasonerJudge, "_read_up_to", asked)
    samples = np.tile(SPEECH, 6)
    with pytest.raises(Stopped):
        system.run(samples, rule, video=tmp_path / "x.mp4", progress=False, say=lambda line: None, stop=stop)
    assert len(calls) == 15 and not any(calls)
    assert not (tmp_path / "x.mp4").exists()


def test_what_is_heard_can_be_silence_where_nobody_speaks(system):
    quiet = {"progress": False, "heard": np.zeros_like(SPEECH)}
    silent, given = system.run(np.zeros_like(SPEECH), "exact", progress=False), system.run(SPEECH, "exact", **quiet)
    assert (silent.plan.visemes == given.plan.visemes).all()
    with pytest.raises(InputError, match="give as many"):
        system.run(SPEECH, "exact", heard=SPEECH[1:], progress=False)


def test_the_table_says_who_decided_what(runs):
    for name, run in runs.items():
        table = run.frames()
        assert tuple(table.columns) == whole.PLAN_COLUMNS and table["frame"].tolist() == list(range(FRAMES))
        assert table["openness"].between(0, 1).all()
        stands, own = table["committed"] == table["draft"], table["committed"] == table["judge"]
        assert stands[table["by"] == "draft"].all()
        if name not in ("mouth",):  # a mouth's token need not be the likeliest of all
            assert own[table["by"] == "judge"].all()
    draft, judge = runs["draft"].frames(), runs["judge"].frames()
    assert set(draft["by"]) == {"draft"} and (draft["judge"] == "").all() and not draft["passes"].any()
    assert (judge["draft"] == "").all() and judge["confidence"].isna().all() and set(judge["by"]) == {"judge"}


def test_thresholds_of_the_gate_decide_differently(runs):
    low, high = (runs[f"gate {threshold}"].frames() for threshold in (0.3, 0.95))
    assert (low["by"] == "draft").mean() > (high["by"] == "draft").mean()
    for table, threshold in ((low, 0.3), (high, 0.95)):
        sure = table["recalibrated"] >= threshold
        assert (table["committed"] == table["draft"])[sure].all()


def test_a_threshold_meets_a_named_confidence_at_zero_too(runs):
    for name, threshold in {"gate 0.3": 0.3, "exact": None}.items():
        assert runs[name].facts()["confidence"] == (None if threshold is None else whole.CONFIDENCE)
    assert replace(runs["gate 0.3"], threshold=0.0).facts()["confidence"] == whole.CONFIDENCE


def test_a_judge_that_fails_costs_its_verdicts_and_not_the_video(system):
    broken = whole.System(replace(system.models, reasoner=BrokenReasoner()), system.head, "cpu")
    run = broken.run(SPEECH, "exact", progress=False)
    assert set(run.frames()["by"]) == {"policy"} and run.report.counts["unverified"] == 4
    assert run.facts()["models"]["decoder"] == "wan"
    assert "4 of 4 chunks went out unverified" in run.guarantee and "NaN" in run.facts()["notes"][0]
    assert (run.frames()["committed"] == run.frames()["draft"]).all()


def test_ages_add_up_to_what_the_sound_took_and_the_latency(runs):
    for name in ("exact", "judge", "draft"):
        ages, run = runs[name].ages(), runs[name]
        assert len(ages) == FRAMES
        np.testing.assert_allclose(ages[list(AGE_PARTS)].sum(axis=1), ages["age_ms"])
        latency_ms = ages[["judge_ms", "generation_ms", "decoding_ms"]].sum(axis=1).groupby(ages["chunk"]).first()
        assert (latency_ms >= 1e3 * run.report.own_latency_s() - 1e-6).all()
        first = ages.iloc[0]
        assert first["chunk_wait_ms"] == pytest.approx(400 - 1000 / 60)
        assert first["look_ahead_ms"] == pytest.approx(52.5)
        assert ages["chunk_wait_ms"].iloc[-1] == pytest.approx(
            1e3 * (len(SPEECH) / 16000 - (FRAMES - 0.5) / 30), abs=1e-6
        )
    assert (runs["draft"].ages()["judge_ms"] == 0).all() and (runs["judge"].ages()["judge_ms"] > 0).all()


def test_files_of_a_run(runs, tmp_path):
    whole.write_run(runs["exact"], tmp_path, same_plan=True)
    whole.write_latency({"committed": runs["exact"], "judge": runs["judge"]}, tmp_path)
    arkit, plan = (pd.read_csv(tmp_path / name, keep_default_na=False) for name in ("arkit.csv", "committed_plan.csv"))
    assert arkit.shape == (FRAMES, 52) and arkit["jawOpen"].between(0, 1).all()
    assert plan["committed"].tolist() == runs["exact"].plan.names
    facts = pd.read_json(tmp_path / "run.json", typ="series")
    assert facts["same_plan"] and facts["rule"] == "exact" and facts["sound_to_frame_ms"]["age_ms"]["n"] == FRAMES
    assert set(pd.read_csv(tmp_path / "run_ages.csv")["run"]) == {"committed", "judge"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_names_the_file_that_plays_what_was_committed(system, tmp_path, monkeypatch, error):
    lay, said = whole._Canvas.lay, []

    def stumble(canvas, commit):
        if commit.index == 2:
            raise error
        lay(canvas, commit)

    monkeypatch.setattr(whole._Canvas, "lay", stumble)
    with pytest.raises(error) as raised:
        system.run(SPEECH, "draft", video=tmp_path / "talk.mp4", progress=False, say=said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.part.mp4"]
    assert video_info(tmp_path / "talk.part.mp4").frame_count == 24
    assert said == raised.value.__notes__ and "talk.part.mp4 plays the 24 frames (0.8 s)" in said[0]


def test_a_long_recording_runs_in_the_memory_of_a_short_one(system):
    """200 s of 256 px: 1.2 GB of frames; what else moves, by machine and by what ran before, is far less."""
    models = replace(system.models)
    stages = synthetic_stages(RealClock(), StageTimes(), size_px=(256, 256))
    stages.judge.faults = []
    object.__setattr__(models, "stages", lambda **_: stages)
    long = whole.System(models, system.head, "cpu")
    long.run(np.zeros(20 * CHUNK_SAMPLES, np.float32), progress=False)
    before = psutil.Process().memory_info().rss
    assert long.run(np.zeros(500 * CHUNK_SAMPLES, np.float32), progress=False).report.frame_count == 6000
    assert psutil.Process().memory_info().rss - before < 600 * 2**20


def test_rule_threshold_and_device_are_checked():
    assert whole.checked_rule(None, None) == ("exact", None, None)
    assert whole.checked_rule("gate", None) == ("gate", whole.DEFAULT_THRESHOLD, None)
    assert whole.checked_rule(None, 0.6)[:2] == ("gate", 0.6) and "rule=gate" in whole.checked_rule(None, 0.6)[2]
    assert whole.checked_rule("exact", 0.6)[:2] == ("exact", None) and "ignored" in whole.checked_rule("exact", 0.6)[2]
    for rule, threshold, words in (
        ("best", None, "exact, mouth, lenient"),
        ("gate", 1.2, "0 to 1"),
        (None, np.nan, "0 to 1"),
    ):
        with pytest.raises(InputError, match=words):
            whole.checked_rule(rule, threshold)
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        resolve("tpu")
    with pytest.raises(InputError, match="shorter than half a video frame"):
        whole.System(None, None, "cpu").run(np.zeros(100, np.float32))
    with pytest.raises(InputError, match=r"no excerpt of the recording, which has 1\.000 s: give a part"):
        specsync_lib.run(np.zeros(16000, np.float32), start_s=2.0)


@pytest.mark.parametrize("rule", ["judge", "exact"])
def test_a_stream_computes_on_the_threads_of_its_machine_or_of_its_user(monkeypatch, rule):
    """What a recording's run and `workbench.measure.pipeline_cpu` share."""
    seen = set()

    class Watched:
        def __init__(self, part):
            self._part = part

        def __getattr__(self, what):
            if what == "step":
                seen.add(torch.get_num_threads())
            return getattr(self._part, what)

    before = torch.get_num_threads()
    for given, wanted in (("3", 3), ("2,1", 2), ("64", 5), ("", 5)):
        monkeypatch.setattr(devices, "usable_cores", lambda: 5)
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        made = synthetic_stages(RealClock(), StageTimes())
        stages = replace(made, generator=Watched(made.generator))
        sound = pieces(np.zeros(CHUNK_SAMPLES, np.float32), pace="fast")
        report = whole.run_stream(sound, stages, rule, device="cpu", policy=whole.POLICY)
        assert report.ended == "complete" and seen == {wanted} and torch.get_num_threads() == before
        assert report.mode == ("serial" if rule == "judge" else "speculative")
        seen.clear()
    assert whole.seats("cuda", rule) is None and os.environ[SPIN_VARIABLE]


def test_one_call_is_the_system(system, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "load_system", lambda device, seed, **_: system)
    monkeypatch.setattr(whole, "anyone_speaks", lambda samples, hearing: True)
    said = []
    run = specsync_lib.run(SPEECH, threshold=0.4, out=tmp_path, progress=False, say=said.append)
    assert (
        (run.rule, run.threshold) == ("gate", 0.4) and "rule=gate" in said[0] and "expected on this machine" in said[1]
    )
    assert {path.name for path in tmp_path.iterdir()} == {"talk.mp4", "committed_plan.csv", "arkit.csv", "run.json"}


@pytest.mark.parametrize("kind", ["speech", "pink noise"])
def test_a_call_hears_what_a_run_of_the_notebooks_hears(system, tmp_path, monkeypatch, kind):
    """Where Whisper hears nobody speak, the mouth stays shut, whoever asks."""
    clip = load_audio(CLIPS_DIR / "closures.flac").samples[: 2 * units.SAMPLE_RATE_HZ]
    samples = clip if kind == "speech" else pink(len(clip), np.random.default_rng(3))
    write_flac(tmp_path / "speech.flac", samples)
    samples = load_audio(tmp_path / "speech.flac").samples  # in 16 bits, as a run has it
    found, heard, whisper_hears, run = [], [], whisper_base.hear, whole.System.run

    def listened(*arguments):
        found.append(whisper_hears(*arguments))
        return found[-1]

    def noted(one, *arguments, **options):
        heard.append(options["heard"])
        return run(one, *arguments, **options)

    monkeypatch.setattr(whole, "load_system", lambda device, seed, **_: system)
    monkeypatch.setattr(whole.System, "run", noted)
    monkeypatch.setattr(whisper_base, "hear", listened)
    said = []
    specsync_lib.run(samples, "draft", out=tmp_path / "out", progress=False, say=said.append)
    words = found[0].words
    write_json(tmp_path / "input.json", {"has_speech": bool(words), "transcript": ""})  # as notebook 01 does
    assert np.array_equal(heard[0], listen(tmp_path))
    assert bool(words) == heard[0].any() == (kind == "speech")
    assert ("Whisper hears no speech: the mouth stays shut" in said) == (kind == "pink noise")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_commits_what_the_cpu_commits(system, runs):
    face = FaceGenerator(*(model.to("cuda") for model in toy_models()), toy_reference())
    models = replace(system.models, draft=toy_draft().to("cuda"), ears=toy_ears().to("cuda"), face=face)
    on_gpu = whole.System(models, system.head, "cuda")
    for name, on_cpu in runs.items():
        run = on_gpu.run(SPEECH, on_cpu.rule, on_cpu.threshold, under=runs["exact"].under, progress=False)
        assert run.report.plan.tolist() == on_cpu.report.plan.tolist(), name
        assert np.abs(np.subtract(run.shown[30], on_cpu.shown[30], dtype=int)).max() < 30, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("clip", ["closures", "narrative"])
def test_the_suites_own_models_commit_on_a_gpu_what_they_commit_on_a_cpu(clip):
    head, samples = ToyHead(), load_audio(CLIPS_DIR / f"{clip}.flac").samples[: 4 * units.SAMPLE_RATE_HZ]
    on_cpu, on_gpu = (whole.load_system(device, head=head) for device in ("cpu", "cuda"))
    for rule in RUN_RULES:
        given = whole.DEFAULT_THRESHOLD if rule == "gate" else None
        plans = [system.run(samples, rule, given, progress=False).report.plan.tolist() for system in (on_cpu, on_gpu)]
        assert plans[0] == plans[1], rule
