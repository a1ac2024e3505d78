"""The latent basis: with it the sync kernel writes drafted latents z = z0 + c B, straight from sound.

    python -m workbench.train.latent_basis --vae data/models/wan_mini --out data/models/latent_basis [--device cuda]
    python -m workbench.train.latent_basis --row my.toml --out ./basis       # on a row's own VAE, pixels and draft
    python -m workbench.train.latent_basis --vae data/models/wan_mini --rivals-only    # of a basis that is there: heads
                                                                 # that workbench.measure.latent_claim compares it with

z0 is the latent of a still, resting face (what every slot of a still clip settles at); B [K, 16 h w] spans what a
speaking mouth changes in it; W_c [H + 1, K] reads the coefficients c off the draft's hidden features, pooled over a
slot's 4 frames. The draft stays as it is, with one feature added that always says 1 and so carries the constant.
All latents here are *normalised* ones (:func:`specsync_lib.face.wan.normalise_latents`): what the transformer sees.

How it is fitted, every step in closed form (the loss is the latents' mean squared error, so gradient steps could only
approach the same solution):

1. Films of training sentences are encoded: Z = z - z0 per slot.
2. A kernel ridge regression predicts Z from what the face does in a slot and in the one before it: the *plan model*.
3. B: the leading right singular vectors of that prediction, hence of what a plan explains and of nothing else
   (reduced-rank regression); compared with Z's own (PCA) and with those of a prediction from the hidden layer.
4. The plan model gives coefficients for every training sentence, filmed or not: W_c by ridge, in several *views* (slot
   grids, and chunks of 12, 8 and 4 frames: what a frame has in view changes the front's features).

Source: Izenman, "Reduced-rank regression for the multivariate linear model", 1975.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kernels.causal_front.reference import FrontWeights, front_offline, new_rows
from kernels.project_latents.reference import ProjectionWeights, gather_windows
from specsync_lib import rows, units
from specsync_lib.draft.front import DRAFT, front_path, in_full, load_draft_front, whisper_range
from specsync_lib.draft.front_weights import features_sha256
from specsync_lib.draft.latents import (
    CONFIG,
    METRICS,
    MODEL_DIR,
    RIVALS,
    WEIGHTS,
    LatentBasis,
    load_latent_basis,
    vae_sha256,
)
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.vae import Coder, WanCoder
from specsync_lib.files import atomic_path, write_text
from specsync_lib.paths import MODELS_DIR, RUN_DIR, display_path
from specsync_lib.tensors import read_checked
from specsync_lib.units import FRAMES_PER_SLOT
from workbench.train import latent_material
from workbench.train.latent_material import Film, Material, Speech

WORK_DIR = RUN_DIR / "latent_basis"
OF_BASIS = "basis_sha256"  # beside the rivals' heads
COEFFICIENTS = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RIDGES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)  # per row
HIDDEN_RIDGE = 0.1  # of the basis from the hidden layer: few filmed slots
PLAN_LENGTHS, PLAN_RIDGES = (0.5, 1.0, 2.0), (1e-3, 1e-2, 1e-1)  # lengths in median distances
# How a slot's 4 frames become one row: the kernel's mean, and beside it half of its second half minus its first.
POOLS = {"mean": [[0.25] * 4], "ordered": [[0.25] * 4, [-0.25, -0.25, 0.25, 0.25]]}

BasisKind = Literal["plan", "pca", "hidden"]
RIVAL_KINDS = ("energy", "ordered")
HeadKind = Literal["mean", "ordered", "energy"]  # mean: the kernel's; ordered: with POOLS' second row; energy: loudness


# --- what a run loads -------------------------------------------------------------------------------------------------


def save(fitted: LatentBasis, folder: Path) -> None:
    """Write a basis (B as fp16) in the form that :func:`load_latent_basis` reads."""
    tensors = {"basis": fitted.basis.half(), "w_coef": fitted.w_coef, "z0": fitted.z0}
    config = {
        "coefficients": len(fitted.basis),
        "hidden": len(fitted.w_coef),
        "latent": list(fitted.z0.shape),
        "draft_sha256": fitted.draft_sha256,
        "vae_sha256": fitted.vae_sha256,
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
    write_text(folder / CONFIG, json.dumps(config, indent=1))


def directions_sha256(basis: LatentBasis) -> str:
    """What a head's coefficients are coefficients of: two fits may differ in signs and order alone."""
    return hashlib.sha256(basis.basis.half().cpu().contiguous().numpy().tobytes()).hexdigest()


