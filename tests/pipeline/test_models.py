"""Real models as stages: a small face generator, the shipped draft, and a judge small enough to be exact at once."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from specsync_lib import units
from specsync_lib.draft.front import DRAFT, EARS, front_plan, load_draft_front
from specsync_lib.draft.latents import FrontLatents, LatentBasis
from specsync_lib.errors import InputError
from specsync_lib.face.generation import FaceGenerator
from specsync_lib.judge.branches import Branches
from specsync_lib.judge.loading import load_reasoner
from specsync_lib.judge.policy import load_policy
from specsync_lib.judge.rules import EXACT, VerifyOptions
from specsync_lib.judge.script import energy_digits
from specsync_lib.paths import CLIPS_DIR
from specsync_lib.pipeline.clock import RealClock
from specsync_lib.pipeline.commit_log import replay
from specsync_lib.pipeline.models import (
    FaceStage,
    FrontEar,
    Listener,
    Models,
    ReasonerJudge,
    SpeechDrafter,
    load_models,
    whole_chunk,
)
from specsync_lib.pipeline.outcome import frame_ages
from specsync_lib.pipeline.run import run_speculative
from specsync_lib.pipeline.serial import run_serial
from specsync_lib.pipeline.simulate import check_measured
from specsync_lib.pipeline.sound import AudioPiece, ChunkAssembler, pieces
from specsync_lib.pipeline.stages import Draft, Policy, Request, Settled, Stages, plan_of
from specsync_lib.pipeline.synthetic import StageTimes, SyntheticGenerator
from specsync_lib.rows import Row
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.whisper_base import Word
from specsync_lib.units import CHUNK_SAMPLES
from tests.toys.fronts import toy_draft, toy_ears
from tests.toys.generation import toy_models, toy_reference
from tests.toys.systems import SPEECH, ToyReasoner, ToyStream
from workbench.measure import pipeline_cpu

pytestmark = pytest.mark.usefixtures("one_thread")
VAE, TRANSFORMER = toy_models()


def toy_listener(**options) -> Listener:
    return Listener(toy_ears(), **options)


@pytest.fixture(scope="module")
def weights():
    return toy_draft()


def toy_stages(weights, steps=2, options=EXACT, size=units.CHUNK) -> Stages:
    face = FaceStage(FaceGenerator(VAE, TRANSFORMER, toy_reference(), size=size), steps=steps)
    return Stages(SpeechDrafter(weights), ReasonerJudge(ToyReasoner(), toy_listener(), options), face, size)


def chunks(samples=SPEECH, size=units.CHUNK):
    assembler = ChunkAssembler(size)
    return assembler.push(AudioPiece(0, samples), 0.0) + assembler.finish(0.0)


@pytest.mark.parametrize(("late", "branches"), [
    ("midflight", None), ("rollback", None), ("midflight", Branches(np.zeros((15, 15)))),
])  # fmt: skip
def test_both_pipelines_commit_the_same_plan_through_real_models(weights, late, branches):
    serial = run_serial(pieces(SPEECH, pace="fast"), toy_stages(weights))
    policy = Policy(late=late, deadline_s=600)
    stages = toy_stages(weights, options=VerifyOptions(branches=branches))
    report = run_speculative(pieces(SPEECH, pace="fast"), stages, policy)
    assert serial.ended == report.ended == "complete", (serial.error, report.error)
    assert report.frame_count == units.frame_count(len(SPEECH)) == 44
    assert report.plan.tolist() == serial.plan.tolist()
    assert "corrected" in {commit.how for commit in report.commits}
    assert report.commits[0].frames.shape == (12, 32, 32, 3) and report.commits[-1].frames.shape == (8, 32, 32, 3)
    if late == "rollback":
        assert all(np.array_equal(a, b) for a, b in zip(serial.frames(), report.frames(), strict=True))


@pytest.mark.parametrize("slots", [1, 2])
def test_short_chunks_commit_what_the_judge_alone_writes_in_them(weights, slots):
    """The last one is short; a roll-back's frames are the serial pipeline's."""
    size, sound = units.ChunkSize(slots), SPEECH[: 5000 + 2 * CHUNK_SAMPLES]
    serial = run_serial(pieces(sound, pace="fast"), toy_stages(weights, size=size))
    policy = Policy(late="rollback", deadline_s=600)
    report = run_speculative(pieces(sound, pace="fast"), toy_stages(weights, size=size), policy)
    assert serial.ended == report.ended == "complete", (serial.error, report.error)
    assert report.frame_count == units.frame_count(len(sound)) == 33
    assert report.plan.tolist() == serial.plan.tolist()
    assert {commit.how for commit in report.commits} >= {"corrected"} and report.chunk == size
    assert [commit.first_frame for commit in report.commits] == list(range(0, 33, 4 * slots))
    assert all(np.array_equal(a, b) for a, b in zip(serial.frames(), report.frames(), strict=True))
    assert replay(report.log.entries) == [commit.tokens for commit in report.commits]
    ages = frame_ages(report, len(sound))
    wait_ms = ages["chunk_wait_ms"] + ages["look_ahead_ms"]
    assert len(ages) == 33 and wait_ms.max() <= size.ms + 56 - 1000 / 60 + 1e-6


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("index", [2, 3, 4])
def test_evidence_after_a_gap_lies_on_the_recordings_own_rows(slots, index):
    """Chunks of 4 and 8 frames begin within a row of log-mel: who begins to listen there hears the same grid."""
    size = units.ChunkSize(slots)
    sound = np.random.default_rng(6).normal(0, 0.1, size.samples(index + 3)).astype(np.float32)
    parts, every, late = chunks(sound, size), toy_listener(), toy_listener()
    frozen = [every.hear(chunk) for chunk in parts]
    one = late.hear(parts[index])
    assert one.first_frame == frozen[index].first_frame and len(one) == len(frozen[index])
    assert np.array_equal(one.energy[2:], frozen[index].energy[2:])  # what sounds before the first frames is unheard
    two, want = late.hear(parts[index + 1]), frozen[index + 1]
    assert two.first_frame == want.first_frame and np.array_equal(two.energy, want.energy)


@pytest.mark.parametrize("samples", [SPEECH, SPEECH[: 2 * CHUNK_SAMPLES + 700], SPEECH[:5000], SPEECH[:267]])
def test_the_streamed_draft_is_the_whole_recordings(weights, samples):
    drafter = SpeechDrafter(weights)
    drafts = [drafter.draft(chunk) for chunk in chunks(samples)]
    whole = front_plan(samples, weights)
    assert [token for draft in drafts for token in draft.tokens] == whole.plan.visemes.tolist()
    for name in ("probabilities", "confidence", "openness"):
        streamed = np.concatenate([getattr(draft, name) for draft in drafts])
        np.testing.assert_allclose(streamed, getattr(whole, name), atol=1e-5)


def test_broken_sound_has_no_confidence(weights):
    samples = SPEECH.copy()
    samples[3000] = np.nan
    drafter = SpeechDrafter(weights)
    first, *_, last = [drafter.draft(chunk) for chunk in chunks(samples)]
    assert (first.confidence == 0).any() and (last.confidence > 0).all()


def test_latents_follow_the_features_and_a_broken_slot_rests(weights):
    generator = torch.Generator().manual_seed(0)
    basis = LatentBasis(
        torch.randn(5, 256, generator=generator), torch.randn(25, 5, generator=generator),
        torch.randn(16, 4, 4, generator=generator), "", "",
    )  # fmt: skip
    samples = SPEECH.copy()
    samples[:1500] = np.nan
    first = SpeechDrafter(weights, FrontLatents(basis)).draft(chunks(samples)[0])
    assert first.latents.shape == (16, 3, 4, 4)
    torch.testing.assert_close(first.latents[:, 0], basis.z0)
    drafter, stream = SpeechDrafter(weights, FrontLatents(basis)), FrontEar(weights, DRAFT)
    for chunk in chunks():
        said, _ = stream.hear(chunk.samples, chunk.frames, chunk.ended)
        hidden = torch.nn.functional.pad(said.hidden, (0, 1), value=1.0)
        slots = hidden.unflatten(0, (-1, 4)).mean(dim=1) @ basis.w_coef @ basis.basis
        latents = drafter.draft(chunk).latents
        want = (basis.z0.flatten() + slots).view(-1, 16, 4, 4).transpose(0, 1)
        torch.testing.assert_close(latents[:, : want.shape[1]], want, atol=1e-4, rtol=1e-4)
        for rest in range(want.shape[1], 3):
            torch.testing.assert_close(latents[:, rest], basis.z0)


def test_slots_decoded_before_the_commit_are_the_commits():
    whole = FaceGenerator(VAE, TRANSFORMER, toy_reference())
    split = FaceGenerator(VAE, TRANSFORMER, toy_reference())
    stage = FaceStage(split, steps=1)
    (audio, *_), rng = chunks(), np.random.default_rng(1)
    for _ in range(2):
        draft = random_draft(rng)
        work = stage.begin(audio, draft, plan_of(draft, draft.tokens))
        stage.step(work, plan_of(draft, draft.tokens))
        dropped = stage.begin(audio, draft, plan_of(draft, draft.tokens))  # decoded and thrown away: leaves no trace
        stage.step(dropped, plan_of(draft, draft.tokens))
        stage.render(dropped)
        parts = [stage.render(work) for _ in range(3)]
        stage.commit(work)
        chunk = whole.begin(
            whole_chunk(plan_of(draft, draft.tokens)), None, 1.0, 1, torch.Generator().manual_seed(audio.index)
        )
        chunk.step()
        assert parts[0] is parts[1] is None
        assert np.array_equal(parts[2], whole.commit(chunk))
    assert torch.equal(whole.last, split.last) and whole.chunks == split.chunks == 2


def test_a_step_that_was_taken_back_leaves_no_trace():
    """Rewound behind the decoding and taken again under another plan: the frames of that plan's step alone."""
    pictures, (audio, *_) = [], chunks()
    first, other = (random_draft(np.random.default_rng(seed)) for seed in (3, 4))
    for rewound in (False, True):
        stage = FaceStage(FaceGenerator(VAE, TRANSFORMER, toy_reference()))
        work = stage.begin(audio, first, plan_of(first, first.tokens))
        stage.step(work, plan_of(first, first.tokens))
        if rewound:
            stage.step(work, plan_of(first, first.tokens))
            stage.render(work)
            stage.rewind(work)
            assert work.steps_left == 1
        stage.step(work, plan_of(first, other.tokens))
        pictures.append([stage.render(work) for _ in range(3)][-1])
        stage.commit(work)
    assert np.array_equal(*pictures)


