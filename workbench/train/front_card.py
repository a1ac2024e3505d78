"""How well the fronts hear: ``data/models/draft_front/metrics.json`` from stored fits, on the path that users run.

``python -m workbench.train.front_card FITS --speakers DIR --calibrate DIR --out FILE``. Sets: *trained speaker* (the
corpus' held-out prompts), *real speakers* (folders with a list.tsv: file, speaker, words; for development, never
trained on). The temperature is fitted on the corpus' validation prompts and on the speakers of ``--calibrate``, half
and half, none of whom is reported. Truth is the forced alignment of the known words. Noise is added at 10 dB over the
active speech.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from kernels.causal_front.reference import FrontWeights, front_offline, new_rows
from specsync_lib import provenance, units
from specsync_lib.draft.front import in_full, whisper_range
from specsync_lib.draft.front_weights import front_sha256, load_front, save_front, stored_kept, whisper_tensors
from specsync_lib.draft.plan import CausalNormaliser, draft_plan, load_draft
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.measures.acceptance import expected_calibration_error
from specsync_lib.measures.intervals import bootstrap_by_group, drawn_groups
from specsync_lib.rows import PROMPTS
from specsync_lib.speech.alignment import align, plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import aligned, prompts_of
from specsync_lib.speech.log_mel import log_mel
from specsync_lib.visemes import SyncPlan
from workbench.asked import add_corpus
from workbench.train.front_speech import NOISE_KINDS, make_noise

THRESHOLD = 0.85
NOISE_DB = 10.0
TEMPERATURES = np.linspace(0.5, 2.5, 81)
SETS = {
    "real_speakers": "six speakers of LibriSpeech and VCTK, one utterance each, never trained on and no part of the "
    "repository; they were looked at during development",
    "trained_speaker": "the English corpus' held-out prompts; a fit named unseen never heard their speaker",
    "temperature": "fitted on the corpus' validation prompts and on Debian's pocketsphinx-testdata (librivox, cards, "
    "ten utterances), half and half; none of them is reported",
}
SILENT = units.VISEMES.index("sil")


@dataclass(frozen=True)
class Recording:
    """A recording with its truth."""

    name: str
    speaker: str
    samples: np.ndarray
    truth: SyncPlan


def speakers(folder: Path) -> list[Recording]:
    """The recordings of a folder's list.tsv (file, speaker, words); those whose words do not align are left out.

    Raises
    ------
    InputError: the list is absent or no such table, or none of its recordings is left.
    """
    found, path = [], folder / "list.tsv"
    try:
        with path.open(encoding="utf-8") as rows:
            listed = [(name, speaker, words) for name, speaker, words in csv.reader(rows, delimiter="\t")]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}); expected rows of file, speaker and words") from error
    for name, speaker, words in listed:
        samples = load_audio(folder / name).samples
        try:
            phones = align(samples, words)
        except InputError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
            continue
        found.append(Recording(name, speaker, samples, plan_from_phones(phones, units.frame_count(len(samples)))))
    if not found:
        raise InputError(f"{path}: no recording is left; give some whose words fit them")
    return found


def trained_speaker(split: str, corpus: str = PROMPTS) -> list[Recording]:
    """A corpus' prompts of a split."""
    return [
        Recording(p.name, p.speaker or "trained", load_audio(p.path).samples, aligned(p))
        for p in prompts_of(corpus, split)
    ]


def noise_under(recordings: Sequence[Recording], kind: str, seed: int = 0) -> list[np.ndarray]:
    """Noise for each recording, NOISE_DB below its active speech; babble is made of the other recordings."""
    generator = torch.Generator().manual_seed(seed)
    length = max(len(one.samples) for one in recordings)
    rows = torch.stack([torch.from_numpy(np.resize(one.samples, length)) for one in recordings])
    noise = make_noise(rows, torch.full((len(rows),), list(NOISE_KINDS).index(kind)), generator).numpy()
    found = []
    for one, row in zip(recordings, noise, strict=True):
        spoken = np.repeat(one.truth.visemes != SILENT, 534)[: len(one.samples)]
        spoken = one.samples[: len(spoken)][spoken]
        level = np.sqrt(np.square(spoken if len(spoken) else one.samples).mean()) * 10 ** (-NOISE_DB / 20)
        found.append((level * row[: len(one.samples)]).astype(np.float32))
    return found


