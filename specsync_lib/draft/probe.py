"""The teacher: a linear probe on an early layer of a Whisper's encoder, over two positions to either side.

It hears the whole utterance, also what comes after, and is the draft's model in training and its yardstick after.
Whisper's encoder, trained on many thousand voices, carries what travels between speakers; the probe only reads it off.
Probes of Whisper base lie in ``data/models/draft``; workbench.train.probe fits one on any other (:func:`load_teacher`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

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
from specsync_lib.rows import NONE, Hearing
from specsync_lib.tensors import read_header
from specsync_lib.visemes import expected_openness

if TYPE_CHECKING:
    from whisper.model import Whisper

LAYER = 4  # of Whisper base's 6; the best of 2, 3 and 4 for the same and for unseen speakers (model card)
CONTEXT_POSITIONS = 2
NEIGHBOURHOOD = 2 * CONTEXT_POSITIONS + 1
WIDTH, POSITIONS = 512, 1500
POSITION_SAMPLES = units.ENCODER_POSITION_MEL_FRAMES * units.HOP_SAMPLES
WINDOW_SAMPLES = POSITIONS * POSITION_SAMPLES  # 30 s; longer recordings are encoded piece by piece
MAIN = "teacher"  # the probe of Whisper base
POSITION_TIME_S = 0.005  # the probe learns the 10 ms that begin at its position: their middle is this far behind it


def first_blocks(whisper: "Whisper", layer: int) -> AudioEncoder:
    """The first blocks of a Whisper's encoder; mels, width and heads are its own.

    Raises
    ------
    InputError: it has no such block.
    """
    dims = whisper.dims
    if not 1 <= layer <= dims.n_audio_layer:
        raise InputError(f"hearing.layer is {layer}: this Whisper's encoder has 1 to {dims.n_audio_layer}")
    encoder = AudioEncoder(dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, layer)
    state = whisper.encoder.state_dict()
    encoder.load_state_dict({name: state[name] for name in encoder.state_dict()}, strict=True)
    return encoder.eval().requires_grad_(False)


def load_encoder() -> AudioEncoder:
    """The first LAYER blocks of Whisper base's encoder, which the committed probes read.

    Raises
    ------
    InputError: the weights are absent.
    """
    from specsync_lib.speech.whisper_base import load_whisper

    return first_blocks(load_whisper(), LAYER)


def encoder_sha256(encoder: AudioEncoder) -> str:
    """Digest of what tells one Whisper's encoder from another's, whatever the number of its blocks: its first layers,
    as float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if name.startswith(("conv1.", "conv2.bias", "blocks.0.attn_ln.", "blocks.0.mlp.0.bias")):
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def whisper_mel(samples: Float[Tensor, "batch n"], mels: int = units.MEL_BANDS) -> Float[Tensor, "batch mels n//160"]:
    """Whisper's own log-mel of each row, with the row's own maximum: the teacher need not stream."""
    window = torch.hann_window(units.STFT_SAMPLES, device=samples.device)
    spectrum = torch.stft(samples, units.STFT_SAMPLES, units.HOP_SAMPLES, window=window, return_complex=True)
    power = mel_filters(samples.device, mels) @ spectrum[..., :-1].abs().square()
    decades = power.clamp(min=1e-10).log10()
    return (torch.maximum(decades, decades.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


def encode(encoder: AudioEncoder, samples: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n//320 features"]:
    """Encoder features with their neighbours: up to 30 s of 16 kHz samples a row, without padding to Whisper's 30 s.

    Not padding costs nothing in accuracy here (it gained 1 to 2 points) and saves most of the time on short prompts.
    """
    hidden = block_outputs(encoder, samples, [len(encoder.blocks)])[0]
    padded = F.pad(hidden, (0, 0, CONTEXT_POSITIONS, CONTEXT_POSITIONS))
    count = samples.shape[1] // POSITION_SAMPLES
    return torch.cat([padded[:, shift : shift + count] for shift in range(NEIGHBOURHOOD)], dim=2)


def block_outputs(
    encoder: AudioEncoder, samples: Float[Tensor, "batch n"], layers: Sequence[int]
) -> list[Float[Tensor, "batch positions width"]]:
    """What comes out of some blocks, counted from 1; as for :func:`encode`, without neighbours."""
    with torch.autocast(samples.device.type, enabled=False):
        mel = whisper_mel(samples, encoder.conv1.in_channels)
    hidden = F.gelu(encoder.conv1(mel))
    hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.positional_embedding[: hidden.shape[1]]
    found = {}
    for number, block in enumerate(encoder.blocks, start=1):
        found[number] = hidden = block(hidden)
    return [found[layer] for layer in layers]


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

    def save(self, path: Path, layer: int = LAYER, whisper_sha256: str = "") -> None:
        """Write as float16 safetensors, with the layer that it reads and whose (:func:`encoder_sha256`)."""
        state = {field.name: getattr(self, field.name).cpu().half().contiguous() for field in fields(self)}
        with atomic_path(path) as temporary:
            save_file(state, temporary, metadata={"layer": str(layer), "whisper_sha256": whisper_sha256})


def load_probe(path: Path, width: int = WIDTH) -> Probe:
    """The probe of a file, for an encoder of some width.

    Raises
    ------
    InputError: the file is absent, or a tensor is missing, misshapen or not finite.
    """
    if not path.is_file():
        raise InputError(f"teacher probe {path}: no such file; restore it, or fit one with workbench.train.probe")
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    classes, features = len(units.VISEMES), NEIGHBOURHOOD * width
    shapes = {
        "mean": (features,), "scale": (features,), "weight": (features, classes), "bias": (classes,), "temperature": ()
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
    return at_frames(logits, frames).cpu().numpy()


def at_frames(logits: Float[Tensor, "positions 15"], frames: int) -> Float[Tensor, "frames 15"]:
    """Logits at video frames' centres, interpolated between positions."""
    centre_s = (torch.arange(frames, device=logits.device) + 0.5) / units.VIDEO_FPS
    place = ((centre_s - POSITION_TIME_S) * 50).clamp(0, len(logits) - 1)
    below = place.long().clamp(max=max(0, len(logits) - 2))
    return torch.lerp(logits[below], logits[below + 1], (place - below)[:, None])


@dataclass(frozen=True)
class Teacher:
    """A probe with the blocks that it reads, as a drafter; its openness is what its visemes make it expect."""

    encoder: AudioEncoder
    probe: Probe

    @property
    def layer(self) -> int:
        """The block that it reads, counted from 1."""
        return len(self.encoder.blocks)

    def plan(self, samples: Float[np.ndarray, " n"]) -> DraftPlan:
        """The plan of a recording, 16 kHz mono."""
        logits = teacher_logits(self.encoder, self.probe, samples)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return DraftPlan(probabilities, probabilities.max(axis=1), expected_openness(probabilities))


def teacher_plan(name: str) -> Callable[[Float[np.ndarray, " n"]], DraftPlan]:
    """A committed probe on Whisper base's encoder as a drafter."""
    return Teacher(load_encoder(), load_probe(MODEL_DIR / f"{name}.safetensors")).plan


def probe_path(part: Hearing) -> Path | None:
    """The file of a row's probe, by a name in ``data/models/draft`` or by its path; None where it has none."""
    usual = MAIN if part.whisper == Hearing().whisper else NONE
    name = usual if part.probe == "auto" else part.probe
    if name == NONE:
        return None
    return Path(name) if Path(name).suffix == ".safetensors" else MODEL_DIR / f"{name}.safetensors"


def load_teacher(part: Hearing, whisper: "Whisper | None" = None) -> Teacher | None:
    """The probe of a row on its Whisper (which may be loaded already); None where it has none.

    Raises
    ------
    InputError: the probe is absent, or not of this Whisper or of the row's layer.
    """
    from specsync_lib.speech.whisper_base import load_whisper

    if (path := probe_path(part)) is None:
        return None
    whisper = load_whisper(part) if whisper is None else whisper
    if not path.is_file():
        raise InputError(f"hearing.probe: {path}: no such file; fit one with workbench.train.probe")
    facts = read_header(path)[1]
    layer = int(facts.get("layer", LAYER))  # the committed ones do not say it
    if part.layer not in (0, layer):
        raise InputError(f"hearing.layer is {part.layer} and {path.name} reads {layer}; leave it out, or fit another")
    encoder = first_blocks(whisper, layer)
    if facts.get("whisper_sha256", "") not in ("", encoder_sha256(encoder)):
        raise InputError(f"hearing.probe: {path.name} was fitted on another Whisper; run workbench.train.probe again")
    return Teacher(encoder, load_probe(path, whisper.dims.n_audio_state))
