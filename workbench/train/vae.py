"""Trains wan-mini's VAE on the face corpus within a wall-clock budget, and measures it on held-out faces.

    python -m workbench.train.vae --data CORPUS --out DIR --minutes 8 [--resume DIR]

The budget runs from the first step to the last; a later piece resumes from the averaged weights of an earlier one
(safetensors, each file under 16 MiB). ``DIR`` receives ``vae/`` in diffusers' layout, ``metrics.json`` (the quality
curve against training time), the model card and ``preview.png``.

Three things make a causal video VAE of this size train in minutes:

- Slices of kernels that look into the past start at zero, so a model trained on single images is already a frame-wise
  video model, and the clip phases only add what the past tells.
- Clips are coded in one pass (:func:`wan.encode_clip`), and each causal 3-D convolution is folded into a
  2-D one over frames stacked along the channels, in channels-last bf16: :class:`FoldedVae`.
- A training step is captured in a CUDA graph; normalisation, activation and stacking are compiled into one kernel.

Source
------
Wan Team, 2025, section 4.1; Wang et al., "Image quality assessment: from error visibility to structural similarity",
2004.
"""

import argparse
import json
import sys
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.vae import FoldedVae
from specsync_lib.face.wan_mini import new_vae
from specsync_lib.files import atomic_path, write_text
from specsync_lib.measures.pictures import error_in_boxes, gaussian_window, psnr_db, ssim_map
from specsync_lib.provenance import device_facts
from specsync_lib.tensors import write_hashes
from workbench.train.descent import Descent, choose_fast_products, cosine
from workbench.train.faces import FaceCorpus, load_corpora

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


# --- the loss ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossWeights:
    """How the parts of the loss are weighed; pixel errors are in the VAE's units (2.0 = full range)."""

    mouth: float = 4.0  # a pixel of the mouth counts this many times
    gradient: float = 0.5  # L1 of spatial differences
    motion: float = 0.5  # L1 of differences between frames
    square: float = 0.0  # mean squared error, which PSNR counts: pulls at the few large errors that L1 leaves
    ssim: float = 0.1
    kl: float = 2e-5


def reconstruction_loss(
    output: Float[Tensor, "clips frames h w 3"],
    target: Tensor,
    weight: Float[Tensor, "clips frames h w"],
    w: LossWeights,
) -> Tensor:
    """Weighted L1 (and square) of pixels, L1 of their spatial and temporal differences, and 1 - SSIM."""
    error = output - target
    weight = weight.unsqueeze(-1)
    loss = ((error.abs() + w.square * error**2) * weight).mean() / weight.mean()
    for axis in (2, 3):
        loss = loss + w.gradient * (error.diff(dim=axis).abs() * weight.narrow(axis, 1, weight.shape[axis] - 1)).mean()
    if error.shape[1] > 1:
        loss = loss + w.motion * (error.diff(dim=1).abs() * weight[:, 1:]).mean()
    images = [signal.flatten(0, 1).permute(0, 3, 1, 2) for signal in (output, target)]
    return loss + w.ssim * (1 - ssim_map(*images, window=_box_window).mean())


def _box_window(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.avg_pool2d(x, (7, 1), stride=1), (1, 7), stride=1)  # 14 reads a place, not 49


