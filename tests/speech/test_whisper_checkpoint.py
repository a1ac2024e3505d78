"""Whisper of another size, from a folder in transformers' layout."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from specsync_lib.errors import InputError
from specsync_lib.rows import Hearing
from specsync_lib.speech import whisper_base
from specsync_lib.speech.whisper_checkpoint import load_checkpoint
from tests.toys.whispers import LAYERS, MELS, WIDTH, tiny_whisper, write_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@torch.inference_mode()
def test_its_mels_width_and_layers_are_the_checkpoints_and_it_computes_what_transformers_does(folder):
    ours, theirs = load_checkpoint(folder), tiny_whisper()
    assert (ours.dims.n_mels, ours.dims.n_audio_state, ours.dims.n_audio_layer) == (MELS, WIDTH, LAYERS)
    mel, tokens = torch.randn(1, MELS, 3000), torch.tensor([[50258, 50259, 50360]])
    encoded = ours.encoder(mel)
    torch.testing.assert_close(encoded, theirs.model.encoder(mel).last_hidden_state, atol=1e-4, rtol=1e-4)
    logits = theirs(input_features=mel, decoder_input_ids=tokens).logits
    torch.testing.assert_close(ours.decoder(tokens, encoded), logits, atol=1e-3, rtol=1e-3)
    assert ours.alignment_heads.to_dense().nonzero().tolist() == [[0, 1], [1, 3]]


def test_a_row_hears_through_it(folder):
    model = whisper_base.load_whisper(Hearing(str(folder)))
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert whisper_base.encoder_features(model, sound).shape == (50, WIDTH)
    assert whisper_base.hear(model, sound).language in whisper_base.language_probabilities(model, sound)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_mel_bins": 80}, r"shape \(32, 128, 3\), expected \(32, 80, 3\)"),
        ({"encoder_layers": 4}, "is missing"),
        ({"encoder_layers": 2}, "is not part of the model"),
        ({"model_type": "llama"}, "describes no Whisper"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(folder, tmp_path, change, words):
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(InputError, match=words) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tied_output_that_is_stored_is_left_alone(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    assert load_checkpoint(tmp_path).dims.n_mels == MELS


def test_what_is_nowhere_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the hub did not give it") as caught:
        whisper_base.load_whisper(Hearing("nobody/no-whisper"))
    assert "\n" not in str(caught.value)
