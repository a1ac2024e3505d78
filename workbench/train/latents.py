"""Encodes a corpus of talking faces through a row's VAE once: what an adapter learns from.

    python -m workbench.train.faces --manner suite --size-px 384 --out FACES
    python -m workbench.train.latents --row my.toml --data FACES --out LATENTS

``LATENTS`` receives ``train_000.safetensors``, ... and ``validation_000.safetensors``, ... (normalised latents in fp16,
a shard some clips), ``plan.safetensors`` (visemes, openness and idle motion of all frames) and, last, ``latents.json``.
The command can be interrupted: shards that are there are kept.
"""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from specsync_lib import rows
from specsync_lib.devices import resolve
from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.files import atomic_path, write_json
from specsync_lib.tensors import read_object
from workbench.train.faces import FaceCorpus, load_corpus
from workbench.train.transformer import Latents, encode_clips

LISTING, SETTINGS, PLAN = "latents.json", "settings.json", "plan.safetensors"
SPLITS = ("train", "validation")
CLIPS_PER_SHARD = 64
OF_FRAMES = ("visemes", "openness", "idle")  # the fields of Latents that all shards share
OF_ROWS = tuple(one.name for one in fields(Latents) if one.name not in OF_FRAMES)


def encode(
    corpus: FaceCorpus, vae: torch.nn.Module, name: str, out: Path, phases: int = 2, per_shard: int = CLIPS_PER_SHARD
) -> dict:
    """Encode what is missing, then write the listing; returns it.

    Parameters
    ----------
    name : of the VAE, for the listing.
    phases : how many later starts every clip is encoded from (`transformer.encode_clips`).

    Raises
    ------
    InputError : ``out`` holds latents of another corpus or VAE; the corpus can not be encoded.
    """
    device = vae.post_quant_conv.weight.device
    about = {"vae": name, "vae_sha256": vae_sha256(vae), "pixels": corpus.size_px, "phases": phases}
    about |= {"corpus": corpus.facts, "clips_per_shard": per_shard}
    out.mkdir(parents=True, exist_ok=True)
    if (out / SETTINGS).is_file() and read_object(out / SETTINGS) != about:
        raise InputError(f"{out}: holds latents of another corpus or VAE; give an empty folder")
    write_json(out / SETTINGS, about)
    shards: dict[str, list[str]] = {}
    for split in SPLITS:
        clips = corpus.clips_of(split)
        pieces = np.array_split(clips, -(-len(clips) // per_shard))
        shards[split] = [f"{split}_{number:03d}.safetensors" for number in range(len(pieces))]
        for file, piece in zip(shards[split], tqdm(pieces, desc=f"encoding {split}", unit="shard"), strict=True):
            if (out / file).is_file() and (out / PLAN).is_file():
                continue
            encoded = encode_clips(corpus, vae, piece, device, phases)
            _write(out / PLAN, encoded, OF_FRAMES)
            _write(out / file, encoded, OF_ROWS)
    write_json(out / LISTING, about | {"shards": shards})
    return about | {"shards": shards}


def _write(path: Path, encoded: Latents, names: tuple[str, ...]) -> None:
    state = {name: getattr(encoded, name).cpu() for name in names}
    state = {name: tensor.half() if name in ("z", "still") else tensor for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)


def read_listing(folder: Path) -> dict:
    """What :func:`encode` wrote last.

    Raises
    ------
    InputError : it is absent.
    """
    if not (folder / LISTING).is_file():
        raise InputError(f"{folder / LISTING}: absent; run python -m workbench.train.latents first, to its end")
    return read_object(folder / LISTING)


def load_latents(folder: Path, split: str, device: torch.device, rows_kept: int | None = None) -> Latents:
    """All shards of a split on a device, as they are stored; or its first rows.

    Raises
    ------
    InputError : a file is absent or damaged.
    """
    try:
        files = [folder / file for file in read_listing(folder)["shards"][split]]
        parts = [load_file(path) for path in files]
        of_frames = load_file(folder / PLAN)
        found = {name: torch.cat([part[name] for part in parts])[:rows_kept] for name in OF_ROWS}
        found |= {name: of_frames[name] for name in OF_FRAMES}
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: holds no whole latents of {split} ({error}); encode them again") from error
    return Latents(**{name: tensor.to(device) for name, tensor in found.items()})


def row_of(name: str) -> rows.Row:
    """A row whose own adapter and basis need not be there yet.

    Raises
    ------
    InputError : as `rows.read`; a row whose transformer takes the plan itself.
    """
    row = rows.read(name, present=False)
    if row.video.source in (rows.WAN_MINI, rows.WAN_MINI_SHAPE):
        raise InputError(f"row {row.name}: {row.video.source} takes the plan itself; give a row with Wan's own weights")
    return row


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.latents", description=__doc__.splitlines()[0])
    parser.add_argument("--row", required=True, help="the row that names the checkpoint (video.source)")
    parser.add_argument("--data", type=Path, required=True, help="made by python -m workbench.train.faces")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--phases", type=int, default=2, help="later starts of every clip")
    given = parser.parse_args(arguments)
    try:
        video, device = row_of(given.row).video, resolve(given.device)
        vae = wan.load_vae(video.source, dtype=torch.float32, device=device, revision=video.revision)
        listing = encode(load_corpus(given.data), vae, video.source, given.out, given.phases)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(json.dumps({split: len(files) for split, files in listing["shards"].items()}), "shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