def load_rivals(work: Path, basis: LatentBasis) -> dict[str, Tensor]:
    """The heads that the claim's test compares with, as :func:`run` left them beside the material.

    Raises
    ------
    InputError: absent, damaged, of another shape than the basis', or fitted with another basis.
    """
    hidden, count = basis.w_coef.shape
    path = work / RIVALS
    if not path.is_file():
        raise InputError(f"{path}: absent; run workbench.train.latent_basis with this work folder")
    heads = read_checked([path], {"energy": (units.WINDOW_MEL_FRAMES + 1, count), "ordered": (2 * hidden - 1, count)})
    with safe_open(path, "pt") as stored:
        found = (stored.metadata() or {}).get(OF_BASIS)
    if found != (wanted := directions_sha256(basis)):
        raise InputError(
            f"{path}: heads of basis {str(found)[:12]}, expected {wanted[:12]}; give the basis fitted with them"
        )
    return heads


# --- from pictures to latents and back --------------------------------------------------------------------------------


def film_latents(coder: Coder, film: Film, z0: Float[Tensor, "16 h w"]) -> Float[Tensor, "slots latent"]:
    """z - z0 of every slot after the reference one."""
    return (coder.encode(film.frames)[:, 1:] - z0[:, None]).transpose(0, 1).flatten(1)


def clip_latents(
    reference: Float[Tensor, "16 h w"], z0: Float[Tensor, "16 h w"], moved: Float[Tensor, "slots latent"]
) -> Float[Tensor, "16 slots h w"]:
    """A decodable clip: the reference slot, then z0 + moved."""
    return torch.cat([reference[None], z0 + moved.view(-1, *z0.shape)]).transpose(0, 1)


# --- what is regressed on what ----------------------------------------------------------------------------------------


