"""How a trained front is stored: what training changed of Whisper base, in few bits, and what it added, in float16.

Whisper's weights are fetched anyway (asset ``whisper-base``), so a file holds differences to the pinned checkpoint:
per row a step and signed integers of 4 or 8 bits. Narrowed blocks name the heads and inner units that they kept.
A file's identity is the sha256 of its bytes together with that of the asset's listing, never a merged product.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int8, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kernels.causal_front.reference import HEAD_WIDTH, WIDTH, FrontWeights
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path

FORMAT = "front differences 1"
BASE_ASSET = "whisper-base"
# Whisper's own tensors; the rest of a front (its heads, its last norm) is new. The position table stays as it is.
BASE_NAME = re.compile(r"conv[12]_[wb]|blocks\.\d+\..*")
INNER_ROWS = ("qkv_w", "qkv_b", "up_w", "up_b")  # their rows, and the columns of these, belong to heads or inner units
HEADS = ("viseme_", "open_", "temperature")
_LAYERS = {
    "self_attention/layer_norm": "attn_norm", "self_attention/linear_0": "qkv", "self_attention/linear_1": "out",
    "ffn/layer_norm": "mlp_norm", "ffn/linear_0": "up", "ffn/linear_1": "down",
}  # fmt: skip


def whisper_tensors(blocks: int) -> dict[str, Tensor]:
    """Whisper base's convolutions, position table and first blocks from the asset, float32, under the front's names."""
    from specsync_lib.assets import asset
    from specsync_lib.speech.whisper_base import read_ctranslate2

    variables = read_ctranslate2(asset(BASE_ASSET) / "model.bin")

    def take(name: str) -> Tensor:
        return torch.from_numpy(variables[f"encoder/{name}"].astype("float32"))

    found = {"positions": take("position_encodings/encodings")}
    for conv in ("conv1", "conv2"):
        found |= {f"{conv}_w": take(f"{conv}/weight"), f"{conv}_b": take(f"{conv}/bias")}
    for index in range(blocks):
        for theirs, ours in _LAYERS.items():
            kinds = ("gamma", "beta") if "norm" in ours else ("weight", "bias")
            for kind, letter in zip(kinds, "wb", strict=True):
                found[f"blocks.{index}.{ours}_{letter}"] = take(f"layer_{index}/{theirs}/{kind}")
    return found


@dataclass(frozen=True)
class Kept:
    """What a narrowed block keeps of Whisper's: attention heads and inner units of its feed-forward, in order."""

    heads: tuple[int, ...]
    units: tuple[int, ...]


def narrowed(base: dict[str, Tensor], kept: dict[int, Kept]) -> dict[str, Tensor]:
    """Whisper's tensors with some blocks cut down to the heads and inner units that they keep."""
    found = dict(base)
    for index, keep in kept.items():
        columns = torch.tensor(keep.heads)[:, None] * HEAD_WIDTH + torch.arange(HEAD_WIDTH)
        columns, units = columns.flatten(), torch.tensor(keep.units)
        rows = torch.cat([columns + part * WIDTH for part in range(3)])
        name = f"blocks.{index}."
        for ours in INNER_ROWS:
            found[name + ours] = found[name + ours][rows if ours.startswith("qkv") else units]
        found[name + "out_w"] = found[name + "out_w"][:, columns]
        found[name + "down_w"] = found[name + "down_w"][:, units]
    return found


def quantise(difference: Tensor, bits: int) -> tuple[Tensor, Float[Tensor, " rows"]]:
    """[rows, ...] as signed integers of 8 or 4 bits (two a byte, the even column low) and each row's step."""
    flat = difference.float().reshape(len(difference), -1)
    largest = 2 ** (bits - 1) - 1
    step = (flat.abs().amax(dim=1) / largest).clamp(min=2**-60)
    whole = (flat / step[:, None]).round().clamp(-largest, largest).to(torch.int8)
    return (whole if bits == 8 else _packed(whole)), step


def _packed(whole: Int8[Tensor, "rows columns"]) -> UInt8[Tensor, "rows half"]:
    low, high = (whole + 8).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    return low | high << 4


def restored(stored: Tensor, step: Float[Tensor, " rows"], shape: torch.Size) -> Tensor:
    """The inverse of :func:`quantise`, up to rounding: ``stored`` is [rows, ...] int8 or [rows, half] uint8."""
    if stored.dtype == torch.uint8:
        stored = torch.stack([stored & 15, stored >> 4], dim=2).flatten(1).to(torch.int8) - 8
    return (stored.float() * step.float()[:, None]).reshape(shape)


