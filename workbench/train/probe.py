"""Fits a linear probe on a Whisper's encoder, by a sweep over its layers.

    python -m workbench.train.probe --row my.toml --out ./probe [--layers 8 12 16 20] [--device cuda]

Any Whisper that a row may name: mels, width and layers are the checkpoint's. Speech: the row's corpus (its training
and its validation split; English, with words), or the pinned prompts. A recording goes through the encoder once for
all layers. ``--out`` receives ``probe.safetensors``, the probe of the layer that is right in most frames of the
validation split (a row's ``hearing.probe``), ``metrics.json`` and ``README.md`` with every layer's numbers.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from whisper.model import AudioEncoder

from specsync_lib import rows, units
from specsync_lib.devices import resolve
from specsync_lib.draft.probe import (
    CONTEXT_POSITIONS,
    NEIGHBOURHOOD,
    POSITION_SAMPLES,
    WINDOW_SAMPLES,
    Probe,
    at_frames,
    block_outputs,
    encoder_sha256,
    first_blocks,
)
from specsync_lib.errors import InputError
from specsync_lib.files import write_json, write_text
from specsync_lib.measures.bounds import fit_temperature
from specsync_lib.provenance import device_facts
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt, aligned, aligned_phones, prompts_of
from specsync_lib.speech.whisper_base import load_whisper
from workbench.train.descent import cosine_to_zero
from workbench.train.voices import label_track

PROBE, METRICS, CARD = "probe.safetensors", "metrics.json", "README.md"
STEPS, BATCH = 1500, 4096  # positions a step
LAYERS_TRIED = 8  # evenly spread, where none are named


def fit_probe(
    batches: Iterable[tuple[Float[Tensor, "n features"], Int[Tensor, " n"]]],
    steps: int,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    dropout: float = 0.3,
    label_smoothing: float = 0.05,
) -> Probe:
    """Fit a probe to ``steps`` batches of features and viseme labels; the first batch sets the standardisation."""
    head: torch.nn.Linear | None = None
    for step, (features, labels) in zip(range(steps), batches, strict=False):
        if head is None:
            mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
            head = torch.nn.Linear(features.shape[1], len(units.VISEMES), device=features.device)
            optimiser = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=weight_decay)
        standard = F.dropout((features - mean) / scale, dropout)
        loss = F.cross_entropy(head(standard), labels, label_smoothing=label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * cosine_to_zero(step, steps)
        optimiser.step()
    if head is None:
        raise InputError("teacher probe: no batch of labelled speech was given; gather voices with known words")
    ones = torch.ones((), device=mean.device)
    return Probe(mean, scale, head.weight.detach().T.contiguous(), head.bias.detach(), ones)


# --- a sweep over layers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """A split's speech as some layers hear it, recordings end to end with silence of CONTEXT_POSITIONS between them.

    Attributes
    ----------
    hidden : by layer, [n, width] fp16 on the CPU.
    places : [m] where the recordings' positions lie in it.
    labels : [m] the viseme of the 10 ms that begin there.
    spans : of every piece, its slice of ``places`` and its truth, viseme indices by frame.
    """

    hidden: dict[int, Float[Tensor, "n width"]]
    places: Int[Tensor, " m"]
    labels: Int[Tensor, " m"]
    spans: list[tuple[slice, np.ndarray]]

    def features(self, layer: int, places: Int[Tensor, " k"], device: str) -> Float[Tensor, "k features"]:
        """A layer's features at some places, with their neighbours: as `draft.probe.encode`."""
        around = places[:, None] + torch.arange(NEIGHBOURHOOD) - CONTEXT_POSITIONS
        return self.hidden[layer][around].flatten(1).to(device, torch.float32)