def pooled(values: Float[Tensor, "frames n"], pool: str, grid: int = 0) -> Float[Tensor, "slots p*n"]:
    """Frames to slots: as the kernel does (``mean``), or with their order (``ordered``); slots start at ``grid``."""
    whole = values[grid : grid + (len(values) - grid) // FRAMES_PER_SLOT * FRAMES_PER_SLOT]
    taps = torch.tensor(POOLS[pool], dtype=values.dtype)
    return torch.einsum("pf,sfn->spn", taps, whole.unflatten(0, (-1, FRAMES_PER_SLOT))).flatten(1)


@dataclass(frozen=True)
class View:
    """How a sentence is cut: slots and chunks begin at frame ``grid``, chunks have ``chunk`` frames."""

    grid: int = 0
    chunk: int = units.FRAMES_PER_CHUNK


# A window network hears the same whatever the chunk; the front does not.
VIEWS = {
    ProjectionWeights: [View(grid) for grid in range(FRAMES_PER_SLOT)],
    FrontWeights: [View(), View(grid=2), View(chunk=8), View(chunk=4)],
}


@torch.inference_mode()
def hidden_of(
    speech: Speech, draft: FrontWeights | ProjectionWeights, view: View = View()
) -> Float[Tensor, "frames hidden"]:
    """The draft's features in every frame, in the product's own arithmetic, the constant last."""
    mel, frames = torch.from_numpy(speech.mel), len(speech.units)
    if isinstance(draft, ProjectionWeights):
        windows = gather_windows(mel, frames)
        return F.pad(torch.tanh((windows @ draft.band_pool).flatten(1) @ draft.w1 + draft.b1), (0, 1), value=1.0)
    starts = [0] * (view.grid > 0) + [*range(view.grid, frames, view.chunk), frames]
    rows = in_full(mel, len(new_rows(0, frames)), mel[-1:])
    said = front_offline(whisper_range(rows)[None], draft, np.diff(starts).tolist())
    return F.pad(said.hidden[0], (0, 1), value=1.0)


def ordered_features(hidden: Float[Tensor, "frames hidden"], grid: int = 0) -> Float[Tensor, "slots features"]:
    """The hidden layer pooled with its order: (second half - first half) / 2, then the mean, the constant last."""
    mean, change = pooled(hidden, "ordered", grid).chunk(2, dim=1)
    return torch.cat([change[:, :-1], mean], dim=1)


def energy_features(speech: Speech, grid: int = 0) -> Float[Tensor, "slots 19"]:
    """Loudness alone: the mean band of each row of the draft's own window, pooled as in the kernel; and a constant."""
    loudness = gather_windows(torch.from_numpy(speech.mel), len(speech.units)).mean(dim=2)
    return pooled(F.pad(loudness, (0, 1), value=1.0), "mean", grid)


def mouth_paths(weights: np.ndarray, grid: int = 0) -> Float[Tensor, "slots 416"]:
    """What the face does in a slot and in the one before it: ARKit weights [frames, 52] of 8 frames a slot."""
    frames = len(weights) - grid
    rest = np.zeros((FRAMES_PER_SLOT, weights.shape[1]), weights.dtype)
    before = np.concatenate([rest, weights])[grid : grid + frames // FRAMES_PER_SLOT * FRAMES_PER_SLOT]
    now = weights[grid : grid + len(before)]
    slots = [torch.from_numpy(part).view(-1, FRAMES_PER_SLOT * weights.shape[1]) for part in (before, now)]
    return torch.cat(slots, dim=1)


@dataclass(frozen=True)
class PlanModel:
    """Kernel ridge regression (Gaussian) from mouth paths to anything that the filmed slots have."""

    paths: Float[Tensor, "n 416"]
    length: float
    smoother: Float[Tensor, "n n"]  # (K + ridge n)^-1

    @classmethod
    def fit(cls, paths: Tensor, length: float, ridge: float) -> "PlanModel":
        """``length`` in median distances; ``ridge`` in units of the kernel's own mean."""
        distance = torch.cdist(paths, paths)
        length = length * float(distance.median())
        gram = torch.exp(-0.5 * (distance / length).square()).double()
        inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=torch.float64))
        return cls(paths, length, inverse.float())

    def shares(self, paths: Float[Tensor, "m 416"]) -> Float[Tensor, "m n"]:
        """How much each filmed slot counts for other paths: ``shares @ values`` predicts whatever those slots have."""
        near = torch.exp(-0.5 * (torch.cdist(paths, self.paths) / self.length).square()) @ self.smoother
        return near + (1 - near.sum(dim=1, keepdim=True)) / len(self.paths)  # the rest goes to the mean


class Ridge:
    """Least squares with a penalty, from running sums; the last feature is the constant and is not penalised."""

    def __init__(self) -> None:
        self.rows = 0
        self.gram: Tensor | float = 0.0
        self.cross: Tensor | float = 0.0

    def add(self, features: Float[Tensor, "n p"], targets: Float[Tensor, "n k"]) -> None:
        """More rows."""
        wide = features.double()
        self.rows += len(wide)
        self.gram, self.cross = self.gram + wide.T @ wide, self.cross + wide.T @ targets.double()

    def solve(self, penalty: float) -> Float[Tensor, "p k"]:
        """The coefficients for one penalty, given per row."""
        diagonal = torch.full((len(self.gram),), penalty * self.rows, dtype=torch.float64)
        diagonal[-1] = 0
        return torch.linalg.solve(self.gram + torch.diag(diagonal), self.cross).float()


