"""The teacher's probe, and the augmentation and batch features that train the draft against it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from specsync_lib import units
from specsync_lib.draft import plan
from specsync_lib.draft import probe as teacher
from specsync_lib.errors import InputError
from specsync_lib.speech import log_mel
from specsync_lib.speech.alignment import Phone
from specsync_lib.visemes import VISEME_INDEX, openness_of
from workbench.train import augment
from workbench.train import draft as draft_training
from workbench.train.probe import fit_probe
from workbench.train.voices import UNKNOWN, Voices, label_track

FEATURES = teacher.WIDTH * teacher.NEIGHBOURHOOD


@pytest.fixture(scope="module")
def encoder():
    """An encoder of the real shape with random weights: what is tested here does not hang on them."""
    torch.manual_seed(0)
    blank = teacher.AudioEncoder(units.MEL_BANDS, teacher.POSITIONS, teacher.WIDTH, 8, 1)
    return blank.eval().requires_grad_(False)


def tone(hertz: float, seconds: float = 1.0, rows: int = 1) -> torch.Tensor:
    """A pure tone [rows, n]."""
    time = torch.arange(round(seconds * units.SAMPLE_RATE_HZ)) / units.SAMPLE_RATE_HZ
    return (0.3 * torch.sin(2 * torch.pi * hertz * time)).repeat(rows, 1)


def peak_hertz(samples: torch.Tensor) -> float:
    """The strongest frequency of a signal [n]."""
    return float(torch.fft.rfft(samples).abs().argmax() * units.SAMPLE_RATE_HZ / len(samples))


def test_batch_features_are_those_of_the_stream():
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    streamed = plan.normalise(log_mel.log_mel(samples))
    rows = draft_training.normalise_rows(draft_training.log_mel_rows(torch.from_numpy(samples)[None]))[0].numpy()
    np.testing.assert_allclose(rows, streamed, atol=2e-3)
    windows = draft_training.window_rows(torch.from_numpy(streamed)[None])[0]
    centres = [units.centre_mel_frame(frame) for frame in range(30)]
    expected = draft_training.gather_windows(torch.from_numpy(streamed), 30)
    torch.testing.assert_close(windows[centres], expected)


def test_encoder_features_join_neighbouring_positions(encoder):
    torch.manual_seed(0)
    samples = torch.randn(2, 16_000) * 0.1
    found = teacher.encode(encoder, samples)
    assert found.shape == (2, 50, FEATURES)
    centre, before = found[:, 1:, 2 * 512 : 3 * 512], found[:, 1:, 512 : 2 * 512]
    torch.testing.assert_close(before, found[:, :-1, 2 * 512 : 3 * 512])
    assert not torch.equal(centre, before)
    assert (found[:, 0, : 2 * 512] == 0).all()


def test_a_probe_learns_a_linear_rule():
    torch.manual_seed(0)
    rule = torch.randn(8, len(units.VISEMES))

    def batches():
        while True:
            x = 3 + 2 * torch.randn(512, 8)
            yield x, ((x - 3) @ rule).argmax(dim=1)

    probe = fit_probe(batches(), 300, learning_rate=0.03, dropout=0.0)
    x, y = next(batches())
    assert float((probe.logits(x).argmax(dim=1) == y).float().mean()) > 0.9


def test_a_probe_needs_labelled_speech():
    with pytest.raises(InputError, match="no batch of labelled speech"):
        fit_probe(iter(()), 3)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 31.0, 46.0])
def test_the_teacher_answers_every_frame_of_any_length(encoder, seconds):
    torch.manual_seed(0)
    probe = teacher.Probe(
        torch.zeros(FEATURES), torch.ones(FEATURES), torch.randn(FEATURES, 15), torch.zeros(15),
        torch.ones(()),
    )  # fmt: skip
    samples = np.random.default_rng(0).standard_normal(round(seconds * 16_000)).astype(np.float32) * 0.1
    logits = teacher.teacher_logits(encoder, probe, samples)
    assert logits.shape == (units.frame_count(len(samples)), 15) and np.isfinite(logits).all()


@pytest.mark.parametrize("name", ["teacher", "teacher_unseen_speaker"])
def test_committed_probes_load(name):
    assert teacher.load_probe(plan.MODEL_DIR / f"{name}.safetensors").temperature > 0


def test_a_spoilt_probe_is_refused_by_file_and_tensor(tmp_path):
    tensors = load_file(plan.MODEL_DIR / "teacher.safetensors")
    tensors["weight"] = tensors["weight"][:5].contiguous()
    path = tmp_path / "probe.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"probe.safetensors: tensor 'weight' is not .* shape \[2560, 15\]"):
        teacher.load_probe(path)


def test_resampling_moves_a_tone_and_one_is_no_change():
    fast = augment.resample(tone(1000), torch.tensor([1.25]), 12_000)
    assert abs(peak_hertz(fast[0]) - 1250) < 2
    torch.testing.assert_close(augment.resample(tone(440), torch.ones(1), 16_000), tone(440), atol=2e-3, rtol=0)


def test_resampling_does_not_alias():
    assert augment.resample(tone(7500), torch.tensor([1.25]), 12_000)[0, 500:-500].abs().max() < 0.01


def test_formants_move_and_pitch_stays():
    """A buzz at 125 Hz through a resonance at 1 kHz: the harmonics stay, the strongest one moves up."""
    time = torch.arange(16_000) / 16_000
    harmonics = torch.arange(1, 60)[:, None] * 125.0
    buzz = (torch.exp(-(((harmonics - 1000) / 200) ** 2)) * torch.cos(2 * torch.pi * harmonics * time)).sum(dim=0)
    moved = augment.shift_formants(0.05 * buzz[None], torch.tensor([1.25]))[0]
    assert abs(peak_hertz(buzz) - 1000) < 2
    assert 1100 < peak_hertz(moved) < 1400 and peak_hertz(moved) % 125 < 2


def test_noise_and_reverberation_have_the_drawn_ratio():
    generator = torch.Generator().manual_seed(0)
    clean = tone(500, rows=2)
    noisy = augment.add_noise(clean, torch.zeros(2), torch.tensor([10.0, 30.0]), generator)
    ratio_db = 10 * torch.log10(clean.square().mean(dim=1) / (noisy - clean).square().mean(dim=1))
    torch.testing.assert_close(ratio_db, torch.tensor([10.0, 30.0]), atol=0.01, rtol=0)
    click = torch.zeros(1, 32_000)
    click[0, 100] = 1
    wet = augment.reverberate(click, torch.tensor([0.4]), torch.tensor([6.0]), generator)[0]
    assert float(wet[100]) == pytest.approx(1, abs=1e-4) and float(wet[:100].abs().max()) < 1e-4
    assert 10 * float(torch.log10(1 / wet[101:].square().sum())) == pytest.approx(6, abs=0.1)


def test_the_equaliser_keeps_what_lies_between_its_limits():
    through = augment.equalise(tone(1000), torch.zeros(1, 8), torch.tensor([100.0]), torch.tensor([4000.0]))
    assert float(through.std() / tone(1000).std()) == pytest.approx(1, abs=0.01)
    assert augment.equalise(tone(7000), torch.zeros(1, 8), torch.tensor([100.0]), torch.tensor([4000.0])).std() < 0.03


def test_augmentation_is_seeded_and_chance_zero_changes_nothing():
    speech = 0.1 * torch.randn(4, 20_000, generator=torch.Generator().manual_seed(1))

    def drawn(seed: int, chance: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        voiced, _ = augment.voice(speech, 16_000, torch.full((4,), chance), generator)
        return augment.channel(voiced, torch.full((4,), chance), generator)

    torch.testing.assert_close(drawn(0, 0.7), drawn(0, 0.7), rtol=0, atol=0)
    assert not torch.equal(drawn(0, 0.7), drawn(1, 0.7))
    # White noise has energy up to Nyquist, where reading between samples is roughest.
    torch.testing.assert_close(drawn(0, 0.0), speech[:, :16_000], atol=0.12, rtol=0)


def test_labels_follow_the_phones():
    phones = [Phone("SIL", 0.0, 0.1, ""), Phone("P", 0.1, 0.15, "pa"), Phone("AA", 0.15, 0.3, "pa")]
    track = label_track(phones, 8000)
    assert len(track) == 51 and set(track[30:]) == {VISEME_INDEX["sil"]}
    assert (track[10:15] == VISEME_INDEX["PP"]).all() and (track[15:30] == VISEME_INDEX["aa"]).all()
    assert (label_track([], 8000) == UNKNOWN).all()


def test_openness_targets_are_the_plans():
    visemes = np.random.default_rng(0).integers(0, 15, 40).astype(np.int8)
    rows = torch.nn.functional.one_hot(torch.from_numpy(visemes).long().repeat_interleave(3), 15).float()[None]
    found = draft_training.openness_targets(rows)[0, 1::3].numpy()
    np.testing.assert_allclose(found[1:-1], openness_of(visemes)[1:-1], atol=1e-6)


def test_a_batch_keeps_the_test_speaker_apart_and_a_fit_goes_on_where_it_stopped(encoder, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    lengths, table = [24_000, 30_000, 20_000], []
    marks = [length // units.HOP_SAMPLES + 1 for length in lengths]
    for index, (source, length) in enumerate(zip(("speech-en", "speech-es", "piper"), lengths, strict=True)):
        start, marks = sum(lengths[:index]), [n // 160 + 1 for n in lengths]
        table.append(
            {"source": source, "split": "train", "start": start, "length": length, "label_start": sum(marks[:index])}
        )
    labels = rng.integers(0, 15, sum(n // 160 + 1 for n in lengths)).astype(np.uint8)
    voices = Voices(rng.integers(-3000, 3000, sum(lengths)).astype(np.int16), labels, table)
    voices.save(tmp_path)
    settings = draft_training.Settings(steps=2, probe_steps=2, rows=8, crop_seconds=1.0, hidden=16)
    batches = draft_training.Batches(Voices.load(tmp_path), settings, torch.device("cpu"))
    batch = batches.draw()
    assert 0 < int(batch.foreign.sum()) < 8 and batch.mel.shape == (8, 100, 80)
    assert (batch.labels[batch.inside] < 15).all() and (batch.labels[~batch.inside] == UNKNOWN).all()

    monkeypatch.setattr(draft_training, "VARIANTS", {"main": draft_training.Variant("main")})
    probes = draft_training.fit_probes(batches, encoder, settings)
    new = {"main": draft_training.Trainee.new(draft_training.Variant("main"), settings, torch.device("cpu"))}
    checkpoint = tmp_path / "checkpoint.safetensors"
    losses = draft_training.train(batches, encoder, probes, new, settings, checkpoint=checkpoint)
    assert np.isfinite(losses["loss"]).all()
    resumed = {"main": draft_training.Trainee.new(draft_training.Variant("main"), settings, torch.device("cpu"))}
    assert draft_training.resume(checkpoint, resumed) == 2
    for old, again in zip(new["main"].average.parameters(), resumed["main"].average.parameters(), strict=True):
        torch.testing.assert_close(old, again, rtol=0, atol=0)
    draft_training.save_weights(new["main"].average.weights(1.5), tmp_path / "draft.safetensors")
    assert float(plan.load_draft(str(tmp_path / "draft.safetensors")).temperature) == 1.5