def save_front(
    path: Path, front: FrontWeights, base: dict[str, Tensor], *, bits: int, kept: dict[int, Kept] | None = None
) -> None:
    """Write a front as differences to ``base`` (:func:`whisper_tensors`, not narrowed)."""
    start, tensors = narrowed(base, kept or {}), {}
    for name, tensor in front.tensors().items():
        tensor = tensor.detach().float().cpu()
        if name == "positions":
            continue
        if BASE_NAME.fullmatch(name) and tensor.ndim > 1:
            tensors[f"{name}.whole"], tensors[f"{name}.step"] = quantise(tensor - start[name], bits)
        else:
            tensors[name] = (tensor - start[name] if BASE_NAME.fullmatch(name) else tensor).half()
    header = {
        "format": FORMAT, "base": BASE_ASSET, "blocks": str(len(front.blocks)), "past": str(front.past),
        "kept": json.dumps({index: [keep.heads, keep.units] for index, keep in (kept or {}).items()}),
    }  # fmt: skip
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=header)


def stored_kept(path: Path) -> dict[int, Kept]:
    """What the blocks of a stored front keep of Whisper's; empty where they are whole."""
    with safe_open(path, "pt") as stored:
        return {int(index): Kept(*map(tuple, parts)) for index, parts in json.loads(stored.metadata()["kept"]).items()}


def load_front(path: Path, base: dict[str, Tensor] | None = None) -> FrontWeights:
    """The front of a file, float32.

    Parameters
    ----------
    path
        What :func:`save_front` wrote.
    base
        Whisper's tensors; default: from the asset.

    Raises
    ------
    InputError: the file is absent, cut short or of another kind; a tensor is missing, unknown, misshapen or not finite.
    """
    if not path.is_file():
        raise InputError(f"front {path}: no such file; restore it from the repository")
    try:
        with safe_open(path, "pt") as stored:
            header = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"front {path}: not a safetensors file ({error}); restore it") from error
    if header.get("format") != FORMAT:
        raise InputError(f"front {path}: expected format {FORMAT!r}, got {header.get('format')!r}; restore the file")
    start = narrowed(base or whisper_tensors(int(header["blocks"])), stored_kept(path))
    found = {"positions": start["positions"]}
    for name, tensor in tensors.items():
        plain = name.removesuffix(".whole").removesuffix(".step")
        if plain in found or name.endswith(".step"):
            continue
        if BASE_NAME.fullmatch(plain) and plain not in start:
            raise InputError(f"front {path}: {plain}: unknown tensor, expected none; restore the file")
        if name.endswith(".whole"):
            found[plain] = start[plain] + _difference(path, tensors, plain, start[plain].shape)
        else:
            found[plain] = tensor.float()
            if BASE_NAME.fullmatch(plain):
                if tensor.shape != start[plain].shape:
                    raise InputError(
                        f"front {path}: {plain}: expected shape {list(start[plain].shape)}, got {list(tensor.shape)}"
                    )
                found[plain] = found[plain] + start[plain]
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"front {path}: {name}: expected finite values, got NaN or Inf; restore the file")
    try:
        return FrontWeights.from_tensors(found, past=int(header["past"]))
    except ValueError as error:
        raise InputError(f"front {path}: {error}; restore the file") from error


def _difference(path: Path, tensors: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    whole, step = tensors[f"{name}.whole"], tensors.get(f"{name}.step")
    columns = shape.numel() // shape[0] // (2 if whole.dtype == torch.uint8 else 1)
    if step is None or step.shape != shape[:1] or whole.shape != (shape[0], columns):
        got = list(whole.shape), None if step is None else list(step.shape)
        raise InputError(
            f"front {path}: {name}: expected rows {[shape[0], columns]} and steps {[shape[0]]}, "
            f"got {got[0]} and {got[1]}"
        )
    return restored(whole, step, shape)


def features_sha256(path: Path) -> str:
    """What a front's hidden features follow from: stored bytes and the asset, without the heads that read them.

    Raises
    ------
    InputError: no such file.
    """
    from specsync_lib.assets import pins

    if not path.is_file():
        raise InputError(f"front {path}: no such file; restore it from the repository")
    digest = hashlib.sha256(pins()[BASE_ASSET]["members_sha256"].encode())
    with safe_open(path, "np") as stored:
        for name in sorted(stored.keys()):
            if not name.startswith(HEADS):
                digest.update(name.encode() + stored.get_tensor(name).tobytes())
        digest.update(json.dumps(stored.metadata(), sort_keys=True).encode())
    return digest.hexdigest()


def front_sha256(path: Path) -> str:
    """What a front is: the stored bytes and the pinned asset that they change."""
    from specsync_lib.assets import pins

    digest = hashlib.sha256(path.read_bytes())
    digest.update(pins()[BASE_ASSET]["members_sha256"].encode())
    return digest.hexdigest()