def leading_directions(values: Float[Tensor, "n latent"], count: int) -> Float[Tensor, "count latent"]:
    """The first right singular vectors, orthonormal rows, through the small n x n matrix.

    Raises
    ------
    InputError: fewer slots than directions.
    """
    if len(values) < count:
        raise InputError(f"latent basis: {len(values)} slots cannot span {count} directions; film more")
    strength, left = torch.linalg.eigh((values @ values.T).double())
    strength, left = strength.flip(0)[:count].clamp(min=1e-12), left.flip(1)[:, :count]
    found = ((left / strength.sqrt()).T @ values.double()).float()
    return torch.linalg.qr(found.T).Q.T.contiguous()


def explained(truth: Float[Tensor, "n k"], estimate: Float[Tensor, "n k"]) -> float:
    """Share of the truth's variance that an estimate explains (R², over all columns together)."""
    return 1 - float((truth - estimate).square().sum() / (truth - truth.mean(dim=0)).square().sum())


# --- fitting ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A basis, its rivals' heads [features, K] for the claim's test, and the fit's numbers."""

    basis: LatentBasis
    rivals: dict[str, Tensor]
    numbers: dict


@dataclass(frozen=True)
class Heads:
    """Validation's features and shares of filmed slots, and the regression of the shares by penalty."""

    features: Float[Tensor, "m features"]
    shares: Float[Tensor, "m n"]
    solutions: dict[float, Float[Tensor, "features n"]]


class Fit:
    """One fit: the filmed slots of training and validation, and what follows from them."""

    def __init__(self, material: Material, coder: Coder, draft: FrontWeights | ProjectionWeights) -> None:
        from tqdm.auto import tqdm

        self.material, self.draft = material, draft
        films = {split: material.films_of(split) for split in ("train", "validation")}
        self.z0, self.reference = coder.still(films["train"][0].frames[0])
        self.moved = {
            split: torch.cat([film_latents(coder, film, self.z0) for film in tqdm(some, desc=f"encoding {split}")])
            for split, some in films.items()
        }
        self.speech = {split: [material.speech[film.speech] for film in some] for split, some in films.items()}
        self.paths = {split: torch.cat([mouth_paths(s.units) for s in some]) for split, some in self.speech.items()}
        self._hidden: dict[tuple[str, View], Tensor] = {}
        self.plan_model, self.plan_share = self._best_plan_model()
        self._solved: dict[str, Heads] = {}

    def _best_plan_model(self) -> tuple[PlanModel, float]:
        """The plan model that explains validation films best, and the share of their variance that it explains."""
        tried = []
        for length in PLAN_LENGTHS:
            for ridge in PLAN_RIDGES:
                model = PlanModel.fit(self.paths["train"], length, ridge)
                said = model.shares(self.paths["validation"]) @ self.moved["train"]
                tried.append((explained(self.moved["validation"], said), model))
        share, model = max(tried, key=lambda pair: pair[0])
        return model, share

    def directions(self, kind: BasisKind, count: int) -> Float[Tensor, "coef latent"]:
        """B: of what the plan explains, of everything (PCA), or of what the hidden layer explains, in filmed slots."""
        moved = self.moved["train"]
        if kind == "plan":
            moved = self.plan_model.shares(self.paths["train"]) @ moved
        elif kind == "hidden":
            features, heard = torch.cat([self.features(s, "mean") for s in self.speech["train"]]), Ridge()
            heard.add(features, moved)
            moved = features @ heard.solve(HIDDEN_RIDGE)
        return leading_directions(moved, count)

    def head(
        self, basis: Float[Tensor, "coef latent"], kind: HeadKind
    ) -> tuple[Float[Tensor, "features coef"], dict[str, float]]:
        """The coefficients' head on some features, and its numbers.

        The penalty is the one that explains most of the coefficients of all validation sentences.
        """
        if kind not in self._solved:
            self._solved[kind] = self._solve(kind)
        solved, values = self._solved[kind], self.moved["train"] @ basis.T  # values: [n, K]
        targets, tried = solved.shares @ values, []
        for penalty, solution in solved.solutions.items():
            head = solution @ values
            tried.append((explained(targets, solved.features @ head), penalty, head))
        share, penalty, head = max(tried, key=lambda row: row[0])
        filmed = torch.cat([self.features(s, kind) for s in self.speech["validation"]])
        drafted = explained(self.moved["validation"], filmed @ head @ basis)
        return head, {"penalty": penalty, "coefficients_explained": share, "latents_explained": drafted}

    def _solve(self, kind: HeadKind) -> "Heads":
        """Regress the plan model's shares once: every training sentence in every view, for every penalty."""
        ridge = Ridge()
        for view in VIEWS[type(self.draft)]:
            some = [s for s in self.material.speech_of("train") if len(s.units) >= view.grid + FRAMES_PER_SLOT]
            paths = torch.cat([mouth_paths(s.units, view.grid) for s in some])
            ridge.add(torch.cat([self.features(s, kind, view) for s in some]), self.plan_model.shares(paths))
        held_out = self.material.speech_of("validation")
        features = torch.cat([self.features(s, kind) for s in held_out])
        shares = torch.cat([self.plan_model.shares(mouth_paths(s.units)) for s in held_out])
        return Heads(features, shares, {penalty: ridge.solve(penalty) for penalty in RIDGES})

    def features(self, speech: Speech, kind: HeadKind, view: View = View()) -> Float[Tensor, "slots features"]:
        """A sentence's rows for :meth:`head`, the constant last."""
        if kind == "energy":
            return energy_features(speech, view.grid)
        key = speech.name, view
        if key not in self._hidden:
            self._hidden[key] = hidden_of(speech, self.draft, view)
        hidden = self._hidden[key]
        return ordered_features(hidden, view.grid) if kind == "ordered" else pooled(hidden, "mean", view.grid)


