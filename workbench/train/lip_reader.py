"""Trains the lip reader on drawn mouths, and measures it on people it never saw.

    python -m workbench.train.lip_faces --out FACES
    python -m workbench.train.lip_reader --faces FACES --out DIR --minutes 20 [--corpus DIR] [--resume DIR]

``DIR`` receives the weights (fp16, without normalisation layers), ``metrics.json``, the model card, and a checkpoint
to go on from. The pictures are spoilt on the way in (blur, noise, block transforms, exposure), because the reader will
look at what a VAE decodes.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.measures import lip_reader
from specsync_lib.measures.intervals import Metric, bootstrap_by_group
from specsync_lib.measures.lip_reader import (
    INPUT_PX,
    PICTURE_MM,
    PICTURE_PX,
    REGION_PX,
    TARGETS,
    LipNet,
    LipReader,
    fold,
)
from workbench.train import faces as face_corpus
from workbench.train import lip_faces
from workbench.train.lip_faces import KEPT_PX, LipFaces

CHECKPOINT = "checkpoint.safetensors"
JAW_COLUMN = 24  # of jawOpen in mesh.unit_names(), whose package a training machine may lack
TARGET_WEIGHTS = {"gap": 4.0, "jaw": 3.0, "width": 1.5}  # in the loss; 1 for the others


@dataclass(frozen=True)
class Options:
    """What a piece of training does; minutes are wall-clock ones."""

    minutes: float = 20.0
    total_minutes: float = 20.0  # of all pieces: the learning rate falls to zero there
    rows: int = 64
    learning_rate: float = 3e-3
    ema: float = 0.998
    seed: int = 0
    measure_every_minutes: float = 2.0
    max_steps: int | None = None


# --- pictures ---------------------------------------------------------------------------------------------------------


def placed(crops: Tensor, zoom: Float[Tensor, "n 1"], shift: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 side side"]:
    """The network's view of kept crops [n, h, w, 3] uint8, as :func:`lip_reader.mouth_pictures` takes it, but moved.

    zoom: how much larger things appear than they are; shift: by how much they lie further right and down, in shares of
    the picture's side. The border is repeated outwards.
    """
    left, top, side = REGION_PX
    height, width = crops.shape[1:3]
    steps = ((torch.arange(INPUT_PX, device=crops.device) + 0.5) / INPUT_PX - 0.5) * side / zoom  # [n, side] in px
    centre = torch.tensor([left + side / 2 - KEPT_PX[0], top + side / 2 - KEPT_PX[1]], device=crops.device)
    middle = centre - shift * PICTURE_PX
    x, y = (2 * (steps + middle[:, k, None]) / size - 1 for k, size in ((0, width), (1, height)))
    n = len(crops)
    grid = torch.stack([x[:, None].expand(n, INPUT_PX, -1), y[:, :, None].expand(n, -1, INPUT_PX)], dim=-1)
    pictures = crops.permute(0, 3, 1, 2).float() / 255
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def whole_pictures(crops: np.ndarray) -> np.ndarray:
    """Kept crops [n, h, w, 3] uint8 in their place in the picture [n, 256, 256, 3], the border repeated outwards."""
    left, top, right, bottom = KEPT_PX
    return np.pad(crops, ((0, 0), (top, PICTURE_PX - bottom), (left, PICTURE_PX - right), (0, 0)), mode="edge")


def spoil(pictures: Float[Tensor, "n 3 side side"], generator: torch.Generator) -> Tensor:
    """Other exposures and tints; on a share of the rows each blur, lower resolution, coarse block transforms, noise."""
    n, device = len(pictures), pictures.device

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((n, *shape), generator=generator).to(device) * (high - low) + low

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x = (pictures.clamp(1e-4, 1) ** draw(0.75, 1.35, 1, 1, 1)) * draw(0.75, 1.2, 1, 1, 1) * draw(0.9, 1.1, 3, 1, 1)
    for share, spoiling in (
        (0.6, lambda part, some: gaussian_blur(part, draw(0.2, 1.6)[some])),
        (0.1, lambda part, some: half_resolution(part)),
        (0.35, lambda part, some: coarse_blocks(part, draw(0.02, 0.25, 1, 1, 1)[some])),
        (0.6, lambda part, some: part + noise(part.shape) * draw(0, 0.05, 1, 1, 1)[some]),
    ):
        some = torch.nonzero(torch.rand(n, generator=generator) < share)[:, 0].to(device)
        if len(some):
            x = x.index_copy(0, some, spoiling(x[some], some))
    slow = noise((n, 3, 7, 7)) * draw(0, 0.05, 1, 1, 1)
    return (x + F.interpolate(slow, size=x.shape[-2:], mode="bilinear")).clamp(0, 1)


def half_resolution(x: Tensor) -> Tensor:
    """Down to half the size and up again."""
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[-2:], mode="bilinear")


def gaussian_blur(x: Tensor, deviation: Float[Tensor, " n"]) -> Tensor:
    """Each picture under a Gaussian of its own deviation in pixels (up to 1.7)."""
    taps = torch.arange(-4, 5, device=x.device)
    kernel = torch.softmax(-(taps**2) / (2 * deviation[:, None] ** 2), dim=1)  # [n, 9]
    kernel = kernel.repeat_interleave(x.shape[1], dim=0)
    flat = F.pad(x, (4, 4, 4, 4), mode="replicate").flatten(0, 1).unsqueeze(0)  # [1, n x 3, ...]
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))[0].unflatten(0, x.shape[:2])


def coarse_blocks(x: Tensor, step: Tensor) -> Tensor:
    """8 x 8 cosine transform, its coefficients rounded to multiples of ``step``: what codecs and coarse latents do."""
    k = torch.arange(8, device=x.device)
    basis = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / 16) * (2 / 8) ** 0.5
    basis[0] /= 2**0.5
    blocks = x.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # [n, 3, rows, 8, columns, 8]
    coefficients = torch.einsum("ij,ncrjql,kl->ncriqk", basis, blocks, basis)
    step = step[..., None, None] * (1 + 0.5 * (k[:, None, None] + k))  # finer waves are rounded more coarsely
    rounded = (coefficients / step).round() * step
    return torch.einsum("ij,ncriqk,kl->ncrjql", basis, rounded, basis).flatten(-2).flatten(-3, -2)


# --- training ---------------------------------------------------------------------------------------------------------


class Trainer:
    """One piece of training."""

    def __init__(self, faces: LipFaces, options: Options, device: torch.device, resume: Path | None = None) -> None:
        self.faces, self.options, self.device = faces, options, device
        self.generator = torch.Generator().manual_seed(options.seed)
        torch.manual_seed(options.seed)
        net = LipNet(normed=True)
        self.train_rows = np.flatnonzero(faces.split == "train")
        targets = torch.from_numpy(faces.targets)
        net.target_mean.copy_(targets[self.train_rows].mean(dim=0))
        net.target_std.copy_(targets[self.train_rows].std(dim=0) + 1e-6)
        self.done_minutes, self.steps, self.seeds, self.curve, self.losses = 0.0, 0, [], [], []
        if resume:
            self._resume(net, resume)
        self.seeds.append(options.seed)
        self.net = net.to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True)
        self.crops, self.targets = torch.from_numpy(faces.crops).to(device), targets.to(device)
        weights = [TARGET_WEIGHTS.get(name, 1.0) for name in TARGETS]
        self.weights = torch.tensor(weights, device=device) / sum(weights)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=options.learning_rate, weight_decay=0.02)

    def _resume(self, net: LipNet, folder: Path) -> None:
        from specsync_lib.tensors import read_checked

        state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
        self.done_minutes = trained_minutes(folder)
        earlier = json.loads((folder / lip_reader.METRICS).read_text(encoding="utf-8"))
        self.steps, self.seeds = earlier["steps"], earlier["seeds"]["training"]
        self.curve, self.losses = earlier["curve"], earlier["losses"]
        if not (folder / CHECKPOINT).is_file():
            raise InputError(f"{folder / CHECKPOINT}: absent; give the folder of an earlier piece")
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        net.load_state_dict(read_checked([folder / CHECKPOINT], shapes), strict=False)
        self.generator.manual_seed(self.options.seed + self.steps)

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of training so far, all pieces together."""
        return self.done_minutes + (time.perf_counter() - self.began) / 60

    def run(self) -> None:
        """Spend the budget."""
        self.began, steps, last = time.perf_counter(), 0, self.done_minutes
        ends = min(self.options.total_minutes, self.done_minutes + self.options.minutes)
        while self.minutes < ends and steps != self.options.max_steps:
            loss = self.step(steps)
            steps, self.steps = steps + 1, self.steps + 1
            if steps % 20 == 0 or steps == self.options.max_steps:
                self._log(loss.item())
                if self.minutes - last >= self.options.measure_every_minutes:
                    self.measure()
                    last = self.minutes
        self.trained_minutes = self.minutes
        self.measure()

    def step(self, since_start: int) -> Tensor:
        """One step on random rows, freshly placed and spoilt; returns its loss."""
        progress = min(1.0, self.minutes / self.options.total_minutes)
        rate = self.options.learning_rate * min(1.0, (since_start + 1) / 100) * 0.5 * (1 + np.cos(np.pi * progress))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        pictures, targets = self.batch()
        self.net.train()
        with torch.autocast(self.device.type, torch.bfloat16):  # twice as fast, also on a CPU
            read = self.net.standardised(pictures)
        error = read.float() - (targets - self.net.target_mean) / self.net.target_std
        loss = (F.huber_loss(error, torch.zeros_like(error), reduction="none") * self.weights).sum(dim=1).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.net)
        return loss.detach()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random training pictures, mirrored, zoomed, shifted and spoilt, with their targets."""
        rows, g = self.options.rows, self.generator
        chosen = torch.from_numpy(self.train_rows)[torch.randint(len(self.train_rows), (rows,), generator=g)]
        chosen = chosen.to(self.device)
        zoom = torch.exp((torch.rand((rows, 1), generator=g) - 0.5) * 0.2).to(self.device)
        shift = ((torch.rand((rows, 2), generator=g) - 0.5) * 0.08).to(self.device)
        pictures = placed(self.crops[chosen], zoom, shift)
        mirrored = (torch.rand((rows, 1, 1, 1), generator=g) < 0.5).to(self.device)
        pictures = spoil(torch.where(mirrored, pictures.flip(-1), pictures), g)
        targets = self.targets[chosen].clone()
        targets[:, : len(lip_reader.LENGTHS)] *= zoom
        return pictures, targets

    def _log(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise RuntimeError(f"lip_reader: the loss is {loss} at step {self.steps}; lower --learning-rate")
        self.losses.append({"step": self.steps, "loss": round(loss, 5)})

    def folded(self) -> LipNet:
        """The averaged weights as they are stored: without normalisation layers, rounded to fp16."""
        net = LipNet(normed=True)
        net.load_state_dict({k: v.detach().cpu() for k, v in self.average.module.state_dict().items()})
        net = fold(net)
        net.load_state_dict({name: value.half().float() for name, value in net.state_dict().items()})
        return net

    def measure(self) -> None:
        """Append quality on the validation people to the curve."""
        quality = measure(LipReader(self.folded(), self.device), self.faces, "validation", n_resamples=10)
        row = {name: round(float(quality.r2.value[TARGETS.index(name)]), 5) for name in ("gap", "jaw", "width")}
        self.curve.append({"minutes": round(self.minutes, 3), "step": self.steps, **row})
        print(f"{self.minutes:6.2f} min, step {self.steps:6d}: validation R2 {row}", flush=True)

    def save(self, out: Path, extra: dict) -> dict:
        """Write weights, checkpoint, metrics and card; returns the metrics."""
        out.mkdir(parents=True, exist_ok=True)
        folded = self.folded()
        checkpoint = {
            name: value.detach().cpu().contiguous()
            for name, value in self.average.module.state_dict().items()
            if value.is_floating_point()
        }
        stored = {name: value.half().contiguous() for name, value in folded.state_dict().items()}
        for name, tensors in ((lip_reader.WEIGHTS, stored), (CHECKPOINT, checkpoint)):
            with atomic_path(out / name) as temporary:
                save_file(tensors, temporary)
        reader = LipReader(folded, self.device)
        metrics = {
            "label": "measured",
            **report(reader, self.faces),
            **extra,
            "trained_minutes": round(self.trained_minutes, 6),
            "steps": self.steps,
            "parameters": sum(value.numel() for value in folded.parameters()),
            "options": asdict(self.options),
            "seeds": {"training": self.seeds, "faces": self.faces.facts["seed"]},
            "faces": self.faces.facts,
            "curve": self.curve,
            "losses": self.losses,
        }
        write_metrics(out, metrics)
        return metrics


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quality:
    """R2 of each target (a Metric with arrays [13], resampled by person) and its root mean square error [13]."""

    r2: Metric
    rmse: np.ndarray
    frames: int


def r2_of_sums(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Coefficient of determination [..., k] from sums [..., 3, k] of squared error, target and squared target."""
    error, y, yy = np.moveaxis(sums, -2, 0)
    return 1 - error / (yy - y * y / counts[..., None])


