"""A corpus of many synthetic voices with exact words: Kokoro-82M's 54 styles and mixtures, aligned by pocketsphinx.

``python -m workbench.train.kokoro plan FOLDER`` writes what is to be said and by whom (training extra; the assets
``kokoro`` and ``whisper-base``); ``python -m workbench.train.kokoro speak FOLDER`` speaks it, in as many processes as
the machine has cores, on the GPU where there is one. Both are seeded; speaking goes on where it stopped.

A style is two halves, timbre and prosody; each is one voice or a mixture of two, also a little beyond them, and
the halves are drawn apart. Six voices are held out. Labels are visemes at 100 per second (`voices.label_track`).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.rows import PROMPTS
from specsync_lib.units import SAMPLE_RATE_HZ
from workbench.asked import add_corpus

UTTERANCES = 9000  # 577 minutes to train on, and the held-out voices
HELD_OUT_VOICES = ("af_nova", "am_eric", "bf_lily", "bm_lewis", "zf_xiaoyi", "hm_psi")
KIND_SHARES = {"held": 0.05, "pure": 0.45, "mixed": 0.50}
ENGLISH_WEIGHT = 2.0  # of a voice that was made for English against one made for another language
MIXTURE = (-0.15, 1.15)
SPEED = (0.8, 1.3)
BRITISH_SHARE = 0.15
TOKENS = (15, 150)
STYLE_TOKENS = range(15, 151, 5)  # a style hangs on the number of tokens; every fifth row is enough
TIMBRE_WIDTH = 128  # of the 256 numbers of a style; the rest is prosody
KOKORO_RATE_HZ = 24_000
SPEECH_RMS = 0.1
UTTERANCES_PER_SHARD = 40


def make_plan(folder: Path, utterances: int = UTTERANCES, seed: int = 0, corpus: str = PROMPTS) -> None:
    """Write plan.json (text, tokens, voices, speed of every utterance) and styles.safetensors."""
    from piper.phonemize_espeak import EspeakPhonemizer

    from specsync_lib.assets import asset
    from specsync_lib.speech.corpus import prompts_of
    from specsync_lib.speech.words import in_dictionary, normalise_text
    from workbench.train.sentences import sentences
    from workbench.train.speech import common_words

    kokoro = asset("kokoro")
    vocabulary = json.loads((kokoro / "config.json").read_text(encoding="utf-8"))["vocab"]
    styles = {
        path.stem: np.fromfile(path, np.float32).reshape(-1, 2 * TIMBRE_WIDTH)[list(STYLE_TOKENS)].astype(np.float16)
        for path in sorted((kokoro / "voices").glob("*.bin"))
    }
    voices = sorted(set(styles) - set(HELD_OUT_VOICES))
    weights = np.array([ENGLISH_WEIGHT if voice[0] in "ab" else 1.0 for voice in voices])
    rng = np.random.default_rng(seed)
    phonemizer = EspeakPhonemizer()
    spoken = [prompt.transcript for prompt in prompts_of(corpus, "train")]

    def pick() -> str:
        return str(rng.choice(voices, p=weights / weights.sum()))

    def mixture() -> list[tuple[str, float]]:
        share = round(float(rng.uniform(*MIXTURE)), 3)
        return [(pick(), share), (pick(), round(1 - share, 3))]

    plan: list[dict] = []
    for text in sentences(common_words(), spoken, rng):
        if not all(map(in_dictionary, normalise_text(text))):
            continue
        language = "en-gb-x-rp" if rng.random() < BRITISH_SHARE else "en-us"
        phonemes = "".join(symbol for sentence in phonemizer.phonemize(language, text) for symbol in sentence)
        tokens = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary]
        if not TOKENS[0] <= len(tokens) <= TOKENS[1]:
            continue
        kind = str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
        if kind == "mixed":
            timbre, prosody = mixture(), mixture()
        else:
            timbre = prosody = [(str(rng.choice(HELD_OUT_VOICES)) if kind == "held" else pick(), 1.0)]
        speed = round(float(rng.uniform(*SPEED)), 2)
        plan.append(
            {"text": text, "tokens": tokens, "kind": kind, "timbre": timbre, "prosody": prosody, "speed": speed}
        )
        if len(plan) == utterances:
            break
    folder.mkdir(parents=True, exist_ok=True)
    save_file(styles, folder / "styles.safetensors")
    write_text(folder / "plan.json", json.dumps(plan))


def style_of(utterance: dict, styles: dict[str, np.ndarray]) -> np.ndarray:
    """[1, 256] float32: the utterance's timbre and prosody at its length."""
    row = int(
        np.clip(round((len(utterance["tokens"]) - STYLE_TOKENS.start) / STYLE_TOKENS.step), 0, len(STYLE_TOKENS) - 1)
    )

    def mixed(recipe: list, part: slice) -> np.ndarray:
        return sum(share * styles[voice][row, part].astype(np.float32) for voice, share in recipe)

    halves = (slice(0, TIMBRE_WIDTH), slice(TIMBRE_WIDTH, None))
    return np.concatenate(
        [mixed(utterance[name], part) for name, part in zip(("timbre", "prosody"), halves, strict=True)]
    )[None]