def fit(
    material: Material,
    coder: Coder,
    draft: FrontWeights | ProjectionWeights,
    vae_digest: str,
    draft_digest: str,
    coefficients: int = COEFFICIENTS,
) -> Fitted:
    """Fit B, W_c and z0; of the three ways to B the one whose drafted latents explain most of the validation films.

    Parameters
    ----------
    material
        Films of the reference person for training and validation, and all speech of the two splits.
    coder
        The VAE.
    vae_digest, draft_digest
        :func:`vae_sha256` of it; of what the draft's features follow from (``features_sha256``).
    """
    started = time.perf_counter()
    work = Fit(material, coder, draft)
    rows, best = [], None
    for kind in ("plan", "pca", "hidden"):
        basis = work.directions(kind, coefficients)
        head, numbers = work.head(basis, "mean")
        held_out = work.moved["validation"]
        rows.append({"basis": kind, "ceiling_explained": explained(held_out, held_out @ basis.T @ basis), **numbers})
        if best is None or numbers["latents_explained"] > best[0]["latents_explained"]:
            best = rows[-1], basis, head
    row, basis, head = best
    rivals, heads = {}, {}
    for kind in RIVAL_KINDS:
        rivals[kind], heads[kind] = work.head(basis, kind)
    numbers = {
        "coefficients": coefficients,
        "basis": row["basis"],
        "train_slots": len(work.moved["train"]),
        "validation_slots": len(work.moved["validation"]),
        "plan_explained": work.plan_share,
        "bases": rows,
        "heads": {"mean": {k: row[k] for k in ("penalty", "coefficients_explained", "latents_explained")}, **heads},
        "largest_w_coef": float(head.abs().max()),
        "seconds": round(time.perf_counter() - started, 1),
    }
    fitted = LatentBasis(basis, head, work.z0, draft_digest, vae_digest)
    return Fitted(fitted, rivals, numbers)


