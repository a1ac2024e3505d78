"""Reads the mouth of a face crop: jaw, gap between the lips, width, rounding, press. A measuring instrument only.

    lips = load_lip_reader().read(frames)     # uint8 [n, px, px, 3], any square size from 64 px
    lips.gap_mm, lips.width_mm, lips.jaw

A small convolutional network, trained on renders (:mod:`workbench.train.lip_reader`). Nothing that is trained to
make faces may import it: a generator that has seen its judge is no longer measured by it.

Frames must be framed as the "face" camera frames them: the picture's side shows ``PICTURE_MM`` at the face's distance.
Lengths are read as shares of the picture's side, so a picture of another size gives the same millimetres.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from specsync_lib.errors import InputError
from specsync_lib.paths import MODELS_DIR
from specsync_lib.tensors import read_checked

MODEL_DIR = MODELS_DIR / "lip_reader"
WEIGHTS = "lip_reader.safetensors"
METRICS = "metrics.json"
PICTURE_MM = 235.0  # head.CAMERAS["face"].height_m
PICTURE_PX = 256  # the scale at which every picture is looked at
MIN_PICTURE_PX = 64
REGION_PX = (40, 80, 176)  # left, top, side of the part of the picture that the network sees: mouth and chin
INPUT_PX = 112
WIDTHS = (16, 32, 64, 96)  # channels at 56, 28, 14 and 7 px
BATCH_FRAMES = 64

# What is read, in the order of the network's outputs. The two lengths are shares of the picture's side; the others are
# ARKit weights, the mean of left and right where a unit has two sides.
LENGTHS = ("gap", "width")
UNITS = {
    "jaw": ("jawOpen",),
    "funnel": ("mouthFunnel",),
    "pucker": ("mouthPucker",),
    "press": ("mouthPressLeft", "mouthPressRight"),
    "roll_lower": ("mouthRollLower",),
    "roll_upper": ("mouthRollUpper",),
    "upper_up": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "lower_down": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    "stretch": ("mouthStretchLeft", "mouthStretchRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "tongue": ("tongueOut",),
}
TARGETS = (*LENGTHS, *UNITS)


@dataclass(frozen=True)
class LipTrack:
    """What was read, one value a frame: arrays [n] float32.

    gap_mm, width_mm: gap between the lips at the middle of the mouth, distance of its corners; the names of ``UNITS``:
    ARKit weights, about 0 to 1 (read, so a little outside at times); picture_px: side of the pictures that were read.
    """

    gap_mm: np.ndarray
    width_mm: np.ndarray
    jaw: np.ndarray
    funnel: np.ndarray
    pucker: np.ndarray
    press: np.ndarray
    roll_lower: np.ndarray
    roll_upper: np.ndarray
    upper_up: np.ndarray
    lower_down: np.ndarray
    stretch: np.ndarray
    smile: np.ndarray
    tongue: np.ndarray
    picture_px: int

    def __len__(self) -> int:
        return len(self.gap_mm)

    @property
    def units(self) -> np.ndarray:
        """The weights alone, [n, 11], in the order of ``UNITS``."""
        return np.stack([getattr(self, name) for name in UNITS], axis=1)

    @classmethod
    def joined(cls, parts: list["LipTrack"]) -> "LipTrack":
        """Stretches of pictures of one size as one."""
        names = [field.name for field in fields(cls) if field.name != "picture_px"]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**arrays, picture_px=parts[0].picture_px)


def targets_of_units(units: np.ndarray, unit_names: list[str]) -> np.ndarray:
    """ARKit weights [..., 52] as the weights that are read, [..., 11], in the order of ``UNITS``."""
    columns = [[unit_names.index(name) for name in names] for names in UNITS.values()]
    return np.stack([units[..., pair].mean(axis=-1) for pair in columns], axis=-1)


# --- the network ------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + conv(relu(conv(x))), normalised by batch while it is trained."""

    def __init__(self, width: int, normed: bool) -> None:
        super().__init__()
        self.first, self.second = conv(width, width, normed), conv(width, width, normed)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


