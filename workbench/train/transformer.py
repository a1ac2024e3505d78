"""Trains wan-mini's transformer on latents of a talking head within a wall-clock budget.

    python -m workbench.train.transformer --data CORPUS --vae DIR --out DIR --minutes 7.5 [--resume DIR | --start DIR]

``CORPUS`` is drawn with ``python -m workbench.train.faces --manner suite``: each clip begins with the person at
rest, then follows a plan exactly as the suite's renders do. ``DIR`` receives ``transformer/`` in diffusers' layout,
``transformer_metrics.json`` (the curve of held-out errors), ``transformer_card.md`` and ``transformer_preview.png``.

All clips are encoded once; a batch is drawn, corrupted and learned on the device without the host. What is corrupted is
what generation will meet (:mod:`specsync_lib.face.generation` says what the model sees):

- the noisy latents start from the truth, or from a linear *draft* (:class:`LinearDraft`) of the right or of a wrong
  plan, so that one or two steps learn to repair a draft and the cross-attention sequence outweighs it;
- the last slot carries noise, or is only the still one, so that generated slots do as well as true ones (no drift);
- plan frames after the chunk are known for 0 to 4 frames;
- a batch's chunks hold 1, 2 or 3 slots, drawn at random: the model's config then names them (``wan.KNOWN_SLOTS``), and
  generation shows it a short chunk alone. Shapes of weights do not depend on it: ``--start`` begins with the weights of
  a model that knows three slots alone.

Source
------
The flow, its clean-data prediction and its sources: :mod:`specsync_lib.face.generation`.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from specsync_lib import tensors, units
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan
from specsync_lib.face.generation import PLAN_BACK_FRAMES, TOKENS
from specsync_lib.face.vae import FoldedVae
from specsync_lib.face.wan_mini import Size, new_transformer
from specsync_lib.files import atomic_path, write_text
from specsync_lib.measures import pictures
from specsync_lib.measures.pictures import error_in_boxes, psnr_db
from specsync_lib.provenance import device_facts
from specsync_lib.units import CHUNK_SLOTS, FRAMES_PER_SLOT, SLOTS_PER_CHUNK, ChunkSize
from workbench.train.descent import Descent, choose_fast_products, cosine
from workbench.train.faces import FaceCorpus, load_corpus

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

DRAFT_BACK_FRAMES = DRAFT_AHEAD_FRAMES = 4  # plan frames around a slot that a linear draft sees
RIDGE = 3.0


# --- latents to learn from --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latents:
    """Encoded clips on the device. A row is a clip read from one of its first frames on.

    Attributes
    ----------
    z : Tensor [rows, slots, 16, h, w]
        Normalised; slot 0 is the reference frame.
    still : Tensor [rows, 16, h, w]
        :func:`generation.still_latents` of the row's person.
    mouth : Tensor [rows, slots, h, w] bool
        Cells that the mouth touches.
    begins, ends : Tensor [rows]
        First frame that slot 1 holds, and the frame after the clip's last, as indices of the plan's arrays.
    visemes, openness, idle : Tensor [frames], [frames], [frames, IDLE_FEATURES]
        The plan and idle motion of all frames.
    clip : Tensor [rows]
        The corpus' clip behind each row.
    """

    z: Tensor
    still: Tensor
    mouth: Tensor
    begins: Tensor
    ends: Tensor
    visemes: Tensor
    openness: Tensor
    idle: Tensor
    clip: Tensor


@torch.no_grad()
def encode_clips(
    corpus: FaceCorpus, vae: "AutoencoderKLWan", clips: np.ndarray, device: torch.device, phases: int = 1
) -> Latents:
    """Latents of clips; with ``phases`` > 1 also from later starts on, so that slots fall on other frames.

    Raises
    ------
    InputError: the clips do not begin with the person at rest, or are too short for a chunk.
    """
    if not corpus.facts.get("rest_first"):
        raise InputError("transformer training: clips do not begin at rest; draw the corpus with --manner suite")
    slots = 1 + (int(corpus.clip_frames.min()) - phases) // FRAMES_PER_SLOT
    if slots <= SLOTS_PER_CHUNK:
        raise InputError(f"transformer training: clips of {corpus.clip_frames.min()} frames hold no chunk")
    coder, people = FoldedVae(vae, torch.float32, compiled=False), {}
    side = corpus.size_px // units.PIXELS_PER_LATENT
    z, still, mouth, begins, ends = [], [], [], [], []
    for clip in np.repeat(clips, phases):
        start, phase = int(corpus.clip_start[clip]), len(z) % phases
        head = corpus.names[clip].split("/")[0]
        if head not in people:
            people[head] = generation.still_latents(vae, corpus.frames[start], device)[0]
        first = start + 1 + phase
        span = np.r_[start, first : first + FRAMES_PER_SLOT * (slots - 1)]
        signal = torch.from_numpy(corpus.frames[span]).to(device).float() / 127.5 - 1
        mean = coder.encode(signal[None])[0].permute(0, 4, 1, 2, 3)  # [1, 16, slots, h, w]
        z.append(wan.normalise_latents(mean, vae)[0].transpose(0, 1))
        still.append(people[head])
        cells = np.zeros((slots, side, side), bool)
        for k, (left, top, right, bottom) in enumerate(corpus.mouth_px[span] / units.PIXELS_PER_LATENT):
            cells[wan.slot_of_frame(k), int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
        mouth.append(torch.from_numpy(cells))
        begins.append(first)
        ends.append(start + int(corpus.clip_frames[clip]))
    return Latents(
        z=torch.stack(z),
        still=torch.stack(still),
        mouth=torch.stack(mouth).to(device),
        begins=torch.tensor(begins, device=device),
        ends=torch.tensor(ends, device=device),
        visemes=torch.from_numpy(corpus.viseme.astype(np.int64)).to(device),
        openness=torch.from_numpy(corpus.openness.astype(np.float32)).to(device),
        idle=torch.from_numpy(generation.idle_columns(corpus.units, corpus.pose)).to(device),
        clip=torch.from_numpy(np.repeat(clips, phases)).to(device),
    )


def chunk_tokens(
    data: Latents,
    rows: Int[Tensor, " batch"],
    slot: Int[Tensor, " batch"],
    ahead: Int[Tensor, " batch"],
    slots: int = SLOTS_PER_CHUNK,
) -> Float[Tensor, "batch tokens features"]:
    """The cross-attention sequences of the chunks that begin at ``slot``, with ``ahead`` frames known after them."""
    place = torch.arange(TOKENS, device=rows.device) - PLAN_BACK_FRAMES
    begins = data.begins[rows, None]
    frames = begins + FRAMES_PER_SLOT * (slot[:, None] - 1) + place
    known = (frames >= begins) & (frames < data.ends[rows, None]) & (place < FRAMES_PER_SLOT * slots + ahead[:, None])
    frames = frames.clamp(0, len(data.visemes) - 1)
    return generation.plan_tokens(data.visemes[frames], data.openness[frames], data.idle[frames], known)


class LinearDraft:
    """Latents drafted from a plan alone: ridge regression of (latents - still ones) on the plan around each slot.

    It stands for the sync kernel's draft while the transformer learns (what a linear head can say about the mouth, the
    head and lids at rest), and it is the baseline that the transformer must beat.
    """

    def __init__(self, data: Latents) -> None:
        self.data = data
        rows, slots = data.z.shape[:2]
        row, slot = (
            grid.flatten() for grid in torch.meshgrid(torch.arange(rows), torch.arange(1, slots), indexing="ij")
        )
        row, slot = row.to(data.z.device), slot.to(data.z.device)
        features = self.features(row, slot).double()  # one-hot columns are nearly dependent
        gram = features.T @ features + RIDGE * torch.eye(features.shape[1], device=features.device).double()
        moved = torch.zeros(features.shape[1], data.still[0].numel(), device=features.device).double()
        for part in torch.arange(len(row), device=row.device).split(512):
            moved += features[part].T @ (data.z[row[part], slot[part]] - data.still[row[part]]).flatten(1).double()
        self.weight = torch.linalg.solve(gram, moved).float()  # [features, 16 h w]

    def features(self, row: Tensor, slot: Tensor, data: Latents | None = None) -> Float[Tensor, "n features"]:
        """Visemes and openness of the frames around slots, and a constant."""
        data = data or self.data
        reach = torch.arange(-DRAFT_BACK_FRAMES, FRAMES_PER_SLOT + DRAFT_AHEAD_FRAMES, device=row.device)
        frames = data.begins[row, None] + FRAMES_PER_SLOT * (slot[:, None] - 1) + reach
        frames = torch.minimum(torch.maximum(frames, data.begins[row, None]), data.ends[row, None] - 1)
        told = [generation.one_hot(data.visemes[frames]), data.openness[frames].unsqueeze(-1)]
        told = torch.cat(told, dim=-1).flatten(1)
        return torch.cat([told, torch.ones_like(told[:, :1])], dim=1)

    def draft(
        self,
        still: Float[Tensor, "batch 16 h w"],
        rows: Tensor,
        slot: Tensor,
        data: Latents | None = None,
        slots: int = SLOTS_PER_CHUNK,
    ) -> Float[Tensor, "batch 16 slots h w"]:
        """Drafts of the chunks that begin at ``slot``, by the plans of ``rows``, on the people of ``still``."""
        pieces = [self.features(rows, slot + k, data) @ self.weight for k in range(slots)]
        return torch.stack([still + piece.view_as(still) for piece in pieces], dim=2)


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corruption:
    """How many chunks a step takes, what is mixed into them, and what their errors count."""

    batch: int = 64
    mouth: float = 6.0  # a latent cell of the mouth counts this many times
    truth_share: float = 0.4  # of noisy latents that start from the truth; of the others half have a wrong plan's draft
    last_noise: float = 0.3  # the most noise on the last slot
    last_dropped: float = 0.1  # share of chunks that see the still slot instead of the last one


@dataclass(frozen=True)
class Options(Corruption):
    """What a piece of training does. Minutes are wall-clock ones, compilation and measuring included."""

    minutes: float = 7.5
    total_minutes: float = 7.5  # of all pieces: the learning rate falls to zero there
    size: Size = field(default_factory=Size)
    learning_rate: float = 1e-3
    ema: float = 0.999
    seed: int = 0
    phases: int = 2
    slots: tuple[int, ...] = CHUNK_SLOTS  # of a batch's chunks, one drawn for each
    measure_every_minutes: float = 1.0
    held_out_clips: int = 16
    compiled: bool = True
    captured: bool = True
    max_steps: int | None = None  # for smoke runs


def chunk_loss(
    predict: Callable[..., Tensor],
    data: Latents,
    linear: LinearDraft,
    options: Corruption,
    slots: int = SLOTS_PER_CHUNK,
) -> Tensor:
    """The loss of a freshly drawn batch of chunks; everything random comes from the device's own generator.

    ``predict``: `generation.predict_clean` without the model.
    """
    batch, device = options.batch, data.z.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, device=device)

    rows, others = torch.randint(len(data.z), (2, batch), device=device)
    places = data.z.shape[1] - slots  # a chunk may begin at slots 1 .. places
    slot, other_slot = 1 + torch.randint(places, (2, batch), device=device)
    span = slot[:, None] + torch.arange(slots, device=device)
    z = data.z[rows[:, None], span].transpose(1, 2).float()  # [batch, 16, slots, h, w]
    still, first = data.still[rows].float(), slot == 1
    last = data.z[rows, slot - 1].float()
    last = last + options.last_noise * uniform(1, 1, 1) ** 2 * torch.randn_like(last)
    alone = first | (uniform() < options.last_dropped)
    last = torch.where(alone[:, None, None, None], still, last)
    ahead = torch.randint(generation.PLAN_AHEAD_FRAMES + 1, (batch,), device=device)
    tokens = chunk_tokens(data, rows, slot, ahead, slots)
    # what the noise is mixed with: the truth, the right plan's draft, a wrong plan's
    wrong = uniform() < 0.5
    whose = torch.where(wrong, others, rows), torch.where(wrong, other_slot, slot)
    draft = linear.draft(still, *whose, slots=slots)
    honest = uniform() < options.truth_share
    start = torch.where(honest[:, None, None, None, None], z, draft)
    t = uniform().clamp(min=0.02)
    t_ = t[:, None, None, None, None]
    noisy = (1 - t_) * start + t_ * torch.randn_like(z)
    clean = predict(noisy, t, tokens, still, last, first)
    error = (clean.float() - z) ** 2
    mouth = 1 + (options.mouth - 1) * data.mouth[rows[:, None], span].float()  # [batch, slots, h, w]
    # the velocity's error is 1 / t times this one; its weight is bounded where t is small
    weight = mouth.unsqueeze(1) / (t_**2 + 0.25)
    return (error * weight).mean() / mouth.mean()


# What is measured: name, steps, noise level, whether it starts from the linear draft.
METHODS = (
    ("1 step from noise", 1, 1.0, False),
    ("2 steps from noise", 2, 1.0, False),
    ("4 steps from noise", 4, 1.0, False),
    ("1 step from the draft", 1, 0.5, True),
    ("2 steps from the draft", 2, 0.5, True),
)


class Trainer:
    """One run: model, average, and encoded clips on the device."""

    def __init__(
        self,
        corpus: FaceCorpus,
        vae: "AutoencoderKLWan",
        options: Options,
        device: torch.device,
        resume: Path | None = None,
        start: Path | None = None,
    ) -> None:
        self.corpus, self.vae, self.options, self.device = corpus, vae, options, device
        self.began = time.perf_counter()
        self.done_minutes, self.steps, self.curve, self.losses = 0.0, 0, [], []
        weights = start and start / "transformer" / tensors.WEIGHTS
        self.first_weights = weights and hashlib.sha256(weights.read_bytes()).hexdigest()
        if resume is None and start is None:
            self.model = new_transformer(options.size, options.seed)
        else:
            self.model = wan.load_transformer(resume or start, dtype=torch.float32)
            self.model.requires_grad_(True)
        if resume is not None:
            earlier = json.loads((resume / "transformer_metrics.json").read_text(encoding="utf-8"))
            self.done_minutes, self.steps = earlier["trained_minutes"], earlier["steps"]
            self.curve, self.losses = earlier["curve"], earlier["losses"]
            self.first_weights = earlier["first_weights"]
        self.model.register_to_config(**{wan.KNOWN_SLOTS: list(options.slots)})
        self.model.to(device).train()
        self._blocks_compiled = False
        torch.manual_seed(options.seed + self.steps)
        self._draws = np.random.default_rng(options.seed + self.steps)
        self.data = encode_clips(corpus, vae, corpus.clips_of("train"), device, options.phases)
        self.held_out = {
            split: encode_clips(corpus, vae, corpus.clips_of(split)[: options.held_out_clips], device)
            for split in ("validation", "test")
        }
        self.linear = LinearDraft(self.data)
        print(f"{len(self.data.z)} rows of {self.data.z.shape[1]} slots encoded, {self.minutes:.2f} min", flush=True)
        self.descent = Descent(
            self.model.parameters(),
            device=device,
            ema=options.ema,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            compiled=options.compiled,
            captured=options.captured,
        )

    @property
    def minutes(self) -> float:
        """Wall-clock minutes so far, all pieces together, encoding included."""
        return self.done_minutes + (time.perf_counter() - self.began) / 60

    def run(self, out: Path) -> None:
        """Spend the budget; a checkpoint at every measurement."""
        options, descent = self.options, self.descent
        self.checkpoint(out)
        descent.prepare(*(partial(self._loss_in_mode, slots=slots) for slots in options.slots))
        ends_at, steps, last_measure = self.done_minutes + options.minutes, 0, self.minutes
        prepared = self.minutes
        while self.minutes < ends_at and steps != options.max_steps:
            rate = options.learning_rate * cosine(self.minutes / options.total_minutes, steps, ramp=500)
            descent.step(rate, int(self._draws.integers(len(options.slots))))
            steps, self.steps = steps + 1, self.steps + 1
            if steps % 20 == 0 or steps == options.max_steps:
                loss = descent.loss()  # waits, so the clock above is honest
                if np.isfinite(loss):
                    self.losses.append({"step": self.steps, "loss": round(loss, 5)})
                if self.minutes - last_measure >= options.measure_every_minutes:
                    self.checkpoint(out)
                    last_measure = self.minutes
        rate = steps / max(1e-9, 60 * (self.minutes - prepared))
        print(f"{steps} steps of {options.batch} chunks, {rate:.1f} a second, {descent.mode}", flush=True)
        self.checkpoint(out)

    def _loss_in_mode(self, compiled: bool, slots: int) -> Tensor:
        if compiled != self._blocks_compiled:  # identical blocks share one compilation
            for block in self.model.blocks:
                block._compiled_call_impl = None
                if compiled:
                    block.compile(dynamic=False)
            self._blocks_compiled = compiled
        return self.loss(slots)

    def loss(self, slots: int = SLOTS_PER_CHUNK) -> Tensor:
        """The loss of a freshly drawn batch of chunks of so many slots; what is random is the device's generator's."""

        def predict(*told: Tensor) -> Tensor:
            cuda = self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda, cache_enabled=False):
                return generation.predict_clean(self.model, *told)

        return chunk_loss(predict, self.data, self.linear, self.options, slots)

    def averaged(self) -> "WanTransformer3DModel":
        """A copy of the model with the averaged weights, in eval mode."""
        known = {wan.KNOWN_SLOTS: list(self.options.slots)}
        model = type(self.model).from_config({k: v for k, v in self.model.config.items() if k not in known})
        model.register_to_config(**known)
        model.to(self.device)
        self.descent.load_average(model.parameters())
        return model.eval().requires_grad_(False)

    def measure(self) -> None:
        """Append held-out errors of the averaged weights to the curve."""
        model = self.averaged()
        row = {"minutes": round(self.minutes, 3), "step": self.steps}
        for split, data in self.held_out.items():
            for slots in self.options.slots:
                row[named(split, slots)] = latent_errors(model, data, self.linear, slots)
        self.curve.append(row)
        validation = row[named("validation", max(self.options.slots))]
        told = ", ".join(f"{name} {validation[name]['mouth']:.3f}" for name in validation)
        print(f"{row['minutes']:6.2f} min, step {self.steps:6d}, mouth error: {told}", flush=True)

    def checkpoint(self, out: Path) -> None:
        """Measure, and write what a later piece needs to go on from here."""
        self.measure()
        self.descent.save_point()
        self.averaged().half().save_pretrained(out / "transformer")
        tensors.write_hashes(out)
        write_text(out / "transformer_metrics.json", json.dumps(self.progress(), indent=1))

    def progress(self) -> dict:
        """Everything of the metrics but the final quality."""
        return {
            "trained_minutes": round(self.minutes, 6),
            "steps": self.steps,
            "parameters": sum(parameter.numel() for parameter in self.descent.parameters),
            "mode": self.descent.mode,
            "options": asdict(self.options),
            "first_weights": self.first_weights,
            "corpus": self.corpus.facts,
            "device": device_facts(self.device),
            "curve": self.curve,
            "losses": self.losses,
        }

    def save(self, out: Path) -> dict:
        """Measure the stored weights in pixels, and write metrics, card and preview."""
        metrics = self.progress()
        model = wan.load_transformer(out, dtype=torch.float32, device=self.device)
        metrics["final"] = {
            named(split, slots): pixel_errors(model, self.vae, self.corpus, data, self.linear, slots)
            for split, data in self.held_out.items()
            for slots in sorted(self.options.slots, reverse=True)
        }
        write_text(out / "transformer_metrics.json", json.dumps(metrics, indent=1))
        write_text(out / "transformer_card.md", model_card(metrics))
        preview(model, self.vae, self.corpus, self.held_out["validation"], self.linear, out / "transformer_preview.png")
        return metrics


# --- measuring --------------------------------------------------------------------------------------------------------


def named(split: str, slots: int) -> str:
    """A split's name in the metrics: its own for chunks of three slots, ``validation_1slot`` and so on for others."""
    return split if slots == SLOTS_PER_CHUNK else f"{split}_{slots}slot"