def kl_per_element(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean KL divergence of the posterior from the unit normal, per latent element, in nats."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A stretch of training: its share of the time, and the shape of its batches."""

    share: float
    frames: int
    crop_px: int
    clips: int


# Images first, then motion on crops, then whole faces (the attention in the middle must see them) and a longer past.
SCHEDULE = (Phase(0.15, 1, 128, 64), Phase(0.55, 9, 128, 12), Phase(0.30, 17, 256, 2))
# A decoder alone: latents stay, so a transformer can learn on them meanwhile. Whole clips: a decoder that only saw 9
# frames loses 3 to 4 dB from the tenth on. On a CPU one small crop; on CUDA first crops, for many steps, then whole
# faces, as they are decoded: the attention in the middle must see them.
DECODER_SCHEDULE = (Phase(1.0, 33, 96, 1),)
DECODER_SCHEDULE_CUDA = (Phase(0.5, 33, 128, 6), Phase(0.5, 33, 256, 2))
SMOKE_SCHEDULE = (Phase(0.3, 1, 32, 2), Phase(0.4, 5, 32, 2), Phase(0.3, 9, 64, 1))


def parse_phase(text: str) -> Phase:
    """``SHARE:FRAMES:PX:CLIPS`` as the command line takes it.

    Raises
    ------
    argparse.ArgumentTypeError: it is none, or no VAE codes such a batch.
    """
    try:
        share, *sizes = text.split(":")
        frames, crop_px, clips = map(int, sizes)
        found = Phase(float(share), frames, crop_px, clips)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not SHARE:FRAMES:PX:CLIPS") from error
    if not (found.share > 0 and frames > 0 and frames % 4 == 1 and crop_px > 0 and crop_px % 8 == 0 and clips > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give a share above 0, 4k + 1 frames, a multiple of 8 px, clips")
    return found


@dataclass
class Picks:
    """Where a batch's crops lie: frames [clips, frames], top, left and mirrored [clips], colour gain [clips, 3]."""

    frames: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor
    gain: Tensor

    def tensors(self) -> list[Tensor]:
        return list(vars(self).values())

    def to(self, device: torch.device) -> "Picks":
        return Picks(*(tensor.to(device, non_blocking=True) for tensor in self.tensors()))

    def copy_(self, other: "Picks") -> None:
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)


def draw_picks(corpus: FaceCorpus, clips: np.ndarray, phase: Phase, rng: np.random.Generator) -> Picks:
    """Random stretches of the given clips, some played backwards; half of the crops are centred near the mouth.

    Mirroring, reversal and colour gains multiply the looks that the corpus holds; none changes what a face can show.
    """
    size, crop, n = corpus.size_px, phase.crop_px, phase.clips
    chosen = rng.choice(clips, n)
    start = corpus.clip_start[chosen] + (rng.random(n) * (corpus.clip_frames[chosen] - phase.frames + 1)).astype(
        np.int64
    )
    steps = np.arange(phase.frames)
    order = np.where(rng.random((n, 1)) < 0.5, steps, steps[::-1])
    mouth = corpus.mouth_px[start].reshape(n, 2, 2).mean(axis=1)  # centre (x, y)
    corner = rng.integers(0, size - crop + 1, (n, 2))
    near = mouth - crop / 2 + rng.uniform(-0.25, 0.25, (n, 2)) * crop
    corner = np.where(rng.random((n, 1)) < 0.5, near.round().clip(0, size - crop), corner)
    gain = rng.uniform(0.9, 1.1, (n, 1)) * rng.uniform(0.93, 1.07, (n, 3))
    return Picks(
        torch.from_numpy(start[:, None] + order),
        torch.from_numpy(corner[:, 1].astype(np.int64)),
        torch.from_numpy(corner[:, 0].astype(np.int64)),
        torch.from_numpy(rng.random(n) < 0.5),
        torch.from_numpy(gain.astype(np.float32)),
    )


def cut(frames: Tensor, mouth_px: Tensor, picks: Picks, crop_px: int, w: LossWeights) -> tuple[Tensor, Tensor]:
    """The crops as signals [clips, frames, crop, crop, 3] in [-1, 1], and the weight of every pixel.

    frames: uint8 [n, size, size, 3]; mouth_px: [n, 4] as left, top, right, bottom.
    """
    span = torch.arange(crop_px, device=frames.device)
    rows = picks.top[:, None] + span  # [clips, crop]
    columns = picks.left[:, None] + torch.where(picks.mirrored[:, None], span.flip(0), span)
    pixels = frames[picks.frames[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]
    signal = (pixels.float() * picks.gain[:, None, None, None]).clamp(0, 255) / 127.5 - 1
    box = mouth_px[picks.frames]  # [clips, frames, 4]
    inside_x = (columns[:, None] >= box[..., 0:1]) & (columns[:, None] < box[..., 2:3])
    inside_y = (rows[:, None] >= box[..., 1:2]) & (rows[:, None] < box[..., 3:4])
    inside = inside_y.unsqueeze(-1) & inside_x.unsqueeze(-2)
    return signal, 1 + (w.mouth - 1) * inside.float()


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Quality:
    """Means over clips of held-out reconstructions; PSNR from each clip's own mean squared error, over 8-bit frames."""

    psnr_db: float
    mouth_psnr_db: float
    ssim: float
    flicker_grey: float
    clips: int
    per_clip: list[dict] = field(default_factory=list)


def quality(vae: "AutoencoderKLWan", corpus: FaceCorpus, clips: np.ndarray, frames: int, dtype: torch.dtype) -> Quality:
    """Encode (posterior mean) and decode the first ``frames`` frames of clips and compare with the 8-bit originals."""
    coder, device = FoldedVae(vae, dtype, compiled=False), next(vae.parameters()).device
    rows = []
    for clip in clips:
        first = corpus.clip_start[clip]
        original = torch.from_numpy(corpus.frames[first : first + frames]).to(device)
        boxes = corpus.mouth_px[first : first + frames]
        rows.append({"clip": corpus.names[clip]} | clip_quality(reconstruct(coder, original), original, boxes))
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "clip"}
    return Quality(**means, clips=len(rows), per_clip=rows)


def clip_quality(decoded: Tensor, original: Tensor, boxes_px: np.ndarray) -> dict[str, float]:
    """Quality of a clip's frames [n, h, w, 3] uint8, over the whole picture and in the mouth's boxes [n, 4].

    Flicker: mean absolute change, in grey levels, between successive decoded frames where the original does not move by
    more than one level.
    """
    error = (decoded.float() - original.float()) ** 2
    still = original.int().diff(dim=0).abs().amax(dim=-1) <= 1
    change = decoded.float().diff(dim=0).abs().mean(dim=-1)
    images = [x.permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (decoded, original)]
    return {
        "psnr_db": psnr_db(error.mean().item()),
        "mouth_psnr_db": psnr_db(error_in_boxes(error, boxes_px)),
        "ssim": ssim_map(*images, window=gaussian_window).mean().item(),
        "flicker_grey": change[still].mean().item() if still.any() else 0.0,
    }


@torch.no_grad()
def reconstruct(coder: FoldedVae, frames: Tensor) -> Tensor:
    """uint8 frames [n, h, w, 3] through the VAE and back to uint8."""
    mean, _ = coder.encode(frames.unsqueeze(0).float() / 127.5 - 1)
    return ((coder.decode(mean)[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def latent_statistics(
    vae: "AutoencoderKLWan", corpus: FaceCorpus, clips: np.ndarray, frames: int
) -> dict[str, list[float]]:
    """Mean and standard deviation of the posterior means per channel, as Wan's config stores them."""
    coder, device = FoldedVae(vae, torch.float32, compiled=False), next(vae.parameters()).device
    total, squares, count = torch.zeros(16, device=device).double(), torch.zeros(16, device=device).double(), 0
    with torch.no_grad():
        for clip in clips:
            first = corpus.clip_start[clip]
            signal = torch.from_numpy(corpus.frames[first : first + frames]).to(device).float() / 127.5 - 1
            mean = coder.encode(signal.unsqueeze(0))[0].flatten(0, -2).double()
            total, squares, count = total + mean.sum(0), squares + (mean**2).sum(0), count + len(mean)
    mean = total / count
    std = (squares / count - mean**2).clamp(min=1e-12).sqrt()
    return {"latents_mean": mean.tolist(), "latents_std": std.tolist()}


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What a piece of training does. Minutes are wall-clock ones, compilation and measuring included."""

    minutes: float = 8.0
    total_minutes: float = 8.0  # of all pieces: the learning rate falls to zero there
    from_minutes: float = 0.0  # where this schedule began: minutes before it belong to another one
    base_dim: int = 16  # 2.2 CPU s decode 9 frames of 256 px; 24: 4.6 s and twice the bytes
    learning_rate: float = 8e-4
    ema: float = 0.999
    seed: int = 0
    measure_every_minutes: float = 1.0
    held_out_clips: int = 8
    held_out_frames: int = 33
    schedule: tuple[Phase, ...] = SCHEDULE
    loss: LossWeights = field(default_factory=LossWeights)
    compiled: bool = True  # on CUDA: one kernel before each convolution
    captured: bool = True  # on CUDA: the step as one CUDA graph
    decoder_only: bool = False  # the encoder and its latent statistics stay as resumed
    max_steps: int | None = None  # per phase, for smoke runs


class Trainer:
    """One run: model, average, optimiser, the corpus on the device; measured on ``held_out`` (default: ``corpus``)."""

    def __init__(
        self,
        corpus: FaceCorpus,
        options: Options,
        device: torch.device,
        resume: Path | None = None,
        held_out: FaceCorpus | None = None,
    ) -> None:
        self.corpus, self.options, self.device = corpus, options, device
        self.held_out = held_out or corpus
        self.rng = np.random.default_rng(options.seed)
        self.began = time.perf_counter()
        self.done_minutes, self.steps, self.curve, self.losses, self.rates = 0.0, 0, [], [], []
        if resume is None:
            self.vae = new_vae(options.base_dim, options.seed)
        else:
            self.vae = wan.load_vae(resume).requires_grad_(True).train()
            earlier = json.loads((resume / "metrics.json").read_text(encoding="utf-8"))
            self.done_minutes, self.steps = earlier["trained_minutes"], earlier["steps"]
            self.curve, self.losses, self.rates = earlier["curve"], earlier["losses"], earlier["rates"]
            self.rates = [{"device": earlier["device"]["device"]} | row for row in self.rates]
            self.rng = np.random.default_rng([options.seed, self.steps])
        torch.manual_seed(options.seed + self.steps)
        self.cuda = device.type == "cuda"
        self.vae.to(device)
        if options.decoder_only:
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.coders = {
            compiled: FoldedVae(self.vae, self.dtype, compiled) for compiled in {False, options.compiled and self.cuda}
        }
        self.descent = Descent(
            (parameter for parameter in self.vae.parameters() if parameter.requires_grad),
            device=device,
            ema=options.ema,
            compiled=options.compiled,
            captured=options.captured,
        )
        self.frames = torch.from_numpy(corpus.frames).to(device)
        self.mouth_px = torch.from_numpy(corpus.mouth_px).to(device)
        self.train_clips = corpus.clips_of("train")

    def run(self, out: Path) -> None:
        """Spend the budget: the phases of the schedule by overall progress; a checkpoint at every measurement."""
        self.began = time.perf_counter()
        self.checkpoint(out)
        shares = np.array([phase.share for phase in self.options.schedule])
        first, span = self.options.from_minutes, self.options.total_minutes - self.options.from_minutes
        for phase, ends_at in zip(self.options.schedule, (shares.cumsum() / shares.sum()).tolist(), strict=True):
            ends_at_minutes = min(first + ends_at * span, self.done_minutes + self.options.minutes)
            if self.minutes < ends_at_minutes:
                self._run_phase(phase, ends_at_minutes, out)
                self.checkpoint(out)

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of training so far, all pieces together."""
        return self.done_minutes + (time.perf_counter() - self.began) / 60

    @property
    def progress_share(self) -> float:
        """How much of this schedule is done, 0 to 1."""
        first = self.options.from_minutes
        return (self.minutes - first) / (self.options.total_minutes - first)

    def _run_phase(self, phase: Phase, ends_at_minutes: float, out: Path) -> None:
        """Train on one batch shape until ``ends_at_minutes``."""
        picks, descent = self._draw(phase), self.descent
        descent.prepare(lambda compiled: self._loss(phase, picks, self.coders[compiled]))
        prepared, steps, last_measure = self.minutes, 0, self.minutes
        while self.minutes < ends_at_minutes and steps != self.options.max_steps:
            picks.copy_(self._draw(phase))
            descent.step(self.options.learning_rate * cosine(self.progress_share, steps))
            steps, self.steps = steps + 1, self.steps + 1
            if steps % 20 == 0 or steps == self.options.max_steps:
                row = {"step": self.steps, "loss": round(descent.loss(), 5)}  # waits, so the clock above is honest
                if np.isfinite(row["loss"]):
                    self.losses.append(row | {"frames": phase.frames, "crop_px": phase.crop_px})
                if self.minutes - last_measure >= self.options.measure_every_minutes:
                    self.checkpoint(out)
                    last_measure = self.minutes
        rate = steps / max(1e-9, 60 * (self.minutes - prepared))
        print(
            f"{phase.clips} clips of {phase.frames} frames, {phase.crop_px} px: {steps} steps, {rate:.1f} a second, "
            f"{descent.mode}",
            flush=True,
        )
        self.rates.append(
            {
                **asdict(phase),
                "steps": steps,
                "steps_per_s": round(rate, 2),
                "mode": descent.mode,
                "device": device_facts(self.device)["device"],
            }
        )

    def _draw(self, phase: Phase) -> Picks:
        return draw_picks(self.corpus, self.train_clips, phase, self.rng).to(self.device)

    def _loss(self, phase: Phase, picks: Picks, coder: FoldedVae) -> Tensor:
        w = self.options.loss
        signal, weight = cut(self.frames, self.mouth_px, picks, phase.crop_px, w)
        with torch.set_grad_enabled(not self.options.decoder_only):
            mean, log_variance = coder.encode(signal)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return reconstruction_loss(coder.decode(latents), signal, weight, w) + w.kl * kl_per_element(mean, log_variance)

    def averaged(self) -> "AutoencoderKLWan":
        """A copy of the model with the averaged weights, in eval mode."""
        model = deepcopy(self.vae)
        self.descent.load_average(parameter for parameter in model.parameters() if parameter.requires_grad)
        return model.eval().requires_grad_(False)

    def checkpoint(self, out: Path) -> None:
        """Measure, and write what a later piece needs to go on from here: an interrupted run loses a minute at most."""
        self.measure()
        self.descent.save_point()
        self.save_weights(out)
        write_text(out / "metrics.json", json.dumps(self.progress(), indent=1))

    def progress(self) -> dict:
        """Everything of metrics.json but the final quality."""
        return {
            "trained_minutes": round(self.minutes, 6),
            "steps": self.steps,
            "parameters": sum(parameter.numel() for parameter in self.vae.parameters()),
            "options": asdict(self.options),
            "corpus": self.corpus.facts,
            "held_out_corpus": self.held_out.facts,
            "device": device_facts(self.device),
            "curve": self.curve,
            "losses": self.losses,
            "rates": self.rates,
        }

    def measure(self) -> None:
        """Append held-out quality of the averaged weights to the curve: new utterances, and new faces with them."""
        model, options = self.averaged(), self.options
        row = {"minutes": round(self.minutes, 3), "step": self.steps}
        for split in ("validation", "test"):
            clips = self.held_out.clips_of(split)[: options.held_out_clips]
            result = asdict(quality(model, self.held_out, clips, options.held_out_frames, self.dtype))
            row[split] = {key: value for key, value in result.items() if key != "per_clip"}
        self.curve.append(row)
        test = row["test"]
        print(
            f"{row['minutes']:6.2f} min, step {self.steps:6d}: new faces PSNR {test['psnr_db']:.2f} dB, mouth "
            f"{test['mouth_psnr_db']:.2f} dB, SSIM {test['ssim']:.4f}, flicker {test['flicker_grey']:.3f}",
            flush=True,
        )

    def save_weights(self, out: Path) -> None:
        """Write the averaged weights (fp16) with their latent statistics, in diffusers' layout."""
        model = self.averaged()
        if not self.options.decoder_only:
            some = self.train_clips[:: max(1, len(self.train_clips) // 32)]
            model.register_to_config(**latent_statistics(model, self.corpus, some, self.options.held_out_frames))
        model.half().save_pretrained(out / "vae")
        write_hashes(out)

    def save(self, out: Path) -> dict:
        """Write the metrics of the saved weights, and a preview of what they make of held-out faces."""
        metrics, held_out = self.progress(), self.held_out
        self.save_weights(out)
        stored = wan.load_vae(out, device=self.device)
        metrics["final"] = {
            split: asdict(
                quality(stored, held_out, held_out.clips_of(split), self.options.held_out_frames, torch.float32)
            )
            for split in ("validation", "test")
        }
        write_text(out / "metrics.json", json.dumps(metrics, indent=1))
        write_text(out / "README.md", model_card(metrics))
        self.preview(stored, out / "preview.png")
        return metrics

    def preview(self, model: "AutoencoderKLWan", path: Path) -> None:
        """A sheet of held-out frames: originals, reconstructions, and eight times their difference."""
        from PIL import Image

        coder, columns = FoldedVae(model, torch.float32, compiled=False), []
        for clip in self.held_out.clips_of("test")[:6]:
            first = self.held_out.clip_start[clip]
            frames = torch.from_numpy(self.held_out.frames[first : first + self.options.held_out_frames])
            frames = frames.to(self.device)
            pair = [x[-1].cpu().numpy().astype(int) for x in (frames, reconstruct(coder, frames))]
            columns.append(np.concatenate([*pair, (128 + 8 * (pair[1] - pair[0])).clip(0, 255)]))
        with atomic_path(path) as temporary:
            Image.fromarray(np.concatenate(columns, axis=1).astype(np.uint8)).save(temporary)


def model_card(metrics: dict) -> str:
    """The VAE's card in Markdown, every number from the run's metrics."""
    options, corpus, measured, rows = metrics["options"], metrics["corpus"], metrics["held_out_corpus"], []
    for split, who in (("test", "new people, new sentences"), ("validation", "known person, new sentences")):
        part = metrics["final"][split]
        rows.append(
            f"| {who} | {part['psnr_db']:.2f} | {part['mouth_psnr_db']:.2f} | {part['ssim']:.4f} "
            f"| {part['flicker_grey']:.3f} | {part['clips']} |"
        )
    batches = "{steps} steps of {clips} x {frames} frames at {crop_px} px ({device})"
    phases = "; ".join(batches.format(**row) for row in metrics["rates"])
    device = metrics["device"]
    return f"""# wan-mini: the VAE

An `AutoencoderKLWan` in Wan 2.1's latent geometry (16 channels, 8x8 in space, 4x in time, causal) with base_dim
{options["base_dim"]} and {metrics["parameters"] / 1e6:.1f} M parameters, trained from scratch on renders of heads.
It knows these faces and nothing else. These are not Wan's weights, and its latents are not Wan's latents.

| measured on held-out renders | PSNR dB | mouth PSNR dB | SSIM | static flicker, grey levels | clips |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Data: {corpus["frames"]} frames of {corpus["heads"]} heads at 256 px, made by `python -m workbench.train.faces` (seed
{corpus["seed"]}, listing's sha256 {corpus["sha256"][:16]}); clips by split: {corpus["clips"]}.
Measured on the held-out clips of {measured["heads"]} heads (listing's sha256 {measured["sha256"][:16]}).

Training: `python -m workbench.train.vae`, seed {options["seed"]}, {metrics["trained_minutes"]:.1f} minutes
(torch {device["torch"]}): {phases}. Loss: mouth-weighted L1, L1 of spatial and temporal
differences, SSIM, a small KL term. The weights are an exponential average, stored as fp16; the numbers are theirs.

Licence: Apache-2.0.
"""


def train(
    corpus: FaceCorpus, options: Options, out: Path, resume: Path | None = None, held_out: FaceCorpus | None = None
) -> dict:
    """Train within the budget and save; returns the metrics that ``out/metrics.json`` holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choose_fast_products()
    torch._dynamo.config.recompile_limit = 64  # one kernel per level and phase
    trainer = Trainer(corpus, options, device, resume, held_out)
    trainer.run(out)
    return trainer.save(out)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.vae", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="made by python -m workbench.train.faces")
    parser.add_argument("--held-out", type=Path, nargs="+", help="measure on these instead (their test and validation)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="folder of an earlier piece")
    parser.add_argument("--minutes", type=float, default=8.0, help="training time of this piece")
    parser.add_argument("--total-minutes", type=float, help="of all pieces (default: those done plus this one)")
    parser.add_argument("--from-minutes", type=float, default=0.0, help="where this schedule began, in minutes")
    parser.add_argument("--decoder-only", action="store_true", help="resume, and leave the latents as they are")
    parser.add_argument("--base-dim", type=int, default=Options.base_dim)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument(
        "--phases",
        type=parse_phase,
        nargs="+",
        metavar="SHARE:FRAMES:PX:CLIPS",
        help="batches, instead of the usual ones",
    )
    parser.add_argument("--ssim-weight", type=float, default=LossWeights.ssim, help="of 1 - SSIM in the loss")
    parser.add_argument("--square-weight", type=float, default=LossWeights.square, help="of the squared error")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure-every-minutes", type=float, default=1.0)
    parser.add_argument("--held-out-clips", type=int, default=Options.held_out_clips, help="of each measurement")
    parser.add_argument("--no-compile", action="store_true", help="leave the kernels before convolutions unfused")
    parser.add_argument("--no-graph", action="store_true", help="launch every kernel instead of replaying a CUDA graph")
    parser.add_argument("--smoke-steps", type=int, help="tiny batches, this many steps a phase")
    given = parser.parse_args(arguments)
    try:
        if given.decoder_only and not given.resume:
            raise InputError("--decoder-only: there is no encoder to keep; give --resume DIR")
        corpus = load_corpora(given.data)
        done = json.loads((given.resume / "metrics.json").read_text())["trained_minutes"] if given.resume else 0.0
        held_out = load_corpora(given.held_out) if given.held_out else None
        total_minutes = given.total_minutes or done + given.minutes
        if given.from_minutes >= total_minutes:
            raise InputError(f"--from-minutes {given.from_minutes:g}: the schedule ends at {total_minutes:g}")
        decoder_schedule = DECODER_SCHEDULE_CUDA if torch.cuda.is_available() else DECODER_SCHEDULE
        usual = SMOKE_SCHEDULE if given.smoke_steps else decoder_schedule if given.decoder_only else SCHEDULE
        options = Options(
            minutes=given.minutes,
            total_minutes=total_minutes,
            from_minutes=given.from_minutes,
            base_dim=given.base_dim,
            learning_rate=given.learning_rate,
            seed=given.seed,
            measure_every_minutes=given.measure_every_minutes,
            held_out_clips=given.held_out_clips,
            compiled=not given.no_compile,
            captured=not given.no_graph,
            schedule=tuple(given.phases or usual),
            loss=LossWeights(ssim=given.ssim_weight, square=given.square_weight),
            decoder_only=given.decoder_only,
            max_steps=given.smoke_steps,
        )
        metrics = train(corpus, options, given.out, given.resume, held_out)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    final = {split: {k: v for k, v in part.items() if k != "per_clip"} for split, part in metrics["final"].items()}
    print(json.dumps(final, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
