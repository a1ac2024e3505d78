"""Batches for the causal front: many voices on the device, recorded in drawn rooms, with truth at every video frame.

A row: a crop of an utterance, also of the silence before and after it, in a drawn voice (what a teacher hears), and the
same through a drawn microphone, room, noise and codec (what a student hears). Silence stays labelled silence under any
noise, and a few rows are noise alone, so that the mouth shuts in the pauses of a noisy recording.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from specsync_lib import units
from specsync_lib.visemes import OPENNESS_KERNEL, VISEME_INDEX, VISEME_OPENNESS
from workbench.train import augment
from workbench.train.kokoro import SPEECH_RMS, load_shard
from workbench.train.voices import UNKNOWN

CROP_SECONDS = 5.0
LEAD_SECONDS = 1.2  # of silence before an utterance, at most
LEAST_SPEECH_SECONDS = 1.5
VOICE_CHANCE, CHANNEL_CHANCE = 0.7, 0.3
NOISE_CHANCE, NOISE_ALONE = 0.45, 0.03
NOISE_KINDS = {"white": 0.25, "pink": 0.25, "coloured": 0.2, "babble": 0.3}
NOISE_DB = (-2.0, 30.0)  # signal to noise
BABBLE_VOICES = 5
CLIP_CHANCE, CLIP_LEVELS = 0.08, (0.1, 0.7)  # of the peak
COARSE_CHANCE, COARSE_BITS = 0.08, (4.0, 8.0)
TELEPHONE_CHANCE, TELEPHONE_HZ = 0.1, (300.0, 3400.0)
# How often a row comes from a group of sources; the groups that are there share it.
GROUP_SHARES = {"kokoro": 0.68, "trained-speaker": 0.20, "unlabelled": 0.12}
TRAINED_SPEAKER = "trained-speaker"


@dataclass(frozen=True)
class Batch:
    """Rows of speech with their truth."""

    clean: Float[Tensor, "rows n"]
    recorded: Float[Tensor, "rows n"]
    labels: Int[Tensor, "rows frames"]  # viseme at each frame's centre, or UNKNOWN
    trained_speaker: Bool[Tensor, " rows"]


class Corpus:
    """The shards of a folder (``shard*.npz``: kokoro.py; ``human*.npz``: human_speech.py) on a device.

    ``refresh`` takes in shards that came later. ``minutes`` and ``voices`` cut the synthetic speech down for the
    learning curves: to so many minutes, or to so many voices, unmixed.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        seed: int,
        *,
        minutes: float | None = None,
        voices: int | None = None,
        human: bool = True,
    ) -> None:
        self.folder, self.device = folder, device
        self.rng = np.random.default_rng(seed)
        self.generator = Generator(device).manual_seed(seed)
        self.minutes, self.voices, self.human = minutes, voices, human
        self.samples = torch.zeros(0, dtype=torch.int16, device=device)
        self.labels = torch.zeros(0, dtype=torch.uint8, device=device)
        self.table: list[dict] = []
        self._taken: set[str] = set()
        self.refresh()

    def refresh(self) -> int:
        """Take in new shards; returns how many there are."""
        paths = sorted(self.folder.glob("shard*.npz"))
        if self.human:
            paths += sorted(self.folder.glob("human*.npz"))
        new_samples, new_labels = [self.samples], [self.labels]
        ends = [len(self.samples), len(self.labels)]
        for path in paths:
            if path.name in self._taken:
                continue
            samples, labels, table = load_shard(path)
            self._taken.add(path.name)
            for row in table:
                row["start"] += ends[0]
                row["label_start"] += ends[1]
            self.table += table
            new_samples.append(torch.from_numpy(samples).to(self.device))
            new_labels.append(torch.from_numpy(labels).to(self.device))
            ends = [ends[0] + len(samples), ends[1] + len(labels)]
        self.samples, self.labels = torch.cat(new_samples), torch.cat(new_labels)
        self._choose()
        return len(self._taken)

    def _choose(self) -> None:
        group = {"pure": "kokoro", "mixed": "kokoro", "human": TRAINED_SPEAKER, "unlabelled": "unlabelled"}
        self.held = [row for row in self.table if row["kind"] == "held"]
        rows = [row for row in self.table if row["kind"] in group]
        if self.voices is not None:
            pure = [row for row in rows if row["kind"] == "pure"]
            names = sorted({row["timbre"][0][0] for row in pure}, key=lambda name: (name[0] not in "ab", name[::-1]))
            kept = set(names[: self.voices])
            rows = [row for row in pure if row["timbre"][0][0] in kept]
        if self.minutes is not None:
            ends = np.cumsum([row["length"] for row in rows]) / units.SAMPLE_RATE_HZ / 60
            rows = rows[: int(np.searchsorted(ends, self.minutes)) + 1]
        groups = np.array([group[row["kind"]] for row in rows])
        lengths = np.array([row["length"] for row in rows], float)
        self.columns = {name: np.array([row[name] for row in rows]) for name in ("start", "length", "label_start")}
        self.is_trained_speaker = groups == TRAINED_SPEAKER
        share = sum(np.where(groups == name, GROUP_SHARES[name] * lengths / max(1.0, lengths[groups == name].sum()), 0)
                    for name in GROUP_SHARES)  # fmt: skip
        self.chances = share / share.sum()

    @property
    def total_minutes(self) -> float:
        """Minutes of speech that a draw can meet."""
        return float(self.columns["length"].sum() / units.SAMPLE_RATE_HZ / 60)

    def draw(self, count: int) -> Batch:
        """Rows of training speech."""
        picked = self.rng.choice(len(self.chances), count, p=self.chances)
        columns = {name: values[picked] for name, values in self.columns.items()}
        latest = np.maximum(0, columns["length"] - LEAST_SPEECH_SECONDS * units.SAMPLE_RATE_HZ)
        lead = LEAD_SECONDS * units.SAMPLE_RATE_HZ
        offset = np.floor((self.rng.random(count) * (latest + lead) - lead) / units.HOP_SAMPLES).astype(int)
        alone = self.rng.random(count) < NOISE_ALONE
        return self._batch(columns, offset, self.is_trained_speaker[picked], alone, VOICE_CHANCE)

    def draw_held(self, first: int, count: int) -> Batch | None:
        """Held-out voices as they are: whole crops from their beginning; ``recorded`` is clean."""
        rows = self.held[first : first + count]
        if not rows:
            return None
        columns = {name: np.array([row[name] for row in rows]) for name in ("start", "length", "label_start")}
        offset, no = np.full(len(rows), -20), np.zeros(len(rows), bool)
        batch = self._batch(columns, offset, no, no, 0.0, record=False)
        return batch

    def _batch(self, columns, offset, trained_speaker, alone, voice_chance, *, record: bool = True) -> Batch:
        device = self.device
        length = round(CROP_SECONDS * units.SAMPLE_RATE_HZ)

        def column(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        first, size, hop = (column(values) for values in (columns["start"], columns["length"], offset))
        place = hop[:, None] * units.HOP_SAMPLES + torch.arange(round(length * augment.SPEED_RATIO[1]), device=device)
        inside = (place >= 0) & (place < size[:, None]) & ~column(alone)[:, None]
        index = (first[:, None] + place).clamp(0, len(self.samples) - 1)
        source = torch.where(inside, self.samples[index] / 32768.0, 0)
        known = column(np.where(trained_speaker, 0.5, 1.0)).float()
        clean, ratio = augment.voice(source, length, voice_chance * known, self.generator)
        recorded = self.record(clean, known) if record else clean

        frames = frames_of_crop()
        centre = (torch.arange(frames, device=device) + 0.5) / units.VIDEO_FPS * units.MEL_FRAMES_PER_SECOND
        label_hop = (centre * ratio[:, None]).floor().long() + hop[:, None]
        count_hops = size[:, None] // units.HOP_SAMPLES
        spoken = (label_hop >= 0) & (label_hop <= count_hops) & ~column(alone)[:, None]
        label_index = column(columns["label_start"])[:, None] + label_hop
        labels = self.labels[label_index.clamp(0, len(self.labels) - 1)].long()
        # A row without labels stays without, its silences too: labelled silence alone would teach that whoever sounds
        # like these recordings is silent (a fit that never heard the English speaker lost 20 points on her by it).
        unlabelled = (self.labels[column(columns["label_start"])] == UNKNOWN)[:, None] & ~column(alone)[:, None]
        labels = torch.where(spoken | unlabelled, torch.where(unlabelled, UNKNOWN, labels), VISEME_INDEX["sil"])
        return Batch(clean, recorded, labels, column(trained_speaker))

    def record(self, clean: Tensor, known: Tensor) -> Tensor:
        """Through a drawn microphone, room, noise, level and codec."""
        recorded = augment.channel(clean, CHANNEL_CHANCE * known, self.generator)
        kinds = self.rng.choice(len(NOISE_KINDS), len(clean), p=list(NOISE_KINDS.values()))
        # The trained speaker is nobody's babble: a fit that learns nothing from her own rows would learn from these
        # that her voice is background, and hear silence when she speaks (47 % of her frames).
        noise = make_noise(clean * (known == 1)[:, None], torch.from_numpy(kinds).to(self.device), self.generator)
        rms = recorded.square().mean(dim=1, keepdim=True).sqrt()
        rms = torch.where(rms > 1e-5, rms, SPEECH_RMS)
        draw = augment.uniform(len(clean), (0, 1), self.generator)
        silent = clean.abs().amax(dim=1) == 0
        decibels = augment.uniform(len(clean), NOISE_DB, self.generator)
        noisy = recorded + noise * (rms * 10 ** (-decibels[:, None] / 20))
        recorded = torch.where(((draw < NOISE_CHANCE * known) | silent)[:, None], noisy, recorded)
        return self._codec(recorded, known)

    def _codec(self, samples: Tensor, known: Tensor) -> Tensor:
        """Clipping, coarse quantisation and the telephone band, each on a few rows."""

        def some(changed: Tensor, chance: float) -> Tensor:
            chosen = augment.uniform(len(samples), (0, 1), self.generator) < chance * known
            return torch.where(chosen[:, None], changed, samples)

        def values(limits: tuple[float, float]) -> Tensor:
            return augment.uniform(len(samples), limits, self.generator)[:, None]

        peak = samples.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
        limit = peak * values(CLIP_LEVELS)
        samples = some(samples.clamp(-limit, limit), CLIP_CHANCE)
        step = peak / 2 ** values(COARSE_BITS)
        samples = some((samples / step).round() * step, COARSE_CHANCE)
        spectrum = torch.fft.rfft(samples)
        hertz = torch.linspace(0, units.SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=samples.device)
        band = (hertz >= TELEPHONE_HZ[0]) & (hertz <= TELEPHONE_HZ[1])
        return some(torch.fft.irfft(spectrum * band, n=samples.shape[1]), TELEPHONE_CHANCE)


def make_noise(speech: Float[Tensor, "rows n"], kind: Int[Tensor, " rows"], generator: Generator) -> Tensor:
    """Noise of unit power for each row: an index into NOISE_KINDS; babble is made of the other rows' speech."""
    rows, length = speech.shape
    white = torch.randn(speech.shape, generator=generator, device=speech.device)
    exponent = torch.stack([
        torch.zeros(rows, device=speech.device), torch.ones(rows, device=speech.device),
        augment.uniform(rows, augment.NOISE_EXPONENT, generator), torch.zeros(rows, device=speech.device),
    ])[kind, torch.arange(rows, device=speech.device)]  # fmt: skip
    hertz = torch.linspace(0, units.SAMPLE_RATE_HZ / 2, length // 2 + 1, device=speech.device).clamp(min=50)
    coloured = torch.fft.irfft(torch.fft.rfft(white) * hertz ** (-exponent[:, None] / 2), n=length)
    voices = torch.zeros_like(speech)
    for _ in range(BABBLE_VOICES):
        order = torch.randperm(rows, generator=generator, device=speech.device)
        shift = int(torch.randint(length, (1,), generator=generator, device=speech.device))
        voices = voices + speech[order].roll(shift, dims=1)
    noise = torch.where((kind == list(NOISE_KINDS).index("babble"))[:, None], voices, coloured)
    power = noise.square().mean(dim=1, keepdim=True)
    return torch.where(power > 1e-10, noise / power.clamp(min=1e-10).sqrt(), white)


def frames_of_crop(look_ahead: int = units.WINDOW_AHEAD_MEL_FRAMES) -> int:
    """Video frames of a crop whose look-ahead is inside it."""
    rows, frame = round(CROP_SECONDS * units.MEL_FRAMES_PER_SECOND), 0
    while units.centre_mel_frame(frame) + look_ahead < rows:
        frame += 1
    return frame


def openness_of_probabilities(visemes: Float[Tensor, "rows frames 15"]) -> Float[Tensor, "rows frames"]:
    """``visemes.openness_of`` for soft visemes."""
    table = torch.tensor([VISEME_OPENNESS[viseme] for viseme in units.VISEMES]).to(visemes)
    value = (visemes * table).sum(dim=2)
    padded = torch.nn.functional.pad(value[:, None], (1, 1), mode="replicate")[:, 0]
    before, here, after = OPENNESS_KERNEL.tolist()
    smooth = before * padded[:, :-2] + here * value + after * padded[:, 2:]
    return smooth * (1 - visemes[..., VISEME_INDEX["PP"]])


def one_hot(labels: Int[Tensor, "rows frames"]) -> Float[Tensor, "rows frames 15"]:
    """Truth as probabilities; unknown labels count as silence (mask them)."""
    return torch.nn.functional.one_hot(torch.where(labels == UNKNOWN, 0, labels), len(units.VISEMES)).float()