def quality_of(read: np.ndarray, targets: np.ndarray, people: np.ndarray, n_resamples: int = 1000) -> Quality:
    """Quality of what was read [n, k] against the targets [n, k]."""
    centred = targets - targets.mean(axis=0)
    columns = np.stack([(read - targets) ** 2, centred, centred**2], axis=1)
    r2 = bootstrap_by_group(columns, people, r2_of_sums, n_resamples, resampling_unit="person")
    return Quality(r2, np.sqrt(((read - targets) ** 2).mean(axis=0)), len(read))


def read_targets(reader: LipReader, pictures: Callable[[slice], np.ndarray], count: int) -> np.ndarray:
    """Everything the network says [count, 13], in the order of ``TARGETS``, of pictures given a slice at a time."""
    rows = []
    for first in range(0, count, lip_reader.BATCH_FRAMES):
        lips = reader.read(pictures(slice(first, first + lip_reader.BATCH_FRAMES)))
        lengths = np.stack([lips.gap_mm, lips.width_mm], axis=1) / PICTURE_MM
        rows.append(np.concatenate([lengths, lips.units], axis=1))
    return np.concatenate(rows)


def measure(
    reader: LipReader,
    faces: LipFaces,
    split: str,
    spoiling: Callable[[np.ndarray], np.ndarray] | None = None,
    n_resamples: int = 1000,
) -> Quality:
    """Quality on a split's people, their pictures [256, 256, 3] uint8 spoilt first if asked."""
    rows = np.flatnonzero(faces.split == split)

    def pictures(part: slice) -> np.ndarray:
        frames = whole_pictures(faces.crops[rows[part]])
        return frames if spoiling is None else np.stack([spoiling(frame) for frame in frames])

    read = read_targets(reader, pictures, len(rows))
    return quality_of(read, faces.targets[rows].astype(np.float64), faces.person[rows], n_resamples)