def random_draft(rng, frames=12):
    tokens = tuple(rng.integers(0, 15, frames).tolist())
    return Draft(tokens, np.ones(frames, np.float32), rng.random(frames).astype(np.float32))


def test_a_corrected_frame_takes_its_visemes_openness_and_others_keep_theirs():
    draft = random_draft(np.random.default_rng(2), frames=9)
    tokens = ((draft.tokens[0] + 1) % 15, *draft.tokens[1:])
    plan = whole_chunk(plan_of(draft, tokens))
    assert len(plan) == 12 and plan.visemes.tolist() == [*tokens, 0, 0, 0]
    assert np.array_equal(plan.openness[1:9], draft.openness[1:]) and plan.openness[0] != draft.openness[0]
    assert (plan.openness[9:] == 0).all()


def test_silence_between_silence_is_shut_whatever_the_draft_opens():
    draft = Draft((0, 0, 0, 10, 0, 0), np.ones(6, np.float32), np.full(6, 0.2, np.float32))
    np.testing.assert_allclose(plan_of(draft, draft.tokens).openness, [0, 0, 0.2, 0.2, 0.2, 0], atol=1e-6)
    told = plan_of(replace(draft, rest=True), (0, 0, 0, 0, 10, 10), np.full(6, 0.5))
    assert told.openness.tolist() == [0, 0, 0, 0.5, 0.5, 0.5]  # all the judge's