def save_rivals(rivals: dict[str, Tensor], basis: LatentBasis, work: Path) -> None:
    """Write the heads that the claim's test compares with, and whose coefficients they draft."""
    with atomic_path(work / RIVALS) as temporary:
        heads = {name: head.contiguous() for name, head in rivals.items()}
        save_file(heads, temporary, {OF_BASIS: directions_sha256(basis)})


def model_card(metrics: dict) -> str:
    """The card in Markdown, every number from the fit."""
    counts, heads = metrics["material"]["counts"], metrics["heads"]
    bases = "\n".join(
        f"| {row['basis']} | {row['ceiling_explained']:.3f} | {row['latents_explained']:.3f} |"
        for row in metrics["bases"]
    )
    pools = "\n".join(
        f"| {name} | {row['latents_explained']:.3f} | {row['penalty']:g} |" for name, row in heads.items()
    )
    material = metrics["material"]
    return f"""# Latent basis

z = z0 + c B for the sync kernel: B [{metrics["coefficients"]} coefficients] on the normalised latents of the VAE
`{metrics["vae"]}`, W_c on features of the front `{Path(metrics["draft"]).stem}` (and one that always says 1), z0 of the
reference person's resting face. It knows still heads framed by the "face" camera at {material["size_px"]} px and
nothing else. `python -m workbench.measure.latent_claim` measures on held-out speech what it is worth.

Share of the latents' variance in held-out films (validation split, {metrics["validation_slots"]} slots) that each basis
can explain, and that its drafted coefficients do explain; **{metrics["basis"]}** is stored. Truth's plan explains
{metrics["plan_explained"]:.3f} through the plan model.

| basis from | ceiling ({metrics["label"]}) | drafted ({metrics["label"]}) |
|---|---|---|
{bases}

The same for other heads on the stored basis: *mean* is the kernel's pool, *ordered* keeps the order of a slot's halves,
*energy* hears loudness alone.

| head | drafted ({metrics["label"]}) | ridge |
|---|---|---|
{pools}

Data: {counts["train"]["sentences"]} training sentences (human and synthetic), {counts["train"]["films"]} of them filmed
({counts["train"]["film_frames"]} frames), made by `python -m workbench.train.latent_material` (seed {material["seed"]},
listing's sha256 {material["sha256"][:16]}).

Fit: `python -m workbench.train.latent_basis`, closed form, {metrics["seconds"]:.0f} s on {metrics["device"]["device"]}.

Licence: Apache-2.0; the speech behind the head is CC-BY-SA-3.0 (Allison Smith, Debian asterisk-core-sounds-en).
"""


def label_of(vae_source: str | Path, weights: str | None) -> str:
    """The label of what a VAE's latents show, by where its weights came from; known for the committed wan-mini alone.

    Raises
    ------
    InputError: nobody says it of another one.
    """
    if weights is None and Path(vae_source).resolve() != MODELS_DIR / "wan_mini":
        raise InputError(f"{vae_source}: say where its weights came from: --weights trained or random")
    return "real-shape" if weights == "random" else "measured"


def run(
    vae_source: str | Path,
    out: Path,
    work: Path,
    device: str | torch.device = "cpu",
    coefficients: int = COEFFICIENTS,
    dtype: torch.dtype = torch.float32,
    *,
    weights: str | None = None,
    revision: str = "main",
    front: str = DRAFT,
) -> Fitted:
    """Fit on the material in ``work`` and save: the basis with its card into ``out``, the rivals' heads into ``work``.

    Parameters
    ----------
    weights : "trained" or "random", of the VAE (:func:`label_of`).
    revision : of a hub id.
    front : the draft that the coefficients are read off (`front.front_path`).

    Raises
    ------
    InputError: the VAE, the draft or the material is unfit.
    """
    from specsync_lib.provenance import device_facts

    label = label_of(vae_source, weights)
    vae = wan.load_vae(vae_source, dtype=torch.float32, device=device, revision=revision)
    material = latent_material.load_material(work)
    digests = vae_sha256(vae), features_sha256(front_path(front))
    fitted = fit(material, WanCoder(vae, dtype), load_draft_front(front), *digests, coefficients)
    where = device_facts(torch.device(device)) | {"dtype": str(dtype).removeprefix("torch.")}
    name = Path(vae_source).name if Path(vae_source).is_dir() else str(vae_source)
    metrics = {
        **fitted.numbers,
        "label": label,
        "vae": name,
        "draft": front,
        "material": material.facts,
        "device": where,
    }
    out.mkdir(parents=True, exist_ok=True)
    save(fitted.basis, out)
    save_rivals(fitted.rivals, fitted.basis, work)
    for name, text in ((METRICS, json.dumps(metrics, indent=1)), ("README.md", model_card(metrics))):
        write_text(out / name, text)
    return fitted


