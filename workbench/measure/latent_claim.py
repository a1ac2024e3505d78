"""The test of the claim: do lips move when sound alone is projected into Wan's latent space, with no denoising at all?

    python -m workbench.measure.latent_claim --vae data/models/wan_mini [--device cuda]

Held-out human sentences, a still head. Latents are drafted, decoded as they are, and the lips are read off the pictures
by a network that only measures. The conditions differ in where the latents come from (:data:`CONDITIONS`); what is read
is compared with what the same reader reads off truth's render.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernels import project_latents as kernel
from kernels.project_latents.reference import ProjectionWeights
from specsync_lib.draft.plan import load_draft
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.files import atomic_path, write_text
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.units import FRAMES_PER_SLOT
from workbench.train import latent_basis, latent_material
from workbench.train.latent_basis import Coder, LatentBasis
from workbench.train.latent_material import REFERENCE, Film, Material, Speech

if TYPE_CHECKING:
    import pandas as pd

RESULT, LIPS, LIPS_FACTS, PREVIEW = "claim.json", "claim_lips.csv", "lips.json", "preview.png"

CONDITIONS = {
    "vae": "truth's render through the VAE: its ceiling",
    "truth_coefficients": "truth's own latents on B: the basis' ceiling",
    "kernel": "the full kernel",
    "ordered": "the kernel's hidden layer, pooled with the order of a slot's halves",
    "energy": "loudness alone, the same fit",
    "shuffled": "the full kernel on another sentence's sound",
}
SUMMARY_KEYS = {
    "latent.claim_r": ("kernel", "r", "ratio"),
    "latent.claim_lag_ms": ("kernel", "lag_ms", "ms"),
    "latent.energy_only_r": ("energy", "r", "ratio"),
    "latent.basis_ceiling_r": ("truth_coefficients", "r", "ratio"),
    "latent.shuffled_r": ("shuffled", "r", "ratio"),
}
LAG_NEEDS_R = 0.2  # a curve that does not follow another has no lag behind it
PREVIEW_COLUMNS = 8

Reader = Callable[[Iterable[np.ndarray]], np.ndarray]  # pictures [px, px, 3] uint8 -> gap between the lips [n] in mm


# --- drafting, decoding, reading --------------------------------------------------------------------------------------


def kernel_moves(
    speech: Speech, z0: Float[Tensor, "16 h w"], weights: ProjectionWeights
) -> Float[Tensor, "slots latent"]:
    """What the kernel adds to z0 in every slot of a sentence."""
    still = z0.flatten().expand(speech.slots, -1).contiguous()
    mel = torch.from_numpy(speech.mel)
    return kernel.project_latents(mel, len(speech.units), still, weights, backend="torch").latents - still


def moves(
    film: Film,
    other: Speech,
    truth: Float[Tensor, "slots latent"],
    material: Material,
    z0: Float[Tensor, "16 h w"],
    basis: LatentBasis,
    weights: ProjectionWeights,
    rivals: Mapping[str, Tensor],
    rng: np.random.Generator,
) -> dict[str, Float[Tensor, "slots latent"]]:
    """z - z0 of every condition for one film; ``truth``: the film's own."""
    speech, slots = material.speech[film.speech], len(truth)
    elsewhere = kernel_moves(other, z0, weights)
    elsewhere = elsewhere[(torch.arange(slots) + int(rng.integers(other.slots))) % other.slots]
    hidden = latent_basis.hidden_of(speech, weights)
    return {
        "vae": truth,
        "truth_coefficients": truth @ basis.basis.T @ basis.basis,
        "kernel": kernel_moves(speech, z0, weights),
        "ordered": latent_basis.ordered_features(hidden) @ rivals["ordered"] @ basis.basis,
        "energy": latent_basis.energy_features(speech) @ rivals["energy"] @ basis.basis,
        "shuffled": elsewhere,
    }