def _jpeg(frame: np.ndarray, quality: int = 25) -> np.ndarray:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def _blur(frame: np.ndarray, deviation_px: float = 1.7) -> np.ndarray:
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    blurred = gaussian_blur(picture, torch.tensor([deviation_px]))[0].permute(1, 2, 0)
    return blurred.round().to(torch.uint8).numpy()


def _noise(frame: np.ndarray, grey: float = 10.0) -> np.ndarray:
    noise = np.random.default_rng(int(frame.sum())).normal(0, grey, frame.shape)
    return (frame + noise).clip(0, 255).astype(np.uint8)


def _dark(frame: np.ndarray) -> np.ndarray:
    return (frame * 0.6).astype(np.uint8)


def _half_size(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((PICTURE_PX // 2,) * 2, Image.Resampling.BOX))


SPOILINGS = {
    "blur of 1.7 px": _blur,
    "noise of 10 grey levels": _noise,
    "JPEG at quality 25": _jpeg,
    "60 % of the light": _dark,
    "128 px": _half_size,
}


def report(reader: LipReader, faces: LipFaces) -> dict:
    """What the card says about the test people: R2 with intervals, errors, and how spoilt pictures lower R2."""
    quality = measure(reader, faces, "test")
    spoilt = {}
    for what, spoiling in SPOILINGS.items():
        values = measure(reader, faces, "test", spoiling, n_resamples=2).r2.value
        spoilt[what] = {name: round(float(values[TARGETS.index(name)]), 5) for name in ("gap", "jaw", "width")}
    rmse = dict(zip(TARGETS, quality.rmse.tolist(), strict=True))
    return {
        "r2": _with_intervals(TARGETS, quality.r2),
        "rmse": {name: float(f"{value:.4g}") for name, value in rmse.items()},
        "rmse_gap_mm": round(rmse["gap"] * PICTURE_MM, 4),
        "rmse_width_mm": round(rmse["width"] * PICTURE_MM, 4),
        "r2_spoilt": spoilt,
        "people": quality.r2.n,
        "frames": quality.frames,
        "resampling_unit": "person",
    }


def report_speech(reader: LipReader, folder: Path) -> dict:
    """The face corpus' spoken sentences, by all of its people that the reader never saw: R2, lag and lip classes.

    What the sync measures say of a perfect face is what the instrument itself adds.
    """
    from specsync_lib.measures import sync  # needs pandas, which a training machine may lack

    corpus = face_corpus.load_corpus(folder)
    heads = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["heads"]
    unseen = {f"head_{h['index']:03d}" for h in heads if h["identity"] in ("", *face_corpus.TEST_IDENTITIES)}
    head_of_clip = [name.split("/")[0] for name in corpus.names]
    people = np.repeat(head_of_clip, corpus.clip_frames)
    rows = np.flatnonzero(np.isin(people, sorted(unseen)))
    read = read_targets(reader, lambda part: corpus.frames[rows[part]], len(rows))
    truth = np.stack([corpus.lip_gap_mm[rows] / PICTURE_MM, corpus.units[rows, JAW_COLUMN]], axis=1)
    quality = quality_of(
        read[:, [TARGETS.index(name) for name in ("gap", "jaw")]], truth.astype(np.float64), people[rows]
    )
    clips = np.repeat(np.arange(len(corpus.names)), corpus.clip_frames)[rows]
    offset = sync.av_offset(truth[:, 0], read[:, TARGETS.index("gap")], clips)
    classes = sync.viseme_confusion(read[:, len(lip_reader.LENGTHS) :], corpus.viseme[rows], reader.spread, clips)
    return {
        "r2": _with_intervals(("gap", "jaw"), quality.r2),
        "rmse_gap_mm": round(float(quality.rmse[0] * PICTURE_MM), 4),
        "av_offset_ms": [round(value, 2) for value in (offset.value, offset.low, offset.high)],
        "lip_class_accuracy": [
            round(v, 4) for v in (classes.accuracy.value, classes.accuracy.low, classes.accuracy.high)
        ],
        "clips": offset.n,
        "people": quality.r2.n,
        "frames": quality.frames,
        "corpus_sha256": corpus.facts["sha256"],
    }


def _with_intervals(names: tuple[str, ...], metric: Metric) -> dict[str, dict[str, float]]:
    columns = zip(names, metric.value, metric.low, metric.high, strict=True)
    return {
        name: {key: round(float(v), 5) for key, v in zip(("value", "low", "high"), values, strict=True)}
        for name, *values in columns
    }


def _bracketed(numbers: list[float]) -> str:
    value, low, high = numbers
    return f"{value:g} [{low:g}, {high:g}]"


def add_speech(folder: Path, corpus: Path) -> dict:
    """Measure a trained folder's reader on a face corpus, into its metrics and card; returns the metrics."""
    reader = lip_reader.load_lip_reader(folder)
    metrics = json.loads((folder / lip_reader.METRICS).read_text(encoding="utf-8"))
    metrics["speech"] = report_speech(reader, corpus)
    write_metrics(folder, metrics)
    return metrics


def write_metrics(folder: Path, metrics: dict) -> None:
    """``metrics.json`` and the card beside it."""
    for name, text in ((lip_reader.METRICS, json.dumps(metrics, indent=1)), ("README.md", model_card(metrics))):
        write_text(folder / name, text)


def milliseconds_a_frame(reader: LipReader, frames: int = 256) -> float:
    """Time of one processor (or, on a GPU, of the clock) to read one 256 px picture, in batches."""
    clock = time.process_time if reader.device.type == "cpu" else time.perf_counter  # other work must not count
    pictures = np.random.default_rng(0).integers(0, 256, (frames, PICTURE_PX, PICTURE_PX, 3), dtype=np.uint8)
    reader.read(pictures[: lip_reader.BATCH_FRAMES])
    began = clock()
    reader.read(pictures)
    return 1000 * (clock() - began) / frames


def model_card(metrics: dict) -> str:
    """The card in Markdown, every number from the run's metrics."""
    faces, machine = metrics["faces"], metrics["machine"]
    rows = [
        f"| {name} | {row['value']:.4f} | {row['low']:.4f} to {row['high']:.4f} | {metrics['rmse'][name]:.3f} |"
        for name, row in metrics["r2"].items()
    ]
    spoilt = [f"| {what} | {row['gap']:.4f} | {row['jaw']:.4f} |" for what, row in metrics["r2_spoilt"].items()]
    speech = metrics.get("speech")
    spoken = ""
    if speech:
        gap, jaw = (_bracketed(list(speech["r2"][name].values())) for name in ("gap", "jaw"))
        offset, classes = (_bracketed(speech[name]) for name in ("av_offset_ms", "lip_class_accuracy"))
        spoken = f"""
On spoken sentences (`python -m workbench.train.faces`, {speech["people"]} people of it that it never saw,
{speech["frames"]} frames): gap R2 {gap}, error {speech["rmse_gap_mm"]:.2f} mm (root mean square); jaw R2 {jaw}.
By its {speech["clips"]} clips: what is read lags {offset} ms behind truth; the lip class is truth's
in {classes} of the frames (six classes).
"""
    people, thousands, milliseconds = (
        sum(faces["people"].values()),
        metrics["parameters"] / 1e3,
        metrics["ms_per_frame"],
    )
    seeds = ", ".join(map(str, metrics["seeds"]["training"]))
    device = f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}"
    return f"""# The lip reader

A small convolutional network ({thousands:.0f} thousand parameters, fp16) that reads a square face crop: the gap
between the lips, the width of the mouth, the jaw, and the weights of ten units around the lips. It is a measuring
instrument: nothing that is trained to make faces may import it, and a test sees to that.

Measured on {metrics["people"]} people it was not trained on ({metrics["frames"]} frames, half of them mouths beyond
speech); 95 % intervals by person. The gap's error is {metrics["rmse_gap_mm"]:.2f} mm (root mean square), the width's
{metrics["rmse_width_mm"]:.2f} mm; in the table both are shares of the picture's side ({PICTURE_MM:.0f} mm).

| target | R2 | interval | root mean square error |
|---|---|---|---|
{chr(10).join(rows)}
{spoken}
The same people, pictures spoilt:

| pictures | gap R2 | jaw R2 |
|---|---|---|
{chr(10).join(spoilt)}

Data: `python -m workbench.train.lip_faces --people {people} --seed {faces["seed"]}`

| split | people | frames |
|---|---|---|
{chr(10).join(f"| {split} | {faces['people'][split]} | {faces['frames'][split]} |" for split in faces["people"])}

(listing's sha256 {faces["sha256"][:16]}).

Training: `python -m workbench.train.lip_reader`, seeds {seeds} (a piece each), {metrics["steps"]} steps of
{metrics["options"]["rows"]} pictures in {metrics["trained_minutes"]:.1f} minutes ({device}); commit
{metrics["commit"]}. Reading a frame takes {milliseconds:.1f} ms there (processor time on a CPU).

Limits: it knows rendered faces, framed as the suite's "face" camera frames them, turned by at most 0.4 rad. Units that
hardly show (the tongue in a dark mouth, lips pressed in one that is shut anyway) are read worse than the gap; the table
says how much. Lip classes rest on these units: read the confusion beside that of the reference render.

Licence: Apache-2.0.
"""


def train(
    faces: LipFaces,
    options: Options,
    out: Path,
    *,
    device: str = "cpu",
    resume: Path | None = None,
    commit: str | None = None,
) -> dict:
    """Train within the budget and save; returns what ``out/metrics.json`` holds.

    ``commit``: of the code, where this machine has no checkout to ask.
    """
    if commit is None:
        from specsync_lib.provenance import commit as checkout

        commit = checkout()
    trainer = Trainer(faces, options, torch.device(device), resume)
    trainer.run()
    reader = LipReader(trainer.folded(), device)
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"
    extra = {
        "machine": {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__},
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
        "ms_per_frame": round(milliseconds_a_frame(reader), 3),
    }
    return trainer.save(out, extra)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.lip_reader", description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, help="folder made by python -m workbench.train.lip_faces; trains on it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="folder made by python -m workbench.train.faces, to measure on")
    parser.add_argument("--resume", type=Path, help="folder of an earlier piece")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time of this piece")
    parser.add_argument("--total-minutes", type=float, help="of all pieces (default: those done plus this one)")
    parser.add_argument("--learning-rate", type=float, default=Options.learning_rate)
    parser.add_argument("--rows", type=int, default=Options.rows, help="pictures a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--commit", help="of this code, where there is no checkout to ask")
    parser.add_argument("--threads", type=int, help="of the CPU")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        if given.faces is None and given.corpus:
            add_speech(given.out, given.corpus)
            return 0
        if given.faces is None:
            raise InputError("give --faces to train, or --corpus to measure the reader in --out")
        if given.device != "cpu" and not torch.cuda.is_available():
            raise InputError(f"--device {given.device}: no CUDA device here; give --device cpu")
        faces = lip_faces.load(given.faces)
        done = trained_minutes(given.resume) if given.resume else 0.0
        options = Options(
            minutes=given.minutes,
            total_minutes=given.total_minutes or done + given.minutes,
            rows=given.rows,
            learning_rate=given.learning_rate,
            seed=given.seed,
        )
        where = {"device": given.device, "resume": given.resume, "commit": given.commit}
        metrics = train(faces, options, given.out, **where)
        if given.corpus:
            metrics = add_speech(given.out, given.corpus)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(json.dumps({"r2": metrics["r2"], "spoilt": metrics["r2_spoilt"], "speech": metrics.get("speech")}, indent=1))
    return 0


def trained_minutes(folder: Path) -> float:
    """Minutes that an earlier piece trained.

    Raises
    ------
    InputError: its metrics are not readable.
    """
    try:
        return float(json.loads((folder / lip_reader.METRICS).read_text(encoding="utf-8"))["trained_minutes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / lip_reader.METRICS}: not readable ({error}); give a trained folder") from error


if __name__ == "__main__":
    sys.exit(main())