def conv(inputs: int, outputs: int, normed: bool, stride: int = 1) -> nn.Module:
    """A 3 x 3 convolution with its normalisation, or with the bias that takes its place."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not normed)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs)) if normed else layer


class LipNet(nn.Module):
    """Pictures of the mouth in, targets out, each in units of its standard deviation over the training faces.

    Parameters
    ----------
    normed
        With batch normalisation, as it is trained. :func:`fold` gives the same network without, as it is stored.
    """

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        first, *others = WIDTHS
        layers: list[nn.Module] = [conv(3, first, normed, stride=2), nn.ReLU()]
        for before, width in zip(WIDTHS, others, strict=False):
            layers += [conv(before, width, normed, stride=2), nn.ReLU(), Residual(width, normed)]
        self.features = nn.Sequential(*layers)
        self.neck = nn.Conv2d(WIDTHS[-1], 24, 1)  # where things lie is what lengths are read from: no pooling
        side = INPUT_PX // 2 ** len(WIDTHS)
        self.hidden = nn.Linear(24 * side * side, 96)
        self.out = nn.Linear(96, len(TARGETS))
        # of the targets over the training faces; stored with the weights
        self.register_buffer("target_mean", torch.zeros(len(TARGETS)))
        self.register_buffer("target_std", torch.ones(len(TARGETS)))

    def forward(self, pictures: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n targets"]:
        """pictures: values in [0, 1]; returned in the targets' own units."""
        return self.standardised(pictures) * self.target_std + self.target_mean

    def standardised(self, pictures: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n targets"]:
        """The targets in standard deviations from their mean."""
        x = F.relu(self.neck(self.features(_flat_light(pictures))))
        return self.out(F.relu(self.hidden(x.flatten(1))))


def _flat_light(pictures: Tensor) -> Tensor:
    """Each picture with mean 0 and deviation 1 over all its values: exposure is not to be learnt."""
    centred = pictures - pictures.mean(dim=(1, 2, 3), keepdim=True)
    return centred / (centred.std(dim=(1, 2, 3), keepdim=True) + 0.02)


def fold(net: LipNet) -> LipNet:
    """The same function without normalisation layers: each is folded into the convolution before it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net = net.eval()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("features.")}
    for name, module in net.features.named_modules():
        if isinstance(module, nn.Sequential) and name and isinstance(module[1], nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(module[0], module[1])
            state |= {f"features.{name}.weight": folded.weight.data, f"features.{name}.bias": folded.bias.data}
    plain = LipNet()
    plain.load_state_dict(state)
    return plain.eval().requires_grad_(False)


def mouth_pictures(frames: Tensor) -> Float[Tensor, "n 3 side side"]:
    """What the network sees of square pictures [n, px, px, 3] uint8: mouth and chin, at its size, values in [0, 1]."""
    left, top, side = REGION_PX
    pictures = frames.permute(0, 3, 1, 2)
    if frames.shape[1] != PICTURE_PX:
        pictures = F.interpolate(pictures.float(), size=(PICTURE_PX, PICTURE_PX), mode="bilinear", antialias=True)
    region = pictures[:, :, top : top + side, left : left + side].float() / 255
    return F.interpolate(region, size=(INPUT_PX, INPUT_PX), mode="bilinear")


# --- the reader -------------------------------------------------------------------------------------------------------


class LipReader:
    """A loaded network on a device.

    Parameters
    ----------
    net
        A folded :class:`LipNet`.
    device
        Where it runs.
    spread
        [11] how far what is read scatters around the truth on held-out people, in the order of ``UNITS``.
    """

    def __init__(self, net: LipNet, device: str | torch.device = "cpu", spread: np.ndarray | None = None) -> None:
        self.device = torch.device(device)
        self.net = net.to(self.device).eval()
        self.spread = np.full(len(UNITS), 0.05) if spread is None else np.asarray(spread, float)

    @torch.inference_mode()
    def read(self, frames: np.ndarray | Iterable[np.ndarray]) -> LipTrack:
        """Read face crops, an array [n, px, px, 3] uint8 or any stream of pictures [px, px, 3]; batches at a time.

        Raises
        ------
        InputError: pictures that are not square, smaller than 64 px, not RGB or not uint8; none at all.
        """
        parts, batch = [], []
        for frame in frames:
            batch.append(_checked(frame, batch[0] if batch else None))
            if len(batch) == BATCH_FRAMES:
                parts.append(self._read_batch(np.stack(batch)))
                batch = []
        if batch:
            parts.append(self._read_batch(np.stack(batch)))
        if not parts:
            raise InputError("lip reader: no frames; give at least one picture [px, px, 3]")
        return LipTrack.joined(parts)

    def _read_batch(self, frames: np.ndarray) -> LipTrack:
        values = self.net(mouth_pictures(torch.from_numpy(frames).to(self.device))).cpu().numpy()
        columns = dict(zip(TARGETS, values.T, strict=True))
        gap, width = np.maximum(columns.pop("gap"), 0), columns.pop("width")
        return LipTrack(gap * PICTURE_MM, width * PICTURE_MM, **columns, picture_px=frames.shape[1])


def _checked(frame: np.ndarray, first: np.ndarray | None) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] != frame.shape[1] or frame.dtype != np.uint8:
        raise InputError(f"lip reader: a frame is {frame.dtype} {frame.shape}; give uint8 [px, px, 3], a square crop")
    if frame.shape[0] < MIN_PICTURE_PX:
        raise InputError(f"lip reader: frames of {frame.shape[0]} px; give {MIN_PICTURE_PX} px or more")
    if first is not None and frame.shape != first.shape:
        raise InputError(f"lip reader: frames of {first.shape[0]} and {frame.shape[0]} px; give one size")
    return frame


def load_lip_reader(folder: str | Path = MODEL_DIR, device: str | torch.device = "cpu") -> LipReader:
    """The committed reader, or one from a folder that the training wrote; checked tensor by tensor.

    Raises
    ------
    InputError: the weights are absent, truncated, of another network or not finite; the metrics beside them are absent.
    """
    folder = Path(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path}: absent; restore it or train one with python -m workbench.train.lip_reader")
    net = LipNet()
    state = read_checked([path], {name: tuple(value.shape) for name, value in net.state_dict().items()})
    net.load_state_dict({name: value.float() for name, value in state.items()})
    if not (net.target_std > 0).all():
        raise InputError(f"{path}: tensor 'target_std' must be above 0; restore the file")
    try:
        scatter = json.loads((folder / METRICS).read_text(encoding="utf-8"))["rmse"]
        spread = np.array([float(scatter[name]) for name in UNITS])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / METRICS}: rmse of every unit not readable ({error}); restore the file") from error
    return LipReader(net.requires_grad_(False), device, spread)
