"""The small decoders' trainer: it learns from what was drawn, goes on until its time is spent, and resumes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from specsync_lib.face import wan_mini
from specsync_lib.face.decoders.networks import Portrait
from specsync_lib.face.decoders.rows import load_decoder
from specsync_lib.face.decoders.streams import TinyDecoder
from specsync_lib.face.vae import FoldedVae
from tests.toys.faces import toy_corpus, write_toy_faces
from workbench.measure import decoders as bench
from workbench.train import decoder as trainer

OPTIONS = trainer.Options(
    minutes=0.5, total_minutes=0.5, sizes=("toy",), shares=(1.0,), clips=1, held_out_clips=1, measure_every_minutes=9.0
)


@pytest.fixture(scope="module")
def vae():
    vae = wan_mini.new_vae(8, seed=0).eval().requires_grad_(False)
    vae.register_to_config(latents_mean=[0.1] * 16, latents_std=[0.5] * 16)
    return vae


@pytest.fixture
def clock(monkeypatch):
    """A minute is a hundred steps, however busy the machine."""
    ticks = property(lambda self: self.done_minutes + sum(one.piece_steps for one in self.learners) / 100)
    monkeypatch.setattr(trainer.Trainer, "minutes", ticks)


def test_steps_are_taken_until_the_time_is_spent_and_a_later_piece_goes_on(vae, tmp_path, clock, monkeypatch):
    monkeypatch.setattr(trainer, "STEPS_AT_ONCE", 4)
    options = replace(OPTIONS, minutes=0.1, total_minutes=0.2, learning_rate=2e-2)
    metrics = trainer.train(toy_corpus(), vae, options, tmp_path / "a")
    assert metrics["sizes"]["toy"]["steps"] == 12  # more than one turn, and no more turns than minutes
    first, last = metrics["curve"][0]["toy"]["test"], metrics["final"]["toy"]["test"]
    assert last["psnr_db"] > first["psnr_db"] + 0.3
    later = replace(options, minutes=0.08)
    metrics = trainer.train(toy_corpus(), vae, later, tmp_path / "b", resume=tmp_path / "a")
    assert metrics["sizes"]["toy"]["steps"] == 20
    assert [row["toy"]["steps"] for row in metrics["curve"]] == [0, 12]
    assert metrics["trained_minutes"] == pytest.approx(0.2)
    assert json.loads((tmp_path / "b" / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    card = (tmp_path / "b" / "README.md").read_text()
    assert f"{metrics['final']['toy']['test']['psnr_db']:.2f}" in card
    assert f"{metrics['final']['wan']['test']['psnr_db']:.2f}" in card
    assert load_decoder("tiny", vae, tmp_path / "b" / "toy.safetensors").row == "tiny"


def test_sizes_share_the_time_and_a_limit_ends_them(vae, tmp_path, clock, monkeypatch):
    monkeypatch.setattr(trainer, "STEPS_AT_ONCE", 2)
    monkeypatch.setitem(trainer.SIZES, "other", replace(trainer.SIZES["toy"], pictured=False))
    options = replace(
        OPTIONS, sizes=("toy", "other"), shares=(0.5, 0.5), minutes=9, total_minutes=9, max_steps=3, final=False
    )
    metrics = trainer.train(toy_corpus(), vae, options, tmp_path)
    assert {name: row["steps"] for name, row in metrics["sizes"].items()} == {"toy": 3, "other": 3}
    assert "final" not in metrics
    assert [row["other"]["steps"] for row in metrics["curve"]] == [0, 3]


def test_a_lesson_is_the_clip_in_its_way(vae):
    corpus = toy_corpus()
    frames = torch.from_numpy(corpus.frames)
    lessons = trainer.encode_clips(corpus, frames, vae, np.array([1]))
    coder = FoldedVae(vae, torch.float32, compiled=False)
    clip = frames[corpus.clip_start[1] :][:9]
    for row, (mirrored, backwards) in enumerate(trainer.WAYS):
        shown = clip.flip(2) if mirrored else clip
        shown = shown.flip(0) if backwards else shown
        with torch.no_grad():
            mean = coder.encode(shown[None].float() / 127.5 - 1)[0].permute(0, 1, 4, 2, 3)
        torch.testing.assert_close(lessons.mean[row].float(), ((mean - 0.1) / 0.5)[0], atol=2e-2, rtol=1e-2)
        assert bool(lessons.mirrored[row]) == mirrored
        assert torch.equal(frames[lessons.order[row]], clip.flip(0) if backwards else clip)


def test_what_is_trained_is_what_streams():
    torch.manual_seed(0)
    network = Portrait(trainer.SIZES["toy"]).eval()
    torch.nn.init.normal_(network.flow.weight, std=0.3)
    z, picture = torch.randn(2, 4, 16, 8, 8), torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        signal = trainer.decode_clips(network, z, picture.float() / 127.5 - 1, torch.float32)
    trained = ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    for k in range(2):
        stream = TinyDecoder(network)
        stream.start(z[k, 0], picture[k].numpy())
        pushed = torch.cat([stream.push(z[k, 1:2].transpose(0, 1)), stream.push(z[k, 2:].transpose(0, 1))])
        assert (pushed.int() - trained[k].int()).abs().max() <= 1


def test_a_border_shows_as_what_changes_there_over_what_changes_inside():
    frames = torch.zeros(12, 4, 4, 3)
    for k in range(1, 12):
        frames[k] = frames[k - 1] + (6 if k % 4 == 0 else 2)
    assert trainer.border_ratio(frames.to(torch.uint8)) == pytest.approx(3.0)


def test_bad_arguments_are_one_line(tmp_path, capsys):
    data = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    for extra, told in (
        (["--sizes", "large", "small", "--shares", "1"], "--shares"),
        (["--resume", str(tmp_path)], "holds no metrics.json"),
        ([], "corpus.json"),
    ):
        assert trainer.main([*data, *extra]) == 2
        told_lines = capsys.readouterr().err.strip().splitlines()
        assert len(told_lines) == 1
        assert told in told_lines[0]
    assert bench.main(["--out", str(tmp_path / "x.json"), "--regions", "250"]) == 2
    assert "region 250 px" in capsys.readouterr().err


def test_the_bench_labels_what_it_times(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SIZES", {"small": trainer.SIZES["toy"]})
    monkeypatch.setattr(bench, "Taehv", lambda: bench.Portrait(trainer.SIZES["toy"]))
    monkeypatch.setattr(bench.wan, "load_vae", lambda *_, **__: wan_mini.new_vae(8, seed=0).eval())
    content = bench.measure(tmp_path / "x.json", [32], [1], "toy", None, ["float32"], 2)
    labels = {row["decoder"]: row["label"] for row in content["rows"]}
    assert labels == {"small": "real-shape", "taehv": "real-shape", "wan": "measured"}
    assert all(row["median_ms"] > 0 and row["processor_ms"] > 0 for row in content["rows"])
    assert json.loads((tmp_path / "x.json").read_text())["rows"] == content["rows"]


@pytest.mark.slow
def test_the_notebook_runs_two_steps(tmp_path, monkeypatch):
    import papermill

    from specsync_lib.paths import NOTEBOOKS_DIR

    monkeypatch.setenv("SPECSYNC_RUN_DIR", str(tmp_path / "run"))
    papermill.execute_notebook(
        NOTEBOOKS_DIR / "training" / "decoder.ipynb",
        tmp_path / "decoder.ipynb",
        parameters={"profile": "smoke", "faces_folder": str(write_toy_faces(tmp_path / "faces", size_px=64))},
        cwd=NOTEBOOKS_DIR,
        progress_bar=False,
    )
    metrics = json.loads((tmp_path / "run" / "decoder_smoke" / "metrics.json").read_text())
    assert metrics["sizes"]["toy"]["steps"] == 2
    assert (tmp_path / "run" / "decoder_smoke" / "decoder_quality.png").is_file()
    assert (tmp_path / "run" / "decoder_smoke" / "preview.png").is_file()