def test_evidence_does_not_depend_on_what_is_asked_beside_it():
    """Alone, after others, or after a gap: chunk 3 is heard as it was when it came."""
    sound = np.random.default_rng(5).normal(0, 0.1, 20 * CHUNK_SAMPLES).astype(np.float32)
    every, parts = toy_listener(), chunks(sound)
    frozen = [every.hear(chunk) for chunk in parts]
    longer = np.concatenate([sound, sound])  # the same past, another future
    for one, two in zip(frozen[:19], map(toy_listener().hear, chunks(longer)[:19]), strict=False):
        assert np.array_equal(one.probe, two.probe) and np.array_equal(one.energy, two.energy)
    late, new = toy_listener(), toy_listener()
    late.hear(parts[0])
    for index in range(10, 16):  # 1 to 9 went by unheard: as if the recording began there
        one, two = late.hear(parts[index]), new.hear(parts[index])
        assert np.array_equal(one.probe, two.probe) and one.first_frame == frozen[index].first_frame
        assert np.array_equal(one.energy[2 * (index == 10) :], frozen[index].energy[2 * (index == 10) :])


def test_the_judge_hears_only_what_has_been_said():
    other = SPEECH.copy()
    other[3 * CHUNK_SAMPLES :] = 0  # the future of chunk 1
    heard, again = ([*map(toy_listener().hear, chunks(sound)[:3])] for sound in (SPEECH, other))
    for one, two in zip(heard[:2], again[:2], strict=True):
        assert np.array_equal(one.probe, two.probe) and np.array_equal(one.energy, two.energy)


