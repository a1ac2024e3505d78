"""A tiny Whisper with random weights in transformers' layout: large-v3's 128 mels, another width and depth."""

import json
from pathlib import Path

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

MELS, WIDTH, LAYERS = 128, 32, 3


def tiny_whisper(seed: int = 0) -> WhisperForConditionalGeneration:
    """The model itself, as transformers has it."""
    torch.manual_seed(seed)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=51866, num_mel_bins=MELS, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH,
        )
    ).eval()  # fmt: skip


def write_whisper(folder: Path, seed: int = 0) -> Path:
    """Its folder."""
    tiny_whisper(seed).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": [[0, 1], [1, 3]]}))
    return folder