@torch.inference_mode()
def hear(encoder: AudioEncoder, prompts: Sequence[Prompt], layers: Sequence[int], device: str) -> Heard:
    """What some layers make of recordings, half a minute at a time, with labels and truth.

    Raises
    ------
    InputError : no recording is long enough to hold a position.
    """
    hidden: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    places, labels, spans, end, count = [], [], [], 0, 0
    for prompt in tqdm(prompts, desc="hearing", unit="recording"):
        samples, truth = load_audio(prompt.path).samples, aligned(prompt).visemes.astype(int)
        track = label_track(aligned_phones(prompt), len(samples))[:: POSITION_SAMPLES // units.HOP_SAMPLES]
        for first in range(0, len(samples), WINDOW_SAMPLES):
            piece = samples[first : first + WINDOW_SAMPLES]
            positions = len(piece) // POSITION_SAMPLES
            if positions < 2:
                continue
            found = block_outputs(encoder, torch.from_numpy(piece)[None].to(device), layers)
            for layer, one in zip(layers, found, strict=True):
                padded = F.pad(one[0, :positions], (0, 0, CONTEXT_POSITIONS, CONTEXT_POSITIONS))
                hidden[layer].append(padded.half().cpu())
            begin = first // POSITION_SAMPLES
            places.append(end + CONTEXT_POSITIONS + torch.arange(positions))
            labels.append(torch.from_numpy(track[begin : begin + positions].astype(np.int64)))
            frame = round(first / units.SAMPLE_RATE_HZ * units.VIDEO_FPS)
            spans.append((slice(count, count + positions), truth[frame : frame + units.frame_count(len(piece))]))
            end, count = end + positions + 2 * CONTEXT_POSITIONS, count + positions
    if not spans:
        raise InputError("probe: no recording holds a twentieth of a second of speech; give a corpus")
    joined = {layer: torch.cat(pieces) for layer, pieces in hidden.items()}
    return Heard(joined, torch.cat(places), torch.cat(labels), spans)


def _batches(heard: Heard, layer: int, device: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(heard.places), (BATCH,), generator=draw)
        yield heard.features(layer, heard.places[chosen], device), heard.labels[chosen].to(device)


@torch.inference_mode()
def frame_logits(probe: Probe, heard: Heard, layer: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits [frames, 15] and truth [frames] of all frames."""
    logits, truths = [], []
    for span, truth in heard.spans:
        at_positions = probe.logits(heard.features(layer, heard.places[span], device))
        logits.append(at_frames(at_positions, len(truth)).cpu().numpy())
        truths.append(truth)
    return np.concatenate(logits), np.concatenate(truths)


def spread_layers(count: int) -> list[int]:
    """Layers of an encoder of so many, evenly spread from the first quarter on: what lies before hears little."""
    return np.unique(np.linspace(max(1, count // 4), count, LAYERS_TRIED).round().astype(int)).tolist()


def sweep(
    train: Heard, validation: Heard, steps: int, device: str, seed: int = 0
) -> tuple[list[dict], dict[int, Probe]]:
    """A probe a layer, its temperature fitted on validation speech, and how right each is there."""
    found, probes = [], {}
    for layer in train.hidden:
        torch.manual_seed(seed)
        probe = fit_probe(_batches(train, layer, device, seed), steps)
        logits, truth = frame_logits(probe, validation, layer, device)
        temperature = fit_temperature(logits, truth)
        probes[layer] = replace(probe, temperature=torch.tensor(temperature, dtype=torch.float32))
        right = float((logits.argmax(axis=1) == truth).mean())
        heard, said = frame_logits(probe, train, layer, device)
        on_train = float((heard.argmax(axis=1) == said).mean())
        found.append({"layer": layer, "accuracy": right, "accuracy_train": on_train, "temperature": temperature})
        print(f"layer {layer}: {right:.1%} of {len(truth)} held-out frames", flush=True)
    return found, probes


def run(row: rows.Row, out: Path, layers: Sequence[int], steps: int, device: str, seed: int = 0) -> dict:
    """Fit a probe for a row's Whisper and save it; returns what ``metrics.json`` holds.

    ``layers`` : those to try; none: spread over the encoder.

    Raises
    ------
    InputError : the Whisper or the speech is absent, or a layer is none of its.
    """
    began, whisper = time.perf_counter(), load_whisper(row.hearing)
    layers = sorted(set(layers)) or spread_layers(whisper.dims.n_audio_layer)
    first_blocks(whisper, layers[0])  # refuses one that is not there
    encoder = first_blocks(whisper, layers[-1]).to(device)
    prompts = {split: prompts_of(row.corpus, split) for split in ("train", "validation")}
    heard = {split: hear(encoder, some, layers, device) for split, some in prompts.items()}
    found, probes = sweep(heard["train"], heard["validation"], steps, device, seed)
    best = max(found, key=lambda one: one["accuracy"])
    source = row.hearing.whisper
    metrics = {
        "whisper": Path(source).name if Path(source).is_dir() else source,
        "whisper_sha256": encoder_sha256(encoder),
        "mels": whisper.dims.n_mels, "width": whisper.dims.n_audio_state, "layers": whisper.dims.n_audio_layer,
        "layer": best["layer"], "sweep": found, "steps": steps, "seed": seed,
        "recordings": {split: len(some) for split, some in prompts.items()},
        "frames": {split: sum(len(truth) for _, truth in some.spans) for split, some in heard.items()},
        "corpus": "pinned prompts" if row.corpus == rows.PROMPTS else Path(row.corpus).name,
        "seconds": round(time.perf_counter() - began, 1), "device": device_facts(torch.device(device)),
    }  # fmt: skip
    probes[best["layer"]].save(out / PROBE, best["layer"], metrics["whisper_sha256"])
    write_json(out / METRICS, metrics)
    write_text(out / CARD, model_card(metrics))
    return metrics


def model_card(metrics: dict) -> str:
    """The probe's card in Markdown, every number from the fit."""
    table = "\n".join(
        f"| {row['layer']} | {row['accuracy']:.3f} | {row['accuracy_train']:.3f} |" for row in metrics["sweep"]
    )
    frames, recordings = metrics["frames"], metrics["recordings"]
    return f"""# Probe on `{metrics["whisper"]}`

15 visemes read off block {metrics["layer"]} of {metrics["layers"]} (width {metrics["width"]}, {metrics["mels"]} mels),
two positions to either side with it, by one linear layer; its temperature is fitted on the validation split.

Share of frames whose viseme is truth's. The layer was chosen on these validation frames, so its own number is a little
too good. Whether the Whisper's weights are trained is for its owner to say.

| layer | validation | train |
|---|---|---|
{table}

Speech: {metrics["corpus"]}, {recordings["train"]} recordings ({frames["train"]} frames) to learn from and
{recordings["validation"]} ({frames["validation"]} frames) held out.

Fit: `python -m workbench.train.probe`, {metrics["steps"]} steps a layer, seed {metrics["seed"]},
{metrics["seconds"]:.0f} s on {metrics["device"]["device"]}.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.probe", description=__doc__.splitlines()[0])
    parser.add_argument("--row", default=rows.DEFAULT, help="the row that names the Whisper and the corpus")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", help="English speech with words: a corpus.jsonl, or prompts; default: the row's")
    parser.add_argument("--layers", type=int, nargs="+", default=[], help="blocks to try; default: spread over all")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        single = {} if given.corpus is None else {"corpus": given.corpus}
        row = rows.read(given.row, single, present=False)  # its probe need not be there yet
        metrics = run(row, given.out, given.layers, given.steps, resolve(given.device), given.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    print(json.dumps({"layer": metrics["layer"], "seconds": metrics["seconds"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