def speak_shard(utterances: Sequence[dict], graph, styles: dict[str, np.ndarray], path: Path) -> None:
    """Speak and align some utterances into one file: samples, labels, and a table of what was kept."""
    import soxr

    from specsync_lib.speech.alignment import align
    from workbench.train.voices import label_track

    samples, labels, table = [], [], []
    for utterance in utterances:
        speech = graph(
            tokens=torch.tensor([[0, *utterance["tokens"], 0]]),
            style=torch.from_numpy(style_of(utterance, styles)).to(graph.device),
            speed=torch.tensor([utterance["speed"]]),
        )[0].flatten()
        speech = soxr.resample(speech.float().cpu().numpy(), KOKORO_RATE_HZ, SAMPLE_RATE_HZ).astype(np.float32)
        if not np.isfinite(speech).all() or not np.abs(speech).max() > 0:
            continue
        speech = speech * (SPEECH_RMS / np.sqrt(np.square(speech).mean()))
        speech = speech / max(1.0, np.abs(speech).max())
        try:
            phones = align(speech, utterance["text"])
        except InputError:
            continue
        samples.append((speech * np.iinfo(np.int16).max).astype(np.int16))
        labels.append(label_track(phones, len(speech)))
        kept = {name: utterance[name] for name in ("text", "kind", "timbre", "prosody", "speed")}
        table.append({**kept, "length": len(speech)})
    with atomic_path(path) as temporary, temporary.open("wb") as out:
        text = np.frombuffer(json.dumps(table).encode(), np.uint8)
        empty = np.zeros(0, np.int16), np.zeros(0, np.uint8)
        np.savez(
            out,
            samples=np.concatenate([empty[0], *samples]),
            labels=np.concatenate([empty[1], *labels]),
            table=text,
        )


def load_shard(path: Path) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Samples int16, labels uint8, and the table with each utterance's start and label_start."""
    with np.load(path, allow_pickle=False) as stored:
        samples, labels, table = stored["samples"], stored["labels"], json.loads(stored["table"].tobytes())
    start = label_start = 0
    for row in table:
        row["start"], row["label_start"] = start, label_start
        start += row["length"]
        label_start += row["length"] // (SAMPLE_RATE_HZ // 100) + 1
    return samples, labels, table


def work(folder: Path, model: Path, worker: int, workers: int, device: str) -> None:
    """Speak every ``workers``-th shard that is not there yet."""
    from workbench.train.onnx_graph import Graph

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    graph, styles = Graph(model, device), load_file(folder / "styles.safetensors")
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    for shard in range(worker, -(-len(plan) // UTTERANCES_PER_SHARD), workers):
        path = folder / f"shard{shard:04d}.npz"
        if not path.is_file():
            first = shard * UTTERANCES_PER_SHARD
            speak_shard(plan[first : first + UTTERANCES_PER_SHARD], graph, styles, path)


def speak(folder: Path, model: Path, workers: int) -> float:
    """Speak what the plan says in parallel; returns the minutes of speech in the folder."""
    gpus = torch.cuda.device_count()
    command = [sys.executable, "-m", "workbench.train.kokoro", "work", str(folder), "--model", str(model)]
    # Each process sees one GPU: as cuda:1 of two, kernels that do not set their device touched the other's memory.
    environments = [
        {**os.environ, "OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": str(worker % gpus)} if gpus else {})
        for worker in range(workers)
    ]
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [*command, "--worker", str(worker), "--workers", str(workers), "--device", "cuda" if gpus else "cpu"],
            env=environments[worker],
        )
        for worker in range(workers)
    ]
    failed = [worker for worker, process in enumerate(running) if process.wait()]
    if failed:
        raise InputError(f"kokoro: {len(failed)} of {workers} processes stopped; run the command again, it goes on")
    minutes = sum(len(load_shard(path)[0]) for path in sorted(folder.glob("shard*.npz"))) / SAMPLE_RATE_HZ / 60
    print(f"{minutes:.0f} minutes of speech in {folder} after {time.monotonic() - began:.0f} s")
    return minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan the corpus, or speak it."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.kokoro", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("plan", "speak", "work"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="kokoro.onnx; default: the asset's")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    add_corpus(parser)
    options = parser.parse_args(arguments)
    try:
        if options.what == "plan":
            make_plan(options.folder, options.utterances, options.seed, options.corpus)
            return 0
        if options.model is None:
            from specsync_lib.assets import asset

            options.model = asset("kokoro") / "kokoro.onnx"
        if options.what == "speak":
            speak(options.folder, options.model, options.workers)
        else:
            work(options.folder, options.model, options.worker, options.workers, options.device)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
