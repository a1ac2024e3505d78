"""Trains wan-mini's small decoders on the face corpus: from the VAE's latents to the renders themselves.

    python -m workbench.train.decoder --data CORPUS [CORPUS ...] --vae DIR --out DIR --minutes 4 [--resume DIR]

Several sizes learn side by side in one process and share its time; the first one named is the one that the suite uses,
the others are the curve of size against quality. ``DIR`` receives a ``NAME.safetensors`` a size, ``metrics.json`` and
the card; a later piece resumes from the averaged weights of an earlier one. Each measurement is of held-out people,
beside the VAE's own decoder on the same latents.

What is learnt is the render: L1 of pixels with the mouth weighted, of their differences in space and time (a face that
stands still shall not flicker), SSIM and a squared error. Clips are encoded once, as they are, mirrored, backwards and
both, each with a colour gain of its own; latents carry the noise of their posterior, so that a decoder does not read
more from them than a generator writes. Frame 0 of a clip is the picture at rest that the decoder is told, and no part
of the loss. Every clip runs from its start, so that memories are what they are in use.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.decoders.networks import Portrait, Size, Told
from specsync_lib.face.decoders.rows import load_network, save_network
from specsync_lib.face.vae import FoldedVae
from specsync_lib.files import atomic_path, write_text
from specsync_lib.provenance import device_facts
from specsync_lib.units import FRAMES_PER_SLOT
from workbench.train.descent import Descent, choose_fast_products, cosine
from workbench.train.faces import FaceCorpus, load_corpora
from workbench.train.vae import LossWeights, Picks, clip_quality, cut, reconstruction_loss

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

SIZES = {
    "large": Size(slot_width=128, slot_blocks=2, frame_width=64, frame_blocks=2),
    "medium": Size(slot_width=128, slot_blocks=2, frame_width=48, frame_blocks=2),
    "small": Size(slot_width=96, slot_blocks=2, frame_width=32, frame_blocks=2),
    "plain": Size(slot_width=128, slot_blocks=2, frame_width=64, frame_blocks=2, pictured=False),
    "toy": Size(slot_width=32, slot_blocks=1, frame_width=32, frame_blocks=1),
}
WAYS = ((False, False), (True, False), (False, True), (True, True))  # mirrored, backwards
STATISTICS = ("latents_mean", "latents_std")
STEPS_AT_ONCE = 25
LOSS = LossWeights(mouth=6.0, gradient=0.5, motion=0.5, square=6.0, ssim=0.3)


@dataclass(frozen=True)
class Options:
    """What a piece of training does. Minutes are wall-clock ones, encoding and measuring included."""

    minutes: float = 4.0
    total_minutes: float = 4.0  # of all pieces: the learning rate falls to zero there
    sizes: tuple[str, ...] = ("large", "small", "plain")
    shares: tuple[float, ...] = (0.6, 0.2, 0.2)  # of the time
    clips: int = 4  # of a batch
    learning_rate: float = 1e-3
    ema: float = 0.999
    seed: int = 0
    measure_every_minutes: float = 1.0
    held_out_clips: int = 8
    ways: int = 4  # of WAYS, in which every clip is learnt from
    loss: LossWeights = field(default_factory=lambda: LOSS)
    compiled: bool = True  # on CUDA: the loss as few kernels
    captured: bool = True  # on CUDA: the step as one CUDA graph
    final: bool = True  # measure every held-out clip at the end; not before a later piece
    max_steps: int | None = None  # per size, for smoke runs


# --- latents to learn from --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lessons:
    """Encoded clips on the device. A row is a clip in one of the :data:`WAYS`.

    Attributes
    ----------
    mean, std : Tensor [rows, slots, 16, h, w] float16
        Of the posterior, normalised.
    order : Tensor [rows, frames] int64
        The corpus' frames in the row's order.
    mirrored : Tensor [rows] bool
    gain : Tensor [rows, 3]
    """

    mean: Tensor
    std: Tensor
    order: Int[Tensor, "rows frames"]
    mirrored: Tensor
    gain: Float[Tensor, "rows 3"]


@torch.no_grad()
def encode_clips(
    corpus: FaceCorpus,
    frames: UInt8[Tensor, "n h w 3"],
    vae: "AutoencoderKLWan",
    clips: np.ndarray,
    ways: tuple[tuple[bool, bool], ...] = WAYS,
    rng: np.random.Generator | None = None,
) -> Lessons:
    """Latents of clips in every way; ``rng`` draws colour gains, None leaves colours as they are."""
    device, length = frames.device, int(corpus.clip_frames.min())
    coder = FoldedVae(vae, torch.bfloat16 if device.type == "cuda" else torch.float32, compiled=False)
    mean_of, std_of = (torch.tensor(getattr(vae.config, name), device=device) for name in STATISTICS)
    rows: list[tuple] = []
    for clip in clips:
        for mirrored, backwards in ways:
            order = corpus.clip_start[clip] + np.arange(length)[:: -1 if backwards else 1]
            gain = np.ones(3) if rng is None else rng.uniform(0.9, 1.1) * rng.uniform(0.93, 1.07, 3)
            rows.append((torch.tensor(order.copy()), torch.tensor(mirrored), torch.tensor(gain, dtype=torch.float32)))
    order, flags, gains = (torch.stack(column).to(device) for column in zip(*rows, strict=True))
    mouths = torch.zeros(len(frames), 4, device=device, dtype=torch.long)
    parts = []
    for some in torch.arange(len(rows), device=device).split(4):
        picks = _picks(order[some], flags[some], gains[some])
        signal, _ = cut(frames, mouths, picks, corpus.size_px, LossWeights())
        mean, log_variance = coder.encode(signal)  # [clips, slots, h, w, 16]
        parts.append(
            tuple(
                value.permute(0, 1, 4, 2, 3).half()
                for value in ((mean - mean_of) / std_of, (0.5 * log_variance).exp() / std_of)
            )
        )
    mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
    return Lessons(mean, std, order, flags, gains)


def _picks(order: Tensor, mirrored: Tensor, gain: Tensor) -> Picks:
    corner = torch.zeros(len(order), dtype=torch.long, device=order.device)
    return Picks(order, corner, corner, mirrored, gain)


# --- training ---------------------------------------------------------------------------------------------------------


class Learner:
    """One size: its network, its average, its share of the time."""

    def __init__(self, name: str, share: float, network: Portrait, options: Options, device: torch.device) -> None:
        self.name, self.share, self.network = name, share, network.to(device).requires_grad_(True).train()
        wan.channels_innermost(self.network)
        self.descent = Descent(
            self.network.parameters(),
            device=device,
            ema=options.ema,
            compiled=options.compiled,
            captured=options.captured,
        )
        self.seconds, self.steps, self.piece_steps = 0.0, 0, 0

    def averaged(self) -> Portrait:
        """A copy with the averaged weights, for measuring and saving."""
        model = Portrait(self.network.size).to(next(self.network.parameters()).device)
        wan.channels_innermost(model)
        self.descent.load_average(model.parameters())
        return model.eval().requires_grad_(False)


class Trainer:
    """One run: the corpus and its latents on the device, a learner a size."""

    def __init__(
        self,
        corpus: FaceCorpus,
        vae: "AutoencoderKLWan",
        options: Options,
        device: torch.device,
        resume: Path | None = None,
        held_out: FaceCorpus | None = None,
    ) -> None:
        self.began = time.perf_counter()
        self.corpus, self.vae, self.options, self.device = corpus, vae, options, device
        self.held_out = held_out or corpus
        self.done_minutes, self.curve, self.rates, steps = 0.0, [], [], {}
        if resume is not None:
            earlier = json.loads((resume / "metrics.json").read_text(encoding="utf-8"))
            self.done_minutes, self.curve, self.rates = (earlier[k] for k in ("trained_minutes", "curve", "rates"))
            steps = {name: row["steps"] for name, row in earlier["sizes"].items()}
        self.rng = np.random.default_rng([options.seed, sum(steps.values())])
        torch.manual_seed(options.seed + sum(steps.values()))
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.learners = []
        for name, share in zip(options.sizes, options.shares, strict=True):
            known = resume / f"{name}.safetensors" if resume else None
            network = load_network(known, vae) if known and known.is_file() else Portrait(SIZES[name])
            self.learners.append(Learner(name, share, network, options, device))
            self.learners[-1].steps = steps.get(name, 0)
        self.frames = torch.from_numpy(corpus.frames).to(device)
        self.mouth_px = torch.from_numpy(corpus.mouth_px).to(device)
        self.lessons = encode_clips(corpus, self.frames, vae, corpus.clips_of("train"), WAYS[: options.ways], self.rng)
        self._latents: dict[int, Tensor] = {}
        self._loss_of = {False: reconstruction_loss}
        if device.type == "cuda" and options.compiled:
            self._loss_of[True] = torch.compile(reconstruction_loss, dynamic=False)

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of training so far, all pieces together."""
        return self.done_minutes + (time.perf_counter() - self.began) / 60

    def run(self, out: Path) -> None:
        """Spend the budget: the learner that is furthest behind its share goes on; checkpoints on the way."""
        rows = torch.zeros(self.options.clips, dtype=torch.long, device=self.device)
        for learner in self.learners:
            learner.descent.prepare(lambda compiled, learner=learner: self._loss(learner, rows, compiled))
        ends_at = min(self.done_minutes + self.options.minutes, self.options.total_minutes)
        self.checkpoint(out)
        prepared = last_measure = self.minutes
        while self.minutes < ends_at:
            waiting = [learner for learner in self.learners if self._steps_now(learner)]
            if not waiting:
                break
            learner, began = min(waiting, key=lambda one: one.seconds / one.share), time.perf_counter()
            for _ in range(self._steps_now(learner)):
                rows.copy_(torch.from_numpy(self.rng.integers(0, len(self.lessons.order), self.options.clips)))
                progress = self.minutes / self.options.total_minutes
                learner.descent.step(self.options.learning_rate * cosine(progress, learner.piece_steps))
                learner.piece_steps, learner.steps = learner.piece_steps + 1, learner.steps + 1
            learner.descent.loss()  # waits, so the clock is honest
            learner.seconds += time.perf_counter() - began
            if self.minutes - last_measure >= self.options.measure_every_minutes:
                self.checkpoint(out)
                last_measure = self.minutes
        for learner in self.learners:
            rate = round(learner.piece_steps / max(1e-9, learner.seconds), 2)
            row = {"size": learner.name, "steps": learner.piece_steps, "steps_per_s": rate}
            row |= {"clips": self.options.clips, "mode": learner.descent.mode, "corpus_frames": len(self.corpus.frames)}
            self.rates.append(row | device_facts(self.device))
            print(f"{row} after {prepared - self.done_minutes:.2f} minutes of preparation", flush=True)

    def _steps_now(self, learner: Learner) -> int:
        """How many steps a learner takes before the clock is read again."""
        limit = self.options.max_steps
        return STEPS_AT_ONCE if limit is None else min(STEPS_AT_ONCE, limit - learner.piece_steps)

    def _loss(self, learner: Learner, rows: Tensor, compiled: bool) -> Tensor:
        lessons, w = self.lessons, self.options.loss
        picks = _picks(lessons.order[rows], lessons.mirrored[rows], lessons.gain[rows])
        signal, weight = cut(self.frames, self.mouth_px, picks, self.corpus.size_px, w)
        mean, std = lessons.mean[rows].float(), lessons.std[rows].float()
        output = decode_clips(learner.network, mean + std * torch.randn_like(mean), signal[:, 0], self.dtype)
        return self._loss_of[compiled](output, signal[:, 1:], weight[:, 1:], w)

    def checkpoint(self, out: Path) -> None:
        """Measure, and write what a later piece needs to go on from here."""
        row: dict = {"minutes": round(self.minutes, 3)}
        for learner in self.learners:
            model = learner.averaged()
            row[learner.name] = {"steps": learner.steps} | self.quality(model, self.options.held_out_clips)
            learner.descent.save_point()
            save_network(out / f"{learner.name}.safetensors", model, vae_sha256(self.vae))
        self.curve.append(row)
        for learner in self.learners:
            test = row[learner.name]["test"]
            print(
                f"{row['minutes']:6.2f} min {learner.name:6} step {learner.steps:6d}: new people PSNR "
                f"{test['psnr_db']:.2f} dB, mouth {test['mouth_psnr_db']:.2f} dB, SSIM {test['ssim']:.4f}, flicker "
                f"{test['flicker_grey']:.3f}",
                flush=True,
            )
        write_text(out / "metrics.json", json.dumps(self.progress(), indent=1))

    def progress(self) -> dict:
        """Everything of metrics.json but the final quality."""
        sizes = {
            learner.name: {
                "steps": learner.steps,
                "parameters": sum(parameter.numel() for parameter in learner.network.parameters()),
                **asdict(learner.network.size),
            }
            for learner in self.learners
        }
        return {
            "trained_minutes": round(self.minutes, 6),
            "sizes": sizes,
            "in_use": self.learners[0].name,
            "options": asdict(self.options),
            "corpus": self.corpus.facts,
            "held_out_corpus": self.held_out.facts,
            "latent_space": vae_sha256(self.vae),
            "device": device_facts(self.device),
            "curve": self.curve,
            "rates": self.rates,
        }

    def quality(self, model: Portrait | None, clips: int | None, dtype: torch.dtype | None = None) -> dict:
        """Means over held-out clips by split; ``model`` None: the VAE's own decoder. ``clips`` None: all, with rows."""
        found = {}
        for split in ("validation", "test"):
            rows = [self._clip(model, clip, dtype) for clip in self.held_out.clips_of(split)[:clips]]
            found[split] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "clip"}
            found[split] |= {"clips": len(rows)} | ({} if clips else {"per_clip": rows})
        return found

    def _clip(self, model: Portrait | None, clip: int, dtype: torch.dtype | None) -> dict:
        original, decoded = self.decoded(model, clip, dtype)
        first = self.held_out.clip_start[clip]
        boxes = self.held_out.mouth_px[first + 1 : first + 1 + len(decoded)]
        row = {"clip": self.held_out.names[clip]} | clip_quality(decoded, original[1:], boxes)
        return row | {"border_ratio": border_ratio(decoded) / border_ratio(original[1:])}

    @torch.no_grad()
    def decoded(self, model: Portrait | None, clip: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """A held-out clip's frames, and those after the first as a decoder (None: the VAE's own) shows them; uint8."""
        first, length = self.held_out.clip_start[clip], int(self.held_out.clip_frames.min())
        original = torch.from_numpy(self.held_out.frames[first : first + length]).to(self.device)
        signal = original[None].float() / 127.5 - 1
        coder = FoldedVae(self.vae, torch.float32, compiled=False)
        if clip not in self._latents:  # every measurement decodes the same ones
            self._latents[clip] = coder.encode(signal)[0]
        mean = self._latents[clip]
        if model is None:
            output = coder.decode(mean)[:, 1:]
        else:
            of, by = (torch.tensor(getattr(self.vae.config, name), device=self.device) for name in STATISTICS)
            output = decode_clips(model, ((mean - of) / by).permute(0, 1, 4, 2, 3), signal[:, 0], dtype or self.dtype)
        return original, ((output[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def save(self, out: Path) -> dict:
        """Write the weights with their final numbers on every held-out clip, read back from their files."""
        metrics = self.progress()
        metrics["final"] = {"wan": self.quality(None, None)}
        for learner in self.learners:
            path = out / f"{learner.name}.safetensors"
            save_network(path, learner.averaged(), vae_sha256(self.vae))
            stored = load_network(path, self.vae).to(self.device)
            metrics["final"][learner.name] = self.quality(stored, None, torch.float32)
        write_text(out / "metrics.json", json.dumps(metrics, indent=1))
        write_text(out / "README.md", model_card(metrics))
        self.preview(out / "preview.png")
        return metrics

    def preview(self, path: Path) -> None:
        """New people, a column each: the render, the VAE's decoder, the small ones; then their mouths, enlarged."""
        from PIL import Image

        columns, models = [], [None, *(learner.averaged() for learner in self.learners)]
        for clip in self.held_out.clips_of("test")[:4]:
            first = self.held_out.clip_start[clip]
            length = int(self.held_out.clip_frames.min())
            widest = 1 + int((self.held_out.lip_gap_mm[first + 1 : first + length]).argmax())  # the frame to look at
            pairs = [self.decoded(model, clip) for model in models]
            shown = [pairs[0][0][widest], *(decoded[widest - 1] for _, decoded in pairs)]
            left, top, right, bottom = (int(value) for value in self.held_out.mouth_px[first + widest])
            size = (self.held_out.size_px, self.held_out.size_px // 2)
            faces = [picture.cpu().numpy() for picture in shown]
            mouths = [
                np.asarray(Image.fromarray(face[top:bottom, left:right]).resize(size, Image.Resampling.LANCZOS))
                for face in faces
            ]
            columns.append(np.concatenate([*faces, *mouths]))
        with atomic_path(path) as temporary:
            Image.fromarray(np.concatenate(columns, axis=1)).save(temporary)


def decode_clips(
    network: Portrait, latents: Float[Tensor, "clips slots 16 h w"], rest: Tensor, dtype: torch.dtype
) -> Float[Tensor, "clips frames height width 3"]:
    """Frames after the first of whole clips, not clamped; rest: pictures [clips, height, width, 3] in [-1, 1]."""
    clips, slots = latents.shape[:2]
    told = Told(latents[:, 0], rest.permute(0, 3, 1, 2))
    blank = tuple(memory.to(dtype) for memory in network.blank(told.latents))
    on = dtype is torch.bfloat16
    # no cache of cast weights: in a captured step it would hold those of the capture
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=on, cache_enabled=False):
        signal, _ = network(latents.transpose(0, 1).flatten(0, 1), blank, told)
    return signal.float().unflatten(0, (FRAMES_PER_SLOT * slots, clips)).transpose(0, 1)[:, FRAMES_PER_SLOT:]


def border_ratio(frames: UInt8[Tensor, "n h w 3"]) -> float:
    """How much more a picture changes from slot to slot than inside the slots; above truth's: borders show."""
    change = frames.float().diff(dim=0).abs().mean(dim=(1, 2, 3)).cpu().numpy()
    border = np.arange(1, len(frames)) % FRAMES_PER_SLOT == 0
    return float(change[border].mean() / max(1e-6, change[~border].mean()))


def model_card(metrics: dict) -> str:
    """The decoder's card in Markdown, every number from the run's metrics."""
    corpus, measured, names = metrics["corpus"], metrics["held_out_corpus"], list(metrics["sizes"])
    titles = {"wan": "the VAE's own decoder", "plain": "the first size without the picture at rest"}
    rows = []
    for split, who in (("test", "new people, new sentences"), ("validation", "known person, new sentences")):
        for name in ("wan", *names):
            part = metrics["final"][name][split]
            millions = "" if name == "wan" else f"{metrics['sizes'][name]['parameters'] / 1e6:.2f} M"
            cells = [who, titles.get(name, name), millions, f"{part['psnr_db']:.2f}", f"{part['mouth_psnr_db']:.2f}"]
            cells += [f"{part['ssim']:.4f}", f"{part['flicker_grey']:.3f}", f"{part['border_ratio']:.3f}"]
            rows.append(f"| {' | '.join([*cells, str(part['clips'])])} |")
    steps = ", ".join(f"{metrics['sizes'][name]['steps']} of {name}" for name in names)
    options, device = metrics["options"], metrics["device"]
    return f"""# wan-mini's small decoder

A network of 2-D convolutions ({metrics["sizes"][names[0]]["parameters"] / 1e6:.2f} M parameters, fp16) that decodes
wan-mini's latents slot by slot: each block sees its own past frame, and the picture of the person at rest, which slot 0
stands for, is moved to where the latents say (`specsync_lib/face/decoders/networks.py`). It knows renders of heads and
nothing else, and reads only the latents of the VAE in `data/models/wan_mini`.

Measured on held-out renders, frame 0 (the picture at rest) left out, the same latents for all. Flicker: static, in grey
levels. Borders: change from slot to slot over change inside the slots, over truth's own (1 = nothing shows).

| held-out renders | decoder | parameters | PSNR dB | mouth PSNR dB | SSIM | flicker | borders | clips |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Data: {corpus["frames"]} frames of {corpus["heads"]} heads at 256 px, made by `python -m workbench.train.faces`
(listing's sha256 {corpus["sha256"][:16]}); clips by split: {corpus["clips"]}. Measured on the held-out clips of
{measured["heads"]} heads (listing's sha256 {measured["sha256"][:16]}).

Training: `python -m workbench.train.decoder`, seed {options["seed"]}, {metrics["trained_minutes"]:.1f} minutes on
{device["device"]} (torch {device["torch"]}): {steps} steps of {options["clips"]} clips of 32 frames.
All sizes learnt side by side. Loss: mouth-weighted L1 and squared error, L1 of spatial and temporal
differences, SSIM. The weights are an exponential average.

Licence: Apache-2.0.
"""


def train(
    corpus: FaceCorpus,
    vae: "AutoencoderKLWan",
    options: Options,
    out: Path,
    resume: Path | None = None,
    held_out: FaceCorpus | None = None,
) -> dict:
    """Train within the budget and save; returns the metrics that ``out/metrics.json`` holds."""
    device = vae.quant_conv.weight.device
    choose_fast_products()
    trainer = Trainer(corpus, vae, options, device, resume, held_out)
    trainer.run(out)
    if options.final:
        return trainer.save(out)
    trainer.checkpoint(out)
    return trainer.progress()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.decoder", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="made by python -m workbench.train.faces")
    parser.add_argument("--held-out", type=Path, nargs="+", help="measure on these instead (their test and validation)")
    parser.add_argument("--vae", default="wan-mini", help="whose latents are decoded")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="folder of an earlier piece")
    parser.add_argument("--minutes", type=float, default=Options.minutes, help="training time of this piece")
    parser.add_argument("--total-minutes", type=float, help="of all pieces (default: those done plus this one)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(Options.sizes), help="the first is in use")
    parser.add_argument("--shares", type=float, nargs="+", help="of the time, one a size")
    parser.add_argument("--clips", type=int, default=Options.clips, help="of a batch")
    parser.add_argument("--learning-rate", type=float, default=Options.learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure-every-minutes", type=float, default=1.0)
    parser.add_argument("--held-out-clips", type=int, default=Options.held_out_clips, help="of each measurement")
    parser.add_argument("--no-compile", action="store_true", help="leave the loss unfused")
    parser.add_argument("--no-graph", action="store_true", help="launch every kernel instead of replaying a CUDA graph")
    parser.add_argument("--no-final", action="store_true", help="a later piece follows: leave out the last measurement")
    parser.add_argument("--smoke-steps", type=int, help="this many steps a size")
    given = parser.parse_args(arguments)
    try:
        shares = given.shares or ([1.0] if len(given.sizes) == 1 else list(Options.shares))
        if len(shares) != len(given.sizes) or min(shares) <= 0:
            raise InputError(f"--shares {shares}: give one above 0 for each of the {len(given.sizes)} sizes")
        if given.resume and not (given.resume / "metrics.json").is_file():
            raise InputError(f"{given.resume}: holds no metrics.json of an earlier piece")
        done = json.loads((given.resume / "metrics.json").read_text())["trained_minutes"] if given.resume else 0.0
        corpus = load_corpora(given.data)
        held_out = load_corpora(given.held_out) if given.held_out else None
        vae = wan.load_vae(given.vae, device="cuda" if torch.cuda.is_available() else "cpu")
        options = Options(
            minutes=given.minutes,
            total_minutes=given.total_minutes or done + given.minutes,
            sizes=tuple(given.sizes),
            shares=tuple(shares),
            clips=given.clips,
            learning_rate=given.learning_rate,
            seed=given.seed,
            measure_every_minutes=given.measure_every_minutes,
            held_out_clips=given.held_out_clips,
            compiled=not given.no_compile,
            captured=not given.no_graph,
            final=not given.no_final,
            max_steps=given.smoke_steps,
        )
        metrics = train(corpus, vae, options, given.out, given.resume, held_out)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    for name, part in metrics.get("final", {}).items():
        print(name, {key: round(value, 4) for key, value in part["test"].items() if key != "per_clip"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
