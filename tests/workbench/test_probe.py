"""A probe refitted on a Whisper of another size: one command, a sweep over its layers, and the row that takes it."""

import json

import numpy as np
import pytest
import torch

from specsync_lib import rows, units
from specsync_lib.draft import probe as teacher
from specsync_lib.errors import InputError
from specsync_lib.speech.corpus import clips
from specsync_lib.speech.whisper_base import load_whisper
from tests.toys.whispers import LAYERS, MELS, WIDTH, write_whisper
from workbench.train import probe as fitting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A row with a tiny Whisper and a corpus of the shipped clips, and the probe that the command made for it."""
    folder = tmp_path_factory.mktemp("probe")
    write_whisper(folder / "whisper")
    lines = []
    for clip, split in zip(clips(), ("train", "train", "validation"), strict=True):
        lines.append({"id": clip.name, "audio": str(clip.path), "text": clip.transcript, "split": split})
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    row = 'corpus = "corpus.jsonl"\n[hearing]\nwhisper = "./whisper"\nprobe = "./fitted/probe.safetensors"\n'
    (folder / "my.toml").write_text(row)
    given = ["--row", str(folder / "my.toml"), "--corpus", str(folder / "corpus.jsonl"), "--device", "cpu"]
    given += ["--out", str(folder / "fitted"), "--steps", "60"]
    assert fitting.main(given) == 0
    return folder


def test_every_layer_is_tried_and_the_best_is_kept(folder):
    metrics = json.loads((folder / "fitted" / fitting.METRICS).read_text())
    assert (metrics["mels"], metrics["width"], metrics["layers"]) == (MELS, WIDTH, LAYERS)
    tried = {one["layer"]: one for one in metrics["sweep"]}
    assert list(tried) == [1, 2, 3]
    assert tried[metrics["layer"]]["accuracy"] == max(one["accuracy"] for one in tried.values())
    assert min(one["accuracy_train"] for one in tried.values()) > 0.25  # a random encoder tells loud from still
    assert metrics["recordings"] == {"train": 2, "validation": 1} and metrics["frames"]["validation"] > 100
    card = (folder / "fitted" / "README.md").read_text()
    assert "`whisper`" in card and all(f"| {layer} | " in card for layer in tried)


def test_a_rows_probe_is_the_one_that_was_fitted(folder):
    part = rows.read(folder / "my.toml").hearing
    heard = teacher.load_teacher(part)
    metrics = json.loads((folder / "fitted" / fitting.METRICS).read_text())
    assert heard.layer == metrics["layer"] and heard.encoder.conv1.in_channels == MELS
    validation = clips()[2]
    prompts = fitting.prompts_of(folder / "corpus.jsonl", "validation")
    assert prompts[0].path == validation.path
    samples = fitting.load_audio(validation.path).samples
    said = heard.plan(samples).probabilities.argmax(axis=1)
    right = (said == fitting.aligned(prompts[0]).visemes).mean()
    best = next(one for one in metrics["sweep"] if one["layer"] == heard.layer)
    assert right == pytest.approx(best["accuracy"], abs=0.02)  # fp16 on disk, and the last position's neighbours


def test_features_of_a_sweep_are_the_teachers_own(folder):
    whisper = load_whisper(rows.read(folder / "my.toml").hearing)
    samples = np.random.default_rng(0).normal(0, 0.1, units.SAMPLE_RATE_HZ).astype(np.float32)
    whole = teacher.block_outputs(teacher.first_blocks(whisper, 3), torch.from_numpy(samples)[None], [1, 2, 3])
    for layer, one in enumerate(whole, start=1):
        own = teacher.encode(teacher.first_blocks(whisper, layer), torch.from_numpy(samples)[None])[0]
        assert own.shape == (50, teacher.NEIGHBOURHOOD * WIDTH)
        torch.testing.assert_close(own[:, 2 * WIDTH : 3 * WIDTH], one[0, :50])


def test_the_pinned_whisper_has_its_own_probe_and_another_has_none():
    assert teacher.probe_path(rows.Hearing()) == teacher.MODEL_DIR / "teacher.safetensors"
    assert teacher.load_teacher(rows.Hearing("some/whisper")) is None
    assert teacher.probe_path(rows.Hearing(probe="none")) is None


def test_what_does_not_fit_is_one_line(folder, tmp_path, capsys):
    part, fitted = rows.read(folder / "my.toml").hearing, str(folder / "fitted" / fitting.PROBE)
    layer = teacher.load_teacher(part).layer
    write_whisper(tmp_path / "other", seed=1)
    cases = (
        (rows.Hearing(part.whisper, 1 + layer % LAYERS, fitted), f"probe.safetensors reads {layer}"),
        (rows.Hearing(str(tmp_path / "other"), 0, fitted), "was fitted on another Whisper"),
        (
            rows.Hearing(part.whisper, 4, str(teacher.MODEL_DIR / "teacher.safetensors")),
            "hearing.layer is 4: this Whisper",
        ),
        (rows.Hearing(part.whisper, 0, "no-such-probe"), "no such file; fit one with workbench.train.probe"),
    )
    for hearing, says in cases:
        with pytest.raises(InputError, match=says) as caught:
            teacher.load_teacher(hearing)
        assert "\n" not in str(caught.value)
    given = ["--row", str(folder / "my.toml"), "--out", str(tmp_path / "out"), "--layers"]
    assert fitting.main([*given, "2", "9"]) == InputError.EXIT_CODE
    assert "this Whisper's encoder has 1 to 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