@torch.inference_mode()
def read_films(
    material: Material,
    coder: Coder,
    basis: LatentBasis,
    draft: ProjectionWeights,
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

    weights, rng, rows, sheet = basis.weights(draft), np.random.default_rng(seed), [], None
    films = [film for film in material.films if film.split == "test"]
    test = [material.speech[name] for name in dict.fromkeys(film.speech for film in films)]
    still: dict[str, tuple[Tensor, Tensor]] = {}
    for film in tqdm(films, desc="claim", unit="film"):
        if film.identity not in still:
            still[film.identity] = coder.still(film.frames[0])
        z0, reference = still[film.identity]
        truth = latent_basis.film_latents(coder, film, z0)
        other = test[(test.index(material.speech[film.speech]) + 1) % len(test)]
        moved = moves(film, other, truth, material, z0, basis, weights, rivals, rng)
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
) -> None:
    """The first stage: ``lips.csv``, ``lips.json`` and ``preview.png`` in ``work``.

    Raises
    ------
    InputError: an absent or unfit VAE, basis, draft, material or lip reader, or ones that do not belong together.
    """
    from PIL import Image

    from specsync_lib.measures.lip_reader import load_lip_reader
    from specsync_lib.provenance import device_facts

    started = time.perf_counter()
    vae, basis = wan.load_vae(vae_source, device=device), latent_basis.load_latent_basis(basis_folder)
    material = latent_material.load_material(work)
    basis.check(vae, material.facts["size_px"])
    lips = load_lip_reader(device=device)
    rows, sheet = read_films(
        material,
        latent_basis.WanCoder(vae, dtype),
        basis,
        load_draft(),
        latent_basis.load_rivals(work, basis),
        lambda frames: lips.read(frames).gap_mm,
        seed,
    )
    facts = {
        **device_facts(torch.device(device)),
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": round(time.perf_counter() - started, 1),
        "seed": seed,
        "material": material.facts,
        "vae_sha256": basis.vae_sha256,
        "draft_sha256": basis.draft_sha256,
    }
    with atomic_path(work / "lips.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(work / LIPS_FACTS, json.dumps(facts, indent=1))
    with atomic_path(work / PREVIEW) as temporary:
        Image.fromarray(sheet).save(temporary)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """The claim's table and what it was made of.

    Attributes
    ----------
    table : DataFrame
        A row per identity and condition: r, lag_ms, error_mm, inside_slot_r with ``_low`` and ``_high``, utterances,
        frames. A measure that does not exist (the lag of unrelated curves) is NaN.
    lips : DataFrame
        A row per frame, gaps in mm.
    facts : dict
    """

    table: "pd.DataFrame"
    lips: "pd.DataFrame"
    facts: dict

    def number(self, condition: str, measure: str = "r", identity: str = REFERENCE) -> tuple[float, float, float]:
        """A value of the table with its interval."""
        rows = self.table[(self.table["condition"] == condition) & (self.table["identity"] == identity)]
        return tuple(float(rows[f"{measure}{end}"].iloc[0]) for end in ("", "_low", "_high"))


def tabulate(lips: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Correlation, lag and error of the lips in each condition against truth's; intervals resample utterances.

    ``inside_slot_r`` correlates what is left of both curves when each slot's mean is taken away: the motion inside a
    slot, which a pool without order can only guess.
    """
    import pandas as pd

    from specsync_lib.measures.intervals import Metric, bootstrap_by_group, lag_ms, pearson_columns, pearson_of_sums

    def spread(name: str, metric: Metric | None) -> dict[str, float]:
        ends = (np.nan,) * 3 if metric is None else (metric.value, metric.low, metric.high)
        return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))

    def correlation(read: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> Metric:
        return bootstrap_by_group(
            pearson_columns(read, truth), groups, pearson_of_sums, rng=np.random.default_rng(seed)
        )

    def mean(values: list[float], groups: list[str], unit: str) -> Metric:
        return bootstrap_by_group(np.array(values), np.array(groups), rng=np.random.default_rng(seed), unit=unit)

    rows = []
    for identity, part in lips.groupby("identity", sort=False):
        groups, truth = part["utterance"].to_numpy(), part["truth_mm"].to_numpy()
        slot = [part["utterance"], part["frame"] // FRAMES_PER_SLOT]
        inside = part.groupby(slot)["truth_mm"].transform("mean").to_numpy()
        for condition in ("mesh", *CONDITIONS):
            read = part[f"{condition}_mm"].to_numpy()
            r = correlation(read, truth, groups)
            lags = {}
            if r.low >= LAG_NEEDS_R:
                for name, one in part.groupby("utterance", sort=False):
                    lags[name] = lag_ms(one["truth_mm"].to_numpy(), one[f"{condition}_mm"].to_numpy())[0]
            read_inside = part.groupby(slot)[f"{condition}_mm"].transform("mean").to_numpy()
            rows.append(
                {
                    "identity": identity,
                    "condition": condition,
                    **spread("r", r),
                    **spread("lag_ms", mean(list(lags.values()), list(lags), "ms") if lags else None),
                    **spread("error_mm", mean(list(np.abs(read - truth)), list(groups), "mm")),
                    **spread("inside_slot_r", correlation(read - read_inside, truth - inside, groups)),
                    "utterances": r.n,
                    "frames": len(part),
                }
            )
    return pd.DataFrame(rows)


def write_table(work: Path, out: Path, command: str = "") -> Claim:
    """The second stage: ``claim.json`` and ``claim_lips.csv`` in ``out``, from what :func:`write_lips` left.

    Raises
    ------
    InputError: the first stage's files are absent.
    """
    import pandas as pd

    from specsync_lib import provenance
    from specsync_lib.files import write_json

    try:
        lips = pd.read_csv(work / "lips.csv")
        facts = json.loads((work / LIPS_FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{work / 'lips.csv'}: not readable ({error}); run python -m workbench.measure.latent_claim"
        ) from error
    claim = Claim(tabulate(lips, facts["seed"]), lips, facts)
    summary = {}
    for key, (condition, measure, unit) in SUMMARY_KEYS.items():
        value, low, high = claim.number(condition, measure)
        if np.isfinite(value):
            n = int(lips.loc[lips["identity"] == REFERENCE, "utterance"].nunique())
            summary[key] = {"value": value, "unit": unit, "label": "measured", "low": low, "high": high, "n": n}
    table = claim.table.astype(object).where(claim.table.notna(), None)
    content = {
        "provenance": {
            "label": "measured",
            "resampling_unit": "utterance",
            "command": command,
            "commit": provenance.commit(),
        }
        | {"read": facts, "date": pd.Timestamp.now("UTC").isoformat(timespec="seconds")},
        "conditions": CONDITIONS,
        "summary": summary,
        "table": table.to_dict("records"),
    }
    with atomic_path(out / LIPS) as temporary:
        lips.to_csv(temporary, index=False)
    write_json(out / RESULT, content)
    return claim


def load_claim(folder: Path = MEASUREMENTS_DIR) -> Claim:
    """What :func:`write_table` left, for a notebook.

    Raises
    ------
    InputError: not there.
    """
    import pandas as pd

    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        lips = pd.read_csv(folder / LIPS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / RESULT}: not readable ({error}); run python -m workbench.measure.latent_claim"
        ) from error
    table = pd.DataFrame(content["table"])
    numbers = table.columns.difference(["identity", "condition"])
    return Claim(table.astype(dict.fromkeys(numbers, float)), lips, content)


def record_summary(claim: Claim, source: Path = MEASUREMENTS_DIR / RESULT) -> None:
    """Record the claim's headline numbers for the running notebook."""
    from specsync_lib.summary import record

    for key, entry in claim.facts["summary"].items():
        record(key, **entry, source=source)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.measure.latent_claim", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--vae", help="a checkpoint in diffusers' layout")
    parser.add_argument("--basis", type=Path, default=latent_basis.MODEL_DIR)
    parser.add_argument("--work", type=Path, default=latent_basis.WORK_DIR, help="where the basis was fitted")
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
            write_lips(given.vae, given.basis, given.work, given.device, given.seed, latent_basis.DTYPES[given.dtype])
        if given.stage != "lips":
            claim = write_table(given.work, given.out, "python -m workbench.measure.latent_claim")
            print(claim.table.round(3).to_string(index=False))
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
