"""Fit a linear probe on Whisper's encoder."""

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor
from whisper.model import AudioEncoder

from specsync_lib import units
from specsync_lib.draft.probe import Probe
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path
from workbench.train.descent import cosine_to_zero


def save_encoder(encoder: AudioEncoder, path: Path) -> None:
    """The encoder as float16 safetensors (27 MB), to train where the package with all of Whisper cannot travel."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}, temporary)


def fit_probe(
    batches: Iterable[tuple[Float[Tensor, "n features"], Int[Tensor, " n"]]],
    steps: int,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    dropout: float = 0.3,
    label_smoothing: float = 0.05,
) -> Probe:
    """Fit a probe to ``steps`` batches of features and viseme labels; the first batch sets the standardisation."""
    head: torch.nn.Linear | None = None
    for step, (features, labels) in zip(range(steps), batches, strict=False):
        if head is None:
            mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
            head = torch.nn.Linear(features.shape[1], len(units.VISEMES), device=features.device)
            optimiser = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=weight_decay)
        standard = F.dropout((features - mean) / scale, dropout)
        loss = F.cross_entropy(head(standard), labels, label_smoothing=label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * cosine_to_zero(step, steps)
        optimiser.step()
    if head is None:
        raise InputError("teacher probe: no batch of labelled speech was given; gather voices with known words")
    ones = torch.ones((), device=mean.device)
    return Probe(mean, scale, head.weight.detach().T.contiguous(), head.bias.detach(), ones)