def noisy(recordings: Sequence[Recording], kind: str, seed: int = 0) -> list[Recording]:
    """The same under noise (:func:`noise_under`)."""
    noise = noise_under(recordings, kind, seed)
    return [replace(one, samples=one.samples + row) for one, row in zip(recordings, noise, strict=True)]


@torch.inference_mode()
def logits_of(front: FrontWeights, recordings: Sequence[Recording], chunk: int = units.FRAMES_PER_CHUNK) -> list:
    """Per recording: logits at temperature 1 [frames, 15] and openness [frames]; the stream's, all at once."""
    found = []
    plain = replace(front, temperature=torch.tensor(1.0))
    for one in recordings:
        mel = torch.from_numpy(CausalNormaliser().push(log_mel(one.samples)))
        frames = len(one.truth)
        whole = -(-frames // chunk) * chunk
        rows = in_full(mel, len(new_rows(0, whole)), mel[-1:])
        said = front_offline(whisper_range(rows)[None], plain, [chunk] * (whole // chunk))
        found.append((said.logits[0, :frames].numpy(), said.openness[0, :frames].numpy()))
    return found


def temperature_of(groups: Sequence[tuple[Sequence, Sequence[Recording]]]) -> float:
    """The temperature at which truth is likeliest, each group of recordings counting as much as any other."""
    costs = np.zeros(len(TEMPERATURES))
    for said, recordings in groups:
        logits = torch.from_numpy(np.concatenate([logits for logits, _ in said]))
        truth = torch.from_numpy(np.concatenate([one.truth.visemes for one in recordings])).long()
        costs += [F.cross_entropy(logits / temperature, truth).item() for temperature in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(costs))])


def score(said: Sequence, recordings: Sequence[Recording], temperature: float) -> dict:
    """Strict accuracy with its interval by utterance; coverage, right and calibration at the threshold; pauses."""
    logits = np.concatenate([logits for logits, _ in said]) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    confidence, heard = probabilities.max(axis=1), probabilities.argmax(axis=1)
    truth = np.concatenate([one.truth.visemes for one in recordings])
    opening = np.concatenate([openness for _, openness in said])
    aim = np.concatenate([one.truth.openness for one in recordings])
    table = pd.DataFrame({"utterance": range(len(recordings)), "talker": [one.speaker for one in recordings]})
    groups = np.repeat(drawn_groups(table), [len(one.truth) for one in recordings])
    right = heard == truth
    metric = bootstrap_by_group(right, groups)
    calibration = expected_calibration_error(confidence, right, groups)
    sure, silent = confidence >= THRESHOLD, truth == SILENT
    return {
        "accuracy": round(metric.value, 4), "accuracy_low": round(metric.low, 4),
        "accuracy_high": round(metric.high, 4),
        "coverage_at_085": round(float(sure.mean()), 4),
        "right_at_085": round(float(right[sure].mean()), 4) if sure.any() else None,
        "ece": round(calibration.value, 4),
        "silence_heard": round(float((heard[silent] == SILENT).mean()), 4) if silent.any() else None,
        "openness_in_silence_p95": round(float(np.quantile(opening[silent], 0.95)), 4) if silent.any() else None,
        "openness_r": round(float(np.corrcoef(opening, aim)[0, 1]), 4) if opening.std() and aim.std() else None,
        "frames": len(truth), "utterances": len(recordings),
    }  # fmt: skip


def evaluate(
    fits: dict[str, FrontWeights], folders: Sequence[Path], calibrating: Sequence[Path], *, noise: Sequence[str],
    chunks: Sequence[int], corpus: str = PROMPTS,
) -> dict:  # fmt: skip
    """All sets under all conditions, for every fit."""
    real = [one for folder in folders for one in speakers(folder)]
    test = trained_speaker("test", corpus)
    kept_apart = [trained_speaker("validation", corpus), *(speakers(folder) for folder in calibrating)]
    sets = {"real_speakers": real, "trained_speaker": test}
    sets |= {f"{name}_{kind}": noisy(sets[name], kind) for name in list(sets) for kind in noise}
    found = {}
    for name, front in fits.items():
        temperature = temperature_of([(logits_of(front, group), group) for group in kept_apart])
        found[name] = {"temperature": round(temperature, 4)}
        for title, recordings in sets.items():
            found[name][title] = score(logits_of(front, recordings), recordings, temperature)
        for chunk in chunks:
            for title in ("real_speakers", "trained_speaker"):
                said = logits_of(front, sets[title], chunk)
                found[name][f"{title}_chunks_of_{chunk}"] = score(said, sets[title], temperature)
        by_speaker = {}
        for speaker in sorted({one.speaker for one in real}):
            chosen = [one for one in real if one.speaker == speaker]
            by_speaker[speaker] = score(logits_of(front, chosen), chosen, temperature)["accuracy"]
        found[name]["by_speaker"] = by_speaker
        print(name, json.dumps({k: v for k, v in found[name].items() if k in ("temperature", *sets)}), flush=True)
    return found


def window_network(folders: Sequence[Path], corpus: str = PROMPTS) -> dict:
    """The network that the front replaced (``data/models/draft``) on the same sets: the ablation row."""
    weights, found = load_draft(), {}
    real = [one for folder in folders for one in speakers(folder)]
    for title, recordings in {"real_speakers": real, "trained_speaker": trained_speaker("test", corpus)}.items():
        plans = [draft_plan(one.samples, weights) for one in recordings]
        said = [(np.log(plan.probabilities.clip(1e-12)), plan.openness) for plan in plans]
        found[title] = score(said, recordings, 1.0)
    return found


def card(fits: dict, window: dict, paths: Sequence[Path]) -> dict:
    """The whole of metrics.json."""
    return {
        "label": "measured",
        "date": time.strftime("%Y-%m-%d"),
        "machine": provenance.machine(),
        "command": "python -m workbench.train.front_card FITS --speakers DIR --calibrate DIR --chunks 4,8",
        "sets": SETS,
        "stored": {
            path.stem: {"bytes": path.stat().st_size, "sha256_with_asset": front_sha256(path)} for path in paths
        },
        "fits": fits,
        "window_network": window,
    }


def noise_alone(front: FrontWeights, seconds: float = 10.0, seed: int = 0) -> dict[str, float]:
    """Share of frames heard as silence in noise without speech, by kind (not babble: that is speech)."""
    generator, found = torch.Generator().manual_seed(seed), {}
    length = round(seconds * units.SAMPLE_RATE_HZ)
    for kind in ("white", "pink"):
        row = (
            make_noise(torch.zeros(1, length), torch.tensor([list(NOISE_KINDS).index(kind)]), generator)[0].numpy()
            * 0.03
        )
        silence = SyncPlan(np.zeros(units.frame_count(length), np.int8), np.zeros(units.frame_count(length)))
        logits, _ = logits_of(front, [Recording(kind, kind, row.astype(np.float32), silence)])[0]
        found[kind] = round(float((logits.argmax(axis=1) == SILENT).mean()), 4)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the fits of a folder."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.front_card", description=__doc__.split("\n")[0])
    parser.add_argument("fits", type=Path, nargs="+", help="stored fronts")
    parser.add_argument("--speakers", type=Path, action="append", default=[])
    parser.add_argument(
        "--calibrate", type=Path, action="append", default=[], help="speakers for the temperature alone"
    )
    parser.add_argument("--noise", default="white,pink,babble", help="kinds, by commas; empty: none")
    parser.add_argument("--chunks", default="", help="further chunk lengths, by commas")
    parser.add_argument("--store", type=Path, help="folder to write the calibrated fits to, in 4 bits")
    parser.add_argument("--out", type=Path, required=True)
    add_corpus(parser)
    options = parser.parse_args(arguments)
    try:
        base = whisper_tensors(4)
        fits = {path.stem: load_front(path, base) for path in options.fits}
        found = evaluate(
            fits, options.speakers, options.calibrate, noise=[kind for kind in options.noise.split(",") if kind],
            chunks=[int(chunk) for chunk in options.chunks.split(",") if chunk], corpus=options.corpus,
        )  # fmt: skip
        for name, front in fits.items():
            found[name]["noise_alone_heard_as_silence"] = noise_alone(front)
        write_json(options.out, card(found, window_network(options.speakers, options.corpus), options.fits))
        for path in options.fits if options.store else ():
            calibrated = replace(fits[path.stem], temperature=torch.tensor(found[path.stem]["temperature"]))
            save_front(options.store / path.name, calibrated, base, bits=4, kept=stored_kept(path))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
