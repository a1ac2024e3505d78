"""The human speech corpus, its splits, and the recording that a run takes by default.

Prompts are split by prompt, and prompts that nearly say the same are on one side, so that a held-out prompt is unheard.

Source: Debian ``asterisk-core-sounds-en`` 1.6.1 (voice: Allison Smith, CC-BY-SA-3.0), ``data/assets.toml``.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from specsync_lib.assets import asset
from specsync_lib.caches import made_dir
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path
from specsync_lib.paths import CLIPS_DIR, SPLITS_FILE
from specsync_lib.rows import PROMPTS
from specsync_lib.speech import alignment
from specsync_lib.speech.alignment import Phone, align, plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.manifest import read_manifest
from specsync_lib.units import VIDEO_FPS, VISEMES
from specsync_lib.visemes import SyncPlan

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
CORPUS_ASSET = "speech-en"
DEFAULT_SECONDS = (6.0, 10.0)
DEFAULT_MAX_SILENCE = 0.2


@dataclass(frozen=True)
class Prompt:
    """One recording of the corpus: its name there (``digits/1``), what is said, its file, its side of the split, and
    who speaks, where the corpus says it."""

    name: str
    transcript: str
    path: Path
    split: Split
    speaker: str = ""


@dataclass(frozen=True)
class Clip:
    """One shipped clip of synthetic speech with the exact times of its phones (Piper's IPA)."""

    name: str
    path: Path
    transcript: str
    phones: list[Phone]


def human_prompts(split: Split | None = None) -> list[Prompt]:
    """The prompts that align, of one split or of all, ordered by name.

    Raises
    ------
    InputError: the corpus is not in the cache, or the split has another name.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"corpus: unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    folder = asset(CORPUS_ASSET)
    said = transcripts(folder)
    return [
        Prompt(name, said[name], folder / f"{name}.g722", row["split"])
        for name, row in sorted(read_splits()["prompts"].items())
        if split in (None, row["split"])
    ]


def own_prompts(manifest: str | Path, split: Split | None = None) -> list[Prompt]:
    """The recordings of a corpus of one's own that have a truth: of one split or of all, with their words, in English,
    and aligned.

    Raises
    ------
    InputError: the manifest is broken.
    """
    found = [
        Prompt(one.id, one.text, one.audio, one.split, one.speaker)
        for one in read_manifest(manifest)
        if split in (None, one.split) and one.text and one.language in ("auto", "en")
    ]
    return [prompt for prompt in found if _aligns(prompt)]


def prompts_of(corpus: str | Path, split: Split | None = None) -> list[Prompt]:
    """What has a truth in a row's corpus, of one split or of all: the human prompts, or a manifest's recordings.

    Raises
    ------
    InputError: the corpus is not there or broken, or it has nothing of that split with English words that fit.
    """
    if corpus == PROMPTS:
        return human_prompts(split)
    if not (own := own_prompts(corpus, split)):
        what = f"recording of split {split}" if split else "recording"
        raise InputError(f"corpus {corpus}: no {what} has English words that fit it; add some, or take {PROMPTS}")
    return own


def _aligns(prompt: Prompt) -> bool:
    try:
        aligned(prompt)
    except InputError:
        return False
    return True


@cache
def read_splits() -> dict:
    """What ``data/splits.json`` holds."""
    return json.loads(SPLITS_FILE.read_text(encoding="utf-8"))


def transcripts(folder: Path) -> dict[str, str]:
    """Name to transcript of every prompt that has both a transcript and a recording."""
    lines = (folder / "core-sounds-en.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.partition(":") for line in lines if ":" in line and not line.startswith(";"))
    return {name: text.strip() for name, _, text in rows if (folder / f"{name}.g722").is_file()}


def clips() -> list[Clip]:
    """The clips of data/clips, ordered by name."""
    return [_clip(path) for path in sorted(CLIPS_DIR.glob("*.json"))]


def _clip(path: Path) -> Clip:
    row = json.loads(path.read_text(encoding="utf-8"))
    return Clip(path.stem, path.with_suffix(".flac"), row["transcript"], [Phone(**phone) for phone in row["phones"]])


def default_is_human() -> bool:
    """Whether the default recording is human speech: the corpus is in the cache. Otherwise a shipped clip stands in."""
    try:
        asset(CORPUS_ASSET)
    except InputError:
        return False
    return True


def default_recording() -> Prompt:
    """The recording that a run takes when none is given.

    The rule: of the test prompts of 6 to 10 s with at most a fifth of silence, the one whose viseme histogram has the
    most entropy: the one that shows most of what a mouth can do. Without the corpus: the first shipped clip.
    """
    if not default_is_human():
        clip = clips()[0]
        return Prompt(clip.name, clip.transcript, clip.path, "test")
    frames = {name: row["frames"] for name, row in read_splits()["prompts"].items()}
    shortest, longest = (seconds * VIDEO_FPS for seconds in DEFAULT_SECONDS)
    candidates = [prompt for prompt in human_prompts("test") if shortest <= frames[prompt.name] <= longest]
    return max(candidates, key=_variety)


def _variety(prompt: Prompt) -> float:
    """Entropy in bits of the viseme histogram; minus infinity for a prompt that is silent for too long."""
    shares = np.bincount(aligned(prompt).visemes, minlength=len(VISEMES)) / len(aligned(prompt))
    if shares[VISEMES.index("sil")] > DEFAULT_MAX_SILENCE:
        return -np.inf
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


# -------------------------------------------------------------------------------------------------------- alignments


def aligned(prompt: Prompt) -> SyncPlan:
    """The truth of a prompt: its sync plan from the forced alignment, or from the exact times of a shipped clip."""
    return plan_from_phones(aligned_phones(prompt), load_audio(prompt.path).frame_count)


def aligned_phones(prompt: Prompt) -> list[Phone]:
    """The phones behind ``aligned``, kept as CSV in the cache under a name that changes with all they follow from.

    Raises
    ------
    InputError: the recording cannot be read or the transcript does not fit it.
    """
    if prompt.path.parent == CLIPS_DIR:
        return _clip(prompt.path.with_suffix(".json")).phones
    path = made_dir() / "alignments" / f"{prompt.name.replace('/', '--')[:50]}.{_alignment_key(prompt)}.csv"
    if not path.is_file():
        phones = align(load_audio(prompt.path).samples, prompt.transcript)
        with atomic_path(path) as temporary:
            pd.DataFrame(phones).to_csv(temporary, index=False)
    table = pd.read_csv(path, keep_default_na=False, dtype={"label": str, "word": str})
    return [Phone(*row) for row in table[["label", "start_s", "end_s", "word"]].itertuples(index=False, name=None)]


def _alignment_key(prompt: Prompt) -> str:
    """Digest of all that an alignment follows from: the recording, the transcript and the aligner with its rules."""
    digest = hashlib.sha256(_aligner_digest())
    digest.update(prompt.path.read_bytes())
    digest.update(prompt.transcript.encode())
    return digest.hexdigest()[:16]


@cache
def _aligner_digest() -> bytes:
    return hashlib.sha256(f"{alignment.FORMAT} {version('pocketsphinx')}".encode()).digest()