def test_evidence_is_of_the_chunks_own_frames():
    listener = toy_listener(words=[Word("now", 0.45, 0.7, 1.0)])
    evidence = [listener.hear(chunk) for chunk in chunks()]
    assert [one.first_frame for one in evidence] == [0, 12, 24, 36]
    assert [len(one) for one in evidence] == [12, 12, 12, 8]
    assert [[word.text for word in one.words] for one in evidence] == [["now"], ["now"], [], []]
    digits = energy_digits(SPEECH, 44)
    assert np.array_equal(np.concatenate([one.energy for one in evidence])[:36], digits[:36])


def test_chunks_that_went_by_are_read_later(weights):
    """The judge is asked about chunk 2 only: 0 and 1 went out as drafted, and are its context."""
    judge = ReasonerJudge(ToyReasoner(), toy_listener())
    drafter = SpeechDrafter(weights)
    sound = chunks()
    drafts = [drafter.draft(chunk) for chunk in sound]
    settled = tuple(Settled(sound[index], drafts[index], drafts[index].tokens) for index in range(2))
    verdicts = []
    judge.verify(Request(sound[2], drafts[2], settled, threading.Event()), verdicts.append)
    assert judge._stream.told == [0, 12, 24]
    assert tuple(judge._stream.fixed) == (*drafts[0].tokens, *drafts[1].tokens, *verdicts[-1].tokens)
    assert verdicts[-1].final and len(verdicts[-1].tokens) == 12


class OnceSilent(ToyStream):
    """The third frame of the second chunk gets no answer."""

    asked = 0

    def plan(self, frames, reasoning_tokens=0):
        type(self).asked += 1
        if self.asked == 15:
            raise InputError("judge: no answer within 5 s")
        return super().plan(frames, reasoning_tokens)


def test_a_judge_that_writes_goes_on_after_a_chunk_that_it_could_not(weights):
    """A time-out costs the chunk its plan, which is then the draft's, and the stream knows what went out."""
    stages = toy_stages(weights)
    stages.judge._stream = OnceSilent()
    report = run_serial(pieces(SPEECH, pace="fast"), stages, Policy(on_silence="draft"))
    assert report.ended == "complete" and "no answer" in report.notes[0]
    assert [commit.index for commit in report.commits if commit.how == "unverified"] == [1]
    assert stages.judge._stream.fixed == report.plan.tolist()


def test_a_judge_whose_rows_are_broken_abstains(weights):
    stages = toy_stages(weights)
    stages.judge._stream.fail = True
    report = run_speculative(pieces(SPEECH, pace="fast"), stages, Policy(on_silence="draft", deadline_s=600))
    assert report.ended == "complete" and {commit.how for commit in report.commits} == {"unverified"}
    assert report.counts["verdicts abstaining"] == 4 and "NaN" in stages.judge.faults[0]


def test_a_face_that_is_not_there_is_refused():
    row = replace(Row(), video=replace(Row().video, source="nobody", weights="random"))
    with pytest.raises(InputError, match="nobody: no such checkpoint directory"):
        load_models(row)


