"""Lessons that do not leak, texts that are the stream's own, and an adapter that comes back as it was trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specsync_lib import units
from specsync_lib.assets import asset
from specsync_lib.draft.front import front_plan, load_draft_front
from specsync_lib.errors import InputError
from specsync_lib.judge.loading import MODEL_DIR, load_reasoner
from specsync_lib.judge.script import Script, TimedWord, chunk_evidence
from specsync_lib.speech.alignment import Phone
from specsync_lib.speech.corpus import human_prompts, read_splits
from specsync_lib.speech.words import normalise_text
from tests.toys.reasoner import CLASSES, byte_tokenizer, recording, tiny_llama, tiny_reasoner
from workbench.train.lessons import CHUNKS, elsewhere, hear, words_of
from workbench.train.reasoner import (
    Lesson,
    Settings,
    as_unheard,
    batches,
    disturb,
    examples,
    fit,
    load_lessons,
    main,
    save_lessons,
    written_past,
)
from workbench.train.splits import near_duplicates


def lesson(frames: int = 40, seed: int = 0, name: str = "one", split: str = "train") -> Lesson:
    """A probe that is mostly right, words, and truth in runs of about four frames."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, CLASSES, frames // 4 + 1), 4)[:frames].astype(np.int8)
    probe = rng.dirichlet(np.full(CLASSES, 0.2), frames).astype(np.float32)
    probe = 0.3 * probe + 0.7 * np.eye(CLASSES, dtype=np.float32)[truth]
    words = tuple(TimedWord(f"word{k}", 10 * k, 10 * k + 7) for k in range(frames // 10))
    return Lesson(name, "speech-en", split, words, rng.integers(0, 10, frames).astype(np.int8), probe, truth)


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(byte_tokenizer())


# ----------------------------------------------------------------------------------------------------------- lessons


def test_lessons_survive_their_file(tmp_path):
    lessons = [lesson(40, 0, "one"), lesson(7, 1, "two", "validation")]
    save_lessons(lessons, tmp_path / "lessons.npz")
    for before, after in zip(lessons, load_lessons(tmp_path / "lessons.npz"), strict=True):
        assert (before.name, before.split, before.words) == (after.name, after.split, after.words)
        assert (before.truth == after.truth).all() and (before.energy == after.energy).all()
        np.testing.assert_allclose(before.probe, after.probe, atol=1e-3)


def test_a_broken_file_of_lessons_is_one_line(tmp_path, capsys):
    (tmp_path / "lessons.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match=r"workbench\.train\.lessons"):
        load_lessons(tmp_path / "lessons.npz")
    assert main([str(tmp_path / "none.npz"), "--out", str(tmp_path)]) == InputError.EXIT_CODE
    assert capsys.readouterr().err.count("\n") == 1


def test_words_of_phones_skip_the_pauses():
    phones = [
        Phone("SIL", 0.0, 0.1, ""), Phone("OW", 0.1, 0.3, "oh"), Phone("SIL", 0.3, 0.4, ""), Phone("N", 0.4, 0.5, "no"),
        Phone("OW", 0.5, 0.7, "no"),
    ]  # fmt: skip
    assert [(word.text, word.start_s, word.end_s) for word in words_of(phones)] == [("oh", 0.1, 0.3), ("no", 0.4, 0.7)]


def test_speech_that_taught_the_ears_reads_as_if_it_had_not():
    """A share of it is heard a frame early or late, the rest as it was but surer; other sources stay as they are."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.permutation(600) % CLASSES, 3)
    probe = np.full((len(truth), CLASSES), 0.02, np.float32) + 0.7 * np.eye(CLASSES, dtype=np.float32)[truth]
    moved = replace(Settings(), displaced_share=0.3)
    told = as_unheard(probe, moved, rng)
    np.testing.assert_allclose(told.sum(axis=1), 1, atol=1e-5)
    right = told.argmax(axis=1) == truth
    assert 0.75 < right.mean() < 0.95  # two of three frames of a sound that begins a frame early are still right
    assert (told.max(axis=1) > probe.max(axis=1)).all()
    still = replace(Settings(), displaced_share=0.0, sharper=1.0)
    np.testing.assert_allclose(as_unheard(probe, still, rng), probe / probe.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_recording_elsewhere_keeps_its_phones_in_their_places():
    """Another voice is another tempo: the phones follow, and noise comes at the level that was drawn."""
    samples = np.zeros(24_000, np.float32)
    samples[8_000:16_000] = 0.5 * np.sin(np.arange(8_000) * 0.3)
    phones = [Phone("SIL", 0.0, 0.5, ""), Phone("AA", 0.5, 1.0, "ah"), Phone("SIL", 1.0, 1.5, "")]
    others = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    for seed in range(3):
        moved, placed = elsewhere(samples, phones, others, torch.Generator().manual_seed(seed))
        ratio = phones[1].end_s / placed[1].end_s
        assert len(moved) == int(len(samples) / ratio) and 0.8 <= ratio <= 1.25 and np.isfinite(moved).all()
        first, last = (round(16_000 * at) for at in (placed[1].start_s, placed[1].end_s))
        inside, before = np.square(moved[first:last]).mean(), np.square(moved[: first // 2]).mean()
        assert inside > before > 0


def test_ears_hear_a_lesson_as_their_stream_does():
    try:
        ears = load_draft_front("ears")
    except InputError as missing:
        pytest.skip(str(missing))
    samples = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    for chunk in CHUNKS:
        streamed = front_plan(samples, ears, chunk_frames=chunk).probabilities
        np.testing.assert_allclose(hear(ears, samples, chunk), streamed, atol=1e-4)


@pytest.fixture
def synthetic(tmp_path, monkeypatch) -> Path:
    """A file of lessons in two toy voices, heard by ears of a path."""
    from workbench.train import lessons

    ears = tmp_path / "ears_unseen.safetensors"

    def speak(source, minutes, rng):
        samples = rng.normal(0, 0.1, 20_000).astype(np.float32)
        yield from [(samples, [Phone("OW", 0.1, 0.9, f"{source}{k}")]) for k in range(4 if minutes else 0)]

    def hear(heard_by, samples, chunk):
        taught = lesson(38)
        taught.probe[::2] = np.eye(CLASSES)[taught.truth[::2]]  # some are sure
        return taught.probe * (heard_by == str(ears))

    monkeypatch.setattr(lessons, "prompts_of", lambda *_: [])
    monkeypatch.setattr(lessons, "human_lessons", lambda *_, **more: pytest.fail("a human was heard"))
    monkeypatch.setattr(lessons, "SYNTHETIC_MINUTES", {"piper": 1.0, "slt": 1.0})
    monkeypatch.setattr(lessons, "speak", speak)
    monkeypatch.setattr(lessons, "load_draft_front", lambda name: name)
    monkeypatch.setattr(lessons, "hear", hear)
    assert lessons.main([str(tmp_path / "lessons.npz"), "--synthetic", "--ears", str(ears)]) == 0
    none = [str(tmp_path / "none.npz"), "--synthetic", "--minutes-scale", "0"]
    assert lessons.main(none) == InputError.EXIT_CODE and not (tmp_path / "none.npz").exists()
    return tmp_path / "lessons.npz"


def test_synthetic_lessons_are_of_the_ears_that_were_named(synthetic):
    found = load_lessons(synthetic)
    assert {(one.source, one.split) for one in found} == {("piper", "train"), ("slt", "train")} and len(found) == 8
    assert all(one.probe.sum() > 0 for one in found)


def test_absent_ears_are_one_line(tmp_path, capsys):
    from workbench.train import lessons

    assert lessons.main([str(tmp_path / "out.npz"), "--ears", str(tmp_path / "no.safetensors")]) == InputError.EXIT_CODE
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_of_the_test_split_was_learned():
    """The committed adapters name every utterance that they heard: none is held out, nor nearly says what is."""
    held_out = {name for name, row in read_splits()["prompts"].items() if row["split"] != "train"}
    learned = {}
    for path in MODEL_DIR.glob("*/training.json"):
        learned |= dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))["names"])
    assert learned and not held_out & learned.keys()
    try:
        asset("speech-en")
    except InputError as missing:
        pytest.skip(str(missing))
    spoken = {prompt.name: normalise_text(prompt.transcript) for prompt in human_prompts()}
    test = [spoken[prompt.name] for prompt in human_prompts("test")]
    human = [spoken[name] for name in learned if name in spoken]
    assert len(human) > 300
    assert not any(near_duplicates(one, other) for one in human for other in test)


# ------------------------------------------------------------------------------------------------------------- texts


def test_an_example_is_the_text_of_a_stream(script):
    taught = lesson(40)
    (example,) = examples(script, taught, 4096)
    stream = tiny_reasoner(script=script).stream()
    for evidence in chunk_evidence(taught.words, taught.energy, taught.probe):
        stream.read(evidence)
        stream.commit(taught.truth[evidence.first_frame : evidence.first_frame + len(evidence)])
    assert example.tokens == stream._text()
    assert example.targets == taught.truth.tolist()
    answers = [example.tokens[place + 1] for place in example.places]
    assert answers == [script.letter(viseme) for viseme in taught.truth]


def test_a_long_lesson_becomes_several_windows(script):
    taught = lesson(240)
    parts = list(examples(script, taught, 300))
    assert len(parts) > 3 and max(len(part.tokens) for part in parts) <= 300
    assert [target for part in parts for target in part.targets] == taught.truth.tolist()
    assert all(part.tokens[: len(script.start)] == script.start for part in parts)


@given(st.integers(0, 10_000))
def test_a_disturbed_lesson_is_still_one(seed):
    taught = lesson(33)
    words, probe, written = disturb(taught, Settings(), np.random.default_rng(seed))
    assert probe.shape == taught.probe.shape and written.shape == taught.truth.shape
    np.testing.assert_allclose(probe.sum(axis=1), 1, atol=1e-4)
    assert all(0 <= word.first_frame <= word.last_frame < 33 for word in words)
    assert ((written >= 0) & (written < CLASSES)).all()


def test_some_lessons_lose_the_probe_and_others_the_words():
    told = [disturb(lesson(33), Settings(), np.random.default_rng(seed)) for seed in range(400)]
    no_probe = np.array([np.ptp(probe) == 0 for _, probe, _ in told])
    no_words = np.array([not words for words, _, _ in told])
    assert abs(no_probe.mean() - Settings().no_probe_chance) < 0.06
    assert abs(no_words.mean() - Settings().no_words_chance) < 0.08
    assert not (no_probe & no_words).any(), "a lesson without both teaches guessing"


def test_the_past_is_a_guess_in_whole_stretches():
    truth, guess = np.zeros(3000, int), np.ones(3000, int)
    past = written_past(truth, guess, Settings(), np.random.default_rng(0))
    assert 0.15 < (past == truth).mean() < 0.35
    lengths = np.diff(np.flatnonzero(np.diff(past)))
    assert lengths.min() >= Settings().past_stretch_frames[0], "errors come in sounds, not in single frames"
    always = replace(Settings(), true_past_share=1.0)
    assert (written_past(truth, guess, always, np.random.default_rng(0)) == truth).all()


def test_a_run_that_goes_on_sees_what_it_would_have_seen(script):
    lessons = [lesson(20 + k, k, str(k)) for k in range(6)]
    settings = Settings(batch_tokens=300)
    whole, rest = batches(script, lessons, settings), batches(script, lessons, settings, skip=7)
    for _ in range(7):
        next(whole)
    for _ in range(5):
        assert next(whole) == next(rest)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture
def short() -> Settings:
    return Settings(
        minutes=60, most_steps=40, batch_tokens=300, learning_rate=1e-2, rank=4, alpha=8, no_probe_chance=0.0
    )


def test_training_learns_and_its_adapter_loads(script, short, tmp_path):
    torch.manual_seed(0)
    lessons = [lesson(24, k, str(k)) for k in range(8)]
    model = tiny_llama()
    facts = fit(model, script, lessons, short, tmp_path / "adapter")
    curve = np.genfromtxt(tmp_path / "adapter" / "losses.csv", delimiter=",", names=True)
    assert facts["steps"] == 40 and curve["loss"][-1] < 0.8 * curve["loss"][0]
    assert sorted(facts["names"]) == sorted(taught.name for taught in lessons)

    folder = tmp_path / "llama"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tuned = load_reasoner(folder, tmp_path / "adapter", weights="random")
    assert tuned.instruction == ""
    ids = torch.randint(0, 300, (1, 50))
    with torch.no_grad():
        trained = model.base_model(input_ids=ids).last_hidden_state  # peft's layers are inside
        merged = tuned.engine.model.base_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(merged, trained, atol=0.1, rtol=0.1)  # the file is bfloat16
    assert not (tmp_path / "adapter" / "checkpoint.safetensors").exists()


def test_training_without_validation_lessons_measures_none(synthetic, tmp_path):
    """The command on synthetic lessons alone: the adapter loads and tells whom it heard, at a neutral temperature."""
    folder, out = tmp_path / "llama", tmp_path / "fits" / "adapter"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    limits = ["--steps", "12", "--minutes", "60", "--batch-tokens", "300"]
    assert main([str(synthetic), "--out", str(out), "--model", str(folder), *limits]) == 0
    facts = json.loads((out / "training.json").read_text())
    assert (facts["sources"], facts["validation"], facts["steps"]) == (["piper", "slt"], None, 12)
    assert len((out / "losses.csv").read_text().splitlines()) == 2
    assert load_reasoner(folder, out, weights="random").temperature == 1.0


def test_an_interrupted_run_goes_on(script, short, tmp_path, monkeypatch):
    from workbench.train import reasoner

    monkeypatch.setattr(reasoner, "SAVE_EVERY_S", 0.0)
    lessons = [lesson(24, k, str(k)) for k in range(4)]
    step = reasoner.Trainee.step

    def breaks(self, *arguments):
        if self.steps == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(reasoner.Trainee, "step", breaks)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_llama(), script, lessons, short, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "adapter_model.safetensors").exists()
    begun = []

    def notes(self, *arguments):
        begun.append((self.steps, float(sum(part.abs().sum() for part in self.masters.values()))))
        return step(self, *arguments)

    monkeypatch.setattr(reasoner.Trainee, "step", notes)
    facts = fit(tiny_llama(), script, lessons, short, tmp_path)
    assert begun[0][0] == 5 and facts["steps"] == 40
    fresh = reasoner.Trainee.new(tiny_llama(), short, None)
    assert begun[0][1] != pytest.approx(float(sum(part.abs().sum() for part in fresh.masters.values())))


def test_training_refuses_what_cannot_teach(script, short, tmp_path):
    with pytest.raises(InputError, match="no lessons"):
        fit(tiny_llama(), script, [], short, tmp_path)
    with pytest.raises(InputError, match="train it first"):
        fit(tiny_llama(), script, [lesson()], short, tmp_path, start=tmp_path / "nowhere")
    model = tiny_llama()
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="the loss is nan"):
        fit(model, script, [lesson()], short, tmp_path)


def test_evidence_for_tests_is_that_of_recordings():
    assert [chunk.first_frame for chunk in recording(30)] == [0, units.FRAMES_PER_CHUNK, 2 * units.FRAMES_PER_CHUNK]