@torch.no_grad()
def rollout(
    model: "WanTransformer3DModel",
    data: Latents,
    linear: LinearDraft,
    steps: int,
    noise_level: float,
    drafted: bool,
    seed: int = 0,
    slots: int = SLOTS_PER_CHUNK,
) -> Float[Tensor, "rows 16 slots h w"]:
    """All whole chunks of every row, each from the one generated before, as :class:`generation.FaceGenerator` does."""
    rows = torch.arange(len(data.z), device=data.z.device)
    noise = torch.Generator().manual_seed(seed)
    last, chunks = data.still, []
    for number in range((data.z.shape[1] - 1) // slots):
        slot = torch.full_like(rows, 1 + slots * number)
        tokens = chunk_tokens(data, rows, slot, torch.full_like(rows, generation.PLAN_AHEAD_FRAMES), slots)
        start = linear.draft(data.still, rows, slot, data, slots)
        times = generation.step_times(noise_level, steps)
        state = torch.randn(start.shape, generator=noise).to(start.device)
        state = (1 - times[0]) * start + times[0] * state if drafted else state
        for t, t_next in pairwise(times):
            time_ = torch.full((len(rows),), t, device=start.device)
            clean = generation.predict_clean(model, state, time_, tokens, data.still, last, slot == 1)
            state = generation.toward_clean(state, clean, t, t_next)
        chunks.append(state)
        last = state[:, :, -1]
    return torch.cat(chunks, dim=2)


def answers(
    model: "WanTransformer3DModel", data: Latents, linear: LinearDraft, size: int = SLOTS_PER_CHUNK
) -> dict[str, Tensor]:
    """Latents [rows, 16, slots, h, w] of every method and of the baselines that know less."""
    rows = torch.arange(len(data.z), device=data.z.device)
    slots = size * ((data.z.shape[1] - 1) // size)
    starts = range(1, slots + 1, size)
    found = {
        "resting face": data.still.unsqueeze(2).expand(-1, -1, slots, -1, -1),
        "linear draft": torch.cat(
            [linear.draft(data.still, rows, torch.full_like(rows, start), data, size) for start in starts], dim=2
        ),
    }
    for name, steps, noise_level, drafted in METHODS:
        found[name] = rollout(model, data, linear, steps, noise_level, drafted, slots=size)
    return found


def latent_errors(
    model: "WanTransformer3DModel", data: Latents, linear: LinearDraft, size: int = SLOTS_PER_CHUNK
) -> dict[str, dict[str, float]]:
    """Root mean square error of normalised latents per method: over the mouth's cells and over all."""
    found, rows = answers(model, data, linear, size), {}
    for name, latents in found.items():
        slots = latents.shape[2]
        error = (latents - data.z[:, 1 : 1 + slots].transpose(1, 2)).pow(2).mean(dim=1)  # [rows, slots, h, w]
        mouth = data.mouth[:, 1 : 1 + slots]
        rows[name] = {
            "mouth": float(error[mouth].mean().sqrt()) if mouth.any() else 0.0,
            "all": float(error.mean().sqrt()),
        }
    return rows


@torch.no_grad()
def pixel_errors(
    model: "WanTransformer3DModel",
    vae: "AutoencoderKLWan",
    corpus: FaceCorpus,
    data: Latents,
    linear: LinearDraft,
    size: int = SLOTS_PER_CHUNK,
) -> dict[str, dict[str, float]]:
    """PSNR against the renders, whole and in the mouth's box, per method, and of the VAE alone (the ceiling).

    ``border``: change across chunk borders over the change inside chunks, relative to the same ratio of the renders.
    """
    slots, chunk_frames = size * ((data.z.shape[1] - 1) // size), ChunkSize(size).frames
    found = answers(model, data, linear, size) | {"VAE alone": data.z[:, 1 : 1 + slots].transpose(1, 2)}
    table = {name: {"psnr_db": [], "mouth_psnr_db": [], "border": []} for name in found}
    for row in range(len(data.clip)):
        first = int(data.begins[row])
        span = slice(first, first + FRAMES_PER_SLOT * slots)
        original = torch.from_numpy(corpus.frames[span]).to(data.z.device)
        own = pictures.seam_table(corpus.frames[span], chunk_frames)["ratio"].mean()
        for name, latents in found.items():
            decoded = decode(vae, data.z[row, 0], latents[row])
            error = (decoded.float() - original.float()) ** 2
            table[name]["psnr_db"].append(psnr_db(error.mean().item()))
            table[name]["mouth_psnr_db"].append(psnr_db(error_in_boxes(error, corpus.mouth_px[span])))
            ratio = pictures.seam_table(decoded.cpu().numpy(), chunk_frames)["ratio"].mean()
            if own > 0:  # False too for a single chunk, which has no border
                table[name]["border"].append(ratio / own)
    means = {
        name: {key: float(np.mean(values)) if values else None for key, values in row.items()}
        for name, row in table.items()
    }
    return means | {"clips": len(data.clip)}


def decode(
    vae: "AutoencoderKLWan", first: Float[Tensor, "16 h w"], latents: Float[Tensor, "16 slots h w"]
) -> Int[Tensor, "frames height width 3"]:
    """uint8 frames of normalised slots that follow slot 0 (whose own frame is left out)."""
    clip = wan.denormalise_latents(torch.cat([first.unsqueeze(1), latents], dim=1)[None], vae)
    signal = FoldedVae(vae, torch.float32, compiled=False).decode(clip.permute(0, 2, 3, 4, 1))[0, 1:]
    return ((signal + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def preview(
    model: "WanTransformer3DModel",
    vae: "AutoencoderKLWan",
    corpus: FaceCorpus,
    data: Latents,
    linear: LinearDraft,
    path: Path,
) -> None:
    """A sheet of held-out moments: the render, the linear draft, 2 steps from it, and 2 steps from noise."""
    from PIL import Image

    found, columns = answers(model, data, linear), []
    for row in range(min(6, len(data.clip))):
        frame = 6 + 3 * row  # another moment in every column
        first = int(data.begins[row])
        rows = [corpus.frames[first + frame]]
        for name in ("linear draft", "2 steps from the draft", "2 steps from noise"):
            rows.append(decode(vae, data.z[row, 0], found[name][row])[frame].cpu().numpy())
        columns.append(np.concatenate(rows))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(columns, axis=1)).save(temporary)


def model_card(metrics: dict) -> str:
    """The transformer's card in Markdown, every number from the run's metrics."""
    options, corpus, device = metrics["options"], metrics["corpus"], metrics["device"]
    rows, whose = [], {"validation": "known person, new sentences", "test": "new people, new sentences"}
    for key, part in metrics["final"].items():
        split, _, slots = key.partition("_")
        who = f"{whose[split]}, chunks of {slots.removesuffix('slot') or SLOTS_PER_CHUNK}"
        for name, value in part.items():
            if name != "clips":
                border = "" if value["border"] is None else f"{value['border']:.2f}"
                quality = f"{value['psnr_db']:.2f} | {value['mouth_psnr_db']:.2f}"
                rows.append(f"| {who} | {name} | {quality} | {border} | {part['clips']} |")
    size, first = options["size"], metrics["first_weights"]
    begun = f"trained on from earlier weights (sha256 {first[:16]})" if first else "trained from scratch"
    return f"""# wan-mini: the transformer

A `WanTransformer3DModel` with {metrics["parameters"] / 1e6:.1f} M parameters ({size["layers"]} layers,
{size["heads"]} heads of {size["head_dim"]}), {begun} by flow matching on latents of wan-mini's own VAE. It
predicts {" or ".join(map(str, options["slots"]))} slots of a talking face from noisy or drafted ones, the resting face,
the last slot, and a plan of visemes, openness and idle motion per frame. It knows these renders and nothing else; these
are not Wan's weights.

| measured on held-out renders | method | PSNR dB | mouth PSNR dB | jump at borders, of the render's | clips |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Chunks follow one another as in generation, each from the generated one before. "linear draft": ridge regression from
the plan alone, not denoised. "VAE alone": the true latents, decoded; no generator can do better.

Data: {corpus["frames"]} frames of {corpus["heads"]} heads, made by `python -m workbench.train.faces --manner suite`
(seed {corpus["seed"]}, listing's sha256 {corpus["sha256"][:16]}); clips by split: {corpus["clips"]}.

Training: `python -m workbench.train.transformer`, seed {options["seed"]}, {metrics["steps"]} steps of
{options["batch"]} chunks in {metrics["trained_minutes"]:.1f} minutes on {device["device"]} (torch {device["torch"]}).
The weights are an exponential average, stored as fp16; the numbers are theirs.

Licence: Apache-2.0.
"""


def train(
    corpus: FaceCorpus,
    vae: "AutoencoderKLWan",
    options: Options,
    out: Path,
    resume: Path | None = None,
    start: Path | None = None,
) -> dict:
    """Train within the budget and save; returns the metrics that ``out/transformer_metrics.json`` holds."""
    device = vae.post_quant_conv.weight.device
    choose_fast_products()
    trainer = Trainer(corpus, vae, options, device, resume, start)
    trainer.run(out)
    return trainer.save(out)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.transformer", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="made by python -m workbench.train.faces")
    parser.add_argument("--vae", type=Path, required=True, help="folder that holds vae/")
    parser.add_argument("--out", type=Path, required=True)
    begun = parser.add_mutually_exclusive_group()
    begun.add_argument("--resume", type=Path, help="folder of an earlier piece")
    begun.add_argument(
        "--start", type=Path, help="folder of a model whose weights are the first ones, such as data/models/wan_mini"
    )
    parser.add_argument(
        "--slots", type=lambda text: tuple(map(int, text.split(","))), default=CHUNK_SLOTS, help="of chunks [1,2,3]"
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="time of this piece, encoding included")
    parser.add_argument("--total-minutes", type=float, help="of all pieces (default: those done plus this one)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-graph", action="store_true", help="launch every kernel instead of replaying a CUDA graph")
    parser.add_argument("--smoke-steps", type=int, help="a tiny model, this many steps")
    given = parser.parse_args(arguments)
    try:
        corpus = load_corpus(given.data)
        vae = wan.load_vae(given.vae, device="cuda" if torch.cuda.is_available() else "cpu")
        metrics_file = given.resume and given.resume / "transformer_metrics.json"
        done = json.loads(metrics_file.read_text())["trained_minutes"] if metrics_file else 0.0
        options = Options(
            minutes=given.minutes,
            total_minutes=given.total_minutes or done + given.minutes,
            batch=given.batch,
            learning_rate=given.learning_rate,
            seed=given.seed,
            slots=tuple(ChunkSize(slots).slots for slots in given.slots),
            compiled=not given.no_compile,
            captured=not given.no_graph,
        )
        if given.smoke_steps:
            options = smoke_options(options, given.smoke_steps)
        metrics = train(corpus, vae, options, given.out, given.resume, given.start)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(json.dumps(metrics["final"], indent=1))
    return 0


def smoke_options(options: Options, steps: int) -> Options:
    """The same run with a tiny model, tiny batches and this many steps."""
    tiny = Size(heads=2, head_dim=12, layers=1, ffn=32)
    return replace(options, size=tiny, batch=2, phases=1, held_out_clips=1, max_steps=steps)


if __name__ == "__main__":
    sys.exit(main())
