"""The corpus' splits: near duplicates stay together, shares by aligned frames.

``python -m workbench.train.splits --write-splits`` aligns the whole corpus and writes ``data/splits.json`` again.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from specsync_lib.assets import asset
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.paths import SPLITS_FILE
from specsync_lib.speech.corpus import CORPUS_ASSET, Prompt, Split, aligned, read_splits, transcripts
from specsync_lib.speech.words import normalise_text
from specsync_lib.units import VIDEO_FPS

SPLIT_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}  # of the aligned frames
# Isolated words and letter names: whole families, all for training, so that held-out frames are connected speech.
ISOLATED_WORD_FAMILIES = ("digits", "letters", "phonetic")
SIMILAR_CHARACTERS = 0.75  # edit similarity of two transcripts from which they count as near-duplicates
SIMILAR_WORDS = 0.6  # the same over words, for transcripts of at least SHARED_WORDS
SHARED_WORDS = 4  # a run of words that makes two transcripts near-duplicates when it is half of the shorter one


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
    said = transcripts(folder)
    frames: dict[str, int] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, transcript in tqdm(sorted(said.items()), desc="aligning", unit="prompt"):
        if not normalise_text(transcript):
            left_out["no speech"].append(name)
            continue
        try:
            frames[name] = len(aligned(Prompt(name, transcript, folder / f"{name}.g722", "train")))
        except InputError:
            left_out["transcript does not align"].append(name)
    sides = assign_splits(near_duplicate_groups({name: said[name] for name in frames}), frames)
    table = {
        "corpus": CORPUS_ASSET,
        "rule": "workbench/train/splits.py: near_duplicates, assign_splits",
        "left_out": dict(left_out),
        "prompts": {name: {"split": sides[name], "frames": frames[name]} for name in sorted(frames)},
    }
    write_text(path, json.dumps(table, indent=1) + "\n")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the splits' sizes; with ``--write-splits`` make them again first."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.splits", description=main.__doc__)
    parser.add_argument("--write-splits", action="store_true", help="align the corpus and write data/splits.json")
    try:
        table = write_splits() if parser.parse_args(arguments).write_splits else read_splits()
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
