"""Weights on disk: safetensors, whole or in shards, read strictly against the shapes of a config; and their hashes.

Never a pickle. Every refusal names the file, the tensor, what was expected and what came.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from specsync_lib.errors import InputError

CHECKSUMS = "SHA256SUMS"  # in sha256sum's own format, paths relative to the checkpoint's root
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def weight_files(folder: Path, whole: str = WEIGHTS) -> list[Path]:
    """The safetensors of one part: a single file of that name, or the shards that its index names.

    Raises
    ------
    InputError: none there, only pickles, or a shard outside the folder or absent.
    """
    if (folder / whole).is_file():
        return [folder / whole]
    index = folder / f"{whole}.index.json"
    if index.is_file():
        names = sorted(set(read_object(index).get("weight_map", {}).values()))
        if not names or any(Path(name).name != name or Path(name).suffix != ".safetensors" for name in names):
            raise InputError(f"{index}: weight_map must name safetensors files of its own folder, got {names[:3]}")
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise InputError(f"{folder / absent[0]}: named by {index.name} but absent; copy the checkpoint again")
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise InputError(f"{folder / pickles[0]}: a pickle can run code and is never read; convert it to {whole}")
    raise InputError(f"{folder}: no {whole} there; give a checkpoint in diffusers' layout")


def read_checked(
    files: list[Path],
    expected: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """All tensors of safetensors files, after checking that they are exactly the expected ones (with or without the
    optional ones) and finite.

    Raises
    ------
    InputError: a file is truncated or no safetensors, or a tensor is missing, extra, twice there, misshapen, not of a
        floating type, or holds NaN or infinity; the line names the file and the tensor.
    """
    from safetensors import SafetensorError, safe_open

    state: dict[str, Tensor] = {}
    known = {**expected, **(optional or {})}
    for path in files:
        read_header(path)
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 (not a mapping)
                    if name not in known:
                        raise InputError(f"{path}: tensor {name!r} is not part of the model its config describes")
                    if name in state:
                        raise InputError(f"{path}: tensor {name!r} is already in another shard")
                    shape = tuple(handle.get_slice(name).get_shape())
                    if shape != tuple(known[name]):
                        raise InputError(f"{path}: tensor {name!r} has shape {shape}, expected {tuple(known[name])}")
                    tensor = handle.get_tensor(name)
                    if not tensor.is_floating_point():
                        raise InputError(f"{path}: tensor {name!r} is {tensor.dtype}, expected a floating type")
                    if not torch.isfinite(tensor.float()).all():
                        raise InputError(f"{path}: tensor {name!r} holds NaN or infinity; the checkpoint is damaged")
                    state[name] = tensor
        except SafetensorError as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); copy it again") from error
    missing = sorted(set(expected) - set(state))
    if missing:
        raise InputError(f"{files[0]}: tensor {missing[0]!r} is missing (and {len(missing) - 1} more)")
    return state


def read_some(files: Sequence[Path], wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors of some names, unchecked, of files that may be far larger.

    Raises
    ------
    InputError: as :func:`read_header`.
    """
    from safetensors import safe_open

    state = {}
    for path in files:
        names = [name for name in read_header(path)[0] if wanted(name)]
        with safe_open(path, framework="pt") as handle:
            state |= {name: handle.get_tensor(name) for name in names}
    return state


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes of a safetensors file's tensors, and what its header says beside them, before it is mapped.

    Raises
    ------
    InputError: the file is a pickle under a lying name, or shorter or longer than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise InputError(f"{path}: holds a pickle, not safetensors; it can run code and is never read")
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise InputError(f"{path}: truncated or no safetensors file ({size} bytes); copy it again")
        try:
            header = json.loads(handle.read(length))
            facts = dict(header.pop("__metadata__", {}))
            ends = [entry["data_offsets"][1] for entry in header.values()]
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: its header is no safetensors header ({error}); copy it again") from error
    if 8 + length + max(ends, default=0) != size:
        raise InputError(f"{path}: {size} bytes, its header wants {8 + length + max(ends, default=0)}; copy it again")
    return shapes, facts


def check_hashes(root: Path, part: str) -> None:
    """Compare a part's files with ``SHA256SUMS`` in the checkpoint's root, where there is one.

    Raises
    ------
    InputError: a listed file is absent or differs, or a file of the part is not listed.
    """
    listing = root / CHECKSUMS
    if not listing.is_file():
        return
    listed = {}
    for line in listing.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    inside = {path.relative_to(root).as_posix() for path in (root / part).glob("*") if path.is_file()}
    for name in sorted(inside | {name for name in listed if name.startswith(f"{part}/")}):
        path = root / name
        if name not in inside:
            raise InputError(f"{path}: listed in {CHECKSUMS} but absent; copy the checkpoint again")
        if name not in listed:
            raise InputError(f"{path}: not listed in {listing}; remove it or list it")
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if digest != listed[name]:
            raise InputError(
                f"{path}: sha256 {digest[:12]}… differs from {CHECKSUMS}'s {listed[name][:12]}…; copy it again"
            )


def write_hashes(root: Path) -> None:
    """Write ``SHA256SUMS`` over all JSON and safetensors files of a checkpoint's parts."""
    from specsync_lib.files import write_text

    lines = []
    for path in sorted(path for path in root.glob("*/*") if path.suffix in {".json", ".safetensors"}):
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(root).as_posix()}\n")
    write_text(root / CHECKSUMS, "".join(lines))


def read_object(path: Path) -> dict:
    """A checkpoint's JSON object; InputError where it is absent, unreadable or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: absent; give a checkpoint in diffusers' layout") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
