"""Training the draft: distil the teacher into one tanh layer, on voices and rooms made on the fly.

``python -m workbench.train.draft VOICES --out DIR`` (voices: ``workbench.train.speech``) fits two families at
once on the same batches: *main*, which hears every source, and *unseen*, whose probe and drafts never hear the
English corpus' speaker and which all of her speech can therefore test. Each has drafts of one and of two hidden layers.

A batch: speech in a drawn voice → the teacher's probabilities and the truth where words are known; the same speech in a
drawn room → log-mel → normalisation → windows → the drafts.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm
from whisper.audio import mel_filters

from kernels.project_latents.reference import ProjectionWeights, gather_windows
from specsync_lib import units
from specsync_lib.draft import plan
from specsync_lib.draft import probe as teacher
from specsync_lib.draft.probe import Probe
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.measures.bounds import fit_temperature
from specsync_lib.speech import log_mel
from specsync_lib.visemes import OPENNESS_KERNEL, VISEME_INDEX, VISEME_OPENNESS
from workbench.train import augment
from workbench.train.descent import cosine_to_zero
from workbench.train.probe import fit_probe
from workbench.train.voices import ESPEAK_VOICES, FLITE_VOICES, TEST_SPEAKER_SOURCES, UNKNOWN, Voices

# How often a batch row comes from a source.
SOURCE_SHARES = {
    "speech-en": 0.40, "speech-es": 0.06, "speech-fr": 0.08, "speech-it": 0.08, "speech-ru": 0.08, "piper": 0.12,
    **dict.fromkeys(FLITE_VOICES, 0.03), **dict.fromkeys(ESPEAK_VOICES, 0.005),
}  # fmt: skip
EMA_DECAY = 0.999
TRIAL_STEPS = 50  # on which the speed of training is measured
FEATURE_TARGETS = 64  # the encoder's features enter a draft's loss through this many fixed random directions


@dataclass(frozen=True)
class Settings:
    """What a fit hangs on. Times are of the augmented speech."""

    steps: int = 9000
    probe_steps: int = 500
    rows: int = 192
    crop_seconds: float = 5.0
    position_share: float = 0.34  # of the 100 positions a second that enter a step
    hidden: int = 1024
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    dropout: float = 0.15
    label_smoothing: float = 0.05
    truth_share: float = 0.5  # of the loss where truth is known; the rest is the teacher's
    openness_share: float = 0.5
    feature_share: float = 0.1
    voice_chance: float = 0.85  # of another voice; half of it for the test speaker, whom the main fit must know best
    channel_chance: float = 0.4  # of each of equaliser, room, noise and level; half of it for the test speaker
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows of speech: for the teacher as spoken, for the drafts as recorded. Positions: one each 10 ms."""

    clean: Float[Tensor, "rows n"]
    mel: Float[Tensor, "rows positions 80"]  # normalised, of the recorded version; 0 after the end
    labels: Int[Tensor, "rows positions"]  # viseme, or UNKNOWN
    inside: Bool[Tensor, "rows positions"]
    foreign: Bool[Tensor, " rows"]  # not the test speaker