def test_the_measurement_writes_what_the_model_of_it_reads(weights, tmp_path, monkeypatch, capsys):
    """One short utterance through every pipeline, by the command."""

    class ToyModels(Models):
        def stages(self, options):
            generator = SyntheticGenerator(RealClock, StageTimes(), (32, 32))
            drafter = SpeechDrafter(weights, policy=load_policy())
            return replace(toy_stages(weights, options=options), drafter=drafter, generator=generator)

    monkeypatch.setattr(
        pipeline_cpu,
        "load_models",
        lambda *_, **__: ToyModels(None, None, ToyReasoner(), FaceGenerator(VAE, TRANSFORMER, toy_reference())),
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(pipeline_cpu, "usable_cores", lambda: 1)
    monkeypatch.setattr(
        pipeline_cpu, "recordings", lambda rng, prompts: iter([("one", SPEECH), ("two", SPEECH), ("three", SPEECH)])
    )
    out = tmp_path / "pipeline_cpu.json"
    few = ["--chunks", "4", "--longest-s", "0.7", "--pass-repeats", "0", "--starts", "2", "--seat-chunks", "1"]
    monkeypatch.setattr(pipeline_cpu, "SILENT_S", 0.0)
    assert pipeline_cpu.main([*few, "--reasoning-share", "1", "--beside-share", "1", "--out", str(out)]) == 0
    content = json.loads(out.read_text("utf-8"))
    region = content["regions"]["32px"]
    assert set(region["runs"]) == {"serial", "speculative", "speculative_lenient", "serial_reasoning"}
    for numbers in region["runs"].values():
        assert numbers["n"] == 4 and numbers["utterances"][0] == "one"
        assert numbers["p50_low_ms"] - 0.01 <= numbers["p50_ms"] <= numbers["p50_high_ms"] + 0.01
    assert content["utterances_with_unequal_plans"] == []
    assert set(region["sustains_real_time"]) == {"in_flight", *(f"in_flight_{rule}" for rule in pipeline_cpu.RULES)}
    assert set(region["rules"]) == {
        f"{way}_{rule}" for way in ("speculative", "in_flight") for rule in ("mouth", "gate")
    } | {"in_flight_lenient"}
    assert region["generation_alone"]["p50_ms"] > 0 and region["serial_over_generation"] > 0
    assert len(region["after_silence"]["latency_ms"]) == 2 and len(region["seats"]) >= 1
    assert {one["passes"] for one in content["replayed_lenient"]} == {1}
    assert len(content["replayed"]) == region["runs"]["speculative"]["n"]
    assert {"draft", "plan", "begin", "step", "render", "commit"} == set(region["stages"]["serial"])
    table = check_measured(np.random.default_rng(0), tmp_path)
    assert len(table) == 4 and (table["simulated_ms"] > 0).all()
    assert "p50" in capsys.readouterr().out


def test_the_measurement_ends_with_one_line(capsys, tmp_path, monkeypatch):
    def absent(*_, **__):
        raise InputError("wan-mini: no such weights")

    monkeypatch.setattr(pipeline_cpu, "load_models", absent)
    assert pipeline_cpu.main(["--out", str(tmp_path / "x.json")]) == InputError.EXIT_CODE
    assert capsys.readouterr().err == "wan-mini: no such weights\n"


@pytest.fixture(scope="module")
def heard():
    """Plans of the real draft and judge for a sound, with stages that cost nothing in place of the face."""
    draft, ears, reasoner = load_draft_front(DRAFT), load_draft_front(EARS), load_reasoner()

    def plans(samples: np.ndarray, run, **options):
        stages = Stages(
            SpeechDrafter(draft),
            ReasonerJudge(reasoner, Listener(ears)),
            SyntheticGenerator(RealClock(), StageTimes()),
        )
        return run(pieces(samples.astype(np.float32), pace="fast"), stages, Policy(deadline_s=600), **options)

    return plans


@pytest.fixture(scope="module")
def written(heard):
    """Eight chunks of a committed clip, and what the real judge alone writes on them."""
    samples = load_audio(CLIPS_DIR / "closures.flac").samples[: 8 * CHUNK_SAMPLES]
    return samples, heard(samples, run_serial)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [1, 4])
def test_exact_commits_what_the_real_judge_writes_on_a_committed_clip(heard, written, ahead):
    samples, alone = written
    exact = heard(samples, run_speculative, ahead=ahead)
    assert exact.plan.tolist() == alone.plan.tolist() and len(set(exact.plan.tolist())) > 5
    assert exact.counts.get("corrected", 0) > 0 and {by for commit in exact.commits for by in commit.by} == {"judge"}
    opened = [np.concatenate([commit.openness for commit in report.commits]) for report in (exact, alone)]
    assert np.abs(np.subtract(*opened)).mean() < 0.05


@pytest.mark.slow
def test_the_mouth_stays_shut_in_silence_and_in_noise(heard):
    noise = np.random.default_rng(0).normal(size=3 * CHUNK_SAMPLES)
    for samples in (0 * noise, 1e-4 * noise, 0.03 * noise):
        commits = heard(samples, run_speculative).commits
        opened = np.concatenate([commit.openness for commit in commits])
        assert (np.concatenate([commit.tokens for commit in commits]) == 0).mean() > 0.95
        assert (opened < 0.02).mean() > 0.9
