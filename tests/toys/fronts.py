"""Small causal fronts with random weights: a draft and a judge's ears that take a millisecond a chunk."""

import torch

from kernels.causal_front.random_case import random_weights
from kernels.causal_front.reference import FrontWeights
from specsync_lib.draft.front_weights import BASE_NAME


def toy_draft() -> FrontWeights:
    """One narrow block, 0.8 s of past."""
    return random_weights(1, torch.Generator().manual_seed(0), heads=1, ffn=32, hidden=24, past=40)


def toy_ears() -> FrontWeights:
    """Another one, with a longer past."""
    return random_weights(1, torch.Generator().manual_seed(1), heads=1, ffn=32, hidden=24, past=60)


def toy_base(blocks: int) -> dict[str, torch.Tensor]:
    """As `front_weights.whisper_tensors(blocks)`, random."""
    tensors = random_weights(blocks, torch.Generator().manual_seed(3)).tensors()
    return {name: tensor for name, tensor in tensors.items() if name == "positions" or BASE_NAME.fullmatch(name)}