class Batches:
    """Draws batches from the training split of the voices, on a device, from one generator."""

    def __init__(self, voices: Voices, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.generator = Generator(device).manual_seed(settings.seed)
        self.rng = np.random.default_rng(settings.seed)
        self.samples = torch.from_numpy(voices.samples).to(device)
        self.labels = torch.from_numpy(voices.labels).to(device)
        self.table = pd.DataFrame(voices.table).query("split == 'train'").reset_index(drop=True)
        share = self.table["length"] / self.table.groupby("source")["length"].transform("sum")
        weights = share * self.table["source"].map(SOURCE_SHARES)
        self.chances = (weights / weights.sum()).to_numpy()

    def draw(self) -> Batch:
        """One batch."""
        options, device = self.settings, self.device
        picked = self.table.iloc[self.rng.choice(len(self.table), options.rows, p=self.chances)]
        length = round(options.crop_seconds * units.SAMPLE_RATE_HZ)
        source_length = round(length * augment.SPEED_RATIO[1])
        # A crop begins at the beginning of its utterance or anywhere on the labels' grid, as long as a second is left.
        room = np.maximum(0, picked["length"] - units.SAMPLE_RATE_HZ) // units.HOP_SAMPLES
        hops = np.floor(room * self.rng.random(len(picked)) * (self.rng.random(len(picked)) < 0.4)).astype(int)

        def column(values: Sequence) -> Tensor:
            return torch.from_numpy(np.array(values)).to(device)

        first, last = column(picked["start"] + hops * units.HOP_SAMPLES), column(picked["start"] + picked["length"])
        index = first[:, None] + torch.arange(source_length, device=device)
        inside = index < last[:, None]
        source = torch.where(inside, self.samples[index.clamp(max=len(self.samples) - 1)] / 32768.0, 0)
        foreign = column(~picked["source"].isin(TEST_SPEAKER_SOURCES))
        chance = torch.where(foreign, 1.0, 0.5)
        clean, ratio = augment.voice(source, length, options.voice_chance * chance, self.generator)
        recorded = augment.channel(clean, options.channel_chance * chance, self.generator)
        mel = normalise_rows(log_mel_rows(recorded))  # [rows, positions, 80]
        position = torch.arange(mel.shape[1], device=device)
        inside = (position + 1) * units.HOP_SAMPLES <= (last - first)[:, None] / ratio[:, None]
        # A frame's centre lies up to 2/3 of a hop behind its window's centre row: a third on average.
        hop = ((position + 1 / 3) * ratio[:, None]).long() + column(hops)[:, None]
        label_index = (column(picked["label_start"])[:, None] + hop).clamp(max=len(self.labels) - 1)
        labels = torch.where(inside, self.labels[label_index].long(), UNKNOWN)
        return Batch(clean, mel * inside[..., None], labels, inside, foreign)


def log_mel_rows(samples: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n//160 80"]:
    """``features.log_mel`` of every row, in float32 on any device."""
    window = torch.hann_window(units.STFT_SAMPLES, device=samples.device)
    spectrum = torch.stft(samples, units.STFT_SAMPLES, units.HOP_SAMPLES, window=window, return_complex=True)
    power = mel_filters(samples.device, units.MEL_BANDS) @ spectrum[..., :-1].abs().square()
    floor = log_mel.REFERENCE_MAXIMUM - log_mel.DYNAMIC_RANGE
    return (power.clamp(min=log_mel.POWER_FLOOR).log10().clamp(min=floor).transpose(1, 2) + 4) / 4


def normalise_rows(mel: Float[Tensor, "rows positions 80"]) -> Float[Tensor, "rows positions 80"]:
    """``draft.normalise`` of every row at once: the recurrence as one triangular product."""
    position = torch.arange(mel.shape[1], device=mel.device)
    age = position[:, None] - position
    decay = torch.where(age >= 0, plan.FORGETTING_FACTOR ** age.clamp(min=0), 0.0)  # [positions, positions]
    weight = torch.exp(plan.LEVEL_WEIGHT * (mel.mean(dim=2, keepdim=True) - plan.PRIOR_LEVEL))
    prior = plan.PRIOR_WEIGHT * plan.FORGETTING_FACTOR ** (position + 1)[:, None]
    prior_mean = torch.from_numpy(plan.PRIOR_MEAN).to(mel)
    sums = decay @ (weight * mel) + prior * prior_mean
    return (mel - sums / (decay @ weight + prior)) / plan.SPREAD


def window_rows(mel: Float[Tensor, "rows positions 80"]) -> Float[Tensor, "rows positions 18 80"]:
    """The window around every position; a view, nothing is copied."""
    ahead = units.WINDOW_MEL_FRAMES - 1 - units.WINDOW_BACK_MEL_FRAMES
    padded = F.pad(mel, (0, 0, units.WINDOW_BACK_MEL_FRAMES, ahead))
    return padded.unfold(1, units.WINDOW_MEL_FRAMES, 1).transpose(2, 3)


class Draft(nn.Module):
    """The kernel's network while it learns; ``layers`` 2 puts a second tanh layer before the heads, for comparison."""

    def __init__(self, bands: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        band = torch.arange(units.MEL_BANDS) * bands // units.MEL_BANDS
        pool = F.one_hot(band, bands) * bands / units.MEL_BANDS  # the mean of neighbouring bands, to begin with
        self.band_pool = nn.Parameter(pool, requires_grad=bands < units.MEL_BANDS)  # [80, bands]
        sizes = [units.WINDOW_MEL_FRAMES * bands, *[hidden] * layers]
        self.hidden = nn.ModuleList(nn.Linear(*size) for size in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(hidden, len(units.VISEMES) + 1 + FEATURE_TARGETS)

    def forward(self, windows: Float[Tensor, "n 18 80"]) -> tuple[Tensor, Tensor, Tensor]:
        """Viseme logits [n, 15], openness logit [n], feature estimates [n, FEATURE_TARGETS]."""
        x = (windows @ self.band_pool).flatten(1)
        for layer in self.hidden:
            x = self.dropout(torch.tanh(layer(x)))
        visemes, openness, estimates = self.heads(x).split([len(units.VISEMES), 1, FEATURE_TARGETS], dim=1)
        return visemes, openness[:, 0], estimates

    def weights(self, temperature: float) -> ProjectionWeights:
        """The kernel's weights of a one-layer draft."""
        (layer,) = self.hidden
        head, bias = self.heads.weight.T, self.heads.bias
        count = len(units.VISEMES)
        parts = {
            "band_pool": self.band_pool, "w1": layer.weight.T, "b1": layer.bias, "w_viseme": head[:, :count],
            "b_viseme": bias[:count], "temperature": torch.tensor(temperature), "w_open": head[:, count : count + 1],
            "b_open": bias[count : count + 1],
        }  # fmt: skip
        return ProjectionWeights(**{name: part.detach().float().cpu().contiguous() for name, part in parts.items()})


@dataclass(frozen=True)
class Variant:
    """One draft to train: its family decides what it hears and which probe teaches it."""

    family: str  # "main" or "unseen"
    bands: int = 40
    layers: int = 1
    feature_share: float | None = None  # None: as in the settings
    truth_share: float | None = None  # likewise; 1: the teacher counts only where no truth is known

    def adapt(self, settings: Settings) -> Settings:
        """The settings with this variant's own values."""
        own = {"feature_share": self.feature_share, "truth_share": self.truth_share}
        return replace(settings, **{name: value for name, value in own.items() if value is not None})


VARIANTS = {
    "main": Variant("main"),
    "main_80_bands": Variant("main", bands=80),
    "main_2_layers": Variant("main", layers=2),
    "main_truth_first": Variant("main", truth_share=1.0, feature_share=0.0),
    "unseen": Variant("unseen"),
    "unseen_80_bands": Variant("unseen", bands=80),
    "unseen_2_layers": Variant("unseen", layers=2),
    "unseen_no_features": Variant("unseen", feature_share=0.0),
}


@dataclass
class Trainee:
    """A variant with its optimiser and the running average of its weights, which is what counts in the end."""

    variant: Variant
    model: Draft
    average: Draft
    optimiser: torch.optim.Optimizer

    @classmethod
    def new(cls, variant: Variant, settings: Settings, device: torch.device) -> "Trainee":
        """Same seed, same start."""
        torch.manual_seed(settings.seed)
        model, average = (Draft(variant.bands, settings.hidden, variant.layers, settings.dropout) for _ in range(2))
        average.load_state_dict(model.state_dict())
        optimiser = torch.optim.AdamW(
            model.to(device).parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        return cls(variant, model, average.to(device).eval().requires_grad_(False), optimiser)

    def step(self, loss: Tensor, step: int, settings: Settings) -> None:
        """One update of the weights and of their average."""
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * cosine_to_zero(step, settings.steps)
        self.optimiser.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for average, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(new.detach(), 1 - decay)


def fit_probes(batches: Batches, encoder: nn.Module, settings: Settings) -> dict[str, Probe]:
    """The two teachers: *main* on every labelled voice, *unseen* on those that are not the test speaker."""

    def labelled(family: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            batch = batches.draw()
            with torch.no_grad(), half_precision(batches.device):
                found = teacher.encode(encoder, batch.clean).float()
            labels = batch.labels[:, :: teacher.POSITION_SAMPLES // units.HOP_SAMPLES]
            known = (labels != UNKNOWN) & (batch.foreign[:, None] | (family == "main"))
            yield found[known], labels[known]

    return {family: fit_probe(labelled(family), settings.probe_steps) for family in ("main", "unseen")}


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 matrix products on a GPU, none of it on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def openness_targets(viseme_probabilities: Float[Tensor, "rows positions 15"]) -> Float[Tensor, "rows positions"]:
    """``visemes.openness_of`` on a 10 ms grid, for hard or soft visemes: neighbours are a video frame (3 rows) away."""
    table = torch.tensor([VISEME_OPENNESS[viseme] for viseme in units.VISEMES]).to(viseme_probabilities)
    value = (viseme_probabilities * table).sum(dim=2)
    padded = F.pad(value[:, None], (3, 3), mode="replicate")[:, 0]
    before, here, after = OPENNESS_KERNEL.tolist()
    smooth = before * padded[:, :-6] + here * value + after * padded[:, 6:]
    return smooth * (1 - viseme_probabilities[..., VISEME_INDEX["PP"]])


@dataclass(frozen=True)
class Targets:
    """What a family's drafts learn at the positions that a step uses."""

    windows: Float[Tensor, "n 18 80"]
    labels: Int[Tensor, " n"]
    probabilities: Float[Tensor, "n 15"]  # the teacher's
    openness: Float[Tensor, " n"]
    estimates: Float[Tensor, "n targets"]  # the encoder's features in random directions


def targets(
    batch: Batch, probe: Probe, encoded: Tensor, directions: Tensor, chosen: Bool[Tensor, "rows positions"]
) -> Targets:
    """The teacher's word and the truth at the chosen positions; its 50 positions a second are interpolated."""
    standard = (encoded - probe.mean) / probe.scale
    logits = spread(probe.logits(encoded), batch.mel.shape[1])
    estimates = spread(standard[..., 2 * teacher.WIDTH : 3 * teacher.WIDTH] @ directions, batch.mel.shape[1])
    probabilities = logits.softmax(dim=2)
    hard = F.one_hot(batch.labels.where(batch.labels != UNKNOWN, 0), len(units.VISEMES)).float()
    known = (batch.labels != UNKNOWN)[..., None]
    openness = openness_targets(torch.where(known, hard, probabilities))
    return Targets(
        window_rows(batch.mel)[chosen], batch.labels[chosen], probabilities[chosen], openness[chosen], estimates[chosen]
    )


def spread(values: Float[Tensor, "rows half width"], positions: int) -> Float[Tensor, "rows positions width"]:
    """50 values a second to 100: even positions as they are, odd ones the mean of their neighbours."""
    following = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
    return torch.stack([values, (values + following) / 2], dim=2).flatten(1, 2)[:, :positions]


def distillation_loss(model: Draft, aim: Targets, settings: Settings) -> Tensor:
    """Cross-entropy to the truth where it is known and to the teacher, openness, and the encoder's features."""
    visemes, openness, estimates = model(aim.windows)
    log_probabilities = visemes.float().log_softmax(dim=1)
    imitation = -(aim.probabilities * log_probabilities).sum(dim=1)
    known = aim.labels != UNKNOWN
    truth = F.cross_entropy(
        visemes.float(), aim.labels.where(known, 0), label_smoothing=settings.label_smoothing, reduction="none"
    )
    share = settings.truth_share * known
    loss = (share * truth + (1 - share) * imitation).mean()
    loss = loss + settings.openness_share * F.binary_cross_entropy_with_logits(openness.float(), aim.openness)
    return loss + settings.feature_share * F.mse_loss(estimates.float(), aim.estimates)


def train(
    batches: Batches,
    encoder: nn.Module,
    probes: dict[str, Probe],
    trainees: dict[str, Trainee],
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    on_progress: Callable[[int], None] = lambda step: None,
    every: int = 500,
) -> pd.DataFrame:
    """Train all variants on the same batches, from ``checkpoint`` on where it exists.

    Returns the losses (step, variant, loss), every 20th step.
    """
    directions = torch.randn(
        teacher.WIDTH, FEATURE_TARGETS, generator=Generator().manual_seed(settings.seed)
    ).to(batches.device) / teacher.WIDTH**0.5  # fmt: skip
    first, losses = resume(checkpoint, trainees) if checkpoint and checkpoint.is_file() else 0, []
    for step in tqdm(range(first, settings.steps), desc="draft", unit="step", mininterval=5, miniters=50):
        batch = batches.draw()
        with half_precision(batches.device):
            with torch.no_grad():
                encoded = teacher.encode(encoder, batch.clean).float()
                kept = torch.rand(batch.inside.shape, generator=batches.generator, device=batches.device)
                chosen = batch.inside & (kept < settings.position_share)
                heard = {"main": chosen, "unseen": chosen & batch.foreign[:, None]}
                aims = {
                    family: targets(batch, probe, encoded, directions, heard[family])
                    for family, probe in probes.items()
                }
            for name, trainee in trainees.items():
                aim = aims[trainee.variant.family]
                loss = distillation_loss(trainee.model, aim, trainee.variant.adapt(settings))
                trainee.step(loss, step, settings)
                if step % 20 == 0:
                    losses.append({"step": step, "variant": name, "loss": float(loss.detach())})
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            if checkpoint:
                save_checkpoint(checkpoint, trainees, step + 1)
            on_progress(step + 1)
    return pd.DataFrame(losses, columns=["step", "variant", "loss"])


def save_checkpoint(path: Path, trainees: dict[str, Trainee], step: int) -> None:
    """Weights, their averages and the optimisers' moments, as safetensors."""
    tensors = {"step": torch.tensor(step)}
    for name, trainee in trainees.items():
        for part, model in (("model", trainee.model), ("average", trainee.average)):
            tensors |= {f"{name}.{part}.{key}": value.detach().clone() for key, value in model.state_dict().items()}
        for index, state in trainee.optimiser.state_dict()["state"].items():
            tensors |= {f"{name}.optimiser.{index}.{key}": value.clone() for key, value in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def resume(path: Path, trainees: dict[str, Trainee]) -> int:
    """Restore what ``save_checkpoint`` wrote; the step to go on from."""
    tensors = load_file(path)
    for name, trainee in trainees.items():
        for part, model in (("model", trainee.model), ("average", trainee.average)):
            prefix = f"{name}.{part}."
            model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        form, prefix = trainee.optimiser.state_dict(), f"{name}.optimiser."
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, field = key.removeprefix(prefix).split(".")
                form["state"].setdefault(int(index), {})[field] = value
        trainee.optimiser.load_state_dict(form)
    return int(tensors["step"])


# --------------------------------------------------------------------------------------------------------- evaluation


def utterances(voices: Voices, split: str | None, sources: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(samples, truth viseme of every video frame) of the utterances of a split (None: all) and some sources."""
    picked = [row for row in voices.table if row["source"] in sources and split in (None, row["split"])]
    pairs = []
    for row in picked:
        samples = voices.samples[row["start"] : row["start"] + row["length"]].astype(np.float32) / 32768
        frame = np.arange(units.frame_count(len(samples)))
        hop = (2 * frame + 1) * units.MEL_FRAMES_PER_SECOND // (2 * units.VIDEO_FPS)
        track = voices.labels[row["label_start"] : row["label_start"] + len(samples) // units.HOP_SAMPLES + 1]
        pairs.append((samples, track[np.minimum(hop, len(track) - 1)].astype(int)))
    return pairs


@torch.inference_mode()
def draft_logits(models: dict[str, Draft], pairs: Sequence, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Every model's logits [frames, 15] over all utterances, and the truth [frames]."""
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    for samples, truth in pairs:
        mel = normalise_rows(log_mel_rows(torch.from_numpy(samples)[None].to(device)))[0]
        windows = gather_windows(mel, len(truth))
        for name, model in models.items():
            logits[name].append(model(windows)[0].float().cpu())
    return {name: torch.cat(parts) for name, parts in logits.items()}, truths(pairs)


def truths(pairs: Sequence) -> Int[Tensor, " frames"]:
    """The truth of all utterances, end to end."""
    return torch.cat([torch.from_numpy(truth) for _, truth in pairs])


def probe_logits(encoder: nn.Module, probe: Probe, pairs: Sequence) -> Tensor:
    """The teacher's logits over all utterances."""
    return torch.cat([torch.from_numpy(teacher.teacher_logits(encoder, probe, samples)) for samples, _ in pairs])


def accuracy(logits: Tensor, truth: Tensor) -> float:
    """Strict frame accuracy over the 15 visemes."""
    return float((logits.argmax(dim=1) == truth).float().mean())


def synthetic_sources() -> tuple[str, ...]:
    """The synthetic voices."""
    return ("piper", *FLITE_VOICES, *ESPEAK_VOICES)


def run(
    voices: Voices, encoder: nn.Module, out: Path, settings: Settings, device: torch.device, minutes: float
) -> dict:
    """Fit probes and drafts, calibrate, write weights, losses and a first evaluation; returns the evaluation."""
    began = time.monotonic()
    encoder = encoder.to(device)
    batches = Batches(voices, settings, device)
    probes = fit_probes(batches, encoder, settings)
    human = utterances(voices, None, ("speech-en",))
    test, validation = (utterances(voices, split, ("speech-en",)) for split in ("test", "validation"))
    synthetic = utterances(voices, "validation", synthetic_sources())
    held_out = {"main": validation, "unseen": synthetic}
    for family, pairs in held_out.items():
        temperature = fit_temperature(probe_logits(encoder, probes[family], pairs).numpy(), truths(pairs).numpy())
        probes[family] = replace(probes[family], temperature=torch.tensor(temperature, device=device))
        probes[family].save(out / f"teacher_{family}.safetensors")
    result = {
        "teacher": {
            "main, test": accuracy(probe_logits(encoder, probes["main"], test), truths(test)),
            "unseen, all of the corpus": accuracy(probe_logits(encoder, probes["unseen"], human), truths(human)),
        }
    }
    print(f"probes {time.monotonic() - began:.0f} s {result['teacher']}", flush=True)
    trainees = {name: Trainee.new(variant, settings, device) for name, variant in VARIANTS.items()}

    steps = affordable_steps(batches, encoder, probes, settings, began + 60 * minutes)
    settings = replace(settings, steps=steps)
    curve = []

    def on_progress(step: int) -> None:
        models = {name: trainee.average for name, trainee in trainees.items()}
        logits, truth = draft_logits(models, validation, device)
        row = {name: accuracy(found, truth) for name, found in logits.items()}
        curve.append({"step": step, **row})
        shown = " ".join(f"{name} {value:.4f}" for name, value in row.items())
        print(f"step {step} {time.monotonic() - began:.0f} s | {shown}", flush=True)

    checkpoint, every = out / "checkpoint.safetensors", max(1, steps // 12)
    losses = train(
        batches, encoder, probes, trainees, settings, checkpoint=checkpoint, on_progress=on_progress, every=every
    )
    losses.to_csv(out / "losses.csv", index=False)
    pd.DataFrame(curve).to_csv(out / "validation.csv", index=False)
    models = {name: trainee.average for name, trainee in trainees.items()}
    evaluations = {"test": test, "validation": validation, "all": human, "synthetic validation": synthetic}
    logits = {name: draft_logits(models, pairs, device) for name, pairs in evaluations.items()}
    result["accuracy"] = {
        name: {where: accuracy(logits[where][0][name], logits[where][1]) for where in evaluations} for name in models
    }
    for name, trainee in trainees.items():
        where = "validation" if trainee.variant.family == "main" else "synthetic validation"
        temperature = fit_temperature(logits[where][0][name].numpy(), logits[where][1].numpy())
        if trainee.variant.layers == 1:
            save_weights(trainee.average.weights(temperature), out / f"{name}.safetensors")
    result |= {"settings": asdict(settings), "seconds": time.monotonic() - began, "device": device.type}
    write_text(out / "training.json", json.dumps(result, indent=1))
    return result


def affordable_steps(
    batches: Batches, encoder: nn.Module, probes: dict[str, Probe], settings: Settings, deadline: float
) -> int:
    """The settings' steps, or as many as fit before ``deadline`` by the speed of a short trial."""
    trainees = {name: Trainee.new(variant, settings, batches.device) for name, variant in VARIANTS.items()}
    train(batches, encoder, probes, trainees, replace(settings, steps=2))  # the first steps are slower
    began, trial = time.monotonic(), replace(settings, steps=min(settings.steps, TRIAL_STEPS))
    train(batches, encoder, probes, trainees, trial)
    each_s = (time.monotonic() - began) / trial.steps
    steps = int(min(settings.steps, max(1.0, (deadline - time.monotonic()) / each_s)))
    print(f"{1000 * each_s:.0f} ms a step: {steps} steps", flush=True)
    return steps


def save_weights(weights: ProjectionWeights, path: Path) -> None:
    """The kernel's weights as float16 safetensors; the temperature stays float32."""
    named = {name: value for name, value in vars(weights).items() if value is not None}
    with atomic_path(path) as temporary:
        save_file({k: v if k == "temperature" else v.half() for k, v in named.items()}, temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the draft and its teacher."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.draft", description=main.__doc__)
    parser.add_argument("voices", type=Path, help="folder written by python -m workbench.train.speech")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=7.0, help="time budget; fewer steps are made if it is short")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    settings = Settings(**{name: options[name] for name in asdict(Settings())})
    try:
        voices, encoder = Voices.load(options["voices"]), teacher.load_encoder()
        options["out"].mkdir(parents=True, exist_ok=True)
        result = run(voices, encoder, options["out"], settings, torch.device(options["device"]), options["minutes"])
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