def run_rivals(
    vae_source: str | Path,
    out: Path,
    work: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    revision: str = "main",
    front: str = DRAFT,
) -> None:
    """The rivals' heads into ``work``, for the basis that ``out`` holds; parameters as for :func:`run`.

    Raises
    ------
    InputError: the VAE, the draft, the material or the basis is unfit, or they do not belong together.
    """
    vae = wan.load_vae(vae_source, dtype=torch.float32, device=device, revision=revision)
    material, basis = latent_material.load_material(work), load_latent_basis(out)
    basis.check(vae, material.facts["size_px"])
    basis.check_draft(features_sha256(front_path(front)))
    fitted = Fit(material, WanCoder(vae, dtype), load_draft_front(front))
    save_rivals({kind: fitted.head(basis.basis, kind)[0] for kind in RIVAL_KINDS}, basis, work)


def _of_row(given: argparse.Namespace) -> dict[str, str]:
    """What a row says of its VAE and draft; source and pixels are put where the other options are.

    Raises
    ------
    InputError: as `rows.read`; its basis would take the place of the committed one.
    """
    row = rows.read(given.row, present=False)  # its basis need not be there yet
    if given.out is None:
        raise InputError(f"row {row.name}: give --out, the folder that its draft.basis names")
    known = wan.MODELS.get(row.video.source)
    given.vae, given.size_px = known.source if known else row.video.source, row.video.pixels
    weights = "trained" if row.video.label == rows.LABELS["trained"] else "random"
    return {"weights": weights, "revision": row.video.revision, "front": row.draft.front}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.latent_basis", description=__doc__.splitlines()[0])
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--vae", help="a checkpoint in diffusers' layout")
    whose.add_argument("--row", help="a row: its checkpoint, pixels and draft")
    parser.add_argument("--weights", choices=("trained", "random"), help="of a VAE of your own; a row says it itself")
    parser.add_argument("--out", type=Path, help=f"default with --vae: {display_path(MODEL_DIR)}")
    parser.add_argument(
        "--work", type=Path, help="films and speech, made when they are not there; default: in data/run"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="the VAE's arithmetic")
    parser.add_argument("--coefficients", type=int, default=COEFFICIENTS)
    parser.add_argument("--rivals-only", action="store_true", help="keep the basis; fit the claim's other heads for it")
    latent_material.add_arguments(parser)
    given = parser.parse_args(arguments)
    try:
        of_row = {} if given.row is None else _of_row(given)
        work = given.work or WORK_DIR.with_name(f"{WORK_DIR.name}_{given.size_px}" if of_row else WORK_DIR.name)
        if not (work / "material.json").is_file():
            latent_material.build_from(given, work)
        place = given.vae, given.out or MODEL_DIR, work, given.device
        if given.rivals_only:
            how = {key: value for key, value in of_row.items() if key != "weights"}
            run_rivals(*place, DTYPES[given.dtype], **how)
            return 0
        how = {"weights": given.weights} | of_row
        fitted = run(*place, given.coefficients, DTYPES[given.dtype], **how)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(json.dumps(fitted.numbers, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
