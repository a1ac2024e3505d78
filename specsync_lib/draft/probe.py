"""The teacher: a linear probe on an early layer of Whisper base's encoder, over two positions to either side.

It hears the whole utterance, also what comes after, and is the draft's model in training and its yardstick after.
Whisper's encoder, trained on many thousand voices, carries what travels between speakers; the probe only reads it off.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from whisper.audio import mel_filters
from whisper.model import AudioEncoder

from specsync_lib import units
from specsync_lib.draft.plan import MODEL_DIR, DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path
from specsync_lib.visemes import expected_openness

LAYER = 4  # of 6; the best of 2, 3 and 4 for the same and for unseen speakers (model card)
CONTEXT_POSITIONS = 2
WIDTH, HEADS, POSITIONS = 512, 8, 1500
POSITION_SAMPLES = units.ENCODER_POSITION_MEL_FRAMES * units.HOP_SAMPLES
FEATURES = WIDTH * (2 * CONTEXT_POSITIONS + 1)
WINDOW_SAMPLES = POSITIONS * POSITION_SAMPLES  # 30 s; longer recordings are encoded piece by piece
POSITION_TIME_S = 0.005  # the probe learns the 10 ms that begin at its position: their middle is this far behind it


def load_encoder(path: Path | None = None) -> AudioEncoder:
    """The first LAYER blocks of Whisper base's encoder, from the asset, or from a file that ``save_encoder`` wrote."""
    encoder = AudioEncoder(units.MEL_BANDS, POSITIONS, WIDTH, HEADS, LAYER)
    if path is None:
        from specsync_lib.speech.whisper_base import load_whisper

        state = load_whisper().encoder.state_dict()
        state = {name: tensor for name, tensor in state.items() if name in encoder.state_dict()}
    else:
        state = {name: tensor.float() for name, tensor in load_file(path).items()}
    encoder.load_state_dict(state, strict=True)
    return encoder.eval().requires_grad_(False)


def whisper_mel(samples: Float[Tensor, "batch n"]) -> Float[Tensor, "batch 80 n//160"]:
    """Whisper's own log-mel of each row, with the row's own maximum: the teacher need not stream."""
    window = torch.hann_window(units.STFT_SAMPLES, device=samples.device)
    spectrum = torch.stft(samples, units.STFT_SAMPLES, units.HOP_SAMPLES, window=window, return_complex=True)
    power = mel_filters(samples.device, units.MEL_BANDS) @ spectrum[..., :-1].abs().square()
    decades = power.clamp(min=1e-10).log10()
    return (torch.maximum(decades, decades.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


def encode(encoder: AudioEncoder, samples: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n//320 2560"]:
    """Encoder features with their neighbours: up to 30 s of 16 kHz samples a row, without padding to Whisper's 30 s.

    Not padding costs nothing in accuracy here (it gained 1 to 2 points) and saves most of the time on short prompts.
    """
    with torch.autocast(samples.device.type, enabled=False):
        mel = whisper_mel(samples)
    hidden = F.gelu(encoder.conv1(mel))
    hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.positional_embedding[: hidden.shape[1]]
    for block in encoder.blocks:
        hidden = block(hidden)
    padded = F.pad(hidden, (0, 0, CONTEXT_POSITIONS, CONTEXT_POSITIONS))
    count = samples.shape[1] // POSITION_SAMPLES
    return torch.cat([padded[:, shift : shift + count] for shift in range(2 * CONTEXT_POSITIONS + 1)], dim=2)


@dataclass(frozen=True)
class Probe:
    """Linear viseme classifier on standardised features; the temperature is calibrated on validation speech."""

    mean: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]
    weight: Float[Tensor, "features 15"]
    bias: Float[Tensor, "15"]
    temperature: Float[Tensor, ""]

    def logits(self, features: Float[Tensor, "*n features"]) -> Float[Tensor, "*n 15"]:
        """Calibrated logits."""
        return ((features - self.mean) / self.scale @ self.weight + self.bias) / self.temperature

    def to(self, device: torch.device | str) -> "Probe":
        """A copy on another device."""
        return Probe(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def save(self, path: Path) -> None:
        """Write as float16 safetensors."""
        with atomic_path(path) as temporary:
            save_file({field.name: getattr(self, field.name).cpu().half() for field in fields(self)}, temporary)


def load_probe(path: Path) -> Probe:
    """The probe of a file.

    Raises
    ------
    InputError: the file is absent, or a tensor is missing, misshapen or not finite.
    """
    if not path.is_file():
        raise InputError(f"teacher probe {path}: no such file; restore it from the repository")
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    classes = len(units.VISEMES)
    shapes = {
        "mean": (FEATURES,), "scale": (FEATURES,), "weight": (FEATURES, classes), "bias": (classes,), "temperature": ()
    }  # fmt: skip
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape or not torch.isfinite(tensors[name]).all():
            raise InputError(f"teacher probe {path}: tensor {name!r} is not finite numbers of shape {list(shape)}")
    return Probe(**{name: tensors[name] for name in shapes})


@torch.inference_mode()
def teacher_logits(
    encoder: AudioEncoder, probe: Probe, samples: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "frames 15"]:
    """The teacher's logits at every video frame's centre, interpolated between positions (50 a second)."""
    audio = torch.from_numpy(samples).to(probe.bias.device)
    frames = units.frame_count(len(samples))
    audio = F.pad(audio, (0, max(0, 2 * POSITION_SAMPLES - len(audio))))[None]
    # A last piece that is too short to encode joins the one before.
    cuts = range(0, max(1, audio.shape[1] - POSITION_SAMPLES * 50), WINDOW_SAMPLES // 2)
    ends = [*cuts[1:], audio.shape[1]]
    features = torch.cat([encode(encoder, audio[:, cut:end])[0] for cut, end in zip(cuts, ends, strict=True)])
    logits = probe.logits(features)
    centre_s = (torch.arange(frames, device=logits.device) + 0.5) / units.VIDEO_FPS
    place = ((centre_s - POSITION_TIME_S) * 50).clamp(0, len(logits) - 1)
    below = place.long().clamp(max=max(0, len(logits) - 2))
    return torch.lerp(logits[below], logits[below + 1], (place - below)[:, None]).cpu().numpy()


def teacher_plan(name: str) -> Callable[[Float[np.ndarray, " n"]], DraftPlan]:
    """A committed probe on Whisper's encoder as a drafter; its openness is what its visemes make it expect."""
    encoder, probe = load_encoder(), load_probe(MODEL_DIR / f"{name}.safetensors")

    def plan(samples: np.ndarray) -> DraftPlan:
        logits = teacher_logits(encoder, probe, samples)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return DraftPlan(probabilities, probabilities.max(axis=1), expected_openness(probabilities))

    return plan
