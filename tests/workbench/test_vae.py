"""The VAE trainer: its fast coder equals diffusers', it starts frame-wise, its measures are right, two steps run."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from specsync_lib.errors import InputError
from specsync_lib.face import wan, wan_mini
from specsync_lib.face.vae import FoldedVae
from specsync_lib.measures import pictures
from tests.toys.faces import toy_corpus, write_toy_faces
from workbench.train import vae as wan_training


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = wan_mini.new_vae(8, seed=0).double()
    with torch.no_grad():  # leave the frame-wise start, so that every slice of every kernel matters
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return vae.eval()


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_the_folded_model_equals_diffusers(vae, frames):
    torch.manual_seed(0)
    signal = torch.rand(2, 3, frames, 16, 24, dtype=torch.float64) * 2 - 1
    coder = FoldedVae(vae, torch.float64, compiled=False)
    with torch.no_grad():
        posterior = vae.encode(signal).latent_dist
        mean, log_variance = coder.encode(signal.permute(0, 2, 3, 4, 1))
        # the folded model hands over float32
        torch.testing.assert_close(mean.permute(0, 4, 1, 2, 3).double(), posterior.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(log_variance.permute(0, 4, 1, 2, 3).double(), posterior.logvar, atol=1e-5, rtol=1e-5)
        decoded = coder.decode(mean).permute(0, 4, 1, 2, 3).clamp(-1, 1).double()
        torch.testing.assert_close(decoded, vae.decode(posterior.mean).sample, atol=1e-4, rtol=1e-4)


def test_a_new_model_acts_frame_by_frame():
    torch.manual_seed(0)
    coder = FoldedVae(wan_mini.new_vae(8, seed=1), torch.float32, compiled=False)
    clip = torch.rand(1, 9, 16, 16, 3) * 2 - 1
    with torch.no_grad():
        slots = coder.encode(clip)[0]
        newest = [coder.encode(clip[:, k : k + 1])[0][:, 0] for k in (0, 4, 8)]  # a slot holds its newest frame
        torch.testing.assert_close(slots, torch.stack(newest, dim=1), atol=1e-5, rtol=1e-4)
        frames = coder.decode(slots)
        single = torch.cat([coder.decode(slot[:, None]) for slot in newest], dim=1)
        expected = single[:, [0, 1, 1, 1, 1, 2, 2, 2, 2]]
        torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-4)


def test_ssim_and_psnr_have_their_known_values():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    window = pictures.gaussian_window
    torch.testing.assert_close(pictures.ssim_map(image, image, window), torch.ones(1, 3, 22, 22))
    flat = torch.zeros(1, 3, 32, 32)
    # two flat images: only the luminance term is left, (2ab + c1) / (a² + b² + c1)
    expected = (2 * 0.5 * 0.25 + 0.02**2) / (0.5**2 + 0.25**2 + 0.02**2)
    value = pictures.ssim_map(flat + 0.5, flat + 0.25, window).mean().item()
    assert value == pytest.approx(expected, abs=1e-3)
    assert pictures.psnr_db(1.0) == pytest.approx(48.1308, abs=1e-3)
    assert pictures.psnr_db(0.0) == 99.0


def test_kl_is_zero_for_the_unit_normal_and_known_elsewhere():
    assert wan_training.kl_per_element(torch.zeros(4), torch.zeros(4)).item() == 0
    assert wan_training.kl_per_element(torch.ones(4), torch.zeros(4)).item() == pytest.approx(0.5)


def test_crops_are_the_frames_pixels_and_the_mouth_counts_more():
    corpus = toy_corpus()
    frames, boxes = torch.from_numpy(corpus.frames), torch.from_numpy(corpus.mouth_px)
    picks = wan_training.Picks(
        torch.tensor([[3, 4]]), torch.tensor([20]), torch.tensor([10]), torch.tensor([True]), torch.ones(1, 3)
    )
    weights = wan_training.LossWeights(mouth=3.0)
    signal, weight = wan_training.cut(frames, boxes, picks, 32, weights)
    expected = frames[3:5, 20:52, 10:42].flip(2).float() / 127.5 - 1
    torch.testing.assert_close(signal[0], expected)
    # the box 16:44 x 26:52 overlaps the crop's columns 10:42 in 26 and its rows 20:52 in 26
    assert (weight == 3).sum().item() == 2 * 26 * 26
    assert set(weight.unique().tolist()) == {1.0, 3.0}


def test_drawn_crops_stay_inside_clips_and_frames():
    corpus, phase = toy_corpus(), wan_training.Phase(1, 5, 32, 64)
    picks = wan_training.draw_picks(corpus, corpus.clips_of("train"), phase, np.random.default_rng(0))
    assert picks.frames.shape == (64, 5)
    assert (picks.frames // 9).unique().tolist() == [0, 1]
    assert (picks.frames.diff(dim=1).abs() == 1).all()
    assert ((picks.frames // 9).amin(1) == (picks.frames // 9).amax(1)).all()
    assert picks.top.min() >= 0
    assert max(picks.top.max(), picks.left.max()) <= 32


def test_a_perfect_reconstruction_scores_perfectly_and_a_flickering_one_does_not(monkeypatch):
    corpus = toy_corpus()
    vae = wan_mini.new_vae(8, seed=0)
    monkeypatch.setattr(wan_training, "reconstruct", lambda coder, frames: frames)
    score = wan_training.quality(vae, corpus, corpus.clips_of("test"), 9, torch.float32)
    assert (score.psnr_db, score.flicker_grey, score.clips) == (99.0, 0.0, 2)
    assert score.ssim == pytest.approx(1.0)

    def flicker(coder, frames):
        return (frames.int() + 4 * (torch.arange(len(frames)) % 2)[:, None, None, None]).clamp(0, 255).to(torch.uint8)

    monkeypatch.setattr(wan_training, "reconstruct", flicker)
    score = wan_training.quality(vae, corpus, corpus.clips_of("test"), 9, torch.float32)
    assert score.flicker_grey == pytest.approx(4, abs=0.2)
    assert score.psnr_db == pytest.approx(10 * np.log10(255**2 / (16 * 4 / 9)), abs=0.3)


def options(**changes) -> wan_training.Options:
    settings = dict(base_dim=8, minutes=20, total_minutes=20, held_out_clips=1, held_out_frames=9, max_steps=2)
    return wan_training.Options(**(settings | {"schedule": wan_training.SMOKE_SCHEDULE} | changes))


def test_two_steps_a_phase_train_save_load_and_resume(tmp_path):
    corpus = toy_corpus()
    metrics = wan_training.train(corpus, options(), tmp_path / "one")
    assert metrics["steps"] == 6
    assert [row["frames"] for row in metrics["losses"]] == [1, 5, 9]
    stored = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert stored["final"]["test"]["clips"] == 2
    assert stored["curve"][-1]["step"] == 6
    assert (tmp_path / "one" / "preview.png").stat().st_size > 1000
    card = (tmp_path / "one" / "README.md").read_text()
    assert f"{stored['final']['test']['psnr_db']:.2f}" in card
    assert "2 steps of 2 x 5 frames at 32 px" in card
    vae = wan.load_vae(tmp_path / "one")
    # Wan's own latents, normalised with the stored statistics, have zero mean and unit variance on the training clips
    signal = wan.to_signal(torch.from_numpy(corpus.frames[:18]).unflatten(0, (2, 9)))
    latents = wan.normalise_latents(wan.encode_clip(vae, signal).chunk(2, 1)[0], vae)
    assert latents.mean().item() == pytest.approx(0, abs=1e-3)
    assert latents.flatten(2).transpose(0, 1).flatten(1).std(1, correction=0).mean().item() == pytest.approx(
        1, abs=1e-3
    )
    again = wan_training.train(corpus, options(total_minutes=60), tmp_path / "two", resume=tmp_path / "one")
    assert again["steps"] > 6
    assert again["curve"][-1]["step"] == again["steps"]
    assert again["curve"][: len(stored["curve"])] == stored["curve"]
    assert again["trained_minutes"] > stored["trained_minutes"]


def test_a_decoder_trained_alone_leaves_the_latents_as_they_are(tmp_path):
    corpus = toy_corpus()
    wan_training.train(corpus, options(), tmp_path / "one")
    wan_training.train(corpus, options(total_minutes=60, decoder_only=True), tmp_path / "two", resume=tmp_path / "one")
    before, after = wan.load_vae(tmp_path / "one"), wan.load_vae(tmp_path / "two")
    changed = {
        name.split(".")[0]
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {"decoder", "post_quant_conv"}
    assert after.config.latents_mean == before.config.latents_mean
    assert after.config.latents_std == before.config.latents_std


def test_a_schedule_can_begin_after_another_one():
    trainer = wan_training.Trainer(toy_corpus(), options(from_minutes=10, total_minutes=30), torch.device("cpu"))
    trainer.done_minutes = 15
    assert trainer.progress_share == pytest.approx(0.25, abs=0.01)


def test_phases_are_read_from_the_command_line():
    assert wan_training.parse_phase("0.5:33:128:6") == wan_training.Phase(0.5, 33, 128, 6)
    for text in ("0.5:33:128", "a:33:128:6", "0:33:128:6", "1:32:128:6", "1:33:100:6", "1:33:128:0"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            wan_training.parse_phase(text)


def test_a_schedule_must_end_after_its_begin(tmp_path, capsys):
    faces = write_toy_faces(tmp_path / "faces")
    arguments = ["--data", str(faces), "--out", str(tmp_path / "out"), "--minutes", "5", "--from-minutes", "5"]
    assert wan_training.main(arguments) == InputError.EXIT_CODE
    assert "--from-minutes 5" in capsys.readouterr().err


def test_squares_add_to_the_loss_what_they_say():
    target, weight = torch.zeros(1, 1, 16, 16, 3), torch.ones(1, 1, 16, 16)
    plain, squared = (
        wan_training.reconstruction_loss(target + 0.1, target, weight, wan_training.LossWeights(square=square))
        for square in (0.0, 5.0)
    )
    assert (squared - plain).item() == pytest.approx(5 * 0.1**2, rel=1e-4)


def test_quality_is_measured_on_the_corpus_that_is_held_out(tmp_path):
    corpus = toy_corpus()
    others = replace(
        corpus, names=[f"other/{name}" for name in corpus.names], facts=corpus.facts | {"sha256": "1" * 64}
    )
    metrics = wan_training.train(corpus, options(max_steps=1), tmp_path / "one", held_out=others)
    assert {row["clip"].split("/")[0] for row in metrics["final"]["test"]["per_clip"]} == {"other"}
    assert "1" * 16 in (tmp_path / "one" / "README.md").read_text()


def test_a_decoder_needs_an_encoder_to_keep(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--decoder-only"]
    assert wan_training.main(arguments) == InputError.EXIT_CODE
    assert "--resume" in capsys.readouterr().err


def test_training_reduces_the_loss():
    torch.manual_seed(0)
    phase = wan_training.Phase(1.0, 5, 16, 2)
    trainer = wan_training.Trainer(toy_corpus(), options(), torch.device("cpu"))
    picks = trainer._draw(phase)
    trainer.descent.prepare(lambda compiled: trainer._loss(phase, picks, trainer.coders[compiled]))
    values = []
    for _ in range(25):
        trainer.descent.step(2e-3)
        values.append(trainer.descent.loss())
    assert np.mean(values[-3:]) < 0.6 * values[0]


def test_an_absent_corpus_is_one_line(tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert wan_training.main(arguments) == InputError.EXIT_CODE
    assert "corpus.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_notebook_runs_two_steps(tmp_path, monkeypatch):
    import papermill

    from specsync_lib.paths import NOTEBOOKS_DIR

    monkeypatch.setenv("SPECSYNC_RUN_DIR", str(tmp_path / "run"))
    faces = write_toy_faces(tmp_path / "faces", size_px=64)
    papermill.execute_notebook(
        NOTEBOOKS_DIR / "training" / "wan_vae.ipynb",
        tmp_path / "wan_vae.ipynb",
        parameters={"profile": "smoke", "faces_folder": str(faces)},
        cwd=NOTEBOOKS_DIR,
        progress_bar=False,
    )
    metrics = json.loads((tmp_path / "run" / "wan_vae_smoke" / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert (tmp_path / "run" / "wan_vae_smoke" / "wan_vae_quality.png").is_file()
