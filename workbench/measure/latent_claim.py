"""The test of the claim: do lips move when sound alone is projected into Wan's latent space, with no denoising at all?

    python -m workbench.measure.latent_claim --vae data/models/wan_mini [--device cuda]

Held-out human sentences, a still head. Latents are drafted, decoded as they are, and the lips are read off the pictures
by a network that only measures. The conditions differ in where the latents come from (:data:`CONDITIONS`); what is read
is compared with what the same reader reads off truth's render. ``--speakers FOLDER`` tests other people's sentences
too, whose films ``python -m workbench.train.latent_material --corpus`` drew there; they get a table of their own.

Two stages, because the first wants a GPU and the second the packages of the measures: ``--stage lips`` writes
``lips.csv``, ``lips.json`` and ``preview.png`` into the work folder; ``--stage table`` makes
``data/measurements/claim.json`` and ``claim_lips.csv`` of them; ``all`` does both.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernels.causal_front.reference import FrontWeights
from kernels.project_latents.reference import ProjectionWeights, move_latents
from specsync_lib.draft import latents
from specsync_lib.draft.front import front_path, load_draft_front
from specsync_lib.draft.front_weights import features_sha256
from specsync_lib.draft.latents import LatentBasis
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.head.look import REFERENCE
from specsync_lib.face.vae import Coder, WanCoder
from specsync_lib.files import atomic_path, write_text
from specsync_lib.measures.latent_claim import (
    CONDITIONS,
    LIPS,
    LIPS_FACTS,
    OTHER_LIPS,
    PREVIEW,
    RESULT,
    SUMMARY_KEYS,
    Claim,
    tabulate,
)
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.units import FRAMES_PER_SLOT
from workbench.train import latent_basis, latent_material
from workbench.train.latent_material import Film, Material, Speech

if TYPE_CHECKING:
    pass


PREVIEW_COLUMNS = 8
LIPS_READ, OTHER_LIPS_READ = "lips.csv", "lips_speakers.csv"  # in the work folder

Reader = Callable[[Iterable[np.ndarray]], np.ndarray]  # pictures [px, px, 3] uint8 -> gap between the lips [n] in mm


# --- drafting, decoding, reading --------------------------------------------------------------------------------------


def kernel_moves(hidden: Float[Tensor, "frames hidden"], basis: LatentBasis) -> Float[Tensor, "slots latent"]:
    """What the kernel adds to z0 in every slot of a sentence, from the draft's features."""
    still = torch.zeros(len(hidden) // FRAMES_PER_SLOT, basis.basis.shape[1])
    usable = torch.ones(len(hidden), dtype=torch.bool)
    return move_latents(hidden, usable, still, basis.w_coef, basis.basis)[1]


def moves(
    film: Film,
    other: Speech,
    truth: Float[Tensor, "slots latent"],
    material: Material,
    basis: LatentBasis,
    draft: FrontWeights | ProjectionWeights,
    rivals: Mapping[str, Tensor],
    rng: np.random.Generator,
) -> dict[str, Float[Tensor, "slots latent"]]:
    """z - z0 of every condition for one film; ``truth``: the film's own."""
    speech, slots = material.speech[film.speech], len(truth)
    elsewhere = kernel_moves(latent_basis.hidden_of(other, draft), basis)
    elsewhere = elsewhere[(torch.arange(slots) + int(rng.integers(other.slots))) % other.slots]
    hidden = latent_basis.hidden_of(speech, draft)
    return {
        "vae": truth,
        "truth_coefficients": truth @ basis.basis.T @ basis.basis,
        "kernel": kernel_moves(hidden, basis),
        "ordered": latent_basis.ordered_features(hidden) @ rivals["ordered"] @ basis.basis,
        "energy": latent_basis.energy_features(speech) @ rivals["energy"] @ basis.basis,
        "shuffled": elsewhere,
    }


@torch.inference_mode()
def read_films(
    material: Material,
    coder: Coder,
    basis: LatentBasis,
    draft: FrontWeights | ProjectionWeights,
    rivals: Mapping[str, Tensor],
    reader: Reader,
    seed: int = 0,
) -> tuple[list[dict], np.ndarray]:
    """Lips of every test film in every condition, and a sheet of pictures.

    Returns
    -------
    One row a frame (utterance, identity, frame, mesh_mm, truth_mm, and a column in mm per condition); the sheet: rows
    truth and conditions, columns frames of the first film.
    """
    from tqdm.auto import tqdm

    rng, rows, sheet = np.random.default_rng(seed), [], None
    films = [film for film in material.films if film.split == "test"]
    test = [material.speech[name] for name in dict.fromkeys(film.speech for film in films)]
    still: dict[str, tuple[Tensor, Tensor]] = {}
    for film in tqdm(films, desc="claim", unit="film"):
        if film.identity not in still:
            still[film.identity] = coder.still(film.frames[0])
        z0, reference = still[film.identity]
        truth = latent_basis.film_latents(coder, film, z0)
        other = test[(test.index(material.speech[film.speech]) + 1) % len(test)]
        moved = moves(film, other, truth, material, basis, draft, rivals, rng)
        clips = torch.stack([latent_basis.clip_latents(reference, z0, moved[name]) for name in CONDITIONS])
        pictures = {"truth": film.frames[1:]}
        pictures |= dict(zip(CONDITIONS, coder.decode(clips)[:, 1:], strict=True))
        gaps = {f"{name}_mm": reader(material.seen(film.identity, frames)) for name, frames in pictures.items()}
        for k in range(len(film.gap_mm)):
            row = {"utterance": film.speech, "identity": film.identity, "frame": k, "mesh_mm": float(film.gap_mm[k])}
            rows.append(row | {name: float(gap[k]) for name, gap in gaps.items()})
        if sheet is None:
            shown = np.linspace(0, len(film.gap_mm) - 1, PREVIEW_COLUMNS).round().astype(int)
            sheet = np.concatenate([np.concatenate(list(frames[shown]), axis=1) for frames in pictures.values()])
    return rows, sheet


def write_lips(
    vae_source: str | Path,
    basis_folder: Path,
    work: Path,
    device: str | torch.device = "cpu",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    weights: str | None = None,
    speakers: Path | None = None,
) -> None:
    """The first stage: ``lips.csv``, ``lips.json`` and ``preview.png`` in ``work``.

    ``weights``: "trained" or "random", which decides the label; known for the committed wan-mini alone. ``speakers``:
    films of other people's sentences, read into ``work`` as ``lips_speakers.csv``.

    Raises
    ------
    InputError: an absent or unfit VAE, basis, draft, material or lip reader, or ones that do not belong together.
    """
    from PIL import Image

    from specsync_lib.measures.lip_reader import load_lip_reader
    from specsync_lib.provenance import device_facts

    started = time.perf_counter()
    label = latent_basis.label_of(vae_source, weights)
    vae, basis = wan.load_vae(vae_source, device=device), latents.load_latent_basis(basis_folder)
    materials = [latent_material.load_material(folder) for folder in (work, speakers) if folder is not None]
    for material in materials:
        basis.check(vae, material.facts["size_px"])
    basis.check_draft(features_sha256(front_path()))
    lips, draft, rivals = load_lip_reader(device=device), load_draft_front(), latent_basis.load_rivals(work, basis)
    read = [
        read_films(
            material, WanCoder(vae, dtype), basis, draft, rivals, lambda frames: lips.read(frames).gap_mm, seed
        )
        for material in materials
    ]  # fmt: skip
    facts = {
        **device_facts(torch.device(device)),
        "label": label,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": round(time.perf_counter() - started, 1),
        "seed": seed,
        "material": materials[0].facts,
        "other_speakers": materials[1].facts if speakers is not None else None,
        "vae_sha256": basis.vae_sha256,
        "draft_sha256": basis.draft_sha256,
    }
    for name, (rows, _) in zip((LIPS_READ, OTHER_LIPS_READ), read, strict=False):
        with atomic_path(work / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(work / LIPS_FACTS, json.dumps(facts, indent=1))
    with atomic_path(work / PREVIEW) as temporary:
        Image.fromarray(read[0][1]).save(temporary)


# --- the table --------------------------------------------------------------------------------------------------------


def write_table(work: Path, out: Path, command: str = "") -> Claim:
    """The second stage: ``claim.json`` and ``claim_lips.csv`` (and ``claim_lips_speakers.csv``) in ``out``, from what
    :func:`write_lips` left.

    Raises
    ------
    InputError: the first stage's files are absent.
    """
    import pandas as pd

    from specsync_lib import provenance
    from specsync_lib.files import write_json

    try:
        lips = pd.read_csv(work / LIPS_READ)
        facts = json.loads((work / LIPS_FACTS).read_text(encoding="utf-8"))
        others = pd.read_csv(work / OTHER_LIPS_READ) if facts.get("other_speakers") else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{work / LIPS_READ}: not readable ({error}); run python -m workbench.measure.latent_claim"
        ) from error
    claim = Claim(tabulate(lips, facts["seed"]), lips, facts)
    summary = {}
    for key, (condition, measure, unit) in SUMMARY_KEYS.items():
        value, low, high = claim.number(condition, measure)
        if np.isfinite(value):
            n = int(lips.loc[lips["identity"] == REFERENCE, "utterance"].nunique())
            summary[key] = {"value": value, "unit": unit, "label": facts["label"], "low": low, "high": high, "n": n}

    def records(table: pd.DataFrame) -> list[dict]:
        return table.astype(object).where(table.notna(), None).to_dict("records")

    content = {
        "provenance": {
            "label": facts["label"],
            "resampling_unit": "utterance",
            "command": command,
            "commit": provenance.commit(),
        }
        | {"read": facts, "date": pd.Timestamp.now("UTC").isoformat(timespec="seconds")},
        "conditions": CONDITIONS,
        "summary": summary,
        "table": records(claim.table),
        **({} if others is None else {"other_speakers": records(tabulate(others, facts["seed"]))}),
    }
    for name, each in ((LIPS, lips), (OTHER_LIPS, others)):
        if each is not None:
            with atomic_path(out / name) as temporary:
                each.to_csv(temporary, index=False)
    write_json(out / RESULT, content)
    return claim


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.measure.latent_claim", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--vae", help="a checkpoint in diffusers' layout")
    parser.add_argument("--weights", choices=("trained", "random"), help="of a VAE of your own: decides the label")
    parser.add_argument("--basis", type=Path, default=latents.MODEL_DIR)
    parser.add_argument("--work", type=Path, default=latent_basis.WORK_DIR, help="where the basis was fitted")
    parser.add_argument("--speakers", type=Path, help="films of other people's sentences")
    parser.add_argument("--out", type=Path, default=MEASUREMENTS_DIR)
    parser.add_argument("--stage", choices=("all", "lips", "table"), default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=latent_basis.DTYPES, default="float32", help="the VAE's arithmetic")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        if given.stage != "table":
            if given.vae is None:
                raise InputError("claim: --vae is missing; give a checkpoint in diffusers' layout")
            dtype = latent_basis.DTYPES[given.dtype]
            write_lips(
                given.vae, given.basis, given.work, given.device, given.seed, dtype, given.weights, given.speakers
            )
        if given.stage != "lips":
            claim = write_table(given.work, given.out, "python -m workbench.measure.latent_claim")
            print(claim.table.round(3).to_string(index=False))
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
