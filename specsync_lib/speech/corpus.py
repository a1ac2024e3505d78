"""The human speech corpus, its splits, and the recording that a run takes by default.

Prompts are split by prompt, and prompts that nearly say the same are on one side, so that a held-out prompt is unheard.
``python -m specsync_lib.speech.corpus --write-splits`` aligns the whole corpus and writes ``data/splits.json`` again.

Source: Debian ``asterisk-core-sounds-en`` 1.6.1 (voice: Allison Smith, CC-BY-SA-3.0), ``data/assets.toml``.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from specsync_lib.assets import asset, cache_dir
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_text
from specsync_lib.paths import CLIPS_DIR, SPLITS_FILE
from specsync_lib.speech import alignment
from specsync_lib.speech.alignment import Phone, align, normalise_text, plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.units import VIDEO_FPS, VISEMES
from specsync_lib.visemes import SyncPlan

Split = Literal["train", "validation", "test"]
CORPUS_ASSET = "speech-en"

SPLIT_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}  # of the aligned frames
# Isolated words and letter names: whole families, all for training, so that held-out frames are connected speech.
ISOLATED_WORD_FAMILIES = ("digits", "letters", "phonetic")
SIMILAR_CHARACTERS = 0.75  # edit similarity of two transcripts from which they count as near-duplicates
SIMILAR_WORDS = 0.6  # the same over words, for transcripts of at least SHARED_WORDS
SHARED_WORDS = 4  # a run of words that makes two transcripts near-duplicates when it is half of the shorter one

DEFAULT_SECONDS = (6.0, 10.0)
DEFAULT_MAX_SILENCE = 0.2


@dataclass(frozen=True)
class Prompt:
    """One recording of the corpus: its name there (``digits/1``), what is said, its file and its side of the split."""

    name: str
    transcript: str
    path: Path
    split: Split


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
    if split is not None and split not in SPLIT_SHARES:
        raise InputError(f"corpus: unknown split {split!r}, expected one of {', '.join(SPLIT_SHARES)}")
    folder = asset(CORPUS_ASSET)
    transcripts = _transcripts(folder)
    return [
        Prompt(name, transcripts[name], folder / f"{name}.g722", row["split"])
        for name, row in sorted(_splits()["prompts"].items())
        if split in (None, row["split"])
    ]


@cache
def _splits() -> dict:
    return json.loads(SPLITS_FILE.read_text(encoding="utf-8"))


def _transcripts(folder: Path) -> dict[str, str]:
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
    frames = {name: row["frames"] for name, row in _splits()["prompts"].items()}
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
    path = cache_dir() / "alignments" / f"{prompt.name.replace('/', '--')}.{_alignment_key(prompt)}.csv"
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
    return hashlib.sha256(Path(alignment.__file__).read_bytes() + version("pocketsphinx").encode()).digest()


# ------------------------------------------------------------------------------------------------------------- splits


def near_duplicates(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two transcripts, as spoken words, say nearly the same.

    They do when they are equal, when their letters or (from ``SHARED_WORDS`` words on) their words match to the
    thresholds above, or when a run of ``SHARED_WORDS`` words or more, at least half of the shorter one, is in both.
    """
    if list(one) == list(other):
        return True
    letters = SequenceMatcher(None, " ".join(one), " ".join(other), autojunk=False)
    if letters.real_quick_ratio() >= SIMILAR_CHARACTERS and letters.ratio() >= SIMILAR_CHARACTERS:
        return True
    shorter = min(len(one), len(other))
    if shorter < SHARED_WORDS:
        return False
    words = SequenceMatcher(None, one, other, autojunk=False)
    shared = words.find_longest_match().size
    return words.ratio() >= SIMILAR_WORDS or (shared >= SHARED_WORDS and 2 * shared >= shorter)


def near_duplicate_groups(transcripts: dict[str, str]) -> list[list[str]]:
    """Prompt names in groups that must stay on one side: near-duplicates, and families of isolated words, chained."""
    spoken = {name: normalise_text(text) for name, text in sorted(transcripts.items())}
    group = {name: {name} for name in spoken}
    names = list(spoken)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if group[one] is not group[other] and (
                _same_family(one, other) or near_duplicates(spoken[one], spoken[other])
            ):
                group[one] |= group[other]
                for name in group[other]:
                    group[name] = group[one]
    return sorted({id(members): sorted(members) for members in group.values()}.values())


def _same_family(one: str, other: str) -> bool:
    family = one.partition("/")[0]
    return family in ISOLATED_WORD_FAMILIES and other.startswith(f"{family}/")


def assign_splits(groups: Iterable[Sequence[str]], frames: dict[str, int]) -> dict[str, Split]:
    """A side for every prompt: groups in the order of their first name's sha256, each to the side that lacks most.

    The lack of a side is measured against its share of all frames, so that sides fill evenly. A group that holds a
    family of isolated words, or more frames than the whole test side should, goes to training.
    """
    total = sum(frames.values())
    filled: Counter[Split] = Counter()
    sides: dict[str, Split] = {}
    for members in sorted(groups, key=lambda names: hashlib.sha256(names[0].encode()).digest()):
        size = sum(frames[name] for name in members)
        isolated = any(name.partition("/")[0] in ISOLATED_WORD_FAMILIES for name in members)
        if isolated or size > SPLIT_SHARES["test"] * total:
            side = "train"
        else:
            side = min(SPLIT_SHARES, key=lambda side: (filled[side] + size) / (SPLIT_SHARES[side] * total))
        filled[side] += size
        sides.update(dict.fromkeys(members, side))
    return sides


def write_splits(path: Path = SPLITS_FILE) -> dict:
    """Align the whole corpus, split what aligns, and write names, sides and frame counts; returns what was written."""
    folder = asset(CORPUS_ASSET)
    transcripts = _transcripts(folder)
    frames: dict[str, int] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, transcript in tqdm(sorted(transcripts.items()), desc="aligning", unit="prompt"):
        if not normalise_text(transcript):
            left_out["no speech"].append(name)
            continue
        try:
            frames[name] = len(aligned(Prompt(name, transcript, folder / f"{name}.g722", "train")))
        except InputError:
            left_out["transcript does not align"].append(name)
    sides = assign_splits(near_duplicate_groups({name: transcripts[name] for name in frames}), frames)
    table = {
        "corpus": CORPUS_ASSET,
        "rule": "specsync_lib/speech/corpus.py: near_duplicates, assign_splits",
        "left_out": dict(left_out),
        "prompts": {name: {"split": sides[name], "frames": frames[name]} for name in sorted(frames)},
    }
    write_text(path, json.dumps(table, indent=1) + "\n")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the splits' sizes; with ``--write-splits`` make them again first."""
    parser = argparse.ArgumentParser(prog="python -m specsync_lib.speech.corpus", description=main.__doc__)
    parser.add_argument("--write-splits", action="store_true", help="align the corpus and write data/splits.json")
    try:
        table = write_splits() if parser.parse_args(arguments).write_splits else _splits()
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    rows = pd.DataFrame(table["prompts"].values())
    sizes = rows.groupby("split")["frames"].agg(prompts="count", frames="sum")
    print(sizes.assign(minutes=(sizes["frames"] / VIDEO_FPS / 60).round(1)).to_string())
    print({reason: len(names) for reason, names in table["left_out"].items()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
