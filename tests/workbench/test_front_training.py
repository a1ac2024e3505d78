"""The front's training: batches say the truth, the fit is the reference, a corpus goes on where it stopped."""

import json

import numpy as np
import pytest
import torch

from kernels.causal_front import reference
from specsync_lib import units
from specsync_lib.draft.front import whisper_range
from specsync_lib.speech.words import in_dictionary, normalise_text
from specsync_lib.visemes import VISEME_INDEX
from tests.toys.fronts import toy_base
from workbench.train import front, kokoro, sentences
from workbench.train.front_speech import (
    NOISE_KINDS,
    UNKNOWN,
    Corpus,
    frames_of_crop,
    make_noise,
    one_hot,
    openness_of_probabilities,
)


@pytest.fixture(scope="module")
def base() -> dict[str, torch.Tensor]:
    return toy_base(4)


def shard(path, kinds, seconds=3.0):
    """Utterances of noise whose label is aa everywhere; those without labels UNKNOWN."""
    rng, table, samples, labels = np.random.default_rng(0), [], [], []
    for kind in kinds:
        count = round(seconds * units.SAMPLE_RATE_HZ)
        samples.append((3000 * rng.standard_normal(count)).astype(np.int16))
        labels.append(np.full(count // 160 + 1, UNKNOWN if kind == "unlabelled" else VISEME_INDEX["aa"], np.uint8))
        table.append({"text": "a", "kind": kind, "timbre": [["af_heart", 1.0]], "length": count})
    text = np.frombuffer(json.dumps(table).encode(), np.uint8)
    np.savez(path, samples=np.concatenate(samples), labels=np.concatenate(labels), table=text)


def test_a_row_without_labels_has_none_in_its_silences_either(tmp_path):
    shard(tmp_path / "shard0000.npz", ["pure", "mixed", "held"])
    shard(tmp_path / "human_xx.npz", ["unlabelled", "human"])
    corpus = Corpus(tmp_path, torch.device("cpu"), 0)
    assert corpus.refresh() == 2 and len(corpus.held) == 1
    seen = set()
    for _ in range(3):
        batch = corpus.draw(16)
        for row, clean in zip(batch.labels, batch.clean, strict=True):
            found = set(row.tolist())
            if UNKNOWN in found:
                assert found == {UNKNOWN}
                seen.add("unlabelled")
            elif clean.abs().max() == 0:
                assert found == {VISEME_INDEX["sil"]}
            else:
                assert found == {VISEME_INDEX["sil"], VISEME_INDEX["aa"]}  # 3 s in a crop of 5
                seen.add("labelled")
        assert batch.labels.shape == (16, frames_of_crop()) and torch.isfinite(batch.recorded).all()
    assert seen == {"labelled", "unlabelled"}


def test_labels_follow_the_sound(tmp_path):
    shard(tmp_path / "shard0000.npz", ["held", "pure"])
    corpus = Corpus(tmp_path, torch.device("cpu"), 0)
    held = corpus.draw_held(0, 1)
    for frame in range(frames_of_crop()):
        middle = round((frame + 0.5) / 30 * 16_000)
        loud = held.clean[0, max(0, middle - 80) : middle + 80].abs().max() > 0.01
        edge = any(abs(middle - place) < 200 for place in (20 * 160, 20 * 160 + 48_000))
        assert edge or loud == (held.labels[0, frame] == VISEME_INDEX["aa"])


def test_noise_has_unit_power_and_babble_is_the_others():
    speech = torch.randn(4, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    for kind in range(len(NOISE_KINDS)):
        noise = make_noise(speech, torch.full((4,), kind), torch.Generator().manual_seed(1))
        assert torch.allclose(noise.square().mean(dim=1), torch.ones(4), atol=1e-3)


def test_openness_of_truth_is_the_plans():
    from specsync_lib.visemes import openness_of

    labels = torch.randint(0, 15, (2, 40), generator=torch.Generator().manual_seed(0))
    soft = openness_of_probabilities(one_hot(labels)).numpy()
    for row, wanted in zip(soft, labels.numpy(), strict=True):
        assert np.allclose(row, openness_of(wanted), atol=1e-6)


@pytest.mark.parametrize("name, chunk", [("draft_1", 12), ("draft_narrow", 4), ("draft_1", 8)])
def test_a_fit_is_the_reference(base, name, chunk):
    variant = front.VARIANTS[name]
    fit = front.Fit(front.fresh(base, variant, 0), variant).eval()
    mel = torch.randn(1, 500, 80, generator=torch.Generator().manual_seed(1))
    frames = 96
    with torch.no_grad():
        logits, opening = fit(mel, chunk, 0, 0)
        rows = whisper_range(mel[:, : len(reference.new_rows(0, frames))])
        want = reference.front_offline(rows, fit.weights(), [chunk] * (frames // chunk))
    assert (logits[:, :frames] - want.logits).abs().max() < 1e-4
    assert (opening[:, :frames].sigmoid() - want.openness).abs().max() < 1e-5


def test_training_moves_only_what_it_may_and_goes_on(base, tmp_path, monkeypatch):
    shard(tmp_path / "shard0000.npz", ["pure", "mixed", "held"])
    variant = front.Variant(1, "unseen", past=20)
    monkeypatch.setitem(front.VARIANTS, "tiny", variant)
    corpus = Corpus(tmp_path, torch.device("cpu"), 0)
    trainee = front.Trainee("tiny", base, tmp_path, corpus.device, 0)
    done = front.train([trainee], {}, corpus, seconds=1e9, rows=2, steps=2, done=(0, 0.0), whole_seconds=1e9)
    assert done[0] == 2
    again = front.Trainee("tiny", base, tmp_path, corpus.device, 0)
    again.restore(trainee.state())
    for one, other in zip(again.fit.values, trainee.fit.values, strict=True):
        assert torch.equal(one, other)
    moved = trainee.fit.weights().tensors()
    assert torch.equal(moved["positions"], base["positions"])
    assert not torch.equal(moved["conv1_w"], base["conv1_w"])


def test_the_trained_speaker_teaches_no_unseen_fit(base):
    torch.manual_seed(0)
    variant = front.Variant(1, "unseen")
    fit = front.Fit(front.fresh(base, variant, 0), variant)
    logits = torch.randn(2, 5, 15, requires_grad=True)
    opening = torch.randn(2, 5, requires_grad=True)
    labels = torch.zeros(2, 5, dtype=torch.long)
    trainee = type("T", (), {"variant": variant, "fit": fit})()
    front.loss_of(trainee, logits, opening, labels, None, torch.tensor([True, False])).backward()
    assert logits.grad[0].abs().sum() > 0 and logits.grad[1].abs().sum() == 0 and opening.grad[1].abs().sum() == 0


def test_sentences_are_speakable():
    rng = np.random.default_rng(0)
    words = {word for phrases in sentences.WORDS.values() for phrase in phrases for word in normalise_text(phrase)}
    assert all(map(in_dictionary, words))
    some = sentences.sentences(["able", "about", "above", "acid", "across"], ["Please hold on the line now."], rng)
    found = [next(some) for _ in range(40)]
    assert len(set(found)) == 40
    assert all(sentences.SHORTEST_CHARACTERS <= len(one) <= sentences.LONGEST_CHARACTERS for one in found)


def test_a_style_mixes_timbre_and_prosody_apart():
    styles = {name: np.full((28, 256), value, np.float16) for name, value in (("a", 1.0), ("b", 3.0))}
    utterance = {"tokens": [1] * 40, "timbre": [("a", 0.25), ("b", 0.75)], "prosody": [("a", 1.0)]}
    style = kokoro.style_of(utterance, styles)
    assert style.shape == (1, 256) and np.allclose(style[0, :128], 2.5) and np.allclose(style[0, 128:], 1.0)


def test_a_few_recordings_weigh_as_much_as_many_in_the_temperature():
    from specsync_lib.visemes import SyncPlan
    from workbench.train.front_card import Recording, temperature_of

    def group(count, sharp):
        rng = np.random.default_rng(count)
        truth = rng.integers(0, 15, count).astype(np.int8)
        logits = rng.normal(0, 1, (count, 15)).astype(np.float32)
        logits[np.arange(count), truth] += 2
        plan = SyncPlan(truth, np.zeros(count, np.float32))
        return [(sharp * logits, plan.openness)], [Recording("one", "one", np.zeros(0), plan)]

    cold, warm = temperature_of([group(4000, 0.8)]), temperature_of([group(400, 2.4)])
    both = temperature_of([group(4000, 0.8), group(400, 2.4)])
    assert cold < both < warm and abs(both - cold) > 0.25 * (warm - cold)


def test_nobody_babbles_in_the_trained_speakers_voice(tmp_path):
    """Whatever she says, the other rows of her batch are recorded alike."""
    shard(tmp_path / "shard0000.npz", ["pure"])
    known = torch.tensor([1.0, 1.0, 0.5, 1.0, 0.5, 1.0] * 8)
    clean = 0.1 * torch.randn(len(known), 16_000, generator=torch.Generator().manual_seed(0))
    other = clean.clone()
    other[known < 1] = 0.1 * torch.randn(16, 16_000, generator=torch.Generator().manual_seed(1))
    one, two = (Corpus(tmp_path, torch.device("cpu"), 0).record(rows, known) for rows in (clean, other))
    assert torch.equal(one[known == 1], two[known == 1]) and not torch.equal(one[known < 1], two[known < 1])
    assert not torch.equal(one[known == 1], clean[known == 1])
